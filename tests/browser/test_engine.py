"""`calls.engine` with a real Janus and real pages, which see each other through it."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from calls.engine import Engine, EngineDown, EngineRefused, Feed, Gone, Heard, Offer, Seat
from scripts import janus

pytestmark = pytest.mark.skipif("LONG" not in os.environ, reason="make check-long runs it: it installs a Janus")

ROOT = Path(__file__).resolve().parent.parent.parent

PAGE = """
  const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 48});
  const pen = canvas.getContext("2d");
  let n = 0;
  setInterval(() => { pen.fillStyle = `hsl(${n++ * 7 % 360} 90% 50%)`; pen.fillRect(0, 0, 64, 48); }, 50);
  const gathered = pc => new Promise(done => {
    const look = () => pc.iceGatheringState === "complete" && done();
    pc.addEventListener("icegatheringstatechange", look); look(); setTimeout(done, 1000);
  });
  window.publish = async () => {
    window.out = new RTCPeerConnection();
    const sound = new AudioContext().createMediaStreamDestination().stream;
    [...canvas.captureStream(15).getTracks(), ...sound.getTracks()].forEach(track => out.addTrack(track));
    await out.setLocalDescription(); await gathered(out);
    return out.localDescription.sdp;
  };
  window.published = sdp => out.setRemoteDescription({type: "answer", sdp});
  window.receive = async sdp => {
    window.into ??= new RTCPeerConnection();
    into.ontrack = ({track}) => {
      const video = Object.assign(document.createElement("video"), {muted: true, autoplay: true});
      video.srcObject = new MediaStream([track]); document.body.append(video);
    };
    await into.setRemoteDescription({type: "offer", sdp});
    await into.setLocalDescription(); await gathered(into);
    return into.localDescription.sdp;
  };
  window.again = () => { window.out?.close(); window.into?.close(); window.into = undefined; };
  window.frames = async () => {
    const found = {};
    if (window.into)
      for (const one of (await into.getStats()).values())
        if (one.type === "inbound-rtp" && one.kind === "video") found[one.mid] = one.framesDecoded || 0;
    return found;
  };
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[janus.Janus]:
    try:
        gateway = janus.Janus(janus.unpacked(ROOT / "var" / "janus"), tmp_path_factory.mktemp("janus"))
        gateway.start()
    except janus.Missing as missing:
        pytest.skip(str(missing))
    yield gateway
    gateway.kill()


class Loop:
    """An event loop beside the test, because the browser's interface here is synchronous."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


class Room:
    """Pages in one room, and the engine that serves them."""

    def __init__(self, gateway: janus.Janus, chromium: Browser, run: Loop) -> None:
        self.gateway, self.chromium, self.run = gateway, chromium, run
        self.heard: list[tuple[Seat, Heard]] = []
        self.pages: dict[str, Page] = {}
        self.seats: dict[str, Seat] = {}
        self.tracks: dict[str, dict[str, str]] = {}
        self.engine = self.fresh()
        self.run(self.engine.open("call", 9))

    def fresh(self) -> Engine:
        engine = Engine(self.gateway.url, self.gateway.secret, lambda seat, what: self.heard.append((seat, what)))
        return self.run(engine.__aenter__())

    def join(self, user: str, epoch: int = 1) -> None:
        if user not in self.pages:
            page = self.pages[user] = self.chromium.new_page()
            page.evaluate(f"() => {{ {PAGE} }}")
        offer = self.pages[user].evaluate("again(), publish()")
        seat, answer = self.run(self.engine.publish("call", Feed(user, epoch), offer))
        self.seats[user] = seat
        self.pages[user].evaluate("sdp => published(sdp)", answer)

    def answer(self) -> None:
        while self.heard:
            seat, what = self.heard.pop(0)
            if isinstance(what, Offer):
                page = self.pages[seat.feed.user]
                self.tracks[seat.feed.user] = {
                    mid: track.user for mid, track in what.tracks.items() if track.kind == "video"
                }
                self.run(self.engine.answer(seat, page.evaluate("sdp => receive(sdp)", what.sdp)))

    def frames(self, user: str) -> dict[str, int]:
        """How many pictures of each other user this page has decoded."""
        whose = self.tracks.get(user, {})
        return {whose[mid]: n for mid, n in self.pages[user].evaluate("frames()").items() if mid in whose}

    def until(self, so: Callable[[], bool], what: str, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not so():
            assert time.monotonic() < end, (what, {user: self.frames(user) for user in self.pages})
            self.answer()
            self.pages[next(iter(self.pages))].wait_for_timeout(50)

    def moves(self, user: str, others: set[str]) -> bool:
        """Whether this page decodes a new picture of each of the others."""
        before = self.frames(user)
        self.pages[user].wait_for_timeout(200)
        after = self.frames(user)
        return all(after.get(one, 0) > before.get(one, 0) for one in others)

    def all_see_all(self) -> bool:
        return all(self.moves(user, set(self.pages) - {user}) for user in self.pages)

    def close(self) -> None:
        try:
            self.run(self.engine.close("call"))
        finally:
            self.run(self.engine.__aexit__())
            for page in self.pages.values():
                page.close()


@pytest.fixture
def empty_room(gateway: janus.Janus, chromium: Browser) -> Iterator[Room]:
    run = Loop()
    room = Room(gateway, chromium, run)
    yield room
    room.close()
    run.loop.call_soon_threadsafe(run.loop.stop)


@pytest.fixture
def room(empty_room: Room) -> Room:
    for user in ("alice", "bob", "carol:x"):  # a name may have the sign that parts epoch and user
        empty_room.join(user)
    return empty_room


def test_three_pages_see_each_other_and_nobody_who_left(room: Room) -> None:
    room.until(room.all_see_all, "every picture is decoded")
    assert room.run(room.engine.rooms()) >= {"call"}
    room.run(room.engine.mute(room.seats["bob"], "video", True))
    room.until(lambda: not room.moves("alice", {"bob"}), "a muted picture stands still")
    assert room.moves("alice", {"carol:x"})
    room.run(room.engine.mute(room.seats["bob"], "video", False))
    room.until(room.all_see_all, "the picture goes on")
    removed = room.seats["carol:x"]
    room.run(room.engine.remove("call", removed.feed))
    told: list[Seat] = []

    def was_told() -> bool:
        told.extend(seat for seat, what in room.heard if isinstance(what, Gone))
        return bool(told)

    room.until(was_told, "the removed one is told")
    assert told[0].feed == removed.feed
    room.until(lambda: not room.moves("alice", {"carol:x"}), "a removed picture stands still")
    assert room.moves("alice", {"bob"})


@pytest.mark.timeout(180)
def test_nine_pages_see_each_other_and_the_last_one_soon(empty_room: Room) -> None:
    for number in range(8):
        empty_room.join(f"person{number}")
        empty_room.answer()
    empty_room.until(empty_room.all_see_all, "every picture is decoded", 60)
    others = set(empty_room.pages)
    empty_room.join("late")
    began = time.monotonic()
    empty_room.until(
        lambda: {who for who, n in empty_room.frames("late").items() if n} == others, "who comes late sees all"
    )
    print(f"who came late saw all eight after {time.monotonic() - began:.1f} s")
    empty_room.until(empty_room.all_see_all, "all 72 pictures are decoded", 60)


def test_a_feed_that_has_left_keeps_nobody_from_the_others(room: Room) -> None:
    room.until(room.all_see_all, "every picture is decoded")
    room.join("dave")
    seat = room.seats["dave"]
    room.run(room.engine.subscribe(seat, {"1:alice", "1:nobody"}))
    room.until(room.all_see_all, "every picture is decoded, the new one's too")
    assert "1:nobody" not in seat.received


def test_another_process_goes_on_with_the_seats(room: Room) -> None:
    room.until(room.all_see_all, "every picture is decoded")
    stored = {user: seat.stored() for user, seat in room.seats.items()}
    room.run(room.engine.__aexit__())
    assert room.all_see_all(), "media goes on while nobody speaks to the engine"
    room.engine = room.fresh()
    for user, text in stored.items():
        room.seats[user] = Seat.restored(text)
        room.run(room.engine.claim(room.seats[user]))
    room.join("dave")
    room.until(room.all_see_all, "who comes later is seen by those who were claimed")


def test_pages_publish_anew_after_janus_was_killed(room: Room) -> None:
    room.until(room.all_see_all, "every picture is decoded")
    room.gateway.kill()
    began = time.monotonic()
    with pytest.raises(EngineDown):
        room.run(room.engine.rooms())
    assert time.monotonic() - began < 8, "a request has a deadline"
    room.gateway.start()
    gone: set[str] = set()

    def all_told() -> bool:
        gone.update(seat.feed.user for seat, what in room.heard if isinstance(what, Gone))
        return gone == set(room.pages)

    room.until(all_told, "each seat is told as gone")
    room.run(room.engine.open("call", 9))
    for user in room.pages:
        room.join(user, epoch=2)
    room.until(room.all_see_all, "every picture is back")


def test_a_janus_that_does_not_answer_is_not_waited_for(room: Room) -> None:
    room.until(room.all_see_all, "every picture is decoded")
    process = room.gateway.process
    assert process
    process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(EngineDown):
            room.run(room.engine.rooms())
        assert time.monotonic() - began < 8
    finally:
        process.send_signal(signal.SIGCONT)
    assert "call" in room.run(room.engine.rooms())
    room.until(room.all_see_all, "the pictures go on")


def test_what_is_not_there_is_closed_and_a_wrong_secret_is_refused(gateway: janus.Janus) -> None:
    run = Loop()

    async def look() -> None:
        async with Engine(gateway.url, gateway.secret, lambda *_: None) as engine:
            await engine.close("nothing")
            await engine.remove("nothing", Feed("bob", 1))
            assert (await engine.version())[0].isdigit()
            with pytest.raises(EngineRefused):
                await engine.publish("nothing", Feed("bob", 1), "v=0")
        async with Engine(gateway.url, "wrong", lambda *_: None) as engine:
            with pytest.raises(EngineRefused):
                await engine.rooms()

    run(look())
    run.loop.call_soon_threadsafe(run.loop.stop)
