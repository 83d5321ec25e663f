"""Indexes by which PostgreSQL finds people and devices by a part of their name, as the operator's lists ask for it.

They need the extension pg_trgm, which comes with PostgreSQL and which the owner of a database may add. Where it is not
to be had, searches read the whole table, as they do on SQLite.
"""

import logging

from django.conf import settings
from django.db import DatabaseError, migrations, models, transaction

log = logging.getLogger(__name__)

INDEXES = {
    "person_search": ("username", "first_name", "last_name", "email"),
    "device_search": ("name",),
}


def add(apps, schema_editor):
    db = schema_editor.connection
    if db.vendor != "postgresql":
        return
    try:
        with transaction.atomic(using=db.alias):
            schema_editor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    except DatabaseError as error:
        log.warning("without the indexes for searches: %s", str(error).splitlines()[0])
    else:
        app, model = settings.AUTH_USER_MODEL.split(".")
        tables = {"person_search": apps.get_model(app, model), "device_search": apps.get_model("devices", "Device")}
        for name, columns in INDEXES.items():
            has = {field.name: field.column for field in tables[name]._meta.concrete_fields}
            parts = [
                f"UPPER({db.ops.quote_name(has[column])}::text) gin_trgm_ops" for column in columns if column in has
            ]
            table = db.ops.quote_name(tables[name]._meta.db_table)
            schema_editor.execute(f"CREATE INDEX {name} ON {table} USING gin ({', '.join(parts)})")
    schema_editor.execute("CREATE INDEX device_address ON devices_device (HOST(address) text_pattern_ops)")


def remove(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for name in (*INDEXES, "device_address"):
            schema_editor.execute(f"DROP INDEX IF EXISTS {name}")


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0005_operator"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="device",
            index=models.Index(
                condition=models.Q(("signed_out_at__isnull", False)), fields=["-logged_in_at"], name="device_signed_out"
            ),
        ),
        migrations.RunPython(add, remove),
    ]
