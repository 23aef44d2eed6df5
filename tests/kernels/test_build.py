"""Building the native library, and finding it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatglm3.errors import InvalidParameterError
from chatglm3.kernels import LEVELS, build, choose


def test_the_linker_meets_plainer_instructions_first() -> None:
    """It keeps the first of several copies of an inline function, and that one has to run everywhere."""
    names = [path.name for path in build.link_order()]
    assert names[-len(LEVELS) :] == [f"level_{level}.cpp" for level in reversed(LEVELS)]
    assert sorted(names) == sorted(path.name for path in build.SOURCES.glob("*.cpp"))


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_library_chosen_by_hand_is_used_or_complained_of(
    tmp_path: Path, monkeypatch: Any, content: bytes | None
) -> None:
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("CHATGLM3_LIBRARY", str(path))
    with pytest.raises(InvalidParameterError, match=r"CHATGLM3_LIBRARY is .*lib\.so"):
        choose.__wrapped__()


def test_the_library_goes_into_wheels_and_not_into_source_distributions(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    if not (root / "hatch_build.py").exists():
        pytest.skip("not a source checkout")
    sdist = pytest.importorskip("hatchling.builders.sdist")
    wheel = pytest.importorskip("hatchling.builders.wheel")
    assert "custom" in wheel.WheelBuilder(str(root)).get_build_hooks(str(tmp_path))
    assert "custom" not in sdist.SdistBuilder(str(root)).get_build_hooks(str(tmp_path))
