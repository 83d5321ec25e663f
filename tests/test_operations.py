"""What machines and whoever keeps the site running ask: health, figures, the log, guessing, cleaning, erasing."""

import asyncio
import datetime as dt
import json
import logging
import re
import uuid

import pytest
from asgiref.sync import sync_to_async
from auditlog.models import LogEntry
from django.contrib.admin.models import LogEntry as PanelEntry
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from django.utils import timezone

from calls import clock, conf, logs, machine, switchboard
from calls.after import refusals
from calls.hub import hub
from calls.models import Call, Entry, Leg, Refusal
from devices import times
from devices.models import Device, Line, LineGroup
from tests.servers import figures

pytestmark = pytest.mark.django_db(transaction=True)


async def a_call(page):
    alice, bob = await page("alice"), await page("bob", "Bob's Phone")
    call = (await alice.invite("bob", data={"topic": "secret"}))["call"]["id"]
    await bob.sees(call)
    await bob.ask("answer", call=call)
    return call, alice, bob


def calls_settings(**changed):
    from django.conf import settings

    return override_settings(CALLS=settings.CALLS | changed)


# ── health ──


def test_a_process_that_lives_says_so_without_its_database(client, monkeypatch):
    monkeypatch.setattr("django.db.backends.base.base.BaseDatabaseWrapper.cursor", lambda *_: 1 / 0)
    assert client.get("/healthz").content == b"ok"


async def test_ready_looks_at_database_layer_and_clock(page, async_client, monkeypatch):
    await page("alice")  # starts the hub
    monkeypatch.setattr(hub, "errands", [clock.run])
    monkeypatch.setattr(clock.last, "tick", None)
    response = await async_client.get("/readyz")
    well = dict.fromkeys(("database", "orders", "layer", "clock", "time"), "ok")
    assert (response.status_code, response.json()) == (200, well)
    monkeypatch.setattr(clock.last, "tick", hub.began - 100)
    response = await async_client.get("/readyz")
    assert response.status_code == 503
    assert re.fullmatch(r"the clock has not ticked for 1\d\d s", response.json()["clock"])


async def test_without_its_layer_a_process_is_not_ready(async_client):
    away = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                        "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]}}}  # fmt: skip
    with override_settings(CHANNEL_LAYERS=away):
        await hub.start()
        response = await async_client.get("/readyz")
        await hub.stop()
    unheard = "this process does not hear its own messages through the channel layer"
    assert (response.status_code, response.json()["layer"]) == (503, unheard)


@pytest.mark.parametrize("seconds", [-3, -1.5, 0, 1.5, 25])
async def test_a_machine_whose_time_is_not_the_databases_is_not_ready_and_says_so(async_client, monkeypatch, seconds):
    monkeypatch.setattr(times, "_ahead", dt.timedelta(seconds=seconds))
    response = await async_client.get("/readyz")
    if abs(seconds) < 2:
        assert (response.status_code, response.json()["time"]) == (200, "ok")
    else:
        side = "ahead of" if seconds > 0 else "behind"
        said = f"this machine's clock is {abs(seconds):.1f} s {side} the database's; set both by NTP"
        assert (response.status_code, response.json()["time"]) == (503, said)


def test_the_time_is_the_databases_as_far_as_its_answer_was_quick_enough_to_tell(monkeypatch):
    monkeypatch.setattr(times, "_ahead", dt.timedelta())
    asked, half = timezone.now(), dt.timedelta(seconds=0.2)
    times.compare(asked, asked + half - dt.timedelta(seconds=25), asked + 2 * half)
    assert times.ahead_s() == 25
    before, said, behind = timezone.now(), times.now(), dt.timedelta(seconds=25)
    assert before - behind <= said <= timezone.now() - behind
    times.compare(asked, asked, asked + dt.timedelta(seconds=3))
    assert times.ahead_s() == 25, "it may have looked any time in these three seconds"


# ── figures ──


async def test_figures_count_calls_races_answers_and_commands(page, people):
    operator = Client()
    await sync_to_async(operator.force_login)(people["operator"])

    async def read():
        return figures((await sync_to_async(operator.get)("/metrics")).content.decode())

    before = await read()
    call, alice, _bob = await a_call(page)
    laptop = await page("bob", "Laptop")
    await laptop.ask("answer", call=call)  # a race that is lost
    carol = await page("carol")
    await carol.invite("bob")  # busy
    await alice.ask("hangup", call=call)
    after = await read()

    def more(name):
        return after[name] - before.get(name, 0)

    assert more('callplatform_calls_placed_total{kind="audio"}') == 2
    assert more('callplatform_calls_ended_total{reason="completed"}') == 1
    assert more('callplatform_calls_ended_total{reason="busy"}') == 1
    assert more('callplatform_refused_total{code="answered_elsewhere",command="answer"}') == 1
    assert more("callplatform_answer_seconds_count") == 1
    assert more("callplatform_ring_stop_seconds_count") == 1
    assert more('callplatform_command_seconds_count{command="answer"}') == 2
    assert after["callplatform_sockets"] == 4


def test_the_figures_say_how_late_the_clock_is(people):
    operator = Client()
    operator.force_login(people["operator"])
    late = clock.Clock()
    late.ticked -= 7.5
    late.tick()
    seen = figures(operator.get("/metrics").content.decode())
    assert 7.5 - conf.get("CLOCK_S") <= seen["callplatform_clock_lag_seconds"] < 30
    assert abs(timezone.now().timestamp() - seen["callplatform_clock_last_tick_timestamp_seconds"]) < 30
    late.tick()
    assert figures(operator.get("/metrics").content.decode())["callplatform_clock_lag_seconds"] == 0


async def test_a_view_that_was_missed_counts_as_repaired(page):
    from prometheus_client import REGISTRY

    call, alice, _ = await a_call(page)
    before = REGISTRY.get_sample_value("callplatform_frames_repaired_total")
    pong = await alice.ask("ping", calls={call: 1})
    assert [view["id"] for view in pong["calls"]] == [call]
    assert REGISTRY.get_sample_value("callplatform_frames_repaired_total") == before + 1


def test_figures_are_for_the_token_and_for_staff_only(client, people):
    assert client.get("/metrics").status_code == 404
    with calls_settings(METRICS_TOKEN="long-secret"):
        assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 404
        assert client.get("/metrics", headers={"Authorization": "Bearer long-secret"}).status_code == 200
    client.force_login(people["alice"])
    assert client.get("/metrics").status_code == 404
    assert not conf.get("METRICS_TOKEN")
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


# ── the log ──


async def test_a_line_of_the_log_names_keys_and_no_names():
    from django.conf import settings
    from django.utils.module_loading import import_string

    made = settings.LOGGING["formatters"]["json"]
    formatter = import_string(made["()"])(fmt=made["format"], style="{", rename_fields=made["rename_fields"])

    async def socket(number):
        logs.about(user=number, device=f"device-{number}")
        await asyncio.sleep(0)
        logs.about(call=f"call-{number}")
        record = logging.LogRecord("calls", logging.WARNING, __file__, 1, "something %s", ("odd",), None)
        logs.Context().filter(record)
        return json.loads(formatter.format(record))

    said = await asyncio.gather(socket(1), socket(2))
    for number, line in enumerate(said, start=1):
        assert line["message"] == "something odd"
        assert (line["level"], line["logger"]) == ("WARNING", "calls")
        assert (line["user"], line["device"], line["call"]) == (str(number), f"device-{number}", f"call-{number}")


# ── guessing ──


def test_after_ten_wrong_passwords_the_name_is_locked_for_that_address_only(people):
    from axes.utils import reset

    try:
        for path, fields in (("/accounts/login/", {}), ("/admin/login/", {"next": "/admin/"})):
            reset()
            here, elsewhere = Client(REMOTE_ADDR="192.0.2.1"), Client(REMOTE_ADDR="192.0.2.2")
            for _ in range(10):
                here.post(path, {"username": "operator", "password": "wrong", **fields})
            locked = here.post(path, {"username": "operator", "password": "secret", **fields})
            assert locked.status_code == 429, path
            assert "Too many tries" in locked.content.decode() and "Wait 15 minutes" in locked.content.decode()
            assert here.post(path, {"username": "alice", "password": "secret", **fields}).status_code in (200, 302)
            right = elsewhere.post(path, {"username": "operator", "password": "secret", **fields})
            assert right.status_code == 302, path
    finally:
        reset()


def test_only_our_own_proxies_say_where_somebody_comes_from(rf):
    from calls import address

    request = rf.get("/", REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.9"})
    assert address.of_request(request) == "10.0.0.1"
    with calls_settings(PROXIES=1):
        assert address.of_request(request) == "192.0.2.9"
        scope = {"client": ("10.0.0.1", 5), "headers": [(b"x-forwarded-for", b"6.6.6.6, 192.0.2.9")]}
        assert address.of_scope(scope) == "192.0.2.9"
        assert address.of_scope({"client": None, "headers": [(b"x-forwarded-for", b"nonsense")]}) is None


# ── cleaning and erasing ──


async def test_cleaning_forgets_old_ended_calls_with_all_that_belongs_to_them(page, capsys):
    call, alice, bob = await a_call(page)
    await alice.ask("hangup", call=call)
    await bob.ask("answer", call=call)
    await sync_to_async(refusals.write)()
    live, *_ = await a_call(page)
    long_ago = timezone.now() - dt.timedelta(days=40)
    await Call.objects.aupdate(placed_at=long_ago)
    await Call.objects.filter(pk=call).aupdate(ended_at=long_ago)
    clean = sync_to_async(call_command)
    await clean("clean")
    assert await Call.objects.acount() == 2  # everything is kept unless somebody says otherwise
    await clean("clean", days=30, dry_run=True)
    assert "calls: 1 would be deleted" in capsys.readouterr().out
    assert await Call.objects.acount() == 2
    with calls_settings(KEEP_DAYS=30):
        await clean("clean")
    assert [str(each.pk) async for each in Call.objects.all()] == [live]
    for rows in (Entry, Leg, Refusal):
        assert not await rows.objects.filter(call=call).aexists(), rows


async def test_asking_in_vain_fills_nothing(page, people, settings):
    alice = await page("alice")
    seat = machine.Seat(str(people["alice"].pk), uuid.UUID(alice.device), "Laptop", uuid.UUID(alice.page))
    write, kept = sync_to_async(refusals.write), sync_to_async(Refusal.objects.count)
    await write()  # what the test before has left
    await Refusal.objects.all().adelete()

    def of_no_call():
        for _ in range(50):
            switchboard.perform(uuid.uuid4(), machine.Ringing(seat))

    await sync_to_async(of_no_call)()
    await write()
    assert await kept() == 0
    call = str(uuid.uuid4())
    with calls_settings(MAX_OUTGOING=0):
        assert (await alice.invite("bob", call=call))["error"]["code"] == "limit_reached"
    await write()
    assert await kept() == 1  # the wallboard counts these
    for _ in range(2):
        for number in range(refusals.MAX_AN_HOUR - 100):
            refusals.note(refusals.Refused(uuid.uuid4(), seat.key, f"Device {number}", "Invite", "limit_reached"))
        await write()
    assert await kept() == refusals.MAX_AN_HOUR


async def test_what_an_erased_operator_did_and_had_names_them_no_more(page, people):
    call, *_ = await a_call(page)

    def erase():
        group = LineGroup.objects.create(name="Europe sales")
        sales = get_user_model()._default_manager.create_user("sales", is_staff=True)
        Line.make([sales.pk])
        for changed in (Line.objects.get(pk=sales.pk), group):
            LogEntry.objects.log_create(changed, force_log=True, action=1, changes={"max_incoming": ["1", "2"]})
        device = Device.objects.create(user=sales, name="Sally's iPhone", kind="web", signed_out_at=timezone.now(),
                                       logged_in_at=timezone.now(), last_seen_at=timezone.now(),
                                       online_until=timezone.now())  # fmt: skip
        LogEntry.objects.log_create(device, force_log=True, action=1, changes={"signed_out": ["no", "yes"]})
        for row in (sales, device):
            PanelEntry.objects.log_actions(
                people["operator"].pk, [row], 2, change_message="changed", single_object=True
            )
        switchboard.perform(uuid.UUID(call), machine.EndByOperator("sales", "Maintenance"))
        call_command("erase", "sales", yes=True)
        kept = [
            *LogEntry.objects.values_list("object_repr", flat=True),
            *PanelEntry.objects.values_list("object_repr", flat=True),
            *(str(entry.command) for entry in Entry.objects.filter(call=call)),
        ]
        assert not [said for said in kept if re.search("sales|sally", said.replace("Europe sales", ""), re.IGNORECASE)]
        assert "Europe sales" in kept
        assert f"Line of erased-{sales.pk}" in kept

    await sync_to_async(erase)()


async def test_an_erased_person_is_in_nothing_that_is_stored(page, people):
    call, _alice, bob = await a_call(page)
    erase = sync_to_async(call_command)
    await sync_to_async(switchboard.change_line)(people["bob"].pk, max_incoming=3)
    await erase("erase", "bob", yes=True)
    assert await bob.closed() == 4401
    with pytest.raises(CommandError, match="no user"):
        await erase("erase", "bob", yes=True)
    shell = await get_user_model()._default_manager.aget(pk=people["bob"].pk)
    assert (shell.username, shell.is_active, shell.has_usable_password()) == (f"erased-{shell.pk}", False, False)
    assert not await Device.objects.filter(user=shell).aexists()

    def everything():
        from django.apps import apps
        from django.core import serializers

        rows = [row for model in apps.get_models() for row in model._default_manager.all()]
        return serializers.serialize("json", rows)

    stored = await sync_to_async(everything)()
    assert not re.search(r"\bbob\b|Bob's Phone", stored, re.IGNORECASE)
    assert "alice" in stored
    story = [entry.decode() async for entry in Entry.objects.filter(call=call)]
    assert len(story) >= 3  # it can still be told


async def test_an_erased_person_is_in_nothing_that_is_stored_of_groups_and_transfers(page, people):
    await sync_to_async(switchboard.change_line)(people["alice"].pk, max_outgoing=2)
    alice, bob, carol, dave = [await page(name, f"{name}'s") for name in ("alice", "bob", "carol", "dave")]
    group = str(uuid.uuid4())
    await alice.ask("invite", call=group, to=["carol", "dave"], kind="audio")
    for each in (carol, dave):
        await each.sees(group)
        await each.ask("answer", call=group)
    await alice.ask("add", call=group, to=["bob"])
    await alice.ask("remove", call=group, user="bob")
    await bob.sees(group, me={"state": "removed"})
    await alice.ask("transfer", call=group, to="bob")
    await bob.sees(group, me={"state": "ringing"})
    await bob.ask("answer", call=group)
    await alice.ask("answer", call=group)
    second = (await alice.invite("bob", **{"and": {"call": group, "do": "hangup"}}))["call"]
    assert second["legs"][1]["state"] == "busy"  # bob is in the group
    await bob.ask("hangup", call=group)
    first = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(first)
    await bob.ask("answer", call=first)
    await carol.ask("hangup", call=group)
    third = (await alice.invite("carol", **{"and": {"call": first, "do": "hold"}}))["call"]["id"]
    await carol.sees(third)
    await carol.ask("answer", call=third)
    assert (await alice.ask("transfer", call=third, **{"with": first}))["ok"]  # bob's leg is in the command
    await alice.ask("end", call=third)
    await carol.ask("end", call=third)
    await sync_to_async(call_command)("erase", "bob", yes=True)

    def stored():
        return " ".join(str(row) for model in (Entry, Leg) for row in model.objects.values_list())

    assert not re.search(r"\bbob\b|bob's", await sync_to_async(stored)(), re.IGNORECASE)
    for entry in [each async for each in Entry.objects.all()]:
        assert entry.decode(), "the stories can still be told"
