"""No browser and no proxy keeps what the site shows to somebody who is signed in: the next person at a shared computer
would find it by "Back". The pages of calls say so themselves; this is for all others, and for answers to mistakes."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers


def not_kept(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Comes after AuthenticationMiddleware, which says who is signed in."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        undecided = not response.has_header("Cache-Control")
        if undecided and request.session.accessed and request.user.is_authenticated:
            add_never_cache_headers(response)
        return response

    return respond
