"""The only generation loop: requests in, tokens out, many at once.

One step is: the scheduler picks chunks, the runner computes them, the sampler chooses tokens, and the
outcome is booked. An Engine belongs to one thread: no method may run while another one does. `submit` and
`abort` are cheap and meant to be called between two steps, for instance by a server that hands them over to
the thread in which it steps.
"""

from __future__ import annotations

from collections import abc, deque
from dataclasses import dataclass
from itertools import accumulate, count

import torch

from chatglm3.adapters import Adapter, Prefix
from chatglm3.attention import KVCache
from chatglm3.engine.adapters import adapter_table, check_adapter, prefix_length
from chatglm3.engine.cache import BlockPool, blocks_for
from chatglm3.engine.output import Completion, FinishReason, Stats, TokenOutput, collect
from chatglm3.engine.request import SamplingParams
from chatglm3.engine.runner import Runner
from chatglm3.engine.sampler import Sampled, Sampler, SamplingState
from chatglm3.engine.scheduler import Scheduler
from chatglm3.engine.sequence import Sequence
from chatglm3.engine.speculation import Speculation
from chatglm3.errors import InvalidParameterError, PromptTooLongError
from chatglm3.fused import fuse
from chatglm3.fused_cuda import fuse as fuse_cuda
from chatglm3.model import ChatGLMModel


@dataclass(eq=False)
class _Request:
    """The answers of one submit that are still to come."""

    active: list[Sequence]
    forks: list[Sequence]
    """Answers 1 .. n-1, held back until the prompt's blocks are in the prefix cache."""


class Engine:
    """Generates token ids for many requests at once over one model and one paged cache.

    The cache is allocated here and never grows. Give its size as `num_blocks` or as `cache_bytes`; without
    either it holds one sequence of the model's full context.

    Args:
        model: on the device and in the dtype in which it shall run.
        int8_cache: hold keys and values in 8 bits, about half the memory; see `attention.KVCache`.
        block_size: tokens in a block, the unit of allocation and of prefix reuse.
        max_batch_tokens: most tokens that one step computes; more make prompts faster and others wait longer.
        max_sequences: most answers that run at once; others wait.
        prefix: a P-Tuning v2 prefix that belongs to the model, in front of every sequence.
        adapters: by the names under which requests choose them (`SamplingParams.adapter`).
        default_adapter: name of the one that answers requests which name none.
        prefix_caching: reuse blocks of equal prefixes.
        valid_vocab: ids from here on are never sampled (`Tokenizer.vocab_size`); by default all may be.
        speculate: most tokens of an answer that are drafted ahead of it (see `engine.speculation`); 0: none.
        row_cost: what a token more adds to a decoding step, as a share of a step with one; drafts weigh it.
    """

    def __init__(
        self,
        model: ChatGLMModel,
        *,
        num_blocks: int | None = None,
        cache_bytes: int | None = None,
        int8_cache: bool = False,
        block_size: int = 16,
        max_batch_tokens: int = 512,
        max_sequences: int = 64,
        prefix: Prefix | None = None,
        adapters: abc.Mapping[str, Adapter] | None = None,
        default_adapter: str | None = None,
        prefix_caching: bool = True,
        valid_vocab: int | None = None,
        speculate: int = 0,
        row_cost: float = 0.05,
    ) -> None:
        config = model.config
        weight = next(model.layers.parameters())  # of a norm, which no scheme quantizes
        dtype, device = weight.dtype, weight.device
        self._adapters = adapter_table(prefix, adapters or {}, default_adapter, device, dtype)
        longest_prefix = max(map(prefix_length, self._adapters.values()))
        if num_blocks is not None and cache_bytes is not None:
            raise InvalidParameterError(
                "num_blocks and cache_bytes both give the cache's size; leave one out"
            )
        for name, value in (("block_size", block_size), ("max_sequences", max_sequences)):
            if value < 1:
                raise InvalidParameterError(f"{name} is {value}, but must be at least 1")
        if speculate < 0:
            raise InvalidParameterError(f"speculate is {speculate}, but counts tokens; 0 turns it off")
        if not 0 < row_cost < 1:
            raise InvalidParameterError(f"row_cost is {row_cost}, but must lie between 0 and 1")
        if max_batch_tokens < max_sequences:
            raise InvalidParameterError(
                f"max_batch_tokens is {max_batch_tokens}, but each of max_sequences={max_sequences} "
                "running answers needs one token a step; raise it or lower max_sequences"
            )
        bytes_per_block = block_size * KVCache.bytes_per_token(config, dtype, int8=int8_cache)
        if cache_bytes is not None:
            num_blocks = cache_bytes // bytes_per_block
        elif num_blocks is None:
            num_blocks = blocks_for(longest_prefix + config.max_seq_len, block_size)
        if num_blocks * block_size < longest_prefix + 2:
            raise InvalidParameterError(
                f"a cache of {num_blocks} blocks (one takes {bytes_per_block} bytes) has no room for "
                f"{longest_prefix} prefix positions and 2 tokens; raise num_blocks or cache_bytes"
            )
        if valid_vocab is None:
            valid_vocab = config.vocab_size
        if not 1 <= valid_vocab <= config.vocab_size:
            raise InvalidParameterError(
                f"valid_vocab is {valid_vocab}, but the model's output layer has {config.vocab_size} rows"
            )
        self.model = model
        self.config = config
        self.valid_vocab = valid_vocab
        self.max_context = min(config.max_seq_len, num_blocks * block_size - longest_prefix)
        """Longest sequence in tokens: what the model was trained for, or less where the cache is smaller."""
        self._pool = BlockPool(num_blocks, block_size, prefix_caching=prefix_caching)
        self._scheduler = Scheduler(
            self._pool,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            max_entries=longest_prefix + self.max_context,
            speculation=Speculation(speculate, row_cost),
        )
        (fuse_cuda if device.type == "cuda" else fuse)(model)
        cache = KVCache(config, num_blocks, block_size, dtype, device, int8=int8_cache)
        self.cache_bytes = cache.nbytes
        """Memory that the keys and values take."""
        self._runner = Runner(
            model,
            cache,
            self._scheduler.block_tables,
            max_batch_tokens=max_batch_tokens,
            valid_vocab=valid_vocab,
        )
        self._sampler = Sampler(valid_vocab, device)
        self._requests: dict[int, _Request] = {}
        self._inboxes: dict[int, deque[TokenOutput]] = {}
        """Outputs for `stream` and `generate`, which may run interleaved and step for each other."""
        self._outbox: list[TokenOutput] = []
        """Outputs for the next `step`."""
        self._last_id = -1
        self._prompt_tokens = self._generated_tokens = self._computed_tokens = self._steps = 0
        self._drafted_tokens = self._accepted_tokens = 0

    def submit(self, ids: abc.Sequence[int], params: SamplingParams | None = None) -> int:
        """Queue a prompt; returns the request's id, under which `step` reports its tokens.

        Raises PromptTooLongError for a prompt that could never run, InvalidParameterError for unknown ids.
        """
        params = params or SamplingParams()
        return self._enqueue(self.check_request(ids, params), params)

    def step(self) -> list[TokenOutput]:
        """Compute the next tokens. Returns the new outputs of all requests made by `submit`.

        If the model raises, nothing is lost: the same work is tried again in the next step.
        """
        self._advance()
        outputs, self._outbox = self._outbox, []
        return outputs

    def abort(self, request_id: int, index: int | None = None) -> bool:
        """End a request, or one of its answers: its blocks are free at once.

        The next `step` reports "abort" for each answer that was open. Returns False if there was none.
        """
        request = self._requests.get(request_id)
        ended = [
            sequence
            for sequence in (request.active + request.forks if request else ())
            if index is None or sequence.index == index
        ]
        for sequence in ended:
            self._emit(TokenOutput(request_id, sequence.index, None, finish_reason="abort"))
            self._end(sequence)
        return bool(ended)

    @property
    def running(self) -> set[int]:
        """Ids of the requests that take part in steps; those that still wait are not among them."""
        return {sequence.request_id for sequence in self._scheduler.running}

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to compute or to report."""
        return bool(self._requests or self._outbox)

    def stream(
        self, ids: abc.Sequence[int], params: SamplingParams | None = None
    ) -> abc.Iterator[TokenOutput]:
        """Yield the outputs of one prompt as they come. Closing the iterator aborts the request.

        The prompt is checked now, and submitted when the first output is asked for.
        """
        params = params or SamplingParams()
        return self._receive(self.check_request(ids, params), params)

    def generate(
        self,
        prompts: abc.Sequence[abc.Sequence[int]],
        params: SamplingParams | abc.Sequence[SamplingParams] | None = None,
    ) -> list[list[Completion]]:
        """Answer all prompts together. Returns n completions for each prompt, in the prompts' order.

        params: for all prompts, or one for each.
        """
        return list(self.generate_each(prompts, params))

    def generate_each(
        self,
        prompts: abc.Sequence[abc.Sequence[int]],
        params: SamplingParams | abc.Sequence[SamplingParams] | None = None,
    ) -> abc.Iterator[list[Completion]]:
        """Like `generate`, but yields a prompt's completions as soon as they and those before are complete.

        All prompts are checked now. Closing the iterator aborts what is left.
        """
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise InvalidParameterError(
                f"{len(prompts)} prompts have {len(params)} sampling parameters; give one each"
            )
        checked = [self.check_request(ids, own) for ids, own in zip(prompts, params)]  # all or none
        return self._collect_each(checked, params)

    @property
    def stats(self) -> Stats:
        """Gauges and counters, cheap enough to read after every step."""
        pool, scheduler = self._pool, self._scheduler
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + sum(len(request.forks) for request in self._requests.values()),
            blocks_used=pool.used,
            blocks_cached=pool.cached,
            blocks_free=pool.available - pool.cached,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            computed_tokens=self._computed_tokens,
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            preemptions=scheduler.preemptions,
            steps=self._steps,
        )

    @property
    def adapters(self) -> list[str]:
        """Names that `SamplingParams.adapter` may have."""
        return [name for name in self._adapters if name is not None]

    def adapter(self, name: str | None = None) -> Adapter | None:
        """What answers requests that name this adapter, or none. Raises InvalidParameterError."""
        check_adapter(name, self._adapters)
        return self._adapters[name]

    def check(self) -> None:
        """Recount every block and every sequence. Raises AssertionError where the books do not agree."""
        self._scheduler.check()
        scheduled = {sequence.order for sequence in self._scheduler.running + self._scheduler.waiting}
        if scheduled != {
            sequence.order for request in self._requests.values() for sequence in request.active
        }:
            raise AssertionError("the scheduler and the open requests hold different sequences")

    def check_request(self, ids: abc.Sequence[int], params: SamplingParams) -> list[int]:
        """The prompt as `submit` takes it, or what `submit` would raise.

        It reads only what never changes, so any thread may call it at any time.
        """
        prompt = list(ids)
        vocab_size = self.config.vocab_size
        if not prompt:
            raise InvalidParameterError("the prompt has no tokens; the shortest one is [gMASK] sop")
        for token in prompt:
            if type(token) is not int or not 0 <= token < vocab_size:
                raise InvalidParameterError(
                    f"the prompt has {token!r}, but this model's ids are integers from 0 to {vocab_size - 1}"
                )
        if len(prompt) > self.max_context:
            if self.max_context == self.config.max_seq_len:
                limit, remedy = "the model's context is", "shorten it"
            else:
                limit, remedy = "the cache holds sequences of", "shorten it or give the cache more memory"
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and {limit} {self.max_context}; {remedy}"
            )
        params.check_vocabulary(vocab_size, self.valid_vocab)
        self.adapter(params.adapter)
        return prompt

    def _enqueue(self, prompt: list[int], params: SamplingParams) -> int:
        self._last_id += 1
        # Even after a full context one token can be predicted: it is not fed back, and needs no place.
        budget = max(1, self.max_context - len(prompt))
        if params.max_tokens is not None:
            budget = min(budget, params.max_tokens)
        device = self._sampler.device
        adapter = self._adapters[params.adapter]
        sequences = [
            Sequence(
                self._last_id,
                index,
                prompt,
                params,
                SamplingState(params, prompt, index, self.valid_vocab, device),
                max_length=len(prompt) + budget,
                adapter=adapter,
                prefix_length=prefix_length(adapter),
                namespace=adapter,
            )
            for index in range(params.n)
        ]
        self._requests[self._last_id] = _Request(active=sequences[:1], forks=sequences[1:])
        self._scheduler.add(sequences[0])
        self._prompt_tokens += len(prompt)
        return self._last_id

    @torch.inference_mode()
    def _advance(self) -> None:
        """One step: pick, compute, choose, book."""
        batch = self._scheduler.next_batch()
        if not batch:
            return
        sampling = [chunk.sequence for chunk in batch if chunk.samples]
        states = [sequence.sampling for sequence in sampling]
        self._sampler.prepare(states)
        logits = self._runner.run(batch)
        rows = list(accumulate((1 + len(sequence.draft) for sequence in sampling), initial=0))[:-1]
        choices: list[Sampled] = []
        if logits is not None:
            choices = self._sampler.sample(logits if len(rows) == len(logits) else logits[rows], states)
        self._scheduler.commit(batch)
        self._steps += 1
        self._computed_tokens += sum(chunk.length for chunk in batch)
        self._drafted_tokens += sum(len(sequence.draft) for sequence in sampling)
        # An answer whose choice was the next token of its draft has the logits of one more token already.
        for depth in count():
            agreeing = []
            for sequence, row, choice in zip(sampling, rows, choices):
                draft = sequence.draft
                agrees = draft[depth : depth + 1] == [choice.token]
                self._accepted_tokens += agrees
                if not self._book(sequence, choice) and agrees:
                    self._scheduler.accept(sequence)
                    agreeing.append((sequence, row + 1))
                elif draft:
                    sequence.lookup.learn(len(draft), depth + agrees)
            if not agreeing:
                return
            assert logits is not None
            sampling, rows = [sequence for sequence, _ in agreeing], [row for _, row in agreeing]
            states = [sequence.sampling for sequence in sampling]
            self._sampler.prepare(states)
            choices = self._sampler.sample(logits[rows], states)

    def _book(self, sequence: Sequence, choice: Sampled) -> bool:
        """Add a chosen token to its answer, and end the answer where it ends. Returns whether it did."""
        token, logprob, error = choice
        params = sequence.params
        reason: FinishReason | None = None
        cached = sequence.cached_tokens if len(sequence.tokens) == sequence.prompt_length else None
        if len(sequence.tokens) >= sequence.max_length:  # max_tokens=0
            token, logprob, reason, error = None, None, "length", None
        elif token is None:
            reason = "error"
        else:
            sequence.tokens.append(token)
            ended = sequence.sampling.observe(token)
            self._generated_tokens += 1
            if ended or token in params.stop_ids:
                reason = "stop"
            elif len(sequence.tokens) >= sequence.max_length:
                reason = "length"
        prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, None
        request_id = sequence.request_id
        self._emit(
            TokenOutput(request_id, sequence.index, token, logprob, reason, error, prompt_logprobs, cached)
        )
        self._release_forks(self._requests[request_id])  # the prompt's blocks can be found now
        if reason is not None:
            self._end(sequence)
        return reason is not None

    def _end(self, sequence: Sequence) -> None:
        """Forget an answer, and with the last one its request."""
        request = self._requests[sequence.request_id]
        if sequence in request.forks:
            request.forks.remove(sequence)
        else:
            self._scheduler.remove(sequence)
            request.active.remove(sequence)
        if not request.active:
            self._release_forks(request)
        if not request.active:
            del self._requests[sequence.request_id]

    def _release_forks(self, request: _Request) -> None:
        for fork in request.forks:
            self._scheduler.add(fork)
        request.active += request.forks
        request.forks = []

    def _emit(self, output: TokenOutput) -> None:
        inbox = self._inboxes.get(output.request_id)
        (self._outbox if inbox is None else inbox).append(output)

    def _open(self, prompt: list[int], params: SamplingParams) -> int:
        """Queue a checked prompt, with an inbox of its own for the outputs."""
        request_id = self._enqueue(prompt, params)
        self._inboxes[request_id] = deque()
        return request_id

    def _close(self, request_id: int) -> None:
        """Forget a request that has an inbox, finished or not."""
        self._drop(request_id)
        del self._inboxes[request_id]

    def _drop(self, request_id: int) -> None:
        """Free what a request still holds."""
        request = self._requests.pop(request_id, None)
        for sequence in request.active if request else ():
            self._scheduler.remove(sequence)

    def _collect_each(
        self, prompts: list[list[int]], params: abc.Sequence[SamplingParams]
    ) -> abc.Iterator[list[Completion]]:
        requests = [self._open(prompt, own) for prompt, own in zip(prompts, params)]
        try:
            for request_id in requests:
                while request_id in self._requests:
                    self._advance()
                yield collect(self._inboxes[request_id])
        finally:
            for request_id in requests:
                self._close(request_id)

    def _receive(self, prompt: list[int], params: SamplingParams) -> abc.Iterator[TokenOutput]:
        request_id = self._open(prompt, params)
        inbox = self._inboxes[request_id]
        try:
            while inbox or request_id in self._requests:
                if inbox:
                    yield inbox.popleft()
                else:
                    self._advance()
        finally:
            self._close(request_id)
