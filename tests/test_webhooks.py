"""Webhooks against real receivers that fail, hang, redirect and go; and the events behind them."""

import asyncio
import datetime as dt
import io
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import connections
from django.utils import timezone
from standardwebhooks.webhooks import Webhook as Reader
from standardwebhooks.webhooks import WebhookVerificationError

from calls import events, machine, switchboard, webhooks
from calls.api import keys
from calls.models import Delivery, Entry, Event, Feed, Webhook
from tests.api_kit import Api, code
from tests.panel_kit import browser_in_role
from tests.race_kit import Contestant, Handset

pytestmark = pytest.mark.django_db(transaction=True)


class Receiver:
    """Somebody else's server. `answers` are given in turn, the last one again and again."""

    def __init__(self):
        self.heard, self.answers, self.headers = [], [200], {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.heard.append((dict(self.headers), body))
                status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
                if status == "hang":
                    receiver.hanging.wait(30)
                    return
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"said")

            def log_message(self, *args):
                pass

        self.hanging = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks?of=calls"

    def bodies(self):
        return [json.loads(body) for _, body in self.heard]

    def types(self, call=None):
        return [each["type"] for each in self.bodies() if call is None or each["data"]["call"]["id"] == str(call)]

    def close(self):
        self.hanging.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver(set_calls):
    set_calls(WEBHOOK_NETWORKS=["127.0.0.0/8"])
    keys._rates.cache_clear()
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def back_end(people):
    return Api("webhooks:read", "webhooks:write", "events:read")


@pytest.fixture
def hook(receiver, back_end):
    made = back_end.post("/webhooks", {"url": receiver.url})
    assert made.status_code == 201, made.content
    return made.json()


@pytest.fixture
def talk(people):
    """A call of alice with bob: placed, answered, ended."""
    alice, bob = Handset(people["alice"], "Laptop"), Handset(people["bob"], "Phone")

    def talk():
        call = uuid.uuid4()
        assert alice.invites(people["bob"], call=call).do().refused is None
        for command in (machine.Ringing(bob.seat), machine.Answer(bob.seat), machine.Hangup(alice.seat)):
            assert switchboard.perform(call, command).refused is None
        return call

    return talk


WHOLE = ["call.placed", "call.ringing", "call.answered", "leg.left", "leg.left", "call.ended"]


class Process:
    """What one server process does about webhooks, step by step."""

    def __init__(self):
        self.sender = webhooks.Sender()

    def sends(self):
        results, idle = [], 0
        while idle < 2:
            taken = self.sender.step(results)
            idle = 0 if taken or results else idle + 1
            results = [webhooks.send(work) for work in taken]

    def dies(self):
        """It has posted what it took, and is gone before it has written that down."""
        for work in self.sender.step([]):
            webhooks.send(work)


def later(**time_passed):
    """So much time passes for whatever waits."""
    back = dt.timedelta(**time_passed)
    for row in Delivery.objects.filter(state="waiting"):
        Delivery.objects.filter(pk=row.pk).update(next_at=row.next_at - back)


def test_a_call_is_told_in_order_signed_and_once(receiver, hook, talk):
    call = talk()
    Process().sends()
    assert sorted(receiver.types()) == sorted(WHOLE) and receiver.types()[-1] == "call.ended"
    assert receiver.types()[:3] == WHOLE[:3]
    seqs = [each["seq"] for each in receiver.bodies()]
    assert seqs == sorted(set(seqs))
    for headers, body in receiver.heard:
        said = Reader(hook["secret"]).verify(body, {name.lower(): value for name, value in headers.items()})
        assert said["id"] == {name.lower(): value for name, value in headers.items()}["webhook-id"]
        with pytest.raises(WebhookVerificationError):
            Reader("whsec_" + "A" * 43 + "=").verify(body, {n.lower(): v for n, v in headers.items()})
    answered = receiver.bodies()[2]["data"]
    assert answered["user"] == "bob" and answered["call"]["id"] == str(call) and answered["call"]["state"] == "active"
    assert {leg["user"]: leg["device"]["name"] for leg in answered["call"]["legs"]} == {
        "alice": "Laptop",
        "bob": "Phone",
    }
    assert receiver.bodies()[0]["data"]["call"]["state"] == "ringing", "as it was right after the change"
    Process().sends()
    assert len(receiver.heard) == len(WHOLE)


def test_only_the_types_that_were_asked_for_are_sent(receiver, back_end, talk):
    back_end.post("/webhooks", {"url": receiver.url, "types": ["call.ended"]})
    talk()
    Process().sends()
    assert receiver.types() == ["call.ended"]


def test_a_receiver_that_fails_gets_everything_later_and_in_order_of_each_call(receiver, hook, talk):
    receiver.answers = [500]
    first, second = talk(), talk()
    process = Process()
    process.sends()
    assert set(receiver.types()) == {"call.placed"}, "later events of a call wait for the first"
    assert len(receiver.heard) == 2, "and other calls go on"
    receiver.answers = [503, 200]
    later(seconds=6)
    process.sends()
    later(minutes=6)
    process.sends()
    for call in (first, second):
        told = receiver.types(call)
        assert told[0] == "call.placed" and told[-1] == "call.ended" and set(told) == set(WHOLE)
        seqs = [each["seq"] for each in receiver.bodies() if each["data"]["call"]["id"] == str(call)]
        assert seqs == sorted(seqs)
    assert not Delivery.objects.exclude(state="done").exists()


def test_retries_come_more_and_more_rarely_and_end(receiver, hook, talk):
    receiver.answers = [500]
    talk()
    process, waits = Process(), []
    for _ in range(10):
        process.sends()
        row = Delivery.objects.order_by("event").first()
        if row.state == "waiting":
            waits.append((row.next_at - row.at).total_seconds())
        later(days=2)
    for wait, promised in zip(waits, webhooks.RETRIES_S, strict=True):
        assert promised * 0.89 < wait < promised * 1.11 + 1
    assert row.state == "failed" and row.tries == 10 and row.status == 500 and row.answer == "said"
    assert receiver.types().count("call.placed") == 10 and receiver.types()[10:] == ["call.ringing"], "the call goes on"


def test_retry_after_is_obeyed_and_a_redirect_is_not_followed(receiver, hook, talk):
    other = Receiver()
    receiver.answers, receiver.headers = [429], {"Retry-After": "3600"}
    talk()
    process = Process()
    process.sends()
    row = Delivery.objects.order_by("event").first()
    assert (row.next_at - row.at).total_seconds() >= 3600
    receiver.answers, receiver.headers = [307], {"Location": other.url}
    later(hours=2)
    process.sends()
    assert Delivery.objects.order_by("event").first().status == 307 and not other.heard
    other.close()


def test_410_switches_off_until_somebody_switches_on(receiver, hook, back_end, talk):
    receiver.answers = [410]
    talk()
    process = Process()
    process.sends()
    told = back_end.get("/webhooks").json()["items"][0]
    assert (told["active"], told["off_why"]) == (False, "gone")
    talk()
    later(days=2)
    process.sends()
    assert len(receiver.heard) == 1
    assert [each["type"] for each in back_end.get("/events?types=webhook.off").json()["items"]] == ["webhook.off"]
    receiver.answers = [200]
    assert back_end.patch(f"/webhooks/{hook['id']}", {"active": True}).json()["active"] is True
    process.sends()
    assert receiver.types().count("call.ended") == 2, "it goes on where it stopped"


def test_five_days_of_nothing_but_failures_switch_off(receiver, hook, talk):
    receiver.answers = [500]
    talk()
    process = Process()
    process.sends()
    Webhook.objects.update(failing_since=timezone.now() - dt.timedelta(days=5, minutes=1))
    later(minutes=1)
    process.sends()
    assert Webhook.objects.get().off_why == "failing"


def test_a_process_that_dies_after_posting_costs_no_event(receiver, hook, talk):
    call = talk()
    Process().dies()
    assert receiver.types() == ["call.placed"]
    Process().sends()
    assert receiver.types() == ["call.placed"], "what the other took is left to it for a while"
    later(seconds=webhooks.LEASE_S + 1)
    Process().sends()
    assert receiver.types(call)[:2] == ["call.placed", "call.placed"] and set(receiver.types(call)) == set(WHOLE)
    assert receiver.bodies()[0]["id"] == receiver.bodies()[1]["id"], "so that the receiver can drop the double"


def test_an_endpoint_that_hangs_or_drips_is_cut_off_and_delays_no_other(receiver, hook, back_end, talk, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)
    other = Receiver()
    back_end.post("/webhooks", {"url": other.url})
    receiver.answers = ["hang"]
    for _ in range(6):
        talk()
    taken = webhooks.Sender().step([])
    assert [work.url for work in taken].count(receiver.url) == 6
    began = time.monotonic()
    hung = next(webhooks.send(work) for work in taken if work.url == receiver.url)
    assert hung.status is None and time.monotonic() - began < 10
    assert [webhooks.send(work).status for work in taken if work.url == other.url] == [200] * 6
    other.close()


@pytest.mark.parametrize(
    ("url", "networks", "may"),
    [
        ("https://127.0.0.1/x", [], False),
        ("https://[::1]/x", [], False),
        ("https://[::ffff:10.0.0.1]/x", [], False),
        ("https://169.254.169.254/latest", [], False),
        ("https://10.1.2.3/", [], False),
        ("https://10.1.2.3/", ["10.0.0.0/8"], True),
        ("http://10.1.2.3/", ["10.0.0.0/8"], True),
        ("http://93.184.216.34/", ["10.0.0.0/8"], False),
        ("https://93.184.216.34/", [], True),
        ("https://localhost/", [], False),
    ],
)
def test_only_public_addresses_are_called_but_for_the_operators_networks(set_calls, url, networks, may):
    set_calls(WEBHOOK_NETWORKS=networks)
    if may:
        assert webhooks.resolve(url).host
    else:
        with pytest.raises(webhooks.Refused):
            webhooks.resolve(url)


def test_what_is_no_address_of_an_endpoint_is_refused(back_end, set_calls):
    for url in (
        "ftp://x.example/", "http://x.example/", "https://", "x", "https://u:p@x.example/", "https://x.example/#f",
        "https://x.example/a b", "https://x.example:99999/", "https://x.example\\@127.0.0.1/", "https://é.example/",
    ):  # fmt: skip
        refused = back_end.post("/webhooks", {"url": url})
        assert code(refused) == (422, "invalid") and refused.json()["errors"][0]["field"] == "/url", url
    assert code(back_end.post("/webhooks", {"url": "https://x.example/", "types": ["call.x"]})) == (422, "invalid")
    blind = Api("webhooks:write", name="blind")
    refused = blind.post("/webhooks", {"url": "https://x.example/"})
    assert code(refused) == (403, "forbidden") and refused.json()["scope"] == "events:read"


def test_a_secret_is_shown_once_and_rotates_with_the_old_one_beside_it(receiver, hook, back_end, talk):
    assert "secret" not in back_end.get("/webhooks").json()["items"][0]
    new = back_end.post(f"/webhooks/{hook['id']}/rotate").json()["secret"]
    talk()
    Process().sends()
    headers = {name.lower(): value for name, value in receiver.heard[0][0].items()}
    for secret in (hook["secret"], new):
        assert Reader(secret).verify(receiver.heard[0][1], headers)
    Webhook.objects.update(old_until=timezone.now())
    back_end.post(f"/webhooks/{hook['id']}/test")
    Process().sends()
    headers = {name.lower(): value for name, value in receiver.heard[-1][0].items()}
    assert Reader(new).verify(receiver.heard[-1][1], headers)["type"] == "ping"
    with pytest.raises(WebhookVerificationError):
        Reader(hook["secret"]).verify(receiver.heard[-1][1], headers)


def test_deliveries_are_listed_and_sent_again(receiver, hook, back_end, people, talk):
    receiver.answers = [500]
    began = timezone.now()
    talk()
    process = Process()
    for _ in range(10):
        process.sends()
        later(days=2)
    assert Delivery.objects.filter(state="failed").count() == 1
    page = back_end.get(f"/webhooks/{hook['id']}/deliveries?limit=200").json()["items"]
    failed = [each for each in page if each["state"] == "failed"]
    assert failed and failed[0]["status"] == 500 and failed[0]["answer"] == "said"
    receiver.answers = [200]
    receiver.heard.clear()
    again = back_end.post(f"/webhooks/{hook['id']}/replay", {"deliveries": [failed[-1]["id"]]})
    assert again.status_code == 202 and again.json() == {"count": 1}
    process.sends()
    assert failed[-1]["event"] in [each["id"] for each in receiver.bodies()]
    receiver.heard.clear()
    later(days=3)
    process.sends()
    receiver.heard.clear()
    assert back_end.post(f"/webhooks/{hook['id']}/replay", {"since": began.isoformat()}).json()["count"] == len(WHOLE)
    process.sends()
    assert receiver.types()[0] == "call.placed" and len(receiver.heard) == len(WHOLE)
    for wrong in ({}, {"failed": True, "deliveries": [1]}, {"until": began.isoformat()}):
        assert code(back_end.post(f"/webhooks/{hook['id']}/replay", wrong)) == (422, "invalid")


def test_the_panel_makes_shows_sends_again_and_switches(receiver, people, talk):
    panel = browser_in_role(people["carol"], "administrator")
    made = panel.post("/admin/calls/webhook/add/", {"url": receiver.url, "types": []}).content.decode()
    webhook = Webhook.objects.get()
    assert webhook.secret in made
    receiver.answers = [500]
    talk()
    process = Process()
    for _ in range(10):
        process.sends()
        later(days=2)
    listed = panel.get("/admin/calls/webhook/").content.decode()
    assert receiver.url in listed and webhook.secret not in listed
    assert webhook.secret not in panel.get(f"/admin/calls/webhook/{webhook.pk}/change/").content.decode()
    assert "500" in panel.get("/admin/calls/delivery/?state=failed").content.decode()
    row = Delivery.objects.filter(state="failed").first()
    assert "said" in panel.get(f"/admin/calls/delivery/{row.pk}/change/").content.decode()
    receiver.answers = [200]
    panel.post("/admin/calls/webhook/", {"action": "send_failed", "_selected_action": [webhook.pk]})
    assert Delivery.objects.filter(replay=True).exists()
    panel.post("/admin/calls/delivery/", {"action": "send_again", "_selected_action": [row.pk]})
    assert Delivery.objects.filter(replay=True, event=row.event_id).count() == 2
    panel.post("/admin/calls/webhook/", {"action": "switch_off", "_selected_action": [webhook.pk]})
    assert Webhook.objects.get().active is False
    assert browser_in_role(people["dave"], "operator").get("/admin/calls/webhook/").status_code == 403


async def test_a_server_process_sends_by_itself(receiver, hook, talk, page):
    sending = asyncio.create_task(webhooks.run())
    call = await sync_to_async(talk)()
    async with asyncio.timeout(20):
        while len(receiver.types(call)) < len(WHOLE):  # noqa: ASYNC110 - posted by threads, which know no event loop
            await asyncio.sleep(0.05)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert receiver.types(call)[0] == "call.placed" and receiver.types(call)[-1] == "call.ended"


# --- events by GET ----------------------------------------------------------------------------------------------------


def test_events_are_read_by_a_position_that_is_kept(back_end, talk):
    talk()
    events.collect(events.Gap())
    assert back_end.get("/events").json() == {"items": [], "next": "0"}, "nobody had asked for events"
    position = back_end.get("/events?after=now").json()["next"]
    talk()
    gap = events.Gap()
    while events.collect(gap):
        pass
    first = back_end.get(f"/events?after={position}&limit=4").json()
    rest = back_end.get(f"/events?after={first['next']}").json()
    assert [each["type"] for each in first["items"] + rest["items"]] == WHOLE
    assert back_end.get(f"/events?after={rest['next']}").json() == {"items": [], "next": rest["next"]}
    only = back_end.get(f"/events?after={position}&types=call.ended,leg.missed").json()["items"]
    assert [each["type"] for each in only] == ["call.ended"] and only[0]["data"]["call"]["reason"] == "completed"
    for wrong in ("after=-1", "after=x", "after=" + "9" * 29, "types=call.x", "wait_s=26"):
        assert code(back_end.get(f"/events?{wrong}")) == (422, "invalid"), wrong
    Event.objects.filter(pk__lt=int(rest["next"])).delete()
    assert code(back_end.get("/events?after=1")) == (410, "gone")


def test_who_waits_for_an_event_has_it_when_it_comes(back_end, talk):
    position = back_end.get("/events?after=now").json()["next"]
    began = time.monotonic()
    assert back_end.get(f"/events?after={position}&wait_s=1").json()["items"] == []
    assert time.monotonic() - began >= 1
    waiting = Contestant(lambda: back_end.get(f"/events?after={position}&wait_s=20").json()["items"])
    talk()
    events.collect(events.Gap())
    assert waiting.result.result(20)[0]["type"] == "call.placed"


def test_an_entry_that_is_committed_late_is_not_passed_by(back_end, talk):
    """Ids are given before the commit. So a hole among them may still be filled, until whoever could do so is done."""
    events.asked()
    gap, other = events.Gap(), connections.create_connection("default")
    try:
        first = talk()
        while events.collect(gap):
            pass
        told = Event.objects.count()
        other.set_autocommit(False)
        with other.cursor() as cursor:
            spent = "INSERT INTO calls_spentinvite (id, user_id, at) SELECT %s, id, now() FROM auth_user LIMIT 1"
            cursor.execute(spent, [uuid.uuid4()])  # gives the transaction its number, as every change of a call does
            cursor.execute("SELECT nextval(pg_get_serial_sequence('calls_entry', 'id'))")
            hole = cursor.fetchone()[0]
        talk()
        for _ in range(3):
            events.collect(gap)
        assert Event.objects.count() == told, "what comes behind the hole waits"
        last = Entry.objects.filter(call=first).order_by("v").last()
        with other.cursor() as cursor:
            cursor.execute("UPDATE calls_entry SET id = %s WHERE id = %s", [hole, last.pk])  # it is filled after all
        other.commit()
        for _ in range(3):
            events.collect(gap)
        assert Event.objects.filter(call=first, type="call.ended").count() == 2, "and is told in its place"
        assert Event.objects.count() == told + len(WHOLE) + 3
        assert Feed.objects.get().entry == Entry.objects.order_by("id").last().pk
    finally:
        other.rollback()
        other.close()


def test_a_hole_that_stays_is_passed_by_when_nobody_can_fill_it(back_end, talk):
    events.asked()
    gap = events.Gap()
    talk()
    events.collect(gap)
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('calls_entry', 'id'))")
    told = Event.objects.count()
    talk()
    for _ in range(3):
        events.collect(gap)
    assert Event.objects.count() == told + len(WHOLE)


def test_an_erased_person_is_named_in_no_event(back_end, talk):
    events.asked()
    talk()
    events.collect(events.Gap())
    call_command("erase", "bob", yes=True, stdout=io.StringIO())
    assert "bob" not in back_end.get("/events").content.decode().lower()


def test_old_events_are_forgotten(back_end, hook, talk):
    talk()
    Process().sends()
    Event.objects.update(at=timezone.now() - dt.timedelta(days=31))
    assert events.forget() is False
    assert not Event.objects.exists() and not Delivery.objects.exists()


def test_a_call_whose_entries_cannot_be_decided_again_is_told_as_it_is(back_end, talk):
    events.asked()
    call = talk()
    events.collect(events.Gap())
    Entry.objects.filter(call=call, v=2).delete()
    event = Event.objects.filter(type="call.answered").get()
    assert events.tell(event)["data"]["call"]["state"] == "ended"
