"""How near an answer comes to the one expected: ROUGE-L, BLEU-4, and whether a tool call is the same.

Chinese is taken character by character and other scripts word by word, as sacrebleu's `zh` tokenizer does,
so that both languages and their mixtures are measured alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from chatglm3.prompt import Reply


def rouge_l(answer: str, expected: str) -> float:
    """F1 over the longest common subsequence of tokens (Lin 2004), 0 to 1."""
    tokens = TokenizerZh()
    ours, theirs = tokens(answer).split(), tokens(expected).split()
    common = longest_common_subsequence(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if ours or theirs else 1.0


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Its length, in O(len(a) len(b)) time and O(len(b)) space."""
    lengths = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, lengths[j] = lengths[j], diagonal + 1 if x == y else max(lengths[j], lengths[j - 1])
    return lengths[-1]


def bleu_4(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Corpus BLEU of up to four tokens (Papineni 2002), 0 to 1."""
    return BLEU(tokenize="zh").corpus_score(list(answers), [list(expected)]).score / 100


def calls_match(answer: Reply, expected: Reply) -> bool:
    """Whether the same tools are called with the same arguments, or the same code is run."""
    ours, theirs = ([(c.name, c.arguments) for c in reply.tool_calls] for reply in (answer, expected))
    return ours == theirs and answer.code == expected.code


def measure(names: Sequence[str], answers: Sequence[Reply], expected: Sequence[Reply]) -> dict[str, float]:
    """The named metrics over whole replies.

    Tool calls: the share among the replies that are expected to call; left out where none is.
    """
    texts = [" ".join(reply.raw) for reply in answers], [" ".join(reply.raw) for reply in expected]
    calling = [(a, e) for a, e in zip(answers, expected, strict=True) if e.tool_calls or e.code is not None]
    functions: dict[str, Callable[[], float]] = {
        "rouge-l": lambda: fmean(map(rouge_l, *texts)),
        "bleu-4": lambda: bleu_4(*texts),
        "tool-calls": lambda: fmean(calls_match(a, e) for a, e in calling),
    }
    return {name: functions[name]() for name in names if calling or name != "tool-calls"}
