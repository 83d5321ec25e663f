"""The operator's pages are in English, whatever the browser asks for: Django's own texts among them know ninety
languages, ours only one, and half a page in each can be read by nobody."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import translation

ENGLISH = "en"


def panel_in_english(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Comes after LocaleMiddleware, which looks at session, cookie and browser."""
    panel = reverse("admin:index")

    def respond(request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(panel):
            return get_response(request)
        with translation.override(ENGLISH):
            request.LANGUAGE_CODE = ENGLISH
            response = get_response(request)
            if hasattr(response, "render"):
                response.render()  # else it would be, later, in the other language
            return response

    return respond
