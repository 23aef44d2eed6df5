"""Metrics, against values worked out by hand."""

from __future__ import annotations

import pytest

from chatglm3.prompt import parse_reply
from chatglm3.train.metrics import bleu_4, calls_match, longest_common_subsequence, measure, rouge_l

CALL = "weather\n ```python\ntool_call(city='{}')\n```"


def test_rouge_l_takes_words_and_chinese_characters_alike() -> None:
    assert rouge_l("the cat sat", "the cat lay down") == pytest.approx(2 * 2 / (3 + 4))
    assert rouge_l("今天下雨", "今天有雨") == pytest.approx(2 * 3 / (4 + 4))
    assert rouge_l("用 Python 写", "用Python写") == 1
    assert rouge_l("", "a") == 0
    assert longest_common_subsequence("abcbdab", "bdcaba") == 4


def test_bleu_4() -> None:
    assert bleu_4(["the cat sat on the mat"], ["the cat sat on the mat"]) == pytest.approx(1)
    assert bleu_4(["今天天气很好"], ["今天天气很好"]) == pytest.approx(1)
    assert 0 < bleu_4(["the cat sat on a mat"], ["the cat sat on the mat"]) < 1
    assert bleu_4(["dog"], ["今天天气很好"]) == 0


def test_calls_match_by_name_and_arguments_and_not_by_spelling() -> None:
    expected = parse_reply(CALL.format("Paris"), ["weather"])
    assert calls_match(parse_reply('weather\n```python\ntool_call(city="Paris")\n```', ["weather"]), expected)
    assert not calls_match(parse_reply(CALL.format("Oslo"), ["weather"]), expected)
    assert not calls_match(parse_reply("\n Paris", ["weather"]), expected)
    code = parse_reply("interpreter\n ```python\nprint(1)\n```")
    assert calls_match(code, code)
    assert not calls_match(parse_reply("interpreter\n ```python\nprint(2)\n```"), code)


def test_the_share_is_among_those_that_have_to_call() -> None:
    answers = [parse_reply(CALL.format("Oslo"), ["weather"]), parse_reply("\n hi")]
    assert measure(["tool-calls", "rouge-l"], answers, answers) == {"tool-calls": 1.0, "rouge-l": 1.0}
