"""One answer on its way: its tokens, its blocks, and how far its keys and values are computed."""

from __future__ import annotations

from collections.abc import Hashable

from chatglm3.adapters import Adapter
from chatglm3.engine.cache import Link
from chatglm3.engine.output import TokenLogprob
from chatglm3.engine.request import SamplingParams
from chatglm3.engine.sampler import SamplingState
from chatglm3.engine.speculation import PromptLookup


class Sequence:
    """Prompt and answer of one of a request's n answers.

    Cache entries count what lies in the sequence's blocks: first the `prefix_length` positions of a P-Tuning
    prefix (not tokens, no position), then one for each token. Entry = prefix_length + token index.
    """

    __slots__ = (
        "adapter", "block_table", "cached_tokens", "computed", "draft", "index", "last_served", "link",
        "lookup", "max_length", "namespace", "params", "prefix_length", "prefix_written", "prompt_length",
        "prompt_logprobs", "registered", "request_id", "row", "sampling", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        request_id: int,
        index: int,
        prompt: list[int],
        params: SamplingParams,
        sampling: SamplingState,
        *,
        max_length: int,
        adapter: Adapter | None = None,
        prefix_length: int = 0,
        namespace: Hashable = None,
    ) -> None:
        """max_length: tokens, prompt included, at which it ends; namespace: the adapter's identity."""
        self.request_id = request_id
        self.index = index
        self.params = params
        self.sampling = sampling
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        self.max_length = max_length
        self.adapter = adapter
        self.prefix_length = prefix_length
        self.namespace = namespace
        wanted = params.prompt_logprobs is not None and index == 0  # once for all n answers
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if wanted else None
        # The rest belongs to the scheduler.
        self.block_table: list[int] = []
        self.row = -1
        """Row of the batch's block tables while running."""
        self.computed = 0
        """Cache entries whose keys and values are there."""
        self.cached_tokens = 0
        """Tokens that its last admission found in the cache."""
        self.prefix_written = False
        self.registered = 0
        """Blocks, from the first, that others can find by their content."""
        self.link: Link = None
        """Names the content of the registered blocks."""
        self.last_served = -1
        """Orders prompts by whose turn it is."""
        self.lookup = PromptLookup()
        self.draft: list[int] = []
        """Tokens that may come next, which the current step computes behind the last one to find out."""

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sequences by age."""
        return (self.request_id, self.index)

    @property
    def entries(self) -> int:
        """Cache entries that prefix and tokens need in all."""
        return self.prefix_length + len(self.tokens)

    @property
    def remaining(self) -> int:
        """Tokens to be computed before the next one can be sampled; 1 while decoding."""
        return self.prefix_length + len(self.tokens) - self.computed

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still wanting, so that its logits must be computed."""
        return self.prompt_logprobs is not None and len(self.prompt_logprobs) < self.prompt_length

    def content(self, block: int, block_size: int) -> list[int]:
        """Tokens of the block_table's nth block; fewer than block_size where a prefix fills part of it."""
        first = block * block_size - self.prefix_length
        return self.tokens[max(first, 0) : max(first + block_size, 0)]
