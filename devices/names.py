"""What a device may be called. Names are shown in lists, and in "Answered on …": there must be something to see.

Pure: imports nothing of the house.
"""

import re
import unicodedata

MOST = 64  # characters
MOST_MARKS = 4  # combining marks on one character: more than any language writes, too few to cover the lines around it
JOINERS = "\u200c\u200d"  # between two characters they are part of the writing: in Persian, and in many emoji
BLANK_LETTERS = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")  # letters and a symbol by category, and nothing to see
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # control, direction, zero width, private, unassigned


def clean(name: str) -> str:
    """The name without what cannot be seen, in Unicode's form NFC; "" when there is nothing left to see."""
    spaced = re.sub(r"\s+", " ", BLANK_LETTERS.sub(" ", unicodedata.normalize("NFC", name)))
    kept: list[str] = []
    marks = 0
    for char in spaced:
        category = unicodedata.category(char)
        if char in JOINERS:
            if not kept or kept[-1] in f" {JOINERS}":
                continue
        elif category in HIDDEN:
            continue
        else:
            marks = marks + 1 if category[0] == "M" else 0
        if marks > MOST_MARKS or (marks and not kept):
            continue
        kept.append(char)
    found = unicodedata.normalize("NFC", re.sub(" +", " ", "".join(kept)))[:MOST].strip(f" {JOINERS}")
    return found if any(unicodedata.category(char)[0] in "LNPS" for char in found) else ""
