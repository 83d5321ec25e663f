"""`manage.py line USER`: what the operator does to a line in the admin, from the shell."""

import argparse
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls import switchboard

MAX_LIMIT = 32767


def limit(text: str) -> int | None:
    """A number of calls, or None for the platform's default."""
    if text == "default":
        return None
    if text.isascii() and text.isdigit() and int(text) <= MAX_LIMIT:
        return int(text)
    raise argparse.ArgumentTypeError(f"give a number from 0 to {MAX_LIMIT}, or the word default")


class Command(BaseCommand):
    help = "Shows a user's line, and changes what is given."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--multi-device", choices=["on", "off"])
        parser.add_argument("--may-switch", choices=["yes", "no"])
        parser.add_argument("--max-incoming", type=limit, default=argparse.SUPPRESS, metavar="N|default")
        parser.add_argument("--max-outgoing", type=limit, default=argparse.SUPPRESS, metavar="N|default")

    def handle(self, *args: Any, **options: Any) -> None:
        user = get_user_model()._default_manager.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['user']!r}.")
        changes: dict[str, Any] = {name: options[name] for name in ("max_incoming", "max_outgoing") if name in options}
        if options["multi_device"]:
            changes["multi_device"] = options["multi_device"] == "on"
        if options["may_switch"]:
            changes["may_switch"] = options["may_switch"] == "yes"
        line = switchboard.change_line(user.pk, **changes) if changes else switchboard.line_of(user.pk)
        shown = switchboard.line_view(line)
        whose = {"line": "", "group": f" (of {line.group})", "platform": " (default)"}
        self.stdout.write(
            f"{user.get_username()}: multi-device {'on' if shown['multi_device'] else 'off'}, "
            f"may switch it: {'yes' if shown['may_switch'] else 'no'}, "
            + ", ".join(
                f"{name.replace('_', ' ')} {shown[name]}{whose[line.rule(name).source]}"
                for name in ("max_incoming", "max_outgoing")
            )
        )
