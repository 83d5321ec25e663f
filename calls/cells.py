"""Texts as cells of spreadsheets: written so that no spreadsheet takes one for a formula, and read back.

Pure: imports nothing of the house.
"""

import re
from typing import Any

# What a spreadsheet takes for a formula: one of these characters where a field begins, with or without spaces and
# quotation marks before it. A field begins with the cell, and behind whatever the reader takes for a separator: a file
# with commas that is opened with semicolons has other fields than the ones that were written.
_BEGIN = r"(?:\A|(?<=[;,|\t\r\n]))"
_FORMULA = r"""'*(?:[^\S\t\r\n]|")*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]"""
_UNMARKED = re.compile(f"{_BEGIN}(?={_FORMULA})")
_MARKED = re.compile(f"{_BEGIN}'(?={_FORMULA})")


def plain(value: Any) -> str | int | float:
    """A value as a cell of which no spreadsheet takes a part for a formula, whatever separator it opens the file with.

    Numbers stay numbers. A text gets an apostrophe wherever a formula could begin: people choose their own names, and
    those of devices.
    """
    if isinstance(value, (int, float)):
        return value
    return _UNMARKED.sub("'", "" if value is None else str(value))


def unquoted(text: str) -> str:
    """The text that `plain` made this cell of."""
    return _MARKED.sub("", text) if "'" in text else text
