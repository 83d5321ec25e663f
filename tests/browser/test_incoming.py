"""Calls that come in: several at once, silenced, answered without the camera, noticed from elsewhere."""

import pytest
from playwright.sync_api import expect

from tests.browser.person import LONG_RING

# Remembers what a notification would have shown, in a browser that cannot show any; the page thinks it is hidden.
IN_THE_BACKGROUND = """
window.shown = [];
window.Notification = class {
  static permission = "granted";
  constructor(title, options) { this.title = title; this.options = options; this.open = true; window.shown.push(this); }
  close() { this.open = false; }
};
Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
window.vibrated = [];
navigator.vibrate = (pattern) => Boolean(window.vibrated.push(pattern));
"""

SOUNDING = "async () => (await navigator.locks.query()).held.filter((one) => one.name === 'calls:sound').length"


@pytest.fixture
def alice(sign_in):
    return sign_in("alice", script=LONG_RING)


@pytest.fixture
def carol(sign_in):
    return sign_in("carol", script=LONG_RING)


def test_two_calls_at_once_have_a_card_each_and_the_second_stays_over_the_first(alice, bob, carol, line):
    line("bob", "--max-incoming", "2")
    alice.calls("bob")
    carol.calls("bob", "audio")
    expect(bob.ring).to_have_count(2)
    expect(bob.card("Alice")).to_be_visible()
    expect(bob.card("Carol").get_by_role("button", name="Answer without camera")).to_be_hidden()
    bob.card("Carol").get_by_role("button", name="Answer").click()
    bob.presses("mic")  # the call can be used under the card
    expect(carol.page.get_by_text("Bob is muted")).to_be_visible()
    expect(bob.card("Alice").get_by_role("button", name="Hang up & answer without camera")).to_be_visible()
    bob.card("Alice").get_by_role("button", name="Hang up & answer", exact=True).click()
    alice.has_media()
    expect(carol.title).to_have_text("Call ended")
    expect(bob.title).to_have_text("Alice")


def test_a_second_ring_leaves_the_keyboard_where_it_is(alice, bob, carol, line):
    line("bob", "--max-incoming", "2")
    alice.calls("bob", "audio")
    bob.rings()
    expect(bob.card("Alice")).to_be_focused()
    answer = bob.card("Alice").get_by_role("button", name="Answer")
    answer.focus()
    carol.calls("bob", "audio")
    expect(bob.ring).to_have_count(2)
    expect(answer).to_be_focused()
    alice.hangs_up()  # under the fingers: the keyboard goes to whoever still rings
    expect(bob.ring).to_have_count(1)
    expect(bob.card("Carol")).to_be_focused()
    bob.page.keyboard.press("Tab")
    expect(bob.card("Carol").get_by_role("button", name="Decline")).to_be_focused()


def test_a_call_is_silenced_here_and_rings_on_elsewhere(alice, sign_in):
    phone, laptop = sign_in("bob"), sign_in("bob")
    alice.calls("bob", "audio")
    laptop.rings()
    phone.rings().ring.get_by_role("button", name="Silence here").click()
    expect(phone.ring).to_contain_text("silenced here")
    expect(phone.ring.get_by_role("button", name="Silence here")).to_be_hidden()
    assert phone.page.evaluate(SOUNDING) == 0
    assert laptop.page.evaluate(SOUNDING) == 1
    expect(alice.state).to_have_text("Ringing…")
    phone.answers()
    phone.has_media(video=False)


def test_one_of_two_can_be_declined_and_the_other_rings_on(alice, bob, carol, line):
    line("bob", "--max-incoming", "2")
    alice.calls("bob", "audio")
    carol.calls("bob", "audio")
    expect(bob.ring).to_have_count(2)
    bob.card("Alice").get_by_role("button", name="Decline").click()
    expect(alice.title).to_have_text("Bob declined the call")
    expect(bob.card("Carol")).to_be_visible()
    expect(carol.state).to_have_text("Ringing…")


def test_a_video_call_answered_without_camera_shows_the_caller_and_not_oneself(alice, bob):
    alice.calls("bob")
    bob.rings().ring.get_by_role("button", name="Answer without camera").click()
    bob.has_media()
    expect(alice.state).to_have_text("Camera is off")
    expect(bob.page.locator(".self")).to_be_hidden()
    bob.presses("cam")
    alice.has_media()


def test_a_call_is_noticed_from_elsewhere(alice, sign_in):
    bob = sign_in("bob", script=IN_THE_BACKGROUND)
    bob.page.mouse.click(5, 5)  # browsers let a page vibrate when somebody has touched it
    still = bob.page.locator("link[rel=icon]").get_attribute("href")
    alice.calls("bob", "audio")
    bob.waits_for("window.shown.length === 1")
    shown = "window.shown.map((one) => [one.title, one.options.body, one.open])"
    assert bob.page.evaluate(shown) == [["Alice is calling", "Incoming call", True]]
    bob.waits_for("(still) => document.querySelector('link[rel=icon]').getAttribute('href') !== still", still)
    expect(bob.page).to_have_title("☎ Alice is calling", timeout=5000)
    ring = bob.page.evaluate("window.vibrated")
    assert len(ring) == 1 and 120_000 <= sum(ring[0]) < 125_000  # as long as it rings, and it ends by itself
    alice.hangs_up()
    bob.waits_for("window.shown.every((one) => !one.open)")
    assert bob.page.evaluate("window.vibrated.at(-1)") == 0
    expect(bob.page.locator("link[rel=icon]")).to_have_attribute("href", still)


SILENT = "try { localStorage.setItem('ring.silent', '1'); } catch { /* a blank page */ }"


def test_who_is_told_of_a_call_by_a_notification_alone_counts_as_rung(alice, sign_in):
    bob = sign_in("bob", script=IN_THE_BACKGROUND + SILENT)
    alice.calls("bob", "audio")
    bob.waits_for("window.shown.length === 1")
    assert bob.page.evaluate(SOUNDING) == 0
    expect(alice.state).to_have_text("Ringing…")
