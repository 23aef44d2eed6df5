"""Log-probabilities in the two forms of OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from chatglm3.engine import TokenLogprob
from chatglm3.tokenizer import Tokenizer

LEAST = -9999.0
"""Stands for minus infinity, which JSON has no word for."""


class TopLogprob(TypedDict):
    """A token that could have been."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    """A token of the answer; all their bytes together are the answer's text."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Of a chat answer."""

    content: list[ContentLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    """Of a completion: lists with one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def token_name(tokenizer: Tokenizer, id: int) -> str:
    r"""A token as text: its characters, `bytes:\xe4` for a part of one, `<|user|>`, `</s>`."""
    data = tokenizer.token_bytes(id)
    if not data:
        return {tokenizer.unk_id: "<unk>", tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}.get(
            id, f"<{id}>"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob], *, begins: bool) -> ChatLogprobs:
    """begins: these are the answer's first, so the space before its first word is no part of it."""

    def entry(id: int, logprob: float, strip: bool) -> TopLogprob:
        data, name = tokenizer.token_bytes(id), token_name(tokenizer, id)
        if strip:
            data, name = data.removeprefix(b" "), name.removeprefix(" ")
        return {"token": name, "logprob": max(logprob, LEAST), "bytes": list(data)}

    content: list[ContentLogprob] = []
    for number, (id, logprob, top) in enumerate(logprobs):
        strip = begins and number == 0
        tops = [entry(other, value, strip) for other, value in top]
        content.append({**entry(id, logprob, strip), "top_logprobs": tops})
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob | None], ids: Sequence[int], *, offset: int
) -> CompletionLogprobs:
    """ids: the tokens, of which the first of a prompt has no logprob; offset: where their text begins."""
    lists: CompletionLogprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for id, scored in zip(ids, logprobs, strict=True):
        name = token_name(tokenizer, id)
        lists["tokens"].append(name)
        lists["text_offset"].append(offset)
        offset += len(tokenizer.token_bytes(id).decode(errors="ignore"))
        if scored is None:
            lists["token_logprobs"].append(None)
            lists["top_logprobs"].append(None)
            continue
        lists["token_logprobs"].append(max(scored.logprob, LEAST))
        top: dict[str, float] = {}
        for other, value in [*scored.top, (id, scored.logprob)]:
            top.setdefault(token_name(tokenizer, other), max(value, LEAST))
        lists["top_logprobs"].append(top)
    return lists
