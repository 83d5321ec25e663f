"""What a user asks about the own account, as JSON over HTTP: history, devices, line.

Signed out is 401 with `{"error"}`, a body of the wrong shape 400, too many changes 429. Every change is told to the
user's devices at once.
"""

import datetime as dt
import math
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Annotated, Any, TypeVar

import msgspec
from django.contrib.auth import get_user_model
from django.core.exceptions import BadRequest
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from msgspec import Meta, Struct

from calls import history as calls_of
from calls import machine, models, search, switchboard
from calls.after import push
from calls.allowance import own_changes
from calls.machine import Refused
from devices import names, times
from devices.models import Device
from devices.sessions import stored_key

Body = TypeVar("Body")
View = Callable[..., HttpResponse]


def signed_in(view: View) -> View:
    """For a page that is open already: 401, where a redirect to a form would be of no use."""

    @wraps(view)
    @never_cache
    def checked(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return JsonResponse({"error": "Sign in first."}, status=401)
        return view(request, **kwargs)

    return checked


def counted(view: View) -> View:
    """For what changes something of the user's: 429 when there have been too many changes."""

    @wraps(view)
    def checked(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            own_changes.spend(request.user.pk)
        except Refused as refused:
            wait_s = math.ceil(refused.about["retry_ms"] / 1000)
            said = {"error": "Too many changes. Try again in a moment."}
            return JsonResponse(said, status=429, headers={"Retry-After": str(wait_s)})
        return view(request, **kwargs)

    return checked


def asked(request: HttpRequest, kind: type[Body]) -> Body:
    """The request's JSON body as a value."""
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None


# --- history ----------------------------------------------------------------------------------------------------------


@require_safe
@signed_in
def history(request: HttpRequest) -> JsonResponse:
    """A page of the own calls: `{calls: […], next, missed}`. `q` words of names, `missed=1`, `before` an entry's id."""
    before, words = request.GET.get("before", ""), request.GET.get("q", "")
    try:
        with search.bounded() if words else nullcontext():
            page = calls_of.page(
                request.user.pk,
                words=words,
                missed=request.GET.get("missed") == "1",
                before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
            )
    except search.TookTooLong:
        return JsonResponse({"error": "This search takes too long. Type more of the name."}, status=503)
    return JsonResponse({"calls": page.entries, "next": page.next, "missed": calls_of.missed(request.user.pk)})


@require_safe
@signed_in
def history_missed(request: HttpRequest) -> JsonResponse:
    """How many missed calls are news: `{missed}`."""
    return _missed(request)


def _missed(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"missed": calls_of.missed(request.user.pk)})


class Seen(Struct, frozen=True):
    until: dt.datetime


@require_POST
@signed_in
@counted
def history_seen(request: HttpRequest) -> JsonResponse:
    """The user has looked at what ended until then; the badge goes on every device. Answers `{missed}`."""
    until = asked(request, Seen).until
    if until.tzinfo is None or until.year < 2000:
        raise BadRequest("until needs a time zone, and a time of this age")
    news = calls_of.see(request.user.pk, min(until, times.now()))
    return _changed(request) if news else _missed(request)


class Hide(Struct, frozen=True):
    ids: Annotated[list[int], Meta(max_length=1000)] | None  # None: all of them
    hidden: bool = True


@require_POST
@signed_in
@counted
def history_hide(request: HttpRequest) -> JsonResponse:
    """Takes entries out of the own history, or puts them back. Answers `{missed, changed}`."""
    wanted = asked(request, Hide)
    if wanted.ids is None and not wanted.hidden:
        raise BadRequest("name the entries to put back")
    ids = None if wanted.ids is None else [id for id in wanted.ids if 0 < id < 2**63]
    return _changed(request, changed=calls_of.hide(request.user.pk, ids, wanted.hidden))


def _changed(request: HttpRequest, **more: Any) -> JsonResponse:
    missed = calls_of.missed(request.user.pk)
    switchboard.tell_history(request.user.pk, missed)
    return JsonResponse({"missed": missed, **more})


# --- devices ----------------------------------------------------------------------------------------------------------


@require_safe
@signed_in
def devices(request: HttpRequest) -> JsonResponse:
    """The own signed-in devices, the online ones first: `{devices: [{id, name, kind, online, seen, since, push,
    with}]}`.

    `with` are the ids of those that share its sign-in, because they are in the same browser: they sign out together.
    """
    now = times.now()
    mine = list(_mine(request).order_by("-last_seen_at"))
    together: defaultdict[str, list[str]] = defaultdict(list)
    for each in mine:
        together[each.session or str(each.pk)].append(str(each.pk))
    found = [
        {
            "id": str(each.pk),
            "name": each.name,
            "kind": each.kind,
            "online": each.online_until > now,
            "seen": each.last_seen_at.isoformat(),
            "since": each.logged_in_at.isoformat(),
            "push": each.push is not None,
            "with": [id for id in together[each.session or str(each.pk)] if id != str(each.pk)],
        }
        for each in mine
    ]
    return JsonResponse({"devices": sorted(found, key=lambda each: not each["online"])})


class Rename(Struct, frozen=True):
    id: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]


@require_POST
@signed_in
@counted
def device_rename(request: HttpRequest) -> HttpResponse:
    """Gives an own device another name."""
    wanted = asked(request, Rename)
    name = names.clean(wanted.name)
    if not name:
        raise BadRequest("the name has nothing to see in it")
    device = _mine(request).filter(pk=wanted.id).first()
    if device is None:
        return JsonResponse({"error": "This device is signed out."}, status=404)
    switchboard.rename(device, name)
    return JsonResponse({})


class SignOut(Struct, frozen=True):
    id: uuid.UUID | None = None  # this one, and the others in its browser
    all_but: uuid.UUID | None = None  # or all but this one and the others in its browser


@require_POST
@signed_in
def device_sign_out(request: HttpRequest) -> HttpResponse:
    """Signs out the sign-in of one own device, or all but that: `{signed_out}` says how many devices that were.

    Their pages are told at once.
    """
    wanted = asked(request, SignOut)
    mine = _mine(request)
    match wanted.id, wanted.all_but:
        case uuid.UUID() as id, None:
            gone = list(mine.filter(pk=id))
        case None, uuid.UUID() as id:
            kept = mine.filter(pk=id).first()
            if kept is None:
                return JsonResponse({"error": "This device is signed out."}, status=404)
            gone = list(mine.exclude(pk=id).exclude(session=kept.session or None))
        case _:
            raise BadRequest("say which device, or all but which")
    return JsonResponse({"signed_out": sum(len(switchboard.sign_out(device)) for device in gone)})


class Keys(Struct, frozen=True):
    p256dh: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{87}=?$")]
    auth: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22}(==)?$")]


class Subscription(Struct, frozen=True):
    """What `PushSubscription.toJSON()` says in a browser."""

    endpoint: Annotated[str, Meta(max_length=1000)]
    keys: Keys


class Subscribe(Struct, frozen=True):
    id: uuid.UUID
    subscription: Subscription | None


@require_POST
@signed_in
@counted
def device_push(request: HttpRequest) -> HttpResponse:
    """Where an own device is woken when its page is closed; None: nowhere any more. Answers `{push}`."""
    wanted = asked(request, Subscribe)
    subscription = wanted.subscription
    if subscription is not None and not push.may_be_pushed_to(subscription.endpoint):
        return JsonResponse({"error": "This push service is not one that the operator allows."}, status=403)
    if subscription is not None:  # whoever used this browser before is not called here any more
        others = Device.objects.filter(push__endpoint=subscription.endpoint).exclude(user=request.user.pk)
        others.update(push=None)
    changed = _mine(request).filter(pk=wanted.id).update(push=msgspec.to_builtins(subscription))
    if not changed:
        return JsonResponse({"error": "This device is signed out."}, status=404)
    return JsonResponse({"push": subscription is not None})


def _mine(request: HttpRequest) -> QuerySet[Device]:
    return Device.objects.filter(user=request.user.pk, signed_out_at=None)


# --- line -------------------------------------------------------------------------------------------------------------


@require_safe
@signed_in
def line(request: HttpRequest) -> JsonResponse:
    """The own line as `welcome` has it, and the favourites: `{line, favourites: [{id, name}]}`."""
    return _line(request)


def _line(request: HttpRequest) -> JsonResponse:
    mine = switchboard.line_of(request.user.pk)
    return JsonResponse({"line": switchboard.line_view(mine), "favourites": switchboard.favourites(mine)})


class Switch(Struct, frozen=True):
    on: bool


@require_POST
@signed_in
@counted
def line_dnd(request: HttpRequest) -> JsonResponse:
    """Switches do not disturb, for all of the user's devices. Answers `{line}`."""
    changed = switchboard.switch_dnd(request.user.pk, asked(request, Switch).on)
    return JsonResponse({"line": switchboard.line_view(changed)})


class Favourite(Struct, frozen=True):
    user: Annotated[str, Meta(min_length=1, max_length=150, pattern=r"^[^\x00]*$")]
    on: bool


@require_POST
@signed_in
@counted
def line_favourite(request: HttpRequest) -> HttpResponse:
    """Whose calls ring even when the user does not want to be disturbed. Answers as `line`."""
    wanted = asked(request, Favourite)
    other = get_user_model()._default_manager.filter(username=wanted.user, is_active=True).first()
    if other is None or other == request.user:
        return JsonResponse({"error": "There is no such person."}, status=404)
    try:
        switchboard.favour(request.user.pk, other.pk, wanted.on)
    except Refused:
        return JsonResponse({"error": f"{switchboard.MAX_FAVOURITES} favourites are the most."}, status=409)
    return _line(request)


# --- a call, as a service worker asks for it --------------------------------------------------------------------------


@require_safe
@signed_in
def ringing(request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
    """What a device that was woken shows: `{rings, title, body, answer, reject, token}`, in the user's language.

    When it does not ring any more: what was missed, or with `passing` where it was answered or declined, which is worth
    a moment's look. 404 when it never rang here.
    """
    found = _rung(request, call_id)
    if found is None:
        return JsonResponse({"error": "There is no such call."}, status=404)
    call, leg, _ = found
    inviter = machine.leg_of(call, leg.by)
    name = inviter.name if inviter else next(each.name for each in call.legs if each is not leg)
    kind = gettext("Incoming video call") if call.kind == "video" else gettext("Incoming call")
    said: dict[str, Any] = {"rings": leg.state == "ringing", "title": name, "body": kind}
    if leg.state == "ringing":
        said |= {"answer": gettext("Answer"), "reject": gettext("Decline"), "token": get_token(request)}
    elif leg.state in ("missed", "cancelled", "unreachable") or (leg.state == "removed" and leg.joined_at is None):
        said |= {"title": gettext("Missed call from %(name)s") % {"name": name}, "body": ""}
    else:
        said |= {"body": _elsewhere(leg), "passing": True}
    return JsonResponse(said)


def _elsewhere(leg: machine.Leg) -> str:
    """What became of a ring that is not missed."""
    if leg.state == "rejected":
        return gettext("Declined")
    if leg.device_name:
        return gettext("Answered on %(device)s") % {"device": leg.device_name}
    return gettext("Call ended")


@require_POST
@signed_in
def ringing_reject(request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
    """Declines the call, for all of the user's devices. Answers `{rejected}`."""
    found = _rung(request, call_id)
    if found is None:
        return JsonResponse({"error": "There is no such call."}, status=404)
    call, leg, device = found
    seat = machine.Seat(leg.key, device.pk, device.name, uuid.uuid4())  # no page of it is open
    outcome = switchboard.perform(call.id, machine.Reject(seat))
    return JsonResponse({"rejected": outcome.refused is None})


def _rung(request: HttpRequest, call_id: uuid.UUID) -> tuple[machine.Call, machine.Leg, Device] | None:
    """The call, the user's leg in it, and the device of this sign-in that it rings or rang on."""
    call = models.load(call_id)
    leg = machine.leg_of(call, str(request.user.pk)) if call else None
    if call is None or leg is None or leg.dir != "in":
        return None
    here = _mine(request).filter(session=stored_key(request.session.session_key))
    device = next((each for each in here if machine.visible(leg, each.pk)), None)
    return (call, leg, device) if device else None
