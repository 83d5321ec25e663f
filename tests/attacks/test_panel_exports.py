"""Names that would be formulas in the spreadsheet of an operator who saves a list, under any separator."""

import csv
import io

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook

from calls.cells import plain, unquoted
from devices.models import Device, Line, LineGroup
from tests.panel_kit import browser_of, saved, upload

FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
SEPARATORS = (",", ";", "\t", "|")
NAMES = (
    "=cmd|' /C calc'!A0", "+1+cmd", "-1+cmd", "@SUM(A1)", "x;=cmd|' /C calc'!A0", "x\t=cmd", "x,=cmd", "x|=cmd",
    'x;"=cmd', 'x; =cmd', 'x;\u00a0=cmd', ';";"=cmd', "x\n=cmd", "x\r=cmd", "x\r\n@cmd", '"=cmd', " =cmd", "x;+4912;=1",
    "x;－cmd", "'=cmd", "x;'=cmd", "x;'' \"=cmd", '","=cmd', "x;;;;=cmd", "\t=cmd", "+4912345", "-5", "x\";\"\"=cmd",
)  # fmt: skip
HARMLESS = (
    "Anna – phone",
    "a-b",
    "x; y",
    "1,5",
    "2026-01-31 10:00",
    "O'Neill",
    "user@corp.example",
    "a + b = c",
    "",
    "–",
)


def fields_of(file, separator):
    return [cell for row in csv.reader(io.StringIO(file, newline=""), delimiter=separator) for cell in row]


def formulas_of(file):
    """The fields that are formulas, under each separator, spaces before them skipped or not."""
    found = []
    for separator in SEPARATORS:
        for cell in fields_of(file, separator):
            for begun in (cell, cell.lstrip(" \u00a0"), cell.lstrip(' "')):
                if begun.startswith(FORMULA):
                    found.append((separator, cell))
    return found


def written(*rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([plain(cell) for cell in row] for row in rows)
    return text.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_no_field_is_a_formula_under_any_separator(name):
    assert formulas_of(written([name, "a", name, 7], ["b", name])) == []
    assert unquoted(plain(name)) == name


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_formula_stays_as_it_is(text):
    assert plain(text) == text
    assert unquoted(text) == text
    assert [plain(each) for each in (0, -0.5, 12, True)] == [0, -0.5, 12, True]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(st.text(alphabet="=+-@\t\r\n;,|\"' ax1＝", max_size=12), min_size=1, max_size=3), max_size=3))
def test_whatever_the_cells_no_field_is_a_formula_and_the_text_comes_back(rows):
    assert formulas_of(written(*rows)) == []
    assert [[unquoted(plain(cell)) for cell in row] for row in rows] == rows


@pytest.mark.django_db(transaction=True)
def test_the_lists_of_the_panel_write_no_formula(people):
    now, operator = timezone.now(), browser_of(people["operator"])
    when = {"logged_in_at": now, "last_seen_at": now, "online_until": now}
    Device.objects.bulk_create([Device(user=people["bob"], name=name, **when) for name in NAMES])
    LineGroup.objects.bulk_create([LineGroup(name=name) for name in NAMES])
    Line.objects.filter(user=people["bob"]).update(group=LineGroup.objects.get(name="x;=cmd|' /C calc'!A0"))
    people["bob"].username = "@bob"
    people["bob"].save()
    for path in ("devices/device", "devices/linegroup", "devices/line", "auditlog/logentry"):
        file = saved(operator.post(f"/admin/{path}/export/", {"format": "0"})).decode()
        assert formulas_of(file) == [], path
        book = load_workbook(io.BytesIO(saved(operator.post(f"/admin/{path}/export/", {"format": "1"}))))
        cells = [cell for row in book.active.iter_rows() for cell in row]
        assert not [cell.value for cell in cells if cell.data_type == "f"], path
        assert formulas_of("\n".join(str(cell.value) for cell in cells if cell.data_type == "s")) == [], path
    lines = saved(operator.post("/admin/devices/line/export/", {"format": "0"})).decode()
    assert "x;'=cmd" in lines
    assert upload(operator, lines).context.get("confirm_form") is not None  # the group is found by its own name
