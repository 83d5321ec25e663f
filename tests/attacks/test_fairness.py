"""One person must not take the site from the others: dear pages, sign-ins and frames, each alone and all together,
against a real server process. A bystander's calls are served meanwhile."""

import asyncio
import contextlib
from urllib.parse import quote_plus

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from tests.attacks.bystander import TOKEN, request, sign_in, watching
from tests.attacks.test_searches import SEARCHES
from tests.servers import on_daphne

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.alone, on_daphne]


FRAMES = {
    "pings": bytes([0x89, 0x80, 0, 0, 0, 0]),
    "pongs": bytes([0x8A, 0x80, 0, 0, 0, 0]),
    "pieces of nothing": bytes([0x00, 0x80, 0, 0, 0, 0]),
}


CLOSED = (4429).to_bytes(2, "big")


async def search(server, cookie, answers):
    """Again and again, as soon as the last one is answered."""
    while True:
        for path in ("/history/", "/people/"):
            for words in SEARCHES.values():
                status, _ = await request(server, f"GET {path}?q={quote_plus(words)}", f"Cookie: {cookie}")
                answers.append(status)


async def flood(server, cookie, frame, many, closes):
    """Sends nothing but these frames, and comes back each time that it is closed."""
    address = server.url.removeprefix("ws://")
    while True:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        handshake = [
            "GET /ws/ HTTP/1.1", f"Host: {address}", f"Origin: http://{address}", "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            f"Cookie: {cookie}", "", "",
        ]  # fmt: skip
        writer.write("\r\n".join(handshake).encode())
        said = b""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write((bytes([0x01, 0x80, 0, 0, 0, 0]) if frame[0] == 0 else b"") + frame * many)
            while CLOSED not in said and (data := await reader.read(65536)):
                said += data
        closes.append(CLOSED in said)
        writer.close()


@contextlib.asynccontextmanager
async def attacking(*attacks):
    tasks = [asyncio.create_task(attack) for attack in attacks]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def server(launch):
    """With the hasher and the bounds of every day."""
    return launch(METRICS_TOKEN=TOKEN, SIGN_IN_TRIES="4")


async def test_a_searcher_who_asks_fourteen_things_at_once_keeps_nobody_waiting(many, live, server, cookie):
    mallory, answers = await sync_to_async(cookie)("operator"), []
    async with watching(live, server) as noticed, attacking(*(search(server, mallory, answers) for _ in range(14))):
        await asyncio.sleep(5)
    noticed.assert_served()
    assert answers
    assert set(answers) <= {200, 503}


def floods(server, cookie, closes):
    """21 sockets: some go on when they are closed, some send just too much, and can read why they were closed."""
    return [
        flood(server, cookie, frame, many, closes) for frame in FRAMES.values() for many in (5000, 120) * 3 + (500,)
    ]


async def test_twenty_sockets_that_flood_keep_nobody_waiting(live, server, cookie):
    mallory, closes = await sync_to_async(cookie)("carol"), []
    async with watching(live, server) as noticed, attacking(*floods(server, mallory, closes)):
        await asyncio.sleep(5)
    noticed.assert_served()
    assert any(closes), "who reads is told why"


async def test_forty_sign_ins_at_once_keep_nobody_waiting(live, server, people):
    async with watching(live, server) as noticed:
        answers = await asyncio.gather(*(sign_in(server, f"nobody{n}") for n in range(40)))
        await asyncio.sleep(1)
    noticed.assert_served()
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 503}, "some were tried in turn, the others are told to try again"
    assert all("\r\nretry-after:" in text.lower() for status, text in answers if status == 503)
    assert all("Too many people are signing in." in text for status, text in answers if status == 503)


async def test_a_german_is_told_in_german_and_wrong_passwords_that_come_at_once_all_count(live, server, people):
    """One password is hashed at a time, and the name is locked after the fourth wrong one, as ever."""
    people["bob"].password = PBKDF2PasswordHasher().encode("secret", "salt")  # the tests' own hasher is a quick one
    await people["bob"].asave()
    refused, counted = [], 0
    while counted < 4:
        answers = await asyncio.gather(*(sign_in(server, "alice", language="de") for _ in range(8)))
        refused += [text for status, text in answers if status == 503]
        assert {status for status, _ in answers} <= {200, 429, 503}
        counted += sum(status in (200, 429) for status, _ in answers)
    assert refused
    assert all("Zu viele Personen melden sich gerade an." in text for text in refused)
    assert (await sign_in(server, "alice", "secret"))[0] == 429
    assert (await sign_in(server, "bob", "secret"))[0] == 302


async def test_all_of_it_at_once_keeps_nobody_waiting(many, live, server, cookie):
    searcher, flooder = [await sync_to_async(cookie)(name) for name in ("operator", "carol")]

    async def guess(number):
        while True:
            status, _ = await sign_in(server, f"nobody{number}")
            await asyncio.sleep(0.5 if status == 503 else 0)

    searches = [search(server, searcher, []) for _ in range(14)]
    guesses = [guess(number) for number in range(40)]
    async with (
        watching(live, server) as noticed,
        attacking(*searches, *floods(server, flooder, []), *guesses),
    ):
        await asyncio.sleep(12)
    noticed.assert_served()
