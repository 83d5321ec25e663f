"""`python -m benchmarks panel`: how long the operator's pages take on a large site, and whether they ask no more than a
few statements of the database.

Makes 100,000 users with lines, 300,000 devices, 1,000,000 ended calls with 3,000,000 entries and some live ones, in the
database of DATABASE_URL or one of its own, and reads each page as an operator does. Exits with 1 when a page asks too
much.
"""

from __future__ import annotations

import os
import statistics
import time

import psycopg

from benchmarks import history

MOST_STATEMENTS = 14
GOAL_MS = 200
TIMES = 7  # each page; the middle one counts
LIVE = 500

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
PAGES = {
    "lines": "devices/line/",
    "lines, last page": "devices/line/?p=200",
    "lines, search": "devices/line/?q=4711",
    "lines, multi-device on": "devices/line/?multi_device__exact=1",
    "lines, nobody online": "devices/line/?devices=offline",
    "lines, at the limit": "devices/line/?live=at",
    "devices": "devices/device/",
    "devices, online": "devices/device/?online=yes",
    "devices, search": "devices/device/?q=i4711",
    "calls": "calls/call/",
    "calls, live": "calls/call/?state=live",
    "calls, completed": "calls/call/?reason=completed",
    "calls, busy (none)": "calls/call/?reason=busy",
    "calls, video (none)": "calls/call/?kind=video",
    "calls, last week": "calls/call/?placed=week",
    "calls of one person": "calls/call/?q=i4711",
    "one call": None,
    "changes": "auditlog/logentry/",
    "accounts": "auth/user/",
}


def make(url: str, users: int, calls: int) -> None:
    """The site, unless its users are there already."""
    with psycopg.connect(url, autocommit=True) as db:
        if db.execute("select count(*) from auth_user where username ~ '^i[0-9]+$'").fetchone() == (users,):
            return
        for statement in (USERS, GROUP, LINES, DEVICES):
            db.execute(statement, {"users": users, "each": 3})
    history.add_ended(url, calls)
    history.add_live(url, LIVE)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("vacuum (analyze)")


def measure() -> bool:
    """Prints a line for each page; whether none asked too much. Django is set up, the site is made."""
    from django.contrib.auth import get_user_model
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from calls import aggregates
    from calls.models import Call

    operator = get_user_model()._default_manager.filter(username="bench-operator").first()
    operator = operator or get_user_model()._default_manager.create_superuser("bench-operator", password="bench")
    browser = Client()
    browser.force_login(operator)
    well = True
    print(f"{'page':28}{'ms':>8}{'database':>10}{'statements':>12}")
    for name, path in PAGES.items():
        path = path or f"calls/call/{Call.objects.filter(state='ended').values_list('pk', flat=True)[0]}/change/"
        took, statements, database = [], 0, 0.0
        for _ in range(TIMES):
            with CaptureQueriesContext(connection) as asked:
                began = time.perf_counter()
                response = browser.get(f"/admin/{path}")
                took.append(1000 * (time.perf_counter() - began))
            assert response.status_code == 200, (name, response.status_code)
            statements, database = len(asked), 1000 * sum(float(query["time"]) for query in asked)
        middle = statistics.median(took)
        mark = "" if middle <= GOAL_MS else f"  over {GOAL_MS} ms"
        if statements > MOST_STATEMENTS:
            well, mark = False, mark + f"  more than {MOST_STATEMENTS} statements"
        print(f"{name:28}{middle:8.0f}{database:10.0f}{statements:12}{mark}", flush=True)
    for name, count in (("now", aggregates.now), ("online", aggregates.online), ("last hour", aggregates.last_hour),
                        *((span, lambda span=span: aggregates.plot(span)) for span in aggregates.SPANS)):  # fmt: skip
        began = time.perf_counter()
        count()
        print(f"{'wallboard, ' + name:28}{1000 * (time.perf_counter() - began):8.0f}")
    return well


def run(users: int, calls: int) -> bool:
    from scripts import services

    with services.running() as found:
        os.environ |= found | {"DJANGO_SETTINGS_MODULE": "callplatform.settings", "DEBUG": "off", "HTTPS": "off"}
        os.environ |= {"ALLOWED_HOSTS": "testserver", "SECRET_KEY": "k" * 50, "ENV_FILE": os.devnull}
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
        with psycopg.connect(os.environ["DATABASE_URL"]) as db:
            for table in (*history.TABLES, "devices_line"):
                (size,) = db.execute("select pg_total_relation_size(%s::regclass)", [table]).fetchone() or (0,)
                print(f"{table:28}{size / 1e6:8.0f} MB")
        return well
