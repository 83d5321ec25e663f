"""Strict reading of the environment: a value is right, or it stops the start with one sentence that names its variable.

Knows nothing of Django's settings; settings.py says which variables exist and what they mean.
"""

import ipaddress
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

TEN_YEARS_S = 10 * 365 * 86_400.0
DATABASE_SCHEMES = ("postgres", "postgresql", "sqlite")
YES = {"on", "true", "yes", "1"}
NO = {"off", "false", "no", "0"}


class Environment:
    """The process's environment, and a `.env` file for what it does not set.

    An empty value counts as not set, so that `NAME=` in a file means the default.
    `names` collects every variable that was asked for: a test compares it with .env.example.
    """

    def __init__(self, file: Path | None) -> None:
        self.names: set[str] = set()
        if file is not None and file.is_file():
            environ.Env.read_env(file)

    def text(self, name: str, default: str = "") -> str:
        self.names.add(name)
        return os.environ.get(name, "").strip() or default

    def switch(self, name: str, default: bool) -> bool:
        value = self.text(name).lower()
        if not value:
            return default
        if value in YES | NO:
            return value in YES
        raise ImproperlyConfigured(f"{name} is {value!r}: say on or off.")

    def choice(self, name: str, *choices: str) -> str:
        """One of these words; the first is the default."""
        value = self.text(name, choices[0]).lower()
        if value not in choices:
            raise ImproperlyConfigured(f"{name} is {value!r}: it must be one of {', '.join(choices)}.")
        return value

    def whole(self, name: str, default: int, least: int = 0, most: int | None = None) -> int:
        value = self.text(name)
        limits = f"from {least} to {most}" if most is not None else f"of {least} or more"
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least or (most is not None and int(value) > most):
            raise ImproperlyConfigured(f"{name} is {value!r}: it must be a whole number {limits}.")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        """A length of time in seconds, above zero and at most ten years; fractions are allowed."""
        value = self.text(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number <= TEN_YEARS_S:
            raise ImproperlyConfigured(
                f"{name} is {value!r}: it must be a number of seconds above 0, ten years at most."
            )
        return number

    def words(self, name: str) -> list[str]:
        """A list, its parts separated by commas."""
        return [word.strip() for word in self.text(name).split(",") if word.strip()]

    def hosts(self, name: str) -> list[str]:
        hosts = self.words(name)
        for host in hosts:
            if not re.fullmatch(r"\*|\.?[\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:.]+\]", host):
                raise ImproperlyConfigured(
                    f"{name} has {host!r}: give names or addresses, without scheme, port or path, like "
                    "calls.example.com."
                )
        return hosts

    def origins(self, name: str) -> list[str]:
        origins = self.words(name)
        for origin in origins:
            if not re.fullmatch(r"https?://(\*\.)?([\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", origin):
                raise ImproperlyConfigured(
                    f"{name} has {origin!r}: give scheme and host without a path, "
                    "like https://calls.example.com or https://*.example.com."
                )
        return origins

    def networks(self, name: str) -> list[str]:
        networks = self.words(name)
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ImproperlyConfigured(f"{name} has {network!r}: give networks like 10.0.0.0/8.") from None
        return networks

    def ice_urls(self, name: str, *schemes: str) -> list[str]:
        """Addresses of STUN or TURN servers, like `turn:turn.example.com:3478?transport=udp`."""
        urls = self.words(name)
        for url in urls:
            pattern = rf"({'|'.join(schemes)}):([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{{1,5}})?(\?transport=(udp|tcp))?"
            if not re.fullmatch(pattern, url):
                raise ImproperlyConfigured(
                    f"{name} has {url!r}: it must look like {schemes[0]}:{schemes[0]}.example.com:3478."
                )
        return urls

    def push_key(self, name: str) -> str:
        """A private key of Web Push, as `manage.py push_keys` prints it."""
        value = self.text(name)
        if value and not re.fullmatch(r"[A-Za-z0-9_-]{43}", value):
            raise ImproperlyConfigured(f"{name} is not a key of 43 letters: make one with `manage.py push_keys`.")
        return value

    def contact(self, name: str) -> str:
        """An address for people, like `mailto:ops@example.com` or `https://example.com/contact`."""
        value = self.text(name)
        if value and not re.fullmatch(r"mailto:[^@\s]+@[^@\s]+|https://\S+", value):
            raise ImproperlyConfigured(f"{name} is {value!r}: it must look like mailto:ops@example.com.")
        return value

    def database(self, name: str) -> dict[str, Any] | None:
        """Django's settings of one database, from `postgres://user:password@host:port/name` or `sqlite:///file`."""
        url = self.text(name)
        if not url:
            return None
        shape = "postgres://user:password@host:5432/name or sqlite:///path/to/file"
        if url.partition("://")[0] not in DATABASE_SCHEMES:
            raise ImproperlyConfigured(f"{name} is not the address of a database: it must look like {shape}.")
        try:
            with warnings.catch_warnings(action="error"):
                config = dict(environ.Env.db_url_config(url))
            host = unquote(urlsplit(url).netloc.rpartition("@")[2].partition(":")[0])
        except (ValueError, UserWarning):
            # Not the cause's own words: they may hold the password.
            raise ImproperlyConfigured(f"{name} cannot be read: it must look like {shape}.") from None
        if config["NAME"] in ("", ":memory:"):
            raise ImproperlyConfigured(f"{name} names no database: it must look like {shape}.")
        if host.startswith("/"):  # the directory of a Unix socket, as libpq takes it
            config["HOST"] = host
        return config

    def redis(self, name: str) -> str:
        url = self.text(name)
        if not url:
            return ""
        try:
            parts = urlsplit(url)
            right = bool(parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0)
            right = right or bool(parts.scheme == "unix" and parts.path)
        except ValueError:
            right = False
        if not right:
            raise ImproperlyConfigured(
                f"{name} is not the address of a Redis: it must look like redis://host:6379/0 or unix:///path/to/socket."
            )
        return url
