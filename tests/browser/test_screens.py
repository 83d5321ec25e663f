"""The pictures of the documentation, taken of the real thing: `SCREENS=docs/screens make browser ARGS="-k pictures"`.

Without SCREENS they are taken too, and thrown away, so that the walk through the screens is tested.
"""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

PICTURE = (Path(__file__).parent / "picture.js").read_text()
SIZES = {
    "1280": {"viewport": {"width": 1280, "height": 800}},
    "360": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}


@pytest.fixture
def pictures(tmp_path):
    wanted = os.environ.get("SCREENS")
    path = Path(__file__).resolve().parent.parent.parent / wanted if wanted else tmp_path
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_a_call(sign_in, pictures, size):
    def take(person, name):
        person.page.wait_for_timeout(400)  # transitions
        person.page.screenshot(path=pictures / f"{name}-{size}.png")

    def arrive(name, device="", **more):
        return sign_in(name, device, script=f"window.who = '{name}';{PICTURE}", **SIZES[size] | more)

    carol = arrive("carol", color_scheme="dark")
    alice, laptop, phone = arrive("alice"), arrive("bob", "laptop"), arrive("bob", "phone")
    alice.page.reload()
    expect(alice.page.locator("[data-key=bob]")).to_contain_text("Online")
    take(alice, "people")
    take(carol, "people-dark")
    alice.calls("bob")
    phone.rings()
    laptop.rings()
    expect(alice.state).to_have_text("Ringing…")
    take(phone, "incoming")
    phone.answers()
    expect(laptop.notices).to_contain_text("Answered on Phone")
    take(laptop, "answered-elsewhere")
    alice.has_media()
    phone.has_media()
    alice.page.wait_for_timeout(4000)  # the picture gets sharper
    take(alice, "in-call")
    carol.calls("bob", "audio")
    expect(carol.title).to_have_text("Bob is on another call")
    take(carol, "busy")
    for person in (alice, phone, laptop, carol):
        wide = person.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{person.name}: the page is wider than the screen"
