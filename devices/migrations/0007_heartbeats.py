"""Room on each page of devices for the next version of its rows, which are written with every heartbeat: without it,
PostgreSQL would write all indexes too. Pages that are full already get theirs as their rows move."""

from django.db import migrations


def set_fill(percent):
    def run(apps, schema_editor):
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(f"ALTER TABLE devices_device SET (fillfactor = {percent})")

    return run


class Migration(migrations.Migration):
    dependencies = [("devices", "0006_search")]

    operations = [migrations.RunPython(set_fill(70), set_fill(100))]
