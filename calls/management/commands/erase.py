"""`manage.py erase USER`: takes one person out of everything that is stored. It cannot be undone."""

from collections.abc import Iterable
from typing import Any

from auditlog.context import disable_auditlog
from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.contrib.admin.models import LogEntry as PanelEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Model, Q

from calls import switchboard, tokens
from calls.models import LIVE, Entry, Event, Leg, Refusal
from devices.models import Device, Line

ERASED = "erased"
BATCH = 500  # calls changed in one statement, so that no lock is held for long


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
            tokens.revoke_all(user)
            for device in Device.objects.filter(user=user, signed_out_at=None):
                switchboard.sign_out(device, "deactivated")
            if Leg.objects.filter(LIVE, user=user).exists():
                raise CommandError(
                    f"{name} is still called or in a call; the account is closed. End that call, and run this again."
                )
            calls = self._erase_calls(user, shell)
            devices = list(map(str, Device.objects.filter(user=user).values_list("pk", flat=True)))
            Device.objects.filter(user=user).delete()
            Refusal.objects.filter(user=user).delete()
            Event.objects.filter(data__user=name).update(data={"user": shell})
            AccessAttempt.objects.filter(username=name).delete()
            LogEntry.objects.filter(_about(User, [user.pk]) | _about(Device, devices)).delete()
            LogEntry.objects.filter(_about(Line, [user.pk])).update(object_repr=f"Line of {shell}")
            LogEntry.objects.filter(actor=user).update(remote_addr=None, actor_email=None)
            PanelEntry.objects.filter(_about(User, [user.pk], key="object_id")).update(object_repr=shell)
            PanelEntry.objects.filter(_about(Line, [user.pk], key="object_id")).update(object_repr=f"Line of {shell}")
            PanelEntry.objects.filter(_about(Device, devices, key="object_id")).update(object_repr=ERASED)
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
        names = dict(Leg.objects.filter(user=user).values_list("call", "username"))
        calls = list(names)
        for start in range(0, len(calls), BATCH):
            some = calls[start : start + BATCH]
            legs = Leg.objects.filter(user=user, call__in=some)
            legs.update(username=shell, name="Erased", device_name="", data=None)
            entries = list(Entry.objects.filter(call__in=some))
            for entry in entries:
                entry.command = _without(entry.command, str(user.pk), names[entry.call_id], shell)
            Entry.objects.bulk_update(entries, ["command"], batch_size=BATCH)
        # The calls in which an operator may have done something.
        ruled = Q(call__reason="operator") | Q(call__group=True)
        ended = list(Entry.objects.filter(ruled, command__operator=user.get_username()))
        for entry in ended:
            entry.command |= {"operator": shell}
        for start in range(0, len(ended), BATCH):
            Entry.objects.bulk_update(ended[start : start + BATCH], ["command"])
        return len(calls)


def _about(model: type[Model], keys: Iterable[Any], key: str = "object_pk") -> Q:
    """What a log has on these rows."""
    return Q(content_type=ContentType.objects.get_for_model(model), **{f"{key}__in": [str(each) for each in keys]})


def _without(command: dict[str, Any], key: str, name: str, shell: str) -> dict[str, Any]:
    """The command without the person of this key, who had this name in the call. The shell has the same key."""
    by = command.get("by")
    if isinstance(by, dict) and by["key"] == key:
        command = command | {"by": by | {"name": ERASED}}
        if command["type"] == "Invite":
            command |= {"user": shell, "name": "Erased"}
        if command.get("data") is not None:
            command |= {"data": None}
    if command["type"] != "Invite" and command.get("user") == name:  # who was removed, or got the call by a transfer
        command = command | {"user": shell}
    if "callees" in command:
        command = command | {"callees": [_nobody(each, key, shell) for each in command["callees"]]}
    if command.get("callee"):
        command = command | {"callee": _nobody(command["callee"], key, shell)}
    leg = command.get("leg")
    if leg and leg["key"] == key:
        command = command | {"leg": _nobody(leg, key, shell) | {"device_name": "", "data": None}}
    return command


def _nobody(each: dict[str, Any], key: str, shell: str) -> dict[str, Any]:
    return each | {"user": shell, "name": "Erased"} if each["key"] == key else each
