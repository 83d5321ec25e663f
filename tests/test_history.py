"""A user's own calls: how each went, what was missed, and what is taken out, for one user alone and on every device."""

import json

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from calls import history
from calls.models import Call, Leg

pytestmark = pytest.mark.django_db(transaction=True)


class Asking:
    """A person's history over HTTP, as their page asks for it."""

    def __init__(self, cookie):
        self.client = Client(headers={"cookie": cookie})

    async def read(self, **query):
        return (await sync_to_async(self.client.get)("/history/", query)).json()

    async def post(self, path, **body):
        said = await sync_to_async(self.client.post)(path, json.dumps(body), content_type="application/json")
        assert said.status_code == 200, said.content
        return said.json()


@pytest.fixture
def of(cookie):
    async def of(name):
        return Asking(await sync_to_async(cookie)(name))

    return of


async def test_each_side_reads_how_a_call_went(page, of):
    alice, phone = await page("alice", "Laptop"), await page("bob", "Phone")
    told = {}

    async def call(*steps):
        id = (await alice.invite("bob", "video"))["call"]["id"]
        await phone.sees(id)
        for who, cmd in steps:
            await who.ask(cmd, call=id)
        told[id] = steps
        return id

    answered = await call((phone, "answer"), (alice, "hangup"))
    declined = await call((phone, "reject"))
    cancelled = await call((alice, "hangup"))
    hers, his = (await (await of("alice")).read())["calls"], (await (await of("bob")).read())["calls"]
    assert [(each["call"], each["outcome"]) for each in hers] == [
        (cancelled, "cancelled"),
        (declined, "declined"),
        (answered, "answered"),
    ]
    assert [each["outcome"] for each in his] == ["missed", "declined", "answered"]
    assert hers[2] | {"id": 0, "at": "", "ended": "", "secs": 0} == {
        "id": 0, "call": answered, "dir": "out", "kind": "video", "outcome": "answered", "busy": None, "at": "",
        "ended": "", "secs": 0, "device": "Laptop", "people": [{"id": "bob", "name": "Bob"}],
        "transferred_to": None, "transferred_by": None,
    }  # fmt: skip
    assert (his[2]["dir"], his[2]["device"], his[2]["people"]) == ("in", "Phone", [{"id": "alice", "name": "Alice"}])
    assert his[0]["device"] is None


async def test_a_callee_on_the_phone_reads_why_the_call_was_missed(page, of):
    alice, bob, carol = await page("alice"), await page("bob", "Phone"), await page("carol")
    id = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(id)
    await bob.ask("answer", call=id)
    await carol.invite("bob")
    his, hers = (await (await of("bob")).read())["calls"], (await (await of("carol")).read())["calls"]
    assert [(each["outcome"], each["busy"]) for each in his] == [("missed", "on_call")]  # the call that goes on is none
    assert [(each["outcome"], each["busy"]) for each in hers] == [("busy", None)]


async def test_the_badge_rises_on_every_device_and_goes_on_every_device(page, of, people):
    from devices.models import Line

    await sync_to_async(Line.objects.filter(user=people["bob"]).update)(multi_device=False)
    alice, older, newer = await page("alice"), await page("bob", "Desk"), await page("bob", "Phone")
    for _ in range(2):
        id = (await alice.invite("bob"))["call"]["id"]
        await newer.sees(id)
        await alice.ask("hangup", call=id)
        assert await older.until(lambda frame: frame["t"] == "history") == {"t": "history"}  # it did not ring there
    bob = await of("bob")
    shown = await bob.read()
    assert shown["missed"] == 2
    seen = await bob.post("/history/seen/", until=shown["calls"][1]["ended"])
    assert seen == {"missed": 1}
    assert (await bob.post("/history/seen/", until=shown["calls"][0]["ended"])) == {"missed": 0}
    for device in (older, newer):
        for left in (1, 0):
            assert await device.until(lambda frame: frame["t"] == "history") == {"t": "history", "missed": left}
    await bob.post("/history/seen/", until=shown["calls"][1]["ended"])
    assert (await bob.read())["missed"] == 0  # it never goes back
    assert (await (await of("alice")).read())["missed"] == 0  # who calls misses nothing


async def test_what_one_user_takes_out_stays_with_everybody_else(page, of):
    alice, phone = await page("alice"), await page("bob", "Phone")
    for _ in range(3):
        id = (await alice.invite("bob"))["call"]["id"]
        await phone.sees(id)
        await alice.ask("hangup", call=id)
    bob, hers = await of("bob"), await of("alice")
    first, *rest = [each["id"] for each in (await bob.read())["calls"]]
    assert await bob.post("/history/hide/", ids=[first]) == {"missed": 2, "changed": 1}
    assert [each["id"] for each in (await bob.read())["calls"]] == rest
    assert len((await hers.read())["calls"]) == 3
    assert await sync_to_async(Call.objects.count)() == 3
    assert await bob.post("/history/hide/", ids=[first], hidden=False) == {"missed": 3, "changed": 1}
    assert await hers.post("/history/hide/", ids=[first]) == {"missed": 0, "changed": 0}  # not an entry of hers
    live = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(live)
    assert await bob.post("/history/hide/", ids=None) == {"missed": 0, "changed": 3}
    await alice.ask("hangup", call=live)
    assert [each["call"] for each in (await bob.read())["calls"]] == [live]


@pytest.fixture
def long_history(people):
    """10 000 calls of alice: to dave now and then, else to bob and carol by turns."""
    if connection.vendor != "postgresql":
        pytest.skip("made with PostgreSQL's generate_series")
    alice, bob, carol, dave = (people[name].pk for name in ("alice", "bob", "carol", "dave"))
    with connection.cursor() as cursor:
        cursor.execute(
            """CREATE TEMPORARY TABLE made AS SELECT n, gen_random_uuid() AS id FROM generate_series(1, 10000) n"""
        )
        cursor.execute(
            """INSERT INTO calls_call (id, v, kind, state, reason, host_id, placed_at, ended_at, ended_by)
               SELECT id, 2, 'audio', 'ended', 'cancelled', %s, at, at, ''
               FROM (SELECT id, now() + n * interval '1 s' AS at FROM made) each""",
            [alice],
        )
        for dir, state in (("out", "left"), ("in", "cancelled")):
            cursor.execute(
                """INSERT INTO calls_leg (call_id, user_id, username, name, dir, state, multi, alerted, device_name,
                                          epoch, online, held, mic, cam)
                   SELECT id, who, CASE who WHEN %s THEN 'alice' WHEN %s THEN 'bob' ELSE 'carol' END, '', %s, %s,
                          false, false, '', 0, true, false, true, true
                   FROM (SELECT id, n, CASE WHEN %s = 'out' THEN %s WHEN n %% 100 = 0 THEN %s
                                           WHEN n %% 2 = 0 THEN %s ELSE %s END AS who FROM made) each ORDER BY n""",
                [alice, bob, dir, state, dir, alice, dave, bob, carol],
            )
        cursor.execute("DROP TABLE made")
        cursor.execute("ANALYZE calls_call, calls_leg")
    return people


def test_pages_follow_each_other_without_gaps_in_a_constant_number_of_statements(long_history):
    client = Client()
    client.force_login(long_history["alice"])
    seen, before, statements = [], "", set()
    for _ in range(5):
        with CaptureQueriesContext(connection) as asked:
            said = client.get("/history/", {"q": "bob", "before": before}).json()
        statements.add(len(asked))
        seen += [each["id"] for each in said["calls"]]
        before = said["next"]
    assert len(statements) == 1
    bobs = Leg.objects.filter(call__legs__username="bob", username="alice").order_by("-id").values_list("id", flat=True)
    assert seen == list(bobs[: 5 * history.PAGE])
    last = client.get("/history/", {"before": Leg.objects.order_by("id").first().id + 5}).json()
    assert last["next"] is None


def test_a_page_of_a_long_history_is_read_from_its_index(long_history):
    dave = long_history["dave"].pk
    with CaptureQueriesContext(connection) as asked:
        history.page(dave, before=Leg.objects.filter(user=dave).order_by("-id")[20].id)
        history.missed(dave)
    reads = [each["sql"] for each in asked if "calls_leg" in each["sql"] and "ORDER BY" in each["sql"]]
    with connection.cursor() as cursor:
        for statement in (reads[1], reads[-1]):
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement)
            plan = json.dumps(cursor.fetchone()[0])
            assert '"leg_history"' in plan, plan
            assert "Seq Scan" not in plan, plan
            assert json.loads(plan)[0]["Execution Time"] < 50


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/history/seen/", {"until": "yesterday"}),
        ("/history/seen/", {"until": "0001-01-01T00:00:00+23:59"}),
        ("/history/seen/", {"until": "2026-01-01T00:00:00"}),
        ("/history/hide/", {"ids": ["x"]}),
        ("/history/hide/", {"ids": None, "hidden": False}),
        ("/history/hide/", []),
    ],
)
def test_what_cannot_be_meant_is_refused_and_strangers_are_sent_away(people, path, body):
    client = Client()
    assert client.post(path, json.dumps(body), content_type="application/json").status_code == 401
    client.force_login(people["alice"])
    assert client.post(path, json.dumps(body), content_type="application/json").status_code == 400
    assert client.get(path).status_code == 405
    assert client.get("/history/", {"before": "-1", "q": "\0"}).json() == {"calls": [], "next": None, "missed": 0}


def test_there_is_a_word_for_every_end_of_a_call():
    from typing import get_args

    from tests import walk

    for multi in (True, False):
        first = walk.machine.decide(None, walk.invite(multi), walk.T0)
        for step in walk.walk(first):
            if step.after is not None and step.after.state == "ended":
                for leg in step.after.legs:
                    said = history.outcome(leg.dir, leg.state, step.after.reason, step.after.answered_at is not None)
                    assert said in get_args(history.Outcome)
                    assert (said == "answered") <= (step.after.answered_at is not None)


async def test_everybody_in_a_group_reads_who_was_in_it_and_the_own_outcome(page, of):
    alice, bob, carol, dave = [await page(name) for name in ("alice", "bob", "carol", "dave")]
    call = "00000000-0000-4000-8000-000000000001"
    await alice.ask("invite", call=call, to=["bob", "carol", "dave"], kind="audio")
    for each in (bob, carol, dave):
        await each.sees(call)
    await bob.ask("answer", call=call)
    await carol.ask("reject", call=call)
    await alice.ask("remove", call=call, user="dave")
    assert (await (await of("carol")).read())["calls"] == [], "the call goes on"
    await bob.ask("hangup", call=call)
    await alice.ask("add", call=call, to=["bob"])
    await alice.ask("end", call=call)
    entries = {name: (await (await of(name)).read())["calls"][0] for name in ("alice", "bob", "carol", "dave")}
    outcomes = {name: entry["outcome"] for name, entry in entries.items()}
    assert outcomes == {"alice": "answered", "bob": "answered", "carol": "declined", "dave": "missed"}
    for name, entry in entries.items():
        assert {each["id"] for each in entry["people"]} == {"alice", "bob", "carol", "dave"} - {name}
    assert (await (await of("bob")).read())["missed"] == 0, "he was in it: that it rang again is no missed call"
    assert (await (await of("dave")).read())["missed"] == 1


async def test_a_transfer_is_read_by_all_three(page, of):
    alice, bob, carol = [await page(name) for name in ("alice", "bob", "carol")]
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call)
    await bob.ask("answer", call=call)
    await bob.ask("transfer", call=call, to="carol")
    await carol.sees(call)
    await carol.ask("answer", call=call)
    await alice.ask("hangup", call=call)
    read = [(await (await of(name)).read())["calls"][0] for name in ("alice", "bob", "carol")]
    ids = [[(each[key] or {}).get("id") for key in ("transferred_to", "transferred_by")] for each in read]
    assert ids == [["carol", "bob"], ["carol", "bob"], [None, "bob"]]
    assert [each["outcome"] for each in read] == ["answered"] * 3
