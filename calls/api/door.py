"""What every request of the API goes through: its id, its key, its rate, a repeated POST, and the shape of errors.

The order of checks is 401, 429, 403, 404, 422, 409: the door does the first two, `needs` the third, and the operations
the rest.
"""

import base64
import datetime as dt
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from django.core.exceptions import RequestDataTooBig
from django.db import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from ninja.security import HttpBearer

from calls import address, pool
from calls.api import keys, problems
from calls.api.problems import Problem
from calls.models import ApiKey, ApiReply
from devices import times

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # bytes
REMEMBER = dt.timedelta(hours=24)  # an answer, for whoever asks the same again
LOST = dt.timedelta(seconds=60)  # after which a request that has no answer yet is taken to have died with its server
FORGET_AT_ONCE = 500
CLIENTS_KEY = re.compile(r"[!-~]{1,255}")

View = Callable[..., HttpResponse]
# The answer to a browser that asks whether it may ask. It asks without credentials, so nothing is told to anybody.
PREFLIGHT = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}


class Caller:
    """Who asks: the key, its secret, the id of the request, and where it came from."""

    def __init__(self, request: HttpRequest) -> None:
        self.id = uuid.uuid4().hex
        self.address = address.of_request(request)
        self.key: ApiKey | None = None
        self.secret = ""
        self.origins: tuple[str, ...] = ()  # whose pages may read the answer

    @property
    def name(self) -> str:
        """As logs, stories and the audit log have it."""
        return f"key {self.key.name}" if self.key else "nobody"


def caller(request: HttpRequest) -> Caller:
    found: Caller = request.api_caller  # type: ignore[attr-defined]
    return found


class needs(HttpBearer):
    """The scope that an operation needs; None: any valid key. Says so in the OpenAPI document, and refuses the rest."""

    openapi_name = "key"

    def __init__(self, scope: str | None) -> None:
        super().__init__()
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Any:
        key = caller(request).key
        if key is None:
            raise Problem("unauthorized")
        if self.scope is not None and self.scope not in key.scopes:
            raise Problem("forbidden", f"This key does not have the scope {self.scope}.", scope=self.scope)
        return key

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        raise NotImplementedError  # __call__ is all that is used


def door(view: View, *, public: bool = False, for_pages: bool = False) -> View:
    """The view of an address of the API, behind its door. A public one asks for no key. One that is `for_pages` is also
    asked by pages of other sites, and looks at its token itself."""

    @wraps(view)
    @csrf_exempt
    def enter(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        who = request.api_caller = Caller(request)  # type: ignore[attr-defined]
        headers: dict[str, str] = {}
        if for_pages and request.method == "OPTIONS":
            return HttpResponse(status=204, headers=PREFLIGHT)
        try:
            if not (public or for_pages):
                who.key, who.secret = keys.authenticate(request.headers.get("Authorization", ""), who.address)
                left = keys.spend(who.key)
                headers = {
                    "RateLimit-Limit": str(left.at_once),
                    "RateLimit-Remaining": str(left.remaining),
                    "RateLimit-Reset": str(round(left.whole_s + 0.5)),
                }
            response = _once(request, lambda: view(request, *args, **kwargs))
        except Exception as error:
            response = problem(request, error)
        if response.status_code == 405:
            allowed = response.get("Allow", "")
            response = problem(request, Problem("method_not_allowed"))
            response["Allow"] = allowed
        for name, value in headers.items():
            response[name] = value
        _say_who_may_read(request, response)
        response["Cache-Control"] = "no-store"
        response["Request-Id"] = who.id
        return response

    return enter


def _say_who_may_read(request: HttpRequest, response: HttpResponse) -> None:
    origin = request.headers.get("Origin", "").lower()
    response["Vary"] = "Origin"
    if origin in caller(request).origins:
        response["Access-Control-Allow-Origin"] = origin
        response["Access-Control-Expose-Headers"] = "Request-Id, Retry-After"


def problem(request: HttpRequest, error: Exception) -> HttpResponse:
    """What is answered to an error. One that nobody has thought of is logged, and is `unavailable`."""
    who = caller(request)
    if isinstance(error, Http404):
        error = Problem("not_found")
    if isinstance(error, RequestDataTooBig):
        error = Problem("too_large")
    if not isinstance(error, Problem):
        if isinstance(error, pool.AWAY):
            log.warning("request %s was not done: %s", who.id, error)
        else:
            log.error("request %s failed", who.id, exc_info=error)
        error = Problem("unavailable")
    return problems.response(error, who.id)


def parse(request: HttpRequest) -> Any:
    """The JSON of a request's body. Raises Problem."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if len(request.body) > MAX_BODY:
        raise Problem("too_large", f"A body has at most {MAX_BODY} bytes.")
    if kind != "application/json":
        raise Problem("unsupported_type")
    try:
        return msgspec.json.decode(request.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem("bad_frame", str(error)) from None


# --- a POST that is sent again ----------------------------------------------------------------------------------------


def _once(request: HttpRequest, answer: Callable[[], HttpResponse]) -> HttpResponse:
    """Answers a POST with an `Idempotency-Key` once; a repeat has the same answer, and nothing is done again."""
    said, who = request.headers.get("Idempotency-Key"), caller(request)
    if request.method != "POST" or said is None or who.key is None:
        return answer()
    if not CLIENTS_KEY.fullmatch(said):
        raise Problem("invalid", "An Idempotency-Key has 1 to 255 visible ASCII characters.", errors=[])
    body = _hash(json.dumps(parse(request), sort_keys=True) if request.body else "")
    id, now = _hash("\n".join((who.key.pk, request.method, request.path, said))), times.now()
    ApiReply.objects.filter(pk=id, at__lt=now - REMEMBER).delete()
    ApiReply.objects.filter(pk=id, status=None, at__lt=now - LOST).delete()
    try:
        ApiReply.objects.create(pk=id, key=who.key, body=body, at=now)
    except IntegrityError:
        return _again(who, ApiReply.objects.filter(pk=id).first(), body)
    mine = ApiReply.objects.filter(pk=id, at=now)
    try:
        response = answer()
    except BaseException:
        mine.delete()
        raise
    if response.status_code >= 500 or response.status_code == 429:
        mine.delete()
    else:
        content = _seal(who).encrypt(response.get("Content-Type", "").encode() + b"\n" + response.content)
        mine.update(status=response.status_code, content=content)
    return response


def _again(who: Caller, reply: ApiReply | None, body: str) -> HttpResponse:
    if reply is None or (reply.status is None and reply.body == body):
        raise Problem("conflict", "The first request with this Idempotency-Key is still being worked on.")
    if reply.body != body:
        raise Problem("invalid", "This Idempotency-Key was used for another body.", errors=[])
    try:
        kind, _, content = _seal(who).decrypt(bytes(reply.content)).partition(b"\n")
    except InvalidToken:
        raise Problem("conflict", "The answer of that time cannot be read any more.") from None
    response = HttpResponse(content, kind.decode(), reply.status)
    response["Idempotency-Replayed"] = "true"
    return response


def _seal(who: Caller) -> Fernet:
    """Answers may hold secrets that are shown once. They can be read again only with the key that asked for them."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"reply\n" + who.secret.encode()).digest()))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def forget() -> bool:
    """Deletes answers that are not remembered any more; whether there may be more of them."""
    old = ApiReply.objects.filter(at__lt=times.now() - REMEMBER).order_by("at")
    ids = list(old.values_list("pk", flat=True)[:FORGET_AT_ONCE])
    ApiReply.objects.filter(pk__in=ids).delete()
    return len(ids) == FORGET_AT_ONCE
