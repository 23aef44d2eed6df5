"""A run as a whole: it learns, resumes bit by bit, stops when asked, and breaks without losing anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatglm3 import ChatGLM3
from chatglm3.checkpoint import base_fingerprint, load_model, save_model
from chatglm3.errors import TrainingDataError, TrainingError
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.run import Interrupted, finetune
from tests.tiny import tiny_tokenizer, write_tiny_checkpoint
from tests.train.runs import config, conversations, losses, quiet, write_lines

pytestmark = pytest.mark.timeout(600)

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"dropout": 0.1}},  # so that the random state matters
    "projection": {"method": "ptuning", "ptuning": {"length": 4, "projection": True}},
    "full": {"method": "full"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def run(chosen: FinetuneConfig) -> dict[str, float]:
    return finetune(chosen, quiet())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every number that a checkpoint holds: weights and optimizer."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {f"{path.name}:{name}": tensor for name, tensor in load_file(path).items()}
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    for number, state in optimizer["state"].items():
        found |= {f"optimizer:{number}:{name}": value for name, value in state.items()}
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit(
    model: Path, tmp_path: Path, method: str
) -> None:
    whole = config(model, tmp_path, **METHODS[method])
    run(whole)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-4", parts / "checkpoint-4")
    shutil.copy(tmp_path / "run" / "config.yaml", parts)
    run(whole.model_copy(update={"output": str(parts), "resume": True}))
    expected, found = (tensors(folder / "checkpoint-8") for folder in (tmp_path / "run", parts))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_adapter_names_its_base(model: Path, tmp_path: Path) -> None:
    run(config(model, tmp_path))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-4"):
        base = json.loads((folder / "base.json").read_text())
        assert base == {"base": str(model), "fingerprint": base_fingerprint(model)}
        assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_fingerprint_is_of_the_weights_and_not_of_the_files(model: Path, tmp_path: Path) -> None:
    weights = load_model(model)
    for layout in ("chatglm", "glm"):
        save_model(weights, weights.config, tmp_path / layout, layout=layout, shard_bytes=20_000)
        assert base_fingerprint(tmp_path / layout) == base_fingerprint(model)
    with torch.no_grad():
        weights.get_parameter("layers.1.down.weight")[0] += 1
    save_model(weights, weights.config, tmp_path / "other")
    assert base_fingerprint(tmp_path / "other") != base_fingerprint(model)


def test_full_training_gives_a_model_that_inference_loads(model: Path, tmp_path: Path) -> None:
    run(config(model, tmp_path, method="full", learning_rate=1e-3))
    chat = ChatGLM3.load(tmp_path / "run", device="cpu")
    assert chat.chat([{"role": "user", "content": "hello"}], max_tokens=2) is not None
    assert base_fingerprint(tmp_path / "run") != base_fingerprint(model)


def test_three_validation_rows_are_enough_and_the_best_checkpoint_is_kept(
    model: Path, tmp_path: Path
) -> None:
    dev = write_lines(tmp_path / "dev.jsonl", conversations(3, seed=9))
    metrics = run(
        config(
            model, tmp_path, validation=str(dev), steps=40, save_every=None, evaluate_every=4, keep=2,
            learning_rate=0.05, early_stopping=2, samples={"count": 3, "metrics": ["rouge-l", "bleu-4"]},
        )
    )  # fmt: skip
    assert {"eval_loss", "eval_rouge-l", "eval_bleu-4"} <= metrics.keys()
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    state = json.loads((newest / "trainer_state.json").read_text())
    history = {e["step"]: e["eval_loss"] for e in state["log_history"] if "eval_loss" in e}
    best = min(history, key=history.__getitem__)
    assert state["best_global_step"] == best
    assert max(history) == min(best + 8, 40)  # two evaluations without a lower loss end the run
    kept, out = (load_file(f / "adapter_model.safetensors") for f in
                 (tmp_path / "run" / f"checkpoint-{best}", tmp_path / "run"))  # fmt: skip
    assert all(torch.equal(kept[name], tensor) for name, tensor in out.items())
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 3 * len(history)
    assert json.loads(lines[0]).keys() == {"step", "prompt", "answer", "expected"}


def test_the_validation_loss_does_not_depend_on_the_batches(model: Path, tmp_path: Path) -> None:
    dev = write_lines(tmp_path / "dev.jsonl", conversations(7, seed=9))
    found = []
    for size in (1, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        chosen = config(model, folder, validation=str(dev), micro_batch_size=size, steps=1, save_every=None)
        found.append(run(chosen)["eval_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_ctrl_c_ends_the_step_and_saves(model: Path, tmp_path: Path) -> None:
    chosen = config(model, tmp_path, steps=100_000, save_every=1)

    def press() -> None:
        while not (tmp_path / "run" / "checkpoint-2" / "trainer_state.json").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="go on with resume=true") as stopped:
        run(chosen)
    step = int(str(stopped.value).split()[3].rstrip(","))
    assert (tmp_path / "run" / f"checkpoint-{step}" / "optimizer.pt").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_nan_stops_the_run_and_names_step_and_sample(tmp_path: Path) -> None:
    poisoned = write_tiny_checkpoint(tmp_path / "model")
    weights = load_model(poisoned)
    token = tiny_tokenizer().encode("Paris")[-1]
    with torch.no_grad():
        weights.get_parameter("embedding.weight")[token] = float("nan")
    (poisoned / "model.safetensors").unlink()
    save_model(weights, weights.config, poisoned)
    chosen = config(poisoned, tmp_path, micro_batch_size=1, batch_size=1, steps=24)
    bad = {"prompt": "Paris", "response": "hello"}
    train = tmp_path / "bad.jsonl"
    write_lines(train, [{"prompt": "1", "response": "2"}] * 5 + [bad])
    with pytest.raises(TrainingError, match=rf"the loss is nan in step \d+, after the samples {train}:6;"):
        run(chosen.model_copy(update={"train": (str(train),)}))


FULL_DISK = """
import resource, sys
from chatglm3.train import run
from chatglm3.train.config import load_config

class Filling(run.Interrupt):
    def on_step_end(self, args, state, control, **given):
        if state.global_step == 7:  # from now on no file can have more than 5000 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        return super().on_step_end(args, state, control, **given)

run.Interrupt = Filling
try:
    run.finetune(load_config(sys.argv[1]))
except run.TrainingError as error:
    print("ERROR", error)
"""


def test_a_full_disk_leaves_the_older_checkpoint_whole(model: Path, tmp_path: Path) -> None:
    import yaml

    chosen = config(model, tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(file)], capture_output=True, text=True, check=False
    )
    assert "checkpoint-8 could not be written" in done.stdout, done.stderr[-2000:]
    assert "older checkpoints are whole" in done.stdout
    left = [path.name for path in (tmp_path / "run").glob("checkpoint-*")]
    assert left == ["checkpoint-4"]
    assert tensors(tmp_path / "run" / "checkpoint-4")


def test_what_is_there_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    chosen = config(model, tmp_path, steps=2, save_every=2)
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        run(chosen.model_copy(update={"resume": True}))
    run(chosen)
    with pytest.raises(TrainingError, match="holds a run already; go on with resume=true"):
        run(chosen)
    with pytest.raises(TrainingError, match="seed changed since"):
        run(chosen.model_copy(update={"resume": True, "seed": 1}))


def test_bad_data_stop_a_run_before_the_first_step(model: Path, tmp_path: Path) -> None:
    chosen = config(model, tmp_path)
    bad = write_lines(tmp_path / "bad.jsonl", [{"prompt": "x", "response": ""}])
    with pytest.raises(
        TrainingDataError, match=r"1 problems in the data:\n  .*bad.jsonl:1: response: is empty"
    ):
        run(chosen.model_copy(update={"train": (str(bad),)}))
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(TrainingDataError, match="set task=dpo"):
        run(chosen.model_copy(update={"train": (str(pairs),)}))


def test_what_does_not_fit_is_refused_with_the_numbers(model: Path, tmp_path: Path) -> None:
    chosen = config(model, tmp_path, method="ptuning", ptuning={"length": 10**12})
    with pytest.raises(TrainingError, match=r"memory: about .* GB free .*: this does not fit\. Try"):
        run(chosen)


def test_dpo_prefers_the_better_answer(model: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"hello {i}", "chosen": "yes you", "rejected": "no world"} for i in range(8)]
    file = write_lines(tmp_path / "pairs.jsonl", pairs)
    chosen = config(model, tmp_path, task="dpo", train=str(file), learning_rate=1e-2)
    run(chosen)
    state = json.loads((tmp_path / "run" / "checkpoint-8" / "trainer_state.json").read_text())
    margins = [e["rewards/margins"] for e in state["log_history"] if "rewards/margins" in e]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.1
