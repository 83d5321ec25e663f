"""An index by which the list of people is read in the order of their names, a page at a time."""

from django.conf import settings
from django.db import migrations

COLUMNS = ("first_name", "last_name", "username")


def add(apps, schema_editor):
    person = apps.get_model(*settings.AUTH_USER_MODEL.split("."))
    has = {field.name: field.column for field in person._meta.concrete_fields}
    if set(COLUMNS) <= has.keys():
        quote = schema_editor.connection.ops.quote_name
        columns = ", ".join(quote(has[column]) for column in COLUMNS)
        schema_editor.execute(f"CREATE INDEX person_name ON {quote(person._meta.db_table)} ({columns})")


def remove(apps, schema_editor):
    schema_editor.execute("DROP INDEX IF EXISTS person_name")


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0008_session_hashes"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [migrations.RunPython(add, remove)]
