"""What people type into a search box: a few words, and a bounded time in the database for them."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

MAX_LENGTH = 150  # characters that are read
MAX_WORDS = 5  # that are searched for: each is looked for in every row that the others leave
TIME_S = 2.0  # for each statement of a search


class TookTooLong(Exception):
    """A search was ended by its time."""


def words(text: str) -> list[str]:
    """The words to search for: no word twice, and none that is a part of another, since what has that one has both.

    Of more than MAX_WORDS the longest count, which fewer names have.
    """
    kept: list[str] = []
    for word in sorted(text[:MAX_LENGTH].replace("\0", "").split(), key=len, reverse=True):
        if not any(word.lower() in each.lower() for each in kept):
            kept.append(word)
    return kept[:MAX_WORDS]


@contextmanager
def bounded() -> Iterator[None]:
    """Statements in this block have TIME_S seconds each, on PostgreSQL; one that takes longer raises TookTooLong."""
    if connection.vendor != "postgresql":
        yield
        return
    try:
        with transaction.atomic():  # to whose end the bound holds; nothing is written in it
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {int(1000 * TIME_S)}")
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise TookTooLong from error
        raise
