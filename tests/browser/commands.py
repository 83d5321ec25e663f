"""Runs management commands one after the other: to start Python and Django anew takes longer than most of them.

Reads a line of JSON for each, `["line", "bob"]`, and answers with one: `[true, "what it said"]`.
"""

import io
import json
import sys
import traceback

import django
from django.core.management import call_command
from django.db import connections


def main() -> None:
    django.setup()
    for line in sys.stdin:
        said, good = io.StringIO(), True
        try:
            call_command(*json.loads(line), stdout=said, stderr=said)
        except Exception:
            good = False
            said.write(traceback.format_exc())
        connections.close_all()
        print(json.dumps([good, said.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
