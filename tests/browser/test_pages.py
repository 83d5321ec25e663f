"""The views beside the calls: history and settings, as people use them."""

import pytest
from playwright.sync_api import expect


def entries(person):
    return person.page.locator("#history-list [data-entry]")


@pytest.fixture(autouse=True)
def nothing_yet(site):
    """The site is one for all tests."""
    site.forget()


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
    phone.page.get_by_role("button", name="Make the call small").click()
    phone.opens("settings").opens("history")  # looking elsewhere leaves the call alone
    expect(entries(phone).first).to_contain_text("Missed")
    expect(entries(phone).first.get_by_role("button", name="Call Alice")).to_be_disabled()
    phone.has_media(video=False)
    phone.page.get_by_role("button", name="Back to the call").click()
    expect(phone.page.locator("body")).not_to_have_attribute("data-small", "")
    alice.hangs_up()
    phone.presses("close")
    phone.opens("history")
    expect(entries(phone).first).to_contain_text("Outgoing · ")


def test_entries_are_searched_filtered_taken_out_and_brought_back(alice, carol, bob, expected_troubles):
    expected_troubles.append("ERR_FAILED")  # the first time that it is undone
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
    bob.page.route("**/history/hide/", lambda route: route.abort())
    bob.toasts.get_by_role("button", name="Undo").click()
    expect(bob.toasts).to_contain_text("That did not work. Try again.")
    bob.page.unroute("**/history/hide/")
    bob.toasts.get_by_role("button", name="Undo").click()
    expect(entries(bob)).to_have_count(1)
    expect(entries(bob).get_by_role("button", name="Take the call with Alice out")).to_be_focused()
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
    expect(laptop.page.get_by_role("banner")).to_contain_text("Do not disturb")
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
    bob.page.reload(wait_until="domcontentloaded")
    assert bob.page.evaluate(ground) == "rgb(14, 17, 22)"
    bob.is_online()
    expect(bob.page.get_by_label("Ring tone", exact=True)).to_have_value("marimba")
    expect(bob.page.get_by_role("switch", name="Silent")).to_have_attribute("aria-checked", "true")
    bob.page.get_by_text("As the system", exact=True).click()
    assert bob.page.evaluate(ground) == "rgb(244, 245, 248)"
    alice.calls("bob", "audio")
    bob.rings()


def pushed(person, call):
    """What the browser does when a push arrives. No push service is asked: Chromium's own takes a real account."""
    devtools = person.context.new_cdp_session(person.page)
    found = []
    devtools.on("ServiceWorker.workerRegistrationUpdated", lambda said: found.extend(said["registrations"]))
    devtools.send("ServiceWorker.enable")
    while not found:
        person.page.wait_for_timeout(20)
    message = {"origin": person.url, "registrationId": found[-1]["registrationId"], "data": f'{{"call": "{call}"}}'}
    devtools.send("ServiceWorker.deliverPushMessage", message)
    devtools.detach()


SHOWN = """async (tag) => {
    const shown = await (await navigator.serviceWorker.ready).getNotifications({ tag: `call-${tag}` });
    return shown.map(({ title, body, actions }) => [title, body, actions.map(({ action }) => action).join()]);
}"""


def shown(person, call, title):
    """The notifications of this call, once there is one with this title."""
    for _ in range(200):
        found = person.page.evaluate(SHOWN, call)
        if found and found[0][0] == title:
            break
        person.page.wait_for_timeout(50)
    return found


def pressed(person, call, action):
    """What the worker does when a button of the notification is pressed while the page is open."""
    (worker,) = person.context.service_workers
    worker.evaluate("([action, call]) => act(action, { call, token: null })", [action, call])


def test_a_push_shows_who_calls_and_a_second_one_what_became_of_it(alice, bob):
    bob.context.grant_permissions(["notifications"])
    bob.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    alice.calls("bob", "audio")
    bob.rings()
    call = bob.ring.get_attribute("data-key")
    pushed(bob, call)
    assert shown(bob, call, "Alice") == [["Alice", "Incoming call", "answer,reject"]]
    pressed(bob, call, "reject")
    expect(alice.title).to_have_text("Bob declined the call")
    alice.presses("call-again")
    bob.rings()
    pressed(bob, bob.ring.get_attribute("data-key"), "answer")
    bob.sees("in_call").hangs_up()
    alice.presses("call-again")
    bob.rings()
    call = bob.ring.get_attribute("data-key")
    alice.hangs_up()
    expect(bob.ring).to_have_count(0)
    pushed(bob, call)
    assert shown(bob, call, "Missed call from Alice") == [["Missed call from Alice", "", ""]]
    assert bob.page.evaluate("async () => (await caches.keys()).length") == 1
    kept = bob.page.evaluate(
        "async () => (await (await caches.open((await caches.keys())[0])).keys()).map((r) => r.url)"
    )
    assert all("/static/" in url or url.endswith("/offline/") for url in kept)


def test_a_call_answered_in_a_notification_is_answered_by_the_page_that_it_opens(alice, bob):
    bob.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    alice.calls("bob", "audio")
    call = bob.rings().ring.get_attribute("data-key")
    (worker,) = bob.context.service_workers
    worker.evaluate("(call) => wish(call)", call)  # what Answer does before it opens a page, which needs a real click
    bob.goes_to().sees("in_call")
    alice.has_media(video=False)
    bob.hangs_up()
    alice.presses("call-again")
    bob.rings()
    bob.page.reload()
    bob.rings()  # the wish was for the call before, and is used up


def test_without_a_connection_there_is_a_page_that_says_so(bob, expected_troubles):
    expected_troubles.append("ERR_INTERNET_DISCONNECTED")
    bob.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    bob.context.set_offline(True)
    bob.page.reload()
    expect(bob.page.get_by_role("heading")).to_have_text("No connection")
    assert bob.page.evaluate("getComputedStyle(document.querySelector('.door-card')).borderRadius") != "0px"
    bob.context.set_offline(False)
    bob.page.get_by_role("link", name="Try again").click()
    bob.is_online()
