"""Stop strings, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm3.server.stops import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopStrings(stops)
    text = "".join([*map(matcher.feed, pieces), matcher.finish()])
    return text, matcher.matched


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        ([], "abc", ("abc", None)),
        (["c"], "abcd", ("ab", "c")),
        (["bc", "b"], "abcd", ("a", "b")),  # ends first
        (["bc", "c", "abc"], "abcd", ("", "abc")),  # of those that end together, the longest
        (["xy"], "abx", ("abx", None)),
        (["\n\n"], "a\n\nb", ("a", "\n\n")),
        (["end"], "ene enden", ("ene ", "end")),
        (["世界"], "你好世界！", ("你好", "世界")),
    ],
)
def test_text_before_the_first_stop_string(
    stops: list[str], text: str, expected: tuple[str, str | None]
) -> None:
    assert run(stops, [text]) == expected
    assert run(stops, list(text)) == expected


letters = st.text("ab\n", max_size=30)


@given(st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.lists(letters, max_size=6))
def test_the_outcome_does_not_depend_on_how_the_text_is_cut(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == run(stops, ["".join(pieces)])


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.lists(letters, max_size=6))
def test_nothing_is_let_out_that_could_belong_to_a_stop_string(stops: list[str], pieces: list[str]) -> None:
    matcher = StopStrings(stops)
    out = "".join(map(matcher.feed, pieces))
    whole = "".join(pieces)
    assert whole.startswith(out)
    assert not any(stop in out for stop in stops)
    if matcher.matched is None:
        held = whole[len(out) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_uncertain_text_can_be_asked_about() -> None:
    matcher = StopStrings(["a\n"])
    assert matcher.feed("ba") == "b"
    assert matcher.matches("\n")
    assert not matcher.matches(" ")
    assert matcher.matched is None
