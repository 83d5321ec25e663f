"""Wakes devices whose page is closed: a push to each that shall ring, and another when it need not any more.

Beside the path of calls, and never in it: what is to be pushed goes into a bounded queue, and threads of its own look
up the devices and speak to the push services. Whatever fails here costs nobody a call. A push carries the id of the
call and nothing else; the device asks for the rest, with its own sign-in.
"""

import base64
import logging
import queue
import re
import threading
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import msgspec
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import close_old_connections

from calls import conf, machine
from calls.logs import first_line
from calls.models import Leg
from devices import sessions, times
from devices.models import Device

log = logging.getLogger(__name__)

WAITING = 1000  # calls that wait for their pushes; one more is not pushed
UNSENT = 1000  # pushes that wait for a push service; likewise
THREADS = 4  # one slow push service must not hold up the others for long
TIMEOUT_S = 5.0
LOOK_S = 1.0  # between two looks at whether what was pushed still rings
OVER_TTL_S = 120  # a device that is off for longer need not hear that it would have rung
GONE = (404, 410)  # the browser has taken the subscription back
# Nothing that two readers of an address might understand differently: a backslash ends the host for who connects.
ENDPOINT = re.compile(r"https://([a-z0-9.-]+)(?::443)?(?:/[!-\[\]-~]*)?", re.IGNORECASE | re.ASCII)


class Pushed(NamedTuple):
    """One device that was told of a call."""

    user: str  # by key
    device: uuid.UUID
    subscription: dict[str, Any]


class Sender:
    """One for each process. `ring` may be called from any thread, and returns at once."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[machine.Call] = queue.Queue(WAITING)
        self.ringing: dict[uuid.UUID, list[Pushed]] = {}
        self.unsent = threading.BoundedSemaphore(UNSENT)
        self.starting = threading.Lock()
        self.thread: threading.Thread | None = None
        self.looked = 0.0

    def ring(self, calls: Iterable[machine.Call]) -> None:
        """These calls ring where devices may be asleep. Never raises and never waits."""
        for call in calls:
            if not conf.get("PUSH_KEY"):
                return
            try:
                self.waiting.put_nowait(call)
            except queue.Full:
                log.warning("too many calls wait to be pushed: nobody is woken for %s", call.id)
            self._start()

    def _start(self) -> None:
        with self.starting:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._run, name="calls-push", daemon=True)
                self.thread.start()

    def _run(self) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="calls-push") as pool:
            while True:
                try:
                    call = self.waiting.get(timeout=LOOK_S if self.ringing else None)
                except queue.Empty:
                    call = None
                close_old_connections()
                try:
                    if call is not None:
                        self._wake(pool, call)
                    self._look(pool)
                except Exception as error:  # the database is away: devices that were woken find out for themselves
                    log.warning("a push was not made: %s", first_line(error))
                    time.sleep(LOOK_S)
                finally:
                    close_old_connections()

    def _wake(self, pool: ThreadPoolExecutor, call: machine.Call) -> None:
        now = times.now()
        woken = [
            ((leg.key, device.session), Pushed(leg.key, device.pk, device.push))
            for leg in call.legs
            if leg.state == "ringing"
            for device in Device.objects.filter(user__pk=leg.key, signed_out_at=None, online_until__lte=now)
            if device.push is not None and machine.visible(leg, device.pk)
        ]
        ended = sessions.ended(sign_in for sign_in, _ in woken)  # the clock will sign these out
        asleep = [pushed for sign_in, pushed in woken if sign_in not in ended]
        ends = [leg.ring_until for leg in call.legs if leg.state == "ringing" and leg.ring_until]
        seconds = max(1, int((max(ends) - now).total_seconds())) if ends else 1
        told = self.ringing.get(call.id, [])
        asleep = [pushed for pushed in asleep if pushed not in told]  # somebody was added to a call that rings already
        if asleep:
            self.ringing[call.id] = [*told, *asleep]
        for pushed in asleep:
            self._send(pool, pushed, {"call": str(call.id)}, seconds)

    def _look(self, pool: ThreadPoolExecutor) -> None:
        """Tells devices of calls that do not ring for them any more."""
        if not self.ringing or time.monotonic() - self.looked < LOOK_S / 2:
            return
        self.looked = time.monotonic()
        legs = Leg.objects.filter(call__in=self.ringing, state="ringing").values_list("call", "user")
        ring = {(call, str(user)) for call, user in legs}
        for call, told in list(self.ringing.items()):
            over = [pushed for pushed in told if (call, pushed.user) not in ring]
            self.ringing[call] = [pushed for pushed in told if pushed not in over]
            if not self.ringing[call]:
                del self.ringing[call]
            for pushed in over:
                self._send(pool, pushed, {"call": str(call), "over": True}, OVER_TTL_S)

    def _send(self, pool: ThreadPoolExecutor, pushed: Pushed, said: dict[str, Any], ttl: int) -> None:
        if not self.unsent.acquire(blocking=False):
            log.warning("the push services are too slow: a push was dropped")
            return
        pool.submit(send, pushed, said, ttl).add_done_callback(lambda _: self.unsent.release())


def send(pushed: Pushed, said: dict[str, Any], ttl: int) -> None:
    """One push. A later one of the same call takes the place of an earlier that was not delivered yet."""
    from pywebpush import WebPushException, webpush  # imports aiohttp too: only sites that push pay for that

    session = requests.Session()
    session.max_redirects = 0  # a push service answers by itself
    session.trust_env = False
    try:
        webpush(
            pushed.subscription,
            msgspec.json.encode(said),
            vapid_private_key=conf.get("PUSH_KEY"),
            vapid_claims={"sub": conf.get("PUSH_CONTACT")},
            headers={"Urgency": "high", "Topic": uuid.UUID(said["call"]).hex},
            ttl=ttl,
            timeout=TIMEOUT_S,
            requests_session=session,
        )
    except WebPushException as error:
        status = error.response.status_code if error.response is not None else None
        if status in GONE:
            _forget(pushed)
        else:
            log.warning("a push service refused a push: %s", status or error.message)
    except requests.RequestException as error:
        log.warning("a push service cannot be reached: %s", type(error).__name__)
    except Exception:  # a subscription that is no key, say: nothing that another try would change
        log.exception("a push could not be made")
    finally:
        session.close()


def _forget(pushed: Pushed) -> None:
    close_old_connections()
    try:
        Device.objects.filter(pk=pushed.device, push=pushed.subscription).update(push=None)
    finally:
        close_old_connections()


def may_be_pushed_to(endpoint: str) -> bool:
    """Whether the address is a known push service's: this server must not be made to knock at any door."""
    plain = ENDPOINT.fullmatch(endpoint)
    host = plain[1].lower() if plain else ""
    return any(host == each or (each.startswith(".") and host.endswith(each)) for each in conf.get("PUSH_HOSTS"))


def is_key(key: str) -> bool:
    """Whether a text is a private key."""
    try:
        public_key(key)
    except ValueError:
        return False
    return True


@cache
def public_key(key: str) -> str:
    """What browsers are given to subscribe with. Raises ValueError."""
    number = int.from_bytes(base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)))
    public = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    return encode(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def encode(raw: bytes) -> str:
    """Base64 as Web Push has it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


sender = Sender()
