#!/usr/bin/env python
"""Django's command line for this project."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "callplatform.settings")
    try:
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
        from django.db import OperationalError
    except ImportError as error:
        raise SystemExit(f"Django is missing in {sys.executable}: use `make run`, or .venv/bin/python.") from error
    try:
        settings.INSTALLED_APPS  # noqa: B018 - reads the environment now, so that a wrong value is one sentence
    except ImproperlyConfigured as error:
        raise SystemExit(str(error)) from None
    try:
        execute_from_command_line(sys.argv)
    except OperationalError:
        from callplatform import database

        if (why := database.absence()) is None:
            raise
        raise SystemExit(f"The database cannot be reached: {why} Look at DATABASE_URL.") from None


if __name__ == "__main__":
    main()
