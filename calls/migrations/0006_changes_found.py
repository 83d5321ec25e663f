"""An index by which PostgreSQL finds changes by a part of the name of what was changed, where pg_trgm was added."""

from django.db import migrations


def add(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'")
        if cursor.fetchone():
            cursor.execute(
                "CREATE INDEX change_search ON auditlog_logentry USING gin (UPPER(object_repr::text) gin_trgm_ops)"
            )


def remove(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX IF EXISTS change_search")


class Migration(migrations.Migration):
    dependencies = [
        ("auditlog", "0001_initial"),
        ("calls", "0005_found_by_reason"),
        ("devices", "0006_search"),
    ]

    operations = [migrations.RunPython(add, remove)]
