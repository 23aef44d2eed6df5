"""A step's chunks through the model: lists to tensors on one side, logits on the other."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chatglm3.adapters import Lora, Prefix, write_prefix
from chatglm3.attention import AttentionBatch, KVCache
from chatglm3.engine.graphs import DecodeGraphs
from chatglm3.engine.sampler import score
from chatglm3.engine.scheduler import Chunk
from chatglm3.engine.sequence import Sequence
from chatglm3.lora import LoraBatch
from chatglm3.model import ChatGLMModel

SCORED_ROWS = 64
"""Prompt positions whose logits are held at once while a prompt is scored: 16 MiB at 65k ids."""


class Runner:
    """Owns the model, its cache and the input buffers, which are allocated once."""

    def __init__(
        self,
        model: ChatGLMModel,
        cache: KVCache,
        block_tables: NDArray[np.int32],
        *,
        max_batch_tokens: int,
        valid_vocab: int,
    ) -> None:
        """block_tables: [rows, blocks], the scheduler's own array."""
        rows = len(block_tables)
        self.model = model
        self.cache = cache
        self._valid_vocab = valid_vocab
        self._block_tables = block_tables
        self._tokens = _Input((max_batch_tokens,), torch.int64, cache.device)
        self._positions = _Input((max_batch_tokens,), torch.int64, cache.device)
        self._slots = _Input((max_batch_tokens,), torch.int64, cache.device)
        self._query_starts = _Input((rows + 1,), torch.int32, cache.device)
        self._context_lens = _Input((rows,), torch.int32, cache.device)
        self._sent = torch.cuda.Event() if cache.device.type == "cuda" else None
        self._graphs = DecodeGraphs(self._decode, rows) if DecodeGraphs.wanted(model, cache) else None
        if self._graphs is not None:
            self._tables = torch.zeros(block_tables.shape, dtype=torch.int32, device=cache.device)

    def run(self, batch: list[Chunk]) -> Tensor | None:
        """Compute the chunks. Returns fp32 logits [rows, vocab] of those that sample, None without any.

        A chunk has one row for its last token, and one for each token of its draft. To be called in inference
        mode. Prompts that are to be scored get their `prompt_logprobs` extended.
        """
        with torch.cuda.device_of(self._tokens.device):  # which need not be the thread's own
            return self._run(batch)

    def _run(self, batch: list[Chunk]) -> Tensor | None:
        for sequence, _ in batch:
            if not sequence.prefix_written:
                self._write_prefix(sequence)
        lora = self._lora(batch)
        if self._graphs is not None and lora is None and all(_decodes(chunk) for chunk in batch):
            self._inputs(batch, places=self._graphs.size_for(len(batch)))
            return self._graphs.run(len(batch))
        hidden = self.model(*self._inputs(batch), lora)
        ends: list[int] = []
        start = 0
        for chunk in batch:
            if chunk.sequence.scores_prompt:
                self._score_prompt(chunk, hidden[start : start + chunk.length])
            start += chunk.length
            if chunk.samples:
                ends += range(start - 1 - len(chunk.sequence.draft), start)
        if not ends:
            return None
        if len(ends) < len(hidden):
            hidden = hidden[torch.tensor(ends, device=hidden.device)]
        return self.model.logits(hidden)

    def _inputs(self, batch: list[Chunk], places: int | None = None) -> tuple[Tensor, Tensor, AttentionBatch]:
        """places: fill the buffers up to so many tokens with such that have no place in the cache."""
        if self._sent is not None:
            self._sent.synchronize()  # the copies of the last step may still wait behind its work
        size = self.cache.block_size
        lengths = np.array([length for _, length in batch])
        rows = np.array([sequence.row for sequence, _ in batch])
        computed = np.array([sequence.computed for sequence, _ in batch])
        prefixes = np.array([sequence.prefix_length for sequence, _ in batch])
        total = int(lengths.sum())
        contexts = computed + lengths
        width = -(-int(contexts.max()) // size)

        tokens: list[int] = []
        for sequence, length in batch:
            first = sequence.computed - sequence.prefix_length
            tokens += sequence.tokens[first : first + length]
            tokens += sequence.draft
        if total == len(batch):  # everyone decodes: one entry each
            starts, owners, entries = np.arange(total), rows, computed
        else:
            starts = lengths.cumsum() - lengths
            owners = rows.repeat(lengths)
            entries = np.arange(total) + (computed - starts).repeat(lengths)
            prefixes = prefixes.repeat(lengths)
        blocks = self._block_tables[owners, entries // size].astype(np.int64)

        self._query_starts.host[: len(batch)] = starts
        self._query_starts.host[len(batch)] = total
        block_tables = torch.from_numpy(self._block_tables[rows, :width])
        if places is None:
            places, sequences = total, len(batch)
            block_tables = block_tables.to(self.cache.device)
        else:
            sequences = places
            self._query_starts.host[total : places + 1] = np.arange(total, places + 1)
            self._tables[: len(batch), :width] = block_tables
            block_tables = self._tables[:places]
        attention = AttentionBatch(
            cache=self.cache,
            slots=self._slots.fill(blocks * size + entries % size, places, padding=-1),
            query_starts=self._query_starts.send(sequences + 1),
            context_lens=self._context_lens.fill(contexts, sequences),
            block_tables=block_tables,
        )
        inputs = self._tokens.fill(tokens, places), self._positions.fill(entries - prefixes, places)
        if self._sent is not None:
            self._sent.record()
        return *inputs, attention

    def _decode(self, places: int) -> Tensor:
        """Logits [places, vocab] of one token for each of the first `places` rows of the buffers."""
        attention = AttentionBatch(
            cache=self.cache,
            slots=self._slots.device[:places],
            query_starts=self._query_starts.device[: places + 1],
            context_lens=self._context_lens.device[:places],
            block_tables=self._tables[:places],
        )
        hidden = self.model(self._tokens.device[:places], self._positions.device[:places], attention)
        return self.model.logits(hidden)

    def _lora(self, batch: list[Chunk]) -> LoraBatch | None:
        adapters = [sequence.adapter for sequence, _ in batch]
        loras = [adapter if isinstance(adapter, Lora) else None for adapter in adapters]
        return LoraBatch.build(loras, [length for _, length in batch], self.cache.device)

    def _write_prefix(self, sequence: Sequence) -> None:
        assert isinstance(sequence.adapter, Prefix)
        entries = np.arange(sequence.prefix_length)
        size = self.cache.block_size
        slots = self._block_tables[sequence.row, entries // size].astype(np.int64) * size + entries % size
        write_prefix(self.cache, torch.from_numpy(slots).to(self.cache.device), sequence.adapter)
        sequence.prefix_written = True

    def _score_prompt(self, chunk: Chunk, hidden: Tensor) -> None:
        """Score the tokens that follow those of the chunk. hidden: [length, hidden_size]."""
        sequence = chunk.sequence
        scores, top = sequence.prompt_logprobs, sequence.params.prompt_logprobs
        assert scores is not None
        assert top is not None
        first = sequence.computed - sequence.prefix_length + 1  # the token that hidden[0] predicts
        stop = min(first + chunk.length, sequence.prompt_length)
        # After a preemption some are there already.
        for start in range(len(scores), stop, SCORED_ROWS):
            targets = sequence.tokens[start : min(start + SCORED_ROWS, stop)]
            logits = self.model.logits(hidden[start - first : start - first + len(targets)])
            wanted = torch.tensor(targets, device=logits.device)
            scores += score(logits, wanted, [top] * len(targets), self._valid_vocab)


def _decodes(chunk: Chunk) -> bool:
    """Whether the chunk is one token whose logits are sampled, and nothing else is wanted of it."""
    return chunk.length == 1 and chunk.samples and not chunk.sequence.scores_prompt


class _Input:
    """A buffer that is filled on the host each step and read on the device; on a CPU both are one memory."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        on_host = torch.zeros(shape, dtype=dtype, pin_memory=on_cuda)
        self.host = on_host.numpy()
        self._on_host = on_host
        self.device = on_host if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self._asynchronous = on_cuda

    def fill(
        self, values: NDArray[np.integer] | list[int], places: int | None = None, *, padding: int = 0
    ) -> Tensor:
        """Write values from the beginning on, then `padding` up to `places`, and send them."""
        count = len(values)
        places = count if places is None else places
        self.host[:count] = values
        self.host[count:places] = padding
        return self.send(places)

    def send(self, count: int) -> Tensor:
        """The first `count` numbers, on the device. Valid until the next step."""
        if self.device is not self._on_host:
            self.device[:count].copy_(self._on_host[:count], non_blocking=self._asynchronous)
        return self.device[:count]
