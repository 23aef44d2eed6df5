"""`chatglm3 doctor`: it says what is there, and its exit code whether something does not work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chatglm3.tools import interpreter
from chatglm3.tools.interpreter import Isolation, Layer
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


def test_it_names_versions_extras_and_every_layer(run: Run) -> None:
    outcome = run("doctor")
    assert f"torch     {torch.__version__}" in outcome.out
    assert "extras\n" in outcome.out
    for isolation in interpreter.isolations():
        for layer in isolation.layers:
            assert f"{'yes' if layer.holds else 'no'}: {layer.detail}" in outcome.out
    assert outcome.code == (0 if interpreter.best_isolation() else 1)


def test_a_machine_without_isolation_gets_the_reason_and_code_1(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (
        Isolation("namespaces", False, [Layer("namespaces", False, "[Errno 1] Operation not permitted")]),
    )
    monkeypatch.setattr(interpreter, "isolations", lambda: found)
    outcome = run("doctor")
    assert outcome.code == 1
    assert "refused, unless with --unsafe-interpreter" in outcome.out
    assert "no: [Errno 1] Operation not permitted" in outcome.out
