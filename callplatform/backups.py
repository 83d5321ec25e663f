"""All that is stored, into one file and back. PostgreSQL's own tools do it for PostgreSQL, and SQLite's for SQLite:
both take the state of one moment while servers go on.

A file appears under its name only when it is whole. A restore happens as a whole, or not at all.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection
from django.utils import timezone
from psycopg.conninfo import make_conninfo

LIBPQ = (
    "dbname", "user", "host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "service", "passfile",
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
POSTGRESQL, SQLITE = b"PGDMP", b"SQLite format 3\0"  # how a file of each begins
TABLE = "calls_call"  # which every backup has
LOCK_WAIT = "30s"  # for tables that somebody holds
BUSY_S = 30.0
GONE_S = 2.0


class Refused(Exception):
    """Why nothing was done: a sentence for the operator."""


def back_up(path: Path) -> None:
    """Writes what is stored to a new file, which only its owner can read. Raises Refused."""
    if path.exists():
        raise Refused(f"{path} exists: name a new file.")
    with _part(path) as part:
        (_dump if connection.vendor == "postgresql" else _copy)(part)
        with part.open("rb") as whole:
            os.fsync(whole.fileno())
        os.replace(part, path)
    _note(path)


def restore(path: Path, *, replace: bool) -> None:
    """Puts back what a backup has. Raises Refused, also where something is stored that is not to be replaced."""
    try:
        with path.open("rb") as file:
            begins = file.read(16)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None
    expected, name = (POSTGRESQL, "PostgreSQL") if connection.vendor == "postgresql" else (SQLITE, "SQLite")
    if not begins.startswith(expected):
        raise Refused(f"{path} is no backup of {name}, which DATABASE_URL names.")
    try:
        tables = connection.introspection.table_names()
    finally:
        connection.close()
    if tables and not replace:
        raise Refused(f"The database is not empty: it has {len(tables)} tables. To lose what is in it, add --replace.")
    (_load if connection.vendor == "postgresql" else _put)(path)


def last() -> tuple[str, float] | None:
    """The file of the last backup made here, and the age of that in hours; None when none was made."""
    try:
        noted = json.loads(_noted().read_text())
        age = timezone.now().timestamp() - noted["at"]
        return str(noted["file"]), age / 3600
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _noted() -> Path:
    return Path(settings.VAR_DIR) / "last-backup.json"


def _note(path: Path) -> None:
    """For the doctor. A backup is whole without it."""
    with contextlib.suppress(OSError):
        _noted().parent.mkdir(exist_ok=True)
        _noted().write_text(json.dumps({"file": str(path.absolute()), "at": timezone.now().timestamp()}))


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A new file beside `path` for its owner only, which is gone afterwards if it was not moved."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}.") from None
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


# ── PostgreSQL ──


def _dump(part: Path) -> None:
    _run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--no-comments",
         f"--lock-wait-timeout={LOCK_WAIT}", f"--file={part}", f"--dbname={_where()}")  # fmt: skip
    contents = _run("pg_restore", "--list", str(part)).decode(errors="replace")
    if f" {TABLE} " not in contents:
        raise Refused(f"There is no table {TABLE} in the database: is DATABASE_URL the right one?")


def _load(path: Path) -> None:
    """In one transaction of psql, so that a backup that does not fit leaves the database as it was."""
    others = _others()
    if others:
        raise Refused(f"Stop the servers first: {others} other connections to the database are open.")
    place = Path(settings.VAR_DIR)
    place.mkdir(exist_ok=True)
    with _part(place / "restore.sql") as script:
        _run("pg_restore", "--no-owner", "--no-privileges", "--no-comments", f"--file={script}", str(path))
        _run("psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", f"--command={EMPTY}",
             f"--file={script}", f"--dbname={_where()}")  # fmt: skip


OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""

# Tables only, because the extension may belong to somebody else.
EMPTY = """
DO $$
DECLARE each record;
BEGIN
    SET LOCAL lock_timeout = '30s';
    FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DROP TABLE public.%I CASCADE', each.tablename);
    END LOOP;
END $$;
"""


def _others() -> int:
    """How many other connections there are. Those of our own pool, which is closed, may take a moment to be gone."""
    connection.close_pool()  # type: ignore[attr-defined]  # only PostgreSQL's has one
    with psycopg.connect(_where(), password=connection.get_connection_params().get("password")) as asking:
        end = time.monotonic() + GONE_S
        while True:
            (others,) = asking.execute(OTHERS).fetchone() or (0,)
            if not others or time.monotonic() > end:
                return int(others)
            time.sleep(0.05)


def _where() -> str:
    known = connection.get_connection_params()
    return make_conninfo(**{name: known[name] for name in LIBPQ if known.get(name) not in (None, "")})


def _run(program: str, *arguments: str) -> bytes:
    """What it printed. The password is in its environment, because everybody sees the arguments of a process."""
    found = shutil.which(program)
    if found is None:
        raise Refused(f"{program} is missing. Install PostgreSQL's programs (Debian: postgresql-client).")
    environment: dict[str, Any] = dict(os.environ)
    if password := connection.get_connection_params().get("password"):
        environment["PGPASSWORD"] = password
    command: Sequence[str] = (found, *arguments)
    ran = subprocess.run(command, env=environment, capture_output=True, check=False, umask=0o077)  # noqa: S603
    if ran.returncode:
        said = [line for line in ran.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise Refused(f"{program} failed: {said[0] if said else f'status {ran.returncode}'}")
    return ran.stdout


# ── SQLite ──


def _copy(part: Path) -> None:
    source = Path(connection.settings_dict["NAME"])
    if not source.exists():
        raise Refused(f"There is no database {source}.")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        ) as db:
            _sqlite_copy(db, part)
    except sqlite3.Error as error:
        raise Refused(f"SQLite failed: {error}.") from None


def _sqlite_copy(source: sqlite3.Connection, to: Path) -> None:
    """In one step, which sees one moment; writers go on beside it."""
    with contextlib.closing(sqlite3.connect(to)) as copy:
        source.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a second one for what was written last
        (well,) = copy.execute("PRAGMA quick_check").fetchone()
        if well != "ok":
            raise Refused(f"The database is damaged: {well}.")
        if not copy.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [TABLE]).fetchone():
            raise Refused(f"There is no table {TABLE} in it.")


def _put(path: Path) -> None:
    target = Path(connection.settings_dict["NAME"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{target}.lock").open("a") as lock, _part(target) as part:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a server holds it while it serves
        except BlockingIOError:
            raise Refused("Stop the server first: it serves from this database.") from None
        try:
            source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            with contextlib.closing(source):
                _sqlite_copy(source, part)
        except sqlite3.Error as error:
            raise Refused(f"{path} cannot be restored: {error}.") from None
        # What was written last is beside the old file: it goes into that first, so that a crash here loses nothing.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(target)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for rest in ("-wal", "-shm"):
            Path(f"{target}{rest}").unlink(missing_ok=True)
        os.replace(part, target)
