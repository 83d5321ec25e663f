"""Calls of several people, with real sound and pictures: a connection for each pair, and what the host may do."""

import time

import pytest
from playwright.sync_api import expect

from tests.browser.person import PATIENCE_S, Person, in_a_call

pytestmark = pytest.mark.timeout(240)

BACK_S = 15  # five on a machine of one's own

# The frames that each live connection of this page has decoded.
FRAMES = """async () => {
  const live = window.connections.filter((one) => one.connectionState === "connected");
  const decoded = live.map(async (pc) =>
    Math.max(0, ...[...(await pc.getStats()).values()]
      .filter((stat) => stat.type === "inbound-rtp" && stat.kind === "video").map((stat) => stat.framesDecoded ?? 0)));
  return Promise.all(decoded);
}"""


def sees_everybody(person: Person, others: int, seconds: float = PATIENCE_S) -> None:
    """Each of so many connections decodes pictures, and goes on doing so."""
    end = time.monotonic() + seconds
    first: list[int] = []
    while True:
        frames = person.page.evaluate(FRAMES)
        if len(frames) == others and all(frames):
            if len(first) == others and all(now > then for now, then in zip(frames, first, strict=True)):
                return
            first = first if len(first) == others else frames
        assert time.monotonic() < end, f"{person.name}: {frames}, first {first}, screen {person.screen}"
        person.page.wait_for_timeout(100)


def tile(person: Person, user: str):
    return person.page.locator(f".tile[data-key={user}]")


def chooses(person: Person, *users: str) -> None:
    person.presses("choose-mode")
    for user in users:
        person.page.locator(f"#people [data-key={user}] input").click(timeout=PATIENCE_S * 1000)


def calls_several(person: Person, *users: str, kind: str = "video") -> None:
    chooses(person, *users)
    person.page.locator(f"[data-action=call-chosen][data-kind={kind}]").click()


@pytest.fixture
def three(alice, bob, carol):
    """alice has called bob and carol, and everybody sees everybody."""
    calls_several(alice, "bob", "carol")
    for callee in (bob, carol):
        callee.rings().answers()
    for person in (alice, bob, carol):
        sees_everybody(person, 2)
    return alice, bob, carol


def test_each_pair_of_three_has_pictures_and_a_reload_is_back(three):
    alice, bob, carol = three
    expect(alice.page.locator(".tile")).to_have_count(3)
    expect(tile(bob, "alice").get_by_text("Host")).to_be_visible()
    expect(tile(bob, "bob")).to_contain_text("You")
    kept = alice.page.evaluate("window.connections.length")
    carol.page.reload()
    sees_everybody(carol, 2, BACK_S)
    sees_everybody(alice, 2)
    sees_everybody(bob, 2)
    assert alice.page.evaluate("window.connections.length") == kept + 1  # that with bob was left alone


def test_a_tile_is_shown_large_and_a_speaker_is_marked(three):
    alice, bob, _ = three
    expect(tile(alice, "bob")).to_have_attribute("data-speaks", "", timeout=PATIENCE_S * 1000)  # the fake one beeps
    bob.presses("mic")
    expect(tile(alice, "bob").get_by_text("Muted")).to_be_attached()
    alice.page.get_by_role("button", name="Show Bob large").press("Enter")
    expect(tile(alice, "bob")).to_have_attribute("data-large", "")
    alice.page.get_by_role("button", name="Show everybody alike").press("Enter")
    expect(tile(alice, "bob")).not_to_have_attribute("data-large", "")
    bob.presses("share")
    expect(tile(alice, "bob")).to_have_attribute("data-large", "")  # a screen is large by itself


def test_the_host_leaves_and_comes_back_and_another_one_ends_it_for_all(three):
    alice, bob, carol = three
    alice.hangs_up()
    sees_everybody(bob, 1)
    sees_everybody(carol, 1)
    expect(alice.notices).to_contain_text("The call goes on")
    expect(carol.page.locator(".tile-host:visible")).to_have_count(1)
    alice.page.get_by_role("button", name="Join").click()
    for person in three:
        sees_everybody(person, 2)
    hosts = [person for person in (bob, carol) if tile(person, person.name).get_by_text("Host").is_visible()]
    assert len(hosts) == 1
    hosts[0].presses("more")
    hosts[0].presses("end-all")
    for person in (alice, *(other for other in (bob, carol) if other is not hosts[0])):
        expect(person.title).to_have_text("Call ended")


def test_the_host_takes_somebody_out_and_calls_them_again(three):
    alice, bob, carol = three
    alice.presses("company")
    dialog = alice.page.get_by_role("dialog", name="People in this call")
    dialog.get_by_role("button", name="Remove Carol").click()
    expect(carol.toasts).to_contain_text("You were taken out of the call.")
    expect(carol.notices).not_to_contain_text("The call goes on")
    sees_everybody(bob, 1)
    expect(bob.page.locator(".tile")).to_have_count(2)
    dialog.get_by_role("button", name="Call again: Carol").click()
    carol.rings().answers()
    for person in three:
        sees_everybody(person, 2)


def test_whoever_declines_closes_their_own_place_only(alice, bob, carol):
    calls_several(alice, "bob", "carol", kind="audio")
    expect(tile(alice, "bob")).to_contain_text("Ringing…")
    expect(bob.rings().ring).to_contain_text("Call with Carol")
    bob.declines()
    expect(tile(alice, "bob")).to_contain_text("Declined")
    carol.rings().answers()
    carol.has_media(video=False)
    expect(bob.notices).to_contain_text("The call goes on")
    bob.page.get_by_role("button", name="Join").click()
    bob.until(lambda now: now["energy"] > 0)
    alice.presses("cam")  # nobody is asked in a group
    expect(tile(carol, "alice").locator("video")).to_have_js_property("videoWidth", 320, timeout=PATIENCE_S * 1000)


def test_a_third_is_added_to_a_call_of_two_without_a_gap(alice, bob, carol):
    in_a_call(alice, bob)
    connection = alice.page.evaluate("window.connections.length")
    alice.presses("more")
    alice.page.get_by_role("button", name="Add people…").click()
    dialog = alice.page.get_by_role("dialog", name="People in this call")
    dialog.get_by_label("Add people").fill("carol")
    dialog.get_by_role("button", name="Add Carol").click()
    expect(dialog.locator("#company-legs")).to_contain_text("Carol")
    dialog.get_by_role("button", name="Done").click()
    carol.rings().answers()
    for person in (alice, bob, carol):
        sees_everybody(person, 2)
    assert alice.page.evaluate("window.connections.length") == connection + 1  # the one with bob is the same
    states = alice.page.evaluate("window.connections.map((one) => one.connectionState)")
    assert states == ["connected", "connected"]
    carol.hangs_up()
    sees_everybody(alice, 1)
    sees_everybody(bob, 1)


def test_somebody_who_is_busy_and_nobody_who_joins_are_told_in_words(alice, bob, carol, sign_in):
    dave = sign_in("dave")
    in_a_call(dave, bob, "audio")
    calls_several(alice, "bob", "carol", kind="audio")
    expect(tile(alice, "bob")).to_contain_text("On another call")
    carol.rings().declines()
    expect(alice.title).to_have_text("Nobody joined the call")
    expect(alice.state).to_have_text("Bob: On another call · Carol: Declined")
    alice.presses("close")
    alice.opens("history")
    expect(alice.page.locator("[data-entry]").first).to_contain_text("Bob and Carol")
