"""Errors of the HTTP API: `application/problem+json`, with the codes of the wire protocol and a few of HTTP's own."""

import math
from collections.abc import Iterable
from typing import Any

import msgspec
from django.http import HttpResponse

from calls import protocol
from calls.machine import Refused

TITLES = {
    **{code: words for code, words in protocol.MESSAGES.items() if "{" not in words},
    "answered_elsewhere": "Answered on another device.",
    "limit_reached": "The limit of calls is reached.",
    "full": "The call has no room for more people.",
    "bad_frame": "The body is not JSON that can be read.",
    "unauthorized": "There is no such key.",
    "forbidden": "This key may not do that.",
    "conflict": "This is already so in another way, or is being done.",
    "invalid": "Something in the request is not as it has to be.",
    "rate_limited": "Too many requests. Try again in a moment.",
    "gone": "This is not kept any more.",
    "method_not_allowed": "This address does not take that method.",
    "too_large": "The body is too large.",
    "unsupported_type": "The body has to be application/json.",
}
STATUS = {
    "bad_frame": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "expired": 410,
    "gone": 410,
    "too_large": 413,
    "unsupported_type": 415,
    "invalid": 422,
    "rate_limited": 429,
    "unavailable": 503,
}  # every other code is a refusal by how things stand: 409
RETRY_S = 1


class Problem(Exception):
    """Ends a request. `about` are the extra fields of the code."""

    def __init__(self, code: str, detail: str = "", **about: Any) -> None:
        super().__init__(code)
        self.code, self.detail, self.about = code, detail, about

    @property
    def status(self) -> int:
        return STATUS.get(self.code, 409)


def of(refused: Refused, **about: Any) -> Problem:
    """What a refusal of the rules is over HTTP."""
    return Problem(refused.code, **{**refused.about, **about})


def invalid(*errors: tuple[str, str]) -> Problem:
    """The fields that are not as they have to be: a JSON pointer (`/device/name`), or `?limit`, and what is wrong."""
    return Problem("invalid", errors=[{"field": field, "message": message} for field, message in errors])


def response(problem: Problem, request_id: str) -> HttpResponse:
    title = TITLES.get(problem.code, protocol.MESSAGES["not_allowed"])
    body = {
        "type": "about:blank",
        "title": title,
        "status": problem.status,
        "detail": problem.detail or title,
        "code": problem.code,
        "request_id": request_id,
        **problem.about,
    }
    answer = HttpResponse(msgspec.json.encode(body), "application/problem+json", problem.status)
    if problem.status == 401:
        answer["WWW-Authenticate"] = 'Bearer realm="api"'
    if problem.status in (429, 503):
        wait_ms = problem.about.get("retry_ms", 1000 * RETRY_S)
        answer["Retry-After"] = str(max(1, math.ceil(wait_ms / 1000)))
    return answer


def schema() -> dict[str, Any]:
    """A problem, for the OpenAPI document."""
    text, codes = {"type": "string"}, sorted({*TITLES, *protocol.MESSAGES})
    error = {"type": "object", "properties": {"field": text, "message": text}, "required": ["field", "message"]}
    return {
        "type": "object",
        "title": "Problem",
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"type": "string", "examples": codes},
            "request_id": text,
            "errors": {"type": "array", "items": error},
            "scope": text,
        },
        "required": ["type", "title", "status", "detail", "code"],
    }


def responses(codes: Iterable[int]) -> dict[int, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "Problem", "content": content} for status in codes}
