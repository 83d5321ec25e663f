"""A served site, a Chromium with a fake camera and microphone, and people in front of it.

No test passes in which a page reported an error, unless it said that it expects one.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.browser.person import PATIENCE_S, SMALL_PICTURE, WATCH, Person
from tests.browser.served import Site

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Three renderers more for each person, for the address bar of a window that nobody sees.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup",
    "--no-first-run",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream=fps=15,device-count=3",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
]

expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), os.environ["DATABASE_URL"], os.environ["REDIS_URL"])
    try:
        site.make()
        site.start()
        yield site
    finally:
        site.stop()
        site.drop()
    assert "Traceback" not in (said := site.log.read_text()), said


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM") or "/usr/bin/chromium", args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def expected_troubles() -> list[str]:
    """Parts of messages that this test provokes; each test adds its own."""
    return []


@pytest.fixture
def sign_in(site: Site, chromium: Browser, expected_troubles: list[str]) -> Iterator[Callable[..., Person]]:
    """`bob = sign_in("bob")`: a browser of his own with bob signed in. Again for one more device."""
    present: list[Person] = []

    def arrive(name: str, device: str = "", script: str = "", **context: Any) -> Person:
        # What moves all the time is drawn all the time, by a processor.
        fresh = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | context
        )
        measured = "ANSWERS" in os.environ  # with pictures as people have them
        fresh.add_init_script(WATCH + ("" if measured else SMALL_PICTURE) + script)
        person = Person(fresh, site.url, name)
        present.append(person)

        def opened(page: Page) -> None:
            present.append(Person(fresh, site.url, name, page))

        fresh.on("page", opened)
        return person.signs_in(device)

    yield arrive
    troubles = [said for person in present for said in person.troubles]
    for person in present:  # so that no call and no device is left for the next test
        if not person.page.is_closed() and person.page.url.startswith(site.url):
            person.signs_out()
    for person in present:
        person.context.close()
    assert not [said for said in troubles if not any(part in said for part in expected_troubles)]


@pytest.fixture
def alice(sign_in: Callable[..., Person]) -> Person:
    return sign_in("alice")


@pytest.fixture
def bob(sign_in: Callable[..., Person]) -> Person:
    return sign_in("bob")


@pytest.fixture
def carol(sign_in: Callable[..., Person]) -> Person:
    return sign_in("carol")


@pytest.fixture
def line(site: Site) -> Iterator[Callable[..., str]]:
    """Changes a line as the operator does; after the test it is as the demo made it."""
    changed: set[str] = set()

    def change(user: str, *changes: str) -> str:
        changed.add(user)
        return site.line(user, *changes)

    yield change
    for user in changed:
        site.as_made(user)
