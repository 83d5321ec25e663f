"""Attacks on what nobody should learn: which accounts exist, what a shared browser has kept, what is in memory."""

import functools
import gc
import re
import sys
import time
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import NoReverseMatch, get_resolver, reverse

from calls import sign_ins
from calls.sign_ins import SignIn
from devices.models import Device
from devices.sessions import stored_key

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice(people):
    people["dave"].is_active = False
    people["dave"].save()
    client = Client()
    client.force_login(people["alice"])
    return client


@pytest.mark.parametrize("on", [True, False])
def test_a_deactivated_account_is_told_from_an_unknown_one_by_no_favourite(alice, on):
    def answer(user):
        found = alice.post("/line/favourite/", {"user": user, "on": on}, content_type="application/json")
        return found.status_code, found.content

    assert answer("dave") == answer("nobody")
    assert answer("bob")[0] == 200


async def test_nor_by_an_invite_nor_by_the_list_of_people(page, alice):
    caller = await page("carol")
    refused = [(await caller.invite(user)).get("error") for user in ("dave", "nobody")]
    assert [each.pop("users") for each in refused] == [["dave"], ["nobody"]], "the names that were asked, and no more"
    assert refused[0] == refused[1] and refused[0]["code"] == "not_found"
    found = (await sync_to_async(alice.get)("/people/", {"q": "dave"})).json()
    assert found == (await sync_to_async(alice.get)("/people/", {"q": "nobody"})).json()


def test_nor_by_a_sign_in_whatever_the_password_nor_by_the_time_that_it_takes(people, settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    for name in ("alice", "dave"):
        people[name].set_password("secret")
        people[name].is_active = name != "dave"
        people[name].save()

    def tried(name, password):
        began = time.process_time()
        said = Client().post("/accounts/login/", {"username": name, "password": password})
        return time.process_time() - began, said.status_code, said.content.decode().replace(name, "")

    tried("nobody", "wrong")  # what is loaded once
    tries = [("nobody", "wrong"), ("dave", "wrong"), ("dave", "secret"), ("alice", "wrong")]
    took = dict.fromkeys(tries, 1e9)
    answers = set()
    for _ in range(2):
        for each in tries:
            seconds, status, words = tried(*each)
            took[each] = min(took[each], seconds)
            answers.add((status, re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", words)))
    assert len(answers) == 1, "the answers differ"
    assert max(took.values()) < 2 * min(took.values()), took  # one hash each: without one it would be a tenth


def urls(patterns, prefix=()):
    """Each pattern that has a name, with the names of what it is in."""
    for each in patterns:
        if hasattr(each, "url_patterns"):
            yield from urls(each.url_patterns, (*prefix, each.namespace) if each.namespace else prefix)
        elif each.name:
            yield ":".join((*prefix, each.name)), each.pattern.regex.groupindex, each.pattern.converters


def address(name, groups, converters):
    """An address of the pattern, about a row that there is if it is a page of the panel."""
    args = {}
    for group in converters or groups:
        app, _, rest = name.partition(":")[2].partition("_")
        model, _, _ = rest.partition("_")
        try:
            row = apps.get_model(app, model)._default_manager.first()
        except (LookupError, ValueError):
            row = None
        kind = type(converters.get(group)).__name__
        args[group] = row.pk if row else uuid.uuid4() if kind == "UUIDConverter" else "1"
    try:
        return reverse(name, kwargs=args)
    except NoReverseMatch:
        return None


async def test_no_page_and_no_answer_of_a_signed_in_person_is_kept_by_a_browser(page, people):
    phone, bob = await page("operator", "Phone"), await page("bob")
    call = (await phone.invite("bob"))["call"]["id"]
    await bob.sees(call)
    client = Client(headers={"cookie": phone.signed_in})

    def kept():
        found, seen = [], 0
        for name, groups, converters in urls(get_resolver().url_patterns):
            at = address(name, groups, converters)
            if at is None or name.endswith("logout"):
                continue
            for method in (client.get, client.post):
                said = method(at)
                seen += said.status_code == 200
                if "no-store" not in said.get("Cache-Control", ""):
                    found.append((said.status_code, method.__name__, at))
        return found, seen

    found, seen = await sync_to_async(kept)()
    assert not found
    assert seen > 40


def held(root):
    """Everything that an object holds, and what that holds in turn."""
    seen, todo = set(), [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, (type, type(sys))) or (callable(each) and each is not root):
            continue
        seen.add(id(each))
        yield each
        todo += gc.get_referents(each)


async def test_no_cache_holds_the_hash_of_a_password(page, people):
    alice, bob = await page("alice"), await page("bob")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call)
    claims = [
        SignIn(str(people[each.user].pk), stored_key(each.signed_in.partition("=")[2]), uuid.UUID(each.device))
        for each in (alice, bob)
    ]
    assert await sync_to_async(sign_ins.ended)(claims) == []
    hashes = await sync_to_async(list)(get_user_model().objects.values_list("password", flat=True))
    caches = [
        (f"{module.__name__}.{name}", value)
        for module in list(sys.modules.values())
        if module.__name__.partition(".")[0] in ("calls", "devices", "callplatform")
        for name, value in vars(module).items()
        if isinstance(value, functools._lru_cache_wrapper)
    ]
    assert len(caches) > 5 and await sync_to_async(Device.objects.count)() == 2
    found = {
        name
        for name, cache in caches
        for each in held(cache)
        if isinstance(each, (str, bytes))
        for hash in hashes
        if (hash in each if isinstance(each, str) else hash.encode() in each)
    }
    assert not found
