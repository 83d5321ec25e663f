"""The views beside the calls: history and settings, as people use them."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.test_screens import SIZES


@pytest.fixture
def take(tmp_path):
    wanted = os.environ.get("SCREENS")
    path = Path(__file__).resolve().parent.parent.parent / wanted if wanted else tmp_path
    path.mkdir(parents=True, exist_ok=True)

    def take(person, name):
        person.page.wait_for_timeout(300)  # transitions
        person.page.screenshot(path=path / f"{name}.png")
        wide = person.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name}: the page is wider than the screen"

    return take


def entries(person):
    return person.page.locator("#history-list [data-entry]")


@pytest.fixture(autouse=True)
def nothing_yet(site):
    """The site is one for all tests: what earlier ones left in the history goes first."""
    site.manage("shell", "-c", "from calls.models import Leg; Leg.objects.update(hidden=True)")


def test_a_missed_call_shows_on_every_device_until_it_was_seen_on_one(alice, sign_in):
    phone, laptop = sign_in("bob"), sign_in("bob")
    badge = "[data-badge]"
    for left in (1, 2):
        alice.calls("bob", "audio")
        phone.rings()
        alice.hangs_up()
        for device in (phone, laptop):
            expect(device.page.locator(badge)).to_contain_text(str(left))
    phone.opens("history")
    expect(entries(phone)).to_have_count(2)
    expect(entries(phone).first).to_contain_text("Missed")
    for device in (phone, laptop):
        expect(device.page.locator(badge)).to_be_hidden()
    expect(laptop.notices.locator(".notice")).to_have_count(0)
    entries(phone).first.get_by_role("button", name="Call Alice").click()
    alice.rings().answers()
    alice.has_media(video=False)
    phone.page.evaluate("location.hash = 'settings'")  # looking elsewhere leaves the call alone
    phone.has_media(video=False)
    alice.hangs_up()
    phone.presses("close")
    phone.opens("history")
    expect(entries(phone).first).to_contain_text("Outgoing · ")


def test_entries_are_searched_filtered_taken_out_and_brought_back(alice, carol, bob):
    for caller in (alice, carol):
        caller.calls("bob", "audio")
        bob.rings().declines()
        caller.presses("close")
    bob.opens("history")
    expect(entries(bob).first).to_contain_text("Carol")
    bob.page.keyboard.press("/")
    bob.page.keyboard.type("ali")
    expect(entries(bob)).to_contain_text(["Declined"])
    expect(entries(bob)).to_have_count(1)
    bob.page.keyboard.press("ArrowDown")
    bob.page.keyboard.press("Delete")
    expect(bob.page.locator("#history-none")).to_contain_text("No call with “ali”.")
    bob.toasts.get_by_role("button", name="Undo").click()
    expect(entries(bob)).to_have_count(1)
    bob.page.get_by_label("Search calls").fill("")
    bob.page.get_by_role("button", name="Missed", exact=True).click()
    expect(bob.page.locator("#history-none")).to_contain_text("You have missed no call.")
    bob.page.get_by_role("button", name="All", exact=True).click()
    bob.page.get_by_role("button", name="Clear the history").click()
    bob.page.get_by_role("button", name="Cancel").click()
    expect(entries(bob).nth(1)).to_be_visible()
    bob.page.get_by_role("button", name="Clear the history").click()
    bob.page.get_by_role("button", name="Clear", exact=True).click()
    expect(bob.page.locator("#history-none")).to_contain_text("No calls yet.")
    alice.opens("history")
    expect(entries(alice).first).to_contain_text("They declined")


def test_a_device_is_renamed_and_others_are_signed_out(bob, sign_in):
    phone = sign_in("bob", "phone").opens("settings")
    mine = phone.page.locator("#devices li").first
    expect(mine).to_contain_text("Phone This device")
    mine.get_by_role("button", name="Rename Phone").click()
    field = phone.page.get_by_label("New name")
    expect(field).to_have_value("Phone")
    field.fill("Kitchen")
    field.press("Enter")
    expect(mine).to_contain_text("Kitchen This device")
    assert phone.device == "Kitchen"
    phone.page.reload()
    assert phone.is_online().device == "Kitchen"
    phone.page.get_by_role("button", name="Sign out all other devices").click()
    phone.page.get_by_role("button", name="Sign out", exact=True).last.click()
    expect(bob.page.get_by_role("alertdialog")).to_contain_text("You are signed out")
    expect(phone.page.locator("#devices li")).to_have_count(1)


def test_do_not_disturb_is_one_switch_for_all_devices_and_favourites_get_through(alice, carol, sign_in):
    phone, laptop = sign_in("bob").opens("settings"), sign_in("bob").opens("settings")
    phone.page.get_by_label("Search people to add").fill("ali")
    phone.page.get_by_role("button", name="Add Alice to the favourites").click()
    expect(phone.page.get_by_role("button", name="Remove Alice from the favourites")).to_be_visible()
    phone.page.get_by_role("switch", name="Do not disturb").click()
    expect(laptop.page.get_by_role("switch", name="Do not disturb")).to_have_attribute("aria-checked", "true")
    carol.calls("bob", "audio")
    expect(carol.title).to_have_text("Bob is busy")
    expect(phone.page.locator("[data-badge]")).to_be_visible()
    assert phone.screen == "people"
    alice.calls("bob", "audio")
    phone.rings().declines()
    phone.opens("history")
    expect(entries(phone).nth(1)).to_contain_text("you did not want to be disturbed")
    phone.opens("settings").page.get_by_role("button", name="Remove Alice from the favourites").click()
    expect(phone.page.locator("#favourites-none")).to_contain_text("No favourites yet")
    laptop.page.get_by_role("switch", name="Do not disturb").click()
    expect(phone.page.get_by_role("switch", name="Do not disturb")).to_have_attribute("aria-checked", "false")


def test_the_theme_is_there_before_anything_is_painted_and_the_ring_is_as_chosen(alice, bob):
    bob.opens("settings")
    bob.page.get_by_text("Dark", exact=True).click()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert bob.page.evaluate(ground) == "rgb(14, 17, 22)"
    bob.page.get_by_label("Ring tone", exact=True).select_option("marimba")
    bob.page.get_by_role("switch", name="Silent").click()
    bob.page.reload(wait_until="commit")
    bob.page.wait_for_function("document.body")
    assert bob.page.evaluate(ground) == "rgb(14, 17, 22)"
    bob.is_online()
    expect(bob.page.get_by_label("Ring tone", exact=True)).to_have_value("marimba")
    expect(bob.page.get_by_role("switch", name="Silent")).to_have_attribute("aria-checked", "true")
    bob.page.get_by_text("As the system", exact=True).click()
    assert bob.page.evaluate(ground) == "rgb(244, 245, 248)"
    alice.calls("bob", "audio")
    bob.rings()


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_the_views(sign_in, take, size):
    alice, carol = sign_in("alice", **SIZES[size]), sign_in("carol", **SIZES[size], color_scheme="dark")
    bob = sign_in("bob", "phone", **SIZES[size])
    for caller, kind in ((alice, "video"), (carol, "audio"), (alice, "audio")):
        caller.calls("bob", kind)
        bob.rings()
        if kind == "video":
            bob.answers()
            caller.has_media()
        caller.hangs_up()
        if kind == "video":
            bob.presses("close")
    take(bob, f"badge-{size}")
    for person, suffix in ((bob, ""), (carol, "-dark")):
        person.opens("history")
        expect(entries(person).first).to_be_visible()
        take(person, f"history{suffix}-{size}")
        person.opens("settings")
        expect(person.page.locator("#devices li").first).to_be_visible()
        person.page.get_by_label("Search people to add").fill("d")
        expect(person.page.locator("#favourites li").first).to_be_visible()
        take(person, f"settings{suffix}-{size}")
        person.page.locator("#look-title").scroll_into_view_if_needed()
        person.page.evaluate("window.scrollTo(0, 99999)")
        take(person, f"settings-end{suffix}-{size}")
