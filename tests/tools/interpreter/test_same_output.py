"""The walls change nothing that an honest program sees: the same outputs inside and outside."""

from __future__ import annotations

import re

import pytest

from chatglm3.tools.interpreter import Execution, Output
from tests.tools.interpreter.conftest import in_mode
from tests.tools.interpreter.programs import programs

PROGRAMS = programs(200)
START = "a, b, s = 7, 3, 'abc'"


def plain(execution: Execution) -> tuple[str, list[Output]]:
    """Status and outputs, without what names the place or the moment."""
    kept = []
    for output in execution.outputs:
        text = re.sub(r"(/[\w.+-]+)+/", "/", output.text)
        text = re.sub(r"ipykernel_\d+|0x[0-9a-f]+|Cell In\[\d+\]|/\d+\.py:\d+", "", text)
        kept.append(Output(output.kind, text, output.data))
    # stdout and stderr are two streams: which of them comes first is not certain.
    kept.sort(key=lambda output: output.kind)
    return execution.status, kept


@pytest.mark.parametrize("mode", ["namespaces", "landlock"])
def test_the_same_outputs_inside_and_outside(mode: str) -> None:
    seen = {}
    for place in (mode, "unsafe"):
        with pytest.MonkeyPatch.context() as patch, in_mode(patch, place) as conversation:
            seen[place] = []
            for program in PROGRAMS:
                conversation.execute(START)
                seen[place].append(plain(conversation.execute(program, timeout=60)))
    different = [
        (program, inside, outside)
        for program, inside, outside in zip(PROGRAMS, seen[mode], seen["unsafe"], strict=True)
        if inside != outside
    ]
    assert different == []
    statuses = [status for status, _ in seen[mode]]
    assert statuses.count("ok") >= len(PROGRAMS) - 2
    assert sum(bool(outputs) for _, outputs in seen[mode]) > 100


def test_the_programs_differ() -> None:
    assert len(set(PROGRAMS)) > 190
