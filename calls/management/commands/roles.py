"""`manage.py roles`: the roles out of the box, and a line for everybody. It can be run again at any time."""

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.management.base import BaseCommand

from devices.models import Line

VIEWER = {
    "devices": ("view_line", "view_linegroup", "view_device"),
    "calls": ("view_call",),
}
OPERATOR = {
    "devices": (*VIEWER["devices"], "change_line", "change_device"),
    "calls": (*VIEWER["calls"], "change_call", "view_token", "change_token"),
    "auditlog": ("view_logentry",),
}
ADMINISTRATOR = {
    "devices": (*OPERATOR["devices"], "add_line", "add_linegroup", "change_linegroup", "delete_linegroup"),
    "calls": (
        *OPERATOR["calls"],
        "view_apikey",
        "add_apikey",
        "change_apikey",
        "view_webhook",
        "add_webhook",
        "change_webhook",
        "delete_webhook",
        "view_delivery",
        "change_delivery",
    ),
    "auditlog": OPERATOR["auditlog"],
    "auth": ("view_user", "add_user", "change_user", "view_group"),
}
ROLES = {"viewer": VIEWER, "operator": OPERATOR, "administrator": ADMINISTRATOR}


class Command(BaseCommand):
    """Makes the groups that are missing. One that is there keeps what it has, and gets what it lacks."""

    help = "Makes the roles viewer, operator and administrator, and a line for every user."

    def handle(self, *_args: Any, **_options: Any) -> None:
        for name, permissions in ROLES.items():
            role, _ = Group.objects.get_or_create(name=name)
            for app, codenames in permissions.items():
                wanted = Permission.objects.filter(content_type__app_label=app, codename__in=codenames)
                role.permissions.add(*wanted)
        Line.make(get_user_model()._default_manager.filter(line=None).values_list("pk", flat=True))
        self.stdout.write(f"Roles: {', '.join(ROLES)}.")
