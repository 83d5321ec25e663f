"""One run: people call each other, faults happen one by one, and after each everything is checked.

Needs Django's settings; `tests/chaos/__main__.py` sees to that.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from devices.models import Line
from tests.chaos.checker import Checker, Violation
from tests.chaos.crowd import Crowd, Person
from tests.chaos.faults import FAULTS, Fault, Round, Skipped
from tests.chaos.result import Outcome, Result
from tests.chaos.stage import Stage, now, stretch

WARM_S = 2.0  # of calls before a fault
AFTER_S = 1.0  # of calls after it
RECOVERY_S = 30.0  # for everything to be served again when a fault is over
SAID = 3  # violations of one kind that are printed


def make_people(short: bool) -> dict[str, Person]:
    """Accounts with a session each. Some lines have room for two calls, and some do not ring on all devices."""
    names = ["probe0", "probe1", *(f"talk{n}" for n in range(2 if short else 6))]
    names += [f"crowd{n:02d}" for n in range(9 if short else 12)]
    names += [] if short else [f"idle{n:03d}" for n in range(120)]
    users: Any = get_user_model()._default_manager
    users.bulk_create([get_user_model()(username=name, password="!") for name in names])
    people = {}
    for user in users.all():
        name = user.get_username()
        client = Client()
        client.force_login(user)
        cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
        people[name] = Person(name, str(user.pk), cookie)
    Line.make(user.pk for user in users.all())
    Line.objects.exclude(user__username__in=["crowd03", "crowd07"]).update(multi_device=True)
    Line.objects.filter(user__username__in=["crowd01", "crowd02"]).update(max_incoming=2, max_outgoing=2)
    connection.close()
    return people


async def run(stage: Stage, chosen: Sequence[str], *, short: bool, seed: int) -> Result:
    """All faults, or those whose names contain one of `chosen`. Prints a line for each try."""
    began = time.monotonic()
    dice = random.Random(seed)
    people = await asyncio.to_thread(make_people, short)
    crowd = Crowd(stage, people, dice)
    checker = Checker()
    outcomes = []
    crowd.going.set()
    await crowd.start()
    try:
        if not await recovered(stage, crowd, now(), 60):
            raise RuntimeError(f"nobody could connect: {missing(stage, crowd, now() - 5)}")
        for fault in FAULTS:
            if chosen and not any(word in fault.name for word in chosen):
                continue
            tries = fault.tries_when_short if short else fault.tries
            tries = max(1, tries) if chosen else tries
            outcome = Outcome(fault.name)
            for turn in range(tries):
                await one_try(stage, crowd, checker, Round(stage, crowd, people, turn, short=short), fault, outcome)
            if tries:
                outcomes.append(outcome)
    finally:
        await crowd.stop()
    return Result(
        date=time.strftime("%-d %B %Y"),
        seed=seed,
        postgres=stage.postgres.version,
        redis=stage.redis.version,
        people=len(people) - len(crowd.idle),
        devices=len(crowd.devices) - len(crowd.idle),
        took_s=time.monotonic() - began,
        load=stretch(),
        outcomes=outcomes,
    )


async def one_try(stage: Stage, crowd: Crowd, checker: Checker, round: Round, fault: Fault, outcome: Outcome) -> None:
    began, calls = now(), crowd.calls
    crowd.going.set()
    crowd.go_home()
    await crowd.tidy()
    await asyncio.sleep(WARM_S)
    recovering = asyncio.create_task(watch_recovery(stage, crowd, round))
    try:
        await fault.make(round)
    except Skipped as skipped:
        recovering.cancel()
        outcome.skipped = str(skipped)
        print(f"{fault.name}: skipped, {skipped}", flush=True)
        return
    round.healed()
    recovery_s = await recovering
    await asyncio.sleep(AFTER_S)
    if recovery_s is None:
        lacking = missing(stage, crowd, round.healed_at)
        round.found.append(Violation("recovery", f"not within {RECOVERY_S * stretch():.0f} s: {lacking}"))
        for number in range(2):
            if f"server {number} does not answer" in lacking and f"server {number} is not ready" not in lacking:
                what = f"/readyz of server {number} says ok, but no order is answered there"
                round.found.append(Violation("readyz", what))
    else:
        outcome.recovery_s.append(recovery_s)
    commands = [order for order in crowd.record.orders if order.cmd != "ping"]
    outcome.commands += len(commands)
    outcome.unavailable += sum(order.code == "unavailable" for order in commands)
    outcome.repaired += crowd.record.repaired
    outcome.given_up += crowd.record.given_up
    found = [*round.found, *await checker.check(crowd, short=round.short)]
    if crowd.broken is not None:
        raise crowd.broken
    await crowd.dismiss_idle()
    outcome.tries += 1
    outcome.calls += crowd.calls - calls
    outcome.found = dict(Counter(outcome.found) + Counter(each.column for each in found))
    print(
        f"{fault.name}: {crowd.calls - calls} calls, {len(commands)} commands, "
        f"recovered in {'never' if recovery_s is None else f'{recovery_s:.1f} s'}, {now() - began:.0f} s in all: "
        f"{dict(Counter(each.column for each in found)) or 'all is well'}",
        flush=True,
    )
    for sentence in some_of(found):
        print(f"    {sentence}", flush=True)
        outcome.sentences.append(sentence)
    if recovery_s is None:  # what comes next has to start from servers that work
        for number in range(2):
            await stage.restart(number)
        await recovered(stage, crowd, now(), 60)


def some_of(found: Sequence[Violation]) -> list[str]:
    """The first few of each column, as sentences."""
    kinds = Counter[str]()
    sentences = []
    for each in found:
        kinds[each.column] += 1
        if kinds[each.column] <= SAID:
            sentences.append(f"[{each.column}] {each.what}")
    return sentences


async def watch_recovery(stage: Stage, crowd: Crowd, round: Round) -> float | None:
    """The seconds from the end of the fault until everything is served, or None when that takes too long."""
    await round.over.wait()
    if await recovered(stage, crowd, round.healed_at, RECOVERY_S):
        return now() - round.healed_at
    return None


async def recovered(stage: Stage, crowd: Crowd, since: float, within_s: float) -> bool:
    end = now() + within_s * stretch()
    while now() < end:
        if not missing(stage, crowd, since):
            return True
        await asyncio.sleep(0.05)
    return False


def missing(stage: Stage, crowd: Crowd, since: float) -> str:
    """What does not work as it should, as far as it was tried since then; empty when all does."""
    away = [str(device) for device in crowd.awake if not device.welcomed.is_set()]
    parts = [f"{len(away)} devices are not connected, such as {away[0]}"] if away else []
    for number in range(2):
        if not stage.is_running(number):
            continue
        if not any(poll.ok for poll in crowd.polls if poll.server == number and poll.sent >= since):
            parts.append(f"server {number} is not ready")
        if crowd.probed.get(number, 0) < since:
            parts.append(f"server {number} does not answer an order")
        passed = (letter.frame["body"] for letter in crowd.record.letters if letter.by.server != number)
        if all(map(stage.is_running, range(2))) and not any(
            body["from"] == number and body["at"] >= since for body in passed
        ):
            parts.append(f"no signal from server {number} reaches the other")
    return ", ".join(parts)
