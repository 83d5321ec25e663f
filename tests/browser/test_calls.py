"""Two people and a call, from the first ring to the last word on the screen."""

import time

from playwright.sync_api import expect

from tests.browser.person import PATIENCE_S, SHORT_RING, SHORT_RING_S, in_a_call

DENIED = """
window.allow = false;
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (wish) =>
  window.allow ? ask(wish) : Promise.reject(new DOMException("denied", "NotAllowedError"));
navigator.permissions.query = async () => ({ state: window.allow ? "granted" : "prompt" });
"""

# No sound until somebody touches the page. (A browser driven by a test counts as touched from the start.)
SILENT = """
const touched = new Promise((resolve) => addEventListener("click", () => resolve(true), { capture: true }));
let silent = true;
touched.then(() => (silent = false));
window.AudioContext = class extends AudioContext {
  get state() { return silent ? "suspended" : super.state; }
  async resume() { await touched; return super.resume(); }
};
"""


def test_a_reload_in_a_call_brings_the_media_back_in_less_than_5_seconds(alice, bob):
    in_a_call(alice, bob)
    for person, other in ((bob, alice), (alice, bob)):
        started = time.monotonic()
        person.page.reload()
        person.until(lambda now: now["frames"] > 0 and now["energy"] > 0)
        assert time.monotonic() - started < 5
        other.has_media()
        assert person.screen == other.screen == "in_call"


def test_a_caller_who_loads_the_page_again_goes_on_calling(alice, bob):
    alice.calls("bob")
    bob.rings()
    alice.page.reload()
    expect(alice.state).to_have_text("Ringing…")
    bob.answers()
    alice.has_media()
    bob.has_media()


def test_who_was_muted_stays_muted_after_a_reload(alice, bob):
    in_a_call(alice, bob)
    bob.presses("mic")
    bob.presses("cam")
    expect(alice.page.get_by_text("Bob is muted")).to_be_visible()
    expect(alice.state).to_have_text("Camera is off")
    bob.page.reload()
    expect(bob.page.get_by_role("button", name="Unmute")).to_be_visible(timeout=PATIENCE_S * 1000)
    expect(bob.page.get_by_role("button", name="Camera on")).to_be_visible()
    bob.presses("cam")
    bob.presses("mic")
    expect(alice.page.get_by_text("Bob is muted")).to_be_hidden()
    alice.has_media()


def test_the_camera_is_let_go_while_it_is_off_and_the_microphone_is_silent_while_muted(alice, bob):
    in_a_call(alice, bob)
    bob.presses("cam")
    expect(alice.state).to_have_text("Camera is off")
    expect(bob.page.locator(".self")).to_be_hidden()
    bob.presses("mic")

    def is_quiet() -> bool:
        before = alice.stats()
        alice.page.wait_for_timeout(1500)
        after = alice.stats()
        return after["energy"] - before["energy"] < 1e-4 and after["frames"] - before["frames"] <= 2

    assert any(is_quiet() for _ in range(5))  # what was on its way may come late on a busy machine
    bob.presses("cam")
    bob.presses("mic")
    alice.has_media()


def test_a_person_on_another_call_is_busy_and_finds_the_missed_call_afterwards(alice, bob, carol):
    in_a_call(alice, bob, "audio")
    carol.calls("bob", "audio")
    expect(carol.title).to_have_text("Bob is on another call")
    assert bob.screen == "in_call"
    alice.hangs_up()
    bob.sees("ended")
    bob.presses("close")
    expect(bob.notices).to_contain_text("Missed call from Carol")
    expect(bob.notices).to_contain_text("You were on another call.")
    carol.presses("close")
    bob.notices.get_by_role("button", name="Call back").click()
    carol.rings()
    expect(bob.notices.locator(".notice")).to_have_count(0)


def test_declined_on_one_device_it_is_declined_on_all(alice, sign_in):
    phone, laptop = sign_in("bob"), sign_in("bob")
    alice.calls("bob")
    phone.rings()
    laptop.rings()
    phone.declines()
    expect(alice.title).to_have_text("Bob declined the call")
    for device in (phone, laptop):
        device.sees("people")
        assert device.notices.locator(".notice").count() == 0
    expect(laptop.toasts).to_contain_text("You declined Alice’s call")


def test_a_cancelled_call_is_a_missed_call(alice, bob):
    alice.calls("bob")
    bob.rings()
    alice.hangs_up()
    expect(bob.notices).to_contain_text("Missed call from Alice", timeout=3000)
    assert bob.ring.count() == 0
    assert alice.screen == "people"
    expect(alice.toasts).to_contain_text("Call cancelled")
    bob.notices.get_by_role("button", name="Dismiss").click()
    expect(bob.notices.locator(".notice")).to_have_count(0)


def test_nobody_answers(sign_in, bob):
    alice = sign_in("alice", script=SHORT_RING)
    alice.calls("bob", "audio")
    bob.rings()
    expect(bob.ring).to_be_hidden(timeout=(SHORT_RING_S + 5) * 1000)
    expect(alice.title).to_have_text("Bob did not answer", timeout=10_000)
    expect(bob.notices).to_contain_text("Missed call from Alice")
    alice.presses("call-again")
    bob.rings()


def test_a_person_without_any_device_cannot_be_reached(alice):
    alice.calls("dave", "audio")
    expect(alice.title).to_have_text("Dave could not be reached")


def test_a_second_call_waits_for_nobody_hang_up_and_answer_in_one(alice, bob, carol, line):
    line("bob", "--max-incoming", "2")
    in_a_call(alice, bob, "audio")
    carol.calls("bob", "audio")
    bob.rings()
    bob.page.get_by_role("button", name="Hang up & answer").click()
    carol.has_media(video=False)
    expect(bob.title).to_have_text("Carol")
    expect(alice.title).to_have_text("Call ended")


def test_two_people_who_call_each_other_at_once_are_in_one_call(alice, bob):
    for person in (alice, bob):
        expect(person.page.locator("#people .person").first).to_be_visible()
    button = "document.querySelector(`#people [data-key=${user}] [data-action=call]`)"
    click = f"(user) => void setTimeout(() => {button}.click(), 100)"
    alice.page.evaluate(click, "bob")
    bob.page.evaluate(click, "alice")
    for person in (alice, bob):
        if person.page.locator(".ring").count():  # one was so much slower that it rang: answering is the same then
            person.answers()
    alice.has_media(video=False)
    bob.has_media(video=False)
    assert alice.screen == bob.screen == "in_call"
    assert alice.page.evaluate("window.connections.filter((one) => one.connectionState !== 'closed').length") == 1


def test_the_operator_lowers_the_outgoing_limit_to_none(alice, bob, line):
    line("alice", "--max-outgoing", "0")
    alice.calls("bob", "audio")
    expect(alice.toasts).to_contain_text("The operator does not allow you to place calls")
    assert alice.screen == "people"
    assert bob.screen == "people"


def test_a_blocked_microphone_is_explained_and_the_call_can_go_on(alice, sign_in):
    bob = sign_in("bob", script=DENIED)
    alice.calls("bob", "audio")
    bob.rings().answers()
    bob.sees("permission")
    expect(bob.title).to_have_text("Your microphone is blocked")
    expect(alice.state).to_have_text("Ringing…")
    bob.page.get_by_role("button", name="Try again").click()
    expect(bob.title).to_have_text("Your microphone is blocked")
    bob.page.get_by_role("button", name="Go on without").click()
    bob.has_media(video=False)
    expect(alice.page.get_by_text("Bob is muted")).to_be_visible()
    expect(bob.page.get_by_text("Your microphone is blocked")).to_be_visible()
    bob.page.evaluate("window.allow = true")
    bob.page.get_by_role("button", name="Unmute").click()
    expect(alice.page.get_by_text("Bob is muted")).to_be_hidden()
    alice.has_media(video=False)


def test_a_caller_without_leave_for_the_microphone_thinks_better_of_it(bob, sign_in):
    alice = sign_in("alice", script=DENIED)
    alice.calls("bob")
    expect(alice.title).to_have_text("Your microphone is blocked")
    alice.page.get_by_role("button", name="Cancel").click()
    alice.sees("people")
    assert bob.screen == "people"


def test_a_call_can_be_made_and_taken_with_the_keyboard_alone(alice, bob):
    alice.page.keyboard.press("/")
    alice.page.keyboard.type("bo")
    expect(alice.page.locator("#people .person")).to_have_count(1)
    alice.page.keyboard.press("ArrowDown")
    expect(alice.page.get_by_role("button", name="Call Bob", exact=True)).to_be_focused()
    alice.page.keyboard.press("Enter")
    bob.rings()
    expect(bob.ring).to_be_focused()
    bob.page.keyboard.press("Tab")
    bob.page.keyboard.press("Tab")
    expect(bob.page.get_by_role("button", name="Answer")).to_be_focused()
    bob.page.keyboard.press("Enter")
    alice.has_media(video=False)
    hang_up = alice.page.get_by_role("button", name="Hang up")
    for _ in range(8):
        if hang_up.evaluate("(node) => node === document.activeElement"):
            break
        alice.page.keyboard.press("Tab")
    expect(hang_up).to_be_focused()
    alice.page.keyboard.press("Enter")
    bob.sees("ended")
    bob.page.keyboard.press("Escape")
    bob.sees("people")
    expect(alice.page.get_by_role("button", name="Call Bob", exact=True)).to_be_focused()


def test_ring_and_answer_are_announced_to_those_who_cannot_see(alice, bob):
    alice.calls("bob")
    bob.rings()
    expect(bob.page.locator("#said-now")).to_have_text("Alice is calling. Video call.")
    bob.answers()
    bob.has_media()
    expect(bob.page.locator("#said")).to_have_text("In a call with Alice")
    alice.hangs_up()
    expect(bob.page.locator("#said")).to_have_text("Call ended")


def test_a_browser_that_forbids_sound_shows_a_button_for_it(alice, sign_in):
    bob = sign_in("bob", script=SILENT)
    alice.calls("bob", "audio")
    bob.rings()
    button = bob.ring.get_by_role("button", name="Enable sound")
    button.click()
    expect(button).to_be_hidden()
    bob.declines()
    expect(bob.page.locator("#sound-blocked")).to_be_hidden()


def test_the_title_of_the_tab_says_who_calls(alice, bob):
    alice.calls("bob")
    bob.rings()
    expect(bob.page).to_have_title("☎ Alice is calling", timeout=5000)
    bob.declines()
    expect(bob.page).to_have_title("Calls", timeout=5000)
