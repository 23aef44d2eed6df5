"""/v1/models, /tokenize and /detokenize."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field, model_validator
from typing_extensions import TypedDict

from chatglm3.server.core import Core
from chatglm3.server.errors import ApiError
from chatglm3.server.openai.chat import definitions, read_chat
from chatglm3.server.openai.chat_schema import ChatMessage, ToolField
from chatglm3.server.openai.fields import Fields, Items, TokenIds
from chatglm3.server.replies import ReplyForm


class ModelCard(TypedDict):
    """A name under which the model can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    """The model that an adapter is put beside."""
    max_model_len: int
    """Tokens that prompt and answer may have together."""


class ModelList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class TokenizeRequest(Fields):
    """A text, or a conversation as it would be shown to the model."""

    model: str | None = None
    prompt: str | None = None
    messages: Items[ChatMessage] | None = None
    tools: Items[ToolField] | None = Field(None, description="With messages.")
    add_special_tokens: bool = Field(True, description="Of a text: put [gMASK] sop in front.")
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.tools is not None and self.messages is None:
            raise ValueError("tools go with messages")
        return self


class Tokens(TypedDict):
    """The ids."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Fields):
    """Ids."""

    model: str | None = None
    tokens: TokenIds


class Text(TypedDict):
    """Their text."""

    prompt: str


def routes(core: Core) -> APIRouter:
    """The routes of this file."""
    router = APIRouter()

    def card(name: str) -> ModelCard:
        own = core.sentences if name in core.embedding_names else None
        return {
            "id": name,
            "object": "model",
            "created": core.created,
            "owned_by": "chatglm3",
            "parent": core.model_name if name in core.adapters else None,
            "max_model_len": own.max_tokens if own else core.max_context,
        }

    @router.get("/v1/models", tags=["OpenAI"], summary="List the model's names")
    async def list_models() -> ModelList:
        """The names that `model` may have: the model's own, its adapters', and those for embeddings only."""
        return {"object": "list", "data": [card(name) for name in [*core.names, *core.embedding_names]]}

    @router.get("/v1/models/{model:path}", tags=["OpenAI"], summary="One name")
    async def get_model(model: str) -> ModelCard:
        """A name, if there is such a one."""
        if model not in core.embedding_names:
            core.check_model(model)
        return card(model)

    @router.post("/tokenize", tags=["Tokens"], summary="Text or conversation to ids")
    async def tokenize(body: TokenizeRequest) -> Tokens:
        """What the model would be shown, as ids."""
        core.check_model(body.model)
        if body.prompt is not None:
            (ids,) = await core.text_ids([body.prompt], "prompt", prefix=body.add_special_tokens)
        else:
            tools = definitions([tool.function for tool in body.tools or ()])
            ReplyForm(tools).check()
            ids = await core.reply_ids(read_chat(body.messages or ()), tools)
        names = [core.tokenizer.id_to_piece(id) for id in ids] if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": core.max_context, "tokens": ids, "token_strs": names}

    @router.post("/detokenize", tags=["Tokens"], summary="Ids to text")
    async def detokenize(body: DetokenizeRequest) -> Text:
        """The text of ids; special tokens are spelled out."""
        core.check_model(body.model)
        size = core.loaded.config.vocab_size
        if max(body.tokens, default=0) >= size:
            number, token = next((n, t) for n, t in enumerate(body.tokens) if t >= size)
            message = f"token {number} is {token}, and ids end at {size - 1}"
            raise ApiError(400, message, param=f"tokens.{number}")
        return {"prompt": await core.text(body.tokens, "tokens")}

    return router
