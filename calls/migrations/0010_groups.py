"""Columns for calls of several people. Legs that are live while the site is upgraded get the values that they would have
had; those of calls that have ended stay empty, because nothing reads them there and a site may have millions."""

from django.conf import settings
from django.db import migrations, models
from django.db.models import Case, OuterRef, Subquery, When
from django.db.models.functions import Cast


def fill_live_legs(apps, schema_editor):
    alias = schema_editor.connection.alias
    calls = apps.get_model("calls", "Call").objects.using(alias)
    legs = apps.get_model("calls", "Leg").objects.using(alias).filter(call__in=calls.exclude(state="ended"))
    call = calls.filter(pk=OuterRef("call"))
    legs.filter(dir="in").update(
        invited_by=Subquery(call.annotate(key=Cast("host", models.CharField())).values("key")[:1])
    )
    joined = Case(
        When(dir="out", then=Subquery(call.values("placed_at")[:1])), default=Subquery(call.values("answered_at")[:1])
    )
    legs.filter(state="joined").update(joined_at=joined)


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0009_hearing"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="call",
            name="end_with_host",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name="call",
            name="engine",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name="call",
            name="group",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name="call",
            name="lonely_since",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="call",
            name="max_legs",
            field=models.PositiveSmallIntegerField(db_default=9, default=9),
        ),
        migrations.AddField(
            model_name="call",
            name="media",
            field=models.CharField(db_default="p2p", default="p2p", max_length=4),
        ),
        migrations.AddField(
            model_name="call",
            name="media_epoch",
            field=models.PositiveIntegerField(db_default=1, default=1),
        ),
        migrations.AddField(
            model_name="leg",
            name="invited_by",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.AddField(
            model_name="leg",
            name="joined_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="leg",
            name="removed_v",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="leg",
            name="rung_again",
            field=models.JSONField(db_default=models.Value([], models.JSONField()), default=list),
        ),
        migrations.AddField(
            model_name="leg",
            name="transferred_by",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.AddIndex(
            model_name="call",
            index=models.Index(
                models.OrderBy(models.F("placed_at"), descending=True),
                condition=models.Q(("group", True)),
                name="call_group",
            ),
        ),
        migrations.AddIndex(
            model_name="call",
            index=models.Index(
                condition=models.Q(("group", True), models.Q(("state", "ended"), _negated=True)),
                fields=["id"],
                name="call_group_live",
            ),
        ),
        migrations.RunPython(fill_live_legs, migrations.RunPython.noop),
    ]
