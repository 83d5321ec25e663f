"""`manage.py line USER`: what the operator does to a line in the admin, from the shell."""

import argparse
import datetime as dt
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from calls import switchboard
from devices.models import Line, LineGroup

MAX_LIMIT = 32767
INHERITED = {"line": "", "platform": " (default)"}
WHY_OFF = {"not_included": "the edition does not include it", "expired": "the edition ran out"}


def limit(text: str) -> int | None:
    """A number of calls, or None for the platform's default."""
    if text == "default":
        return None
    if text.isascii() and text.isdigit() and int(text) <= MAX_LIMIT:
        return int(text)
    raise argparse.ArgumentTypeError(f"give a number from 0 to {MAX_LIMIT}, or the word default")


def people(text: str) -> int | None:
    """A number of people in one call, or None for the platform's default."""
    number = limit(text)
    if number is not None and number < 2:
        raise argparse.ArgumentTypeError("give a number from 2, or the word default")
    return number


def edition(text: str) -> tuple[str, dt.datetime | None]:
    """The edition, and until when it is given. A date is its first moment."""
    if text in ("off", "allowed"):
        return text, None
    if text == "default":
        return "", None
    try:
        day = parse_date(text)
        at = parse_datetime(text) if day is None else dt.datetime.combine(day, dt.time())
    except ValueError:  # the 30th of February
        at = None
    if at is None:
        raise argparse.ArgumentTypeError(
            "give off, allowed, default, or until when it is allowed: 2027-01-31 or 2027-01-31T18:00"
        )
    return "until", at if timezone.is_aware(at) else timezone.make_aware(at)


class Command(BaseCommand):
    help = "Shows a user's line, and changes what is given."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--multi-device", choices=["on", "off"])
        parser.add_argument("--may-switch", choices=["yes", "no"])
        parser.add_argument("--max-incoming", type=limit, default=argparse.SUPPRESS, metavar="N|default")
        parser.add_argument("--max-outgoing", type=limit, default=argparse.SUPPRESS, metavar="N|default")
        parser.add_argument(
            "--max-legs",
            type=people,
            default=argparse.SUPPRESS,
            metavar="N|default",
            help="people in one call at a time",
        )
        parser.add_argument("--may-transfer", choices=["yes", "no", "default"])
        parser.add_argument(
            "--edition", type=edition, metavar="off|allowed|TIME|default", help="whether multi-device can be on at all"
        )
        parser.add_argument("--group", metavar="NAME|none", help="the group whose rules it inherits")
        parser.add_argument("--dnd", choices=["on", "off"], help="do not disturb: only favourites ring")

    def handle(self, *args: Any, **options: Any) -> None:
        user = get_user_model()._default_manager.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}.")
        numbers = ("max_incoming", "max_outgoing", "max_legs")
        changes: dict[str, Any] = {name: options[name] for name in numbers if name in options}
        for name, yes in (("multi_device", "on"), ("may_switch", "yes"), ("dnd", "on")):
            if options[name]:
                changes[name] = options[name] == yes
        if options["may_transfer"]:
            changes["may_transfer"] = {"yes": True, "no": False, "default": None}[options["may_transfer"]]
        if options["edition"]:
            changes["edition"], changes["edition_until"] = options["edition"]
        if options["group"]:
            changes["group"] = _group(options["group"])
        line = switchboard.change_line(user.pk, **changes) if changes else switchboard.line_of(user.pk)
        self.stdout.write(f"{user.get_username()}: {', '.join(_said(line))}")


def _group(name: str) -> LineGroup | None:
    if name == "none":
        return None
    group = LineGroup.objects.filter(name=name).first()
    if group is None:
        names = ", ".join(LineGroup.objects.values_list("name", flat=True)) or "none yet; the admin makes them"
        raise CommandError(f"There is no group of lines {name!r}. There are: {names}.")
    return group


def _said(line: Line) -> list[str]:
    """What holds for the line, and who says so where it is not the line itself."""
    shown = switchboard.line_view(line)
    whose = INHERITED | {"group": f" (of {line.group})"}
    why = f" ({WHY_OFF[shown['multi_device_off']]})" if line.multi_device and "multi_device_off" in shown else ""
    included = line.rule("edition")
    until = included.until and timezone.localtime(included.until)
    word = f"until {until:%Y-%m-%d %H:%M %Z}" if until else included.value or "allowed"
    return [
        f"multi-device {'on' if shown['multi_device'] else 'off'}{why}",
        f"may switch it: {'yes' if shown['may_switch'] else 'no'}",
        *(
            f"{name.replace('_', ' ')} {shown[name]}{whose[line.rule(name).source]}"
            for name in ("max_incoming", "max_outgoing", "max_legs")
        ),
        f"may transfer: {'yes' if shown['may_transfer'] else 'no'}{whose[line.rule('may_transfer').source]}",
        f"edition {word}{whose[included.source]}",
        f"do not disturb {'on' if shown['dnd'] else 'off'}",
        f"group {line.group or 'none'}",
    ]
