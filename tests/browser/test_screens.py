"""Every screen, looked at by axe-core and by people.

`make screens` writes a picture of every screen to var/screens. Without SCREENS the same screens are visited and
checked, and no picture is taken.
"""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.axe import violations
from tests.browser.person import LONG_RING, PATIENCE_S, in_a_call
from tests.browser.test_calls import DENIED
from tests.browser.test_group_calls import calls_several, chooses, sees_everybody, tile
from tests.browser.test_in_call import unreadable

# Four people with moving pictures, looked at one after the other: on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = (Path(__file__).parent / "picture.js").read_text()
CRAMPED = (Path(__file__).parent / "cramped.js").read_text().rstrip().removesuffix(";")
SIZES = {
    "1280": {"viewport": {"width": 1280, "height": 800}},
    "360": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}
# A device that is online, and at which nobody can notice a call.
DEAF = """
try { localStorage.setItem("ring.silent", "1"); } catch { /* a blank page */ }
Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
"""
# Ten seconds pass in a quarter of one.
HURRY = "() => { const real = performance.now.bind(performance); performance.now = () => real() * 40; }"
# Resolves when a change of colours is through.
SETTLED = """async () => {
  await new Promise(requestAnimationFrame);
  const changing = document.getAnimations().filter((one) => one instanceof CSSTransition);
  await Promise.allSettled(changing.map((one) => one.finished));
}"""
SCHEMES = {"light": "", "dark": "-dark"}

# Every picture, and what of the client it must show.
PICTURES = {
    "sign-in": ".door-card",
    "first-time": "#first",
    "people": "[data-view=people]",
    "outgoing": ".outgoing",
    "not-reached": ".outgoing",
    "incoming": ".ring",
    "incoming-two": "#incoming[data-several]",
    "incoming-in-a-call": "#incoming[data-over]",
    "in-call": ".in-call",
    "in-call-more": "#more-menu",
    "voice-call": ".in-call",
    "asked-for-video": ".ask",
    "small": "body[data-small] .in-call",
    "busy": ".ended",
    "declined": ".ended",
    "ended": ".ended",
    "missed": ".notice",
    "answered-elsewhere": ".notice",
    "permission": ".permission",
    "reconnecting": "#banner",
    "another-tab": ".gate-card",
    "signed-out": ".gate-card",
    "unsupported": ".gate-card",
    "too-old": "#too-old",
    "offline": ".door-card",
    "sound-and-picture": "#gear",
    "new-device": "#new-device",
    "rename": "#ask",
    "history": "[data-view=history]",
    "settings": "[data-view=settings]",
    "settings-end": "[data-view=settings]",
    "choosing-several": "#choice",
    "incoming-group": ".ring",
    "group-waiting": ".group-call",
    "group-call": ".group-call",
    "group-large": ".tile[data-large]",
    "people-of-a-call": "#company",
    "group-small": "body[data-small] .group-call",
    "group-goes-on": ".notice",
    "nobody-joined": ".ended",
    "held": ".notice",
    "held-by-the-other": ".in-call",
    "one-held-one-going": ".in-call",
    "transfer": "#transfer",
    "transferring": ".in-call",
}


@pytest.fixture
def take():
    """`take(person, "people", size)`: nothing wrong with it in one scheme (the two sizes together look at both); with
    SCREENS its pictures, light and dark. A name that is not among PICTURES is looked at, and not kept."""
    wanted = os.environ.get("SCREENS")

    def picture(person, name, size, shows=None):
        page = person.page
        expect(page.locator(PICTURES.get(name) or shows).first).to_be_visible()
        if wanted and name in PICTURES:
            path = ROOT / wanted
            path.mkdir(parents=True, exist_ok=True)
            for scheme, suffix in SCHEMES.items():
                page.emulate_media(color_scheme=scheme)
                page.evaluate(SETTLED)
                page.screenshot(path=path / f"{name}{suffix}-{size}.png")
        page.emulate_media(color_scheme={"1280": "light", "360": "dark"}[size])
        page.evaluate(SETTLED)
        wrong = violations(page)
        if wrong:  # a busy browser has not repainted all of it yet
            page.wait_for_timeout(1000)
            wrong = violations(page)
        page.emulate_media(color_scheme="light")
        assert not wrong, f"{name}, {size}:\n" + "\n".join(wrong)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name}: the page is wider than the screen"

    return picture


@pytest.fixture
def arrive(sign_in):
    """Somebody whose camera shows a face, and who wants it calm: nothing moves while a picture is taken."""

    def person(name, size, device="", script="", first_time=False, **more):
        known = "" if first_time else "try { localStorage.setItem('ring.tried', '1'); } catch { /* a blank page */ }"
        script = f"window.who = '{name}';{PICTURE}{LONG_RING}{known}{script}"
        return sign_in(name, device, script=script, reduced_motion="reduce", **SIZES[size] | more)

    return person


def test_the_documentation_shows_every_screen_and_no_other():
    html = "".join(
        (ROOT / "templates" / "calls" / name).read_text() for name in ("client.html", "settings.html", "history.html")
    )
    shown = " ".join(PICTURES.values())
    for dialog in re.findall(r'<dialog id="([\w-]+)"', html):
        assert f"#{dialog}" in shown, dialog
    for view in re.findall(r'data-view="([\w-]+)"', html):
        assert f"[data-view={view}]" in shown, view
    for scene in re.findall(r'<section class="scene ([\w-]+)"', html):
        assert f".{scene}" in shown, scene
    expected = {f"{name}{suffix}-{size}.png" for name in PICTURES for suffix in SCHEMES.values() for size in SIZES}
    kept = {path.name for path in (ROOT / "docs" / "screens").glob("*.png") if not path.name.startswith("panel-")}
    assert kept <= expected


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_a_call(site, arrive, take, size):
    site.forget()
    carol, alice = arrive("carol", size), arrive("alice", size, first_time=True)
    laptop, phone = arrive("bob", size, "laptop"), arrive("bob", size, "phone")
    take(alice, "first-time", size)
    alice.page.get_by_role("button", name="Not now").click()
    with alice.page.expect_response(lambda response: response.request.method == "POST"):
        alice.page.get_by_role("button", name="Favourite: Carol").click()
    alice.page.reload()
    expect(alice.page.locator("[data-key=bob]")).to_contain_text("Online")
    take(alice, "people", size)
    alice.calls("bob")
    phone.rings()
    laptop.rings()
    expect(alice.state).to_have_text("Ringing…")
    take(alice, "outgoing", size)
    take(phone, "incoming", size)
    phone.answers()
    expect(laptop.notices).to_contain_text("Answered on Phone")
    take(laptop, "answered-elsewhere", size)
    alice.has_media()
    phone.has_media()
    carol.calls("bob", "audio")
    expect(carol.title).to_have_text("Bob is on another call")
    take(carol, "busy", size)
    if os.environ.get("SCREENS"):
        alice.page.wait_for_timeout(1500)  # the picture gets sharper
    take(alice, "in-call", size)
    alice.presses("more")
    take(alice, "in-call-more", size)
    alice.presses("small")
    take(alice, "small", size)
    linked = type(phone)(phone.context, phone.url, "bob")
    linked.page.goto(f"{phone.url}/?device=kitchen")
    take(linked.sees("gate"), "asked-for-a-device", size, "#use-window:visible")
    linked.page.close()
    tab = phone.opens_another_tab("phone").sees("gate")
    take(tab, "another-tab", size)
    tab.page.close()
    alice.hangs_up()
    phone.sees("ended")
    take(phone, "ended", size)
    phone.presses("close")
    take(phone, "missed", size)


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
    take(bob, "incoming-in-a-call", size)
    bob.card("Carol").get_by_role("button", name="Decline").click()
    take(bob, "voice-call", size)
    take(carol, "declined", size)
    alice.presses("add-video")
    expect(bob.page.get_by_role("alertdialog")).to_be_visible()
    take(bob, "asked-for-video", size)
    bob.presses("refuse-video")
    bob.hangs_up()
    carol.presses("close")
    carol.presses("gear")
    carol.waits_for("document.querySelector('[data-stream=mirror]').videoWidth > 0")
    take(carol, "sound-and-picture", size)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_held_calls_and_a_transfer(site, arrive, take, line, size):
    site.forget()
    line("alice", "--max-incoming", "2", "--max-outgoing", "2")
    alice, bob, carol = (arrive(name, size) for name in ("alice", "bob", "carol"))
    in_a_call(alice, bob)
    alice.presses("more")
    alice.presses("hold")
    expect(alice.notices).to_contain_text("Bob is on hold")
    take(alice, "held", size)
    expect(bob.state).to_have_text("Alice has put the call on hold")
    take(bob, "held-by-the-other", size)
    alice.presses("resume")
    alice.has_media()
    carol.calls("alice")
    alice.rings().page.get_by_role("button", name="Hold & answer").click()
    carol.has_media()
    take(alice, "one-held-one-going", size)
    alice.presses("more")
    alice.presses("open-transfer")
    expect(alice.page.locator("#transfer-found")).to_contain_text("Dave")
    take(alice, "transfer", size)
    dave = arrive("dave", size)
    alice.page.get_by_role("button", name="Transfer to Dave").click()
    dave.rings()
    take(alice, "transferring", size)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_a_group(site, arrive, take, size):
    site.forget()
    alice, bob, carol, dave = (arrive(name, size) for name in ("alice", "bob", "carol", "dave"))
    chooses(alice, "bob", "carol", "dave")
    take(alice, "choosing-several", size)
    alice.page.locator("[data-action=call-chosen][data-kind=video]").click()
    expect(tile(alice, "dave")).to_contain_text("Ringing…")
    take(bob.rings(), "incoming-group", size)
    dave.rings().declines()
    carol.rings().answers()
    expect(tile(alice, "carol").locator("video")).to_have_js_property("videoWidth", 320, timeout=PATIENCE_S * 1000)
    take(alice, "group-waiting", size)
    bob.answers()
    for person in (alice, bob, carol):
        sees_everybody(person, 2)
    alice.presses("company")
    expect(alice.page.locator("#company-legs")).to_contain_text("Declined")
    take(alice, "people-of-a-call", size)
    alice.presses("close-company")
    expect(tile(alice, "dave")).to_be_hidden(timeout=PATIENCE_S * 1000)
    take(alice, "group-call", size)
    alice.page.get_by_role("button", name="Show Bob large").press("Enter")
    expect(tile(alice, "bob")).to_have_attribute("data-large", "")
    take(alice, "group-large", size)
    bob.presses("small")
    take(bob, "group-small", size)
    carol.hangs_up()
    expect(carol.notices).to_contain_text("The call goes on")
    take(carol, "group-goes-on", size)
    alice.presses("more")
    alice.presses("end-all")
    expect(bob.title).to_have_text("Call ended")
    alice.sees("people")
    calls_several(alice, "carol", "dave", kind="audio")
    carol.rings().declines()
    dave.rings().declines()
    expect(alice.title).to_have_text("Nobody joined the call")
    take(alice, "nobody-joined", size)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_what_may_go_wrong(site, arrive, take, expected_troubles, size):
    expected_troubles.append("401")  # of the list of people, should it be asked for just after the sign-out
    expected_troubles.append("page error")  # in a browser that is too old
    bob = arrive("bob", size)
    alice = arrive("alice", size, script=f"{{{DENIED}}}")
    bob.calls("dave")
    expect(bob.title).to_have_text("Dave could not be reached")
    bob.presses("close")
    alice.calls("bob")
    expect(alice.title).to_have_text("Your microphone is blocked")
    take(alice, "permission", size)
    alice.presses("permission-cancel")
    alice.presses("open-device")
    take(alice, "new-device", size)
    alice.page.keyboard.press("Escape")
    site.stop()
    try:
        expect(bob.page.locator("#banner")).to_be_visible(timeout=PATIENCE_S * 1000)
        take(bob, "reconnecting", size)
    finally:
        site.start()
    bob.is_online()
    alice.is_online()
    bob.page.route("**/state.*.js", unreadable)
    bob.page.reload()
    take(bob, "too-old", size)
    bob.page.unroute("**/state.*.js")
    bob.page.add_init_script("delete window.RTCPeerConnection;")
    bob.page.reload()
    bob.sees("gate")
    take(bob, "unsupported", size)
    alice.signs_out()
    alice.sees("gate")
    take(alice, "signed-out", size)
    alice.page.get_by_role("link", name="Sign in again").click()
    take(alice, "sign-in", size)
    alice.page.goto(f"{site.url}/offline/")
    take(alice, "offline", size)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_the_views(site, arrive, take, size):
    site.forget()
    alice, bob = arrive("alice", size), arrive("bob", size, "phone")
    carol = arrive("carol", size, script=DEAF)
    alice.calls("bob")
    bob.rings().answers()
    alice.has_media()
    alice.hangs_up()
    bob.sees("ended").presses("close")
    alice.calls("bob", "audio")
    bob.rings()
    alice.hangs_up()
    bob.calls("alice", "audio")
    alice.rings().declines()
    bob.sees("ended").presses("close")
    alice.calls(carol.name)
    alice.page.evaluate(HURRY)
    expect(alice.state).to_have_text("Not reached yet…")
    take(alice, "not-reached", size)
    alice.hangs_up()
    bob.opens("history")
    expect(bob.page.locator("#history-list [data-entry]")).to_have_count(3)
    take(bob, "history", size)
    bob.opens("settings")
    expect(bob.page.locator("#devices li").first).to_be_visible()
    bob.page.get_by_label("Search people to add").fill("d")
    expect(bob.page.locator("#favourites li").first).to_be_visible()
    take(bob, "settings", size)
    bob.page.evaluate("window.scrollTo(0, 99999)")
    take(bob, "settings-end", size)
    bob.page.get_by_role("button", name="Rename Phone").click()
    take(bob, "rename", size)


def test_pictures_in_german(site, arrive, take):
    """Looked at, and not kept. What is chosen on one device holds for the user's next sign-in too."""
    site.forget()
    alice, bob = arrive("alice", "360"), arrive("bob", "360", first_time=True).opens("settings")
    bob.page.get_by_label("Language", exact=True).select_option("de")
    try:
        expect(bob.page.get_by_role("heading", level=1)).to_have_text("Einstellungen")
        assert bob.page.evaluate("document.documentElement.lang") == "de"
        expect(bob.page.locator("#devices li").first).to_be_visible()
        take(bob, "german-settings", "360", "[data-view=settings]")
        bob.page.evaluate("location.hash = '/people'")
        take(bob, "german-people", "360", "#first")
        alice.calls("bob", "audio")
        expect(bob.rings().ring).to_contain_text("Eingehender Anruf")
        take(bob, "german-incoming", "360", ".ring")
        bob.answers()
        alice.has_media(video=False)
        take(bob, "german-in-call", "360", ".in-call")
        bob.presses("more")
        take(bob, "german-in-call-more", "360", "#more-menu")
        alice.presses("add-video")
        bob.page.get_by_role("button", name="Meine Kamera einschalten").click()
        bob.has_media()
        controls = bob.page.locator(".controls .call-button:visible")
        assert len({round(button.bounding_box()["y"]) for button in controls.all()}) == 1
        take(bob, "german-video-call", "360", ".in-call")
        alice.hangs_up()
        expect(bob.title).to_have_text("Gespräch beendet")
        bob.presses("close")
        bob.opens("history")
        expect(bob.page.locator("[data-entry]").first).to_contain_text("Eingehend")
        take(bob, "german-history", "360", "[data-view=history]")
    finally:
        site.forget()


# As if the person had turned the screen or the text; resolves when that is laid out.
TURN = """([dir, size]) => new Promise((done) => {
  Object.assign(document.documentElement, { dir });
  document.documentElement.style.fontSize = size;
  requestAnimationFrame(() => requestAnimationFrame(done));
})"""
# name: width and height, reading direction, size of the text, whether every button must be on the screen unscrolled
VIEWPORTS = {
    "phone": (360, 740, "ltr", "", True),
    "phone, right to left": (360, 740, "rtl", "", True),
    "phone, text twice the size": (360, 740, "ltr", "200%", False),
    "1280 × 720 at 200 %": (640, 360, "ltr", "", True),
}


@pytest.fixture
def fits():
    def check(person, box, buttons=True):
        page = person.page
        for name, (width, height, direction, text, reach) in VIEWPORTS.items():
            page.set_viewport_size({"width": width, "height": height})
            page.evaluate(TURN, [direction, text])
            assert not (wrong := page.evaluate(CRAMPED, [box, reach and buttons])), f"{box}, {name}: {wrong}"
        page.evaluate(TURN, ["ltr", ""])
        page.set_viewport_size({"width": 1280, "height": 800})

    return check


def test_nothing_is_cut_at_twice_the_size_nor_from_right_to_left(arrive, fits, line):
    line("bob", "--max-incoming", "2")
    alice, bob, carol = arrive("alice", "1280", first_time=True), arrive("bob", "1280"), arrive("carol", "1280")
    expect(alice.page.locator("#people .person").first).to_be_visible()
    fits(alice, "#home", buttons=False)
    alice.page.set_viewport_size({"width": 360, "height": 740})
    alice.page.evaluate("document.documentElement.dir = 'rtl'")
    name = alice.page.locator("#people .person-name").first.bounding_box()
    button = alice.page.locator("#people [data-action=call]").first.bounding_box()
    assert button["x"] < name["x"]  # the name stands where reading begins
    for view in ("history", "settings"):
        alice.opens(view)
        fits(alice, "#home", buttons=False)
    alice.opens("people").presses("gear")
    fits(alice, "#gear", buttons=False)
    alice.page.keyboard.press("Escape")
    alice.calls("bob")
    bob.rings()
    expect(alice.state).to_have_text("Ringing…")
    fits(alice, "#stage")
    fits(bob, "#incoming")
    bob.answers()
    alice.has_media()
    fits(alice, "#stage")
    alice.presses("more")
    fits(alice, "#stage")
    carol.calls("bob")
    bob.rings()
    fits(bob, "#incoming")
    bob.declines()
    expect(carol.title).to_have_text("Bob declined the call")
    fits(carol, "#stage")
