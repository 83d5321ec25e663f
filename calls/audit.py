"""Who changed what: the requests and changes that django-auditlog cannot see by itself.

It records saved lines, groups and accounts. What ends calls, signs devices out, or is saved in bulk goes another way,
and is noted here.
"""

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from auditlog.diff import model_instance_diff
from auditlog.middleware import AuditlogMiddleware
from auditlog.models import LogEntry
from django.contrib.contenttypes.models import ContentType
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


class Asker(Protocol):
    """Who changes something without being a user: a key of the HTTP API, in one request."""

    id: str
    address: str | None

    @property
    def name(self) -> str: ...


def record_by(asker: Asker, changed: Model, changes: dict[str, tuple[Any, Any]], made: bool = False) -> None:
    """Notes what a key changed, with the id of its request."""
    LogEntry.objects.log_create(
        changed,
        force_log=True,
        action=LogEntry.Action.CREATE if made else LogEntry.Action.UPDATE,
        changes={field: [str(before), str(after)] for field, (before, after) in changes.items()},
        additional_data={"by": asker.name, "request": asker.id},
        remote_addr=asker.address,
    )


def record_saved(
    request: HttpRequest | None, pairs: Iterable[tuple[Model | None, Model]], fields: Collection[str]
) -> None:
    """Notes what was saved in one statement, which django-auditlog does not see: (before, after) of each row; None
    before when it was made. Without a request it was done by a command on the server."""
    kinds, entries = ContentType.objects, []
    for before, after in pairs:
        changes = model_instance_diff(before, after, fields_to_check=None if before is None else list(fields))
        if changes:
            entries.append(
                LogEntry(
                    content_type=kinds.get_for_model(after),
                    object_pk=str(after.pk),
                    object_id=after.pk if isinstance(after.pk, int) else None,
                    object_repr=str(after),
                    action=LogEntry.Action.CREATE if before is None else LogEntry.Action.UPDATE,
                    changes=changes,
                    actor=request and request.user,
                    remote_addr=request and address.of_request(request),
                )
            )
    LogEntry.objects.bulk_create(entries)
