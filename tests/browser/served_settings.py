"""The product's own settings as a site would run it, with a place of its own for what it makes."""

import os
from pathlib import Path

from callplatform.settings import *  # noqa: F403

VAR_DIR = Path(os.environ["SITE_VAR"])
STATIC_ROOT = VAR_DIR / "static"
DEVICES_AN_HOUR = 10_000  # the same few people sign in for every test
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the slow one costs 0.3 s a sign-in
