"""Posts events to the endpoints of other people's software, beside the clock, and never in the path of a call.

What is to be sent is a row for each endpoint and event. A process takes due rows for a while (LEASE_S), posts them,
and writes what came of it. If it dies in between, the rows are due again: so each event arrives at least once. Events
of one call wait for each other at each endpoint; an endpoint that hangs takes no more than AT_ONCE of the threads.
"""

import asyncio
import contextlib
import datetime as dt
import http.client
import ipaddress
import logging
import random
import socket
import ssl
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from standardwebhooks.webhooks import Webhook as Signer

from calls import conf, events, pool
from calls.logs import Trouble
from calls.models import Delivery, Event, Webhook, webhook_secret
from devices import times

log = logging.getLogger(__name__)
unsent = Trouble(log, "webhooks wait")

# After each failure, until the next try; with jitter. Ten tries in three days.
RETRIES_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1
TIMEOUT_S = 15.0  # for an answer, from the first byte to the last
LEASE_S = 120.0  # for which a process has what it took: longer than AHEAD deliveries can take
THREADS, AT_ONCE = 16, 4  # in all, and for one endpoint
TAKEN, AHEAD = 96, 24  # deliveries that a process has taken, in all and for one endpoint
PLANNED = 500  # events that are looked at for an endpoint in one go
LOOK_S = 1.0
GATHER_S = 0.05
COLLECTED = 10  # batches of entries that are read between two looks at what is due
OFF_AFTER = dt.timedelta(days=5)  # of nothing but failures
OLD_SECRET = dt.timedelta(hours=24)
MOST_WAIT_S = 86_400.0  # that an endpoint may ask for by Retry-After
ANSWER = 300  # characters of an answer that are kept
MOST_REPLAYED = 10_000


class Target(NamedTuple):
    """Where to connect to: the address that was found for the host, and checked."""

    address: str
    host: str
    port: int
    path: str
    tls: bool


class Work(NamedTuple):
    """One delivery that this process has taken."""

    delivery: int
    webhook: uuid.UUID
    url: str
    event: str
    body: bytes
    secrets: tuple[str, ...]


class Result(NamedTuple):
    work: Work
    status: int | None
    answer: str
    took_ms: int
    retry_s: float | None


class Refused(Exception):
    """The address is not one that webhooks are sent to."""


# --- where to ---------------------------------------------------------------------------------------------------------


def check(url: str) -> None:
    """Raises Refused, with a sentence, for a URL that webhooks are never sent to. Looks nothing up."""
    _parts(url)


def _parts(url: str) -> tuple[str, int, str, bool]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("ascii")
    except ValueError:
        raise Refused("This is no URL.") from None
    plain = all(33 <= ord(letter) < 127 and letter not in '\\"<>' for letter in url)
    if parts.scheme not in ("http", "https") or not host or not plain or parts.username is not None or parts.fragment:
        raise Refused("Give a URL like https://crm.example.com/hooks, without a user or a fragment.")
    if parts.scheme == "http" and not conf.get("WEBHOOK_NETWORKS"):
        raise Refused("Only https is allowed.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port or (443 if parts.scheme == "https" else 80), path, parts.scheme == "https"


def resolve(url: str) -> Target:
    """Looks the host up, once. Raises Refused when one of its addresses may not be called, since nobody shall make this
    server knock at inner doors; OSError when the host is not found."""
    host, port, path, tls = _parts(url)
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not may_be_called(str(address), tls):
            raise Refused(f"{host} is at an address that webhooks are not sent to.")
    return Target(str(found[0]), host, port, path, tls)


def may_be_called(address: str, tls: bool) -> bool:
    """A public address by https, or one in WEBHOOK_NETWORKS."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    if any(ip in ipaddress.ip_network(network) for network in conf.get("WEBHOOK_NETWORKS")):
        return True
    return tls and ip.is_global and not ip.is_multicast


# --- sending ----------------------------------------------------------------------------------------------------------


def send(work: Work) -> Result:
    """Posts one event. Never raises."""
    began = time.monotonic()
    try:
        status, answer, retry_s = _post(resolve(work.url), work)
    except Refused as refused:
        status, answer, retry_s = None, str(refused), None
    except (OSError, http.client.HTTPException, ValueError) as error:
        status, answer, retry_s = None, f"No answer: {type(error).__name__}", None
    return Result(work, status, answer[:ANSWER].replace("\0", ""), round(1000 * (time.monotonic() - began)), retry_s)


def _post(target: Target, work: Work) -> tuple[int, str, float | None]:
    now = dt.datetime.now(dt.UTC)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "callplatform",
        "webhook-id": work.event,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Signer(s).sign(work.event, now, work.body.decode()) for s in work.secrets),
        "Connection": "close",
    }
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        link = stack.enter_context(socket.create_connection((target.address, target.port), TIMEOUT_S))
        if target.tls:
            wrapped = _tls().wrap_socket(link, server_hostname=target.host, do_handshake_on_connect=False)
            link = stack.enter_context(wrapped)
        # An answer that comes drop by drop must be over in time too.
        watchdog = threading.Timer(max(0.1, TIMEOUT_S - (time.monotonic() - began)), _cut, [link])
        watchdog.daemon = True
        watchdog.start()
        stack.callback(watchdog.cancel)
        if isinstance(link, ssl.SSLSocket):
            link.do_handshake()
        asking = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT_S)
        asking.sock = link
        asking.request("POST", target.path, work.body, headers)
        response = asking.getresponse()
        said = response.read(ANSWER).decode(errors="replace")
        return response.status, said, _seconds(response.getheader("Retry-After", ""))


def _cut(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _seconds(said: str) -> float | None:
    return min(float(said), MOST_WAIT_S) if said.isascii() and said.isdigit() and len(said) < 10 else None


# --- what is to be sent -----------------------------------------------------------------------------------------------


def plan() -> None:
    """Writes a delivery for each new event of each active endpoint."""
    newest = events.newest()
    for id in list(Webhook.objects.filter(active=True, position__lt=newest).values_list("pk", flat=True)):
        with transaction.atomic():
            webhook = Webhook.objects.select_for_update(skip_locked=True).filter(pk=id, active=True).first()
            if webhook is None:
                continue
            found = events.read(webhook.position, (), PLANNED)
            now = times.now()
            Delivery.objects.bulk_create(
                Delivery(webhook=webhook, event=event, call=event.call, next_at=now)
                for event in found
                if _is_for(webhook, event)
            )
            if found:
                Webhook.objects.filter(pk=id).update(position=found[-1].pk)


def _is_for(webhook: Webhook, event: Event) -> bool:
    if event.type == "ping":  # goes to the endpoint that was tested, which has it already
        return False
    return not webhook.types or event.type in webhook.types


def claim(busy: Counter[uuid.UUID], most: int) -> list[Work]:
    """Takes due deliveries, live ones first; of each call only the first that an endpoint has not had."""
    full = [id for id, number in busy.items() if number >= AHEAD]
    now = times.now()
    earlier = Delivery.objects.filter(
        webhook=OuterRef("webhook"), call=OuterRef("call"), state="waiting", replay=OuterRef("replay"),
        event__lt=OuterRef("event"),
    )  # fmt: skip
    due = Delivery.objects.filter(Q(call=None) | ~Exists(earlier), state="waiting", next_at__lte=now)
    due = due.filter(webhook__active=True).exclude(webhook__in=full).order_by("replay", "next_at")
    with transaction.atomic():
        rows = list(due.select_for_update(skip_locked=True, of=("self",))[: 2 * most])
        if not rows:
            return []
        mine: list[int] = []
        taken = Counter(busy)
        for row in rows:
            if taken[row.webhook_id] < AHEAD and len(mine) < most:
                taken[row.webhook_id] += 1
                mine.append(row.pk)
        Delivery.objects.filter(pk__in=mine).update(next_at=now + dt.timedelta(seconds=LEASE_S), tries=F("tries") + 1)
    taken_rows = Delivery.objects.filter(pk__in=mine).select_related("webhook", "event")
    return [_work(row, now) for row in taken_rows]


def _work(row: Delivery, now: dt.datetime) -> Work:
    webhook, said = row.webhook, events.tell(row.event)
    secrets = [webhook.secret]
    if webhook.old_secret and webhook.old_until and webhook.old_until > now:
        secrets.append(webhook.old_secret)
    return Work(row.pk, webhook.pk, webhook.url, said["id"], msgspec.json.encode(said), tuple(secrets))


def note(results: Sequence[Result]) -> None:
    """Writes what came of these deliveries, and when they are tried again."""
    now = times.now()
    rows = Delivery.objects.in_bulk([result.work.delivery for result in results])
    well, ill, gone = set(), set(), set()
    changed = []
    for result in results:
        row, webhook = rows.get(result.work.delivery), result.work.webhook
        if row is None:  # the endpoint was deleted meanwhile
            continue
        changed.append(row)
        row.at, row.status, row.answer, row.took_ms = now, result.status, result.answer, result.took_ms
        if result.status is not None and 200 <= result.status < 300:
            row.state = "done"
            well.add(webhook)
            continue
        ill.add(webhook)
        if result.status == 410:
            gone.add(webhook)
        if row.tries > len(RETRIES_S):
            row.state = "failed"
        else:
            wait_s = RETRIES_S[max(0, row.tries - 1)] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            row.next_at = now + dt.timedelta(seconds=max(wait_s, result.retry_s or 0))
    Delivery.objects.bulk_update(changed, ["at", "status", "answer", "took_ms", "state", "next_at"])
    if well:
        Webhook.objects.filter(pk__in=well).exclude(failing_since=None).update(failing_since=None)
    if ill - well:
        Webhook.objects.filter(pk__in=ill - well, failing_since=None).update(failing_since=now)
    failing = Webhook.objects.filter(pk__in=ill, failing_since__lt=now - OFF_AFTER) if ill else ()
    for webhook in gone:
        switch_off(webhook, "gone")
    for each in failing:
        switch_off(each.pk, "failing")


def switch_off(webhook: uuid.UUID, why: str) -> None:
    """Sends nothing more to the endpoint until somebody switches it on; it then goes on where it stopped."""
    now = times.now()
    if Webhook.objects.filter(pk=webhook, active=True).update(active=False, off_why=why, off_since=now):
        log.warning("webhook %s was switched off: %s", webhook, why)
        events.add("webhook.off", {"webhook": str(webhook), "why": why})


def begin(webhook: Webhook) -> None:
    """Saves a new endpoint, to which events are sent from now on."""
    webhook.position = events.newest()
    webhook.save(force_insert=True)
    events.begin()


def switch_on(webhook: Webhook) -> None:
    now = times.now()
    switched = {"active": True, "off_why": "", "off_since": None, "failing_since": None}
    if Webhook.objects.filter(pk=webhook.pk, active=False).update(**switched):
        Delivery.objects.filter(webhook=webhook, state="waiting").update(next_at=now, tries=0)


def rotate(webhook: Webhook) -> str:
    """A new secret. The old one signs beside it for a day."""
    webhook.old_secret, webhook.old_until = webhook.secret, times.now() + OLD_SECRET
    webhook.secret = webhook_secret()
    webhook.save(update_fields=["secret", "old_secret", "old_until"])
    return webhook.secret


def test(webhook: Webhook) -> Delivery:
    """Sends a `ping` to this endpoint only."""
    now = times.now()
    event = events.add("ping", {"webhook": str(webhook.pk)})
    return Delivery.objects.create(webhook=webhook, event=event, next_at=now)


def replay(
    webhook: Webhook, since: dt.datetime | None = None, until: dt.datetime | None = None,
    deliveries: Collection[int] = (), failed: bool = False,
) -> int:  # fmt: skip
    """Sends events once more: those of a time, of these deliveries, or of all that have failed. Returns how many."""
    mine = Delivery.objects.filter(webhook=webhook)
    if failed:
        wanted = Event.objects.filter(pk__in=mine.filter(state="failed").values("event"))
    elif deliveries:
        wanted = Event.objects.filter(pk__in=mine.filter(pk__in=deliveries).values("event"))
    else:
        wanted = Event.objects.filter(at__gte=since).exclude(type="ping")
        wanted = wanted.filter(at__lt=until) if until else wanted
        wanted = wanted.filter(type__in=webhook.types) if webhook.types else wanted
    now = times.now()
    rows = [
        Delivery(webhook=webhook, event=event, call=event.call, replay=True, next_at=now)
        for event in wanted.order_by("pk")[:MOST_REPLAYED]
    ]
    if failed:
        mine.filter(state="failed").update(state="again")
    return len(Delivery.objects.bulk_create(rows))


# --- beside the clock -------------------------------------------------------------------------------------------------


class Sender:
    """One for each process."""

    def __init__(self) -> None:
        self.gap = events.Gap()
        self.results: list[Result] = []
        self.busy: Counter[uuid.UUID] = Counter()  # deliveries on their way, of each endpoint

    def step(self, results: list[Result]) -> list[Work]:
        """Writes results, makes new deliveries, and takes what is due. Blocks."""
        if results:
            note(results)
        for _ in range(COLLECTED):
            if not events.collect(self.gap):
                break
        if not Webhook.objects.exists():
            return []
        plan()
        room = TAKEN - self.busy.total()
        return claim(self.busy, room) if room > 0 else []


async def run() -> None:
    """Sends until cancelled."""
    sender, thread, senders = Sender(), pool.Apart("calls-webhooks"), ThreadPoolExecutor(THREADS, "calls-webhook")
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    places: defaultdict[uuid.UUID, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))

    async def deliver(work: Work) -> None:
        try:
            async with places[work.webhook]:
                sender.results.append(await loop.run_in_executor(senders, send, work))
        finally:
            sender.busy[work.webhook] -= 1
            sender.busy += Counter()  # forgets those that have none
            woken.set()

    try:
        while True:
            woken.clear()
            results, sender.results = sender.results, []
            try:
                for work in await thread.run(sender.step, results):
                    sender.busy[work.webhook] += 1
                    task = asyncio.create_task(deliver(work))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                unsent.over()
            except pool.AWAY as error:
                unsent.met(error)  # what was sent and not noted is sent once more
            except Exception:
                log.exception("webhooks could not be sent")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await woken.wait()
                    await asyncio.sleep(GATHER_S)  # in which more answers come
    finally:
        senders.shutdown(wait=False, cancel_futures=True)
        thread.close()
