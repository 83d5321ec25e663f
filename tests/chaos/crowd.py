"""People who call each other all the time, on devices spread over both servers.

*Talkers* hold a call through everything that happens. The *crowd* places calls without end: several devices answer at
once, several callers want one free place, two people call each other at the same moment. *Probes*, one at each server,
ask for something twice a second and send each other letters: they say when a server serves again.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from tests.chaos.client import Device, Record
from tests.chaos.stage import Stage, now

PROBE_S = 0.5
READY_S = 5.0  # for the answer of /readyz
RING_S = 6  # how long a call of the crowd rings at most


class Person(NamedTuple):
    name: str
    key: str
    cookie: str


class Poll(NamedTuple):
    """One question at /readyz, and whether the answer was 200."""

    server: int
    sent: float
    ok: bool


class Crowd:
    """All people and their devices. While `going` is set, people ask for things; else devices only ping."""

    def __init__(self, stage: Stage, people: dict[str, Person], dice: random.Random) -> None:
        self.stage, self.dice = stage, dice
        self.record = Record()
        self.polls: list[Poll] = []
        self.ready = [True, True]
        self.going = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.devices: list[Device] = []
        self.of: dict[str, list[Device]] = {}
        self.seen: set[tuple[str, str]] = set()  # a device (its user and name) and a call to which it has reacted
        self.kept: set[str] = set()  # calls which somebody is looking after
        self.avoided: set[str] = set()  # whom the crowd does not call for a while
        self.placed: dict[str, tuple[float, float]] = {}  # when each call was placed, and for how long it may ring
        self.calls = 0
        self.broken: BaseException | None = None  # what a task of the suite itself failed with
        self.probed: dict[int, float] = {}  # when the newest question of a probe was sent that each server answered
        for person in people.values():
            for number, home in enumerate(self._homes(person.name)):
                device = Device(*person, f"Device {number}", home, self.record, self.choose, self.going)
                device.on_view = self._react
                self.devices.append(device)
                self.of.setdefault(person.name, []).append(device)
        names = list(self.of)
        self.crowd = [name for name in names if name.startswith("crowd")]
        self.idle = [name for name in names if name.startswith("idle")]
        talkers = [name for name in names if name.startswith("talk")]
        self.pairs = list(zip(talkers[::2], talkers[1::2], strict=True))
        self.pairs.append(("probe0", "probe1"))

    def _homes(self, name: str) -> list[int]:
        """The server that each device of a person prefers."""
        match name.rstrip("0123456789"):
            case "probe":
                return [int(name[-1])]
            case "idle":
                return [0]
            case "talk":
                return [0, 1]
        return [0, 1, self.dice.randrange(2)]

    # --- life ---

    async def start(self) -> None:
        """Connects everybody but the idle."""
        for device in self.devices:
            if device.user not in self.idle:
                device.start()
        for number in range(2):
            self._spawn(self._poll(number))
            self._spawn(self._probe(number))
        for pair in self.pairs:
            self._spawn(self._talk(*pair))
        for _ in range(max(2, len(self.crowd) // 2)):
            self._spawn(self._place_calls())

    async def stop(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.gather(*(device.stop() for device in self.devices))

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.broken = task.exception()

    @property
    def awake(self) -> list[Device]:
        """The devices that should be connected."""
        return [device for device in self.devices if device.task is not None and not device.over]

    async def wake_idle(self) -> None:
        for name in self.idle:
            self.of[name][0].start()

    async def dismiss_idle(self) -> None:
        await asyncio.gather(*(self.of[name][0].stop() for name in self.idle))
        for name in self.idle:
            self.of[name][0].task, self.of[name][0].over = None, False

    def go_home(self) -> None:
        """Whoever is connected to the other server than it prefers moves back."""
        for device in self.awake:
            if device.server != device.home and self.ready[device.home]:
                device.drop()

    def choose(self, device: Device) -> tuple[int, str] | None:
        """Where the device goes, as a load balancer decides: to the server that it prefers if that is ready, else to
        the other one, and if none is, to any. None: that server does not run."""
        order = [device.home, 1 - device.home]
        ready = [each for each in order if self.ready[each]]
        number = ready[0] if ready else self.dice.choice(order)
        return (number, self.stage.servers[number].url) if self.stage.is_running(number) else None

    async def settled(self, within_s: float) -> bool:
        """Waits until nobody waits for a reply."""
        end = now() + within_s
        while now() < end:
            if not any(order.ended is None and order.cmd not in ("signal", "ping") for order in self.record.orders):
                return True
            await asyncio.sleep(0.05)
        return False

    # --- what is ready ---

    async def _poll(self, number: int) -> None:
        while True:
            sent = now()
            ok = await asks_ready(self.stage.servers[number].url) if self.stage.is_running(number) else False
            self.ready[number] = ok
            self.polls.append(Poll(number, sent, ok))
            await asyncio.sleep(max(0.0, 1.0 - (now() - sent)))

    async def _probe(self, number: int) -> None:
        """Asks for something that changes nothing, but passes all through the server and its database."""
        (device,) = self.of[f"probe{number}"]
        while True:
            await asyncio.sleep(PROBE_S)
            if device.server != device.home and self.ready[device.home]:
                device.drop()
            sent, server = now(), device.server
            reply = await device.order("ringing", call=str(uuid.uuid4()))
            if reply is not None and reply["error"]["code"] == "not_found":
                self.probed[server] = sent

    # --- talkers ---

    async def _talk(self, one: str, other: str) -> None:
        """Keeps the two in a call, in which things change."""
        while True:
            call = next(
                (id for device in self.of[one] for id, view in device.calls.items() if talks(view, other)), None
            )
            if call is None:
                await self.going.wait()
                call = str(uuid.uuid4())
                self.kept.add(call)
                await self._place(self.of[one][0], other, call, ring_s=60)
                await asyncio.sleep(1)
                continue
            self.kept.add(call)
            if one.startswith("probe"):
                await asyncio.sleep(PROBE_S)
                for a, b in ((one, other), (other, one)):
                    await self._write(a, b, call)
                continue
            await asyncio.sleep(self.dice.uniform(2, 4))
            await self.going.wait()
            a, b = self.dice.sample((one, other), 2)
            here = [device for device in self.of[a] if self._can(device, call, "media")]
            elsewhere = [device for device in self.of[a] if self._can(device, call, "move")]
            match self.dice.randrange(5):
                case 0 | 1 if here:
                    await here[0].order("media", call=call, mic=self.dice.random() < 0.5, cam=self.dice.random() < 0.5)
                case 2 if elsewhere:
                    await self.dice.choice(elsewhere).order("move", call=call)
                case 3 if here:
                    here[0].reload()
                case _:
                    await self._write(a, b, call)

    async def _write(self, a: str, b: str, call: str) -> None:
        """Sends a letter through the call."""
        for device in self.of[a]:
            if self._can(device, call, "signal"):
                letter = {"id": uuid.uuid4().hex, "at": now(), "from": device.server, "to": b}
                with suppress(Exception):
                    await device.say("signal", call=call, to=b, body=letter)

    @staticmethod
    def _can(device: Device, call: str, cmd: str) -> bool:
        view = device.calls.get(call)
        return device.welcomed.is_set() and view is not None and cmd in view["me"]["can"]

    # --- the crowd ---

    async def _place_calls(self) -> None:
        while True:
            await self.going.wait()
            people = [name for name in self.crowd if name not in self.avoided]
            a, b = self.dice.sample(people, 2)
            match self.dice.randrange(10):
                case 0:  # two call each other
                    await asyncio.gather(self.whole_call(a, b), self.whole_call(b, a))
                case 1 | 2:  # several want the same
                    await self.crowd_at(b, [name for name in people if name != b])
                case _:
                    await self.whole_call(a, b)
            await asyncio.sleep(self.dice.uniform(0.05, 0.3))

    async def crowd_at(self, callee: str, callers: Sequence[str], several: int = 4) -> None:
        """Several people call one at the same moment."""
        chosen = self.dice.sample(list(callers), min(several, len(callers)))
        await asyncio.gather(*(self.whole_call(each, callee, talk_s=0.3) for each in chosen))

    async def call_in_vain(self, device: Device, callee: str) -> None:
        """Places a call to which nobody reacts: it rings until its deadline."""
        call = next(id for id in iter(lambda: str(uuid.uuid4()), "") if plan_of(id)[1] == "ignore")
        await self._place(device, callee, call, ring_s=RING_S)

    async def whole_call(self, caller: str, callee: str, talk_s: float | None = None) -> None:
        """From the invite to the hangup. What the callee does is decided by `_react`."""
        device = self.dice.choice(self.of[caller])
        call = str(uuid.uuid4())
        self.kept.add(call)
        try:
            placed = await self._place(device, callee, call, ring_s=RING_S)
            if placed is None:
                return
            call = placed["id"]  # of another call, where the two have called each other
            self.kept.add(call)
            await self._until(device, call, lambda view: view["state"] != "ringing", self.dice.choice((1, 3, 9, 20)))
            if device.calls.get(call, {"state": "ended"})["state"] == "active":
                await asyncio.sleep(self.dice.uniform(0.1, 1.0) if talk_s is None else talk_s)
                if self.dice.random() < 0.3:
                    device = await self._continue_elsewhere(device, caller, call)
                await self._write(caller, callee, call)
                await self._write(callee, caller, call)
            await self.going.wait()
            await self._hang_up(device, caller, callee, call)
        finally:
            self.kept.discard(call)

    async def _place(self, device: Device, callee: str, call: str, ring_s: int) -> dict[str, Any] | None:
        """The call's view when it was placed. An invite that found no definite reply for 10 s is taken back."""
        self.placed[call] = now(), ring_s
        self.calls += 1
        more = {"data": {"n": self.dice.randrange(1000)}} if self.dice.random() < 0.3 else {}
        kind = self.dice.choice(("audio", "video"))
        reply = await device.insist("invite", for_s=10, call=call, to=[callee], kind=kind, ring_s=ring_s, **more)
        if reply is None:
            await device.insist("hangup", call=call)
        if reply is None or not reply["ok"] or reply["call"]["state"] == "ended":
            return None
        view: dict[str, Any] = reply["call"]
        return view

    async def _continue_elsewhere(self, device: Device, user: str, call: str) -> Device:
        for other in self.of[user]:
            if self._can(other, call, "move") and (await other.insist("move", call=call) or {}).get("ok"):
                return other
        return device

    async def _hang_up(self, device: Device, caller: str, callee: str, call: str) -> None:
        """Either side, or both at once."""
        sides = [device, *(each for each in self.of[callee] if self._can(each, call, "hangup"))]
        chosen = sides if self.dice.random() < 0.2 else [self.dice.choice(sides)]
        cmd = self.dice.choice(("hangup", "end"))
        await asyncio.gather(*(each.insist(cmd, call=call) for each in chosen))
        for other in (*self.of[caller], *self.of[callee]):  # it was moved meanwhile, or its page was reloaded
            if other.calls.get(call, {"state": "ended"})["state"] != "ended" and self._can(other, call, "end"):
                await other.insist("end", call=call)

    async def _until(
        self, device: Device, call: str, wanted: Callable[[dict[str, Any]], bool], within_s: float
    ) -> None:
        end = now() + within_s
        while now() < end:
            view = device.calls.get(call)
            if view is not None and wanted(view):
                return
            await asyncio.sleep(0.03)

    def _react(self, device: Device, view: dict[str, Any]) -> None:
        """What a person does whose device rings: a matter of the call, so that all devices of the person agree."""
        if view["me"]["state"] != "ringing" or (str(device), view["id"]) in self.seen:
            return
        self.seen.add((str(device), view["id"]))
        self._spawn(self._answer(device, view["id"]))

    async def _answer(self, device: Device, call: str) -> None:
        plan, deed = plan_of(call)
        if device.user.startswith(("talk", "probe")):
            deed = "answer"
        at, first = plan.uniform(0.05, 0.8), plan.randrange(3)
        if plan.random() < 0.7:
            await device.order("ringing", call=call)
        await asyncio.sleep(at)
        await self.going.wait()
        mine = self.of[device.user].index(device)
        if deed == "answer" or (deed == "reject" and mine != first) or (deed == "one answers" and mine == first):
            more = {"data": "hello"} if plan.random() < 0.2 else {}
            await device.insist("answer", for_s=10, call=call, **more)
        elif deed == "reject":
            await device.insist("reject", for_s=10, call=call)

    async def tidy(self) -> None:
        """Ends what is left of calls that nobody looks after any more."""
        work = []
        for name in self.crowd:
            for device in self.of[name]:
                for call in device.held:
                    if call not in self.kept and self._can(device, call, "end"):
                        work.append(device.insist("end", call=call, for_s=10))
        await asyncio.gather(*work)


def plan_of(call: str) -> tuple[random.Random, str]:
    """What the called person does, and dice for the rest of it: the same for all of the person's devices."""
    plan = random.Random(call)
    return plan, plan.choices(("answer", "reject", "ignore", "one answers"), (6, 1, 1, 3))[0]


def talks(view: dict[str, Any], other: str) -> bool:
    """Whether this is a live call with the other person."""
    return view["state"] != "ended" and any(leg["user"] == other for leg in view["legs"])


async def asks_ready(url: str) -> bool:
    """Whether /readyz of the server says 200, in time."""
    host, _, port = url.removeprefix("ws://").partition(":")
    writer = None
    try:
        async with asyncio.timeout(READY_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return b" 200 " in await reader.readline()
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
