"""Looks at a site as its operator would: is all there that it needs, and does it work from outside?"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import checks
from django.db import DatabaseError, OperationalError, connection
from django.utils import timezone

from callplatform import backups, database, outside, static
from callplatform.findings import Check, Finding
from calls import clock, conf
from calls.after import push
from devices import times

LITTLE_DISK, NO_DISK = 0.10, 0.02  # of a disk that is free
OLD_H = 48  # of a backup


def all_checks(address: str) -> dict[str, Check]:
    """Every check by name. `address` is where people reach the site, like https://calls.example.com; "": not looked."""
    return {
        "settings": settings_fit,
        "database": database_answers,
        "clock": clocks_agree,
        "redis": redis_answers,
        "static files": files_are_collected,
        "accounts": somebody_may_operate,
        "address": lambda: outside.site(address),
        "certificate": lambda: outside.certificate(address),
        "stun": outside.stun,
        "turn": outside.turn,
        "push": pushes_can_go,
        "disk": disks_have_room,
        "backup": one_is_young,
    }


def public_address() -> str:
    """Where people reach the site, as far as the settings say so: the first of ALLOWED_HOSTS that is a public name."""
    for host in settings.ALLOWED_HOSTS:
        if "." in host.strip(".") and not host.startswith((".", "[")) and not host.replace(".", "").isdecimal():
            return f"{'https' if settings.HTTPS else 'http'}://{host}"
    return ""


def settings_fit() -> Iterator[Finding]:
    """What `manage.py check --deploy` says, and hosts that are too wide."""
    complaints = checks.run_checks(include_deployment_checks=not settings.DEBUG)
    for complaint in complaints:
        if not complaint.is_silenced() and complaint.level >= checks.WARNING:
            says = f"{complaint.msg} {complaint.hint or ''}".strip()
            yield Finding("settings", "error" if complaint.level >= checks.ERROR else "warning", " ".join(says.split()))
    if settings.DEBUG:
        yield Finding("settings", "warning", "DEBUG is on: never so where strangers can reach the site.")
    if "*" in settings.ALLOWED_HOSTS:
        yield Finding("settings", "warning", "ALLOWED_HOSTS is *: name the hosts that people use.")
    if not complaints and not settings.DEBUG:
        yield Finding("settings", "ok", "they fit each other.")


def database_answers() -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        version = ".".join(map(str, connection.get_database_version()))
        bounds, behind = database.missing_bounds(), database.is_behind()
    except OperationalError as error:
        yield Finding("database", "error", f"it cannot be reached: {database.why_not(error)} Look at DATABASE_URL.")
        return
    finally:
        connection.close()
    yield Finding("database", "ok", f"{connection.display_name} {version} answers.")
    if bounds:
        yield Finding("database", "error", f"behind a pooler, the role has to have bounds. Run in PostgreSQL: {bounds}")
    if behind:
        yield Finding("migrations", "error", "some are missing. Run: manage.py migrate")
    else:
        yield Finding("migrations", "ok", "all are done.")


def clocks_agree() -> Iterator[Finding]:
    """This machine's time against the database's, which calls go by."""
    if connection.vendor != "postgresql":
        yield Finding("clock", "ok", "the database is on this machine.")
        return
    try:
        with connection.cursor() as cursor:
            asked = timezone.now()
            cursor.execute("SELECT clock_timestamp()")
            (theirs,) = cursor.fetchone()
            times.compare(asked, theirs, timezone.now())
    except OperationalError:
        yield Finding("clock", "error", "it cannot be compared while the database is away.")
        return
    finally:
        connection.close()
    sentence = clock.skew()
    if sentence:
        yield Finding("clock", "error", f"{sentence}.")
    else:
        yield Finding("clock", "ok", f"{abs(times.ahead_s()):.1f} s from the database's.")


def redis_answers() -> Iterator[Finding]:
    if not settings.REDIS_URL:
        yield Finding("redis", "ok", "none is set: one process serves, and commands cannot tell devices what they did.")
        return
    try:
        store: Any = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=3, socket_connect_timeout=3)
        with store:
            store.publish("callplatform-doctor", "")
            version = store.info("server").get("redis_version", "?")
    except (redis.RedisError, OSError) as error:
        yield Finding("redis", "error", f"it cannot be used: {error}. Look at REDIS_URL.")
        return
    yield Finding("redis", "ok", f"version {version} answers.")


def files_are_collected() -> Iterator[Finding]:
    missing = static.missing()
    if missing:
        says = f"{len(missing)} are not in {settings.STATIC_ROOT}. Run: manage.py collectstatic --noinput"
        yield Finding("static files", "error", says)
    else:
        yield Finding("static files", "ok", "debug serves them." if settings.DEBUG else "all are collected.")


def somebody_may_operate() -> Iterator[Finding]:
    try:
        if get_user_model()._default_manager.filter(is_active=True, is_superuser=True).exists():
            yield Finding("accounts", "ok", "there is a superuser.")
        else:
            yield Finding("accounts", "warning", "nobody is a superuser. Run: manage.py createsuperuser")
    except DatabaseError:
        yield Finding("accounts", "warning", "they cannot be read yet: see database and migrations.")
    finally:
        connection.close()


def pushes_can_go() -> Iterator[Finding]:
    key = conf.get("PUSH_KEY")
    if not key:
        yield Finding("push", "warning", "devices whose page is closed are not woken. Run: manage.py push_keys")
        return
    if not push.is_key(key):
        yield Finding("push", "error", "PUSH_KEY is no key of Web Push. Run: manage.py push_keys")
        return
    for host in conf.get("PUSH_HOSTS"):
        if not host.startswith("."):
            yield outside.reaches("push", host, 443)
            return
    yield Finding("push", "ok", "the key is one.")


def disks_have_room() -> Iterator[Finding]:
    paths = {Path(settings.VAR_DIR)}
    if connection.vendor == "sqlite":
        paths.add(Path(connection.settings_dict["NAME"]).parent)
    for path in sorted(paths):
        usage = shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists()))
        free = usage.free / usage.total
        says = f"{usage.free / 1e9:,.1f} GB ({free:.0%}) are free at {path}."
        if free < LITTLE_DISK:
            yield Finding("disk", "error" if free < NO_DISK else "warning", f"{says} Make room.")
        else:
            yield Finding("disk", "ok", says)


def one_is_young() -> Iterator[Finding]:
    last = backups.last()
    if last is None:
        yield Finding("backup", "warning", "none was made on this machine by manage.py backup.")
        return
    file, hours = last
    says = f"the last one made here is {hours:,.0f} hours old: {file}."
    if not Path(file).exists():
        says += " It is not there any more."
    yield Finding("backup", "warning" if hours > OLD_H else "ok", says)


def address_of(text: str) -> str:
    """An address like https://calls.example.com, without what follows. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(text)
    return f"{parts.scheme}://{parts.netloc}"
