"""Tables that people made, as CSV or XLSX: read with bounds, so that a small file cannot become a large one, and with
sentences for whoever has to mend the file.

A table has a header that names its columns, and says with one of them (the key) what each row is about. Knows nothing
of what the rows mean.
"""

import contextlib
import csv
import difflib
import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple
from xml.parsers import expat

import tablib
from django.utils.text import Truncator
from openpyxl.reader.excel import ExcelReader
from openpyxl.styles.stylesheet import apply_stylesheet
from openpyxl.worksheet._read_only import ReadOnlyWorksheet

from calls.cells import unquoted

PACKED = b"PK\x03\x04"  # how a workbook begins
MAX_ROWS, MAX_COLUMNS = 10_000, 50  # a preview of so many lines takes some 2 s of the server's CPU
MAX_CELL = 1000  # characters
MAX_UNPACKED = 20_000_000  # bytes of a workbook's parts together
# XML elements of a workbook: CELLS are read in some 5 µs each, and the others in up to 50.
MAX_CELL_ELEMENTS, MAX_OTHER_ELEMENTS = 300_000, 20_000
CELLS = frozenset(("row", "c", "v", "f", "is", "si", "t"))
NO_FILE = "The file could not be read: choose the format that it has, or save it again as CSV or XLSX."
YES, NO = ("1", "true", "on", "yes"), ("0", "false", "off", "no")


class Columns(NamedTuple):
    """What a table may have as columns, and the words about them in sentences."""

    names: tuple[str, ...]
    key: str  # the one that must be there
    about: str  # what it says: "whose line each row is"
    rows: str  # what the rows are, at the beginning of a sentence: "Lines"


class Unreadable(ValueError):
    """Why a file is no such table: sentences for the operator."""


class Sheet(tablib.Dataset):
    """Rows, and the numbers that they have in their file, where somebody will look for them."""

    numbers: list[int]


def table(rows: Iterable[tuple[int, Sequence[Any]]], columns: Columns) -> Sheet:
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
        if any(cell not in (None, "") and text(cell) for cell in cells):
            filled.append((number, cells))
            if len(filled) > MAX_ROWS + 1:
                raise Unreadable(f"The file has more than {MAX_ROWS:,} lines below its header: split it.")
    if not filled:
        raise Unreadable(f"The file is empty: its first row names the columns, and {columns.key} is one of them.")
    names = [text(name).lower() for name in filled[0][1]]
    if wrong := list(_wrong_columns([name for name in names if name], columns)):
        raise Unreadable(*wrong)
    if len(filled) == 1:
        raise Unreadable("The file names its columns, and has no lines below.")
    named = [n for n, name in enumerate(names) if name]
    sheet = Sheet(headers=[names[n] for n in named])
    sheet.numbers = [number for number, _ in filled[1:]]
    for number, cells in filled[1:]:
        for n, cell in enumerate(cells):
            if text(cell) and (n >= len(names) or not names[n]):
                shown = repr(cell if not isinstance(cell, str) else Truncator(cell).chars(60))
                raise Unreadable(f"Line {number} has {shown} in column {n + 1}, which has no name in the header.")
        sheet.append([cells[n] if n < len(cells) else "" for n in named])
    return sheet


def _wrong_columns(names: list[str], columns: Columns) -> Iterator[str]:
    """A misspelt column must not be left out in silence: its lines would be taken for changed."""
    unknown = [name for name in dict.fromkeys(names) if name not in columns.names]
    if columns.key not in names:
        found = ", ".join(names)[:400]
        yield f"There is no column {columns.key}, which says {columns.about}. The columns found are: {found}."
    for name in unknown[:10]:
        near = difflib.get_close_matches(name, columns.names, 1)
        yield f"{columns.rows} have no column {name[:40]}{f': did you mean {near[0]}?' if near else '.'}"
    if len(unknown) > 10:
        yield f"{len(unknown) - 10} more are unknown."
    if unknown:
        yield f"Their columns are: {', '.join(columns.names)}."
    for name in columns.names:
        if names.count(name) > 1:
            yield f"The column {name} is there more than once."


def of_csv(data: bytes, columns: Columns) -> Sheet:
    """A table with commas, tabs, or semicolons (of a spreadsheet where a comma is in numbers), as the header has it."""
    if data.startswith(PACKED):
        raise Unreadable("This is a workbook: choose the format xlsx.")
    try:
        said = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        said = "\0"
    if "\0" in said:  # of UTF-16, or of no text at all
        raise Unreadable("Save the file as UTF-8 (in Excel: “CSV UTF-8”): it has another encoding, or is no text.")
    head = next((line for line in io.StringIO(said, newline=None) if line.strip()), "")
    lines = io.StringIO(said, newline="")
    return table(_numbered(csv.reader(lines, delimiter=max(",;\t", key=head.count), strict=True)), columns)


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


def of_workbook(data: bytes, columns: Columns) -> Sheet:
    """A table of the sheet that is visible in a workbook. A space in the last cell of a sheet makes billions of cells,
    so what is read is bounded."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise Unreadable(NO_FILE)
    bound(io.BytesIO(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of openpyxl, about parts that it leaves out
        sheet = ActiveSheet(io.BytesIO(data)).sheet()
        rows = list(sheet.iter_rows(max_row=MAX_ROWS + 2, max_col=MAX_COLUMNS, values_only=True))
        if len(rows) > MAX_ROWS + 1:
            raise Unreadable(
                f"The sheet goes on below row {MAX_ROWS + 1:,}, if only with a space: delete the rows below the lines,"
                " split it, or save it as CSV."
            )
        return table(enumerate(rows, 1), columns)


def text(value: Any) -> str:
    """A cell as the text that somebody wrote into it."""
    return unquoted(str("" if value is None else value).strip())
