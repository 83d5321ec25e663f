"""What a link to the client may do: anybody can write one, and a caller knows the ids of the calls that it places."""

import pytest
from playwright.sync_api import expect


def bob_is_rung(alice, bob):
    alice.calls("bob", "audio")
    return bob.rings().ring.get_attribute("data-key")


@pytest.mark.parametrize(
    "link", ["/?answer={id}", "/?answer={id}&call=alice&move={id}#/history?call=alice&answer={id}"]
)
def test_a_link_answers_no_call_and_opens_no_microphone(alice, bob, link):
    id = bob_is_rung(alice, bob)
    bob.page.goto(bob.url + link.format(id=id))
    bob.is_online().rings()
    bob.page.wait_for_timeout(1000)  # an answer would take a few milliseconds
    assert (bob.screen, alice.screen) == ("incoming", "outgoing")
    assert bob.page.evaluate("window.connections.length") == 0
    assert "answer=" not in bob.page.evaluate("location.search")
    bob.answers()
    alice.has_media(video=False)


# Places a call under an id that was known before.
CALL_AS_CHOSEN = """() => {
  const { now } = Date;
  const random = crypto.getRandomValues;
  Date.now = () => 1_900_000_000_000;
  crypto.getRandomValues = (bytes) => bytes.fill(7);
  document.querySelector("#people [data-key=bob] [data-action=call][data-kind=audio]").click();
  Date.now = now;
  crypto.getRandomValues = random;
}"""
CHOSEN = f"{1_900_000_000_000:012x}-7707-8707-070707070707"
CHOSEN = f"{CHOSEN[:8]}-{CHOSEN[8:]}"


def test_a_link_leaves_no_wish_for_a_call_that_comes_later(alice, bob):
    bob.page.goto(f"{bob.url}/?answer={CHOSEN}")
    bob.is_online()
    alice.page.evaluate(CALL_AS_CHOSEN)
    assert bob.rings().ring.get_attribute("data-key") == CHOSEN
    bob.page.wait_for_timeout(1000)
    assert (bob.screen, alice.screen) == ("incoming", "outgoing")


def test_a_message_that_is_not_the_workers_does_nothing(alice, bob):
    id = bob_is_rung(alice, bob)
    for data in ({"type": "call", "action": "answer", "call": id, "ms": 30_000}, {"action": "answer", "call": id}):
        bob.page.evaluate(
            """(data) => {
                window.postMessage(data, "*");
                navigator.serviceWorker.dispatchEvent(new MessageEvent("message", { data, origin: location.origin }));
            }""",
            data,
        )
    bob.page.wait_for_timeout(500)
    assert (bob.screen, alice.screen) == ("incoming", "outgoing")


def devices_of(person):
    found = person.page.evaluate("() => fetch('/devices/').then((answer) => answer.json())")
    return {each["name"]: each["since"] for each in found["devices"]}


def test_a_link_makes_no_device_until_the_person_agrees(alice, bob, line):
    line("bob", "--multi-device", "off")
    before = devices_of(bob)
    link = type(bob)(bob.context, bob.url, "bob")
    link.page.goto(f"{bob.url}/?device=call-0900")
    link.sees("gate")
    gate = link.page.get_by_role("alertdialog")
    expect(gate).to_contain_text("Use this window as another device?")
    link.page.reload()
    link.sees("gate")
    assert devices_of(bob) == before
    bob_is_rung(alice, bob)  # it is still the one that calls ring on
    bob.declines()
    gate.get_by_role("button", name="Use as another device").click()
    link.is_online()
    assert link.device == "Call 0900"
    link.page.reload()
    assert link.is_online().device == "Call 0900"  # this tab was told once
    second = type(bob)(bob.context, bob.url, "bob")
    second.page.goto(f"{bob.url}/?device=call-0900")
    second.sees("gate")
    expect(second.page.get_by_role("alertdialog")).to_contain_text("Use this window as another device?")
    link.page.close()
    bob.page.close()
    second.page.get_by_role("link", name="Open calls as usual").click()
    assert second.is_online().device in before
