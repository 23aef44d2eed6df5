"""nano's run: which documents each step sees, the optimizers, and the export into the package."""

from __future__ import annotations

import logging
import multiprocessing
import random
import shutil
import tempfile
from dataclasses import replace
from multiprocessing.pool import AsyncResult
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import GlmForCausalLM

from chatglm3.checkpoint import save_model
from chatglm3.errors import PromptTooLongError
from chatglm3.prompt import Message
from chatglm3.tokenizer import Tokenizer
from chatglm3.train.encode import Batch, Example, collate, encode, group_by_length
from chatglm3.train.glm import glm_weights, new_glm
from chatglm3.train.loop import Schedule, load_checkpoint, train
from recipes.nano.abstract import AbstractDocuments
from recipes.nano.data import conversation, seeded
from recipes.nano.initial import wire
from recipes.nano.settings import Settings
from recipes.nano.vocabulary import train_vocabulary


class Documents:
    """The batches of a run as a function of the step."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.abstract = AbstractDocuments(tokenizer)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        s = self.settings
        rng = seeded("step", s.seed, step)
        examples = [self._example(rng, step, i) for i in range(s.conversations_per_step)]
        return [collate(group, self.tokenizer.pad_id) for group in group_by_length(examples, s.micro_batch)]

    def _example(self, rng: random.Random, step: int, position: int) -> Example:
        s = self.settings
        phase = [phase for phase in s.phases if phase.step <= step][-1]
        if rng.random() < phase.exercises:
            return self.abstract.draw(rng)
        index = step * s.conversations_per_step + position
        while True:
            messages = [
                Message.from_dict(m)
                for m in conversation(s.seed, index, "train", phase.most_tools, phase.unreal)
            ]
            try:
                return encode(messages, self.tokenizer, s.max_length)
            except PromptTooLongError:
                index += 1_000_000_007  # another one in its place


class Prefetched:
    """The same batches, made ahead by processes of their own: a GPU reads faster than one core writes."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self.steps = settings.steps
        self.reach = 4 * workers
        self.pool = multiprocessing.get_context("spawn").Pool(workers, _open_documents, (settings,))
        self.ahead: dict[int, AsyncResult[list[Batch]]] = {}

    def __call__(self, step: int) -> list[Batch]:
        """The batches of `step`; the steps that follow are begun."""
        for coming in range(step, min(step + self.reach, self.steps)):
            if coming not in self.ahead:
                self.ahead[coming] = self.pool.apply_async(_batches_of, (coming,))
        return self.ahead.pop(step).get()


_documents: Documents
"""Of a worker process of `Prefetched`."""


def _open_documents(settings: Settings) -> None:
    global _documents  # noqa: PLW0603 (a worker process has nothing else to keep it in)
    torch.set_num_threads(1)
    _documents = Documents(settings, tokenizer_of(settings))


def _batches_of(step: int) -> list[Batch]:
    return _documents(step)


def optimizers(model: GlmForCausalLM, settings: Settings) -> list[Optimizer]:
    """Muon for the matrices inside the layers; AdamW for embeddings, norms and biases."""
    matrices = [
        p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr=settings.matrix_rate, weight_decay=0.01, momentum=0.95),
        AdamW(others, lr=settings.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def tokenizer_of(settings: Settings) -> Tokenizer:
    """The run's vocabulary, trained on first use."""
    path = settings.folder / "tokenizer.model"
    return Tokenizer(path if path.exists() else train_vocabulary(settings.folder, settings.seed))


def run(settings: Settings, processes: int) -> None:
    """Train, or go on where a stopped run was; on a CPU with one process a core."""
    tokenizer_of(settings)
    if torch.cuda.is_available() or processes == 1:
        _train(0, settings, 1, "")
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        torch.multiprocessing.spawn(  # type: ignore[attr-defined]
            _train, (settings, processes, meeting), nprocs=processes
        )


def _train(rank: int, settings: Settings, processes: int, meeting: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if processes > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    torch.manual_seed(settings.seed)
    tokenizer = tokenizer_of(settings)
    config = settings.model_config(tokenizer.vocab_size)
    model = new_glm(config, tied=True)
    wire(model, config, tokenizer)
    nn.Module.to(model, device)
    on_gpu = device == "cuda"
    train(
        model,
        optimizers(model, settings),
        Prefetched(settings, workers=8) if on_gpu else Documents(settings, tokenizer),
        Schedule(settings.steps, warmup=settings.warmup, decay=settings.decay),
        settings.folder,
        compute_dtype=torch.bfloat16,
    )
    if processes > 1:
        dist.destroy_process_group()


def export(settings: Settings, folder: Path) -> None:
    """Write the trained network in the ChatGLM layout, in fp16, with its vocabulary."""
    tokenizer = tokenizer_of(settings)
    config = settings.model_config(tokenizer.vocab_size)
    model = new_glm(config, tied=True)
    load_checkpoint(settings.folder / "checkpoint.pt", model)
    if folder.exists():
        shutil.rmtree(folder)
    weights = ((name, tensor.half()) for name, tensor in glm_weights(model, config))
    save_model(weights, replace(config, dtype="float16"), folder)
    shutil.copy(settings.folder / "tokenizer.model", folder / "tokenizer.model")
