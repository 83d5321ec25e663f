"""One person must not take the site from the others: dear pages, sign-ins and frames, each alone and all together,
against a real server process. A bystander's calls are served meanwhile."""

import asyncio

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from tests.attacks.bystander import TOKEN, sign_in, watching
from tests.servers import on_daphne

pytestmark = [pytest.mark.django_db(transaction=True), on_daphne]


@pytest.fixture
def server(launch):
    """With the hasher and the bounds of every day."""
    return launch(METRICS_TOKEN=TOKEN, SIGN_IN_TRIES="4")


async def test_forty_sign_ins_at_once_keep_nobody_waiting(live, server, people):
    async with watching(live, server) as noticed:
        answers = await asyncio.gather(*(sign_in(server, f"nobody{n}") for n in range(40)))
        await asyncio.sleep(1)
    noticed.assert_served()
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 503}, "some were tried in turn, the others are told to try again"
    assert statuses.count(200) >= 4
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
