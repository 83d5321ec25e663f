"""Attacks on sign-ins by somebody who has read what is stored."""

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

pytestmark = pytest.mark.django_db(transaction=True)


def stored_texts() -> set[str]:
    """Each text that a backup has of sessions and devices."""
    texts = set()
    with connection.cursor() as cursor:
        for table in ("django_session", "devices_device"):
            cursor.execute(f"SELECT * FROM {table}")
            texts |= {str(value) for row in cursor.fetchall() for value in row if value is not None}
    return texts


async def test_nothing_that_a_backup_holds_opens_a_session(page, people):
    from asgiref.sync import sync_to_async

    phone = await page("bob", "Phone")
    key = phone.signed_in.partition("=")[2]

    def opens(cookie: str) -> bool:
        client = Client()
        client.cookies[settings.SESSION_COOKIE_NAME] = cookie
        return client.get("/devices/").status_code == 200

    def tried() -> tuple[bool, list[str], set[str]]:
        texts = stored_texts()
        return opens(key), [text for text in texts if opens(text)], texts

    works, opened, texts = await sync_to_async(tried)()
    assert works and not opened
    assert len(texts) > 10 and not any(key in text for text in texts)
