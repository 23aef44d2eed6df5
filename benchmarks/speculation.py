"""What prompt lookup brings on a model's own answers: `python -m benchmarks.speculation`.

Held-out conversations of nano's recipe are answered greedily, without speculation and with it, one request at
a time, alternately. Reported by the kind of answer: tokens a step, the share of drafted tokens that held, and
the ratio of processor time, which other programs on the machine disturb less than the clock. The answers are
compared: they must be the same.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass

from chatglm3.engine import GREEDY, Engine
from chatglm3.loading import load, make_engine
from chatglm3.prompt import Message, render
from chatglm3.tokenizer import Tokenizer
from recipes.nano.data import conversation


@dataclass
class Tally:
    """Sums over the answers of one kind."""

    answers: int = 0
    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0
    plain_seconds: float = 0.0


def prompts(tokenizer: Tokenizer, count: int, longest: int) -> list[tuple[str, list[int]]]:
    """`count` prompts of each kind that there is: a call, an answer after a result, and plain talk."""
    found: dict[str, list[list[int]]] = defaultdict(list)
    index = 0
    while len(found) < 3 or min(map(len, found.values())) < count:
        messages = conversation(0, index, "heldout")
        index += 1
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            after_result = messages[turn - 1]["role"] == "observation"
            kind = "a call" if message.get("metadata") else "after a result" if after_result else "plain"
            ids = render(
                [Message.from_dict(m) for m in messages[:turn]], tokenizer, add_generation_prompt=True
            ).ids
            if len(ids) < longest and len(found[kind]) < count:
                found[kind].append(ids)
    return [(kind, ids) for kind, some in found.items() for ids in some]


def timed(engine: Engine, ids: list[int], stop_ids: frozenset[int]) -> tuple[list[int], float]:
    """An answer without its first token, whose time is the prompt's, and the seconds of the rest."""
    stream = engine.stream(ids, GREEDY.replace(max_tokens=150, stop_ids=stop_ids))
    next(stream)
    start = time.process_time()
    answer = [output.token for output in stream if output.token is not None]
    return answer, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="What prompt lookup brings on nano's answers.")
    parser.add_argument("--count", type=int, default=25, help="answers of each kind (default %(default)s)")
    parser.add_argument("--speculate", type=int, default=8, help="longest draft (default %(default)s)")
    args = parser.parse_args()
    loaded = load("nano")
    vocab = loaded.tokenizer.vocab_size
    plain, eager = (
        make_engine(loaded.model, valid_vocab=vocab, speculate=speculate) for speculate in (0, args.speculate)
    )
    tallies: dict[str, Tally] = defaultdict(Tally)
    stop_ids = frozenset(loaded.tokenizer.stop_ids)
    for kind, ids in prompts(loaded.tokenizer, args.count, loaded.config.max_seq_len - 200):
        tally = tallies[kind]
        expected, plain_seconds = timed(plain, ids, stop_ids)
        before = eager.stats
        answer, seconds = timed(eager, ids, stop_ids)
        after = eager.stats
        assert answer == expected, "speculation changed an answer"
        tally.answers += 1
        tally.tokens += len(answer)
        tally.drafted += after.drafted_tokens - before.drafted_tokens
        tally.accepted += after.accepted_tokens - before.accepted_tokens
        tally.steps += len(answer) - (after.accepted_tokens - before.accepted_tokens)
        tally.seconds += seconds
        tally.plain_seconds += plain_seconds
    print("| answers | tokens | tokens a step | drafted tokens that held | speed |")
    print("|---|---|---|---|---|")
    for kind, tally in tallies.items():
        held = f"{tally.accepted / tally.drafted:.0%}" if tally.drafted else "none drafted"
        print(
            f"| {kind} ({tally.answers}) | {tally.tokens} | {tally.tokens / max(1, tally.steps):.2f} "
            f"| {held} | {tally.plain_seconds / tally.seconds:.2f} |"
        )


if __name__ == "__main__":
    main()
