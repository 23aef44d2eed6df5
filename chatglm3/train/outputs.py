"""The folder of a run: what it holds when a run begins, and what comes out in the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint

from chatglm3.checkpoint import NameTable, empty_model, has_weights, save_model, stored_dtype
from chatglm3.config import ModelConfig
from chatglm3.errors import TrainingError
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.trainer import Guards

_TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "generation_config.json")
_MAY_CHANGE = {
    "resume", "output", "log_every", "keep", "report_to", "samples", "check_memory", "early_stopping",
}  # fmt: skip
"""Keys that a resumed run may have another value of."""


def starting_point(config: FinetuneConfig, output: Path) -> str | None:
    """The checkpoint to go on from. Raises TrainingError where `output` does not suit the configuration."""
    newest = get_last_checkpoint(str(output)) if output.is_dir() else None
    if config.resume:
        if newest is None:
            raise TrainingError(f"{output} holds no checkpoint to resume from; leave resume out")
        before = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))
        now = config.model_dump(mode="json")
        changed = [key for key in now if key not in _MAY_CHANGE and before.get(key) != now[key]]
        if changed:
            raise TrainingError(
                f"{', '.join(changed)} changed since {newest} was written, so this would be another run; "
                "take the change back, or give another output"
            )
        return newest
    if newest or has_weights(output) or (output / "adapter_config.json").exists():
        raise TrainingError(f"{output} holds a run already; go on with resume=true, or give another output")
    return None


def keep_config(config: FinetuneConfig, output: Path) -> None:
    """Write the configuration down beside what it gives."""
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (output / "config.yaml").write_text(text, encoding="utf-8")


def save_result(trainer: Guards, config: FinetuneConfig, folder: Path, base: ModelConfig) -> None:
    """Write the adapter with what names its base, or the whole model in the published layout."""
    output = Path(config.output)
    state = trainer.accelerator.get_state_dict(trainer.model) if config.fsdp or config.deepspeed else None
    if config.trains_adapter:
        trainer.save_model(config.output)
    elif trainer.is_world_process_zero():
        weights = trainer.accelerator.unwrap_model(trainer.model).state_dict() if state is None else state
        save_model(_our_weights(weights, base), base, output)
        for name in _TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, output / name)


def _our_weights(stored: dict[str, Tensor], base: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    table, dtype = NameTable(base, "glm"), stored_dtype(base)
    for name in empty_model(base).state_dict():
        yield name, table.merge(name, stored).detach().to("cpu", dtype)
