"""The client's page, the people in it, what makes it an application, and signing out."""

import uuid
from contextlib import nullcontext
from typing import Any

import msgspec
from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import reverse
from django.utils.translation import get_language, gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_POST, require_safe
from django.views.i18n import set_language

from calls import conf, history, search, switchboard
from calls import people as listed
from calls.after import push
from calls.models import name_of
from devices.models import Device, Line
from devices.sessions import stored_key

# What the page's scripts ask for, by the names of urls.py.
URLS = {
    "history": {"list": "history", "missed": "history-missed", "seen": "history-seen", "hide": "history-hide"},
    "settings": {
        "devices": "devices",
        "rename": "device-rename",
        "signOut": "device-sign-out",
        "line": "line",
        "dnd": "line-dnd",
        "push": "device-push",
        "favourite": "line-favourite",
    },
}


@require_safe
@never_cache
@login_required
@ensure_csrf_cookie
@gzip_page
def client(request: HttpRequest) -> HttpResponse:
    """The call screens. Kept nowhere: a page that "Back" brings from a cache would say what was missed long ago, and to
    whoever sits there now."""
    boot = {
        "user": {"id": request.user.get_username(), "name": name_of(request.user)},
        "socket": "/ws/",
        "devices": list(Device.objects.filter(user=request.user.pk, signed_out_at=None).values_list("name", flat=True)),
        "people": reverse("people"),
        "home": reverse("client"),
        "login": reverse("login"),
        "favourites": switchboard.favourites(switchboard.line_of(request.user.pk)),
        "worker": reverse("worker"),
        "push": push.public_key(conf.get("PUSH_KEY")) if conf.get("PUSH_KEY") else None,
        "cameras": conf.get("MESH_VIDEO"),
        "missed": history.missed(request.user.pk),
        "urls": {part: {name: reverse(url) for name, url in urls.items()} for part, urls in URLS.items()},
    }
    return render(request, "calls/client.html", {"boot": boot})


@require_safe
@never_cache
def people(request: HttpRequest) -> JsonResponse:
    """Everybody else whose names contain the words of `q`, 100 by name, online first: `{people: [{id, name, online}],
    next, more}`. `after` is the `next` of the page before; `more` says whether there is one, for older clients."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": "Sign in first."}, status=401)
    words, after = request.GET.get("q", ""), request.GET.get("after", "")
    try:
        with search.bounded() if words else nullcontext():
            page = listed.page(request.user.pk, words=words, after=after)
    except search.TookTooLong:
        return JsonResponse({"error": "This search takes too long. Type more of the name."}, status=503)
    except ValueError:
        raise BadRequest("after is no cursor") from None
    return JsonResponse({"people": page.people, "next": page.next, "more": page.next is not None})


ICONS = (("calls/icon-192.png", "192x192", "any"), ("calls/icon-512.png", "512x512", "any"))
MASKABLE = (("calls/icon-maskable-512.png", "512x512", "maskable"),)


@require_safe
def manifest(request: HttpRequest) -> JsonResponse:
    """What makes the page an application that can be installed."""
    icons = [
        {"src": static(path), "sizes": sizes, "type": "image/png", "purpose": purpose}
        for path, sizes, purpose in ICONS + MASKABLE
    ]
    said = {
        "id": reverse("client"),
        "name": gettext("Calls"),
        "short_name": gettext("Calls"),
        "description": gettext("Voice and video calls between people, on all their devices."),
        "lang": get_language(),
        "start_url": reverse("client"),
        "scope": reverse("client"),
        "display": "standalone",
        "background_color": "#f4f5f8",
        "theme_color": "#3f57d6",
        "icons": icons,
        "shortcuts": [
            {"name": gettext("History"), "url": reverse("client") + "#/history"},
            {"name": gettext("Settings"), "url": reverse("client") + "#/settings"},
        ],
    }
    return JsonResponse(said, content_type="application/manifest+json")


KEPT = ("calls/base.css", "calls/theme.js", "calls/icon.svg")  # what the page for no connection is made of


@require_safe
@never_cache
def worker(request: HttpRequest) -> HttpResponse:
    """The service worker. It stands at the root, because a worker has power only over what is below it."""
    kept = [reverse("offline"), *(static(path) for path in KEPT)]
    facts = {
        "home": reverse("client"),
        "ringing": reverse("ringing", args=[uuid.UUID(int=0)]),
        "kept": kept,
        "icon": static("calls/icon-192.png"),
        "badge": static("calls/badge-96.png"),
        "incoming": gettext("Incoming call"),
        "over": gettext("Call ended"),
    }
    script = render_to_string("calls/worker.js", {"facts": msgspec.json.encode(facts).decode()}, request)
    return HttpResponse(script, content_type="text/javascript; charset=utf-8")


@require_safe
def offline(request: HttpRequest) -> HttpResponse:
    """What the worker shows when there is no connection; it knows nobody."""
    return render(request, "calls/offline.html")


class SignIn(LoginView):
    """Signing in, in the language that the user has chosen before, here or on another device."""

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Whoever is signed in has nothing to fill in. A post is still asked: it may be of somebody else."""
        if request.user.is_authenticated:
            return HttpResponseRedirect(self.get_success_url())  # `redirect` takes "x" for the name of a page
        return super().get(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_valid(form)
        language = switchboard.line_of(form.get_user().pk).language
        if language in dict(settings.LANGUAGES):
            _remember_language(response, language)
        return response


@require_POST
def language(request: HttpRequest) -> HttpResponse:
    """The language that the user chose in the settings: for this browser, and for those of later sign-ins."""
    response = set_language(request)
    chosen = request.POST.get("language", "")
    if request.user.is_authenticated and chosen in dict(settings.LANGUAGES):
        line = switchboard.line_of(request.user.pk)
        Line.objects.filter(pk=line.pk).update(language=chosen)
    return response


def _remember_language(response: HttpResponse, language: str) -> None:
    response.set_cookie(
        settings.LANGUAGE_COOKIE_NAME,
        language,
        max_age=settings.LANGUAGE_COOKIE_AGE,
        secure=settings.LANGUAGE_COOKIE_SECURE,
        samesite="Lax",
    )


@require_POST
def leave(request: HttpRequest) -> HttpResponse:
    """Signs out of this browser: its devices with it, so that none goes on ringing."""
    user, session = request.user.pk, stored_key(request.session.session_key)
    logout(request)  # before its devices are looked up: one that arrives until then is among them
    if user is not None:
        switchboard.end_sign_in(user, session)
    return redirect(settings.LOGOUT_REDIRECT_URL or settings.LOGIN_URL)
