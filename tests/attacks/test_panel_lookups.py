"""Somebody in the panel who asks its lists about what no page shows: sessions, push addresses, hashes, other people's
mail. A list answers its own filters and its search box, and nothing else.
"""

import io
import re
import uuid
import zipfile
from urllib.parse import quote

import pytest
from auditlog.models import LogEntry
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.admin.base import PanelAdmin, PanelList
from calls.models import ApiKey, Call, Delivery, Entry, Leg, Token, Webhook
from devices.models import Device, Line, LineGroup
from tests.panel_kit import ROLES, browser_in_role, browser_of, saved

pytestmark = pytest.mark.django_db(transaction=True)

SESSION = next(field.name for field in Device._meta.concrete_fields if field.name.startswith("session"))
OPERATORS = ("exact", "regex", "startswith", "gt", "isnull", "in")
OFFERED = {  # what each list may be asked: a new filter is added here on purpose, or not at all
    Line: {
        "live", "devices", "multi_device__exact", "multi_device__isnull", "dnd__exact", "dnd__isnull",
        "edition__exact", "edition__isnull", "group__id__exact", "group__isnull",
    },
    LineGroup: set(),
    Device: {"online", "kind__exact", "kind__isnull", "user__id__exact"},
    Call: {"state", "reason", "kind", "people", "placed", "from", "until"},
    LogEntry: {
        "what", "action__exact", "action__isnull", "timestamp__gte", "timestamp__lt", "timestamp__isnull",
    },
    get_user_model(): {
        "is_active__exact", "is_active__isnull", "is_staff__exact", "is_staff__isnull", "groups__id__exact",
        "groups__isnull",
    },
    Group: set(),
    ApiKey: {"state"},
    Token: set(),
    Webhook: set(),
    Delivery: {"state"},
}  # fmt: skip
EXPORTED = (Line, LineGroup, Device, Call, LogEntry)


def path_of(model):
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def names_of(model):
    """Every name that a lookup of this model can begin with: its fields, relations from elsewhere too, and the fields
    of whatever these lead to."""
    for field in model._meta.get_fields(include_hidden=True):
        name = field.name
        yield name
        if field.concrete and field.attname != name:
            yield field.attname
        if field.is_relation and field.related_model is not None:
            yield from (f"{name}__{far.name}" for far in field.related_model._meta.get_fields() if far.concrete)


def asked_by(model):
    for name in dict.fromkeys(names_of(model)):
        yield name
        yield from (f"{name}__{operator}" for operator in OPERATORS)


def test_every_list_of_the_site_is_known_here_and_refuses_what_it_does_not_offer():
    assert set(admin.site._registry) == set(OFFERED)
    for model, shown in admin.site._registry.items():
        assert isinstance(shown, PanelAdmin), model
        assert issubclass(shown.get_changelist(None), PanelList), model
        assert shown.date_hierarchy is None and not shown.inlines, model


@pytest.mark.parametrize("model", OFFERED, ids=lambda model: model.__name__)
def test_no_list_takes_a_lookup_that_is_not_one_of_its_filters(people, model):
    """All fields, those of related models, and all operators: as the superuser, who is held to the same."""
    shown, requests, accepted, number = admin.site._registry[model], RequestFactory(), set(), 0
    for asked in asked_by(model):
        request = requests.get(path_of(model), {asked: "1"})
        request.user = people["operator"]
        number += 1
        try:
            shown.get_changelist_instance(request)
        except IncorrectLookupParameters:
            continue
        accepted.add(asked)
    assert accepted <= OFFERED[model]
    assert number > 50


@pytest.mark.parametrize("role", ROLES)
def test_a_refused_lookup_shows_the_list_without_it_and_asks_the_database_nothing(people, role):
    client = browser_in_role(people["dave"], role)
    for model, offered in OFFERED.items():
        lists = [path_of(model)] + ([f"{path_of(model)}export/"] if model in EXPORTED else [])
        for path in lists:
            if client.get(path).status_code == 403:
                assert client.get(path, {"pk__gt": "0"}).status_code == 403
                continue
            for asked in (f"{name}__startswith" for name in dict.fromkeys(names_of(model))):
                with CaptureQueriesContext(connection) as captured:
                    answer = client.get(path, {asked: "mark-of-the-question"})
                refused = answer.status_code == 302 and "startswith" not in answer["Location"]
                assert refused or asked in offered, (path, asked)
                assert "mark-of-the-question" not in str(captured.captured_queries), (path, asked)


@pytest.fixture
def secrets(people):
    """What no page may show or tell, by whose it is: whatever columns these stand in."""
    now, bob = timezone.now(), people["bob"]
    bob.email = "bob.private@corp.example"
    bob.set_password("correct horse battery staple")
    bob.save()
    push = {
        "endpoint": "https://push.example/endpoint-of-bob",
        "keys": {"p256dh": "p256dh-of-bob", "auth": "auth-of-bob"},
    }
    device = Device.objects.create(
        user=bob, name="Phone", **{SESSION: "k3y" + uuid.uuid4().hex[:29]}, push=push, logged_in_at=now,
        last_seen_at=now, online_until=now + timezone.timedelta(minutes=5), page=uuid.uuid4(), socket=uuid.uuid4(),
    )  # fmt: skip
    Line.objects.filter(user=bob).update(favourites=["favourite-of-bob"])
    call = Call.objects.create(id=uuid.uuid4(), v=1, kind="audio", state="ringing", host=bob, placed_at=now)
    Leg.objects.create(
        call=call, user=bob, username="bob", name="Bob", dir="out", state="joined", data={"note": "data-of-bob"}
    )
    Entry.objects.create(call=call, v=1, at=now, command={"type": "Due"})
    _, salt, hashed = bob.password.split("$")
    kept = [
        value
        for field in Device._meta.concrete_fields
        if field.name.startswith(("session", "push"))
        for value in [getattr(device, field.attname)]
        if isinstance(value, str) and value
    ]
    return {
        "session": kept, "push": [push["endpoint"], *push["keys"].values()], "hash": [hashed[:6], hashed, salt],
        "sockets": [str(device.page), str(device.socket)], "favourites": ["favourite-of-bob"], "data": ["data-of-bob"],
    }  # fmt: skip


QUESTIONS = [
    "devices/device/?id__exact={device}&{session}__regex=^{guess}",
    "devices/device/?{session}__startswith={guess}",
    "devices/device/?q=Phone&push__endpoint__regex=^{guess}",
    "devices/device/?user__id__exact={bob}&user__password__regex=^{guess}",
    "devices/device/?user__password__startswith={guess}",
    "devices/device/export/?{session}__regex=^{guess}",
    "devices/line/?favourites__icontains={guess}",
    "devices/line/?user__devices__{session}__startswith={guess}",
    "devices/line/?user__email__startswith={guess}",
    "devices/line/export/?favourites__icontains={guess}",
    "devices/linegroup/?lines__user__password__startswith={guess}",
    "devices/linegroup/export/?lines__favourites__icontains={guess}",
    "calls/call/?legs__data__icontains={guess}",
    "calls/call/?legs__device__{session}__startswith={guess}",
    "calls/call/?host__password__startswith={guess}",
    "auditlog/logentry/?actor_email__startswith={guess}",
    "auditlog/logentry/?changes__icontains={guess}",
    "auditlog/logentry/export/?actor__password__startswith={guess}",
    "auth/user/?password__startswith={guess}",
    "auth/user/?groups__user__password__startswith={guess}",
    "auth/group/?user__password__startswith={guess}",
    "devices/device/?_to_field={session}&{session}__startswith={guess}",
    "devices/device/?_popup=1&{session}__startswith={guess}",
    "devices/device/?_facets=1&{session}__startswith={guess}",
    "devices/device/?_changelist_filters={session}__startswith%3D{guess}",
]


@pytest.mark.parametrize("role", ROLES)
def test_a_secret_cannot_be_found_letter_by_letter(people, secrets, role):
    """Each guess gets the same answer: of what the secret begins with, and of what it does not."""
    client, device = browser_in_role(people["dave"], role), Device.objects.get()

    def answer(question, guess):
        asked = question.format(session=SESSION, guess=quote(guess), device=device.pk, bob=people["bob"].pk)
        said = client.get(f"/admin/{asked}")
        rows = re.findall(
            r'<tr><td class="action|<td class="field-|<p class="paginator">\s*(\S+)', said.content.decode()
        )
        return said.status_code, said.get("Location", "").replace(guess, ""), rows

    guesses = ["k", "z", "[a-m]", "[n-z]", ".", "x", "md5", "https", "bob.private", "favourite", "nothing has it"]
    for question in QUESTIONS:
        assert len({str(answer(question, guess)) for guess in guesses}) == 1, question


@pytest.mark.parametrize("role", ROLES)
def test_no_search_box_finds_anything_by_a_secret(people, secrets, role):
    client = browser_in_role(people["dave"], role)
    boxes = [f"{path_of(model)}?q=" for model in OFFERED]
    boxes += [
        f"/admin/autocomplete/?app_label={app}&model_name={model}&field_name={field}&term="
        for app, model, field in (
            ("devices", "line", "user"), ("devices", "device", "user"), ("calls", "leg", "device"),
            ("calls", "leg", "call"), ("calls", "call", "host"), ("devices", "line", "group"),
            ("auditlog", "logentry", "actor"), ("auth", "user", "groups"),
        )
    ]  # fmt: skip
    for box in boxes:
        for words in secrets.values():
            for secret in words:
                said = client.get(box + quote(secret))
                if said.status_code == 200 and "autocomplete" in box:
                    assert said.json()["results"] == [], (box, secret)
                elif said.status_code == 200:
                    assert '<p class="paginator">\n\n0 ' in re.sub(r"\n\s*\n", "\n\n", said.content.decode()), (
                        box,
                        secret,
                    )
                else:
                    assert said.status_code in (302, 403, 404), (box, said.status_code)


@pytest.mark.parametrize("role", [*ROLES, "superuser"])
def test_no_list_page_file_history_or_error_shows_a_secret(people, secrets, role):
    client = browser_of(people["operator"]) if role == "superuser" else browser_in_role(people["dave"], role)
    bob, device, call = people["bob"], Device.objects.get(), Call.objects.get()
    operator = browser_of(people["operator"])
    with_changes = {"name": "Telephone", "_save": "Save"}
    assert operator.post(f"/admin/devices/device/{device.pk}/change/", with_changes).status_code == 302
    line = Line.objects.get(user=bob)
    line.favourites = ["another-favourite-of-bob", "favourite-of-bob"]
    line.save(update_fields=["favourites"])
    bob.set_password("another one")
    bob.save()
    hashed = bob.password.split("$")
    secrets |= {
        "new hash": [hashed[1], hashed[2][:6], hashed[2]],
        "favourites": ["favourite-of-bob", "another-favourite"],
    }
    key = LogEntry.objects.first().pk
    pages = [
        path + more
        for path, model, pk in (
            (path_of(Device), Device, device.pk), (path_of(Line), Line, bob.pk), (path_of(Call), Call, call.pk),
            (path_of(LogEntry), LogEntry, key), (path_of(get_user_model()), get_user_model(), bob.pk),
            (path_of(LineGroup), LineGroup, 1), (path_of(Group), Group, 1),
        )
        for more in ("", "?all=1", f"{pk}/change/", f"{pk}/history/", f"{pk}/delete/", f"{pk}/password/")
    ]  # fmt: skip
    pages += ["/admin/", "/admin/wallboard/", "/admin/devices/line/import/", "/admin/calls/call/nothing/change/"]
    files = [f"{path_of(model)}export/" for model in EXPORTED]
    texts = {path: client.get(path, follow=True).content.decode() for path in [*pages, *files]}
    for path in files:
        said = client.post(path, {"format": "0"})
        if said.status_code == 200:
            texts[f"{path} as CSV"] = saved(said).decode()
            texts[f"{path} as XLSX"] = str(_unzipped(saved(client.post(path, {"format": "1"}))))
    assert len(texts) > len(pages)
    found = [
        (path, kind)
        for path, text in texts.items()
        for kind, words in secrets.items()
        for secret in words
        if secret and secret in text
    ]
    assert found == []


def _unzipped(file):
    with zipfile.ZipFile(io.BytesIO(file)) as parts:
        return [parts.read(name).decode() for name in parts.namelist()]


@pytest.mark.parametrize("role", ROLES)
def test_no_list_is_sorted_by_what_it_does_not_show(people, secrets, role):
    client = browser_in_role(people["dave"], role)
    for model in OFFERED:
        for number in range(15):
            with CaptureQueriesContext(connection) as captured:
                client.get(path_of(model), {"o": f"-{number}.{number}"})
            ordered = [sql["sql"].partition("ORDER BY")[2] for sql in captured.captured_queries]
            for column in ("session", "push", "password", "favourites", "email", '"data"', "socket"):
                assert not [sql for sql in ordered if column in sql and "django_session" not in sql], (model, column)


def test_a_link_of_another_page_still_narrows_the_devices(people, secrets):
    client = browser_in_role(people["dave"], "viewer")
    theirs = client.get(f"/admin/devices/device/?user__id__exact={people['bob'].pk}&online=in")
    assert theirs.status_code == 200 and "Phone" in theirs.content.decode()
    assert "Phone" not in client.get(f"/admin/devices/device/?user__id__exact={people['alice'].pk}").content.decode()
