"""One person, several devices: who rings, who answers, and who has the call."""

import re

from playwright.sync_api import expect

from tests.browser.person import PATIENCE_S

# Notes when each frame of the other side was presented, whichever element shows it, by the frames' own times: how often
# a busy page is told of them does not matter. `longest(from, to)` is the longest time between two of them, in ms.
WATCH_PICTURE = """() => {
  const frames = [];
  const watched = new WeakSet();
  const watch = (video) => {
    if (watched.has(video)) return;
    watched.add(video);
    const seen = (_, { presentationTime }) => (frames.push(presentationTime), video.requestVideoFrameCallback(seen));
    video.requestVideoFrameCallback(seen);
  };
  const look = () => document.querySelectorAll("video.remote").forEach(watch);
  new MutationObserver(look).observe(document.getElementById("stage"), { childList: true, subtree: true });
  look();
  window.longest = (from, to) => {
    const times = frames.filter((time) => time >= from && time < to).sort((a, b) => a - b);
    return Math.max(0, ...times.slice(1).map((time, n) => time - times[n]));
  };
}"""


def test_both_devices_ring_and_when_one_answers_the_other_falls_silent_within_a_second(alice, sign_in):
    phone, laptop = sign_in("bob"), sign_in("bob")
    alice.calls("bob")
    phone.rings()
    laptop.rings()
    expect(alice.state).to_have_text("Ringing…")
    fell_silent = laptop.will_see("Answered on")
    answered = phone.page.evaluate(
        "() => { document.querySelector('.ring [data-action=answer]').click(); return Date.now(); }"
    )
    assert fell_silent() - answered < 1000
    expect(laptop.ring).to_have_count(0)
    expect(laptop.notices).to_contain_text("Video call with Alice")
    alice.has_media()
    phone.has_media()
    assert laptop.page.evaluate("window.connections.length") == 0
    alice.hangs_up()
    expect(phone.title).to_have_text("Call ended", timeout=3000)
    expect(laptop.notices.locator(".notice")).to_have_count(0)
    assert [each.screen for each in (alice, phone, laptop)] == ["people", "ended", "people"]


def test_a_device_that_goes_while_it_rings_leaves_the_others_ringing(alice, sign_in, expected_troubles):
    expected_troubles.append("401")  # of the list of people, should it be asked for just after the sign-out
    phone, laptop, tablet = sign_in("bob"), sign_in("bob"), sign_in("bob")
    alice.calls("bob", "audio")
    for device in (phone, laptop, tablet):
        device.rings()
    phone.page.close()
    laptop.signs_out()
    laptop.sees("gate")
    expect(laptop.page.get_by_role("alertdialog")).to_contain_text("You are signed out")
    expect(laptop.ring).to_have_count(0)
    expect(alice.state).to_have_text("Ringing…")
    tablet.rings().answers()
    alice.has_media(video=False)
    tablet.has_media(video=False)


def test_with_multi_device_off_only_the_most_recent_sign_in_rings(alice, sign_in, line):
    line("bob", "--multi-device", "off")
    older, newer = sign_in("bob"), sign_in("bob")
    alice.calls("bob", "audio")
    newer.rings()
    expect(alice.state).to_have_text("Ringing…")
    assert older.screen == "people"
    newer.answers()
    alice.has_media(video=False)
    newer.has_media(video=False)
    assert older.page.locator(".notice").count() == 0


def test_two_browsers_of_one_kind_have_names_of_their_own(alice, sign_in):
    first = sign_in("bob")
    second = sign_in("bob")
    assert re.fullmatch(r"Chrom\w+ on Linux \d+", second.device)
    assert second.device != first.device
    alice.calls("bob", "audio")
    first.rings()
    second.rings().answers()
    expect(first.notices).to_contain_text(f"Answered on {second.device}")
    answered_on = second.device
    second.page.reload()
    assert second.is_online().device == answered_on


def test_a_reload_is_no_new_sign_in(alice, sign_in, line):
    line("bob", "--multi-device", "off")
    older, newer = sign_in("bob"), sign_in("bob")
    older.page.reload()
    older.is_online()
    alice.calls("bob", "audio")
    newer.rings()
    assert older.screen == "people"


def test_open_another_device_makes_a_tab_that_is_a_device_with_a_name_of_its_own(alice, bob):
    first = bob.device
    assert re.fullmatch(r"Chrom\w+ on Linux( \d+)?", first)
    bob.page.get_by_role("button", name="Open another device").click()
    field = bob.page.get_by_label("Name of the device")
    expect(field).to_have_value("Phone")
    with bob.context.expect_page() as opened:
        field.press("Enter")
    phone = type(bob)(bob.context, bob.url, "bob", opened.value).is_online()
    assert phone.device == "Phone"
    assert bob.screen == "people"
    alice.calls("bob", "audio")
    bob.rings()
    phone.rings()
    phone.answers()
    expect(bob.notices).to_contain_text("Answered on Phone")
    bob.page.get_by_role("button", name="Open another device").click()
    expect(field).to_have_value("Laptop")
    bob.page.get_by_role("button", name="Cancel").click()
    phone.page.reload()
    assert phone.is_online().device == "Phone"


def test_continue_here_moves_the_call_and_the_media_with_it(alice, sign_in):
    phone, laptop = sign_in("bob"), sign_in("bob")
    alice.calls("bob")
    phone.rings().answers()
    alice.has_media()
    laptop.opens("settings")
    laptop.page.get_by_role("heading", name="Language").scroll_into_view_if_needed()
    here = laptop.page.get_by_role("button", name="Continue here")
    expect(here).to_be_in_viewport()  # in each view, and however far down
    here.click()
    laptop.has_media()
    alice.has_media()
    expect(phone.notices).to_contain_text("Answered on")
    closed = "window.connections.every((one) => one.connectionState === 'closed')"
    phone.waits_for(closed, seconds=5)
    laptop.presses("mic")
    expect(alice.page.get_by_text("Bob is muted")).to_be_visible()
    phone.page.get_by_role("button", name="Continue here").click()
    phone.has_media()
    expect(phone.page.get_by_role("button", name="Unmute")).to_be_visible()
    expect(alice.page.get_by_text("Bob is muted")).to_be_visible()
    phone.hangs_up()
    expect(alice.title).to_have_text("Call ended")


def without_a_picture(watcher, move):
    """The longest time, in ms, in which the watcher saw nothing new while the other side moved to another page,
    beyond what this machine lets pass between two frames anyway."""
    watcher.page.evaluate(WATCH_PICTURE)
    watcher.page.wait_for_timeout(1000)
    started = watcher.page.evaluate("performance.now()")
    move()
    watcher.waits_for("window.connections.length === 2 && window.connections[0].connectionState === 'closed'")
    watcher.has_media()
    before, during = watcher.page.evaluate(
        "(at) => [window.longest(0, at), window.longest(at - 300, Infinity)]", started
    )
    return during - before


def test_a_move_leaves_the_other_side_less_than_a_second_without_a_picture(alice, sign_in):
    phone, laptop = sign_in("bob"), sign_in("bob")
    alice.calls("bob")
    phone.rings().answers()
    alice.has_media()
    phone.has_media()
    gap = without_a_picture(alice, laptop.page.get_by_role("button", name="Continue here").click)
    assert gap < 1000, f"{gap:.0f} ms without a picture"
    laptop.has_media()
    phone.waits_for("window.connections.every((one) => one.connectionState === 'closed')", seconds=7)


def test_a_second_tab_asks_before_it_takes_the_device(alice, bob):
    tab = bob.opens_another_tab().sees("gate")
    expect(tab.page.get_by_role("alertdialog")).to_contain_text("Calls are open in another tab")
    tab.page.get_by_role("button", name="Use here").click()
    tab.is_online()
    bob.sees("gate")
    expect(bob.page.get_by_role("alertdialog")).to_contain_text("Calls moved to another tab")
    alice.calls("bob", "audio")
    tab.rings()
    assert bob.ring.count() == 0
    bob.page.get_by_role("button", name="Use here").click()
    bob.is_online().rings()
    tab.sees("gate")


def test_taking_over_in_a_call_brings_the_call_along_and_the_other_side_sees_no_gap(alice, bob):
    alice.calls("bob")
    bob.rings().answers()
    alice.has_media()
    bob.has_media()
    tab = bob.opens_another_tab().sees("gate")
    gap = without_a_picture(alice, tab.page.get_by_role("button", name="Use here").click)
    assert gap < 1000, f"{gap:.0f} ms without a picture"
    tab.has_media()
    bob.sees("gate")
    bob.waits_for("window.connections.every((one) => one.connectionState === 'closed')", seconds=7)


def test_the_multi_device_switch_is_the_operators_until_the_operator_hands_it_over(alice, sign_in, line):
    older, newer = sign_in("bob").opens("settings"), sign_in("bob").opens("settings")
    switch = newer.page.get_by_role("switch", name="Ring all my devices")
    expect(switch).to_be_disabled()
    expect(switch).to_have_attribute("aria-checked", "true")
    expect(newer.page.locator("#multi-words")).to_contain_text("Your operator decides about this")
    line("bob", "--may-switch", "yes")
    expect(switch).to_be_enabled(timeout=PATIENCE_S * 1000)
    switch.click()
    for device in (older, newer):
        expect(device.page.locator("#multi-device")).to_have_attribute("aria-checked", "false")
    alice.calls("bob", "audio")
    newer.rings()
    expect(alice.state).to_have_text("Ringing…")
    assert older.screen == "people"


def test_signed_out_in_another_tab_the_page_says_so_and_leads_back(bob, expected_troubles):
    expected_troubles.append("401")  # of the list of people, should it be asked for at that moment
    bob.signs_out()
    bob.sees("gate")
    bob.page.get_by_role("link", name="Sign in again").click()
    expect(bob.page.get_by_label("User name")).to_be_visible()
    bob.fills_in_the_form()


def test_devices_in_one_browser_are_listed_and_signed_out_together(sign_in, expected_troubles):
    expected_troubles.append("401")  # of what is asked for just after the sign-out
    desk, laptop = sign_in("bob"), sign_in("bob")
    phone = laptop.opens_another_tab("phone").is_online()
    names = {"desk": desk.device, "laptop": laptop.device}
    desk.opens("settings")
    row = desk.page.locator(
        "#devices li", has=desk.page.get_by_role("button", name=f"Rename {names['laptop']}", exact=True)
    )
    expect(row).to_contain_text("Same browser as Phone")
    row.get_by_role("button", name=f"Sign out {names['laptop']}").click()
    asked = desk.page.locator("#ask")
    expect(asked).to_contain_text("The same browser is signed out as a whole: Phone, too.")
    asked.get_by_role("button", name="Sign out").click()
    expect(desk.toasts).to_contain_text("2 devices were signed out.")
    for lost in (laptop, phone):
        lost.sees("gate")
        expect(lost.page.get_by_role("alertdialog")).to_contain_text("You are signed out")
        lost.page.get_by_role("link", name="Sign in again").click()
        expect(lost.page.get_by_label("User name")).to_be_visible()
        lost.page.goto(lost.url)
        expect(lost.page.get_by_label("User name")).to_be_visible()  # there it ends
    assert desk.is_online().device == names["desk"]


def test_signing_out_all_others_keeps_the_devices_of_this_browser(sign_in, expected_troubles):
    expected_troubles.append("401")
    desk, laptop = sign_in("bob"), sign_in("bob")
    phone = laptop.opens_another_tab("phone").is_online()
    laptop.opens("settings")
    laptop.page.get_by_role("button", name="Sign out all other devices").click()
    laptop.page.locator("#ask").get_by_role("button", name="Sign out").click()
    desk.sees("gate")
    expect(laptop.page.locator("#sign-out-others")).to_be_hidden()
    expect(laptop.page.locator("#devices li")).to_have_count(2)
    phone.is_online()
