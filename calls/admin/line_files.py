"""Lines from and to files: a row for each user, shown before anything is changed, and then changed as a whole.

However many rows there are, people, groups and lines are read together, and written together under the lines' locks.
"""

import base64
import contextlib
import logging
import threading
import zlib
from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.core import signing
from django.db.models import QuerySet
from django.utils.functional import cached_property
from import_export import resources
from import_export.fields import Field
from import_export.formats.base_formats import CSV, XLSX
from import_export.forms import ConfirmImportForm, ImportForm
from import_export.results import RowResult
from import_export.tmp_storages import BaseStorage
from import_export.widgets import ForeignKeyWidget

from calls import roster, tables
from calls.tables import NO, YES, Sheet, text
from devices.models import Line, LineGroup

log = logging.getLogger(__name__)

COLUMNS = (
    "user", "multi_device", "may_switch", "max_incoming", "max_outgoing", "max_legs", "may_transfer", "edition",
    "edition_until", "group",
)  # fmt: skip
TABLE = tables.Columns(COLUMNS, "user", "whose line each row is", "Lines")
LIMITS = ("max_incoming", "max_outgoing")
SWITCHES = ("multi_device", "may_switch")
WRITTEN = (RowResult.IMPORT_TYPE_NEW, RowResult.IMPORT_TYPE_UPDATE)
MAX_FILE = 1_800_000  # bytes: until it is confirmed it is a field of a form, and Django takes 2.5 MB of these
MAX_SHOWN = 200  # lines that a preview shows; all of them are looked at
MAX_WRONG = 100  # lines that are wrong, after which no more are looked at
KEPT_S = 3600  # that a preview can be confirmed


class Text(CSV):
    """Lines as text; see tables.of_csv."""

    def is_binary(self) -> bool:
        return True  # so that it is decoded there, where there are words for what is wrong with it

    def create_dataset(self, in_stream: bytes) -> Sheet:
        return tables.of_csv(in_stream, TABLE)


class Workbook(XLSX):
    """Lines in a workbook; see tables.of_workbook."""

    def get_title(self) -> str:
        return "xlsx"

    def create_dataset(self, in_stream: bytes) -> Sheet:
        return tables.of_workbook(in_stream, TABLE)


class LineResource(resources.ModelResource):
    """A line as a row of a file. The user must exist; a column that is not there is left as it is."""

    user = Field("user", "user", ForeignKeyWidget(get_user_model(), get_user_model().USERNAME_FIELD))
    group = Field("group", "group", ForeignKeyWidget(LineGroup, "name"))

    class Meta:
        model = Line
        fields = COLUMNS
        export_order = COLUMNS
        import_id_fields = ("user",)
        clean_model_instances = True
        skip_unchanged = True
        report_skipped = True
        use_bulk = True  # no savepoint for each row

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.people: dict[str, Any] = {}  # by the name in the file, as far as they exist
        self.groups: dict[str, LineGroup] = {}
        self.lines: dict[str, Line] = {}  # by user name; who has none gets one
        self.seen: set[str] = set()
        self.wrong: dict[str, str] = {}  # with the row at hand, by column
        self.changed: list[Line] = []
        self.shown = self.found_wrong = 0  # rows so far: shown in the preview, and wrong

    @cached_property
    def _import_fields(self) -> list[Field]:
        return list(super().get_import_fields())

    def get_import_fields(self, selected_fields: Any = None) -> list[Field]:
        """The library makes this list several times for each row."""
        return self._import_fields

    def get_queryset(self) -> QuerySet[Line]:
        return Line.objects.select_related("user", "group")

    # ── reading what the rows are about ──

    def before_import(self, dataset: Any, **kwargs: Any) -> None:
        User = get_user_model()
        names = {text(name) for name in dataset["user"]}
        self.people = User._default_manager.in_bulk(names, field_name=User.USERNAME_FIELD)
        lines = self.get_queryset().in_bulk([person.pk for person in self.people.values()])
        self.lines = {name: lines[person.pk] for name, person in self.people.items() if person.pk in lines}
        if "group" in dataset.headers:
            groups = {text(name) for name in dataset["group"]}
            self.groups = {group.name: group for group in LineGroup.objects.filter(name__in=groups)}

    def before_import_row(self, row: Any, **kwargs: Any) -> None:
        """Finds all that is wrong with the row: who mends it should not have to come back for each."""
        wrong = self.wrong = {}
        name = row["user"] = text(row.get("user"))
        if name not in self.people:
            wrong["user"] = f"There is no user {name!r}." if name else "Name a user."
        elif name in self.seen:
            wrong["user"] = f"{name!r} is in this file more than once."
        self.seen.add(name)
        if "group" in row:
            row["group"] = text(row["group"])
            if row["group"] and row["group"] not in self.groups:
                wrong["group"] = f"There is no group of lines {row['group']!r}."
        for field, what in (("max_incoming", "calls"), ("max_outgoing", "calls"), ("max_legs", "people")):
            said = row.get(field)
            if said not in (None, "") and not str(said).strip().isdecimal():
                wrong[field] = f"{said!r} is not a number of {what}: give 0 or more, or nothing."
        for field in SWITCHES:
            said = row.get(field)
            if field in row and text(said).lower() not in (*YES, *NO):
                wrong[field] = f"{text(said)!r} is neither yes nor no: give 1 or 0."
        if text(row.get("may_transfer")).lower() not in ("", *YES, *NO):
            wrong["may_transfer"] = f"{text(row['may_transfer'])!r} is neither yes nor no: give 1 or 0, or nothing."
        if "edition" in row:
            row["edition"] = text(row["edition"]).lower()
            if row["edition"] and row["edition"] not in Line.Edition.values:
                wrong["edition"] = f"{row['edition']!r} is no edition: give off, until, allowed, or nothing."

    def import_row(self, row: Any, instance_loader: Any, **kwargs: Any) -> RowResult:
        """Looks at a row, unless so many were wrong before it that the file must be mended first anyway."""
        if self.found_wrong >= MAX_WRONG:
            unseen = RowResult()
            unseen.import_type = RowResult.IMPORT_TYPE_SKIP
            return unseen
        result = super().import_row(row, instance_loader, **kwargs)
        if result.errors or result.validation_error:
            self.found_wrong += 1
        elif result.import_type != RowResult.IMPORT_TYPE_SKIP and result.diff:
            self.shown += 1
        return result

    def get_instance(self, instance_loader: Any, row: Any) -> Line | None:
        return self.lines.get(row["user"])

    def import_field(self, field: Any, instance: Line, row: Any, is_m2m: bool = False, **kwargs: Any) -> None:
        column = field.column_name
        if column in self.wrong:
            raise ValueError(self.wrong[column])  # which the library gathers
        if column == "user":
            instance.user = self.people[row["user"]]
        elif column == "group":
            if "group" in row:
                instance.group = self.groups.get(row["group"])
        elif column in SWITCHES:
            if column in row:
                setattr(instance, column, text(row[column]).lower() in YES)
        elif column == "may_transfer":
            if column in row:
                instance.may_transfer = (text(row[column]).lower() in YES) if text(row[column]) else None
        else:
            try:
                super().import_field(field, instance, row, is_m2m, **kwargs)
            except ValueError:  # the rest was looked at above
                raise ValueError(f"{row[column]!r} is not a time: give it as 2027-01-31 18:00, in UTC.") from None

    def validate_instance(self, instance: Line, errors: Any = None, validate_unique: bool = True) -> None:
        """User and group were found already, and each user is once in the file: nothing to ask the database for."""
        found = dict(errors or {})
        try:
            instance.full_clean({"user", "group", *found}, validate_unique=False, validate_constraints=False)
        except forms.ValidationError as error:
            found = {**error.error_dict, **found}  # of a column that is wrong anyway, no more is said
        if found:
            raise forms.ValidationError(found)

    def import_data(
        self, dataset: Any, dry_run: bool = False, raise_errors: bool = False, *_args: Any, **kwargs: Any
    ) -> Any:
        """Reads first and writes last (`after_import`), each in a transaction of its own: one around all of it would be
        idle for as long as the rows are looked at, and PostgreSQL ends such a connection after a minute."""
        for name in ("use_transactions", "collect_failed_rows", "rollback_on_validation_errors"):
            kwargs.pop(name, None)
        result = self.import_data_inner(dataset, dry_run, raise_errors, True, False, **kwargs)
        for row in result.invalid_rows:
            row.number = dataset.numbers[row.number - 1]
        changing = [row for row in result.rows if row.import_type in WRITTEN]
        result.shown = [row for row in changing if row.diff]
        result.unshown = len(changing) - len(result.shown)
        result.unlooked = self.found_wrong >= MAX_WRONG
        for failed in (*result.base_errors, *(error for _, errors in result.row_errors() for error in errors))[:1]:
            log.error("lines could not be imported", exc_info=failed.error)  # the operator is told of no insides
        return result

    # ── writing ──

    def save_instance(self, instance: Line, is_create: bool, row: Any, **kwargs: Any) -> None:
        if not kwargs.get("dry_run"):
            self.changed.append(instance)

    def after_import(self, dataset: Any, result: Any, **kwargs: Any) -> None:
        if self.changed and not result.has_errors() and not result.has_validation_errors():
            columns = [name for name in self._meta.fields if name in dataset.headers and name != "user"]
            roster.write_lines(self.changed, columns, kwargs["request"])

    # ── showing ──

    def export_field(self, *args: Any, **kwargs: Any) -> Any:
        value = super().export_field(*args, **kwargs)
        return "" if value is None else value  # a spreadsheet would have the word None in it

    def get_diff_class(self) -> type:
        return PlainDiff if self.shown < MAX_SHOWN else NoDiff


class LineImportForm(ImportForm):
    def clean_import_file(self) -> Any:
        file = self.cleaned_data["import_file"]
        if file.size > MAX_FILE:
            raise forms.ValidationError(
                f"The file has {file.size / 1e6:.1f} MB, and may have {MAX_FILE / 1e6}: split it, or leave columns out."
            )
        return file


class LineConfirmForm(ConfirmImportForm):
    """What a preview's page sends back. The file in it is signed; the rest can be anything."""

    format = forms.ChoiceField(choices=[("0", "csv"), ("1", "xlsx")], widget=forms.HiddenInput())
    resource = None


class Busy(Exception):
    """This person's last file is still being read."""


_readers: set[Any] = set()
_readers_lock = threading.Lock()


@contextlib.contextmanager
def reading(key: Any) -> Iterator[None]:
    """Around the reading of somebody's file. Raises Busy when this process is reading one of theirs already: a file
    takes seconds of CPU, and one person's files must not take all of it."""
    with _readers_lock:
        if key in _readers:
            raise Busy
        _readers.add(key)
    try:
        yield
    finally:
        with _readers_lock:
            _readers.discard(key)


class InThePage(BaseStorage):
    """Where a file is between its preview and its confirmation: in the page, packed and signed, and so with whichever
    process is asked next. The library's way leaves it on one machine's disk, for ever when nobody confirms."""

    def save(self, data: bytes) -> None:
        packed = base64.urlsafe_b64encode(zlib.compress(data)).decode()
        self.name = signing.TimestampSigner(salt="lines").sign(packed)

    def read(self) -> bytes:
        """Raises BadSignature when it is too old, or another than was previewed."""
        packed = signing.TimestampSigner(salt="lines").unsign(self.name, max_age=KEPT_S)
        return zlib.decompress(base64.urlsafe_b64decode(packed))

    def remove(self) -> None:
        """Nothing is left."""


class PlainDiff(resources.Diff):
    """What a row changes, in words: the library marks it with styles, which the page's policy forbids."""

    def as_html(self) -> list[str]:
        pairs = zip(map(_shown, self.left), map(_shown, self.right), strict=True)
        return [after if self.new or before == after else f"{before} → {after}" for before, after in pairs]


class NoDiff:
    """Of a row that the preview counts, and does not show."""

    def __init__(self, *_args: Any) -> None:
        pass

    def compare_with(self, *_args: Any) -> None:
        pass

    def as_html(self) -> list[str]:
        return []


def _shown(value: Any) -> str:
    return "empty" if value in (None, "") else str(value)
