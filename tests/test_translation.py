"""Every text that people read goes through Django's translation, and German is complete."""

import gettext
import re
from pathlib import Path

import pytest
from django.test import Client

ROOT = Path(__file__).resolve().parent.parent
CATALOGUES = ROOT / "calls" / "locale" / "de" / "LC_MESSAGES"
# The operator's pages are in English.
TEMPLATES = sorted(path for path in ROOT.glob("templates/**/*.html") if "admin" not in path.parts)
STRING = r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')"""


def german(domain):
    with open(CATALOGUES / f"{domain}.mo", "rb") as file:
        return gettext.GNUTranslations(file)._catalog


def texts(paths, call):
    for path in paths:
        for found in re.findall(call + STRING, path.read_text()):
            yield path.name, found[0] or found[1]


COUNTED = r"{% blocktranslate count (?:.*?) %}(.*?){% plural %}(.*?){% endblocktranslate %}"


def in_templates_and_views():
    yield from texts(TEMPLATES, r"{% translate")
    for path in TEMPLATES:
        for forms in re.findall(COUNTED, path.read_text()):
            yield path.name, tuple(re.sub(r"{{ (\w+) }}", r"%(\1)s", form) for form in forms)
    yield from texts(sorted(ROOT.glob("calls/*.py")), r"\bgettext\(")


def in_scripts():
    scripts = sorted(ROOT.glob("calls/static/calls/*.js"))
    yield from texts(scripts, r"\bgettext\(")
    for path in scripts:
        for one, _, many, _ in re.findall(rf"\bngettext\({STRING},{STRING}", path.read_text()):
            yield path.name, (one, many)


PUT = re.compile(r"\{\w+\}|%\(\w+\)s")


@pytest.mark.parametrize(("domain", "found"), [("django", in_templates_and_views), ("djangojs", in_scripts)])
def test_german_is_complete_and_has_the_same_places_to_fill(domain, found):
    catalogue = german(domain)
    said = set(found())
    assert len(said) > 80
    for where, text in said:
        forms = text if isinstance(text, tuple) else (text,)
        for n, form in enumerate(forms):
            translated = catalogue.get((forms[0], n) if len(forms) > 1 else form)
            assert translated, f"{where}: no German for {form!r}: make messages"
            assert set(PUT.findall(translated)) == set(PUT.findall(form)), f"{where}: {form!r} → {translated!r}"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_text_in_a_template_goes_past_the_translation(template):
    told = re.sub(COUNTED, "", template.read_text())
    html = re.sub(r"<svg.*?</svg>|<script.*?</script>|{%.*?%}|{{.*?}}", "", told, flags=re.DOTALL)
    bare = [text.strip() for text in re.findall(r">([^<>=]*[A-Za-z]{2}[^<>=]*)<", html)]
    bare += re.findall(r'\b(?:aria-label|placeholder|title|alt)="([^"]*[A-Za-z]{2}[^"]*)"', html)
    assert bare == []


@pytest.mark.django_db(transaction=True)
def test_the_language_is_the_browsers_until_the_user_chooses_one(people):
    client = Client(headers={"accept-language": "de-AT,en;q=0.5"})
    page = client.get("/accounts/login/").content.decode()
    assert '<html lang="de">' in page and "Anmelden" in page
    assert "Anruf abgebrochen" in client.get("/words.js").content.decode()
    client.force_login(people["alice"])
    assert client.get("/manifest.webmanifest").json()["name"] == "Anrufe"
    chosen = client.post("/language/", {"language": "en", "next": "/#/settings"})
    assert chosen["Location"] == "/#/settings"
    assert '<html lang="en">' in client.get("/").content.decode()
    again = Client(headers={"accept-language": "de"})
    again.post("/accounts/login/", {"username": "alice", "password": "secret"})
    assert '<html lang="en">' in again.get("/").content.decode()  # chosen, in another browser
    assert again.post("/language/", {"language": "xx"}).status_code == 302
    other = Client(headers={"accept-language": "fr"})
    assert '<html lang="en">' in other.get("/accounts/login/").content.decode()
