"""One fine-tuning run, from a configuration to an adapter or a model that can be served."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from rich.console import Console
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from chatglm3 import hub
from chatglm3.checkpoint import (
    NameTable,
    base_fingerprint,
    empty_model,
    has_weights,
    save_model,
    stored_dtype,
)
from chatglm3.config import ModelConfig
from chatglm3.errors import TrainingDataError, TrainingError
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.arguments import training_arguments
from chatglm3.train.base import TrainableGlm, load_base
from chatglm3.train.callbacks import Interrupt, ProgressBar
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.data import Completion, Conversation, Preference, Prepared, Store, prepare
from chatglm3.train.memory import training_need
from chatglm3.train.methods import prepare_model, trained_parameters
from chatglm3.train.rows import Collator, Rows
from chatglm3.train.samples import Answerer
from chatglm3.train.trainer import AnswerTrainer, Guards

_TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "generation_config.json")
_MAY_CHANGE = {"resume", "output", "log_every", "keep", "report_to", "samples", "check_memory", "early_stopping"}
"""Keys that a resumed run may have another value of."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved a checkpoint; str() says how it goes on."""


def finetune(config: FinetuneConfig, console: Console | None = None) -> dict[str, float]:
    """Run it; returns the last metrics. What comes out lies in `config.output`.

    Raises TrainingDataError for data that cannot be learnt, TrainingError where the run cannot begin or go
    on, and Interrupted after a Ctrl-C, when all is saved.
    """
    console = console or Console(stderr=True)
    transformers_logging.set_verbosity_error()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = training_arguments(config)  # begins the process group under torchrun
    first = PartialState().is_main_process
    output = Path(config.output)
    checkpoint = _starting_point(config, output)
    folder = hub.resolve(config.model, revision=config.revision)
    base, tokenizer = ModelConfig.from_folder(folder), Tokenizer(folder)
    train, validation = _data(config, tokenizer, output / "data", console if first else None)
    rows = Rows(train, pack_to=config.max_length if config.packing else None)
    if first:
        _keep_config(config, output)
        _check_memory(config, base, arguments, rows, console)
    load = partial(_load, config, folder, base, arguments)
    if config.task == "dpo":
        trainer: Guards = _pair_trainer(config, arguments, load, (train, validation))
    else:
        model = prepare_model(load(), config)
        answerer = None
        if validation is not None and config.samples.count:
            file = output / "samples.jsonl"
            answerer = Answerer(validation, tokenizer, config.samples, file, console if first else None)
        trainer = AnswerTrainer(
            model,
            arguments,
            data_collator=Collator(tokenizer.pad_id, config.packing),
            train_dataset=rows,
            eval_dataset=None if validation is None else Rows(validation),
            group_by_length=config.group_by_length,
            answerer=answerer,
        )
    trainer.remove_callback(PrinterCallback)
    if config.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(config.early_stopping))
    if first:
        assert trainer.model is not None
        count = trained_parameters(trainer.model)
        console.print(
            f"{config.method}: {count:,} numbers are trained, {len(rows)} rows an epoch", highlight=False
        )
        trainer.add_callback(ProgressBar(console))
    trainer.base = {"base": config.model, "sha256": base_fingerprint(folder)}
    metrics = _train(trainer, checkpoint)
    _save(trainer, config, folder, base, output)
    return metrics


def _starting_point(config: FinetuneConfig, output: Path) -> str | None:
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


def _keep_config(config: FinetuneConfig, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (output / "config.yaml").write_text(text, encoding="utf-8")


def _data(
    config: FinetuneConfig, tokenizer: Tokenizer, folder: Path, console: Console | None
) -> tuple[Store, Store | None]:
    """Both splits. One process reads and checks the files; the others take what it wrote."""
    with PartialState().main_process_first():
        if console is not None:
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
        return Store(folder / "train"), Store(folder / "validation") if config.validation else None


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


def _check_memory(
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


def _load(
    config: FinetuneConfig, folder: Path, base: ModelConfig, arguments: TrainingArguments
) -> TrainableGlm:
    """The base in the dtype, form and place that the method wants."""
    stored_quantized = bool(base.quantization or base.quantization_bit)
    if stored_quantized and config.method != "qlora":
        raise TrainingError(
            f"{config.model} is quantized; train it with method=qlora, or take the plain weights"
        )
    # Full training keeps fp32 weights and computes in bf16; FSDP2 wants one dtype, and casts by itself.
    keeps_fp32 = config.method == "full" or config.fsdp or not arguments.bf16
    quantize = config.qlora.base if config.method == "qlora" and not stored_quantized else None
    device = torch.device("cpu") if config.fsdp or config.deepspeed else arguments.device
    torch.manual_seed(config.seed)  # of the adapter that is made next
    return load_base(
        folder, device=device, dtype=torch.float32 if keeps_fp32 else torch.bfloat16, quantize=quantize
    )


def _pair_trainer(
    config: FinetuneConfig,
    arguments: TrainingArguments,
    load: Callable[[], TrainableGlm],
    splits: tuple[Store, Store | None],
) -> Guards:
    from chatglm3.train.dpo import pair_trainer

    reference = None if config.trains_adapter else load()
    model = load()
    model.requires_grad_(config.method == "full")
    return pair_trainer(config, arguments, model, reference, splits)


def _train(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        interrupt.restore()
        bar = trainer.pop_callback(ProgressBar)
        if isinstance(bar, ProgressBar):
            bar.stop()
    if interrupt.asked:
        raise Interrupted(
            f"stopped after step {trainer.state.global_step}, which is saved; go on with resume=true"
        )
    metrics: dict[str, float] = {}
    for entry in trainer.state.log_history:
        metrics |= entry
    return metrics


def _save(trainer: Guards, config: FinetuneConfig, folder: Path, base: ModelConfig, output: Path) -> None:
    """The adapter with what names its base, or the whole model in the published layout."""
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
