"""Triton's kernels, compiled for real GPUs without having one: they must fit, and spill no registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import tests.kernels.triton_device  # noqa: F401  (skips without Triton)

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}
"""Bytes that a block may have, by compute capability (CUDA C++ Programming Guide, table of capabilities)."""


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_kernels_compile_for(capability, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.kernels.compile_triton", str(capability)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    kernels = json.loads(result.stdout)
    assert len(kernels) >= 10
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_MEMORY[capability], kernel
        assert kernel["stack"] == 0, kernel
