"""A site with a past, for attacks on what has to be looked through."""

import pytest
from django.db import connection


@pytest.fixture
def many(people):
    """20,000 people, and 20,000 calls of the operator with them."""
    if connection.vendor != "postgresql":
        pytest.skip("made with PostgreSQL's generate_series")
    operator = people["operator"].pk
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO auth_user (username, first_name, last_name, email, password, is_active, is_staff,
                                      is_superuser, date_joined)
               SELECT 'aaaa' || n, 'a' || n || 'a', 'aa' || n, '', '', true, false, false, now()
               FROM generate_series(1, 20000) n"""
        )
        cursor.execute(
            """CREATE TEMPORARY TABLE made AS
               SELECT row_number() OVER () AS n, gen_random_uuid() AS id, pk FROM
               (SELECT id AS pk FROM auth_user WHERE username LIKE 'aaaa%%' ORDER BY id) each"""
        )
        cursor.execute(
            """INSERT INTO calls_call (id, v, kind, state, reason, host_id, placed_at, ended_at, ended_by)
               SELECT id, 2, 'audio', 'ended', 'cancelled', %s, now(), now(), '' FROM made ORDER BY n""",
            [operator],
        )
        for dir, who in (("out", str(operator)), ("in", "pk")):
            cursor.execute(
                f"""INSERT INTO calls_leg (call_id, user_id, username, name, dir, state, multi, alerted, device_name,
                                           epoch, online, held, mic, cam)
                    SELECT id, {who}, 'aaaa' || n, 'a' || n || 'a aa' || n, '{dir}', 'left', false, false, '',
                           0, true, false, true, true FROM made ORDER BY n"""
            )
        cursor.execute("DROP TABLE made")
        cursor.execute("ANALYZE auth_user, calls_call, calls_leg")
    yield
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE auth_user CASCADE")  # to delete them one by one would take longer than the tests
