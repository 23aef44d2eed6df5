"""A plain training loop that a stopped run resumes exactly.

Step `n` always sees the same batches (they are a function of `n`), so a checkpoint is the weights, the
optimizers' state and `n`; nothing else has to be remembered, and a resumed run repeats the uninterrupted one
bit by bit.

Several processes may train together (torch.distributed): each takes its share of a step's micro-batches, and
the gradients are added up. On a CPU, one process a core is faster than one process with as many threads.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import GlmForCausalLM

from chatglm3.train.encode import Batch
from chatglm3.train.glm import batch_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor over the steps: linear warm-up, constant, linear decay to zero."""

    steps: int
    warmup: int
    decay: float
    """Share of the steps, at the end, that the decay takes."""

    def factor(self, step: int) -> float:
        """The factor on every learning rate in `step`, counted from 0."""
        rising = (step + 1) / max(self.warmup, 1)
        falling = (self.steps - step) / max(self.decay * self.steps, 1)
        return min(1.0, rising, falling)


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def train(
    model: GlmForCausalLM,
    optimizers: Sequence[Optimizer],
    batches: Callable[[int], list[Batch]],
    schedule: Schedule,
    folder: Path,
    *,
    checkpoint_every: int = 50,
    log_every: int = 10,
    compute_dtype: torch.dtype = torch.float32,
) -> Progress:
    """Train to the end of `schedule`, from the checkpoint in `folder` where there is one.

    model: holds the weights in fp32, which the optimizers update.
    batches: the micro-batches of a step, whose gradients add up to one update, as a function of the step.
    compute_dtype: dtype of a second copy of the weights, in which the forward and backward passes run.

    Writes `folder`/checkpoint.pt and a line of JSON per `log_every` steps to `folder`/log.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    progress = load_checkpoint(path, model, optimizers) if path.exists() else Progress()
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    first = not dist.is_initialized() or dist.get_rank() == 0
    worker = copy.deepcopy(model).train()
    nn.Module.to(worker, compute_dtype)
    while progress.step < schedule.steps:
        started = time.perf_counter()
        factor = schedule.factor(progress.step)
        _set_rates(optimizers, rates, factor)
        loss = _step(model, worker, optimizers, batches(progress.step), progress)
        _set_rates(optimizers, rates, 1.0)
        progress.step += 1
        progress.seconds += time.perf_counter() - started
        if first and progress.step % log_every == 0:
            line = {
                "step": progress.step,
                "loss": round(loss, 4),
                "tokens": progress.tokens,
                "factor": round(factor, 4),
            }
            line["seconds"] = round(progress.seconds, 1)
            logger.info("%s", line)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if first and (progress.step % checkpoint_every == 0 or progress.step == schedule.steps):
            save_checkpoint(path, model, optimizers, progress)
    return progress


def _set_rates(optimizers: Sequence[Optimizer], rates: list[list[float]], factor: float) -> None:
    for optimizer, initial in zip(optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = rate * factor


def _step(
    model: GlmForCausalLM,
    worker: GlmForCausalLM,
    optimizers: Sequence[Optimizer],
    batches: list[Batch],
    progress: Progress,
) -> float:
    """One update; returns the weighted mean loss."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    weight = sum(float(batch.weights.sum()) for batch in batches)
    parameters, copies = list(model.parameters()), list(worker.parameters())
    gradients: list[Tensor] = []
    with torch.no_grad():
        for ours, theirs in zip(parameters, copies, strict=True):
            theirs.copy_(ours)
            ours.grad = torch.zeros_like(ours)
            gradients.append(ours.grad)
    total = torch.zeros(1, device=parameters[0].device)
    for batch in _share(batches, rank, processes):
        loss = batch_loss(worker, batch.to(total.device)) / weight
        loss.backward()
        total += loss.detach()
        for gradient, theirs in zip(gradients, copies, strict=True):  # added up in fp32
            if theirs.grad is not None:
                gradient.add_(theirs.grad)
            theirs.grad = None
    if processes > 1:
        for tensor in (total, *gradients):
            dist.all_reduce(tensor)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    progress.tokens += sum(batch.tokens.numel() for batch in batches)
    return total.item()


def _share(batches: list[Batch], rank: int, processes: int) -> list[Batch]:
    """This process's part of the micro-batches, of about the same number of tokens as any other's."""
    shares: list[list[Batch]] = [[] for _ in range(processes)]
    for batch in sorted(batches, key=lambda b: -b.tokens.numel()):
        min(shares, key=lambda share: sum(b.tokens.numel() for b in share)).append(batch)
    return shares[rank]


def save_checkpoint(
    path: Path, model: GlmForCausalLM, optimizers: Sequence[Optimizer], progress: Progress
) -> None:
    """Write everything that resuming needs; a run killed while writing keeps its older checkpoint."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": vars(progress),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path, model: GlmForCausalLM, optimizers: Sequence[Optimizer] = ()) -> Progress:
    """Put a checkpoint's weights (and optimizer states) into place."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"]):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])
