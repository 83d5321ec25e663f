"""One person at one browser tab: what can be done there, and what can be seen and heard there."""

import re
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.browser.served import PASSWORD

PATIENCE_S = 30  # for what has no deadline of its own, on a busy machine

# Keeps every connection that the page makes, for getStats; and remembers when a text was first seen.
WATCH = """
window.connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...args) { super(...args); window.connections.push(this); }
};
window.seenAt = (words) => new Promise((resolve) => {
  const look = () => document.body.innerText.includes(words) && (observer.disconnect(), resolve(Date.now()));
  const observer = new MutationObserver(look);
  observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  look();
});
"""

# A small picture: several of full size, each encoded and decoded by the processor, leave it no time for the tests.
SMALL_PICTURE = """
const devices = globalThis.MediaDevices?.prototype; // a blank page has none
const capture = devices?.getUserMedia;
if (devices) {
  devices.getUserMedia = function (wanted) {
    const video = wanted?.video && { ...wanted.video, width: 320, height: 180 };
    return capture.call(this, { ...wanted, video });
  };
}
"""

# Calls that this page places ring so many seconds.
RING = """
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (text) {
  const frame = JSON.parse(text);
  send.call(this, JSON.stringify(frame.cmd === "invite" ? { ...frame, ring_s: SECONDS } : frame));
};
"""
LONG_RING = RING.replace("SECONDS", "120")  # however slow the machine is on which they are looked at
SHORT_RING_S = 6  # to wait for its end
SHORT_RING = RING.replace("SECONDS", str(SHORT_RING_S))

STATS = """async () => {
  const pc = window.connections.findLast((one) => one.connectionState === "connected");
  const found = { connected: Boolean(pc), frames: 0, energy: 0, sent: 0 };
  if (!pc) return found;
  for (const stat of (await pc.getStats()).values()) {
    if (stat.type === "inbound-rtp" && stat.kind === "video") found.frames = stat.framesDecoded ?? 0;
    if (stat.type === "inbound-rtp" && stat.kind === "audio") found.energy = stat.totalAudioEnergy ?? 0;
    if (stat.type === "outbound-rtp") found.sent += stat.packetsSent ?? 0;
  }
  return found;
}"""


class Person:
    """`alice.calls("bob")`, `bob.answers()`, `expect(alice.title).to_have_text("Bob")`."""

    def __init__(self, context: BrowserContext, url: str, name: str, page: Page | None = None) -> None:
        self.context = context
        self.url = url
        self.name = name
        self.page = page or context.new_page()
        self.troubles: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.troubles.append(f"{name}: page error: {error}"))
        self.page.on("crash", lambda page: self.troubles.append(f"{name}: the page crashed"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.troubles.append(f"{self.name}: console error: {message.text}")

    # ── coming and going ──

    def signs_in(self, device: str = "") -> "Person":
        """On a device of this name, or on the browser's own. The form itself is for the tests of the pages."""
        login = f"{self.url}/accounts/login/"
        self.context.request.get(login)
        token = next(cookie["value"] for cookie in self.context.cookies() if cookie["name"] == "csrftoken")
        form: dict[str, Any] = {"username": self.name, "password": PASSWORD, "csrfmiddlewaretoken": token}
        answer = self.context.request.post(login, form=form, headers={"Referer": login}, max_redirects=0)
        assert answer.status == 302, answer.text()
        return self.goes_to(device).is_online()

    def goes_to(self, device: str = "") -> "Person":
        """Opens the client in this tab, as a device of its own if one is named, and agrees to that when asked."""
        self.page.goto(f"{self.url}/?device={device}" if device else self.url)
        if device:
            gate = self.page.locator("[data-action=use-window]")
            expect(gate.or_(self.page.locator("[data-text=link]", has_text="Online"))).to_be_visible()
            if gate.is_visible():
                gate.click()
        return self

    def fills_in_the_form(self) -> "Person":
        """Signs in as people do."""
        self.page.goto(f"{self.url}/accounts/login/")
        self.page.get_by_label("User name").fill(self.name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in").click()
        return self.is_online()

    def is_online(self) -> "Person":
        expect(self.page.locator("[data-text=link]")).to_have_text("Online")
        return self

    def opens_another_tab(self, device: str = "") -> "Person":
        return Person(self.context, self.url, self.name).goes_to(device)

    def signs_out(self) -> None:
        """Without looking at the screen, whatever it shows: also ends the calls of this browser."""
        self.page.evaluate(
            """async () => {
                const form = document.querySelector("form[action$='logout/']");
                if (form) await fetch(form.action, { method: "POST", body: new FormData(form), redirect: "manual" });
            }"""
        )

    # ── calls ──

    def calls(self, user: str, kind: str = "video") -> None:
        button = self.page.locator(f"#people [data-key={user}] [data-action=call][data-kind={kind}]")
        button.click(timeout=PATIENCE_S * 1000)

    def answers(self) -> None:
        self.ring.locator("[data-action=answer]").click()

    def declines(self) -> None:
        self.ring.locator("[data-action=reject]").click()

    def card(self, name: str) -> Locator:
        """The card of this person's call."""
        return self.page.get_by_role("alertdialog", name=f"{name} is calling")

    def presses(self, action: str) -> None:
        self.page.locator(f"[data-action={action}]:visible").click()

    def hangs_up(self) -> None:
        self.presses("hangup")

    def opens(self, view: str) -> "Person":
        """One of the page's views: people, history, settings."""
        self.page.locator(f"[data-view-link={view}]").click()
        expect(self.page.locator(f"[data-view={view}]")).to_be_visible()
        return self

    # ── what is seen ──

    @property
    def ring(self) -> Locator:
        return self.page.locator(".ring")

    @property
    def title(self) -> Locator:
        return self.page.locator("#scene-title")

    @property
    def state(self) -> Locator:
        return self.page.locator(".scene-state")

    @property
    def notices(self) -> Locator:
        return self.page.locator("#notices")

    @property
    def toasts(self) -> Locator:
        return self.page.locator("#toasts")

    @property
    def device(self) -> str:
        return self.page.locator("#device-name").inner_text()

    @property
    def screen(self) -> str:
        return self.page.evaluate("document.body.dataset.screen")

    def sees(self, screen: str) -> "Person":
        expect(self.page.locator("body")).to_have_attribute(
            "data-screen", re.compile(screen), timeout=PATIENCE_S * 1000
        )
        return self

    def rings(self) -> "Person":
        expect(self.ring).to_be_visible(timeout=PATIENCE_S * 1000)
        return self

    # ── what is heard and watched ──

    def stats(self) -> dict[str, Any]:
        return self.page.evaluate(STATS)

    def has_media(self, video: bool = True) -> dict[str, Any]:
        """Waits until sound, and frames, arrive and go on arriving. Returns the last reading."""
        first = self.until(lambda now: now["energy"] > 0 and (now["frames"] > 0 or not video))
        return self.until(
            lambda now: now["energy"] > first["energy"] and (now["frames"] > first["frames"] or not video)
        )

    def until(self, true: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The first reading of the connection's figures for which this is true."""
        end = time.monotonic() + seconds
        while not true(now := self.stats()):
            assert time.monotonic() < end, f"{self.name}: {now}, screen {self.screen}"
            self.page.wait_for_timeout(50)
        return now

    def waits_for(self, truth: str, about: Any = None, seconds: float = PATIENCE_S) -> None:
        """Until this expression is true in the page. (Playwright's own way would need `unsafe-eval`.)"""
        end = time.monotonic() + seconds
        while not self.page.evaluate(truth, about):
            assert time.monotonic() < end, f"{self.name}: {truth}"
            self.page.wait_for_timeout(50)

    def will_see(self, words: str) -> Callable[[], float]:
        """Starts to watch for these words. The result waits for them and returns when they came, in ms since 1970."""
        self.page.evaluate("(words) => void (window.awaited = window.seenAt(words))", words)
        return lambda: self.page.evaluate("window.awaited")


def in_a_call(caller: Person, callee: Person, kind: str = "video") -> None:
    """The two talk to each other, and see each other in a video call."""
    caller.calls(callee.name, kind)
    callee.rings().answers()
    caller.has_media(kind == "video")
    callee.has_media(kind == "video")
