"""Every screen, looked at by axe-core and by people.

`SCREENS=docs/screens make browser ARGS="-k pictures"` takes the documentation's pictures anew. Without SCREENS they are
taken too, and thrown away, so that the walk through the screens is tested.
"""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.axe import violations
from tests.browser.person import LONG_RING, PATIENCE_S
from tests.browser.test_calls import DENIED

# Four people with moving pictures, looked at one after the other: on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(300)

PICTURE = (Path(__file__).parent / "picture.js").read_text()
SIZES = {
    "1280": {"viewport": {"width": 1280, "height": 800}},
    "360": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}


@pytest.fixture
def take(tmp_path):
    """`take(person, "people", size)`: its picture, light and dark where it has both; and nothing wrong with either."""
    wanted = os.environ.get("SCREENS")
    path = Path(__file__).resolve().parent.parent.parent / wanted if wanted else tmp_path
    path.mkdir(parents=True, exist_ok=True)

    def picture(person, name, size, dark=True):
        page = person.page
        schemes = ("light", "dark") if dark else ("light",)
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(300)  # transitions
            page.screenshot(path=path / f"{name}{'-dark' if scheme == 'dark' else ''}-{size}.png")
        if size == "1280":  # so that both sizes together look at both schemes, each once
            page.emulate_media(color_scheme="light")
        assert not (wrong := violations(page)), f"{name}, {size}:\n" + "\n".join(wrong)
        page.emulate_media(color_scheme="light")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name}: the page is wider than the screen"

    return picture


@pytest.fixture
def arrive(sign_in):
    """Somebody whose camera shows a face."""

    def person(name, size, device="", script="", **more):
        return sign_in(name, device, script=f"window.who = '{name}';{PICTURE}{LONG_RING}{script}", **SIZES[size] | more)

    return person


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_a_call(arrive, take, size):
    carol, alice = arrive("carol", size), arrive("alice", size)
    laptop, phone = arrive("bob", size, "laptop"), arrive("bob", size, "phone")
    alice.page.get_by_role("button", name="Favourite: Carol").click()
    alice.page.reload()
    expect(alice.page.locator("[data-key=bob]")).to_contain_text("Online")
    take(alice, "people", size)
    alice.calls("bob")
    phone.rings()
    laptop.rings()
    expect(alice.state).to_have_text("Ringing…")
    take(alice, "outgoing", size, dark=False)
    take(phone, "incoming", size)
    phone.answers()
    expect(laptop.notices).to_contain_text("Answered on Phone")
    take(laptop, "answered-elsewhere", size)
    alice.has_media()
    phone.has_media()
    carol.calls("bob", "audio")
    expect(carol.title).to_have_text("Bob is on another call")
    take(carol, "busy", size, dark=False)
    alice.page.wait_for_timeout(1500)  # the picture gets sharper
    take(alice, "in-call", size, dark=False)
    alice.presses("more")
    take(alice, "in-call-more", size, dark=False)
    tab = phone.opens_another_tab("/?device=phone").sees("gate")
    take(tab, "another-tab", size)
    tab.page.close()
    alice.hangs_up()
    phone.sees("ended")
    take(phone, "ended", size, dark=False)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_several_calls(arrive, take, line, size):
    line("bob", "--max-incoming", "2")
    alice, carol, bob = arrive("alice", size), arrive("carol", size), arrive("bob", size)
    alice.calls("bob", "audio")
    carol.calls("bob")
    expect(bob.ring).to_have_count(2)
    bob.card("Alice").get_by_role("button", name="Silence here").click()
    take(bob, "incoming-two", size)
    bob.card("Alice").get_by_role("button", name="Answer").click()
    bob.has_media(video=False)
    take(bob, "incoming-in-a-call", size, dark=False)
    bob.card("Carol").get_by_role("button", name="Decline").click()
    alice.presses("add-video")
    expect(bob.page.get_by_role("alertdialog")).to_be_visible()
    take(bob, "asked-for-video", size, dark=False)
    bob.presses("refuse-video")
    bob.hangs_up()
    carol.presses("close")
    carol.presses("gear")
    carol.waits_for("document.querySelector('[data-stream=mirror]').videoWidth > 0")
    take(carol, "sound-and-picture", size)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_what_may_go_wrong(site, arrive, take, size):
    bob = arrive("bob", size)
    alice = arrive("alice", size, script=f"{{{DENIED}}}")
    bob.calls("dave")
    expect(bob.title).to_have_text("Dave could not be reached")
    bob.presses("close")
    alice.calls("bob")
    expect(alice.title).to_have_text("Your microphone is blocked")
    take(alice, "permission", size, dark=False)
    alice.presses("permission-cancel")
    site.stop()
    try:
        expect(bob.page.locator("#banner")).to_be_visible(timeout=PATIENCE_S * 1000)
        take(bob, "reconnecting", size)
    finally:
        site.start()
    bob.is_online()
    alice.is_online()
    without = "delete window.RTCPeerConnection;"
    bob.page.add_init_script(without)
    bob.page.reload()
    bob.sees("gate")
    take(bob, "unsupported", size)


def test_the_people_can_be_read_from_right_to_left_and_at_twice_the_size(alice):
    """At 200 % of a screen 720 wide there are 360 left; right to left nothing sticks out on either side."""
    page = alice.page
    page.set_viewport_size({"width": 360, "height": 740})
    for direction in ("ltr", "rtl"):
        page.evaluate("(direction) => void (document.documentElement.dir = direction)", direction)
        sticks_out = page.evaluate(
            """() => [...document.querySelectorAll("#home *")]
                .filter((node) => node.checkVisibility() && getComputedStyle(node).clipPath === "none")
                .filter((node) => node.getBoundingClientRect().left < 0 || node.getBoundingClientRect().right > 360)
                .map((node) => node.outerHTML.slice(0, 80))"""
        )
        assert not sticks_out, direction
    name = page.locator("#people .person-name").first.bounding_box()
    button = page.locator("#people [data-action=call]").first.bounding_box()
    assert button["x"] < name["x"]  # the name stands where reading begins
