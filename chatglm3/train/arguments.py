"""A run's configuration in the words of transformers' Trainer."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments

from chatglm3.errors import TrainingError
from chatglm3.train.config import FinetuneConfig


def training_arguments(config: FinetuneConfig) -> TrainingArguments:
    """All of Trainer's options. Raises TrainingError where this machine or these numbers do not allow it."""
    cuda = torch.cuda.is_available() and config.device != "cpu"
    if config.device == "cuda" and not cuda:
        raise TrainingError("device is cuda, and PyTorch finds no CUDA device here; set device=cpu")
    for package in (*config.report_to, *(["deepspeed"] if config.deepspeed else [])):
        if find_spec(package) is None:
            raise TrainingError(f"{package} is asked for and not installed: pip install {package}")
    bfloat16 = config.dtype == "bfloat16" or (config.dtype is None and cuda)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulate, rest = divmod(config.batch_size, config.micro_batch_size * processes)
    if rest or not accumulate:
        raise TrainingError(
            f"batch_size is {config.batch_size}; it must be a multiple of micro_batch_size "
            f"({config.micro_batch_size}) times the number of processes ({processes})"
        )
    every = config.evaluate_every or config.save_every
    saving = config.save_every or config.evaluate_every
    evaluates = bool(config.validation)
    if evaluates and every and saving and saving % every:
        raise TrainingError(
            f"save_every is {saving} and evaluate_every is {every}; a checkpoint is compared by its "
            "evaluation, so save_every must be a multiple"
        )
    options: dict[str, Any] = {
        "output_dir": config.output,
        "per_device_train_batch_size": config.micro_batch_size,
        "per_device_eval_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": accumulate,
        "num_train_epochs": config.epochs,
        "max_steps": config.steps or -1,
        "learning_rate": config.rate,
        "lr_scheduler_type": "constant_with_warmup" if config.schedule == "constant" else config.schedule,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": bfloat16,
        "use_cpu": not cuda,
        "seed": config.seed,
        "data_seed": config.seed,
        "activation_checkpointing": config.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "eval_strategy": ("steps" if every else "epoch") if evaluates else "no",
        "eval_steps": every,
        "save_strategy": "steps" if saving else "epoch",
        "save_steps": saving or 500,
        "save_total_limit": config.keep,
        "load_best_model_at_end": evaluates,
        "metric_for_best_model": "eval_loss" if evaluates else None,
        "greater_is_better": False,
        "logging_steps": config.log_every,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "all",
        "report_to": list(config.report_to),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": cuda,
        "ddp_find_unused_parameters": False,
        "deepspeed": config.deepspeed,
        "disable_tqdm": True,
    }
    if config.fsdp:
        options |= {"fsdp": True, "fsdp_config": {"version": 2}}
    if config.task == "dpo":
        from chatglm3.train.dpo import dpo_arguments

        return dpo_arguments(config, options)
    return TrainingArguments(**options)
