"""People with several devices do whatever they like, over real sockets and rows, and the invariants of a call hold.

Hypothesis makes up the story. After each step every open page pings, and must then know what the rows say; at the end
every call's entries are decided again. Time passes by making everything in the rows older, so that no clock is
replaced and no deadline waited for.

The suite runs a few dozen stories, always the same. `STORIES=2000 make unit ARGS='tests/test_stateful.py --timeout=0'`
makes up so many new and longer ones.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import os
import time
import uuid
from collections import Counter
from typing import Any

import msgspec
import pytest
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.db.models import F
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from calls import conf, machine, models, pool, switchboard
from calls.after import refusals
from calls.consumers import SignalingConsumer
from calls.hub import hub
from devices import presence
from devices.models import Device, Line
from devices.sessions import stored_key
from tests import race_kit
from tests.pages import Closed, Local
from tests.truth import check_knowledge

STAYS_S = 35.0  # how long a device stays online without being heard from
SLACK_S = 2.0  # between a view and the moment when it is looked at
ABOUT_A_CALL = ("ringing", "answer", "reject", "hangup", "end", "move", "hold", "add", "remove", "transfer")
# What a page may be refused although it has a button for it: what a button cannot know is in which other call the
# device is, whether there is a free place, and who it is about.
ALL_THE_SAME = {
    "answer": {"in_call", "limit_reached"}, "move": {"in_call"}, "hold": {"in_call"},
    "add": {"not_allowed", "not_found"}, "remove": {"not_allowed", "not_found"},
    "transfer": {"not_allowed", "not_found"},
}  # fmt: skip

application = SignalingConsumer.as_asgi()


class Watched(Local):
    """A page that keeps count of what it asked and what came back."""

    def __init__(self, *args: Any, clock: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = clock  # the seconds that have passed in the story
        self.sent: dict[str, str] = {}  # the command of each id
        self.answered: Counter[str] = Counter()
        self.heard_at: dict[str, float] = {}
        self.signals: list[dict[str, Any]] = []
        self.code: int | None = None
        self.silent = False

    async def say(self, cmd: str, **args: Any) -> str:
        id = await super().say(cmd, **args)
        self.sent[id] = cmd
        return id

    async def next(self) -> dict[str, Any]:
        try:
            frame = await super().next()
        except Closed as closed:
            self.code = closed.code
            raise
        if frame["t"] in ("reply", "pong", "welcome"):
            self.answered[frame["re"]] += 1
        if frame["t"] == "signal":
            self.signals.append(frame)
        for view in [frame["call"]] if isinstance(frame.get("call"), dict) else frame.get("calls", []):
            self.heard_at[view["id"]] = self.clock()
        return frame

    def rings(self, call: str) -> bool:
        """The one ring predicate."""
        me = self.calls[call]["me"]
        return me["state"] == "ringing" and me["ring_ms"] > (self.clock() - self.heard_at[call]) * 1000


class Profile:
    """A browser profile or an installation: it keeps its sign-in and its device id, whatever its pages do."""

    def __init__(self, user: str, name: str, browser: str) -> None:
        self.user, self.name, self.browser = user, name, browser
        self.device: Any = None  # its id, once it has one
        self.page: Watched | None = None
        self.page_id = str(uuid.uuid4())

    def __repr__(self) -> str:
        return f"{self.user}'s {self.name}"

    @property
    def row(self) -> Device:
        return Device.objects.get(pk=self.device)


PROFILES = [
    ("alice", "Laptop", "alice 1"),
    ("alice", "Phone", "alice 2"),
    ("bob", "Phone", "bob 1"),
    ("bob", "Laptop", "bob 2"),
    ("bob", "Tablet", "bob 2"),  # two devices in one browser share a sign-in
    ("carol", "Phone", "carol 1"),
]
who = st.integers(0, len(PROFILES) - 1)
which = st.integers(0, 3)  # the newest call is 0
button = st.integers(0, 60)
people = st.sampled_from(["alice", "bob", "carol"])
limits = st.sampled_from([None, 0, 1, 2])
lines = st.fixed_dictionaries(
    {"multi_device": st.booleans(), "may_switch": st.booleans(), "max_incoming": limits, "max_outgoing": limits}
)

# What may happen: how often (of all the numbers together), and the arguments of the method of that name.
DEEDS: dict[str, tuple[int, dict[str, Any]]] = {
    "invite": (
        2,
        {
            "who": who,
            "to": people,
            "kind": st.sampled_from(["audio", "video"]),
            "data": st.sampled_from([None, "", {"a": [1, 0.5]}]),
            "ring_s": st.sampled_from([None, 5]),
        },
    ),
    "invite_both_others": (1, {"who": who, "again": st.booleans()}),
    "do_what_can_be_done": (3, {"n": button, "again": st.booleans()}),
    "go_on_with_the_newest_call": (3, {"n": button, "to": people}),
    "do_what_may_not_be_done": (2, {"who": button, "n": which, "cmd": st.sampled_from([*ABOUT_A_CALL, "media"])}),
    "signal": (2, {"n": button}),
    "at_once": (
        3,
        {
            "deeds": st.lists(
                st.tuples(who, st.integers(0, 9), st.sampled_from([*ABOUT_A_CALL, "invite", "drop"]), people),
                min_size=2,
                max_size=5,
                unique_by=lambda deed: deed[0],
            ),
            "beside": st.sampled_from([None, None, "tick", "end", "sign_out", "limit"]),
        },
    ),
    "drop": (1, {"who": who, "in_the_middle": st.booleans()}),
    "connect": (2, {"who": button, "how": st.sampled_from(["same page", "new page", "take"])}),
    "everybody_is_back": (1, {}),
    "sign_out": (1, {"who": who}),
    "operate": (1, {"what": st.sampled_from(["end", "line", "carol goes", "carol comes"]), "n": which, "user": people,
                    "line": lines}),
    "do_what_is_rare": (2, {"who": who, "to": people,
                            "what": st.sampled_from(["late invite", "switch", "answer and leave", "answer and hold",
                                                     "swap", "transfer", "merge"])}),
    "time_passes": (3, {"seconds": st.sampled_from([1, 4, 8, 11, 21, 46, 48, 29_000]),
                        "silent": st.sets(who, max_size=2)}),
}  # fmt: skip
deeds = st.sampled_from([name for name, (times, _) in DEEDS.items() for _ in range(times)]).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(DEEDS[name][1]))
)


class Story(RuleBasedStateMachine):
    def __init__(self, loop: asyncio.AbstractEventLoop, log: pytest.LogCaptureFixture) -> None:
        super().__init__()
        self.loop, self.log = loop, log
        log.clear()
        for model in (models.Entry, models.SpentInvite, models.Leg, models.Call, Device, Line, Session):
            model._default_manager.all().delete()
        self.users = {user.get_username(): user for user in get_user_model()._default_manager.all()}
        get_user_model()._default_manager.update(is_active=True)
        Line.make(user.pk for user in self.users.values())
        Line.objects.filter(user=self.users["bob"]).update(multi_device=True)
        self.passed = 0.0
        self.flip = False
        self.calls: list[str] = []
        self.cookies: dict[str, str] = {}
        self.profiles = [Profile(*each) for each in PROFILES]
        for profile in self.profiles:
            self._connect(profile)
        self._settle()

    # --- how the story is driven ---

    def clock(self) -> float:
        return time.monotonic() + self.passed

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _work(self, work: Any, *args: Any) -> Any:
        """What the operator or a clock does, in a thread of the pool while the sockets are served."""
        return self._run(pool.run(work, *args))

    def _call(self, n: int) -> str:
        """The n-th newest call, or one that nobody knows."""
        return self.calls[-1 - n] if n < len(self.calls) else "00000000-0000-4000-8000-000000000000"

    def _sign_in(self, profile: Profile) -> str:
        cookie = self.cookies.get(profile.browser)
        if cookie is None:
            client = Client()
            client.force_login(self.users[profile.user])
            cookie = self.cookies[profile.browser] = client.cookies[django_settings.SESSION_COOKIE_NAME].value
        return cookie

    async def _open(self, profile: Profile, cookie: str) -> Watched:
        headers = [(b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={cookie}".encode())]
        page = Watched(
            application, headers, profile.user, name=profile.name, device=profile.device, page=profile.page_id,
            clock=self.clock,
        )  # fmt: skip
        return await page.open()  # type: ignore[return-value]

    def _connect(self, profile: Profile, take: bool = False) -> None:
        """Opens a socket and says hello; what has to come of it follows from the rows."""
        older = profile.page
        cookie = self._sign_in(profile)
        row = Device.objects.filter(pk=profile.device).first() if profile.device else None
        signed_in = Session.objects.filter(pk=stored_key(cookie)).exists() and self._active(profile)
        gone = row is not None and row.signed_out_at is not None and row.session == stored_key(cookie)
        held = (
            row is not None
            and row.socket is not None
            and str(row.page) != profile.page_id
            and row.online_until > timezone.now()
            and not take
        )
        page = self._run(self._open(profile, cookie))
        try:
            answer = self._run(page.hello(take=take))
        except Closed:
            assert page.code == 4401 and (gone or not signed_in), f"{profile} was closed with {page.code}"
            assert [each["why"] for each in page.frames if each["t"] == "bye"] == ["signed_out"]
            del self.cookies[profile.browser]  # the person signs in again the next time
            self._run(page.close())
            return
        assert signed_in and not gone
        if held:
            assert answer["error"]["code"] == "device_in_use"
            self._run(page.close())
            return
        assert answer["t"] == "welcome", answer
        if older is not None and row is not None and row.socket is not None:
            assert self._run(older.closed()) == 4409, "the older page is told"
            self._check_replies(older)
        if older is not None:
            self._run(older.close())
        profile.device, profile.page = page.device, page

    def _is_back(self, profile: Profile) -> bool:
        """Connects and wakes it if need be; False when its user may not sign in."""
        self._wake(profile)
        for _ in range(2):  # the first may only find out that it was signed out
            if profile.page is None and self._active(profile):
                self._connect(profile)
        return profile.page is not None

    def _active(self, profile: Profile) -> bool:
        return get_user_model()._default_manager.get(username=profile.user).is_active

    def _drop(self, profile: Profile) -> None:
        if profile.page is not None:
            self._run(profile.page.close())
            profile.page = None

    @property
    def _open_profiles(self) -> list[Profile]:
        return [each for each in self.profiles if each.page is not None]

    @property
    def _pinging(self) -> list[Profile]:
        return [each for each in self._open_profiles if each.page is not None and not each.page.silent]

    # --- what has to hold after each step ---

    def _settle(self) -> None:
        """Every page pings once, and then knows what the rows say."""
        repaired = models.Leg.objects.filter(state="joined", online=False).exists()
        pages = [profile.page for profile in self._pinging]

        async def ping(page: Any) -> None:
            with contextlib.suppress(Closed):
                if page.code is None:
                    await page.ping()

        async def ping_all() -> None:
            await asyncio.gather(*(ping(page) for page in pages))

        self._run(ping_all())
        for page in pages:
            assert page is not None
            assert repaired or not page.missed, "everybody had been told already"
            page.missed.clear()
        if repaired:
            self._run(ping_all())  # that somebody is back was told while others were pinging
        rows = {str(call.id): call for call in models.load_all(models.Call.objects.all())}
        devices = {device.pk: device for device in Device.objects.all()}
        for profile in self._pinging:
            page = profile.page
            assert page is not None
            device = devices[uuid.UUID(profile.device)]
            if device.signed_out_at is not None:
                assert page.code == 4401
                self._check_replies(page)
                self._drop(profile)
                continue
            assert page.code is None, f"{profile} was closed with {page.code}"
            assert str(device.page) == page.page
            self._check_replies(page)
            check_knowledge(str(self.users[profile.user].pk), page, list(rows.values()))
            self._check_noise(profile, rows)
        faults = [each for each in self.log.records if each.levelno >= logging.WARNING or each.exc_info]
        assert not faults, [each.getMessage() for each in faults]

    def _check_replies(self, page: Watched) -> None:
        for id, cmd in page.sent.items():
            times = page.answered[id]
            if cmd == "signal" or page.code is not None:
                assert times <= 1
            else:
                assert times == 1, f"6: {cmd} was answered {times} times"
        assert set(page.answered) <= set(page.sent), "nothing is answered that was not asked"
        page.sent.clear()
        page.answered.clear()
        page.frames.clear()

    def _check_noise(self, profile: Profile, rows: dict[str, machine.Call]) -> None:
        """5: the page rings exactly while its leg does, and time is left."""
        page = profile.page
        assert page is not None
        for id in page.calls:
            mine = machine.leg_of(rows[id], str(self.users[profile.user].pk))
            assert mine is not None
            left = (mine.ring_until - timezone.now()).total_seconds() if mine.ring_until else 0.0
            due = mine.state == "ringing" and left > 0
            if not 0 < left < SLACK_S:
                assert page.rings(id) == due, f"{profile} makes noise: {page.rings(id)}, with {left} s left"

    def teardown(self) -> None:
        for profile in self._open_profiles:
            self._drop(profile)
        race_kit.check_invariants()

    # --- people ---

    @initialize(who=who, to=people, talk=st.booleans(), limit=st.sampled_from([1, 2]), multi=st.booleans())
    def begin(self, who: int, to: str, talk: bool, limit: int, multi: bool) -> None:
        """Somebody is being called already, or has answered."""
        Line.objects.update(max_incoming=limit, max_outgoing=limit)
        Line.objects.exclude(user=self.users["bob"]).update(multi_device=multi)
        self._invite(self.profiles[who], to, {"kind": "audio"})
        self._settle()
        answers = [each for each in self._possible() if each[2] == "answer"]
        if talk and answers:
            self._command(*answers[0], again=False)
            self._settle()

    @rule(deed=deeds)
    def step(self, deed: tuple[str, dict[str, Any]]) -> None:
        getattr(self, deed[0])(**deed[1])
        self._settle()

    def invite(self, who: int, to: str, kind: str, data: Any, ring_s: int | None) -> None:
        more = {"kind": kind, "data": data} | ({"ring_s": ring_s} if ring_s else {})
        self._invite(self.profiles[who], to, more)

    def _invite(self, profile: Profile, to: str, more: dict[str, Any]) -> None:
        if to == profile.user or not self._is_back(profile):
            return
        page, id = profile.page, str(uuid.uuid4())
        assert page is not None
        expected = self._admission(profile, to)
        answer = self._run(page.invite(to, call=id, **more))
        assert self._came_of(answer, id) == expected
        if answer["ok"]:
            assert self._run(page.invite(to, call=id, **more))["call"]["v"] == answer["call"]["v"], "a repeat"
        if answer["ok"] and answer["call"]["id"] == id:
            self.calls.append(id)
            assert self._run(page.invite(to, call=id, **more | {"data": "x"}))["error"]["code"] == "conflict"

    def invite_both_others(self, who: int, again: bool) -> None:
        """A group: each of them is admitted alone, as `_check_limits` of the race kit sees afterwards."""
        profile, id = self.profiles[who], str(uuid.uuid4())
        if not self._is_back(profile):
            return
        to = sorted({"alice", "bob", "carol"} - {profile.user})
        assert profile.page is not None
        answer = self._run(profile.page.ask("invite", call=id, to=to, kind="audio"))
        if answer["ok"]:
            assert answer["call"]["id"] == id and answer["call"]["group"], "crossing group invites are two calls"
            self.calls.append(id)
            if again:
                assert self._run(profile.page.ask("invite", call=id, to=to[::-1], kind="audio"))["ok"], "a repeat"
        else:
            assert answer["error"]["code"] in ("in_call", "limit_reached", "not_found")

    def _admission(self, profile: Profile, to: str) -> tuple[Any, ...]:
        """What an invite has to come to, from the rows as they are."""
        me, you = self.users[profile.user], self.users[to]
        lines = {line.user_id: line for line in Line.objects.all()}
        live = models.Leg.objects.filter(state__in=machine.LIVE)
        if not get_user_model()._default_manager.get(pk=you.pk).is_active:
            return ("not_found",)
        in_call = live.filter(device=profile.device, state="joined", held=False).first()
        ringing = models.Call.objects.filter(host=you, state="ringing", group=False)
        glare = ringing.filter(legs__user=me, legs__state="ringing").first()
        if in_call:
            return ("in_call", str(in_call.call_id))
        if glare:
            return ("joined", str(glare.pk))
        active, limit = live.filter(user=me, dir="out").count(), lines[me.pk].max_outgoing
        limit = conf.get("MAX_OUTGOING") if limit is None else limit
        if active >= limit:
            return ("limit_reached", limit, active)
        active, limit = live.filter(user=you, dir="in").count(), lines[you.pk].max_incoming
        if active >= (conf.get("MAX_INCOMING") if limit is None else limit):
            return ("ended", "busy", "incoming_limit")
        if not Device.objects.filter(user=you, signed_out_at=None).exists():
            return ("ended", "unreachable", None)
        return ("ringing",)

    @staticmethod
    def _came_of(answer: dict[str, Any], id: str) -> tuple[Any, ...]:
        if not answer["ok"]:
            error = answer["error"]
            more = {"in_call": ["call"], "limit_reached": ["limit", "active"]}.get(error["code"], [])
            return (error["code"], *(error[name] for name in more))
        call = answer["call"]
        if call["id"] != id:
            assert call["state"] == "active" and call["me"]["here"]
            return ("joined", call["id"])
        if call["state"] == "ended":
            return ("ended", call["reason"], call["legs"][1]["reason"])
        return (call["state"],)

    def do_what_can_be_done(self, n: int, again: bool) -> None:
        if possible := self._possible():
            profile, id, cmd = possible[n % len(possible)]
            self._command(profile, id, cmd, again)

    def go_on_with_the_newest_call(self, n: int, to: str) -> None:
        newest = [each for each in self._possible() if each[1] == self.calls[-1]]
        if newest:
            self._command(*newest[n % len(newest)], again=False)
        else:
            self._invite(self.profiles[n % len(PROFILES)], to, {"kind": "video"})

    def do_what_may_not_be_done(self, who: int, n: int, cmd: str) -> None:
        id = self._call(n)
        those = [each for each in self._pinging if each.page and id in each.page.calls] or self._pinging
        if those and n < len(self.calls):
            self._command(those[who % len(those)], id, cmd, again=False)

    def _possible(self) -> list[tuple[Profile, str, str]]:
        """What the pages have buttons for."""
        return [
            (profile, id, cmd)
            for profile in self._pinging
            for id, view in sorted(profile.page.calls.items(), key=lambda item: self.calls.index(item[0]))
            for cmd in view["me"]["can"]
        ]

    def _command(self, profile: Profile, id: str, cmd: str, again: bool) -> None:
        """`can` is the truth: what it lists is done, and what it does not list changes nothing."""
        page = profile.page
        assert page is not None
        if cmd == "signal":
            self._signal(profile, id)
            return
        can = page.calls[id]["me"]["can"] if id in page.calls else []
        args = self._arguments(profile, cmd, id)
        before = models.load(uuid.UUID(id))
        answer = self._run(page.ask(cmd, **args))
        after = models.load(uuid.UUID(id))
        self._check_answer(profile, answer, after)
        code = answer.get("error", {}).get("code")
        if cmd in can:
            assert answer["ok"] or code in ALL_THE_SAME.get(cmd, ()), answer
        if cmd not in can or not answer["ok"]:
            assert before == after, f"{cmd} was not allowed"
        if cmd == "media" and answer["ok"]:
            mine = next(leg for leg in answer["call"]["legs"] if leg["user"] == profile.user)
            assert (mine["mic"], mine["cam"]) == (args["mic"], args["cam"])
        if answer["ok"] and again and cmd not in ("add", "remove", "transfer"):  # these may have another effect now
            repeated = self._run(page.ask(cmd, **args))
            assert repeated["ok"], "sending it again is safe"
            assert models.load(uuid.UUID(id)) == after

    def _arguments(self, profile: Profile, cmd: str, id: str) -> dict[str, Any]:
        """Arguments that go with the command, each time others."""
        self.flip = not self.flip
        others = [name for name in ("alice", "bob", "carol") if name != profile.user]
        somebody = others[self.flip]
        more: dict[str, dict[str, Any]] = {
            "media": {"mic": self.flip, "cam": not self.flip},
            "hold": {"on": self.flip},
            "add": {"to": others if self.passed % 2 else [somebody]},
            "remove": {"user": somebody},
            "transfer": {"to": somebody},
        }
        return {"call": id, **more.get(cmd, {})}

    def _check_answer(self, profile: Profile, answer: dict[str, Any], call: machine.Call | None) -> None:
        key = str(self.users[profile.user].pk)
        mine = machine.leg_of(call, key) if call else None
        if call is None or mine is None or not machine.visible(mine, uuid.UUID(profile.device)):
            assert answer["error"]["code"] == "not_found" and "call" not in answer
            return
        if mine.state == "removed" and call.state != "ended" and call.v > mine.removed_v:
            assert not answer["ok"] and "call" not in answer, "who was taken out sees no more of it"
            return
        assert answer["call"]["v"] == call.v, "a reply brings its client to the truth"
        if answer["ok"]:
            return
        error = answer["error"]
        if error["code"] == "answered_elsewhere":
            assert error["device"] == mine.device_name and str(mine.device) != profile.device
        elif error["code"] == "call_ended":
            assert error["reason"] == call.reason and call.state == "ended"
        elif error["code"] == "in_call":
            other = models.Leg.objects.get(device=profile.device, state="joined", held=False)
            assert error["call"] == str(other.call_id) != str(call.id)
        elif error["code"] == "limit_reached":
            assert error["active"] >= error["limit"] and mine.state not in machine.LIVE, "to come back needs a place"
        elif error["code"] == "not_found":
            assert error.get("users") in (["carol"], None), "a name that cannot be called, or that has no leg"
        else:
            assert error["code"] == "not_allowed"

    def _signal(self, profile: Profile, id: str) -> None:
        """8: it reaches the page that the other leg is bound to, and no other."""
        page = profile.page
        assert page is not None
        call = models.load(uuid.UUID(id))
        assert call is not None
        mine = machine.leg_of(call, str(self.users[profile.user].pk))
        others = [leg for leg in call.legs if leg is not mine]
        theirs = next((leg for leg in others if leg.state == "joined"), others[0])
        may = mine is not None and "signal" in page.calls.get(id, {"me": {"can": []}})["me"]["can"]
        letter = uuid.uuid4().hex
        re = self._run(page.say("signal", call=id, to=theirs.user, body={"letter": letter}))
        self._run(page.ping())
        assert len([each for each in page.frames if each.get("re") == re]) == (not may), "refused, or not answered"
        self._settle()
        for each in self._pinging:
            assert each.page is not None
            got = [mail for mail in each.page.signals if mail["body"]["letter"] == letter]
            bound = may and (each.device, each.page_id) == (str(theirs.device), str(theirs.page))
            assert len(got) == bound
            if got and mine is not None:
                assert (got[0]["call"], got[0]["from"]) == (id, {"user": profile.user, "epoch": mine.epoch})

    def signal(self, n: int) -> None:
        """From where it may be sent, or else from where the call is known."""
        known = [(each, id) for each in self._pinging if each.page for id in sorted(each.page.calls)]
        those = [(each, id) for each, id, cmd in self._possible() if cmd == "signal"] or known
        if those:
            self._signal(*those[n % len(those)])

    # --- several at once ---

    def at_once(self, deeds: list[tuple[int, int, str, str]], beside: str | None) -> None:
        """In whatever order the locks give: the invariants hold, and everybody ends with the same truth."""
        work: list[Any] = []
        for who, n, otherwise, to in deeds:
            profile = self.profiles[who]
            mine = [(id, cmd) for each, id, cmd in self._possible() if each is profile]
            id, cmd = mine[n % len(mine)] if mine and n < 8 else (self._call(0), otherwise)
            work.append(self._deed(profile, cmd, id, to))
        match beside:
            case "tick":
                work.append(pool.run(self._tick))
            case "end":
                newest = uuid.UUID(self._call(0))
                work.append(pool.run(switchboard.perform, newest, machine.EndByOperator("operator")))
            case "sign_out":
                work.append(pool.run(switchboard.sign_out, self.profiles[deeds[0][0]].row))
            case "limit":
                work.append(pool.run(lambda: switchboard.change_line(self.users["bob"].pk, max_incoming=0)))
        before = set(models.Call.objects.values_list("pk", flat=True))
        self._run(self._gather(work))
        placed = models.Call.objects.exclude(pk__in=before).order_by("placed_at").values_list("pk", flat=True)
        self.calls += [str(id) for id in placed]

    @staticmethod
    async def _gather(work: list[Any]) -> None:
        await asyncio.gather(*work)

    async def _deed(self, profile: Profile, cmd: str, id: str, to: str) -> None:
        page = profile.page
        if page is None or page.silent:
            return
        if cmd == "drop":
            await page.close()
            profile.page = None
            return
        args = self._arguments(profile, cmd, id)
        if cmd == "invite":
            args = {"call": str(uuid.uuid4()), "to": [to], "kind": "audio"}
        elif cmd == "signal":
            await page.say("signal", to=to, body={"letter": ""}, **args)
            return
        try:
            answer = await page.ask(cmd, **args)
        except Closed:
            await page.close()  # what it was doing is done then
            return
        assert answer["ok"] or answer["error"]["code"] not in ("bad_frame", "unavailable"), answer

    # --- networks, pages, sign-ins, the operator, and what is rare ---

    def drop(self, who: int, in_the_middle: bool) -> None:
        profile = self.profiles[who]
        possible = [(id, cmd) for each, id, cmd in self._possible() if each is profile and cmd in ABOUT_A_CALL]
        if in_the_middle and possible and profile.page is not None:
            self._run(profile.page.say(possible[0][1], call=possible[0][0]))
        self._drop(profile)

    def connect(self, who: int, how: str) -> None:
        """After a drop, or while the old socket is still there: the same page again, or another one."""
        in_a_call = [each for each, _, cmd in self._possible() if cmd == "hangup"]
        those = in_a_call or self.profiles
        profile = those[who % len(those)]
        before, page_id = profile.page, profile.page_id
        if how != "same page":
            profile.page_id = str(uuid.uuid4())
        self._connect(profile, take=how == "take")
        if profile.page is before:
            profile.page_id = page_id

    def everybody_is_back(self) -> None:
        for profile in self.profiles:
            self._is_back(profile)

    def sign_out(self, who: int) -> None:
        self._work(switchboard.sign_out, self.profiles[who].row)

    def operate(self, what: str, n: int, user: str, line: dict[str, Any]) -> None:
        if what == "end":
            self._end_by_operator(uuid.UUID(self._call(n)))
        elif what == "line":
            before = models.load_all(models.Call.objects.all())
            self._work(lambda: switchboard.change_line(self.users[user].pk, **line))
            assert models.load_all(models.Call.objects.all()) == before, "the next call is affected, these are not"
        else:
            self._change_carols_account(active=what == "carol comes")

    def do_what_is_rare(self, who: int, to: str, what: str) -> None:
        profile = self.profiles[who]
        if profile in self._pinging:
            if what == "late invite" and to != profile.user:
                self._hang_up_before_the_invite_arrives(profile, to)
            elif what == "switch":
                self._switch_multi_device(profile, on=to == "alice")
            elif what in ("answer and leave", "answer and hold"):
                self._answer_and(profile, "hangup" if what == "answer and leave" else "hold")
            elif what == "swap":
                self._swap(profile)
            elif what in ("transfer", "merge"):
                self._bring_together(profile, stay=what == "merge")

    def _wake(self, profile: Profile) -> None:
        page = profile.page
        if page is not None and page.silent:
            page.silent = False
            if profile.row.signed_out_at is None:
                self._beat(profile)
            else:
                assert self._run(page.closed()) == 4401
                self._drop(profile)

    def _end_by_operator(self, id: uuid.UUID) -> None:
        before = models.load(id)
        outcome = self._work(switchboard.perform, id, machine.EndByOperator("operator"))
        after = models.load(id)
        if before is not None and before.state != "ended":
            assert after is not None and (after.state, after.reason) == ("ended", "operator")
        else:
            assert outcome.refused.code in ("call_ended", "not_found") and before == after

    def _change_carols_account(self, active: bool) -> None:
        carol = self.users["carol"]
        get_user_model()._default_manager.filter(pk=carol.pk).update(is_active=active)
        self._work(switchboard.sign_out_deactivated)
        self._work(self._tick)
        if not active:
            assert not models.Leg.objects.filter(user=carol, state__in=machine.LIVE).exists(), "its legs leave"
            assert not Device.objects.filter(user=carol, signed_out_at=None).exists()

    def _hang_up_before_the_invite_arrives(self, profile: Profile, to: str) -> None:
        page, id = profile.page, str(uuid.uuid4())
        assert page is not None
        assert self._run(page.ask("hangup", call=id))["error"]["code"] == "not_found"
        found = self._admission(profile, to)[0] != "not_found"
        late = self._run(page.invite(to, call=id))["error"]
        assert (late["code"], late.get("reason")) == (("call_ended", "cancelled") if found else ("not_found", None))
        assert not models.Call.objects.filter(pk=id).exists(), "nobody rings"

    def _switch_multi_device(self, profile: Profile, on: bool) -> None:
        assert profile.page is not None
        line = Line.objects.get(user=self.users[profile.user])
        answer = self._run(profile.page.ask("multi_device", on=on))
        assert answer["ok"] is line.may_switch
        assert Line.objects.get(pk=line.pk).multi_device == (on if line.may_switch else line.multi_device)

    def _mine(self, profile: Profile, state: str) -> list[str]:
        """The calls in which this page's leg is in this state, the one that is not held in front."""
        page = profile.page
        assert page is not None
        found = [id for id, view in page.calls.items() if view["me"]["state"] == state]
        if state == "joined":
            found = [id for id in found if {"hold", "hangup"} <= set(page.calls[id]["me"]["can"])]
        held = {id: any(leg["held"] for leg in page.calls[id]["legs"] if leg["user"] == profile.user) for id in found}
        return sorted(found, key=lambda id: held[id])

    def _legs(self, profile: Profile, *ids: str) -> list[machine.Leg]:
        calls = [call for id in ids if (call := models.load(uuid.UUID(id)))]
        return [leg for call in calls if (leg := machine.leg_of(call, str(self.users[profile.user].pk)))]

    def _answer_and(self, profile: Profile, do: str) -> None:
        """Both happen, or neither."""
        page = profile.page
        assert page is not None
        rings, joined = self._mine(profile, "ringing"), self._mine(profile, "joined")
        if rings and joined:
            answer = self._run(page.ask("answer", call=rings[0], **{"and": {"call": joined[0], "do": do}}))
            assert answer["ok"], answer
            answered, other = self._legs(profile, rings[0], joined[0])
            assert answered.state == "joined" and not answered.held
            assert other.held if do == "hold" else other.state == "left"

    def _swap(self, profile: Profile) -> None:
        page, joined = profile.page, self._mine(profile, "joined")
        assert page is not None
        if len(joined) > 1:
            active, held = self._legs(profile, *joined[:2])
            answer = self._run(page.ask("hold", call=joined[1], on=False, **{"and": {"call": joined[0], "do": "hold"}}))
            assert answer["ok"], answer
            assert [leg.held for leg in self._legs(profile, *joined[:2])] == [True, False], (active, held)

    def _bring_together(self, profile: Profile, stay: bool) -> None:
        """All of it is done, or nothing."""
        page, joined = profile.page, self._mine(profile, "joined")
        assert page is not None
        if len(joined) > 1:
            before = [models.load(uuid.UUID(id)) for id in joined[:2]]
            answer = self._run(page.ask("transfer", call=joined[1], stay=stay, **{"with": joined[0]}))
            after = [call for id in joined[:2] if (call := models.load(uuid.UUID(id)))]
            if answer["ok"]:
                assert (after[0].state, after[0].reason) == ("ended", "merged")
                mine = machine.leg_of(after[1], str(self.users[profile.user].pk))
                assert mine is not None and (mine.state == "joined") is stay
            else:
                assert answer["error"]["code"] in ("not_allowed", "in_call") and before == after

    # --- time ---

    def time_passes(self, seconds: int, silent: set[int]) -> None:
        """Everything is older; the pages that are not silent have gone on pinging meanwhile."""
        self._age(dt.timedelta(seconds=seconds))
        self.passed += seconds
        for profile in self._open_profiles:
            assert profile.page is not None
            if self.profiles.index(profile) in silent:
                profile.page.silent = True
            if not profile.page.silent:
                self._beat(profile)
        self._work(self._tick)
        self._check_deadlines()

    def _age(self, by: dt.timedelta) -> None:
        for model, columns in {
            models.Call: ["placed_at", "answered_at", "ended_at", "due_at", "lonely_since"],
            models.Leg: ["ring_until", "spent_until", "joined_at"],
            models.Entry: ["at"],
            models.SpentInvite: ["at"],
            Device: ["logged_in_at", "last_seen_at", "online_until", "signed_out_at"],
        }.items():
            model._default_manager.update(**{column: F(column) - by for column in columns})
        for entry in models.Entry.objects.filter(command__type="Silent"):
            since = dt.datetime.fromisoformat(entry.command["since"]) - by
            models.Entry.objects.filter(pk=entry.pk).update(command={**entry.command, "since": since.isoformat()})
        for entry in models.Entry.objects.filter(command__type="TakeOver"):
            leg = entry.command["leg"]
            older = {
                name: (dt.datetime.fromisoformat(leg[name]) - by).isoformat()
                for name in ("ring_until", "spent_until", "joined_at")
                if leg[name]
            }
            models.Entry.objects.filter(pk=entry.pk).update(command={**entry.command, "leg": {**leg, **older}})
        for leg in models.Leg.objects.exclude(rung_again=[]):
            times = [dt.datetime.fromisoformat(time) - by for time in leg.rung_again]
            models.Leg.objects.filter(pk=leg.pk).update(rung_again=msgspec.to_builtins(times))

    def _beat(self, profile: Profile) -> None:
        row = profile.row
        assert row.socket is not None and not presence.beat({str(row.pk): str(row.socket)}, STAYS_S)

    @staticmethod
    def _tick() -> None:
        race_kit.watching().tick()
        refusals.write()

    def _check_deadlines(self) -> None:
        """Nothing that is due is left after a tick."""
        now = timezone.now()
        late = now - dt.timedelta(seconds=1)
        deadlines = conf.deadlines()
        assert not models.Call.objects.exclude(state="ended").filter(due_at__lt=late).exists()
        for leg in models.Leg.objects.filter(state="joined").select_related("call", "device"):
            assert leg.device is not None
            quiet = (late - leg.device.last_seen_at).total_seconds()
            assert quiet < (deadlines.leg_lost if leg.call.answered_at else deadlines.caller_silent)
            assert leg.online is False or quiet < deadlines.device_silent


@pytest.mark.django_db(transaction=True)
def test_the_invariants_hold_in_any_story(people, caplog):
    loop = asyncio.new_event_loop()
    stories = os.environ.get("STORIES")
    bounds = settings(
        max_examples=int(stories or 20),
        stateful_step_count=40 if stories else 25,
        derandomize=not stories,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if stories else [Phase.generate],  # to shrink a story takes minutes
        print_blob=True,
    )
    try:
        run_state_machine_as_test(lambda: Story(loop, caplog), settings=bounds)
    finally:
        loop.run_until_complete(hub.stop())
        loop.close()
