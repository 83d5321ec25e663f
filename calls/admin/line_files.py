"""Lines from and to files: a row for each user, shown before anything is changed, and then changed as a whole.

However many rows there are, people, groups and lines are read together, and written together under the lines' locks.
"""

import base64
import contextlib
import csv
import difflib
import io
import logging
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any
from xml.parsers import expat

import tablib
from django import forms
from django.contrib.auth import get_user_model
from django.core import signing
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.text import Truncator
from import_export import resources
from import_export.fields import Field
from import_export.formats.base_formats import CSV, XLSX
from import_export.forms import ConfirmImportForm, ImportForm
from import_export.results import RowResult
from import_export.tmp_storages import BaseStorage
from import_export.widgets import ForeignKeyWidget
from openpyxl.reader.excel import ExcelReader
from openpyxl.styles.stylesheet import apply_stylesheet
from openpyxl.worksheet._read_only import ReadOnlyWorksheet

from calls import audit
from calls.admin.exports import unquoted
from devices.models import Line, LineGroup

log = logging.getLogger(__name__)

COLUMNS = (
    "user", "multi_device", "may_switch", "max_incoming", "max_outgoing", "max_legs", "may_transfer", "edition",
    "edition_until", "group",
)  # fmt: skip
LIMITS = ("max_incoming", "max_outgoing")
SWITCHES = ("multi_device", "may_switch")
YES, NO = ("1", "true", "on", "yes"), ("0", "false", "off", "no")
BATCH = 1000  # rows written by one statement
WRITTEN = (RowResult.IMPORT_TYPE_NEW, RowResult.IMPORT_TYPE_UPDATE)
MAX_FILE = 1_800_000  # bytes: until it is confirmed it is a field of a form, and Django takes 2.5 MB of these
MAX_ROWS, MAX_COLUMNS = 10_000, 50  # of lines: a preview of so many takes some 2 s of the server's CPU
MAX_CELL = 1000  # characters
MAX_UNPACKED = 20_000_000  # bytes of a workbook's parts together
# XML elements of a workbook: CELLS are read in some 5 µs each, and the others in up to 50.
MAX_CELL_ELEMENTS, MAX_OTHER_ELEMENTS = 300_000, 20_000
CELLS = frozenset(("row", "c", "v", "f", "is", "si", "t"))
MAX_SHOWN = 200  # lines that a preview shows; all of them are looked at
MAX_WRONG = 100  # lines that are wrong, after which no more are looked at
KEPT_S = 3600  # that a preview can be confirmed

NO_FILE = "The file could not be read: choose the format that it has, or save it again as CSV or XLSX."


class Unreadable(ValueError):
    """Why a file is no table of lines: sentences for the operator."""


class Sheet(tablib.Dataset):
    """Rows, and the numbers that they have in their file, where somebody will look for them."""

    numbers: list[int]


def table(rows: Iterable[tuple[int, Sequence[Any]]]) -> Sheet:
    """The header and the rows below it, of a file's rows with their numbers. Rows without text are left out, since
    spreadsheets add such. Raises Unreadable at the first row that is one too many, is too wide or has too long a cell,
    and reads no further.
    """
    filled: list[tuple[int, Sequence[Any]]] = []
    for number, cells in rows:
        if len(cells) > MAX_COLUMNS:
            raise Unreadable(
                f"Line {number} has {len(cells):,} columns, and may have {MAX_COLUMNS}: delete those behind the table."
            )
        if any(isinstance(cell, str) and len(cell) > MAX_CELL for cell in cells):
            raise Unreadable(f"Line {number} has a cell of more than {MAX_CELL:,} characters: no column takes so many.")
        if any(cell not in (None, "") and _text(cell) for cell in cells):
            filled.append((number, cells))
            if len(filled) > MAX_ROWS + 1:
                raise Unreadable(f"The file has more than {MAX_ROWS:,} lines below its header: split it.")
    if not filled:
        raise Unreadable("The file is empty: its first row names the columns, and user is one of them.")
    names = [_text(name).lower() for name in filled[0][1]]
    if wrong := list(_wrong_columns([name for name in names if name])):
        raise Unreadable(*wrong)
    if len(filled) == 1:
        raise Unreadable("The file names its columns, and has no lines below.")
    named = [n for n, name in enumerate(names) if name]
    sheet = Sheet(headers=[names[n] for n in named])
    sheet.numbers = [number for number, _ in filled[1:]]
    for number, cells in filled[1:]:
        for n, cell in enumerate(cells):
            if _text(cell) and (n >= len(names) or not names[n]):
                shown = repr(cell if not isinstance(cell, str) else Truncator(cell).chars(60))
                raise Unreadable(f"Line {number} has {shown} in column {n + 1}, which has no name in the header.")
        sheet.append([cells[n] if n < len(cells) else "" for n in named])
    return sheet


def _wrong_columns(names: list[str]) -> Iterator[str]:
    """A misspelt column must not be left out in silence: its lines would be taken for changed."""
    unknown = [name for name in dict.fromkeys(names) if name not in COLUMNS]
    if "user" not in names:
        found = ", ".join(names)[:400]
        yield f"There is no column user, which says whose line each row is. The columns found are: {found}."
    for name in unknown[:10]:
        near = difflib.get_close_matches(name, COLUMNS, 1)
        yield f"Lines have no column {name[:40]}{f': did you mean {near[0]}?' if near else '.'}"
    if len(unknown) > 10:
        yield f"{len(unknown) - 10} more are unknown."
    if unknown:
        yield f"Their columns are: {', '.join(COLUMNS)}."
    for name in COLUMNS:
        if names.count(name) > 1:
            yield f"The column {name} is there more than once."


class Text(CSV):
    """Lines, with commas, semicolons (of a spreadsheet where a comma is in numbers) or tabs, as the header has them."""

    def is_binary(self) -> bool:
        return True  # so that it is decoded here, where there are words for what is wrong with it

    def create_dataset(self, in_stream: bytes) -> Sheet:
        if in_stream.startswith(b"PK\x03\x04"):
            raise Unreadable("This is a workbook: choose the format xlsx.")
        try:
            text = in_stream.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:  # of UTF-16, or of no text at all
            raise Unreadable("Save the file as UTF-8 (in Excel: “CSV UTF-8”): it has another encoding, or is no text.")
        head = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
        lines = io.StringIO(text, newline="")
        return table(_numbered(csv.reader(lines, delimiter=max(",;\t", key=head.count), strict=True)))


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV with the lines on which they begin: a cell may go over several."""
    start = 1
    try:
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1
    except csv.Error:
        raise Unreadable(f"Line {start} cannot be read as CSV: is a quotation mark not closed?") from None


class ActiveSheet(ExcelReader):
    """Reads of a workbook what its visible sheet needs. openpyxl's own way reads more parts, and one part as often as
    the workbook refers to it, which no bound on the parts would hold.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, read_only=True, data_only=True, keep_links=False)

    def sheet(self) -> ReadOnlyWorksheet:
        self.read_manifest()
        self.read_strings()
        self.read_workbook()
        apply_stylesheet(self.archive, self.wb)  # which cells are times
        sheets = [(sheet, rel) for sheet, rel in self.parser.find_sheets() if rel.target in self.valid_files]
        sheet, rel = sheets[min(self.parser.wb._active_sheet_index, len(sheets) - 1)]
        return ReadOnlyWorksheet(self.wb, sheet.name, rel.target, self.shared_strings)


def bound(file: IO[bytes]) -> None:
    """Raises Unreadable when the parts of a workbook are more than is read: a workbook of some kilobytes can have
    millions of cells or strings, which take minutes and gigabytes."""
    with zipfile.ZipFile(file) as parts:
        unpacked = sum(part.file_size for part in parts.infolist())
        if unpacked > MAX_UNPACKED:
            raise Unreadable(
                f"The workbook has {unpacked / 1e6:.0f} MB when it is unpacked, and may have"
                f" {MAX_UNPACKED / 1e6:.0f}: split it, or save it as CSV."
            )
        cells = others = 0

        def count(name: str, attributes: Any) -> None:
            nonlocal cells, others
            if name.rpartition(":")[2] in CELLS:
                cells += 1
            else:
                others += 1
            if cells > MAX_CELL_ELEMENTS:
                raise Unreadable("The workbook has too many cells or texts: split it, or save it as CSV.")
            if others > MAX_OTHER_ELEMENTS:
                raise Unreadable("The workbook has too many styles, names or rules: copy the lines to a new one.")

        def refuse(*_doctype: Any) -> None:
            raise Unreadable("The workbook has a document type, which no spreadsheet writes: save it again.")

        for part in parts.infolist():
            if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others take memory at will
                raise Unreadable("The workbook is packed as no spreadsheet does it: save it again.")
            parser = expat.ParserCreate()
            parser.StartElementHandler, parser.StartDoctypeDeclHandler = count, refuse
            # A part that is no XML is a picture, or of no use to openpyxl.
            with parts.open(part) as stream, contextlib.suppress(expat.ExpatError):
                parser.ParseFile(stream)


class Workbook(XLSX):
    """Lines. A space in the last cell of a sheet makes billions of cells of it, so what is read is bounded."""

    def get_title(self) -> str:
        return "xlsx"

    def create_dataset(self, in_stream: bytes) -> Sheet:
        if not zipfile.is_zipfile(io.BytesIO(in_stream)):
            raise Unreadable(NO_FILE)
        bound(io.BytesIO(in_stream))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of openpyxl, about parts that it leaves out
            return self._lines(ActiveSheet(io.BytesIO(in_stream)).sheet())

    def _lines(self, sheet: ReadOnlyWorksheet) -> Sheet:
        rows = list(sheet.iter_rows(max_row=MAX_ROWS + 2, max_col=MAX_COLUMNS, values_only=True))
        if len(rows) > MAX_ROWS + 1:
            raise Unreadable(
                f"The sheet goes on below row {MAX_ROWS + 1:,}, if only with a space: delete the rows below the lines,"
                " split it, or save it as CSV."
            )
        return table(enumerate(rows, 1))


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
        names = {_text(name) for name in dataset["user"]}
        self.people = User._default_manager.in_bulk(names, field_name=User.USERNAME_FIELD)
        lines = self.get_queryset().in_bulk([person.pk for person in self.people.values()])
        self.lines = {name: lines[person.pk] for name, person in self.people.items() if person.pk in lines}
        if "group" in dataset.headers:
            groups = {_text(name) for name in dataset["group"]}
            self.groups = {group.name: group for group in LineGroup.objects.filter(name__in=groups)}

    def before_import_row(self, row: Any, **kwargs: Any) -> None:
        """Finds all that is wrong with the row: who mends it should not have to come back for each."""
        wrong = self.wrong = {}
        name = row["user"] = _text(row.get("user"))
        if name not in self.people:
            wrong["user"] = f"There is no user {name!r}." if name else "Name a user."
        elif name in self.seen:
            wrong["user"] = f"{name!r} is in this file more than once."
        self.seen.add(name)
        if "group" in row:
            row["group"] = _text(row["group"])
            if row["group"] and row["group"] not in self.groups:
                wrong["group"] = f"There is no group of lines {row['group']!r}."
        for field, what in (("max_incoming", "calls"), ("max_outgoing", "calls"), ("max_legs", "people")):
            said = row.get(field)
            if said not in (None, "") and not str(said).strip().isdecimal():
                wrong[field] = f"{said!r} is not a number of {what}: give 0 or more, or nothing."
        for field in SWITCHES:
            said = row.get(field)
            if field in row and _text(said).lower() not in (*YES, *NO):
                wrong[field] = f"{_text(said)!r} is neither yes nor no: give 1 or 0."
        if _text(row.get("may_transfer")).lower() not in ("", *YES, *NO):
            wrong["may_transfer"] = f"{_text(row['may_transfer'])!r} is neither yes nor no: give 1 or 0, or nothing."
        if "edition" in row:
            row["edition"] = _text(row["edition"]).lower()
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
                setattr(instance, column, _text(row[column]).lower() in YES)
        elif column == "may_transfer":
            if column in row:
                instance.may_transfer = (_text(row[column]).lower() in YES) if _text(row[column]) else None
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
            write(kwargs["request"], self.changed, columns)

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


def write(request: HttpRequest, lines: list[Line], columns: list[str]) -> None:
    """Makes or changes these lines, in these columns only: what else is in a line may have changed meanwhile."""
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


def _text(value: Any) -> str:
    return unquoted(str("" if value is None else value).strip())
