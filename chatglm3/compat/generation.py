"""`generate` and the streams: options in transformers' words, tokens from the engine."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from chatglm3.compat.beams import beam_search
from chatglm3.compat.options import GenerationOptions
from chatglm3.compat.runtime import Runtime
from chatglm3.engine import SamplingParams
from chatglm3.errors import GenerationError, InvalidParameterError


def prompts_of(
    input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, pad_id: int
) -> list[list[int]]:
    """The rows of tokens [batch, length] without the padding on their left.

    Without a mask, padding ids at the start of a row are padding. Raises InvalidParameterError for masks and
    positions that generation cannot follow: a row is one piece, and its positions count from 0.
    """
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise InvalidParameterError(
            f"input_ids has shape {tuple(input_ids.shape)}; it must be [batch, length]"
        )
    if attention_mask is None:
        attention_mask = (input_ids != pad_id).long().cummax(dim=1).values
    for name, given in (("attention_mask", attention_mask), ("position_ids", position_ids)):
        if given is not None and given.shape != input_ids.shape:
            raise InvalidParameterError(
                f"{name} has shape {tuple(given.shape)}, but input_ids has {tuple(input_ids.shape)}"
            )
    mask = attention_mask != 0
    if not mask[:, -1].all():
        raise InvalidParameterError(
            "a row of the batch ends in padding; generation takes padding on the left only"
        )
    if (mask[:, :-1] & ~mask[:, 1:]).any():
        raise InvalidParameterError("attention_mask has holes; generation takes padding on the left only")
    if position_ids is not None and not (position_ids == mask.cumsum(dim=1) - 1)[mask].all():
        raise InvalidParameterError(
            "position_ids do not count each row from 0; generation has no other positions"
        )
    return [row[keep].tolist() for row, keep in zip(input_ids, mask)]


def answers(
    runtime: Runtime, prompts: list[list[int]], width: int, options: GenerationOptions
) -> list[list[int]]:
    """Continuations of all prompts, num_return_sequences of each, stop ids included.

    width: what max_length counts as the length of the prompts.
    """
    config = runtime.config
    stop_ids = options.stop_ids(config.eos_token_ids)
    new = options.new_tokens(width, max(map(len, prompts)), config.max_seq_len)
    if options.num_beams > 1:
        model, prefix = runtime.model, runtime.prefix
        return [
            ids
            for prompt in prompts
            for ids in beam_search(
                model,
                prefix,
                prompt,
                num_beams=options.num_beams,
                max_new_tokens=new,
                stop_ids=stop_ids,
                length_penalty=options.length_penalty,
                early_stopping=options.early_stopping,
            )[: options.num_return_sequences]
        ]
    params = [options.sampling(new, stop_ids) for _ in prompts]
    completions = [c for own in runtime.engine.generate(prompts, params) for c in own]
    for completion in completions:
        if completion.error is not None:
            raise GenerationError(completion.error)
    return [completion.ids for completion in completions]


def stream(
    runtime: Runtime, prompts: list[list[int]], width: int, options: GenerationOptions
) -> Iterator[int]:
    """The continuation of a single prompt, token by token, stop id included. Bad arguments raise at once."""
    if len(prompts) > 1 or options.num_return_sequences > 1 or options.num_beams > 1:
        raise InvalidParameterError("only one sequence can be streamed, and without beams")
    config = runtime.config
    new = options.new_tokens(width, len(prompts[0]), config.max_seq_len)
    params = options.sampling(new, options.stop_ids(config.eos_token_ids))
    return _tokens(runtime, prompts[0], params)


def _tokens(runtime: Runtime, prompt: list[int], params: SamplingParams) -> Iterator[int]:
    for output in runtime.engine.stream(prompt, params):
        if output.error is not None:
            raise GenerationError(output.error)
        if output.token is not None:
            yield output.token


def padded(input_ids: Tensor, continuations: list[list[int]], copies: int, pad_id: int) -> Tensor:
    """Rows [batch, length], each `copies` times, and their continuations, filled up with pad_id."""
    width = max(map(len, continuations))
    rows = [ids + [pad_id] * (width - len(ids)) for ids in continuations]
    new = torch.tensor(rows, dtype=input_ids.dtype, device=input_ids.device)
    return torch.cat((input_ids.repeat_interleave(copies, dim=0), new), dim=1)
