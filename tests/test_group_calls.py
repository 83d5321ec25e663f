"""Calls of many, hold and transfer over real sockets: what each device is told, and what a person may do."""

import uuid

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connection

from calls import models, switchboard
from calls.models import Entry, Leg
from devices.models import Device, Line
from tests.pages import Page
from tests.race_kit import Handset, check_invariants

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def four(page, people):
    """alice, bob, carol and dave, each on one page, with room for two calls in each direction."""
    await sync_to_async(Line.make)(user.pk for user in people.values())
    await Line.objects.aupdate(max_incoming=2, max_outgoing=2)
    yield [await page(name) for name in ("alice", "bob", "carol", "dave")]
    await sync_to_async(check_invariants)()


def code(reply) -> str:
    assert not reply["ok"], reply
    return reply["error"]["code"]


def states(view) -> dict[str, str]:
    return {leg["user"]: leg["state"] for leg in view["legs"]}


def leg(view, user):
    return next(each for each in view["legs"] if each["user"] == user)


async def group(host: Page, *others: Page, answer: bool = True) -> str:
    """A call of several people; they answer unless told not to."""
    placed = await host.ask("invite", call=str(uuid.uuid4()), to=[each.user for each in others], kind="audio")
    assert placed["ok"], placed
    call = placed["call"]["id"]
    for each in others:
        await each.sees(call, state="ringing", me={"state": "ringing"})
    for each in others if answer else ():
        assert (await each.ask("answer", call=call))["ok"]
    return call


async def two(caller: Page, callee: Page) -> str:
    return await group(caller, callee)


async def legs_of(call: str) -> dict[str, str]:
    return {
        user: state async for user, state in Leg.objects.filter(call=uuid.UUID(call)).values_list("username", "state")
    }


# --- calls of many ----------------------------------------------------------------------------------------------------


async def test_a_busy_callee_closes_one_leg_and_the_others_talk(four):
    alice, bob, carol, _ = four
    call = await group(alice, bob, carol, answer=False)
    assert (await bob.ask("reject", call=call))["ok"]
    view = await carol.sees(call, me={"state": "ringing"})
    assert (view["group"], view["state"], leg(view, "carol")["by"]) == (True, "ringing", "alice")
    assert (await carol.ask("answer", call=call))["ok"]
    view = await alice.sees(call, state="active")
    assert states(view) == {"alice": "joined", "bob": "rejected", "carol": "joined"}
    view = await bob.sees(call, state="active", me={"state": "rejected", "can": ["answer"]})
    assert (await bob.ask("answer", call=call))["ok"], "the call goes on: join"
    view = await carol.sees(call, v=view["v"] + 1)
    assert states(view) == {"alice": "joined", "bob": "joined", "carol": "joined"}
    assert view["media"] == {"mode": "mesh", "epoch": 3}, "a mesh, two, and a mesh again"


async def test_each_callee_is_admitted_alone_and_the_caller_reads_why(four, people):
    alice, _, _, dave = four
    await Line.objects.filter(user=people["carol"]).aupdate(max_incoming=0)
    await dave.close()
    await Device.objects.filter(user=people["dave"]).adelete()
    placed = await alice.ask("invite", call=str(uuid.uuid4()), to=["bob", "carol", "dave"], kind="video")
    view = placed["call"]
    assert states(view) == {"alice": "joined", "bob": "ringing", "carol": "busy", "dave": "unreachable"}
    assert leg(view, "carol")["reason"] == "incoming_limit"


async def test_who_is_not_there_stops_the_whole_invite_and_is_named(four):
    alice = four[0]
    refused = await alice.ask("invite", call=str(uuid.uuid4()), to=["bob", "nobody", "someone"], kind="audio")
    assert (code(refused), refused["error"]["users"]) == ("not_found", ["nobody", "someone"])
    assert await Leg.objects.acount() == 0
    twice = await alice.ask("invite", call=str(uuid.uuid4()), to=["bob", "bob"], kind="audio")
    assert (code(twice), twice["error"]["argument"]) == ("bad_frame", "to")
    me = await alice.ask("invite", call=str(uuid.uuid4()), to=["bob", "alice"], kind="audio")
    assert code(me) == "not_allowed"


async def test_the_ceiling_is_the_hosts_line_and_is_looked_at_before_anything_rings(four, people):
    alice, bob, carol, dave = four
    await Line.objects.filter(user=people["alice"]).aupdate(max_legs=3)
    everybody = await alice.ask("invite", call=str(uuid.uuid4()), to=["bob", "carol", "dave"], kind="audio")
    assert (code(everybody), everybody["error"]["limit"]) == ("full", 3)
    call = await group(alice, bob, carol)
    added = await bob.ask("add", call=call, to=["dave"])
    assert (code(added), added["error"]["limit"]) == ("full", 3)
    await Line.objects.filter(user=people["alice"]).aupdate(max_legs=4)
    added = await bob.ask("add", call=call, to=["dave"])
    assert (added["ok"], added["call"]["max_legs"], leg(added["call"], "dave")["by"]) == (True, 4, "bob")
    await dave.sees(call, me={"state": "ringing"})


async def test_somebody_is_added_to_a_call_of_two_and_it_is_a_group_from_then_on(four):
    alice, bob, carol, _ = four
    call = await two(alice, bob)
    added = await bob.ask("add", call=call, to=["carol"])
    assert (added["ok"], added["call"]["group"]) == (True, True)
    again = await bob.ask("add", call=call, to=["carol"])
    assert (again["ok"], again["call"]["v"]) == (True, added["call"]["v"]), "sent again, it changes nothing"
    assert (await carol.ask("answer", call=call))["ok"]
    assert (await alice.ask("hangup", call=call))["ok"]
    view = await carol.sees(call, state="active", host="bob")
    assert states(view) == {"alice": "left", "bob": "joined", "carol": "joined"}
    assert code(await carol.ask("end", call=call)) == "not_allowed"
    assert (await bob.ask("end", call=call))["ok"]
    for each in (alice, bob, carol):
        await each.sees(call, state="ended", reason="completed")


async def test_whoever_is_removed_is_told_and_then_hears_no_more_until_added(four):
    alice, bob, carol, _ = four
    call = await group(alice, bob, carol)
    assert code(await bob.ask("remove", call=call, user="carol")) == "not_allowed"
    assert (await alice.ask("remove", call=call, user="carol"))["ok"]
    told = await carol.sees(call, me={"state": "removed", "can": []})
    assert (await bob.ask("media", call=call, mic=False, cam=False))["ok"]
    refused = await carol.ask("answer", call=call)
    assert (code(refused), "call" in refused) == ("not_allowed", False)
    assert (await carol.ping())["gone"] == [call]
    assert told["v"] < (await models.Call.objects.aget(pk=call)).v
    assert (await bob.ask("add", call=call, to=["carol"]))["ok"]
    await carol.sees(call, me={"state": "ringing"})


async def test_the_last_one_is_alone_until_the_clock_ends_the_call(four, settings):
    settings.CALLS = settings.CALLS | {"ALONE_S": 30}
    alice, bob, carol, _ = four
    call = await group(alice, bob, carol)
    for each in (bob, carol):
        await each.ask("hangup", call=call)
    view = await alice.sees(call, state="active", v=5)
    assert 29_000 < view["alone_ms"] <= 30_000
    due = await models.Call.objects.aget(pk=call)
    assert (due.due_at - due.lonely_since).total_seconds() == 30
    assert (await bob.ask("answer", call=call))["call"]["alone_ms"] is None


async def test_a_page_that_is_loaded_anew_is_told_of_the_group_that_it_may_come_back_into(four, page):
    alice, bob, carol, _ = four
    call = await group(alice, bob, carol)
    await bob.ask("hangup", call=call)
    await carol.sees(call, v=4)
    assert (await alice.ask("remove", call=call, user="carol"))["ok"]
    assert (await alice.ask("media", call=call, mic=False, cam=False))["ok"]
    for left, known in ((bob, [call]), (carol, [])):
        await left.close()
        again = await page(left.user, hello=False, signed_in=left.signed_in, device=left.device)
        welcome = await again.hello()
        assert [view["id"] for view in welcome["calls"]] == known


async def test_coming_back_needs_a_free_place(four, people):
    alice, bob, carol, dave = four
    await Line.objects.filter(user=people["bob"]).aupdate(max_incoming=1)
    call = await group(alice, bob, carol)
    await bob.ask("hangup", call=call)
    other = await two(dave, bob)
    refused = await bob.ask("answer", call=call)
    assert (code(refused), refused["error"]["call"]) == ("in_call", other)
    refused = await bob.ask("answer", call=call, **{"and": {"call": other, "do": "hold"}})
    assert code(refused) == "limit_reached"
    assert (refused["error"]["direction"], refused["error"]["limit"]) == ("incoming", 1)
    assert (await legs_of(other))["bob"] == "joined" and not (
        await Leg.objects.aget(call=other, user=people["bob"])
    ).held
    taken = await bob.ask("answer", call=call, **{"and": {"call": other, "do": "hangup"}})
    assert taken["ok"], "the hangup frees the place in the same decision"


async def test_crossing_group_invites_are_two_calls(four, people):
    alice, bob, carol, _ = four
    hers = await group(alice, bob, carol, answer=False)
    his = await bob.ask("invite", call=str(uuid.uuid4()), to=["alice"], kind="audio")
    assert (his["ok"], his["call"]["state"]) == (True, "ringing") and his["call"]["id"] != hers


# --- hold -------------------------------------------------------------------------------------------------------------


async def test_a_second_call_is_answered_with_the_first_on_hold_and_swapped_and_each_device_knows(four):
    alice, bob, carol, _ = four
    first = await two(alice, bob)
    second = await group(carol, bob, answer=False)
    assert code(await bob.ask("answer", call=second)) == "in_call"
    assert (await bob.ask("answer", call=second, **{"and": {"call": first, "do": "hold"}}))["ok"]
    assert leg(await alice.sees(first, v=3), "bob")["held"]
    refused = await bob.ask("hold", call=first, on=False)
    assert (code(refused), refused["error"]["call"]) == ("in_call", second)
    swapped = await bob.ask("hold", call=first, on=False, **{"and": {"call": second, "do": "hold"}})
    assert swapped["ok"] and not leg(swapped["call"], "bob")["held"]
    assert leg(await carol.sees(second, v=3), "bob")["held"]
    assert not leg(await alice.sees(first, v=4), "bob")["held"]
    again = await bob.ask("hold", call=first, on=False, **{"and": {"call": second, "do": "hold"}})
    assert (again["ok"], again["call"]["v"]) == (True, 4)


async def test_an_outgoing_call_puts_the_first_on_hold_or_hangs_it_up(four):
    alice, bob, carol, _ = four
    first = await two(alice, bob)
    held = {"and": {"call": first, "do": "hold"}}
    placed = await alice.invite("carol", **held)
    assert placed["ok"]
    again = await alice.invite("carol", call=placed["call"]["id"], **held)
    assert (again["ok"], again["call"]["v"]) == (True, 1)
    assert leg(await bob.sees(first, v=3), "alice")["held"]
    over = await alice.invite("dave", **{"and": {"call": placed["call"]["id"], "do": "hold"}})
    assert code(over) == "limit_reached"
    assert (await models.Call.objects.aget(pk=placed["call"]["id"])).state != "ended"
    replaced = await alice.invite("dave", **{"and": {"call": placed["call"]["id"], "do": "hangup"}})
    assert replaced["ok"], "the hangup frees the place"
    await carol.sees(placed["call"]["id"], state="ended", reason="cancelled")


async def test_another_call_that_cannot_be_dealt_with_refuses_the_whole_command_and_is_named(four):
    alice, bob, carol, _ = four
    first = await two(alice, bob)
    second = await group(carol, bob, answer=False)
    await alice.ask("hangup", call=first)
    refused = await bob.ask("answer", call=second, **{"and": {"call": first, "do": "hangup"}})
    error = refused["error"]
    assert (error["code"], error["reason"], error["and"]) == ("call_ended", "completed", first)
    assert refused["call"]["id"] == second and refused["call"]["me"]["state"] == "ringing"
    foreign = await bob.ask("answer", call=second, **{"and": {"call": str(uuid.uuid4()), "do": "hold"}})
    assert (code(foreign), "and" in foreign["error"]) == ("not_found", True)
    assert (await bob.ask("answer", call=second))["ok"]
    assert (await bob.ask("answer", call=second, **{"and": {"call": first, "do": "hangup"}}))["ok"], "a repeat"


# --- transfer ---------------------------------------------------------------------------------------------------------


async def test_a_blind_transfer_rings_and_then_takes_my_place(four):
    alice, bob, carol, _ = four
    call = await two(alice, bob)
    asked = await bob.ask("transfer", call=call, to="carol", data={"about": "the invoice"})
    assert asked["ok"] and leg(asked["call"], "carol")["for"] == "bob"
    view = await carol.sees(call, me={"state": "ringing"})
    assert (view["group"], leg(view, "bob")["data"]) == (False, {"about": "the invoice"})
    assert (await carol.ask("answer", call=call))["ok"]
    view = await bob.sees(call, me={"state": "left", "can": []})
    assert leg(view, "bob")["reason"] == "transferred"
    again = await bob.ask("transfer", call=call, to="carol")
    assert (again["ok"], again["call"]["v"]) == (True, view["v"])
    await alice.ask("hangup", call=call)
    await carol.sees(call, state="ended", reason="completed")


async def test_a_transfer_that_fails_is_seen_and_nothing_is_lost(four):
    alice, bob, carol, _ = four
    call = await two(alice, bob)
    assert (await bob.ask("transfer", call=call, to="carol"))["ok"]
    assert code(await alice.ask("transfer", call=call, to="dave")) == "not_allowed"
    await carol.ask("reject", call=call)
    view = await bob.sees(call, state="active", me={"state": "joined"}, v=4)
    assert leg(view, "carol")["state"] == "rejected"
    nobody = await bob.ask("transfer", call=call, to="nobody")
    assert (code(nobody), nobody["error"]["users"]) == ("not_found", ["nobody"])


async def test_the_operator_can_switch_transfers_off(four, people):
    alice, bob, _, _ = four
    call = await two(alice, bob)
    await sync_to_async(switchboard.change_line)(people["bob"].pk, may_transfer=False)
    assert (await bob.until(lambda frame: frame["t"] == "line"))["line"]["may_transfer"] is False
    assert code(await bob.ask("transfer", call=call, to="carol")) == "not_allowed"
    assert code(await bob.ask("transfer", call=call, **{"with": str(uuid.uuid4())})) == "not_found"
    assert (await alice.ask("transfer", call=call, to="carol"))["ok"], "the other one may"


@pytest.mark.parametrize("stay", [False, True], ids=["attended", "merge"])
async def test_two_calls_are_brought_together(four, stay):
    alice, bob, carol, _ = four
    first = await two(alice, bob)
    placed = await alice.invite("carol", **{"and": {"call": first, "do": "hold"}})
    second = placed["call"]["id"]
    await carol.sees(second, me={"state": "ringing"})
    epoch = leg((await carol.ask("answer", call=second))["call"], "carol")["epoch"]
    asked = await alice.ask("transfer", call=first, stay=stay, **{"with": second})
    assert asked["ok"], asked
    view = await carol.sees(first, state="active", me={"state": "joined", "here": True})
    assert (leg(view, "carol")["epoch"], leg(view, "carol")["for"], view["group"]) == (epoch + 1, "alice", stay)
    assert states(view) == {"alice": "joined" if stay else "left", "bob": "joined", "carol": "joined"}
    await carol.sees(second, state="ended", reason="merged")
    await alice.sees(second, state="ended", reason="merged")
    again = await alice.ask("transfer", call=first, stay=stay, **{"with": second})
    assert (again["ok"], again["call"]["v"]) == (True, view["v"])
    await bob.say("signal", call=first, to="carol", body={"hello": 1})
    mail = await carol.until(lambda frame: frame["t"] == "signal")
    assert mail["from"]["user"] == "bob"


async def test_a_call_is_not_brought_together_with_one_that_is_none(four):
    alice, bob, carol, dave = four
    first = await two(alice, bob)
    second = (await alice.invite("carol", **{"and": {"call": first, "do": "hold"}}))["call"]["id"]
    refused = await alice.ask("transfer", call=first, **{"with": second})
    assert (code(refused), refused["error"]["and"]) == ("not_allowed", second), "nobody has answered it"
    await carol.sees(second, me={"state": "ringing"})
    await carol.ask("reject", call=second)
    refused = await alice.ask("transfer", call=first, **{"with": second})
    assert (code(refused), refused["error"]["reason"]) == ("call_ended", "rejected")
    third = await two(dave, carol)
    assert code(await alice.ask("transfer", call=first, **{"with": third})) == "not_found"


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(connection.vendor != "postgresql", reason="counts PostgreSQL's prepared statements")
def test_an_invite_of_eight_with_three_devices_each_is_as_many_statements_as_an_invite_of_one(people):
    users = get_user_model()._default_manager
    callees = [users.create_user(f"callee{n}") for n in range(9)]
    for user in callees:
        for name in ("Phone", "Laptop", "Tablet"):
            Handset(user, name)
        switchboard.change_line(user.pk, multi_device=True)
    alice = Handset(people["alice"], "Laptop")
    switchboard.change_line(people["alice"].pk, max_outgoing=20)
    counts = []
    for number in (1, 1, 8, 8):
        before = executions()
        placed = alice.invites(*callees[:number]).do()
        assert len(placed.call.legs) == 1 + number and placed.refused is None
        ringing = executions()
        added = alice.adds(placed.call.id, callees[8]).do() if number == 1 else None
        assert added is None or added.refused is None
        counts.append(ringing - before)
        alice.ends(placed.call.id).do()
    assert counts[1] == counts[3], "whatever the number of legs"


def executions() -> int:
    """How often this session has run a prepared statement."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(generic_plans + custom_plans), 0) FROM pg_prepared_statements")
        return int(cursor.fetchone()[0])


# --- rows -------------------------------------------------------------------------------------------------------------


async def test_the_entries_of_a_long_story_give_the_same_rows(four):
    alice, bob, carol, dave = four
    call = await group(alice, bob, carol)
    await bob.ask("hold", call=call, on=True)
    await carol.ask("add", call=call, to=["dave"])
    await dave.ask("reject", call=call)
    await carol.ask("add", call=call, to=["dave"])
    await dave.ask("answer", call=call)
    await alice.ask("remove", call=call, user="dave")
    await alice.ask("hangup", call=call)
    await alice.ask("answer", call=call)
    await bob.ask("end", call=call)
    assert await Entry.objects.filter(call=call).acount() == (await models.Call.objects.aget(pk=call)).v
