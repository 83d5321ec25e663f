"""People by the table: accounts with their lines, looked at row by row, and then made and changed as a whole.

A row names an account. A column that is not in the table is left as it is. Passwords are hashed before anything is
written, because that takes longer than all the rest.
"""

import os
import secrets
import string
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest

from calls import audit, switchboard
from calls.tables import NO, YES, Columns, Sheet, text
from devices.models import Line, LineGroup

NUMBERS = {"max_incoming": "calls", "max_outgoing": "calls", "max_legs": "people"}
SWITCHES = ("multi_device", "may_switch")
ACCOUNT = ("username", "name", "email", "password", "active")
TABLE = Columns(
    (*ACCOUNT, *NUMBERS, "may_transfer", *SWITCHES, "group"), "username", "whose account each row is", "People"
)
PERSONAL = ("first_name", "last_name", "email", "is_active", "password")  # fields of an account that a table may change
BATCH = 1000  # rows written by one statement
# Of generated passwords: letters and digits that nobody takes for another. 16 of them are 79 bits.
LETTERS, GROUPS = sorted({*string.ascii_lowercase, *string.digits} - {*"ilo01"}), 4


class Wrong(NamedTuple):
    """What has to be mended: the line of the file, the column, and a sentence."""

    line: int
    column: str
    why: str


class Stale(Exception):
    """Somebody changed the same accounts while the table was read."""


@dataclass
class Person:
    """What a row makes of somebody."""

    line: int  # of the file
    account: Any
    own: Line
    before: Any = None  # the account as it was; None: it is new
    before_own: Line | None = None
    password: str = ""  # to be set; "": it stays, or nobody can sign in with one
    generated: bool = False

    def changes(self) -> Iterator[tuple[str, Any, Any]]:
        """Each field that becomes another, with both values. Of a password only that it does."""
        if self.before is not None:
            for name in PERSONAL[:-1]:
                yield name, getattr(self.before, name), getattr(self.account, name)
            if self.password:
                yield "password", "the old one", "the one in the file"
        if self.before_own is not None:
            for name in (*NUMBERS, "may_transfer", *SWITCHES, "group"):
                yield name, getattr(self.before_own, name), getattr(self.own, name)


@dataclass
class Plan:
    """What a table would do. Nothing is done while a row is wrong."""

    columns: Collection[str]
    wrong: list[Wrong] = field(default_factory=list)
    new: list[Person] = field(default_factory=list)
    changed: list[Person] = field(default_factory=list)
    same: int = 0
    missing: list[Any] = field(default_factory=list)  # accounts to be deactivated

    @property
    def generated(self) -> list[Person]:
        return [person for person in self.new if person.generated]


def differences(person: Person) -> list[tuple[str, Any, Any]]:
    return [(name, before, after) for name, before, after in person.changes() if before != after]


def plan(sheet: Sheet, *, deactivate_missing: bool = False) -> Plan:
    """Looks at all rows, whatever is wrong with some of them. With `deactivate_missing`, active accounts that the table
    does not name are to be closed, but for those of staff: a list of employees must not close the operator's account.
    """
    User = get_user_model()
    found = Plan(tuple(sheet.headers))
    rows = [dict(zip(sheet.headers, row, strict=True)) for row in sheet]
    names = [User.normalize_username(text(row["username"])) for row in rows]
    accounts = User._default_manager.in_bulk(names, field_name=User.USERNAME_FIELD)
    lines = Line.objects.select_related("group").in_bulk([account.pk for account in accounts.values()])
    wanted = {text(row["group"]) for row in rows if "group" in row}
    groups = {group.name: group for group in LineGroup.objects.filter(name__in=wanted)}
    kept = _kept(names, rows, accounts)
    first: dict[str, int] = {}
    for number, name, row in zip(sheet.numbers, names, rows, strict=True):
        reader = _Reader(number, row, groups, name in kept)
        account = accounts.get(name)
        person = reader.person(name, account, lines.get(account.pk) if account is not None else None)
        if name in first and name:
            reader.refuse("username", f"{name!r} is in line {first[name]} already.")
        first.setdefault(name, number)
        found.wrong += reader.wrong
        if person.before is None:
            found.new.append(person)
        elif person.before_own is None or differences(person):
            found.changed.append(person)
        else:
            found.same += 1
    if deactivate_missing:
        others = User._default_manager.filter(is_active=True, is_staff=False, is_superuser=False)
        listed = set(names)
        found.missing = [each for each in others.order_by("pk") if each.get_username() not in listed]
    return found


class _Reader:
    """One row: makes a person of it, and finds all that is wrong, so that nobody has to come back for each fault."""

    def __init__(self, number: int, row: dict[str, Any], groups: dict[str, LineGroup], keeps_password: bool) -> None:
        self.number, self.row, self.groups, self.keeps_password = number, row, groups, keeps_password
        self.wrong: list[Wrong] = []

    def refuse(self, column: str, why: str) -> None:
        self.wrong.append(Wrong(self.number, column, why))

    def said(self, column: str) -> str:
        return text(self.row.get(column))

    def person(self, name: str, before: Any, before_own: Line | None) -> Person:
        account = copy(before) if before is not None else get_user_model()(username=name)
        own = copy(before_own) if before_own is not None else Line(user_id=account.pk)
        person = Person(self.number, account, own, before, before_own)
        if "name" in self.row:
            # The last word is the last name, so that both together read as they were written.
            account.first_name, _, account.last_name = " ".join(self.said("name").split()).rpartition(" ")
            if not account.first_name:
                account.first_name, account.last_name = account.last_name, ""
        if "email" in self.row:
            account.email = self.said("email")
        if self.said("active"):
            account.is_active = bool(self.yes("active"))
        for column in NUMBERS:
            if column in self.row:
                setattr(own, column, self.number_of(column))
        for column in SWITCHES:
            if self.said(column):
                setattr(own, column, bool(self.yes(column)))
        if "may_transfer" in self.row:
            own.may_transfer = self.yes("may_transfer")
        if "group" in self.row:
            wanted = self.said("group")
            own.group = self.groups.get(wanted)
            if wanted and own.group is None:
                self.refuse("group", f"There is no group of lines {wanted!r}: make it in the panel first.")
        self._look_at_account(person)
        self._look_at_line(own)
        return person

    def yes(self, column: str) -> bool | None:
        said = self.said(column).lower()
        if said not in ("", *YES, *NO):
            self.refuse(column, f"{self.said(column)!r} is neither yes nor no: give 1 or 0, or nothing.")
        return said in YES if said else None

    def number_of(self, column: str) -> int | None:
        said = self.said(column)
        if said.endswith(".0"):  # how a spreadsheet may keep a whole number
            said = said[:-2]
        if said and not (said.isascii() and said.isdecimal()):
            self.refuse(column, f"{said!r} is not a number of {NUMBERS[column]}: give 0 or more, or nothing.")
            return None
        return int(said) if said else None

    def _look_at_account(self, person: Person) -> None:
        try:
            person.account.full_clean({"password"}, validate_unique=False, validate_constraints=False)
        except ValidationError as error:
            for name, whys in error.message_dict.items():
                column = "name" if name in ("first_name", "last_name") else name
                self.refuse(column, " ".join(whys))
        wanted = _password(self.row)
        if wanted and not self.keeps_password:
            person.password = wanted
            try:
                validate_password(wanted, person.account)
            except ValidationError as error:
                self.refuse("password", " ".join(error.messages))
        elif not wanted and person.before is None:
            person.password, person.generated = password(), True

    def _look_at_line(self, own: Line) -> None:
        known = {wrong.column for wrong in self.wrong}
        try:
            own.full_clean({"user", "group", *known}, validate_unique=False, validate_constraints=False)
        except ValidationError as error:
            for name, whys in error.message_dict.items():
                self.refuse(name, " ".join(whys))


def _password(row: dict[str, Any]) -> str:
    """As it is, without what `text` does: a password may begin like a formula."""
    return str(row.get("password") or "").strip()


def _kept(names: list[str], rows: list[dict[str, Any]], accounts: dict[str, Any]) -> set[str]:
    """The names of those whose password is the one in the table already: who uses the same file again must not end
    everybody's sign-in."""
    asked = [(name, _password(row)) for name, row in zip(names, rows, strict=True) if name in accounts]
    asked = [(name, wanted) for name, wanted in asked if wanted]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        same = threads.map(lambda each: check_password(each[1], accounts[each[0]].password), asked)
        return {name for (name, _), is_same in zip(asked, same, strict=True) if is_same}


def password() -> str:
    """A new password that can be read out and typed."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(GROUPS))


def carry_out(plan: Plan, keep: Callable[[list[Person]], None]) -> None:
    """Makes, changes and deactivates, all of it or nothing, and signs out whoever must not be signed in any more.
    `keep` is given the people with generated passwords before anything is committed: what it raises undoes all.
    """
    assert not plan.wrong
    _hash(person for person in (*plan.new, *plan.changed) if person.password)
    User = get_user_model()
    personal = [name for name in PERSONAL if _is_in(name, plan.columns)]
    own = [name for name in plan.columns if name not in ACCOUNT]
    try:
        with transaction.atomic(durable=True):
            User._default_manager.bulk_create([person.account for person in plan.new], batch_size=BATCH)
            changed = [person.account for person in plan.changed]
            if changed and personal:
                User._default_manager.bulk_update(changed, personal, batch_size=BATCH)
            for account in plan.missing:
                account.is_active = False
            User._default_manager.bulk_update(plan.missing, ["is_active"], batch_size=BATCH)
            _note(plan, personal)
            for person in (*plan.new, *plan.changed):
                person.own.user = person.account
            write_lines([person.own for person in (*plan.new, *plan.changed)], own)
            keep(plan.generated)
    except IntegrityError:
        raise Stale from None
    told = [person.account.pk for person in plan.changed]
    for start in range(0, len(told), BATCH):
        switchboard.tell_lines(Q(pk__in=told[start : start + BATCH]))
    for person in plan.changed:
        if person.password:
            switchboard.sign_out_ended(person.account.pk)
    closed = [person.account for person in plan.changed if person.before.is_active and not person.account.is_active]
    for account in (*closed, *plan.missing):
        switchboard.sign_out_deactivated(account.pk)


def _is_in(name: str, columns: Collection[str]) -> bool:
    column = {"first_name": "name", "last_name": "name", "is_active": "active"}.get(name, name)
    return column in columns


def _hash(people: Iterable[Person]) -> None:
    """On all cores: a hash takes a quarter of a second of one, and lets the others work."""
    people = list(people)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        hashes = threads.map(make_password, [person.password for person in people])
        for person, made in zip(people, hashes, strict=True):
            person.account.password = made


def _note(plan: Plan, personal: list[str]) -> None:
    """In the audit log, which does not see what is written many rows at a time."""
    accounts = [(person.before, person.account) for person in (*plan.new, *plan.changed)]
    audit.record_saved(None, accounts, personal)
    closed = []
    for account in plan.missing:
        before = copy(account)
        before.is_active = True
        closed.append((before, account))
    audit.record_saved(None, closed, ["is_active"])


def write_lines(lines: list[Line], columns: list[str], request: HttpRequest | None = None) -> None:
    """Makes or changes these lines, in these columns only: what else is in a line may have changed meanwhile. In the
    caller's transaction."""
    people = {line.user_id: line.user for line in lines}
    before = Line.lock(people)
    for line in before.values():
        line.user = people[line.user_id]
    for start in range(0, len(lines), BATCH):
        batch = sorted(lines[start : start + BATCH], key=lambda line: line.user_id)
        if columns:
            Line.objects.bulk_create(batch, update_conflicts=True, unique_fields=["user"], update_fields=columns)
        else:
            Line.objects.bulk_create(batch, ignore_conflicts=True)
        audit.record_saved(request, [(before.get(line.user_id), line) for line in batch], columns)
