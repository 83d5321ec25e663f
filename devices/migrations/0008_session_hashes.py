"""Replaces the keys of sessions by their hashes, as devices/sessions.py computes them: in Django's table of sessions,
and in the devices, whose column keeps its name in the database.

The database does it in one statement for each table, so no row comes here. A key that has the length of a hash is left
alone: a second run changes nothing. Django's own sessions are left alone, too, as long as the site keeps them there: it
would look for their keys. There is no way back from a hash to a key, so going back deletes the sessions.
"""

from importlib import import_module

from django.apps import apps as installed
from django.conf import settings
from django.db import migrations, models
from django.db.models import Func
from django.db.models.functions import SHA256, Length, Substr

LENGTH = 40


class PlainSHA256(Func):
    """Django's function needs the extension pgcrypto on PostgreSQL; this one does not."""

    template = "encode(sha256(convert_to(%(expressions)s, 'UTF8')), 'hex')"
    output_field = models.CharField()


def sessions_of(apps):
    """The sessions, if they are kept by the engine of this app, under the name of the field that is their key."""
    if not installed.is_installed("django.contrib.sessions"):
        return None
    from devices.sessions import SessionStore

    store = getattr(import_module(settings.SESSION_ENGINE), "SessionStore", object)
    return apps.get_model("sessions", "Session").objects if issubclass(store, SessionStore) else None


def hash_keys(apps, schema_editor):
    db = schema_editor.connection
    sha256 = PlainSHA256 if db.vendor == "postgresql" else SHA256
    devices = apps.get_model("devices", "Device").objects
    for rows, name in ((devices, "session"), (sessions_of(apps), "session_key")):
        if rows is not None:
            todo = rows.using(db.alias).annotate(length=Length(name)).exclude(length__in=[0, LENGTH])
            todo.update(**{name: Substr(sha256(name), 1, LENGTH)})


def forget(apps, schema_editor):
    alias = schema_editor.connection.alias
    apps.get_model("devices", "Device").objects.using(alias).update(session="")
    sessions = sessions_of(apps)
    if sessions is not None:
        sessions.using(alias).all().delete()


class Migration(migrations.Migration):
    dependencies = [("devices", "0007_heartbeats")]
    if installed.is_installed("django.contrib.sessions"):
        dependencies.append(("sessions", "0001_initial"))

    operations = [
        migrations.SeparateDatabaseAndState(  # what the previous version needs is left as it is: the column, its index
            state_operations=[
                migrations.RemoveIndex(model_name="device", name="device_session"),
                migrations.AlterField(
                    model_name="device",
                    name="session_key",
                    field=models.CharField(blank=True, db_column="session_key", editable=False, max_length=40),
                ),
                migrations.RenameField(model_name="device", old_name="session_key", new_name="session"),
                migrations.AddIndex(
                    model_name="device",
                    index=models.Index(
                        condition=models.Q(("signed_out_at", None)), fields=["session"], name="device_session"
                    ),
                ),
            ]
        ),
        migrations.RunPython(hash_keys, forget),
    ]
