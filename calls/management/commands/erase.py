"""`manage.py erase USER`: takes one person out of everything that is stored. It cannot be undone."""

from typing import Any

from auditlog.context import disable_auditlog
from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q

from calls import switchboard
from calls.models import LIVE, Entry, Leg, Refusal
from devices.models import Device

ERASED = "erased"


class Command(BaseCommand):
    """The account stays as an empty shell, because calls of others have it in them: who called whom, and when, is
    theirs too. Names, devices, addresses, data and changes of the account go."""

    help = "Erases the personal data of one user."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *_args: Any, **options: Any) -> None:
        User = get_user_model()
        user = User._default_manager.filter(**{User.USERNAME_FIELD: options["user"]}).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}.")
        if not options["yes"] and input(f"Erase everything personal of {user}, for good? Type the name: ") != str(user):
            raise CommandError("Nothing was erased.")
        name, shell = user.get_username(), f"{ERASED}-{user.pk}"
        with disable_auditlog():
            user.is_active = False
            user.save(update_fields=["is_active"])
            for device in Device.objects.filter(user=user, signed_out_at=None):
                switchboard.sign_out(device, "deactivated")
            if Leg.objects.filter(LIVE, user=user).exists():
                raise CommandError(
                    f"{name} is still called or in a call; the account is closed. End that call, and run this again."
                )
            calls = self._erase_calls(user, shell)
            Device.objects.filter(user=user).delete()
            Refusal.objects.filter(user=user).delete()
            AccessAttempt.objects.filter(username=name).delete()
            about = Q(content_type=ContentType.objects.get_for_model(User), object_pk=str(user.pk))
            LogEntry.objects.filter(about).delete()
            LogEntry.objects.filter(object_repr__endswith=f" {name}").update(object_repr=f"Line of {shell}")
            LogEntry.objects.filter(actor=user).update(remote_addr=None, actor_email=None)
            user.groups.clear()
            user.user_permissions.clear()
            setattr(user, User.USERNAME_FIELD, shell)
            user.first_name = user.last_name = user.email = ""
            user.is_staff = user.is_superuser = False
            user.set_unusable_password()
            user.save()
        self.stdout.write(f"{name} is erased, from {calls} calls too, and is {shell} now.")

    def _erase_calls(self, user: Any, shell: str) -> int:
        """Names and devices in legs and in the entries' commands. The commands stay what they were otherwise."""
        calls = list(Leg.objects.filter(user=user).values_list("call", flat=True))
        Leg.objects.filter(user=user).update(username=shell, name="Erased", device_name="", data=None)
        for start in range(0, len(calls), 500):
            entries = list(Entry.objects.filter(call__in=calls[start : start + 500]))
            for entry in entries:
                entry.command = _without(entry.command, str(user.pk), shell)
            Entry.objects.bulk_update(entries, ["command"], batch_size=500)
        return len(calls)


def _without(command: dict[str, Any], key: str, shell: str) -> dict[str, Any]:
    by = command.get("by")
    if isinstance(by, dict) and by["key"] == key:
        command = command | {"by": by | {"name": ERASED}}
        if "user" in command:
            command |= {"user": shell, "name": "Erased"}
        if command.get("data") is not None:
            command |= {"data": None}
    if "callees" in command:
        callees = [
            each | {"user": shell, "name": "Erased"} if each["key"] == key else each for each in command["callees"]
        ]
        command = command | {"callees": callees}
    return command
