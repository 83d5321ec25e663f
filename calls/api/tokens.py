"""Tokens over HTTP: a back end makes one for an app of its own, which then is a device of the person."""

import datetime as dt
import re
import uuid
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Router, Schema, Status
from pydantic import Field

from calls import audit, tokens
from calls.api import pages, problems
from calls.api.bodies import Body
from calls.api.calls import person
from calls.api.door import caller, needs
from calls.api.problems import Problem
from calls.api.users import may_change
from calls.models import Token
from devices import names, presence, sessions, times

router = Router(tags=["tokens"])

ORIGIN = re.compile(r"https?://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
Kind = Literal["web", "ios", "android", "windows", "macos", "linux", "other"]


class DeviceSaid(Body):
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*\S[^\x00]*$")]
    kind: Kind


class TokenSaid(Body):
    """`device` makes the device at once; else the first `hello` with the token says which it is. Pages of the `origins`
    may use it, and those of this site."""

    ttl_s: Annotated[int, Field(ge=1, le=tokens.MOST_S)] = tokens.DEFAULT_S
    device: DeviceSaid | None = None
    origins: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=20)] = []


class TokenMade(Schema):
    token: str
    jti: uuid.UUID
    expires: dt.datetime
    device: uuid.UUID | None


class TokenTold(Schema):
    jti: uuid.UUID
    device: uuid.UUID | None
    origins: list[str]
    made: dt.datetime
    expires: dt.datetime


@router.post("/users/{username}/tokens", auth=needs("tokens:mint"), response={201: TokenMade})
def mint_token(request: HttpRequest, username: str, body: TokenSaid = TokenSaid()) -> Any:  # noqa: B008
    """A token for a device of this person."""
    user = person(username)
    pages.only(request)
    may_change(user)
    if not user.is_active:
        raise Problem("not_allowed", "This account is deactivated.")
    origins = [origin.lower() for origin in body.origins]
    wrong = [number for number, origin in enumerate(origins) if not ORIGIN.fullmatch(origin)]
    if wrong:
        message = "Give scheme and host without a path, like https://shop.example.com."
        raise problems.invalid(*((f"/origins/{number}", message) for number in wrong))
    device = None
    if body.device is not None:
        device = names.clean(body.device.name), body.device.kind
        if not device[0]:
            raise problems.invalid(("/device/name", "The name has nothing to see in it."))
    try:
        said, token = tokens.mint(user, caller(request).key, body.ttl_s, device, origins)
    except presence.TooMany:
        raise Problem("rate_limited", "This person has made too many devices within the hour.") from None
    made = {"token": said, "jti": token.pk, "expires": token.expires_at, "device": token.device_id}
    return Status(201, made)


@router.get("/users/{username}/tokens", auth=needs("tokens:mint"), response=pages.Page[TokenTold])
def list_tokens(request: HttpRequest, username: str) -> Any:
    """The live tokens of a person, the newest first, at most 200."""
    user = person(username)
    pages.only(request)
    found = list(Token.objects.filter(user=user, expires_at__gt=times.now())[: pages.MOST])
    live = sessions.claims([token.session for token in found])
    items = [
        {"jti": t.pk, "device": t.device_id, "origins": t.origins, "made": t.made_at, "expires": t.expires_at}
        for t in found
        if t.session in live
    ]
    return {"items": items, "next": None}


@router.delete("/users/{username}/tokens", auth=needs("tokens:mint"), response={204: None})
def revoke_tokens(request: HttpRequest, username: str) -> Any:
    """Revokes all tokens of a person. Their sockets close at once."""
    user = person(username)
    pages.only(request)
    may_change(user)
    if number := tokens.revoke_all(user):
        audit.record_by(caller(request), user, {"tokens": (number, 0)})
    return Status(204, None)


@router.delete("/tokens/{uuid:jti}", auth=needs("tokens:mint"), response={204: None})
def revoke_token(request: HttpRequest, jti: uuid.UUID) -> Any:
    """Revokes a token. Its sockets close at once. Of one that is gone, this is 204 too."""
    token = Token.objects.select_related("user").filter(pk=jti).first()
    pages.only(request)
    if token is not None:
        may_change(token.user)
        tokens.revoke(token)
        audit.record_by(caller(request), token.user, {"token": (jti, "revoked")})
    return Status(204, None)
