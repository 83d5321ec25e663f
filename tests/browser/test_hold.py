"""Hold, call waiting and transfer, with real sound and pictures."""

import time

import pytest
from playwright.sync_api import expect

from tests.browser.person import PATIENCE_S, Person, in_a_call

pytestmark = pytest.mark.timeout(240)

# Bytes that this page has sent on all its connections, and whether each of them is alive.
SENT = """async () => {
  let bytes = 0;
  for (const pc of window.connections.filter((one) => one.connectionState === "connected"))
    for (const stat of (await pc.getStats()).values()) if (stat.type === "outbound-rtp") bytes += stat.bytesSent ?? 0;
  return bytes;
}"""


def sends_nothing(person: Person) -> None:
    """For a second and a half, after what was on its way has gone."""
    end = time.monotonic() + PATIENCE_S
    while True:
        before = person.page.evaluate(SENT)
        person.page.wait_for_timeout(1500)
        if person.page.evaluate(SENT) == before:
            return
        assert time.monotonic() < end, f"{person.name} goes on sending"


def menu(person: Person, action: str) -> None:
    person.presses("more")
    person.presses(action)


@pytest.fixture
def two_lines(line):
    """alice may be called twice at a time, and call twice."""
    line("alice", "--max-incoming", "2", "--max-outgoing", "2")


def test_a_held_call_sends_nothing_and_comes_back_with_its_pictures(alice, bob):
    in_a_call(alice, bob)
    menu(alice, "hold")
    expect(alice.notices).to_contain_text("Bob is on hold")
    expect(bob.state).to_have_text("Alice has put the call on hold")
    sends_nothing(alice)
    sends_nothing(bob)
    alice.presses("resume")
    for person in (alice, bob):
        person.sees("in_call").has_media()


def test_a_second_call_is_answered_while_the_first_is_held_and_they_are_swapped(two_lines, sign_in, alice, bob, carol):
    in_a_call(bob, alice)
    carol.calls("alice", "audio")
    alice.rings()
    alice.page.get_by_role("button", name="Hold & answer").click()
    carol.sees("in_call").has_media(video=False)
    expect(alice.title).to_have_text("Carol")
    expect(alice.page.locator("#stage")).to_contain_text("Bob is on hold")
    dave = sign_in("dave")
    dave.calls("alice")
    expect(dave.title).to_have_text("Alice is on another call")
    alice.presses("swap")
    expect(alice.title).to_have_text("Bob")
    expect(carol.state).to_have_text("Alice has put the call on hold")
    bob.has_media()
    alice.hangs_up()
    expect(alice.notices).to_contain_text("Carol is on hold")
    alice.presses("resume")
    carol.has_media(video=False)


def test_a_call_is_given_to_somebody_and_comes_back_when_they_decline(alice, bob, carol):
    in_a_call(alice, bob)
    menu(alice, "open-transfer")
    dialog = alice.page.get_by_role("dialog", name="Transfer the call")
    dialog.get_by_label("To whom").fill("carol")
    dialog.get_by_role("button", name="Transfer to Carol").click()
    expect(alice.page.locator("#stage")).to_contain_text("Transferring to Carol")
    expect(bob.page.locator("#stage")).to_contain_text("Carol is called to take the call over")
    carol.rings().declines()
    expect(alice.page.locator("#stage")).not_to_contain_text("Transferring to Carol")
    for person in (alice, bob):
        person.sees("in_call").has_media()

    menu(alice, "open-transfer")
    dialog.get_by_label("To whom").fill("carol")
    dialog.get_by_role("button", name="Transfer to Carol").click()
    carol.rings().answers()
    expect(alice.toasts).to_contain_text("Carol has the call now.")
    expect(bob.title).to_have_text("Carol")
    for person in (bob, carol):
        person.sees("in_call").has_media()


@pytest.mark.parametrize("stay", [False, True])
def test_two_calls_are_brought_together(two_lines, alice, bob, carol, stay):
    in_a_call(alice, bob)
    alice.presses("small")
    alice.calls("carol")
    carol.rings().answers()
    expect(alice.title).to_have_text("Carol")
    menu(alice, "merge" if stay else "connect")
    if stay:
        for person in (alice, bob, carol):
            expect(person.page.locator(".tile")).to_have_count(3, timeout=PATIENCE_S * 1000)
    else:
        expect(alice.title).to_have_text("The calls were brought together")
        expect(bob.title).to_have_text("Carol")
        for person in (bob, carol):
            person.sees("in_call").has_media()
