"""Slows down the guessing of passwords: django-axes counts wrong ones, by name and address."""

from typing import Any

from axes.backends import AxesBackend
from django.http import HttpRequest


class Guard(AxesBackend):
    """Comes before the backend that compares passwords, and has a say only where there is a request: a shell on the
    server guesses no passwords."""

    def authenticate(self, request: HttpRequest | None, *args: Any, **kwargs: Any) -> None:
        if request is not None:
            super().authenticate(request, *args, **kwargs)
