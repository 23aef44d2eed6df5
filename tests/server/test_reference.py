"""Every field of OpenAI's reference is known here, so that it is honoured or refused for its own sake.

The reference is what OpenAI's own client was generated from.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from chatglm3.server.openai.chat_schema import ChatRequest
from chatglm3.server.openai.completions import CompletionRequest
from chatglm3.server.openai.embeddings import EmbeddingRequest
from chatglm3.server.openai.fields import Fields
from chatglm3.server.openai.responses_schema import ResponseRequest
from tests.server.conftest import LiveServer

OUR_OWN = {"top_k", "min_p", "repetition_penalty"}
"""Fields that OpenAI's API lacks, by the names that vLLM gives them."""


@pytest.mark.parametrize(
    ("reference", "ours"),
    [
        (chat_create_params.CompletionCreateParamsNonStreaming, ChatRequest),
        (completion_create_params.CompletionCreateParamsNonStreaming, CompletionRequest),
        (embedding_create_params.EmbeddingCreateParams, EmbeddingRequest),
        (response_create_params.ResponseCreateParamsNonStreaming, ResponseRequest),
    ],
)
def test_every_field_is_known(reference: Any, ours: type[Fields]) -> None:
    names = reference.__required_keys__ | reference.__optional_keys__
    assert set(ours.model_fields) - OUR_OWN == names


REFUSED = """access_programs background background_options context_management conversation image
max_tool_calls moderation previous_response_id prompt store"""


@pytest.mark.parametrize("name", REFUSED.split())
def test_what_responses_cannot_honour_is_refused_by_name(server: LiveServer, name: str) -> None:
    body = {"input": "hello", "max_output_tokens": 1}
    value: Any = {"previous_response_id": "resp_1", "store": True, "background": True}.get(name, {})
    response = server.http.post("/v1/responses", json=body | {name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert server.http.post("/v1/responses", json=body | {name: None}).status_code == 200
