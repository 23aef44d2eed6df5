"""nano's data: the same from the same seed, rendered by the one renderer, and with splits that stay apart."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from chatglm3.prompt import Message, ReplyParser
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.encode import encode
from recipes.nano import chat, code, domains, tools, values, words
from recipes.nano.cases import CATEGORIES, cases
from recipes.nano.data import conversation, seeded
from recipes.nano.settings import PACKAGE_DATA, SETTINGS
from recipes.nano.training import Documents, Prefetched, tokenizer_of
from recipes.nano.words import part

SPLITS = ("train", "dev", "heldout")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(PACKAGE_DATA)


def test_a_seed_gives_the_same_conversations_in_every_process() -> None:
    program = (
        "import json; from recipes.nano.data import conversation;"
        "print(json.dumps([conversation(3, i) for i in range(40)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps([conversation(3, i) for i in range(40)]))
    assert conversation(3, 0) != conversation(4, 0)


def _lists() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every list from which wordings and words are drawn."""
    for module in (words, chat, code, tools):
        for name, value in vars(module).items():
            if isinstance(value, tuple) and len(value) >= 7 and not name.endswith("_KINDS"):
                yield f"{module.__name__}.{name}", value
            elif isinstance(value, dict):
                for key, entry in value.items():
                    if isinstance(entry, tuple) and len(entry) >= 7:
                        yield f"{module.__name__}.{name}[{key}]", entry
    for domain in domains.DOMAINS:
        for lang, asks in domain.asks.items():
            yield f"{domain.names[0]} {lang}", asks


def test_no_entry_is_in_two_splits() -> None:
    found = 0
    for name, items in _lists():
        if len(items) < 7:
            continue
        train, dev, heldout = (set(map(repr, part(items, split))) for split in SPLITS)
        assert all((train, dev, heldout)), name
        assert not train & heldout, name
        assert not train & dev, name
        assert not dev & heldout, name
        found += 1
    assert found > 60


def test_everyday_tools_are_apart() -> None:
    names = [{d.names[0] for d in domains.domains(split)} for split in SPLITS]
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names)) == len(domains.DOMAINS)


def test_held_out_prompts_never_occur_in_training() -> None:
    seen = {
        m["content"]
        for i in range(4000)
        for m in conversation(20, i)
        if m["role"] == "user" and len(m["content"]) > 25
    }
    for category in CATEGORIES:
        for lang in ("en", "zh"):
            for case in cases(category, "heldout", lang, 20):
                assert case.messages[-1]["content"] not in seen or len(case.messages[-1]["content"]) <= 25


def test_every_conversation_renders_and_only_the_assistant_is_learnt(tokenizer: Tokenizer) -> None:
    for split in SPLITS:
        for index in range(150):
            messages = [Message.from_dict(m) for m in conversation(5, index, split)]
            example = encode(messages, tokenizer, 2048)
            expected: list[int] = []
            for i, message in enumerate(messages):
                if message.role == "assistant":
                    follower = messages[i + 1].role if i + 1 < len(messages) else None
                    stop = tokenizer.special_ids[f"<|{follower}|>"] if follower else tokenizer.eos_id
                    expected += [
                        *tokenizer.encode(message.metadata + "\n"),
                        *tokenizer.encode(message.content),
                        stop,
                    ]
            assert [t for t, on in zip(example.ids, example.learnt, strict=True) if on] == expected


def test_calls_carry_the_users_own_words() -> None:
    """Each string argument stands in the request, but for on/off, which a Chinese request translates."""
    for lang in ("en", "zh"):
        for case in cases("calls the right one of three", "train", lang, 200):
            arguments = ast.literal_eval(case.expected[case.expected.index("(") + 1 : -1])
            for value in arguments.values():
                if isinstance(value, str) and value not in ("on", "off"):
                    assert value in case.messages[-1]["content"]


def test_every_call_in_the_data_is_read_by_the_parser() -> None:
    calls = 0
    for unreal in (0.0, 0.5, 1.0):
        for index in range(400):
            for message in conversation(6, index, "train", 5, unreal):
                if message.get("metadata") and message["metadata"] != "interpreter":
                    parser = ReplyParser([message["metadata"]])
                    parser.feed(f"{message['metadata']}\n {message['content']}")
                    _, reply = parser.finish()
                    assert [call.name for call in reply.tool_calls] == [message["metadata"]], message
                    calls += 1
    assert calls > 500


def test_generated_code_prints_what_the_data_says() -> None:
    """The outputs are computed beside the code; a sample is really run, in one process."""
    programs, outputs = [], []
    for lang in ("en", "zh"):
        for i in range(60):
            for kind in (code.arithmetic, code.unary, code.on_list, code.sequence):
                task = kind(seeded("code", kind.__name__, lang, i), "train", lang)
                programs.append(task.code)
                outputs.append(task.output)
    script = (
        "import contextlib, io, json, sys\n"
        "for program in json.load(sys.stdin):\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out): exec(program, {})\n"
        "    sys.stdout.write(json.dumps(out.getvalue().strip()) + '\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(programs), capture_output=True, text=True, check=True
    )
    for program, printed, expected in zip(programs, done.stdout.splitlines(), outputs, strict=True):
        try:
            assert float(json.loads(printed)) == pytest.approx(float(expected), rel=1e-9), program
        except ValueError:
            assert json.loads(printed) == expected, program


def test_vocabulary_cuts_a_word_in_the_same_way_wherever_it_stands(tokenizer: Tokenizer) -> None:
    rng = seeded("cuts")
    for _ in range(200):
        word = values.syllables(rng, 1, 3) if rng.random() < 0.5 else values.han(rng, 1, 4)
        alone = tokenizer.encode(word)[1:]
        for text in (f"go {word} now", f"city='{word}'", f'"{word}"', f"get_{word}_x"):
            ids = tokenizer.encode(text)
            assert any(ids[i : i + len(alone)] == alone for i in range(len(ids))), (word, text)
        assert tokenizer.decode(tokenizer.encode(f"go {word}!")).strip() == f"go {word}!"


def test_batches_made_ahead_are_the_same() -> None:
    """What a GPU run reads from worker processes is what a CPU run makes itself."""
    settings = SETTINGS["smoke"]
    tokenizer = tokenizer_of(settings)
    own = Documents(settings, tokenizer)
    ahead = Prefetched(settings, workers=1)
    for step in range(2):
        for ours, theirs in zip(own(step), ahead(step), strict=True):
            assert torch.equal(ours.tokens, theirs.tokens)
            assert torch.equal(ours.weights, theirs.weights)
    ahead.pool.close()  # and let what has been begun end: a pool does not take it well to be cut off
    ahead.pool.join()
