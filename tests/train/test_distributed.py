"""Two gloo processes, data-parallel or sharded, learn what one process learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chatglm3.train.run import finetune
from tests.tiny import write_tiny_checkpoint
from tests.train.runs import config, losses, quiet

pytestmark = pytest.mark.timeout(600)  # each process imports PyTorch and transformers


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_two_processes_give_the_losses_of_one(tmp_path: Path, kind: str, method: str) -> None:
    model = write_tiny_checkpoint(tmp_path / "model")
    alone = config(model, tmp_path, method=method, lora={"dropout": 0}, steps=4, save_every=4)
    finetune(alone, quiet())
    together = alone.model_copy(update={"output": str(tmp_path / "together"), "fsdp": kind == "fsdp"})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(together.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "chatglm3", "finetune", str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert losses(tmp_path / "together") == pytest.approx(losses(tmp_path / "run"), rel=1e-4)
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (tmp_path / "together" / name).is_file()
