"""Who changed which limit, switch, group, account or call, when, from what to what: to be read, never changed."""

from typing import Any

import auditlog.admin  # noqa: F401 - registers the page that ours replaces
from auditlog.models import LogEntry
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from import_export import resources
from import_export.fields import Field

from calls.admin.base import MAX_PEOPLE, Exported, PanelAdmin, people_named

UNTOLD = ("password", "favourites")  # shown as changed, without the old and the new value
MAX_VALUE = 200  # characters of a value that are shown
MAX_OBJECTS = 20  # of many that were added or removed, that are named

admin.site.unregister(LogEntry)


class ChangeResource(resources.ModelResource):
    """A change as a row of a file."""

    who = Field()
    what = Field()
    changes = Field()

    class Meta:
        model = LogEntry
        fields = ("timestamp", "who", "remote_addr", "what", "changes")
        export_order = fields

    def dehydrate_who(self, entry: LogEntry) -> str:
        return entry.actor.get_username() if entry.actor else _key(entry)

    def dehydrate_what(self, entry: LogEntry) -> str:
        return f"{entry.get_action_display()} {entry.content_type.name} {entry.object_repr}"

    def dehydrate_changes(self, entry: LogEntry) -> str:
        return "; ".join(f"{field}: {words}" for field, words in changes_of(entry))


class WhatFilter(admin.SimpleListFilter):
    title = "what"
    parameter_name = "what"
    KINDS = (("line", "Lines"), ("linegroup", "Groups of lines"), ("call", "Calls"), ("device", "Devices"),
             ("user", "Accounts"), ("group", "Roles"), ("apikey", "API keys"),
             ("webhook", "Webhooks"))  # fmt: skip

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.KINDS)

    def queryset(self, request: HttpRequest, queryset: QuerySet[LogEntry]) -> QuerySet[LogEntry]:
        return queryset.filter(content_type__model=self.value()) if self.value() in dict(self.KINDS) else queryset


@admin.register(LogEntry)
class ChangeAdmin(Exported, PanelAdmin):
    """Nobody adds, changes or deletes an entry here, whatever their permissions."""

    resource_classes = [ChangeResource]
    list_display = ("when", "who", "what", "changed", "remote_addr")
    list_display_links = None
    list_filter = (WhatFilter, "action", ("timestamp", admin.DateFieldListFilter))
    list_select_related = ("actor", "content_type")
    search_fields = ("object_repr",)
    search_help_text = "What was changed, or who changed it"
    ordering = ("-timestamp", "-id")
    sortable_by = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[LogEntry]:
        """What was changed of accounts is for those who may see accounts."""
        entries = super().get_queryset(request)
        of_accounts = Q(content_type__app_label=get_user_model()._meta.app_label)
        return entries if request.user.has_perm("auth.view_user") else entries.exclude(of_accounts)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[LogEntry], search_term: str
    ) -> tuple[QuerySet[LogEntry], bool]:
        if not search_term:
            return queryset, False
        people = list(people_named(search_term)[:MAX_PEOPLE])  # as keys, or the whole log would be read
        return queryset.filter(Q(object_repr__icontains=search_term) | Q(actor__in=people)), False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="when")
    def when(self, entry: LogEntry) -> str:
        return f"{timezone.localtime(entry.timestamp):%-d %b %Y %H:%M:%S}"

    @admin.display(description="who")
    def who(self, entry: LogEntry) -> str:
        return entry.actor.get_username() if entry.actor else _key(entry) or "not in the admin"

    @admin.display(description="what")
    def what(self, entry: LogEntry) -> str:
        said = {"line", "call"}  # whose names say what they are
        return (
            entry.object_repr if entry.content_type.model in said else f"{entry.content_type.name} {entry.object_repr}"
        )

    @admin.display(description="from what to what")
    def changed(self, entry: LogEntry) -> SafeString | str:
        verbs = {LogEntry.Action.CREATE: "made", LogEntry.Action.DELETE: "deleted"}
        if entry.action in verbs:
            return verbs[entry.action]
        return format_html_join("", '<div class="change"><b>{}</b> {}</div>', changes_of(entry))


def _key(entry: LogEntry) -> str:
    """The key of the HTTP API that made the change."""
    said = entry.additional_data
    return str(said.get("by", "")) if isinstance(said, dict) else ""


def changes_of(entry: LogEntry) -> list[tuple[str, str]]:
    """Each field that was changed, and how."""
    found = []
    for field, change in (entry.changes or {}).items():
        if isinstance(change, dict):  # of many: a role's permissions, an account's roles
            verb = "added" if change.get("operation") == "add" else "removed"
            objects = change.get("objects", ())
            named = ", ".join(str(each) for each in objects[:MAX_OBJECTS])
            more = f" and {len(objects) - MAX_OBJECTS:,} more" if len(objects) > MAX_OBJECTS else ""
            found.append((field.replace("_", " "), f"{verb} {named}{more}"))
        else:
            if field in UNTOLD:
                found.append((field, "changed"))
                continue
            before, after = (_shown(value) for value in change)
            found.append((field.replace("_", " "), f"{before} → {after}"))
    return found


def _shown(value: Any) -> str:
    return "empty" if value in (None, "None", "") else Truncator(value).chars(MAX_VALUE)
