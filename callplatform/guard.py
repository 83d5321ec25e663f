"""Slows down the guessing of passwords: django-axes counts wrong ones, by name and address. And checks passwords
without holding a connection to the database, which others need meanwhile."""

from typing import Any

from axes.backends import AxesBackend
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import HttpRequest


class Guard(AxesBackend):
    """Signs people in over HTTP. It has no say where there is no request: a shell on the server guesses no passwords.

    Django's own backend comes after it, for shells and for sessions that began under it.
    """

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> Any:
        if request is None:
            return None
        super().authenticate(request, username=username, password=password, **kwargs)  # raises when the name is locked
        if username is None or password is None:
            return None
        people: Any = get_user_model()
        try:
            user = people._default_manager.get_by_natural_key(username)
        except people.DoesNotExist:
            user = None
        if not connection.in_atomic_block:
            connection.close()  # gives it back to the pool; the next question to the database takes one again
        if user is None:
            people().set_password(password)  # takes as long as for somebody who exists
        elif user.check_password(password) and self.user_can_authenticate(user):
            return user
        raise PermissionDenied  # or Django's own backend would check the same password again
