"""What /openapi.json says is what the server does: schemathesis makes requests up, right and wrong ones.

No answer may have a status of 500 or more, or another shape than the schema gives for it.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.errors import InvalidSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.conftest import LiveServer

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ROUTES = [
    "GET /health",
    "GET /health/ready",
    "GET /metrics",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /detokenize",
    "POST /tokenize",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/responses",
]
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@pytest.fixture(scope="module")
def openapi(server: LiveServer) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_every_route_is_listed(openapi: Any) -> None:
    operations = [result.ok() for result in openapi.get_all_operations()]
    assert sorted(f"{operation.method.upper()} {operation.path}" for operation in operations) == ROUTES


@pytest.mark.parametrize(
    ("route", "mode"),
    [(route, GenerationMode.POSITIVE) for route in ROUTES]
    # Routes without a body take nothing that could be wrong.
    + [(route, GenerationMode.NEGATIVE) for route in ROUTES if route.startswith("POST")],
)
def test_every_answer_is_as_documented(openapi: Any, route: str, mode: GenerationMode) -> None:
    method, path = route.split()
    operation = openapi[path][method]
    if not operation.body and not list(operation.iter_parameters()):
        operation.Case().call_and_validate(checks=CHECKS)
        return

    @settings(max_examples=10, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            if mode is GenerationMode.POSITIVE and "model" in case.body:
                case.body["model"] = "tiny"
            for limit in LIMITS:
                if type(case.body.get(limit)) is int:
                    case.body[limit] = min(case.body[limit], 8)
        case.call_and_validate(checks=CHECKS)

    try:
        check()
    except InvalidSchema as error:
        pytest.skip(f"schemathesis cannot break this schema in a way it tried: {error}")
