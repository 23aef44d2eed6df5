"""/v1/embeddings: the model's own hidden states as vectors."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from chatglm3.adapters import Adapter
from chatglm3.server.core import Core
from chatglm3.server.embed import embed
from chatglm3.server.errors import ApiError
from chatglm3.server.keys import spend
from chatglm3.server.openai.fields import Fields, Items, Prompt, several
from chatglm3.server.stream import result

MOST_INPUTS = 256


class EmbeddingRequest(Fields):
    """Texts to be embedded."""

    model: str | None = None
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[Items[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_INPUTS)]
        | Prompt
        | Annotated[Items[Prompt], Field(min_length=1, max_length=MOST_INPUTS)]
    ) = Field(description="Texts, or ids without [gMASK] sop, which is put in front of both.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: little-endian 32-bit floats."
    )
    dimensions: int | None = Field(None, description="Only the model's own.")
    user: str | None = Field(None, max_length=256)


class Embedding(TypedDict):
    """One vector of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


def routes(core: Core) -> APIRouter:
    """The route of this file."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/embeddings", summary="Texts to vectors", responses={200: {"model": EmbeddingList}})
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """The mean of the model's last hidden states over a text, with length 1.

        ChatGLM3 was not trained for this. Where the server has a model that was (`--embedding-model`), its
        name as `model` gives that one's vectors, which find similar texts better.
        """
        core.note(request, user=body.user, prompt=body.input)
        sentences = core.sentences if body.model in core.embedding_names else None
        size = sentences.size if sentences else core.loaded.config.hidden_size
        if body.dimensions not in (None, size):
            raise ApiError(400, f"dimensions can only be {size}, the model's own", param="dimensions")
        if sentences:
            texts = _texts(body)
            count = await sentences.count(texts)
            work = sentences.embed(texts)
        else:
            adapter = core.thread.engine.adapter(core.adapter(body.model))
            prompts = await _prompts(core, body)
            count = sum(map(len, prompts))
            work = _vectors(core, prompts, adapter)
        core.note(request, prompt_tokens=count)
        spend(request.scope, count)
        vectors = await result(request, work, core.settings.request_timeout)
        data: list[Embedding] = [
            {"object": "embedding", "index": i, "embedding": _written(vector, body.encoding_format)}
            for i, vector in enumerate(vectors)
        ]
        answer: EmbeddingList = {
            "object": "list",
            "model": body.model or core.model_name,
            "data": data,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
        return JSONResponse(answer)

    return router


def _texts(body: EmbeddingRequest) -> list[str]:
    texts, ids = several(body.input)
    if ids:
        message = f"ids are those of the chat model; {body.model!r} has others, so give texts"
        raise ApiError(400, message, param="input")
    return texts


async def _prompts(core: Core, body: EmbeddingRequest) -> list[list[int]]:
    texts, given = several(body.input)
    prompts = (
        await core.text_ids(texts, "input")
        if texts
        else [[*core.tokenizer.prefix_ids, *ids] for ids in given]
    )
    for ids in prompts:
        core.check_ids(ids, "input")
    return prompts


async def _vectors(core: Core, prompts: list[list[int]], adapter: Adapter | None) -> list[list[float]]:
    skip = len(core.tokenizer.prefix_ids)
    vectors = []
    for ids in prompts:
        vector = await core.thread.between_steps(embed(core.loaded, adapter, ids, skip))
        if not all(map(math.isfinite, vector)):
            raise ApiError(500, "the model's hidden states are not finite numbers", code="model_error")
        vectors.append(vector)
    return vectors


def _written(vector: list[float], encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        return vector
    numbers = array("f", vector)
    return base64.b64encode(numbers.tobytes()).decode()
