"""Small files that become large: whoever may import lines must not take the server from the others.

The files are made here. Each is answered in words, in little time and little memory.
"""

import io
import re
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from django.contrib.auth import get_user_model

from calls import tables
from calls.admin import line_files
from devices.models import Line
from tests.panel_kit import browser_in_role, upload, workbook

CPU_S = 3.0  # for one file; those that are refused take a tenth
MEMORY_MB = 150  # for the largest of all of them

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
REL = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
HEAD = '<row r="1"><c r="A1" t="inlineStr"><is><t>user</t></is></c></row>'


def parts_of(*rows):
    """A real workbook's parts, to be replaced one by one."""
    with zipfile.ZipFile(io.BytesIO(workbook(*(rows or [["user", "max_incoming"], ["bob", 4]])))) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def packed(method=zipfile.ZIP_DEFLATED, **changed):
    """A workbook with these parts instead of its own; names without the folder and the ending."""
    parts = parts_of()
    for name, text in changed.items():
        found = [path for path in parts if path.rpartition("/")[2] == f"{name}.xml"]
        parts[found[0] if found else f"xl/{name}.xml"] = text.encode() if isinstance(text, str) else text
    if "sharedStrings" in changed:
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
        named = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'.encode()
        parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(b"</Types>", named)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        for path, data in parts.items():
            out.writestr(path, data)
    return file.getvalue()


def strings(inner):
    return f"<sst {MAIN}>{inner}</sst>"


def sheet(inner, before="", after=""):
    return f"<worksheet {MAIN}>{before}<sheetData>{inner}</sheetData>{after}</worksheet>"


def cells(count, cell):
    """Rows of 50 cells."""
    return ("<row>" + cell * 50 + "</row>") * (count // 50)


def many_sheets(number):
    """Sheets that are all the same part, which has no size in its beginning."""
    of = "".join(f'<sheet name="s{n}" sheetId="{n + 1}" r:id="rId1"/>' for n in range(number))
    return packed(
        workbook=f"<workbook {MAIN} {REL}><sheets>{of}</sheets></workbook>",
        sheet1=sheet("", before="<cols>" + '<col min="1" max="1"/>' * 9_000 + "</cols>"),
    )


def named(number):
    names = "".join(f'<definedName name="n{n}">Sheet!$A$1</definedName>' for n in range(number))
    sheets = '<sheets><sheet name="Sheet" sheetId="1" r:id="rId1"/></sheets>'
    return packed(workbook=f"<workbook {MAIN} {REL}>{sheets}<definedNames>{names}</definedNames></workbook>")


def styled(number):
    font = "<fonts><font/></fonts><fills><fill><patternFill/></fill></fills><borders><border/></borders>"
    xfs = f"<cellXfs>{'<xf/>' * number}</cellXfs>"
    return packed(styles=f"<styleSheet {MAIN}>{font}<cellStyleXfs><xf/></cellStyleXfs>{xfs}</styleSheet>")


TOO_MANY = "The file has more than 10,000 lines below its header: split it."
CELLS = "The workbook has too many cells or texts: split it, or save it as CSV."
OTHERS = "The workbook has too many styles, names or rules: copy the lines to a new one."
WIDE = r"Line 1 has 10,000 columns, and may have 50: delete those behind the table."

PREFIXED = (
    '<x:sst xmlns:x="http://schemas.openxmlformats.org/spreadsheetml/2006/main">' + "<x:si/>" * 2_000_000 + "</x:sst>"
)
EBCDIC = ('<?xml version="1.0" encoding="cp037"?>' + strings("<si/>" * 1_000_000)).encode("cp037")
TENFOLD = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
ENTITIES = f'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">{TENFOLD}]>' + strings("<si><t>&i;</t></si>")
LONG = strings("<si><t>" + "x" * 9_000_000 + "</t></si>")
RULE = '<conditionalFormatting sqref="A1"><cfRule type="expression" priority="1"/></conditionalFormatting>'
MERGED = '<mergeCell ref="A1:XFD1048576"/>'

BOMBS = {  # name: (format, how the file is made, what is said; None: it is read)
    "850,000 lines": ("0", lambda: "user\n" + "a\n" * 850_000, TOO_MANY),
    "170,000 different users": ("0", lambda: "user\n" + "".join(f"u{n:07}\n" for n in range(170_000)), TOO_MANY),
    "850,000 quoted lines": ("0", lambda: 'user\n""""\n' + '"b"\n' * 420_000, TOO_MANY),
    "lines of one letter, ended by CR": ("0", lambda: "user\r" + "a\r" * 850_000, TOO_MANY),
    "nothing but empty lines": ("0", lambda: "\n" * 1_700_000, "The file is empty"),
    "nothing but separators": ("0", lambda: (";" * 49 + "\n") * 34_000, "The file is empty"),
    "170 rows of 10,000 columns": ("0", lambda: ("," * 9_999 + "\n") * 170, WIDE),
    "a header of 10,000 names": ("0", lambda: ",".join(f"name{n}" for n in range(10_000)) + "\n", WIDE),
    "a header of one long name": ("0", lambda: "user," + "m" * 100_000 + "\nbob,1\n", "Line 1 has a cell of more than"),
    "a quoted field of all of the file": ("0", lambda: 'user\n"' + "x" * 1_700_000, "Line 2 cannot be read as CSV"),
    "a quoted field of many lines": ("0", lambda: 'user\n"' + "x\n" * 50_000 + '"\n', "Line 2 has a cell of more than"),
    "cells of 100,000 letters": ("0", lambda: "user\n" + ("x" * 100_000 + "\n") * 17, "Line 2 has a cell of more than"),
    "quotation marks": ("0", lambda: 'user\n"' + '""' * 800_000 + '"\n', "Line 2 cannot be read as CSV"),
    "ten million empty texts": ("1", lambda: packed(sharedStrings=strings("<si/>" * 10_000_000)), "50 MB when it is"),
    "three million empty texts": ("1", lambda: packed(sharedStrings=strings("<si/>" * 3_000_000)), CELLS),
    "texts with a prefix": ("1", lambda: packed(sharedStrings=PREFIXED), CELLS),
    "texts in UTF-16": ("1", lambda: packed(sharedStrings=strings("<si/>" * 1_500_000).encode("utf-16")), CELLS),
    "texts in EBCDIC": ("1", lambda: packed(sharedStrings=EBCDIC), "The file could not be read"),
    "as many empty texts as are read": ("1", lambda: packed(sharedStrings=strings("<si/>" * 290_000)), None),
    "rich texts": ("1", lambda: packed(sharedStrings=strings("<si>" + "<r><t/></r>" * 900_000 + "</si>")), OTHERS),
    "as many rich texts as are read": (
        "1",
        lambda: packed(sharedStrings=strings("<si><r><t>a</t></r></si>" * 19_000)),
        None,
    ),
    "300 rows of 10,000 columns": (
        "1",
        lambda: packed(sheet1=sheet(("<row>" + "<c/>" * 10_000 + "</row>") * 300)),
        CELLS,
    ),
    "as many empty cells as are read": ("1", lambda: packed(sheet1=sheet(cells(280_000, "<c/>"))), "The file is empty"),
    "as many full cells as are read": (
        "1",
        lambda: packed(sheet1=sheet(cells(140_000, "<c><v>1</v></c>"))),
        "There is no column user",
    ),
    "as many texts in cells as are read": (
        "1",
        lambda: packed(sheet1=sheet(cells(95_000, '<c t="inlineStr"><is><t>a</t></is></c>'))),
        "There is no column user",
    ),
    "one long text in many cells": (
        "1",
        lambda: packed(sharedStrings=LONG, sheet1=sheet(cells(140_000, '<c t="s"><v>0</v></c>'))),
        "a cell of more than 1,000 characters",
    ),
    "a million rows": ("1", lambda: packed(sheet1=sheet("<row/>" * 1_000_000)), CELLS),
    "a row far below": (
        "1",
        lambda: packed(sheet1=sheet(HEAD + '<row r="1000000000"><c><v>1</v></c></row>')),
        "The sheet goes on below row 10,001",
    ),
    "cells within cells": (
        "1",
        lambda: packed(sheet1=sheet("<row>" + "<c>" * 280_000 + "</c>" * 280_000 + "</row>")),
        "The file",
    ),
    "10,000 sheets of one part": ("1", lambda: many_sheets(10_000), "The file is empty"),
    "100,000 sheets": ("1", lambda: many_sheets(100_000), OTHERS),
    "names": ("1", lambda: named(19_000), None),
    "too many names": ("1", lambda: named(200_000), OTHERS),
    "styles": ("1", lambda: styled(19_000), None),
    "too many styles": ("1", lambda: styled(500_000), OTHERS),
    "merged cells": (
        "1",
        lambda: packed(sheet1=sheet(HEAD, after=f"<mergeCells>{MERGED * 19_000}</mergeCells>")),
        "The file names its columns",
    ),
    "rules": ("1", lambda: packed(sheet1=sheet(HEAD, after=RULE * 9_500)), "The file names its columns"),
    "entities within entities": ("1", lambda: packed(sharedStrings=ENTITIES), "The workbook has a document type"),
    "60 MB of nothing": ("1", lambda: packed(theme1=bytes(60_000_000)), "60 MB when it is unpacked, and may have 20"),
    "another packing": ("1", lambda: packed(zipfile.ZIP_LZMA), "The workbook is packed as no spreadsheet does it"),
    "no end": ("1", lambda: packed(sheet1="<worksheet>" * 200_000), OTHERS),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.django_db(transaction=True)
def test_a_file_that_becomes_large_is_answered_in_words_and_little_time(people, name):
    format, made, said = BOMBS[name]
    client, file = browser_in_role(people["dave"], "operator"), made()
    assert len(file) <= line_files.MAX_FILE
    began = time.process_time()
    answer = upload(client, file, format)
    took = time.process_time() - began
    text = answer.content.decode()
    assert answer.status_code == 200
    assert said in re.sub(r"&#x27;", "'", text) if said else "may have" not in text and "too many" not in text
    assert len(text) < 200_000
    assert took < CPU_S
    assert not Line.objects.exclude(max_incoming=None).exists()


@pytest.mark.parametrize("format", ["0", "1"])
@pytest.mark.django_db(transaction=True)
def test_the_longest_file_is_looked_at_in_little_time_and_a_short_page(people, format):
    client = browser_in_role(people["dave"], "operator")
    users = get_user_model()._default_manager
    users.bulk_create([get_user_model()(username=f"user-{n:05}") for n in range(tables.MAX_ROWS)])
    head = ["user", "multi_device", "may_switch", "max_incoming", "max_outgoing", "edition", "edition_until", "group"]
    good = [[f"user-{n:05}", "1", "0", "2", "3", "allowed", "", ""] for n in range(tables.MAX_ROWS)]
    bad = [[f"nobody-{n}", *["wrong"] * 7] for n in range(tables.MAX_ROWS)]
    for rows, shown, said in (
        (good, 200, "10000 new, 0 changed, 0 as they are. The first 200 of those that change are shown, and 9800 more"),
        (bad, 100, "After 100 wrong lines the rest of the file was not looked at."),
    ):
        file = workbook(head, *rows) if format == "1" else "".join(",".join(row) + "\n" for row in [head, *rows])
        began = time.process_time()
        answer = upload(client, file, format)
        took = time.process_time() - began
        text = answer.content.decode()
        assert said in text
        assert len(re.findall(r'<tr class="new">|<th scope="row" rowspan', text)) == shown
        assert len(text) < 200_000
        assert took < 2 * CPU_S  # it is looked at row by row, and not only read
        if rows is good:
            assert answer.context.get("confirm_form") is not None


def test_what_is_read_of_a_large_file_takes_little_memory():
    """In a process of its own, which reads one after the other: the peak is that of the worst."""
    code = """
import io, os, resource, sys
import django; django.setup()
from calls.admin.line_files import Text, Workbook
from tests.attacks.test_panel_imports import BOMBS
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def grown(what):
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
for name in sys.argv[1:]:
    format, made, _ = BOMBS[name]
    path = f"/tmp/{os.getpid()}"
    child = os.fork()  # what making the file took is not counted
    if not child:
        file = made()
        open(path, "wb").write(file.encode() if isinstance(file, str) else file)
        os._exit(0)
    os.waitpid(child, 0)
    file = open(path, "rb").read()
    os.unlink(path)
    try:
        (Workbook if format == "1" else Text)().create_dataset(file)
    except Exception:
        pass
    print(name, grown(name), flush=True)
"""
    read = [
        name for name in BOMBS if name.startswith(("as many", "one long", "850,000 lines", "nothing", "three million"))
    ]
    ran = subprocess.run([sys.executable, "-c", code, *read], capture_output=True, text=True, check=True, timeout=110)
    peaks = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in ran.stdout.splitlines()}
    assert set(peaks) == set(read)
    assert max(peaks.values()) < MEMORY_MB, peaks


@pytest.mark.django_db(transaction=True)
def test_one_person_has_one_file_read_at_a_time_and_others_their_own(people, monkeypatch):
    held, reads = threading.Event(), threading.Event()
    plain = line_files.Text.create_dataset

    def slow(self, data):
        if b"dave" in data:
            reads.set()
            assert held.wait(20)
        return plain(self, data)

    monkeypatch.setattr(line_files.Text, "create_dataset", slow)
    first, second = (browser_in_role(people["dave"], "operator") for _ in range(2))
    other, answers = browser_in_role(people["carol"], "operator"), []
    reader = threading.Thread(target=lambda: answers.append(upload(first, "user,max_incoming\ndave,3\n")))
    reader.start()
    try:
        assert reads.wait(20)
        refused = upload(second, "user,max_incoming\nbob,3\n")
        assert refused.status_code == 302
        assert "your last file is still being read" in second.get(refused["Location"]).content.decode()
        form = {"import_file_name": "x", "original_file_name": "x", "format": "0"}
        refused = second.post("/admin/devices/line/process_import/", form)
        assert "your last file is still being read" in second.get(refused["Location"]).content.decode()
        assert upload(other, "user,max_incoming\nbob,3\n").context.get("confirm_form") is not None
    finally:
        held.set()
        reader.join()
    assert answers[0].context.get("confirm_form") is not None
    assert upload(second, "user,max_incoming\nbob,3\n").context.get("confirm_form") is not None


@pytest.mark.parametrize(
    "wrong", [{"format": "7"}, {"format": "1"}, {"format": "x"}, {"format": "-1"}, {"resource": "9"}, {"format": ""}]
)
@pytest.mark.django_db(transaction=True)
def test_a_confirmation_that_was_made_up_is_no_fault_of_the_server(people, wrong):
    client = browser_in_role(people["dave"], "operator")
    form = upload(client, "user,max_incoming\nbob,3\n").context["confirm_form"].initial
    assert client.post("/admin/devices/line/process_import/", form | wrong).status_code in (200, 302)
    if "format" in wrong:
        assert Line.objects.get(user=people["bob"]).max_incoming is None
