"""People over HTTP: who there is, their lines and limits, and their devices."""

import datetime as dt
import threading
import uuid
from collections.abc import Collection
from typing import Annotated, Any, Literal

from auditlog.context import disable_auditlog
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.core.validators import validate_email
from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from ninja import Query, Router, Schema, Status
from pydantic import AwareDatetime, Field

from calls import audit, models, search, switchboard, tokens
from calls.api import pages, problems
from calls.api.bodies import Body, Text
from calls.api.calls import person
from calls.api.door import caller, needs
from calls.api.problems import Problem
from calls.facts import limit as limit_of
from calls.models import LIVE, Leg
from devices import times
from devices.models import Device, Line, LineGroup

router = Router()

HASH_WAIT_S = 5.0
hashing = threading.BoundedSemaphore(1)  # a password takes a third of a second of one core, which calls need too
INHERITED = ("max_incoming", "max_outgoing", "max_legs", "may_transfer", "edition")
OWN = ("multi_device", "may_switch", "dnd")  # never inherited


class Person(Schema):
    username: str
    name: str
    active: bool
    online: bool
    in_call: bool


class PersonSaid(Body):
    """A field that is left out keeps its value. Without a password only tokens sign in."""

    name: Text | None = None
    email: Annotated[str, Field(max_length=254)] | None = None
    active: bool | None = None
    password: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")] | None = None


Limit = Annotated[int, Field(ge=0, le=32767)]


class Rules(Schema):
    """What a line says, or what holds for it."""

    multi_device: bool
    may_switch: bool
    dnd: bool
    max_incoming: int | None
    max_outgoing: int | None
    max_legs: int | None
    may_transfer: bool | None
    edition: Literal["off", "until", "allowed"] | None
    edition_until: dt.datetime | None
    group: str | None


class LineTold(Schema):
    """The line's own words (null: inherited), what is in force, and who says so: line, group or platform."""

    own: Rules
    in_force: Rules
    from_: Annotated[dict[str, Literal["own", "group", "platform"]], Field(alias="from")]


class LineSaid(Body):
    """A field that is left out keeps its value; null: inherited."""

    multi_device: bool = False
    may_switch: bool = False
    dnd: bool = False
    max_incoming: Limit | None = None
    max_outgoing: Limit | None = None
    max_legs: Annotated[int, Field(ge=2, le=32767)] | None = None
    may_transfer: bool | None = None
    edition: Literal["off", "until", "allowed"] | None = None
    edition_until: Annotated[AwareDatetime, Field(strict=False)] | None = None
    group: Annotated[str, Field(max_length=80, pattern=r"^[^\x00]*$")] | None = None


class DeviceTold(Schema):
    id: uuid.UUID
    name: str
    kind: str
    online: bool
    push: bool
    signed_in_at: dt.datetime
    last_seen_at: dt.datetime


@router.get("/users", auth=needs("users:read"), response=pages.Page[Person], tags=["users"])
def list_users(
    request: HttpRequest,
    q: Annotated[str | None, Field(max_length=150)] = None,
    limit: Annotated[int, Query(ge=1, le=pages.MOST)] = pages.DEFAULT,
    after: str | None = None,
) -> Any:
    """People by user name. `q` has words of their names."""
    pages.only(request, "q", "limit", "after")
    people = _people()
    if after is not None:
        (name,) = pages.position(after, [q], tuple[str])
        if "\0" in name:
            raise problems.invalid(("?after", "This is no cursor of this list."))
        people = people.filter(username__gt=name)
    words = search.words(q or "")
    for word in words:
        people = people.filter(
            Q(username__icontains=word) | Q(first_name__icontains=word) | Q(last_name__icontains=word)
        )
    try:
        with search.bounded():
            found = list(people.order_by("username")[: limit + 1])
    except search.TookTooLong:
        raise Problem("unavailable", "This search takes too long. Say more of the name.") from None
    shown = _told(found[:limit])
    return pages.page(found, limit, [q], lambda user: [user.get_username()], lambda user: shown[user.pk])


@router.get("/users/{username}", auth=needs("users:read"), response=Person, tags=["users"])
def get_user(request: HttpRequest, username: str) -> Any:
    """One person."""
    user = person(username)
    pages.only(request)
    return _told([user])[user.pk]


@router.put("/users/{username}", auth=needs("users:write"), response={200: Person, 201: Person}, tags=["users"])
def put_user(request: HttpRequest, username: str, body: PersonSaid) -> Any:
    """Makes a person (201) or changes one (200). Deactivating signs out all devices and leaves calls within 5 s."""
    pages.only(request)
    User = get_user_model()
    user = User._default_manager.filter(username=username).first() if "\0" not in username else None
    made = user is None
    if user is None:
        user = User(username=username)
        user.set_unusable_password()
    may_change(user)
    password = _set(user, body)
    _check(user, made)
    if password is not None:
        _set_password(user, password, made)
    if made:
        before: dict[str, Any] = {}
        was_active = bool(user.is_active)
        with disable_auditlog():
            try:
                user.save(force_insert=True)
            except IntegrityError:
                raise Problem("conflict", "Somebody makes this person at this moment.") from None
    else:
        user, before = _saved(user, body)
        was_active = before["is_active"]
    Line.make([user.pk])
    after = _fields(user)
    changes = {name: (before.get(name, ""), after[name]) for name in after if before.get(name) != after[name]}
    if password is not None:
        changes["password"] = ("hidden", "hidden")
        switchboard.sign_out_ended(user.pk)
    if changes:
        audit.record_by(caller(request), user, changes, made)
    if was_active and not user.is_active:
        switchboard.sign_out_deactivated(user.pk)
        tokens.revoke_all(user)
    return Status(201 if made else 200, _told([user])[user.pk])


@router.delete("/users/{username}", auth=needs("users:erase"), response={204: None}, tags=["users"])
def erase_user(request: HttpRequest, username: str) -> Any:
    """Erases everything personal of a person, for good. As `manage.py erase`."""
    User = get_user_model()
    user = User._default_manager.filter(username=username).first() if "\0" not in username else None
    pages.only(request)
    if user is not None:
        may_change(user)
        try:
            call_command("erase", "--", user.get_username(), yes=True, stdout=_Nowhere(), stderr=_Nowhere())
        except CommandError as error:
            raise Problem("conflict", str(error)) from None
        user.refresh_from_db()
        audit.record_by(caller(request), user, {"erased": ("", "yes")})
    return Status(204, None)


@router.get("/users/{username}/line", auth=needs("users:read"), response=LineTold, by_alias=True, tags=["lines"])
def get_line(request: HttpRequest, username: str) -> Any:
    """A person's line: its own words, what holds, and who says so."""
    user = person(username)
    pages.only(request)
    return _line(switchboard.line_of(user.pk))


@router.patch("/users/{username}/line", auth=needs("lines:write"), response=LineTold, by_alias=True, tags=["lines"])
def patch_line(request: HttpRequest, username: str, body: LineSaid) -> Any:
    """Changes a line: it holds for the next call, and the person's devices are told at once."""
    user = person(username)
    pages.only(request)
    may_change(user)
    said = body.dict(exclude_unset=True)
    line = switchboard.line_of(user.pk)
    before = _own(line)
    changes = {name: value for name, value in said.items() if name not in ("group", "edition")}
    if "edition" in said:
        changes["edition"] = said["edition"] or ""
        if said["edition"] != "until":
            changes.setdefault("edition_until", None)
    if "group" in said:
        changes["group"] = _group(said["group"])
    edition, until = (changes.get(name, getattr(line, name)) for name in ("edition", "edition_until"))
    if (edition == "until") != (until is not None):
        raise problems.invalid(("/edition_until", "The edition `until`, and only that, has a time."))
    if changes:
        with disable_auditlog():
            line = switchboard.change_line(user.pk, **changes)
        after = _own(line)
        differ = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
        if differ:
            audit.record_by(caller(request), line, differ)
    return _line(line)


@router.get("/users/{username}/devices", auth=needs("devices:read"), response=pages.Page[DeviceTold], tags=["devices"])
def list_devices(request: HttpRequest, username: str) -> Any:
    """A person's signed-in devices, at most 100. There is no second page."""
    user = person(username)
    pages.only(request)
    now = times.now()
    found = Device.objects.filter(user=user, signed_out_at=None).order_by("-logged_in_at")[: pages.MOST]
    items = [
        {
            "id": each.pk,
            "name": each.name,
            "kind": each.kind,
            "online": each.online_until > now,
            "push": each.push is not None,
            "signed_in_at": each.logged_in_at,
            "last_seen_at": each.last_seen_at,
        }
        for each in found
    ]
    return {"items": items, "next": None}


@router.delete("/devices/{uuid:device_id}", auth=needs("devices:write"), response={204: None}, tags=["devices"])
def sign_out_device(request: HttpRequest, device_id: uuid.UUID) -> Any:
    """Signs a device out, and what else is signed in by the same sign-in. Of what is gone, this is 204 too."""
    device = Device.objects.select_related("user").filter(pk=device_id).first()
    pages.only(request)
    if device is not None:
        may_change(device.user)
        for gone in switchboard.sign_out(device):
            audit.record_by(caller(request), gone, {"signed_out": ("no", "yes")})
    return Status(204, None)


def may_change(user: Any) -> None:
    """Accounts of staff are not touched by keys: whoever has a key could else make themselves an operator."""
    if user.is_staff or user.is_superuser:
        raise Problem("forbidden", "Accounts of staff are changed in the panel only.")


def _people() -> QuerySet[Any]:
    return get_user_model()._default_manager.only("username", "first_name", "last_name", "is_active")


def _told(people: Collection[Any]) -> dict[Any, dict[str, Any]]:
    """What the API says of these people, by key; in two statements."""
    keys = [user.pk for user in people]
    online = Device.objects.filter(user__in=keys, signed_out_at=None, online_until__gt=times.now())
    on, busy = set(online.values_list("user", flat=True)), Leg.objects.filter(LIVE, user__in=keys, state="joined")
    joined = set(busy.order_by().values_list("user", flat=True))
    return {
        user.pk: {
            "username": user.get_username(),
            "name": models.name_of(user),
            "active": bool(user.is_active),
            "online": user.pk in on,
            "in_call": user.pk in joined,
        }
        for user in people
    }


def _saved(user: Any, body: PersonSaid) -> tuple[Any, dict[str, Any]]:
    """Saves what was said, and nothing else, of the account as it is now: to hash the password took a while, in which
    an operator may have changed the rest. The account, and its fields before."""
    with transaction.atomic(), disable_auditlog():
        now = get_user_model()._default_manager.select_for_update().get(pk=user.pk)
        may_change(now)
        before = _fields(now)
        _set(now, body)
        said = [*before]
        if body.password is not None:
            now.password = user.password
            said.append("password")
        now.save(update_fields=said)
    return now, before


def _set(user: Any, body: PersonSaid) -> str | None:
    """Puts what was said into the account. Returns the password that is to be set, if any."""
    if body.name is not None:
        first, _, last = " ".join(body.name.split()).rpartition(" ")
        user.first_name, user.last_name = (first, last) if first else (last, "")
    if body.email is not None:
        user.email = body.email
    if body.active is not None:
        user.is_active = body.active
    return body.password


def _check(user: Any, made: bool) -> None:
    if user.email:
        try:
            validate_email(user.email)
        except ValidationError as error:
            raise problems.invalid(("/email", error.messages[0])) from None
    if made:
        try:
            user.clean_fields(exclude={field.name for field in user._meta.fields} - {"username"})
        except ValidationError as error:
            raise problems.invalid(("username", error.messages[0])) from None


def _set_password(user: Any, password: str, made: bool) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise problems.invalid(*(("/password", message) for message in error.messages)) from None
    if not hashing.acquire(timeout=HASH_WAIT_S):
        raise Problem("unavailable", "Too many passwords are set at a time.")
    if not connection.in_atomic_block:
        connection.close()  # others need it meanwhile; the next question to the database takes one again
    try:
        if made or not user.check_password(password):  # the same again signs nobody out
            user.set_password(password)
    finally:
        hashing.release()


def _fields(user: Any) -> dict[str, Any]:
    return {name: getattr(user, name) for name in ("first_name", "last_name", "email", "is_active")}


def _group(name: str | None) -> LineGroup | None:
    if name is None:
        return None
    group = LineGroup.objects.filter(name=name).first()
    if group is None:
        raise problems.invalid(("/group", "There is no such group of lines."))
    return group


def _own(line: Line) -> dict[str, Any]:
    own = {name: getattr(line, name) for name in (*OWN, *INHERITED, "edition_until")}
    return own | {"edition": line.edition or None, "group": line.group.name if line.group else None}


def _line(line: Line) -> dict[str, Any]:
    now = times.now()
    rules = {name: line.rule(name) for name in INHERITED}
    in_force = _own(line) | {name: limit_of(line, name) for name in ("max_incoming", "max_outgoing", "max_legs")}
    in_force |= {
        "multi_device": line.rings_all(now),
        "may_switch": line.may_switch and line.multi_device_off(now) is None,
        "may_transfer": line.transfers(),
        "edition": rules["edition"].value or "allowed",
        "edition_until": rules["edition"].until if rules["edition"].value == "until" else None,
    }
    said_by = {"line": "own", "group": "group", "platform": "platform"}
    sources = dict.fromkeys((*OWN, "group"), "own") | {name: said_by[rule.source] for name, rule in rules.items()}
    return {"own": _own(line), "in_force": in_force, "from": sources | {"edition_until": sources["edition"]}}


class _Nowhere:
    """Where a command says what nobody reads."""

    def write(self, _text: str) -> int:
        return 0
