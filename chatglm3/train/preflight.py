"""What is looked at before the first step: the data, and whether memory will do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from rich.console import Console
from transformers import TrainingArguments

from chatglm3.config import ModelConfig
from chatglm3.errors import TrainingDataError, TrainingError
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.data import Completion, Conversation, Preference, Prepared, Store, prepare
from chatglm3.train.memory import training_need
from chatglm3.train.rows import Rows


def load_splits(
    config: FinetuneConfig, tokenizer: Tokenizer, folder: Path, model: Path, console: Console | None
) -> tuple[Store, Store | None]:
    """Train and validation, as token ids in `folder`. Files that were prepared before are not read again.

    console: None for the processes that only take what the first one has written.
    Raises TrainingDataError, naming the problems, where the data cannot be learnt.
    """
    if console is not None:
        key, kept = _key(config, model), folder / "key.json"
        if not kept.exists() or kept.read_text(encoding="utf-8") != key:
            kept.unlink(missing_ok=True)
            prepared = prepare(
                config.train,
                config.validation,
                tokenizer,
                folder,
                max_length=config.max_length,
                skip_long=config.too_long == "skip",
            )
            for line in prepared.report.lines():
                console.print(line, markup=False, highlight=False)
            check_data(prepared, config)
            kept.write_text(key, encoding="utf-8")
    return Store(folder / "train"), Store(folder / "validation") if config.validation else None


def _key(config: FinetuneConfig, model: Path) -> str:
    """What prepared data depend on: the files, the vocabulary, and how long a sample may be."""
    files = {}
    for name in (*config.train, *config.validation):
        if Path(name).is_file():
            stat = Path(name).stat()
            files[name] = [stat.st_size, stat.st_mtime_ns]
    vocabulary = hashlib.sha256((model / "tokenizer.model").read_bytes()).hexdigest()
    told = {name: getattr(config, name) for name in ("train", "validation", "max_length", "too_long", "task")}
    return json.dumps({"files": files, "vocabulary": vocabulary, **told}, sort_keys=True)


def check_data(prepared: Prepared, config: FinetuneConfig) -> None:
    """Raise TrainingDataError where the data cannot be learnt, naming the first problems."""
    problems = prepared.report.problems
    if problems:
        shown = "\n  ".join(map(str, problems[:20]))
        more = f"\n  and {len(problems) - 20} more; see them with --check" if len(problems) > 20 else ""
        raise TrainingDataError(f"{len(problems)} problems in the data:\n  {shown}{more}")
    wanted = (Preference,) if config.task == "dpo" else (Conversation, Completion)
    if prepared.kind not in wanted:
        raise TrainingDataError(
            "the data are preference pairs; set task=dpo"
            if prepared.kind is Preference
            else "task is dpo, and the data are no preference pairs (prompt, chosen, rejected)"
        )
    if not len(prepared.train) or (config.validation and not len(prepared.validation or [])):
        raise TrainingDataError("a split holds no sample that is short enough; raise max_length")


def check_memory(
    config: FinetuneConfig, base: ModelConfig, arguments: TrainingArguments, rows: Rows, console: Console
) -> None:
    """Say what the run will need, and refuse it where the device has less."""
    device = arguments.device
    need = training_need(
        base,
        config,
        device=device.type,
        dtype="bfloat16" if arguments.bf16 else "float32",
        longest=max(rows.lengths),
        processes=arguments.world_size,
    )
    free = free_memory(device)
    gb = {
        name: f"{value / 1e9:.1f}"
        for name, value in {**vars(need), "total": need.total, "free": free}.items()
    }
    said = (
        f"memory: about {gb['total']} GB of {gb['free']} GB free ({gb['weights']} weights, {gb['trained']} "
        f"gradients and optimizer, {gb['activations']} activations, {gb['loss']} loss)"
    )
    console.print(said, highlight=False)
    if need.total > free and config.check_memory:
        raise TrainingError(
            f"{said}: this does not fit. Try gradient_checkpointing=true, a smaller micro_batch_size or "
            "max_length, method=qlora, or fsdp=true on several devices; check_memory=false tries it anyway"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
