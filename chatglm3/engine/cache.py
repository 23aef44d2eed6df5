"""The pool of cache blocks: who holds which, and what their contents can be reused for.

The keys and values themselves lie in `attention.KVCache`; here are only block numbers. A block that is full
is remembered under the pair (what came before it, its own tokens), so a chain of such pairs spells a whole
prefix, as in vLLM's automatic prefix caching. "What came before" is a link: a number given to one content
once and never again. A dict compares the pair itself, not only its hash, so by induction along the chain a
collision of hashes can never hand out a block of other tokens.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

Link = Hashable
"""Names everything before a block: `root(namespace)` before the first, else what `register` gave."""


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold so many cache entries."""
    return math.ceil(tokens / block_size)


class BlockPool:
    """Counts references to blocks and finds those that already hold a prefix.

    A block is *used* (some sequence holds it), *cached* (no one holds it, but its content can be found again)
    or *free*. `allocate` takes free blocks first, then the least recently used cached one.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.releases = 0
        """How often blocks came back: what did not fit need not be tried again before this moves."""
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._index: dict[tuple[Link, tuple[int, ...]], int] = {}
        self._keys: list[tuple[Link, tuple[int, ...]] | None] = [None] * num_blocks
        self._links = [0] * num_blocks
        self._last_link = 0

    @property
    def available(self) -> int:
        """Blocks that `allocate` can still give."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        """Unheld blocks whose content can be found again."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks held by some sequence."""
        return self.num_blocks - self.available

    @staticmethod
    def root(namespace: Hashable) -> Link:
        """The link before a first block. Blocks of different namespaces (adapters) are never shared."""
        return ("root", namespace)

    def match(self, link: Link, contents: Iterable[Sequence[int]]) -> tuple[list[int], Link]:
        """The longest run of blocks that already hold these contents: ids, block by full block.

        Takes a reference to each block found. Returns them with the link that follows the last.
        """
        found: list[int] = []
        if self.prefix_caching:
            for content in contents:
                block = self._index.get((link, tuple(content)))
                if block is None:
                    break
                self._hold(block)
                found.append(block)
                link = self._links[block]
        return found, link

    def allocate(self) -> int:
        """A block for one sequence to write. Call only while `available` is above 0."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def register(self, block: int, link: Link, content: Sequence[int]) -> Link:
        """Let a full, computed block be found under its content. Returns the link for the block after it.

        Where another block already holds the same content that one stays the known one.
        """
        if not self.prefix_caching:
            return link
        key = (link, tuple(content))
        known = self._index.get(key)
        if known is None:
            known = self._index[key] = block
            self._keys[block] = key
            self._last_link += 1
            self._links[block] = self._last_link
        return self._links[known]

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each block of a sequence, in the order of its tokens."""
        self.releases += 1
        # Last block first: the end of a prefix is evicted before its beginning, without which it is useless.
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._keys[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Recount everything from the block tables in use. Raises AssertionError on any difference."""
        counts = [0] * self.num_blocks
        for table in tables:
            if len(set(table)) != len(table):
                raise AssertionError(f"a sequence holds a block twice: {table}")
            for block in table:
                counts[block] += 1
        if counts != self._references:
            wrong = [b for b in range(self.num_blocks) if counts[b] != self._references[b]]
            raise AssertionError(
                f"blocks {wrong} have other reference counts than the sequences that hold them"
            )
        unheld = sorted([*self._free, *self._cached])
        if unheld != [block for block in range(self.num_blocks) if counts[block] == 0]:
            raise AssertionError("free, cached and used blocks do not add up to the pool")
        if any(self._keys[block] is not None for block in self._free):
            raise AssertionError("a block that can be found again is listed as free")
        if any(self._keys[block] is None for block in self._cached):
            raise AssertionError("a block that cannot be found again is listed as cached")
        known = {key: block for block, key in enumerate(self._keys) if key is not None}
        if known != self._index:
            raise AssertionError("the index of contents differs from the blocks' own keys")

    def _hold(self, block: int) -> None:
        if self._references[block] == 0:
            del self._cached[block]
        self._references[block] += 1

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        assert key is not None
        del self._index[key]
        self._keys[block] = None
