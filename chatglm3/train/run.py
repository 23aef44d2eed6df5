"""One fine-tuning run, from a configuration to an adapter or a model that can be served."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from chatglm3 import hub
from chatglm3.config import ModelConfig
from chatglm3.errors import TrainingError
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.arguments import training_arguments
from chatglm3.train.base import TrainableGlm, load_base
from chatglm3.train.callbacks import Interrupt, ProgressBar
from chatglm3.train.config import FinetuneConfig
from chatglm3.train.data import Store
from chatglm3.train.methods import prepare_model, trained_parameters
from chatglm3.train.outputs import keep_config, save_result, starting_point
from chatglm3.train.preflight import check_memory, load_splits
from chatglm3.train.rows import Collator, Rows
from chatglm3.train.samples import Answerer
from chatglm3.train.trainer import AnswerTrainer, Guards


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved a checkpoint; str() says how it goes on."""


def finetune(config: FinetuneConfig, console: Console | None = None) -> dict[str, float]:
    """Run it; returns the last metrics. What comes out lies in `config.output`.

    Raises TrainingDataError for data that cannot be learnt, TrainingError where the run cannot begin or go
    on, and Interrupted after a Ctrl-C, when all is saved.
    """
    console = console or Console(stderr=True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    arguments = training_arguments(config)
    first = arguments.process_index == 0  # under torchrun, this has begun the process group
    said = console if first else None
    output = Path(config.output)
    checkpoint = starting_point(config, output)
    folder = hub.resolve(config.model, revision=config.revision)
    base, tokenizer = ModelConfig.from_folder(folder), Tokenizer(folder)
    with arguments.main_process_first(local=False):
        train, validation = load_splits(config, tokenizer, output / "data", folder, said)
    rows = Rows(train, pack_to=config.max_length if config.packing else None)
    if first:
        keep_config(config, output)
        check_memory(config, base, arguments, rows, console)
    load = partial(_load, config, folder, base, arguments)
    if config.task == "dpo":
        trainer: Guards = _pair_trainer(config, arguments, load, (train, validation))
    else:
        answerer = None
        if validation is not None and config.samples.count:
            answerer = Answerer(validation, tokenizer, config.samples, output / "samples.jsonl", said)
        trainer = AnswerTrainer(
            prepare_model(load(), config),
            arguments,
            data_collator=Collator(tokenizer.pad_id, config.packing),
            train_dataset=rows,
            eval_dataset=None if validation is None else Rows(validation),
            group_by_length=config.group_by_length,
            answerer=answerer,
        )
    trainer.base = config.model, folder
    trainer.remove_callback(PrinterCallback)
    if config.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(config.early_stopping))
    if first:
        assert trainer.model is not None
        count = trained_parameters(trainer.model)
        console.print(f"{config.method}: {count:,} numbers are trained", highlight=False)
        trainer.add_callback(ProgressBar(console))
    metrics = _train(trainer, checkpoint)
    try:
        save_result(trainer, config, folder, base)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{output} could not be written ({error}); its checkpoints are whole. Make room, then finish "
            "with resume=true"
        ) from error
    return metrics


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
