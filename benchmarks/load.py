"""The whole call, played by a caller and the callee's devices; and the two ways to play many: closed loop, fixed rate.

A call is: invite → every device of the callee rings → one answers → the caller and the callee's other devices are told
→ (with signals: a description of 1 kB and 10 candidates each way) → the caller hangs up → the answering device is told.
Each step waits for the one before.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable

from benchmarks.meter import Window
from benchmarks.wire import Device, View

CALL_S = 20  # a call that takes longer has failed
STEPS = ("ring", "answer", "elsewhere", "signals", "hangup", "call")
CANDIDATES = 10
CANDIDATE = {
    "candidate": "candidate:1842163049 1 udp 1677729535 203.0.113.77 46154 typ srflx raddr 192.0.2.10 rport 46154",
    "sdpMid": "0",
    "sdpMLineIndex": 0,
}
DESCRIPTION = {
    "type": "offer",
    "sdp": "v=0\r\no=- 20518 0 IN IP4 203.0.113.1\r\ns=-\r\nt=0 0\r\n"
    + "".join(f"a=rtpmap:{number} opus/48000/2\r\na=fmtp:{number} minptime=10\r\n" for number in range(96, 115)),
}

clock = time.perf_counter


class Failed(Exception):
    """A call in which a command was refused."""


class Pair:
    """One caller and one callee with devices: one call at a time."""

    def __init__(self, caller: Device, callees: list[Device]) -> None:
        self.caller, self.callees = caller, callees
        self.winner = callees[0]
        self.id = ""
        self.calls = 0
        self.waiting_for: set[Device] = set()
        self.mail: Counter[Device] = Counter()
        self.step = ""
        self.at: dict[str, float] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for device in (caller, *callees):
            device.owner = self

    async def call(self, took: dict[str, list[float]], signals: bool) -> None:
        """One call; adds the seconds of each step to `took`. Raises Failed, TimeoutError."""
        async with asyncio.timeout(CALL_S):
            self.calls += 1
            self.id = call_id()
            self.winner = self.callees[self.calls % len(self.callees)]
            self.mail.clear()
            began = self._begin("ring", self.callees)
            self.caller.say("invite", call=self.id, to=[self.winner.user], kind="audio")
            await self.done
            answered = self._begin("answer", (self.caller, *self.callees))
            self.winner.say("answer", call=self.id)
            await self.done
            if signals:
                described = self._begin("signals", (self.caller, self.winner))
                self._describe(self.caller, self.winner.user)
                await self.done
                took["signals"].append(clock() - described)
            hung_up = self._begin("hangup", (self.winner,))
            self.caller.say("hangup", call=self.id)
            await self.done
        took["ring"].append(self.at["ring"] - began)
        took["answer"].append(self.at["caller"] - answered)
        if len(self.callees) > 1:
            took["elsewhere"].append(self.at["elsewhere"] - answered)
        took["hangup"].append(self.at["hangup"] - hung_up)
        took["call"].append(self.at["hangup"] - began)

    def abandon(self) -> None:
        """Leaves a call that went wrong, so that the next one finds its devices free."""
        self.caller.say("hangup", call=self.id)
        self.id = ""

    def _begin(self, step: str, waiting_for: Iterable[Device]) -> float:
        self.step = step
        self.waiting_for = set(waiting_for)
        self.done = asyncio.get_running_loop().create_future()
        return clock()

    def _arrived(self, device: Device) -> None:
        self.waiting_for.discard(device)
        if not self.waiting_for:
            self.at[self.step] = clock()
            if not self.done.done():
                self.done.set_result(None)

    def _describe(self, device: Device, to: str) -> None:
        for body in (DESCRIPTION, *[CANDIDATE] * CANDIDATES):
            device.say("signal", call=self.id, to=to, body=body)

    # What the devices hear.

    def saw(self, device: Device, view: View) -> None:
        if view.id != self.id or device not in self.waiting_for:
            return
        match self.step:
            case "ring" if view.me.state == "ringing":
                self._arrived(device)
            case "answer" if view.state == "active":
                if device is self.caller:
                    self.at["caller"] = clock()
                elif device is not self.winner:
                    self.at["elsewhere"] = clock()  # the last one counts
                self._arrived(device)
            case "hangup" if view.state == "ended":
                self._arrived(device)

    def heard(self, device: Device, call: str) -> None:
        if call != self.id or self.step != "signals":
            return
        self.mail[device] += 1
        if device is self.winner and self.mail[device] == 1:
            self._describe(device, self.caller.user)
        if self.mail[device] == CANDIDATES + 1:
            self._arrived(device)

    def refused(self, device: Device, code: str) -> None:
        if not self.done.done():
            self.done.set_exception(Failed(f"{self.step} was refused to {device.user}: {code}"))


class Took:
    """What a run has measured: seconds of each step, what failed, and what was used."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {step: [] for step in STEPS}
        self.failed: Counter[str] = Counter()
        self.missed = 0  # calls of a fixed rate that found every pair busy

    @property
    def calls(self) -> int:
        return len(self.steps["call"])

    async def play(self, pair: Pair, signals: bool) -> None:
        try:
            await pair.call(self.steps, signals)
        except (Failed, TimeoutError) as error:
            self.failed[str(error) or f"{pair.step} took too long"] += 1
            pair.abandon()
            await asyncio.sleep(0.5)

    def row(self, window: Window) -> dict[str, object]:
        """The figures as they are written down: milliseconds as [p50, p95, p99]."""
        return {
            "calls": self.calls,
            "failed": sum(self.failed.values()),
            "why": self.failed.most_common(1)[0][0] if self.failed else "",
            "missed": self.missed,
            "per_s": round(self.calls / window.seconds, 2),
            "cpu_ms": {name: round(used, 4) for name, used in window.per(self.calls).items()},
            "client_ms": round(1000 * window.client / max(self.calls, 1), 4),
            "foreign": round(window.foreign, 3),
            "ms": {step: percentiles(values) for step, values in self.steps.items() if values},
        }


def call_id() -> str:
    """As the web client makes them: a UUID of version 7, which begins with the time."""
    bits = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80)
    return str(uuid.UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def percentiles(seconds: list[float]) -> list[float]:
    """Milliseconds that 50, 95 and 99 of 100 stay under."""
    ordered = sorted(seconds)
    return [round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3) for part in (0.5, 0.95, 0.99)]


def _tidy() -> None:
    """So that the collector of cycles does not stop this process while it measures another."""
    gc.collect()
    gc.freeze()


async def closed(
    pairs: list[Pair], seconds: float, parts: dict[str, list[int]], *, signals: bool = False, warm: float = 0.5
) -> dict[str, object]:
    """Every pair calls again as soon as its call is over."""

    async def run(took: Took, lasts: float) -> None:
        end = clock() + lasts

        async def again(pair: Pair) -> None:
            while clock() < end:
                await took.play(pair, signals)

        await asyncio.gather(*(again(pair) for pair in pairs))

    warming, took = Took(), Took()
    await run(warming, warm)
    _tidy()
    with Window(parts) as window:
        await run(took, seconds)
    return {**took.row(window), "warm_calls": warming.calls}


async def at_rate(pairs: list[Pair], per_s: float, seconds: float, parts: dict[str, list[int]]) -> dict[str, object]:
    """Calls begin at random moments, `per_s` of them in a second, whether the others are over or not."""
    took, free = Took(), list(pairs)
    playing: set[asyncio.Task[None]] = set()
    moments = random.Random(7)

    async def one(pair: Pair) -> None:
        await took.play(pair, False)
        free.append(pair)

    _tidy()
    with Window(parts) as window:
        moment = clock()
        end = moment + seconds
        while (moment := moment + moments.expovariate(per_s)) < end:
            await asyncio.sleep(max(0.0, moment - clock()))
            if free:
                task = asyncio.create_task(one(free.pop(0)))
                playing.add(task)
                task.add_done_callback(playing.discard)
            else:
                took.missed += 1
        await asyncio.gather(*playing)
    return took.row(window)
