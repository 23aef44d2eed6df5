"""Which tokens of which sequences the next step computes: continuous batching with chunked prefill.

Decodes come first, one token each. What is left of the step's token budget goes to prompts in quanta, least
recently served first, so that neither a long prompt nor a flood of short ones makes the others wait for all
of it. A sequence is admitted, oldest first, only when blocks for all its tokens are there; blocks for its
answer are taken one by one, and when none is left the newest sequence gives its own back and is computed
again later.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatglm3.engine.cache import BlockPool, blocks_for
from chatglm3.engine.sequence import Sequence
from chatglm3.engine.speculation import Speculation

QUANTA = 4
"""At least so many prompts share a step's budget while more of them wait."""


class Chunk(NamedTuple):
    """A part of a step: the next `length` tokens of one sequence, those of its draft included."""

    sequence: Sequence
    length: int

    @property
    def samples(self) -> bool:
        """Whether a new token follows from it: the chunk reaches the last token so far."""
        return self.length >= self.sequence.remaining


class Scheduler:
    """Sequences waiting and running, oldest first, and the blocks of those that run."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        max_entries: int,
        speculation: Speculation,
    ) -> None:
        """max_sequences: rows that run at once, at most max_batch_tokens; max_entries: longest sequence."""
        self.pool = pool
        self.max_batch_tokens = max_batch_tokens
        self.speculation = speculation
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.block_tables: NDArray[np.int32] = np.zeros(
            (max_sequences, blocks_for(max_entries, pool.block_size)), dtype=np.int32
        )
        """The block table of the sequence in each row, kept up to date block by block."""
        self.preemptions = 0
        self.prefix_queries = 0
        """Tokens of admitted sequences, computed or found."""
        self.prefix_hits = 0
        """Those of them that were found in the cache."""
        self._free_rows = list(range(max_sequences - 1, -1, -1))
        self._turns = 0
        self._refused: tuple[Sequence, int] | None = None

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn, in order of age."""
        insort(self.waiting, sequence, key=lambda s: s.order)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence; its blocks are free at once."""
        if sequence.row >= 0:
            self.running.remove(sequence)
            self._detach(sequence)
        else:
            self.waiting.remove(sequence)

    def next_batch(self) -> list[Chunk]:
        """The chunks of the next step: decodes, then prompts. Not empty while any sequence is left."""
        preemptions = self.preemptions
        batch = []
        for sequence in tuple(self.running):
            sequence.draft = []
            # One that ran until now may have been preempted for an older one.
            if sequence.row >= 0 and sequence.remaining == 1 and self._make_room(sequence):
                batch.append(Chunk(sequence, 1))
        budget = self.max_batch_tokens - len(batch)
        if budget and (self.waiting or len(batch) < len(self.running)):
            may_admit = preemptions == self.preemptions
            prompts = self._share(budget, may_admit)
            if prompts:  # a step that computes prompts has no time to spare for guesses
                return batch + prompts
        return [Chunk(sequence, 1 + self._draft(sequence, len(batch))) for sequence, _ in batch]

    def commit(self, batch: list[Chunk]) -> None:
        """Take note that a step has computed its chunks. Drafts in them count when they are accepted."""
        for sequence, length in batch:
            self._advance(sequence, length - len(sequence.draft))

    def accept(self, sequence: Sequence) -> None:
        """Take note that a sequence's last token was in its draft, so that it is computed already."""
        self._advance(sequence, 1)

    def check(self) -> None:
        """Recount all blocks and rows. Raises AssertionError where the books do not agree."""
        self.pool.check(sequence.block_table for sequence in self.running)
        rows = [sequence.row for sequence in self.running]
        if sorted(rows + self._free_rows) != list(range(len(self.block_tables))):
            raise AssertionError("rows of the block tables are lost or given twice")
        for sequence in self.running:
            mirrored = self.block_tables[sequence.row, : len(sequence.block_table)].tolist()
            if mirrored != sequence.block_table or len(mirrored) * self.pool.block_size < sequence.computed:
                raise AssertionError(f"the block table of sequence {sequence.order} is wrong")
        if any(sequence.row >= 0 or sequence.block_table for sequence in self.waiting):
            raise AssertionError("a waiting sequence holds blocks")

    def _share(self, budget: int, may_admit: bool) -> list[Chunk]:
        """Spend the budget on prompts."""
        quantum = max(1, self.max_batch_tokens // QUANTA)
        prompts = [sequence for sequence in self.running if sequence.remaining > 1]
        prompts.sort(key=lambda sequence: sequence.last_served)
        shares: dict[Sequence, int] = {}

        def give(sequence: Sequence, most: int) -> int:
            share = shares.get(sequence, 0)
            extra = min(sequence.remaining - share, most, budget)
            if extra:
                shares[sequence] = share + extra
                self._turns += 1
                sequence.last_served = self._turns
            return budget - extra

        # A newcomer first: however many long prompts are under way, a short one starts at once.
        if may_admit and (newcomer := self._admit()):
            prompts.insert(0, newcomer)
        for sequence in prompts:
            budget = give(sequence, quantum)
        # Later admissions find more of their prefix in the cache, so no more than this step can serve.
        while budget and may_admit and (newcomer := self._admit()):
            prompts.append(newcomer)
            budget = give(newcomer, quantum)
        for sequence in prompts:
            budget = give(sequence, budget)
        return [Chunk(sequence, share) for sequence, share in shares.items()]

    def _admit(self) -> Sequence | None:
        """Let the oldest waiting sequence run, if a row and enough blocks are left."""
        if not self.waiting or not self._free_rows:
            return None
        sequence = self.waiting[0]
        if self._refused == (sequence, self.pool.releases):
            return None
        size = self.pool.block_size
        # The last token is always computed, for its logits; so is all of a prompt that is to be scored.
        reusable = 0 if sequence.scores_prompt else (sequence.entries - 1) // size
        contents = (sequence.content(block, size) for block in range(reusable))
        blocks, link = self.pool.match(self.pool.root(sequence.namespace), contents)
        wanted = blocks_for(sequence.entries, size) - len(blocks)
        # A block in reserve for each running sequence: not to be preempted for their next tokens at once.
        if self.pool.available < wanted + len(self.running):
            self.pool.release(blocks)
            self._refused = (sequence, self.pool.releases)
            return None
        self.waiting.pop(0)
        insort(self.running, sequence, key=lambda s: s.order)
        sequence.row = self._free_rows.pop()
        sequence.registered = len(blocks)
        sequence.link = link
        found = len(blocks) * size
        sequence.computed = max(found, sequence.prefix_length)
        sequence.cached_tokens = sequence.computed - sequence.prefix_length
        sequence.prefix_written = found >= sequence.prefix_length
        self._attach(sequence, blocks + [self.pool.allocate() for _ in range(wanted)])
        self.prefix_queries += len(sequence.tokens)
        self.prefix_hits += sequence.cached_tokens
        return sequence

    def _advance(self, sequence: Sequence, count: int) -> None:
        """Count entries as computed, and let full blocks be found by their content."""
        size = self.pool.block_size
        sequence.computed += count
        while (sequence.registered + 1) * size <= sequence.computed:
            block = sequence.registered
            content = sequence.content(block, size)
            sequence.link = self.pool.register(sequence.block_table[block], sequence.link, content)
            sequence.registered += 1

    def _draft(self, sequence: Sequence, rows: int) -> int:
        """Give a sequence that decodes a draft, if one pays among `rows` of them. Returns its length."""
        most = min(
            self.speculation.longest,
            self.max_batch_tokens // rows - 1,
            sequence.max_length - len(sequence.tokens) - 1,  # the token after the draft is chosen as well
        )
        if most < 1:
            return 0
        draft = sequence.lookup.draft(sequence.tokens, most, self.speculation.least_chance(rows))
        # No draft takes the blocks that the running sequences need next.
        size = self.pool.block_size
        spare = max(0, self.pool.available - len(self.running))
        del draft[(len(sequence.block_table) + spare) * size - sequence.computed - 1 :]
        wanted = blocks_for(sequence.computed + 1 + len(draft), size) - len(sequence.block_table)
        self._attach(sequence, [self.pool.allocate() for _ in range(wanted)])
        sequence.draft = draft
        return len(draft)

    def _make_room(self, sequence: Sequence) -> bool:
        """A place for one more entry, if need be the newest sequence's. False if that was this one itself."""
        if sequence.computed < len(sequence.block_table) * self.pool.block_size:
            return True
        while not self.pool.available:
            newest = self.running[-1]
            self._preempt(newest)
            if newest is sequence:
                return False
        self._attach(sequence, [self.pool.allocate()])
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's blocks away. Its tokens stay, so its keys and values can be computed again."""
        self.preemptions += 1
        self.running.remove(sequence)
        self._detach(sequence)
        self.add(sequence)

    def _attach(self, sequence: Sequence, blocks: list[int]) -> None:
        start = len(sequence.block_table)
        sequence.block_table += blocks
        self.block_tables[sequence.row, start : start + len(blocks)] = blocks

    def _detach(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_table)
        self._free_rows.append(sequence.row)
        sequence.block_table = []
        sequence.row = -1
        sequence.computed = 0
        sequence.registered = 0
