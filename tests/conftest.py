"""Shared fixtures of the test suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Tiny tensors are slower on several threads; read when PyTorch is first imported, which no test has done yet.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU Triton's kernels run in its interpreter; read when triton is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What is started in the background of a shell ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is not a failure; where a red run stops others, the examples are the same each time.
settings.register_profile("chatglm3", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("chatglm3")


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Folder of the parity fixtures: $CHATGLM3_FIXTURES, or `shared/fixtures` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
    folder = Path(os.environ.get("CHATGLM3_FIXTURES", default))
    if not folder.is_dir():
        pytest.skip(f"parity fixtures are not at {folder}; set CHATGLM3_FIXTURES to their folder")
    return folder
