"""The operator at the panel, and the people whom it concerns at their screens.

`make screens` takes the pictures of the panel too.
"""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.served import PASSWORD

LINES = "user,max_incoming,multi_device\nbob,4,1\ncarol,3,0\n"
SOON = 3000  # ms: within a second, on a machine that does much else


class Operator:
    """Somebody at the panel, in a browser of their own. No page there may report an error either."""

    def __init__(self, context, url, name="operator"):
        self.page, self.url, self.troubles = context.new_page(), url, []
        self.page.on("console", lambda said: said.type == "error" and self.troubles.append(said.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.goto(f"{url}/admin/login/")
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.locator("#site-name")).to_be_visible()

    def opens(self, path):
        self.page.goto(f"{self.url}/admin/{path}")
        return self.page

    def acts(self, path, action, words):
        """Does this to the first row of a list."""
        page = self.opens(path)
        page.locator("#result_list .action-select").first.check()
        page.get_by_label("Action:").select_option(label=action)
        page.get_by_role("button", name="Go").click()
        expect(page.locator(".messagelist")).to_contain_text(words)

    def row(self, user):
        return self.page.locator("#result_list tbody tr").filter(has=self.page.get_by_role("link", name=user))


@pytest.fixture
def operator(site, chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    operator = Operator(context, site.url)
    yield operator
    context.close()
    assert not operator.troubles


def test_a_limit_set_to_two_lets_two_calls_ring_and_the_third_is_busy(operator, alice, bob, carol, sign_in, line):
    line("bob")  # as it was, at the end
    dave = sign_in("dave")
    page = operator.opens("devices/line/?q=bob")
    expect(operator.row("bob")).to_contain_text("1 of")
    limit = operator.row("bob").locator("input:not([type=hidden])[name$=max_incoming]")
    expect(limit).to_have_attribute("placeholder", "1")
    limit.fill("2")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".messagelist")).to_contain_text("1 line was changed successfully")
    alice.calls("bob", "audio")
    bob.rings()
    carol.calls("bob", "audio")
    expect(carol.title).to_have_text("Bob")
    dave.calls("bob", "audio")
    expect(dave.title).to_have_text("Bob is on another call")
    operator.opens("devices/line/?live=at")
    expect(operator.row("bob")).to_contain_text("2 in, 0 out")


def test_multi_device_switched_off_rings_one_device_at_the_next_call(operator, alice, sign_in, line):
    line("bob")
    older, newer = sign_in("bob"), sign_in("bob")
    page = operator.opens("devices/line/?q=bob")
    operator.row("bob").locator("input:not([type=hidden])[name$=multi_device]").uncheck()
    page.get_by_role("button", name="Save").click()
    older.page.get_by_role("link", name="Settings").click()
    switch = older.page.get_by_role("switch", name="Ring all my devices")
    expect(switch).to_have_attribute("aria-checked", "false", timeout=SOON)
    older.page.get_by_role("link", name="People").click()
    alice.calls("bob", "audio")
    newer.rings()
    expect(alice.state).to_have_text("Ringing…")
    assert older.screen == "people"


def test_a_live_call_is_ended_and_both_screens_say_so_and_a_device_is_signed_out(
    operator, alice, bob, expected_troubles
):
    alice.calls("bob", "audio")
    bob.rings().answers()
    alice.has_media(video=False)
    page = operator.opens("calls/call/?state=live")
    page.locator("#result_list tbody th a").first.click()
    expect(page.locator(".timeline")).to_contain_text("bob answered on")
    page.get_by_label("End this call").fill("Maintenance")
    page.get_by_role("button", name="End the call").click()
    expect(page.locator(".messagelist")).to_contain_text("everybody in it was told")
    for person in (alice, bob):
        expect(person.title).to_have_text("Ended by the operator", timeout=SOON)
    expected_troubles.append("401")  # of the list of people, should it be asked for at that moment
    operator.acts("devices/device/?q=bob&online=yes", "Sign out the selected devices", "1 signed out.")
    expect(bob.page.get_by_role("alertdialog")).to_contain_text("signed out", timeout=SOON, ignore_case=True)


def choose_file(operator, path, text):
    path.write_text(text)
    page = operator.opens("devices/line/import/")
    page.locator("input[type=file]").set_input_files(path)
    page.locator("select[name=format]").select_option(label="csv")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".import-preview")).to_be_visible()
    return page


def test_a_file_with_two_bad_rows_changes_nothing_until_it_is_mended(operator, line, tmp_path):
    for name in ("bob", "carol"):
        line(name)
    page = choose_file(operator, tmp_path / "lines.csv", LINES + "nobody,1,0\ndave,lots,0\n")
    expect(page.locator(".import-preview")).to_contain_text("There is no user 'nobody'")
    expect(page.locator(".import-preview")).to_contain_text("'lots' is not a number of calls")
    assert page.get_by_role("button", name="Confirm import").count() == 0
    page = choose_file(operator, tmp_path / "lines.csv", LINES + f"dave,{'lots' * 50},0\n")
    box = page.get_by_role("region", name="Lines that are wrong")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page = operator.opens("devices/line/?q=bob")
    expect(operator.row("bob").locator("input:not([type=hidden])[name$=max_incoming]")).to_have_value("")
    page = choose_file(operator, tmp_path / "lines.csv", LINES)
    expect(page.locator(".import-preview")).to_contain_text("empty → 4")
    page.get_by_role("button", name="Confirm import").click()
    expect(page.locator(".messagelist")).to_contain_text("2 updated")
    operator.opens("devices/line/?q=bob")
    expect(operator.row("bob").locator("input:not([type=hidden])[name$=max_incoming]")).to_have_value("4")


def test_a_viewer_is_made_in_the_panel_sees_it_all_and_finds_nothing_to_change(site, chromium, operator, alice):
    page = operator.opens("auth/user/?q=dave")
    page.get_by_role("link", name="dave", exact=True).click()
    page.get_by_label("Staff status").check()
    page.locator("#id_groups_from").select_option(label="viewer")
    page.locator("#id_groups_add_link, #id_groups_add").first.click()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    context = chromium.new_context()
    viewer = Operator(context, site.url, "dave")
    try:
        page = viewer.opens("devices/line/")
        expect(viewer.row("alice")).to_contain_text("1 of")
        for path in ("devices/line/", "devices/device/", "calls/call/"):
            page = viewer.opens(path)
            expect(page.locator("#changelist")).to_be_visible()
            for control in ("input[type=submit][name=_save]", "select[name=action]", "#result_list input", ".addlink"):
                expect(page.locator(control)).to_have_count(0)
        viewer.opens("wallboard/")
        expect(viewer.page.get_by_role("status")).to_have_text("Live, counted every second.")
        assert not viewer.troubles
        assert viewer.page.request.get(f"{site.url}/admin/auditlog/logentry/").status == 403
    finally:
        context.close()


def test_the_wallboard_shows_a_call_as_it_rings_and_is_answered(operator, alice, bob):
    page = operator.opens("wallboard/")
    figure = lambda name: page.locator(f"[data-figure={name}]")  # noqa: E731
    expect(page.get_by_role("status")).to_have_text("Live, counted every second.")
    expect(figure("online")).to_have_text("2", timeout=10_000)
    alice.calls("bob", "audio")
    expect(figure("ringing")).to_have_text("1")
    bob.rings().answers()
    expect(figure("active")).to_have_text("1")
    expect(figure("ringing")).to_have_text("0")
    expect(page.locator(".u-wrap canvas")).to_have_count(3)
    page.get_by_role("button", name="Last 7 days").click()
    expect(page.locator("[data-total=answer_rate]")).not_to_have_text("–", timeout=15_000)
    expect(page.locator(".u-wrap canvas")).to_have_count(3)
    expect(page.locator(".u-legend").first).to_contain_text("Answered")


# ── pictures ──

FADED = "Promise.all(document.getAnimations().map(each => each.finished)).then(() => {})"
VARIANTS = [(theme, width) for width in (1280, 360) for theme in ("light", "dark")]


@pytest.fixture
def take():
    """Takes the pictures of a page, if they are wanted; at the width of a phone it must not scroll sideways. Those that
    documents show are among them."""
    wanted, taken = os.environ.get("SCREENS"), set()
    root = Path(__file__).resolve().parent.parent.parent
    path = root / (wanted or "")

    def pictures(page, name, settle=lambda: None):
        for theme, width in VARIANTS if wanted else VARIANTS[-1:]:
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size({"width": width, "height": 800})
            settle()
            page.evaluate(FADED)
            seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert seen[0] <= seen[1], (name, width, seen)
            taken.update(f"panel-{name}-{theme}-{width}.png" for theme, width in VARIANTS)
            if wanted:
                page.screenshot(path=path / f"panel-{name}-{theme}-{width}.png", full_page=width == 1280)

    yield pictures
    assert {kept.name for kept in (root / "docs" / "screens").glob("panel-*.png")} <= taken


@pytest.mark.timeout(600)  # all pages, four times each when they are wanted
def test_pictures_of_the_panel(site, chromium, operator, alice, bob, line, take, tmp_path):
    for name in ("bob", "carol"):
        line(name)
    alice.calls("bob", "audio")
    bob.rings().answers()
    alice.has_media(video=False)
    alice.hangs_up()
    expect(bob.title).to_have_text("Call ended")
    alice.page.reload()
    alice.is_online().calls("bob", "audio")
    bob.rings().answers()
    alice.has_media(video=False)
    page = operator.page

    page.set_viewport_size({"width": 360, "height": 800})  # a limit is set on a phone
    operator.opens("devices/line/")
    operator.row("carol").locator("input:not([type=hidden])[name$=max_incoming]").fill("3")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".messagelist")).to_contain_text("1 line was changed successfully")
    operator.opens("devices/linegroup/add/")
    page.get_by_label("Name").fill("Sales")
    page.get_by_label("Incoming limit").fill("2")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")

    def link(path):
        """The first row's own page."""
        href = operator.opens(path).locator("#result_list tbody a[href*='/change/']").first.get_attribute("href")
        return href.removeprefix("/admin/").partition("?")[0]

    pages = {
        "index": "", "lines": "devices/line/", "line": link("devices/line/?q=bob"), "devices": "devices/device/",
        "device": link("devices/device/?q=bob"),
        "calls": "calls/call/", "call": link("calls/call/?state=ended"), "call-live": link("calls/call/?state=live"),
        "changes": "auditlog/logentry/", "groups": "devices/linegroup/", "group": link("devices/linegroup/"),
        "accounts": "auth/user/", "account": link("auth/user/?q=bob"), "account-new": "auth/user/add/",
        "password": "password_change/", "import": "devices/line/import/", "export": "calls/call/export/",
    }  # fmt: skip
    for name, path in pages.items():
        operator.opens(path)
        take(page, name)

    def settled():
        operator.opens("wallboard/")  # its plots take the colours that they find
        expect(page.get_by_role("status")).to_have_text("Live, counted every second.")
        expect(page.locator(".u-wrap canvas")).to_have_count(3)

    take(page, "wallboard", settled)
    operator.opens("devices/line/")
    for box in page.locator("#result_list .action-select").all()[:2]:
        box.check()
    page.get_by_label("Action:").select_option(label="Change limits, multi-device or group…")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("heading", name="Change 2 lines")).to_be_visible()
    take(page, "lines-many")
    choose_file(operator, tmp_path / "lines.csv", LINES + "nobody,1,0\ndave,lots,0\n")
    take(page, "import-errors")
    choose_file(operator, tmp_path / "lines.csv", LINES)
    take(page, "import-preview")
    operator.opens(pages["group"].replace("/change/", "/delete/"))
    take(page, "group-delete")
    page.get_by_role("button", name="Yes, I’m sure").click()
    expect(page.locator(".messagelist")).to_contain_text("was deleted successfully")

    context = chromium.new_context()
    try:
        stranger = context.new_page()
        stranger.goto(f"{site.url}/admin/login/")
        take(stranger, "sign-in")
        while stranger.get_by_role("button", name="Log in").count():
            stranger.get_by_label("Username").fill("mallory")
            stranger.get_by_label("Password").fill("a guess")
            stranger.get_by_role("button", name="Log in").click()
        expect(stranger.get_by_role("heading", name="Too many tries")).to_be_visible()
        take(stranger, "locked")
    finally:
        context.close()
