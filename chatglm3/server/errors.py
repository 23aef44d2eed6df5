"""What a client is told when it cannot be served: an HTTP status and a body in the form of its dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from starlette.responses import Response
from typing_extensions import TypedDict

from chatglm3.errors import ChatGLM3Error, PromptTooLongError
from chatglm3.server.logs import REQUEST_ID

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    499: "client_gone",
}
_ANTHROPIC_TYPES = _TYPES | {413: "request_too_large", 504: "timeout_error"}
_ANTHROPIC_PATHS = "/v1/messages"


class ErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    """The value and the remedy, for a person."""
    type: str
    param: str | None
    """The field of the request that is to blame, as `messages.0.content`."""
    code: str | None
    """For a program."""


class ErrorBody(TypedDict):
    """The body of every answer whose status is 400 or more."""

    error: ErrorDetail


class AnthropicErrorDetail(TypedDict):
    """What went wrong."""

    type: str
    message: str
    """The field, the value and the remedy, for a person."""


class AnthropicErrorBody(TypedDict):
    """The same in Anthropic's form."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str | None


class ApiError(Exception):
    """A request that is refused, or that failed. `str()` is for a person: the value and the remedy."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> ErrorBody:
        """The error in OpenAI's form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def anthropic_body(self) -> AnthropicErrorBody:
        """The error in Anthropic's form, which has no place of its own for the field."""
        kind = _ANTHROPIC_TYPES.get(
            self.status, "api_error" if self.status >= 500 else "invalid_request_error"
        )
        text = str(self) if self.param is None or self.param in str(self) else f"{self.param}: {self}"
        return {
            "type": "error",
            "error": {"type": kind, "message": text},
            "request_id": REQUEST_ID.get(),
        }

    def response(self, path: str = "") -> Response:
        """The error as an answer to a request for `path`, in ASCII: it may quote half a character."""
        body = self.anthropic_body() if path.startswith(_ANTHROPIC_PATHS) else self.body()
        return Response(json.dumps(body), self.status, self.headers, media_type="application/json")


class ClientGoneError(Exception):
    """The client closed its connection: nobody is left to answer."""


def refused(error: ChatGLM3Error, param: str | None = None) -> ApiError:
    """A complaint of the packages below about something that a client asked for."""
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else None
    return ApiError(400, str(error), param=param, code=code)


def internal() -> ApiError:
    """For an error of ours; its details go to the log and not to the client."""
    return ApiError(500, "the server failed on this request; its log has the reason under the request's id")


def invalid(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """Pydantic's complaints about a request as one error that names the field."""
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "syntax error")
        return ApiError(400, f"the body is not JSON: {reason} at {first['loc'][-1]}", code="invalid_json")
    if tuple(first["loc"]) == ("body",):
        if first["type"] == "missing":
            return ApiError(400, "the request has no body; send a JSON object", code="missing_body")
        if not isinstance(body, dict):
            message = "the body must be a JSON object, sent with Content-Type: application/json"
            return ApiError(400, message, code="invalid_body")
    # A value that fits no member of a union has a complaint for each member: take the one that got farthest.
    places = [_field(error, body) for error in errors]
    rivals = [i for i, error in enumerate(errors) if _group(error) == _group(first)]
    best = max(rivals, key=lambda i: (len(places[i]), not errors[i]["type"].endswith("_type"), -i))
    kind, param = errors[best]["type"], ".".join(places[best]) or None
    if kind == "extra_forbidden":
        return ApiError(400, f"this server has no field {param!r} here", param=param, code="unknown_field")
    if kind == "missing":
        return ApiError(400, f"the field {param!r} is missing", param=param, code="missing_field")
    same = [str(errors[i]["msg"]) for i in rivals if places[i] == places[best] and errors[i]["type"] == kind]
    message = " or ".join(dict.fromkeys(text.removeprefix("Value error, ") for text in same))
    return ApiError(400, f"{param}: {message}" if param else message, param=param, code="invalid_value")


def _group(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The field of the request that a complaint is about, or the item of a list there."""
    place = tuple(error["loc"])
    return place[:3] if len(place) > 2 and isinstance(place[2], int) else place[:2]


def _field(error: Mapping[str, Any], body: Any) -> list[str]:
    """The path of a complaint in the body, without the names of union members that pydantic puts in."""
    place, node = [], body
    for part in error["loc"][1:]:
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            node = node[part]
            place.append(str(part))
    if error["type"] in ("missing", "extra_forbidden") and place[-1:] != [str(error["loc"][-1])]:
        place.append(str(error["loc"][-1]))
    return place
