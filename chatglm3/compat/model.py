"""`AutoModel`: the calls of the published `ChatGLMForConditionalGeneration`, on our model and engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from chatglm3 import loading
from chatglm3.compat.config import ChatGLMConfig
from chatglm3.compat.folders import find_folder
from chatglm3.compat.generation import answers, padded, prompts_of, stream
from chatglm3.compat.options import GenerationOptions
from chatglm3.compat.replies import History, ReplyReader, Response, Turn, extended, read_text
from chatglm3.compat.runtime import Placement, PrefixEncoder, Runtime
from chatglm3.compat.scoring import CausalLMOutput, loss_of, score
from chatglm3.compat.tokenizer import ChatGLMTokenizer
from chatglm3.config import ModelConfig
from chatglm3.errors import InvalidParameterError
from chatglm3.prompt import conversation, render

CHAT_DEFAULTS = {"max_length": 8192, "do_sample": True, "top_p": 0.8, "temperature": 0.8}
"""How the published `chat` and `stream_chat` generate."""

_SCHEMES = {4: "int4", 8: "int8"}


class ChatGLMForConditionalGeneration:
    """The published model class's interface. An object serves one thread at a time.

    The weights are read at the first use (`eval()` counts as one), straight to the device, dtype and
    quantization that were asked for by then: `from_pretrained(...).quantize(4).cuda()` never holds them
    twice. A change after that reads them again.
    """

    def __init__(self, folder: Path, config: ModelConfig, placement: Placement) -> None:
        self.config = ChatGLMConfig.of(config)
        self.runtime = Runtime(folder, config, placement)
        self.transformer = SimpleNamespace(prefix_encoder=PrefixEncoder(self.runtime))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        trust_remote_code: bool = False,
        config: ChatGLMConfig | None = None,
        device: str | int | torch.device | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        torch_dtype: str | torch.dtype | None = None,
        dtype: str | torch.dtype | None = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        low_cpu_mem_usage: bool = True,
        revision: str | None = None,
        token: str | None = None,
    ) -> ChatGLMForConditionalGeneration:
        """The model of a folder, a hub's id, or "nano", on the best device of this machine or the one given.

        trust_remote_code and low_cpu_mem_usage make no difference: no remote code is run, and weights are
        streamed in any case.
        """
        folder = find_folder(name, revision=revision, token=token)
        found = ModelConfig.from_folder(folder)
        if config is not None:
            found = config.applied_to(found)
        chosen = loading.choose_device(_one_device(device if device is not None else device_map))
        wanted = torch_dtype if torch_dtype is not None else dtype
        placement = Placement(
            device=chosen,
            dtype=loading.choose_dtype(None if wanted == "auto" else wanted, chosen, found),
            quantize="int4" if load_in_4bit else "int8" if load_in_8bit else None,
        )
        return cls(folder, found, placement)

    # Where and how

    @property
    def device(self) -> torch.device:
        """Where the weights are, or will be."""
        return self.runtime.placement.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations, and of the weights that are not quantized."""
        return self.runtime.placement.dtype

    def to(
        self,
        *targets: str | int | torch.device | torch.dtype,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> ChatGLMForConditionalGeneration:
        """Change device, dtype or both, in place."""
        for target in (*targets, device, dtype):
            if target is None:
                continue
            if isinstance(target, torch.dtype):
                self.runtime.place(dtype=loading.choose_dtype(target, self.device))
            else:
                self.runtime.place(device=loading.choose_device(_one_device(target)))
        return self

    def cuda(self, device: int | str | torch.device | None = None) -> ChatGLMForConditionalGeneration:
        """Run on a CUDA device."""
        return self.to("cuda" if device is None else device)

    def cpu(self) -> ChatGLMForConditionalGeneration:
        """Run on the CPU."""
        return self.to("cpu")

    def half(self) -> ChatGLMForConditionalGeneration:
        """Compute in float16."""
        return self.to(torch.float16)

    def float(self) -> ChatGLMForConditionalGeneration:
        """Compute in float32."""
        return self.to(torch.float32)

    def bfloat16(self) -> ChatGLMForConditionalGeneration:
        """Compute in bfloat16."""
        return self.to(torch.bfloat16)

    def quantize(self, bits: int) -> ChatGLMForConditionalGeneration:
        """Keep the linear layers in 4 or 8 bits (in groups, more exact than the published rows)."""
        if bits not in _SCHEMES:
            raise InvalidParameterError(f"quantize({bits!r}) is not possible; there are 4 and 8 bits")
        if bits != self.runtime.config.quantization_bit:  # else the checkpoint comes that way
            self.runtime.place(quantize=_SCHEMES[bits])
        return self

    def eval(self) -> ChatGLMForConditionalGeneration:
        """Read the weights, unless that is done."""
        _ = self.runtime.model
        return self

    def num_parameters(self) -> int:
        """How many weights the network has."""
        return self.runtime.config.num_parameters

    # Tokens

    @torch.no_grad()
    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutput:
        """Logits of tokens [batch, length], and the loss of labels [batch, length] (-100: not scored)."""
        logits = score(self.runtime.model, self.runtime.prefix, input_ids, attention_mask, position_ids)
        return CausalLMOutput(logits, None if labels is None else loss_of(logits, labels, attention_mask))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        streamer: Any = None,
        **options: Any,
    ) -> Tensor:
        """Continue each row of tokens [batch, length]; rows may be padded on the left.

        options: the fields of `GenerationOptions`.
        streamer: an object with `put(tensor)` and `end()`; it is given the prompt, then token by token.
        Returns [batch * num_return_sequences, length + new]: prompt and answer; short answers are filled up
        with padding.
        """
        read = GenerationOptions.read(options)
        pad_id = self.runtime.config.pad_token_id
        prompts = prompts_of(input_ids, attention_mask, position_ids, pad_id)
        width = input_ids.shape[1]
        if streamer is None:
            continuations = answers(self.runtime, prompts, width, read)
        else:
            tokens = stream(self.runtime, prompts, width, read)
            streamer.put(input_ids.cpu())
            continuations = [[]]
            for token in tokens:
                continuations[0].append(token)
                streamer.put(torch.tensor([token]))
            streamer.end()
        fill = pad_id if read.pad_token_id is None else read.pad_token_id
        return padded(input_ids, continuations, read.num_return_sequences, fill)

    def stream_generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: None = None,
        return_past_key_values: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Continue one row of tokens [1, length]: yields it [1, length + 1], [1, length + 2], ...

        The engine keeps what it has computed, so there are no past_key_values to hand around: where they are
        asked for, None comes with each item.
        """
        _refuse_past(past_key_values)
        read = GenerationOptions.read(options)
        prompts = prompts_of(input_ids, attention_mask, position_ids, self.runtime.config.pad_token_id)
        tokens = stream(self.runtime, prompts, input_ids.shape[1], read)
        rows = _growing(input_ids, tokens)
        return ((row, None) for row in rows) if return_past_key_values else rows

    # Conversations

    def chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Turn] | None = None,
        role: str = "user",
        **options: Any,
    ) -> tuple[Response, History]:
        """Answer `query`: the response, and the history to go on with (the one given is left as it is).

        The response is a text, `{"name", "parameters"}` for a call of a tool that the history offers, or
        `{"name", "content"}` for code. options: `GenerationOptions`, from CHAT_DEFAULTS on.
        """
        prompt, read, reader = _prepare(tokenizer, query, history, role, options)
        (ids,) = answers(self.runtime, [prompt], len(prompt), read)
        stop_id = ids.pop() if ids and ids[-1] in read.stop_ids(()) else None
        for token in ids:
            reader.add(token)
        return reader.finish(stop_id)

    def stream_chat(
        self,
        tokenizer: ChatGLMTokenizer,
        query: str,
        history: Sequence[Turn] | None = None,
        role: str = "user",
        *,
        past_key_values: None = None,
        return_past_key_values: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Like `chat`, but yields (response so far, history so far) whenever there is more text.

        A tool call is yielded when it is complete. With return_past_key_values a third item, None, comes with
        them: the engine keeps what it has computed. Closing the iterator stops the model.
        """
        _refuse_past(past_key_values)
        prompt, read, reader = _prepare(tokenizer, query, history, role, options)
        tokens = stream(self.runtime, [prompt], len(prompt), read)
        items = _growing_reply(tokens, read.stop_ids(()), reader)
        return ((*item, None) for item in items) if return_past_key_values else items

    def process_response(self, output: str, history: Sequence[Turn]) -> tuple[Response, History]:
        """A response and the new history from the text of a reply."""
        return read_text(output, history)


def _prepare(
    tokenizer: ChatGLMTokenizer,
    query: str,
    history: Sequence[Turn] | None,
    role: str,
    options: Mapping[str, Any],
) -> tuple[list[int], GenerationOptions, ReplyReader]:
    """The prompt of a conversation, how to answer it, and who reads the answer."""
    if not isinstance(tokenizer, ChatGLMTokenizer):
        raise InvalidParameterError(
            f"the tokenizer is a {type(tokenizer).__name__}; take one from chatglm3.AutoTokenizer"
        )
    turns = extended(history, {"role": role, "content": query})
    prompt = render(conversation(turns), tokenizer.tokenizer).ids
    stop_ids = sorted(tokenizer.tokenizer.stop_ids)
    read = GenerationOptions.read({**CHAT_DEFAULTS, "eos_token_id": stop_ids, **options})
    return prompt, read, ReplyReader(tokenizer.tokenizer, turns)


def _growing(row: Tensor, tokens: Iterator[int]) -> Iterator[Tensor]:
    for token in tokens:
        row = torch.cat((row, row.new_tensor([[token]])), dim=1)
        yield row


def _growing_reply(
    tokens: Iterator[int], stop_ids: Sequence[int], reader: ReplyReader
) -> Iterator[tuple[Response, History]]:
    last, stop_id = None, None
    for token in tokens:
        if token in stop_ids:
            stop_id = token
        elif reader.add(token) and (item := reader.so_far()):
            last = item
            yield item
    whole = reader.finish(stop_id)
    if whole != last:
        yield whole


def _refuse_past(past_key_values: object) -> None:
    if past_key_values is not None:
        raise InvalidParameterError(
            "past_key_values did not come from here; pass the whole history, whose beginning the engine keeps"
        )


def _one_device(device: Any) -> str | torch.device | None:
    """A device out of what `device` and `device_map` may be; None where the choice is left to us."""
    if isinstance(device, Mapping):
        if len(set(device.values())) != 1:
            raise InvalidParameterError(f"device_map {dict(device)} names several devices; one can be used")
        device = next(iter(device.values()))
    if device == "auto":
        return None
    return f"cuda:{device}" if isinstance(device, int) else device
