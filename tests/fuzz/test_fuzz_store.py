"""Whatever the rules give is stored and loaded as the same value, by the hand-written statements and by the ORM."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from hypothesis import given

from calls import hot, models
from calls.machine import Refused, decide
from calls.models import Call, Change
from tests.fuzz.made import CALL, NAMES, T0, histories, tries
from tests.test_hot import rows, store

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="the statements are PostgreSQL's"),
]


@pytest.fixture
def accounts() -> None:
    """Users with the keys that the histories name."""
    users: Any = get_user_model()
    users._default_manager.bulk_create([users(pk=int(key), username=name) for key, name in NAMES.items()])


def changes_of(history: Any) -> list[Change]:
    invite, rest = history
    changes: list[Change] = []
    call = None
    for second, command in [(0.0, invite), *rest]:
        try:
            after = decide(call, command, T0 + dt.timedelta(seconds=second))
        except Refused:
            continue
        if after is not call:
            changes.append(Change(call, after, command))
            call = after
    return changes


@given(history=histories)
@tries(250)
def test_any_call_is_stored_and_loaded_as_it_is(accounts, history):
    Call.objects.all().delete()  # of a case that has failed
    changes = changes_of(history)
    if not changes:
        return
    written = []
    for vendor in ("postgresql", "the ORM"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "vendor", vendor)
            for first in range(0, len(changes), 3):  # some versions are written together, some by themselves
                with transaction.atomic():
                    store(changes[first : first + 3])
                (loaded,) = models.load_all(Call.objects.all())
                with transaction.atomic():
                    (locked,) = hot.lock([CALL])
                assert loaded == locked == changes[: first + 3][-1].after
        written.append(rows(CALL))
        Call.objects.all().delete()
    assert written[0] == written[1]
    entries = written[0][2]
    assert [entry["v"] for entry in entries] == [change.after.v for change in changes]
