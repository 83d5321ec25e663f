"""Lists as files. A CSV goes out while its rows are read; a workbook is written to a temporary file first, because its
format has the table of contents at the end. Neither takes more memory for more rows.
"""

import csv
import io
import tempfile
import warnings
from collections.abc import AsyncIterator, Generator, Iterator
from typing import IO, Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from import_export.formats.base_formats import XLSX
from import_export.resources import ModelResource
from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from calls.cells import plain

ROWS = 1000  # that are read, and sent, at a time
BYTES = 64 * 1024  # of a workbook that are sent at a time
MAX_IN_WORKBOOK = 100_000  # rows: a workbook is done before its first byte is sent, and nobody waits longer


def csv_response(resource: ModelResource, rows: QuerySet[Any], name: str) -> StreamingHttpResponse:
    """The rows as a CSV file with that name."""
    return _response(_csv(resource, rows), "text/csv; charset=utf-8", name)


def xlsx_response(resource: ModelResource, rows: QuerySet[Any], name: str) -> StreamingHttpResponse:
    """The rows, at most MAX_IN_WORKBOOK, as a workbook with one sheet."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # openpyxl's own
        book = Workbook(write_only=True)
        sheet = book.create_sheet()
        sheet.freeze_panes = "A2"
        for row in _table(resource, rows):
            sheet.append([_legal(cell) for cell in row])
        book.save(file)
    file.seek(0)
    return _response(_read(file), XLSX.CONTENT_TYPE, name)


def _table(resource: ModelResource, rows: QuerySet[Any]) -> Iterator[list[Any]]:
    """The head, then the rows, read by a cursor in the database."""
    yield resource.get_export_headers()
    fields = resource.get_export_fields()
    for row in rows.iterator(chunk_size=ROWS):
        yield [plain(resource.export_field(field, row)) for field in fields]
        # What was read along knows its row, and such a circle would stay until the next great collection.
        vars(row).pop("_prefetched_objects_cache", None)


def _legal(cell: Any) -> Any:
    return ILLEGAL_CHARACTERS_RE.sub("\N{REPLACEMENT CHARACTER}", cell) if isinstance(cell, str) else cell


def _csv(resource: ModelResource, rows: QuerySet[Any]) -> Generator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # of the usual \r\n, the \r could begin a field
    for number, row in enumerate(_table(resource, rows), start=1):
        writer.writerow(row)
        if number % ROWS == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _read(file: IO[bytes]) -> Generator[bytes]:
    with file:
        while part := file.read(BYTES):
            yield part


def _response(parts: Generator[bytes], kind: str, name: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _sent(parts), content_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


async def _sent(parts: Generator[bytes]) -> AsyncIterator[bytes]:
    """The parts, each made in the request's thread when it is wanted. Of a plain iterator Django would make all of them
    before it sends the first."""
    make = sync_to_async(lambda: next(parts, None))
    try:
        while (part := await make()) is not None:
            yield part
    finally:
        await sync_to_async(parts.close)()
