"""The shell's ways in: the demo users and a line."""

import stat
from io import StringIO

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command

from calls import switchboard
from devices.models import Line, LineGroup

pytestmark = pytest.mark.django_db(transaction=True)


def run(*args: str) -> str:
    out = StringIO()
    call_command(*args, stdout=out)
    return out.getvalue()


@pytest.fixture
def var(tmp_path, settings, monkeypatch):
    settings.VAR_DIR = tmp_path / "var"
    monkeypatch.delenv("DEMO_PASSWORD", raising=False)
    return settings.VAR_DIR


def test_demo_makes_people_who_can_sign_in_and_keeps_their_passwords_from_others(var):
    said = run("demo")
    kept = var / "demo-sign-ins.txt"
    sign_ins = dict(line.split() for line in kept.read_text().splitlines())
    assert list(sign_ins) == ["alice", "bob", "carol", "dave", "operator"]
    assert all(authenticate(username=name, password=password) for name, password in sign_ins.items())
    assert all(password in said for password in sign_ins.values())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    staff = get_user_model().objects.filter(is_staff=True).values_list("username", flat=True)
    assert list(staff) == ["operator"]
    assert Line.objects.get(user__username="bob").multi_device
    assert not Line.objects.get(user__username="alice").multi_device


def test_demo_again_changes_no_password_and_prints_none(var):
    run("demo")
    before = (var / "demo-sign-ins.txt").read_text()
    assert "exist already" in run("demo")
    assert (var / "demo-sign-ins.txt").read_text() == before


def test_demo_on_a_second_database_gives_everybody_the_same_password_again(var):
    run("demo")
    before = (var / "demo-sign-ins.txt").read_text()
    get_user_model().objects.all().delete()
    assert "Sign in as" in run("demo")
    assert (var / "demo-sign-ins.txt").read_text() == before


def test_demo_takes_the_password_it_is_given(var, monkeypatch):
    monkeypatch.setenv("DEMO_PASSWORD", "correct horse")
    run("demo")
    assert authenticate(username="carol", password="correct horse")


def test_demo_is_refused_where_other_people_are(var):
    get_user_model().objects.create_user("erin")
    with pytest.raises(CommandError, match="1 other users"):
        run("demo")
    assert get_user_model().objects.count() == 1


def test_a_line_is_shown_and_changed(people):
    assert run("line", "bob").strip() == (
        "bob: multi-device on, may switch it: no, max incoming 1 (default), max outgoing 1 (default), "
        "max legs 9 (default), may transfer: yes (default), edition allowed (default), do not disturb off, group none"
    )
    said = run(
        "line", "bob", "--multi-device", "off", "--may-switch", "yes", "--max-incoming", "2", "--max-outgoing", "0"
    )
    assert said.startswith("bob: multi-device off, may switch it: yes, max incoming 2, max outgoing 0, ")
    assert "max incoming 1 (default)" in run("line", "bob", "--max-incoming", "default")
    assert switchboard.line_view(Line.objects.get(user=people["bob"]))["max_outgoing"] == 0


def test_who_may_be_in_a_call_and_whether_it_may_be_transferred_are_changed(people):
    said = run("line", "bob", "--max-legs", "4", "--may-transfer", "no")
    assert "max legs 4, may transfer: no, " in said
    assert "max legs 9 (default)" in run("line", "bob", "--max-legs", "default", "--may-transfer", "default")
    LineGroup.objects.create(name="Sales", max_legs=2, may_transfer=False)
    said = run("line", "bob", "--group", "Sales")
    assert "max legs 2 (of Sales), may transfer: no (of Sales), " in said
    with pytest.raises(CommandError, match="give a number from 2"):
        run("line", "bob", "--max-legs", "1")


def test_a_lines_group_edition_and_quiet_are_shown_and_changed(people):
    LineGroup.objects.create(name="Sales", max_incoming=5, edition="off")
    said = run("line", "bob", "--group", "Sales", "--dnd", "on")
    assert "multi-device off (the edition does not include it)" in said
    assert said.strip().endswith("edition off (of Sales), do not disturb on, group Sales")
    assert "max incoming 5 (of Sales)" in said
    assert "edition until 2099-01-31 18:00 UTC, " in run("line", "bob", "--edition", "2099-01-31T19:00+01:00")
    assert "multi-device on, " in run("line", "bob")
    assert "multi-device off (the edition ran out)" in run("line", "bob", "--edition", "2020-01-31")
    line = Line.objects.get(user=people["bob"])
    line.full_clean()
    assert (
        run("line", "bob", "--edition", "allowed", "--group", "none", "--dnd", "off")
        .strip()
        .endswith("edition allowed, do not disturb off, group none")
    )
    assert "edition allowed (default)" in run("line", "bob", "--edition", "default")
    with pytest.raises(CommandError, match=r"no group of lines 'Support'. There are: Sales\."):
        run("line", "bob", "--group", "Support")
    for wrong in ("tomorrow", "2027-02-30", ""):
        with pytest.raises(CommandError, match="until when it is allowed"):
            run("line", "bob", "--edition", wrong)


@pytest.mark.parametrize("wrong", ["-1", "1.5", "many", "99999999", ""])
def test_a_limit_that_is_none_is_refused_in_words(people, wrong):
    with pytest.raises(CommandError, match=r"give a number|expected one argument"):
        run("line", "bob", "--max-incoming", wrong)


def test_a_line_of_nobody_is_refused_in_words():
    with pytest.raises(CommandError, match="no user 'nobody'"):
        run("line", "nobody")
