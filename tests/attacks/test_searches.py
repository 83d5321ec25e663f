"""Searches that mean to cost much: many words, and words that are in every row."""

import time
from contextlib import contextmanager

import pytest
from django.db import connection, connections
from django.test import Client

from calls import search

pytestmark = pytest.mark.django_db(transaction=True)

SEARCHES = {
    "the same word 75 times": " ".join(["a"] * 75),
    "75 different words": " ".join(f"a{n}" for n in range(75)),
    "words within words": " ".join("a" * n for n in range(1, 16)),
}
PATHS = ["/people/", "/history/", *(f"/admin/{each}/" for each in (
    "devices/line", "devices/device", "devices/linegroup", "calls/call", "auth/user", "auth/group", "auditlog/logentry",
))]  # fmt: skip


def test_few_words_are_searched_for_the_longest_first():
    assert search.words(SEARCHES["the same word 75 times"]) == ["a"]
    assert search.words(SEARCHES["words within words"]) == ["a" * 15]
    assert search.words("Ann anna ANNA bob\0by") == ["bobby", "anna"]
    assert len(search.words(SEARCHES["75 different words"])) == search.MAX_WORDS
    assert search.words("x" * 1000 + " y") == ["x" * 150]
    assert search.words(" \0 ") == []


@pytest.fixture
def operator(people):
    client = Client()
    client.force_login(people["operator"])
    return client


@pytest.mark.alone
def test_no_search_takes_long(operator, many):
    took = {}
    for path in PATHS:
        for kind, words in SEARCHES.items():
            began = time.monotonic()
            assert operator.get(path, {"q": words}).status_code == 200, path
            took[path, kind] = round(time.monotonic() - began, 3)
    assert max(took.values()) < 1, took


def shown():
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        return cursor.fetchone()[0]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite ends no statement by its time")
def test_the_bound_on_time_ends_with_the_search():
    before = shown()
    with search.bounded():
        assert shown() == "2s"
    assert shown() == before != "2s"


@contextmanager
def locked(table):
    """Nobody can read the table: whoever wants to waits, as for a statement that takes long."""
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        other.close()


@pytest.mark.alone
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite ends no statement by its time")
@pytest.mark.parametrize(("path", "table"), [("/people/", "devices_device"), ("/history/", "calls_leg")])
def test_a_search_that_takes_too_long_is_ended_in_words(operator, path, table):
    with locked(table):
        began = time.monotonic()
        response = operator.get(path, {"q": "bob"})
        took = time.monotonic() - began
    assert response.status_code == 503
    assert response.json() == {"error": "This search takes too long. Type more of the name."}
    assert search.TIME_S <= took < search.TIME_S + 2


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite ends no statement by its time")
def test_a_search_in_the_panel_that_takes_too_long_leads_back_to_the_list_in_words(operator):
    with locked("devices_device"):
        response = operator.get("/admin/devices/device/", {"q": "bob"})
    assert (response.status_code, response.url) == (302, "/admin/devices/device/")
    assert "The search took too long" in operator.get(response.url).content.decode()


def test_each_page_of_a_history_looks_through_a_bounded_number_of_calls(operator, many):
    """What is found far back is found by going on, page by page."""
    pages, before, found = 0, "", []
    while before is not None:
        said = operator.get("/history/", {"q": "aaaa7777", "before": before}).json()
        pages, before, found = pages + 1, said["next"], found + said["calls"]
    assert [each["people"][0]["id"] for each in found] == ["aaaa7777"]
    assert pages == 11


def test_people_come_page_by_page_by_name_and_each_once(operator, many):
    seen, after = [], ""
    for _ in range(5):
        page = operator.get("/people/", {"after": after}).json()
        assert page["more"] is (page["next"] is not None)
        seen += [each["id"] for each in page["people"]]
        after = page["next"]
    assert len(set(seen)) == len(seen) == 499, "all but oneself, who is among the first by name"
    assert operator.get("/people/", {"after": "nonsense"}).status_code == 400


def test_a_page_of_the_people_is_read_from_an_index(operator, many):
    page = operator.get("/people/").json()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM auth_user")
        before = _rows_read(cursor)
        operator.get("/people/", {"after": page["next"]})
        assert _rows_read(cursor) - before < 1000


def _rows_read(cursor):
    """Of auth_user, so far, as far as PostgreSQL has counted them."""
    cursor.execute("SELECT pg_stat_force_next_flush()")
    cursor.execute("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'auth_user'")
    return cursor.fetchone()[0]
