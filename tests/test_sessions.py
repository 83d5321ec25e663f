"""The session engine that stores the hash of a key: it does what Django's does, and the upgrade signs nobody out."""

import datetime as dt
from importlib import import_module

import pytest
from django.conf import settings as site
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.db import SessionStore as Plain
from django.contrib.sessions.models import Session
from django.core import checks
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client
from django.utils import timezone

from devices.models import Device
from devices.sessions import SessionStore, stored_key

pytestmark = pytest.mark.django_db
BEFORE, AFTER = [("devices", "0007_heartbeats")], [("devices", "0008_session_hashes")]


def test_what_is_saved_is_found_by_its_key_and_by_no_other():
    session = SessionStore()
    session["colour"] = "blue"
    session.save()
    key = session.session_key
    assert SessionStore(key)["colour"] == "blue"
    assert session.exists(key) and not session.exists(stored_key(key))
    assert [row.pk for row in Session.objects.all()] == [session.stored_key] != [key]
    assert SessionStore(session.stored_key).load() == {}
    changed = SessionStore(key)
    changed["colour"] = "red"
    changed.save()
    assert SessionStore(key)["colour"] == "red" and Session.objects.count() == 1


def test_a_key_can_be_changed_and_a_session_deleted():
    session = SessionStore()
    session["colour"] = "blue"
    session.save()
    old = session.session_key
    session.cycle_key()
    assert SessionStore(session.session_key)["colour"] == "blue" and SessionStore(old).load() == {}
    session.flush()
    assert not Session.objects.exists()


def test_a_session_that_was_deleted_meanwhile_is_not_saved_again():
    session = SessionStore()
    session.save()
    SessionStore(session.session_key).delete()
    session["colour"] = "blue"
    with pytest.raises(UpdateError):
        session.save()


def test_an_expired_session_is_empty_and_is_cleared():
    session = SessionStore()
    session.save()
    Session.objects.update(expire_date=timezone.now() - dt.timedelta(seconds=1))
    assert SessionStore(session.session_key).load() == {}
    call_command("clearsessions")
    assert not Session.objects.exists()


@pytest.mark.django_db(transaction=True)
async def test_the_same_without_blocking():
    session = SessionStore()
    await session.aset("colour", "blue")
    await session.asave()
    key = session.session_key
    assert await SessionStore(key).aload() == {"colour": "blue"}
    assert await SessionStore(session.stored_key).aload() == {}
    assert await session.aexists(key)
    await SessionStore(key).adelete()
    assert await SessionStore(key).aload() == {}


def test_another_engine_is_refused_before_anything_is_served(settings):
    found = [check for check in checks.registry.registry.get_checks() if check.__module__ == "devices.checks"]
    assert [message for check in found for message in check(app_configs=None)] == []
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
    (message,) = [message for check in found for message in check(app_configs=None)]
    assert message.id == "devices.E001" and '"devices.sessions"' in message.hint


@pytest.fixture
def migrate(transactional_db):
    def to(targets):
        executor = MigrationExecutor(connection)
        executor.migrate(targets)
        return executor.loader.project_state(targets).apps

    yield to
    to(MigrationExecutor(connection).loader.graph.leaf_nodes())


def test_the_upgrade_hashes_what_is_stored_and_signs_nobody_out(migrate):
    users = [get_user_model().objects.create_user(name, password="secret") for name in ("alice", "bob")]
    before, now = migrate(BEFORE), timezone.now()
    keys = {}
    for user in users:
        client = Client()
        client.force_login(user)
        session = Plain()  # as the previous version stored it
        session.update(client.session.items())
        session.save()
        keys[user.pk] = session.session_key
        before.get_model("devices", "Device").objects.create(
            user_id=user.pk, name="Phone", session_key=session.session_key, logged_in_at=now, last_seen_at=now,
            online_until=now,
        )  # fmt: skip
        client.session.flush()
    assert set(Session.objects.values_list("pk", flat=True)) == set(keys.values())
    migrate(AFTER)
    assert set(Session.objects.values_list("pk", flat=True)) == {stored_key(key) for key in keys.values()}
    for user in users:
        client = Client()
        client.cookies[site.SESSION_COOKIE_NAME] = keys[user.pk]
        assert client.get("/devices/").json()["devices"][0]["name"] == "Phone"
        assert Device.objects.get(user=user).session == stored_key(keys[user.pk])
        client.cookies[site.SESSION_COOKIE_NAME] = stored_key(keys[user.pk])
        assert client.get("/devices/").status_code == 401
    run_again = import_module("devices.migrations.0008_session_hashes").hash_keys
    with connection.schema_editor() as editor:
        run_again(MigrationExecutor(connection).loader.project_state(AFTER).apps, editor)
    assert set(Session.objects.values_list("pk", flat=True)) == {stored_key(key) for key in keys.values()}


def test_to_go_back_ends_the_sessions_as_their_hashes_would_be_keys_there(migrate):
    user = get_user_model().objects.create_user("alice", password="secret")
    Client().force_login(user)
    assert Session.objects.exists()
    migrate(BEFORE)
    assert not Session.objects.exists()


def test_the_sessions_of_a_site_with_another_engine_are_left_alone(migrate, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    migrate(BEFORE)
    session = Plain()
    session.save()
    migrate(AFTER)
    assert Session.objects.filter(pk=session.session_key).exists()
