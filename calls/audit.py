"""Who changed what: the requests and changes that django-auditlog cannot see by itself.

It records saved lines, groups and accounts. What ends calls and signs devices out goes another way, and is noted here.
"""

from typing import Any

from auditlog.middleware import AuditlogMiddleware
from auditlog.models import LogEntry
from django.db.models import Model
from django.http import HttpRequest

from calls import address


class AuditMiddleware(AuditlogMiddleware):
    """Knows whose request a change came from, and believes only the site's own proxies about the address."""

    @staticmethod
    def _get_remote_addr(request: HttpRequest) -> str | None:
        return address.of_request(request)


def hidden(_value: str) -> str:
    """Stands for a password's hash. The library's own mask would leave the half of it to be read."""
    return "hidden"


def record(request: HttpRequest, changed: Model, **changes: tuple[Any, Any]) -> None:
    """Notes what this request's user changed: the values of each field before and after."""
    LogEntry.objects.log_create(
        changed,
        force_log=True,
        action=LogEntry.Action.UPDATE,
        changes={field: [str(before), str(after)] for field, (before, after) in changes.items()},
        actor=request.user,
        remote_addr=address.of_request(request),
    )
