"""`python -m benchmarks panel`: how long the operator's pages take on a large site, and whether they ask no more than a
few statements of the database.

Makes 100,000 users with lines, 300,000 devices, 1,000,000 ended calls with 3,000,000 entries and some live ones, in the
database of DATABASE_URL or one of its own, and reads each page as an operator does. Exits with 1 when a page asks too
much.
"""

from __future__ import annotations

import os
import secrets
import statistics
import time

import psycopg

from benchmarks import history

MOST_STATEMENTS = 12
GOAL_MS = 200
TIMES = 7  # each page; the middle one counts
LIVE = 5000
CHANGES = 300_000

USERS = """
insert into auth_user (username, password, first_name, last_name, email, is_superuser, is_staff, is_active, date_joined)
select 'i' || n, '!', 'Person', n::text, '', false, false, true, now() from generate_series(0, %(users)s - 1) as n
on conflict do nothing
"""
GROUP = "insert into devices_linegroup (name, max_incoming) values ('Sales', 2) on conflict do nothing"
LINES = """
insert into devices_line (user_id, multi_device, may_switch, max_incoming, group_id)
select id, id %% 3 = 0, false, case when id %% 10 = 0 then 3 end,
       case when id %% 4 = 0 then (select min(id) from devices_linegroup) end
from auth_user where username ~ '^i[0-9]+$' on conflict do nothing
"""
DEVICES = """
insert into devices_device (id, user_id, name, kind, session_key, logged_in_at, last_seen_at, online_until)
select gen_random_uuid(), id, 'Device ' || n, 'web', '', now() - random() * interval '90 days', now(),
       now() + case when random() < 0.2 then interval '1 day' else interval '-1 day' end
from auth_user, generate_series(1, %(each)s) as n where username ~ '^i[0-9]+$'
"""
KINDS = """
update calls_call set kind = case when get_byte(uuid_send(id), 0) < 26 then 'video' else kind end,
       reason = case when get_byte(uuid_send(id), 1) < 13 then 'busy'
                     when get_byte(uuid_send(id), 1) < 26 then 'no_answer' else reason end,
       answered_at = case when get_byte(uuid_send(id), 1) < 26 then null else answered_at end
where state = 'ended' and (get_byte(uuid_send(id), 0) < 26 or get_byte(uuid_send(id), 1) < 26)
"""
LOG = """
insert into auditlog_logentry (content_type_id, object_pk, object_id, object_repr, action, changes, changes_text,
                               timestamp)
select (select id from django_content_type where app_label = 'devices' and model = 'line'), n::text, n,
       'Line of i' || n, 1, '{"max_incoming": ["None", "2"]}', '', now() - n * interval '1 min'
from generate_series(1, %(changes)s) as n
"""
PAGES = {
    "lines": "devices/line/",
    "lines, last page": "devices/line/?p=100",
    "lines, search": "devices/line/?q=4711",
    "lines, multi-device on": "devices/line/?multi_device__exact=1",
    "lines, nobody online": "devices/line/?devices=offline",
    "lines, no device (none)": "devices/line/?devices=none",
    "lines, at the limit": "devices/line/?live=at",
    "lines, in no call": "devices/line/?live=none",
    "one line": "devices/line/{line}/change/",
    "devices": "devices/device/",
    "devices, last page": "devices/device/?p=40",
    "devices, online": "devices/device/?online=yes",
    "devices, signed out": "devices/device/?online=out",
    "devices of one person": "devices/device/?q=i4711",
    "devices, address (none)": "devices/device/?q=192.0.2.7",
    "calls": "calls/call/",
    "calls, last page": "calls/call/?p=40",
    "calls, live": "calls/call/?state=live",
    "calls, completed": "calls/call/?reason=completed",
    "calls, busy": "calls/call/?reason=busy",
    "calls, lost (none)": "calls/call/?reason=lost",
    "calls, video": "calls/call/?kind=video",
    "calls, last week": "calls/call/?placed=week",
    "calls of one person": "calls/call/?q=i4711",
    "calls of very many": "calls/call/?q=Person",
    "one call": "calls/call/{call}/change/",
    "changes": "auditlog/logentry/",
    "changes of one line": "auditlog/logentry/?q=i4711",
    "accounts": "auth/user/",
    "accounts, search": "auth/user/?q=4711",
}


def make(url: str, users: int, calls: int) -> None:
    """The site, unless its users are there already."""
    with psycopg.connect(url, autocommit=True) as db:
        if db.execute("select count(*) from auth_user where username ~ '^i[0-9]+$'").fetchone() == (users,):
            return
        for statement in (USERS, GROUP, LINES, DEVICES):
            db.execute(statement, {"users": users, "each": 3})
    history.add_ended(url, calls)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(KINDS)
        db.execute(LOG, {"changes": CHANGES})
    history.add_live(url, LIVE)


def measure() -> bool:
    """Prints a line for each page, and which were slow. Returns whether none asked too much. Django is set up.

    Times are only printed: on a machine that does something else too, they say as much about that.
    """
    from django.contrib.auth import get_user_model
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from calls.models import Call
    from devices.models import Line

    operator = get_user_model()._default_manager.filter(username="bench-operator").first()
    operator = operator or get_user_model()._default_manager.create_superuser("bench-operator", password="bench")
    browser = Client()
    browser.force_login(operator)
    well, slow = True, []
    call = Call.objects.filter(state="ended").values_list("pk", flat=True)[0]
    line = Line.objects.values_list("pk", flat=True)[0]
    print(f"{'page':28}{'ms':>8}{'least':>8}{'database':>10}{'statements':>12}")
    for name, path in PAGES.items():
        took, statements, database = [], 0, []
        for _ in range(TIMES):
            with CaptureQueriesContext(connection) as asked:
                began = time.perf_counter()
                response = browser.get(f"/admin/{path.format(call=call, line=line)}")
                took.append(1000 * (time.perf_counter() - began))
            assert response.status_code == 200, (name, response.status_code)
            statements = len(asked)
            database.append(1000 * sum(float(query["time"]) for query in asked))
        middle = statistics.median(took)
        mark = ""
        if middle > GOAL_MS:
            slow.append(name)
            mark = f"  over {GOAL_MS} ms"
        if statements > MOST_STATEMENTS:
            well, mark = False, mark + f"  more than {MOST_STATEMENTS} statements"
        print(
            f"{name:28}{middle:8.0f}{min(took):8.0f}{statistics.median(database):10.0f}{statements:12}{mark}",
            flush=True,
        )
    print(f"over {GOAL_MS} ms: {', '.join(slow) or 'none'}")
    return well


def watch(url: str) -> bool:
    """What a second of the wallboard costs while few calls are live and while many are; whether it is the same."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from calls import wallboard

    print(f"{'wallboard':40}{'ms':>6}{'least':>6}{'statements':>12}{'bytes':>8}")
    seen = set()
    for live in (10, LIVE):
        history.remove_live(url)
        history.add_live(url, live)
        for name, every in (("a second", False), ("everything counted anew", True)):
            took, board = [], wallboard.Board()
            board.count()
            for _ in range(TIMES):
                if every:
                    board.counted_at.clear()
                with CaptureQueriesContext(connection) as asked:
                    began = time.perf_counter()
                    frames = board.count()
                    took.append(1000 * (time.perf_counter() - began))
            size = sum(map(len, frames))
            seen.add((name, len(asked)))
            print(f"{f'{name}, {live:,} live':40}{statistics.median(took):6.1f}{min(took):6.1f}{len(asked):12}{size:8}")
    return len(seen) == 2


def run(users: int, calls: int) -> bool:
    from scripts import services

    with services.running() as found:
        os.environ |= found | {"DJANGO_SETTINGS_MODULE": "callplatform.settings", "DEBUG": "off", "HTTPS": "off"}
        os.environ |= {"ALLOWED_HOSTS": "testserver", "SECRET_KEY": secrets.token_urlsafe(48), "ENV_FILE": os.devnull}
        import django

        django.setup()
        from django.conf import settings
        from django.core.management import call_command

        settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
        call_command("migrate", verbosity=0)
        began = time.perf_counter()
        make(os.environ["DATABASE_URL"], users, calls)
        print(f"{users:,} users, {3 * users:,} devices, {calls:,} calls, made in {time.perf_counter() - began:.0f} s")
        well = measure()
        well = watch(os.environ["DATABASE_URL"]) and well
        with psycopg.connect(os.environ["DATABASE_URL"]) as db:
            for table in (*history.TABLES, "devices_line"):
                (size,) = db.execute("select pg_total_relation_size(%s::regclass)", [table]).fetchone() or (0,)
                print(f"{table:28}{size / 1e6:8.0f} MB")
        return well
