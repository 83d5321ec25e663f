"""What can be done in a call besides hanging up: video by consent, other devices, the screen, one's own picture."""

from playwright.sync_api import expect

from tests.browser.person import in_a_call

SENT = """async () => {
  const pc = window.connections.findLast((one) => one.connectionState === "connected");
  return pc.getSenders().find((one) => one.track?.kind === "video")?.track.label ?? null;
}"""


def test_video_is_added_to_a_voice_call_when_both_want_it(alice, bob):
    in_a_call(alice, bob, "audio")
    alice.presses("add-video")
    ask = bob.page.get_by_role("alertdialog", name="Alice would like to add video to this call.")
    expect(ask).to_be_focused()
    expect(bob.page.locator("#said-now")).to_have_text("Alice would like to add video to this call.")
    expect(alice.page.get_by_text("Asking Bob to add video…")).to_be_visible()
    assert alice.page.evaluate(SENT) is None  # nobody is shown before the other agreed
    ask.get_by_role("button", name="Not now").click()
    expect(alice.toasts).to_contain_text("Bob would rather go on without video.")
    expect(alice.page.locator(".self")).to_be_hidden()

    bob.presses("add-video")
    alice.presses("agree-video")
    alice.has_media()
    bob.has_media()
    assert alice.page.evaluate("window.connections.length") == 1  # nothing was negotiated anew
    bob.page.reload()
    bob.has_media()
    alice.has_media()
    bob.presses("cam")
    expect(alice.state).to_have_text("Camera is off")


def test_the_screen_is_shared_and_the_camera_comes_back(alice, bob):
    in_a_call(alice, bob)
    camera = alice.page.evaluate(SENT)
    alice.presses("share")
    expect(bob.page.get_by_text("Alice shares the screen")).to_be_visible()
    expect(alice.page.get_by_text("You share your screen")).to_be_visible()
    alice.waits_for(f"async (camera) => ![null, camera].includes(await ({SENT})())", camera)
    bob.has_media()
    alice.presses("share")
    expect(bob.page.get_by_text("Alice shares the screen")).to_be_hidden()
    alice.waits_for(f"async (camera) => (await ({SENT})()) === camera", camera)
    bob.has_media()


def test_another_camera_and_microphone_are_chosen_in_the_call_and_remembered(alice, bob):
    in_a_call(alice, bob)
    first = alice.page.evaluate(SENT)
    alice.presses("more")
    expect(alice.page.get_by_role("button", name="Switch camera")).to_be_focused()
    alice.page.keyboard.press("Escape")
    expect(alice.page.locator("#more-menu")).to_be_hidden()
    expect(alice.page.get_by_role("button", name="More")).to_be_focused()
    alice.presses("more")
    alice.presses("flip")
    another = f"async (old) => ![null, old].includes(await ({SENT})())"
    alice.waits_for(another, first)
    depth = alice.page.evaluate(SENT)  # the fake browser's second camera sees only depth, which no call can show
    alice.presses("more")
    alice.presses("flip")
    alice.waits_for(another, depth)
    assert alice.page.evaluate(SENT) != first
    bob.has_media()

    alice.presses("more")
    alice.page.get_by_role("button", name="Sound and picture…").click()
    dialog = alice.page.get_by_role("dialog", name="Sound and picture")
    expect(dialog.get_by_label("Camera")).not_to_have_value("")
    dialog.get_by_label("Microphone", exact=True).select_option(index=2)
    speaker = dialog.get_by_label("Speaker")
    speaker.select_option(index=1)
    alice.waits_for("(id) => document.querySelector('video.remote').sinkId === id", speaker.input_value())
    dialog.get_by_role("button", name="Done").click()
    second = alice.page.evaluate(SENT)
    chosen = alice.page.evaluate("JSON.parse(localStorage.getItem('calls.gear'))")
    assert chosen["cam"] and chosen["mic"] and chosen["speaker"]
    alice.has_media()
    bob.has_media()
    alice.page.reload()
    alice.has_media()
    assert alice.page.evaluate(SENT) == second
    alice.waits_for("(id) => document.querySelector('video.remote').sinkId === id", chosen["speaker"])


def test_before_a_call_one_can_see_and_hear_oneself(alice):
    alice.presses("gear")
    dialog = alice.page.get_by_role("dialog", name="Sound and picture")
    alice.waits_for("document.querySelector('[data-stream=mirror]').videoWidth > 0")
    heard = "Number(document.getElementById('level').getAttribute('aria-valuenow')) > 5"
    alice.waits_for(heard)  # the fake microphone beeps
    dialog.get_by_role("button", name="Test the ring").click()
    camera = dialog.get_by_label("Camera")
    camera.select_option(index=2)
    alice.waits_for("document.querySelector('[data-stream=mirror]').videoWidth > 0")
    alice.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    alice.waits_for("!document.querySelector('[data-stream=mirror]').srcObject.active")
    expect(alice.page.get_by_role("button", name="Check sound and picture")).to_be_focused()


def test_a_call_that_comes_in_closes_the_dialog_over_it(alice, bob):
    def opens_gear():
        bob.presses("gear")

    def renames_the_device():
        bob.opens("settings").page.get_by_role("button", name="Rename").first.click()

    def adds_a_device():
        bob.presses("open-device")

    for opens_a_dialog in (opens_gear, adds_a_device, renames_the_device):
        opens_a_dialog()
        expect(bob.page.get_by_role("dialog")).to_be_visible()
        alice.calls("bob", "audio")
        bob.rings().answers()
        expect(alice.page.locator("[data-action=hangup]")).to_be_visible()
        expect(bob.page.get_by_role("dialog")).to_have_count(0)
        alice.hangs_up()
        bob.sees("ended").presses("close")


def test_who_is_signed_out_with_a_dialog_open_is_told_and_seen_no_more(bob, expected_troubles):
    expected_troubles.append("401")  # of the list of people, should it be asked for just after the sign-out
    bob.presses("gear")
    bob.waits_for("document.querySelector('[data-stream=mirror]').videoWidth > 0")
    camera = bob.page.evaluate_handle("document.querySelector('[data-stream=mirror]').srcObject")
    bob.signs_out()
    bob.sees("gate")
    expect(bob.page.get_by_role("dialog", name="Sound and picture")).to_have_count(0)
    assert camera.evaluate("(stream) => stream.active") is False
    bob.page.get_by_role("link", name="Sign in again").click()


# Where each note comes out, "" being the browser's own choice; and a speaker that can be pulled out.
SPEAKERS = """
window.outs = [];
const choose = AudioContext.prototype.setSinkId;
AudioContext.prototype.setSinkId = function (id) { this.out = id; return choose.call(this, id); };
OscillatorNode.prototype.start = function (...at) {
  window.outs.push(this.context.out ?? "");
  return AudioScheduledSourceNode.prototype.start.apply(this, at);
};
const list = globalThis.MediaDevices?.prototype.enumerateDevices;
window.pulled = null;
if (list) MediaDevices.prototype.enumerateDevices = async function () {
  return (await list.call(this)).filter((one) => one.deviceId !== window.pulled);
};
"""
PLUG = "(id) => { window.pulled = id; navigator.mediaDevices.dispatchEvent(new Event('devicechange')); }"


def test_the_ring_comes_out_of_the_chosen_speaker_and_out_of_another_while_that_is_pulled_out(sign_in):
    bob = sign_in("bob", script=SPEAKERS)
    bob.presses("gear")
    speaker = bob.page.get_by_role("dialog").get_by_label("Speaker")
    speaker.select_option(index=1)
    chosen = speaker.input_value()
    assert chosen
    bob.page.get_by_role("button", name="Done").click()
    bob.opens("settings")
    for pulled, out in ((None, chosen), (chosen, ""), (None, chosen)):
        bob.page.evaluate(PLUG, pulled)
        bob.waits_for(
            """async (out) => {
                window.outs = [];
                document.querySelector("[data-do=sample]").click();
                await new Promise((resolve) => setTimeout(resolve, 50));
                return window.outs.length > 0 && window.outs.every((one) => one === out);
            }""",
            out,
        )


def test_ones_own_picture_goes_where_it_is_wanted_and_the_call_fills_the_screen(alice, bob):
    in_a_call(alice, bob)
    own = alice.page.get_by_role("button", name="Your own picture")
    before = own.bounding_box()
    own.focus()
    alice.page.keyboard.press("ArrowLeft")
    alice.page.keyboard.press("ArrowUp")
    expect(own).to_have_attribute("data-corner", "top-start")
    middle = own.bounding_box()
    assert middle["x"] < before["x"] and middle["y"] < before["y"]
    alice.page.mouse.move(middle["x"] + 20, middle["y"] + 20)
    alice.page.mouse.down()
    alice.page.mouse.move(before["x"] + 20, before["y"] + 20, steps=4)
    alice.page.mouse.up()
    expect(own).to_have_attribute("data-corner", "bottom-end")
    alice.presses("more")
    alice.presses("full")
    alice.waits_for("document.fullscreenElement !== null")
    alice.presses("more")
    alice.page.get_by_role("button", name="Leave full screen").click()
    alice.waits_for("document.fullscreenElement === null")
    alice.presses("more")
    alice.presses("float")
    alice.waits_for("document.pictureInPictureElement === document.querySelector('video.remote')")
    alice.has_media()
    alice.presses("more")
    alice.presses("float")
    alice.waits_for("document.pictureInPictureElement === null")


def test_favourites_and_recent_calls_come_first_in_this_browser(alice, bob):
    names = alice.page.locator("#people .person strong")
    alice.page.get_by_role("button", name="Favourite: Dave").click()
    expect(alice.page.get_by_role("heading", name="Favourites")).to_be_visible()
    expect(names.first).to_have_text("Dave")
    alice.calls("bob", "audio")
    bob.rings().declines()
    alice.sees("ended")
    alice.presses("close")
    expect(alice.page.get_by_role("heading", name="Recent")).to_be_visible()
    expect(names.nth(1)).to_have_text("Bob")
    alice.page.reload()
    expect(names.first).to_have_text("Dave")
    alice.page.get_by_role("button", name="Favourite: Dave").click()
    expect(alice.page.get_by_role("heading", name="Favourites")).to_be_hidden()


def unreadable(route):
    """A script in a language that is too new for this browser."""
    route.fulfill(content_type="text/javascript", body="let let = 1")


def test_a_browser_that_cannot_make_calls_is_told_what_to_do(bob, expected_troubles):
    bob.page.add_init_script("delete window.RTCPeerConnection")
    bob.page.reload()
    expect(bob.page.get_by_role("alertdialog")).to_contain_text("This browser cannot make calls")
    expected_troubles.append("page error")
    bob.page.route("**/state.*.js", unreadable)
    bob.page.reload()
    expect(bob.page.get_by_role("heading", level=1)).to_have_text("This browser is too old for calls")


def test_the_first_time_on_a_device_one_finds_out_whether_a_call_would_be_heard(alice):
    first = alice.page.get_by_role("region", name="Would you hear a call on this device?")
    first.get_by_role("button", name="Play the ring").click()
    expect(first).to_contain_text("Did you hear the ring?")
    expect(first.get_by_role("button", name="I heard it")).to_be_focused()
    first.get_by_role("button", name="I heard nothing").click()
    expect(first).to_contain_text("Turn the volume up")
    first.get_by_role("button", name="Choose the speaker").click()
    expect(alice.page.get_by_role("dialog", name="Sound and picture")).to_be_visible()
    alice.page.keyboard.press("Escape")
    first.get_by_role("button", name="Play the ring").click()
    first.get_by_role("button", name="I heard it").click()
    expect(first).to_be_hidden()
    alice.page.reload()
    alice.is_online()
    expect(first).to_be_hidden()
