"""The native kernels at every level that this machine has."""

from __future__ import annotations

import pytest

from chatglm3.errors import InvalidParameterError
from chatglm3.kernels import LEVELS, Native, choose


def _available() -> list[str]:
    levels = []
    for level in LEVELS:
        try:
            if choose(level).native is not None:
                levels.append(level)
        except InvalidParameterError:
            continue
    return levels


@pytest.fixture(params=_available() or ["none"])
def native(request: pytest.FixtureRequest) -> Native:
    """Kernels of one level; the test runs once for each."""
    if request.param == "none":
        pytest.skip(f"no native kernels here: {choose().reason}")
    native = choose(request.param).native
    assert native is not None
    return native
