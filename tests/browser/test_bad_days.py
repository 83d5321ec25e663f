"""The server restarts, hangs, or cannot be reached: media goes on, and the page says what is going on."""

import os
import signal

from playwright.sync_api import expect

from tests.browser.person import PATIENCE_S, SHORT_RING, in_a_call

KEPT = """() => new Promise((resolve) => {
  const opened = indexedDB.open("calls", 1);
  opened.onsuccess = () => {
    const count = opened.result.transaction("commands").objectStore("commands").count();
    count.onsuccess = () => (opened.result.close(), resolve(count.result > 0));
  };
})"""


def test_a_restart_of_the_server_does_not_touch_a_running_call(site, alice, bob):
    in_a_call(alice, bob)
    site.stop()
    for person in (alice, bob):
        expect(person.page.locator("#banner")).to_contain_text("Your call goes on", timeout=10_000)
        person.has_media()
    site.start()
    for person in (alice, bob):
        expect(person.page.locator("#banner")).to_be_hidden(timeout=PATIENCE_S * 1000)
        person.has_media()
        assert person.screen == "in_call"
        assert person.page.evaluate("window.connections.length") == 1
    bob.presses("mic")
    expect(alice.page.get_by_text("Bob is muted")).to_be_visible()
    alice.hangs_up()
    bob.sees("ended")


def test_who_hangs_up_while_the_server_hangs_is_out_at_once_and_the_other_when_it_is_back(site, alice, bob):
    in_a_call(alice, bob)
    assert site.process
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        alice.hangs_up()
        expect(alice.page.locator("#stage")).to_be_hidden(timeout=1000)
        assert alice.page.evaluate("window.connections[0].connectionState") == "closed"
    finally:
        os.kill(site.process.pid, signal.SIGCONT)
    bob.sees("ended")
    expect(alice.toasts).to_contain_text("Call ended")


def test_a_ring_stops_by_itself_when_nothing_more_is_heard_of_it(site, sign_in, bob):
    alice = sign_in("alice", script=SHORT_RING)
    alice.calls("bob", "audio")
    bob.rings()
    assert site.process
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        expect(bob.ring).to_be_hidden(timeout=25_000)
    finally:
        os.kill(site.process.pid, signal.SIGCONT)
    expect(alice.title).to_have_text("Bob did not answer")


def test_a_call_offered_while_offline_is_found_on_the_return(site, alice, bob):
    """The page was asleep, the call rings meanwhile: the welcome shows it with the time that is left."""
    bob.page.evaluate("window.dispatchEvent(new Event('offline'))")
    alice.calls("bob", "audio")
    bob.rings()
    bob.page.reload()
    bob.rings().answers()
    alice.has_media(video=False)


def test_media_that_breaks_is_mended_by_an_ice_restart(alice, bob):
    in_a_call(alice, bob)
    first = alice.page.evaluate("window.connections[0].localDescription.sdp.match(/a=ice-ufrag:(.*)/)[1]")
    alice.page.evaluate("window.dispatchEvent(new Event('online'))")
    again = "window.connections[0].localDescription.sdp.match(/a=ice-ufrag:(.*)/)[1]"
    for _ in range(200):
        if alice.page.evaluate(again) != first:
            break
        alice.page.wait_for_timeout(50)
    assert alice.page.evaluate(again) != first
    alice.has_media()
    bob.has_media()
    assert alice.page.evaluate("window.connections.length") == 1


def test_ten_seconds_without_network_do_not_touch_the_media(alice, bob):
    in_a_call(alice, bob)
    bob.context.set_offline(True)
    try:
        before = bob.stats()
        bob.page.wait_for_timeout(10_000)
        during = bob.stats()
    finally:
        bob.context.set_offline(False)
    back = bob.until(lambda now: now["frames"] > during["frames"], seconds=5)
    assert during["frames"] - before["frames"] > 30  # it went on; what follows would do, too
    assert back["energy"] > before["energy"]
    assert bob.screen == alice.screen == "in_call"
    alice.has_media()
    bob.is_online()
    alice.hangs_up()
    bob.sees("ended")


def test_a_machine_that_wakes_up_connects_anew_and_the_call_goes_on(alice, bob):
    in_a_call(alice, bob)
    with bob.page.expect_websocket(timeout=10_000):
        bob.page.evaluate("() => { const real = Date.now; Date.now = () => real() + 60_000; }")  # its clock went on
    bob.is_online().has_media()
    alice.has_media()
    with bob.page.expect_websocket(timeout=10_000):  # shown again out of the browser's cache of pages
        bob.page.evaluate("() => void dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    bob.is_online().has_media()
    assert bob.screen == alice.screen == "in_call"
    assert bob.page.evaluate("window.connections.length") == 1


def test_a_hang_up_is_not_lost_with_the_page(site, alice, bob):
    """The server hangs, alice hangs up and closes the tab: her next page says it, and is not in the call again."""
    in_a_call(alice, bob)
    assert site.process
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        alice.hangs_up()
        alice.waits_for(KEPT)
        alice.page.close()
    finally:
        os.kill(site.process.pid, signal.SIGCONT)
    alice.page = alice.context.new_page()
    alice.page.goto(site.url)
    alice.is_online()
    bob.sees("ended")
    alice.sees("people")
    alice.waits_for(f"async () => !(await ({KEPT})())")


def test_the_pages_are_served_with_a_strict_policy_and_hashed_names(site, alice):
    response = alice.page.reload()
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    loaded = alice.page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(name.startswith(site.url + "/") for name in loaded), loaded  # nothing is asked of third parties
    scripts = [name for name in loaded if name.endswith(".js")]
    assert len(scripts) >= 7
    assert all(name.startswith(site.url + "/static/calls/") and name.count(".") == 5 for name in scripts), scripts
