"""`manage.py people FILE`: makes and changes accounts with their lines from a CSV or XLSX file."""

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from calls import roster, tables
from calls.cells import plain
from calls.models import name_of
from devices.database import allow_long_statements

MAX_FILE = 20_000_000  # bytes
MAX_SAID = 100  # faults, or changes of a preview, that are said one by one


class Command(BaseCommand):
    help = (
        "Makes and changes accounts with their lines, a row for each person, all of them or none. Columns: "
        f"{', '.join(roster.TABLE.names)}. A column that is not there is left as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="CSV (commas, semicolons or tabs) or XLSX")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
        parser.add_argument(
            "--passwords", type=Path, metavar="FILE", help="a new file for the passwords made for new accounts"
        )
        parser.add_argument(
            "--deactivate-missing",
            action="store_true",
            help="close the accounts that the file does not name; those of staff stay",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        allow_long_statements(DEFAULT_DB_ALIAS)
        plan = roster.plan(self._read(options["file"]), deactivate_missing=options["deactivate_missing"])
        if plan.wrong:
            raise CommandError("Nothing was changed.\n" + "\n".join(_faults(plan.wrong)))
        if options["dry_run"]:
            self._preview(plan)
            return
        if plan.generated and not options["passwords"]:
            raise CommandError(
                f"Nothing was changed. {_number(len(plan.generated), 'new account')} would get a password made here:"
                " say with --passwords FILE where it goes, or give a column password."
            )
        self._carry_out(plan, options["passwords"])

    def _read(self, path: Path) -> tables.Sheet:
        try:
            if path.stat().st_size > MAX_FILE:
                raise CommandError(f"{path} has more than {MAX_FILE // 1_000_000} MB: split it.")
            data = path.read_bytes()
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
        of = tables.of_workbook if data.startswith(tables.PACKED) else tables.of_csv
        try:
            return of(data, roster.TABLE)
        except tables.Unreadable as error:
            raise CommandError("Nothing was changed.\n" + "\n".join(map(str, error.args))) from None
        except Exception as error:  # whatever openpyxl meets in a file that is only called a workbook
            if data.startswith(tables.PACKED):
                raise CommandError("The workbook could not be read: save it again as XLSX or CSV.") from error
            raise

    def _carry_out(self, plan: roster.Plan, path: Path | None) -> None:
        made = _opened(path) if plan.generated and path is not None else None
        done = False
        try:
            roster.carry_out(plan, lambda people: _keep(made, people))
            done = True
        except roster.Stale:
            raise CommandError("Nothing was changed: somebody changed the same accounts. Run it again.") from None
        finally:
            if made is not None:
                made.close()
                if not done:
                    with suppress(OSError):
                        os.unlink(made.name)
        self.stdout.write(_summary(plan, "made", "changed", "deactivated"))
        if made is not None:
            self.stdout.write(f"The new passwords are in {path}: hand them out, and delete the file.")

    def _preview(self, plan: roster.Plan) -> None:
        lines = [f"line {person.line}: {person.account} is new" for person in plan.new]
        for person in plan.changed:
            said = [f"{name} {_shown(old)} → {_shown(new)}" for name, old, new in roster.differences(person)]
            lines.append(f"line {person.line}: {person.account}: {', '.join(said) or 'gets a line'}")
        lines += [f"{account} is not in the file, and would be deactivated" for account in plan.missing]
        for line in lines[:MAX_SAID]:
            self.stdout.write(line)
        if len(lines) > MAX_SAID:
            self.stdout.write(f"… and {len(lines) - MAX_SAID:,} more")
        self.stdout.write(_summary(plan, "would be made", "would change", "would be deactivated"))
        if plan.generated:
            self.stdout.write(f"{_number(len(plan.generated), 'password')} would be made: give --passwords FILE.")


def _faults(wrong: list[roster.Wrong]) -> list[str]:
    said = [f"line {each.line}, {each.column}: {each.why}" for each in wrong[:MAX_SAID]]
    return [*said, f"… and {len(wrong) - MAX_SAID:,} more"] if len(wrong) > MAX_SAID else said


def _summary(plan: roster.Plan, made: str, changed: str, closed: str) -> str:
    parts = [f"{len(plan.new)} {made}", f"{len(plan.changed)} {changed}", f"{plan.same} as they are"]
    if plan.missing:
        parts.append(f"{len(plan.missing)} {closed}")
    return ", ".join(parts) + "."


def _shown(value: Any) -> str:
    return "empty" if value in (None, "") else str(value)


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _opened(path: Path) -> IO[str]:
    """A new file that only its owner can read."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", newline="", encoding="utf-8")
    except FileExistsError:
        raise CommandError(f"Nothing was changed: {path} exists. Name a new file for the passwords.") from None
    except OSError as error:
        raise CommandError(f"Nothing was changed: {path} cannot be written: {error.strerror}.") from None


def _keep(made: IO[str] | None, people: list[roster.Person]) -> None:
    """On disk before the accounts are: else passwords that nobody has could be in force."""
    if made is not None:
        rows = csv.writer(made, lineterminator="\n")
        rows.writerow(["username", "name", "password"])
        rows.writerows(
            [plain(person.account.get_username()), plain(name_of(person.account)), person.password] for person in people
        )
        made.flush()
        os.fsync(made.fileno())
