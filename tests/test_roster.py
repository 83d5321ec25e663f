"""`manage.py people`: a file makes and changes accounts with their lines, all of them or none."""

import csv
import stat
import subprocess
import sys
import threading
from io import StringIO

import pytest
from auditlog.models import LogEntry
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from devices.models import Device, Line, LineGroup
from tests.conftest import ROOT
from tests.panel_kit import workbook

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def load(tmp_path):
    """Gives the command a file with this content, and returns what it says."""

    def run(content, *options):
        path, out = tmp_path / "people", StringIO()
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        call_command("people", str(path), *map(str, options), stdout=out)
        return out.getvalue()

    return run


def user(name):
    return get_user_model().objects.get(username=name)


def test_people_are_made_with_name_limits_group_and_a_password_that_only_the_owner_of_the_file_can_read(load, tmp_path):
    LineGroup.objects.create(name="Sales")
    passwords = tmp_path / "passwords.csv"
    said = load(
        "username,name,email,max_incoming,max_outgoing,max_legs,may_transfer,group,active\n"
        "erin,Erin van der Berg,erin@example.com,2,0,4,no,Sales,\n"
        "frank,Frank,,,,,,,0\n",
        "--passwords",
        passwords,
    )
    assert "2 made, 0 changed, 0 as they are." in said
    erin, frank = user("erin"), user("frank")
    assert (erin.first_name, erin.last_name, erin.email) == ("Erin van der", "Berg", "erin@example.com")
    assert (frank.get_full_name(), frank.is_active, frank.is_staff) == ("Frank", False, False)
    line = Line.objects.get(user=erin)
    assert (line.max_incoming, line.max_outgoing, line.max_legs, line.may_transfer) == (2, 0, 4, False)
    assert line.group.name == "Sales"
    assert Line.objects.get(user=frank).max_incoming is None
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    rows = {row["username"]: row["password"] for row in csv.DictReader(passwords.open())}
    assert authenticate(username="erin", password=rows["erin"]) == erin
    assert len(set(rows.values())) == 2
    noted = LogEntry.objects.get(object_repr="erin", action=LogEntry.Action.CREATE)
    assert noted.changes["username"] == ["None", "erin"]
    assert "pbkdf2" not in str(noted.changes) and "md5" not in str(noted.changes)


@pytest.mark.parametrize(
    "content",
    [
        "\N{ZERO WIDTH NO-BREAK SPACE}username;name;max_incoming\r\nbob;Bob Müller;3\r\n",
        "Username\tname\tmax_incoming\nbob\tBob Müller\t3\n",
        '"username","name","max_incoming"\n\n"bob","Bob Müller","3"\n',
        workbook(["username", "name", "max_incoming"], ["bob", "Bob Müller", 3]),
        workbook(["username", "name", "max_incoming"], ["bob", "Bob Müller", 3.0]),
    ],
    ids=["semicolons and a mark", "tabs", "commas and quotes", "workbook", "workbook with fractions"],
)
def test_what_is_in_the_file_changes_and_the_rest_stays(people, load, content):
    before = user("bob").password
    assert "0 made, 1 changed" in load(content)
    bob, line = user("bob"), Line.objects.get(user__username="bob")
    assert (bob.get_full_name(), bob.password, line.max_incoming, line.multi_device) == ("Bob Müller", before, 3, True)
    assert "0 made, 0 changed, 1 as they are." in load(content)
    assert LogEntry.objects.filter(object_repr="Line of bob").latest("id").changes == {"max_incoming": ["None", "3"]}


def test_all_that_is_wrong_is_said_at_once_by_the_line_of_the_file_and_nothing_is_changed(people, load, tmp_path):
    passwords = tmp_path / "passwords.csv"
    with pytest.raises(CommandError) as refused:
        load(
            "username,name,email,password,max_incoming,max_legs,may_transfer,group,active\n"
            "alice,Alice Changed,,,,,,,\n"
            "\n"
            "erin,Erin,no address,123,many,1,perhaps,Nowhere,maybe\n"
            "alice,,,,,,,,\n"
            "two words,,,,,,,,\n",
            "--passwords",
            passwords,
        )
    said = str(refused.value).splitlines()
    assert said[0] == "Nothing was changed."
    columns = [line.split(":")[0] for line in said[1:]]
    for column in ("email", "password", "max_incoming", "max_legs", "may_transfer", "group", "active"):
        assert f"line 4, {column}" in columns, said
    assert "line 5, username: 'alice' is in line 2 already." in said
    assert "line 6, username" in columns
    assert not passwords.exists()
    assert user("alice").first_name == ""
    assert not get_user_model().objects.filter(username="erin").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("user,name\nbob,Bob\n", "There is no column username, which says whose account each row is"),
        ("username,max_incomming\nbob,1\n", "did you mean max_incoming?"),
        ("", "The file is empty"),
        ("username\n", "has no lines below"),
        ("username\n\xff\n".encode("latin-1"), "Save the file as UTF-8"),
        (b"PK\x03\x04 and no more", "The file could not be read"),
    ],
)
def test_a_file_that_is_no_table_of_people_is_refused_in_words(load, content, why):
    with pytest.raises(CommandError, match="Nothing was changed") as refused:
        load(content)
    assert why in str(refused.value)


def test_a_preview_says_what_would_change_and_changes_nothing(people, load, tmp_path):
    said = load("username,name,max_incoming\nbob,Bob Brown,2\nerin,Erin,\n", "--dry-run", "--deactivate-missing")
    assert "line 2: bob: first_name empty → Bob, last_name empty → Brown, max_incoming empty → 2" in said
    assert "line 3: erin is new" in said
    assert "alice is not in the file, and would be deactivated" in said
    assert "operator" not in said
    assert "1 would be made, 1 would change, 0 as they are, 3 would be deactivated." in said
    assert user("bob").first_name == "" and user("alice").is_active
    assert not get_user_model().objects.filter(username="erin").exists()


def test_a_new_account_without_a_password_needs_a_new_file_for_it(load, tmp_path):
    with pytest.raises(CommandError, match="1 new account would get a password"):
        load("username\nerin\n")
    kept = tmp_path / "kept"
    kept.write_text("of somebody else")
    with pytest.raises(CommandError, match="exists"):
        load("username\nerin\n", "--passwords", kept)
    assert kept.read_text() == "of somebody else"
    assert not get_user_model().objects.exists()


def test_passwords_that_cannot_be_kept_make_no_account(load):
    with pytest.raises(CommandError, match="cannot be written"):
        load("username\nerin\n", "--passwords", "/nowhere/passwords.csv")
    assert not get_user_model().objects.exists()


def test_those_who_are_missing_are_deactivated_only_when_asked_and_signed_out(people, load, client):
    client.force_login(people["alice"])
    device = _device(client)
    load("username\nbob\n")
    assert user("alice").is_active
    assert "3 deactivated" in load("username\nbob\n", "--deactivate-missing")
    assert not user("alice").is_active and user("operator").is_active and user("bob").is_active
    device.refresh_from_db()
    assert device.signed_out_at is not None
    assert LogEntry.objects.filter(object_repr="alice").latest("id").changes == {"is_active": ["True", "False"]}
    load("username,active\nalice,1\n")
    assert user("alice").is_active


def test_another_password_ends_the_sign_in_and_the_same_one_does_not(people, load, client):
    client.force_login(people["alice"])
    device = _device(client)
    load("username,password\nalice,secret\n")
    device.refresh_from_db()
    assert device.signed_out_at is None and client.get("/").status_code == 200
    assert "1 changed" in load("username,password\nalice,=correct horse 7\n")
    device.refresh_from_db()
    assert device.signed_out_at is not None
    assert authenticate(username="alice", password="=correct horse 7")


def _device(client):
    from django.utils import timezone

    from devices.sessions import stored_key

    now = timezone.now()
    return Device.objects.create(
        user_id=client.session["_auth_user_id"], name="Laptop", session=stored_key(client.session.session_key),
        logged_in_at=now, last_seen_at=now, online_until=now,
    )  # fmt: skip


def test_three_hundred_people_take_as_many_statements_as_three(load, tmp_path):
    def statements(number, file):
        rows = "".join(f"u{number}-{n},Person {n},{n % 5}\n" for n in range(number))
        with CaptureQueriesContext(connection) as asked:
            load(f"username,name,max_incoming\n{rows}", "--passwords", tmp_path / file)
        return len(asked)

    assert statements(3, "a") == statements(300, "b")
    assert get_user_model().objects.count() == 303


def test_of_two_files_at_once_with_the_same_new_person_one_is_refused_whole(load, tmp_path):
    from calls import roster, tables

    sheets = [tables.of_csv(f"username\nerin\nonly-{n}\n".encode(), roster.TABLE) for n in range(2)]
    plans, said, together = [roster.plan(sheet) for sheet in sheets], [], threading.Barrier(2)

    def carry_out(plan):
        together.wait(20)
        try:
            roster.carry_out(plan, lambda people: None)
            said.append("done")
        except roster.Stale:
            said.append("stale")
        finally:
            connection.close()

    threads = [threading.Thread(target=carry_out, args=[plan]) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(said) == ["done", "stale"]
    assert get_user_model().objects.count() == 2


def test_a_wrong_file_is_sentences_and_no_traceback(tmp_path):
    ran = subprocess.run(
        [sys.executable, "manage.py", "people", str(tmp_path / "nothing.csv")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "nothing.csv cannot be read: No such file or directory." in ran.stderr
    assert "Traceback" not in ran.stderr
