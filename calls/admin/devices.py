"""Devices: where people are signed in, and signing them out."""

import datetime as dt
import re
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from import_export import resources
from import_export.fields import Field

from calls import audit, switchboard
from calls.admin.base import MAX_PEOPLE, Exported, ReadOnlyAdmin, are_too_many, people_named
from calls.admin.lines import sign_out
from devices import times
from devices.models import Device

ADDRESS = re.compile(r"[0-9a-f]{0,4}([.:][0-9a-f]{0,4})+$", re.IGNORECASE)


class OnlineFilter(admin.SimpleListFilter):
    title = "online"
    parameter_name = "online"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Online"), ("no", "Offline"), ("in", "Signed in"), ("out", "Signed out")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        now = times.now()
        match self.value():
            case "yes":
                return queryset.filter(signed_out_at=None, online_until__gt=now)
            case "no":
                return queryset.filter(signed_out_at=None, online_until__lte=now)
            case "in":
                return queryset.filter(signed_out_at=None)
            case "out":
                return queryset.exclude(signed_out_at=None)
        return queryset


class DeviceResource(resources.ModelResource):
    """A device as a row of a file. Never its session, nor where to push to: with these one could act as the device."""

    user = Field()

    class Meta:
        model = Device
        fields = (
            "id", "user", "name", "kind", "address", "logged_in_at", "last_seen_at", "online_until", "signed_out_at",
        )  # fmt: skip
        export_order = fields

    def dehydrate_user(self, device: Device) -> str:
        return device.user.get_username()


@admin.register(Device)
class DeviceAdmin(Exported, ReadOnlyAdmin):
    """Where people are signed in. Only the name can be changed; signing out is an action."""

    resource_classes = [DeviceResource]
    list_display = ("user", "name", "kind", "online", "last_seen", "address", "signed_in", "signed_out")
    list_display_links = ("name",)
    list_filter = (OnlineFilter, "kind")
    linked_by = ("user__id__exact",)  # the devices of one line
    list_select_related = ("user",)
    search_fields = ("name",)
    search_help_text = "User name or name; if nobody has it, a device's name, or how its address begins"
    ordering = ("-logged_in_at",)
    sortable_by = ("signed_in",)
    fields = ("name", "user", "kind", "address", "logged_in_at", "last_seen_at", "signed_out_at")
    readonly_fields = fields[1:]
    actions = ("sign_out", "sign_out_all")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Device], search_term: str
    ) -> tuple[QuerySet[Device], bool]:
        if not search_term:
            return queryset, False
        term = search_term.replace("\0", "").strip()
        people = list(people_named(term)[:MAX_PEOPLE])
        if people:
            return queryset.filter(user__in=people), False
        if ADDRESS.match(term):
            return queryset.filter(address__startswith=term), False
        return queryset.filter(name__icontains=term), False

    def save_model(self, request: HttpRequest, obj: Device, form: Any, change: bool) -> None:
        if "name" in form.changed_data:  # and nothing else is written: the device may be signed out at this moment
            switchboard.rename(obj, obj.name)
            audit.record(request, obj, name=(form.initial["name"], obj.name))

    @admin.display(boolean=True)
    def online(self, device: Device) -> bool:
        return device.signed_out_at is None and device.online_until > times.now()

    @admin.display(description="last seen")
    def last_seen(self, device: Device) -> str:
        return _short(device.last_seen_at)

    @admin.display(description="signed in", ordering="logged_in_at")
    def signed_in(self, device: Device) -> str:
        return _short(device.logged_in_at)

    @admin.display(description="signed out")
    def signed_out(self, device: Device) -> str:
        return _short(device.signed_out_at)

    @admin.action(description="Sign out the selected devices", permissions=["change"])
    def sign_out(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        if are_too_many(request, queryset):
            return
        asked = queryset.count()
        signed_out = sign_out(request, queryset)
        skipped = asked - signed_out
        self.message_user(
            request,
            f"{signed_out} signed out." + (f" {skipped} had been signed out already." if skipped else ""),
            messages.SUCCESS if signed_out else messages.WARNING,
        )

    @admin.action(description="Sign out all devices of these users", permissions=["change"])
    def sign_out_all(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        theirs = Device.objects.filter(user__in=queryset.order_by().values("user"), signed_out_at=None)
        if are_too_many(request, queryset) or are_too_many(request, theirs):
            return
        users = set(queryset.values_list("user", flat=True))
        signed_out = sign_out(request, Device.objects.filter(user__in=users))
        people = "1 user" if len(users) == 1 else f"{len(users)} users"
        self.message_user(request, f"{signed_out} of {people} signed out.", messages.SUCCESS)


def _short(at: dt.datetime | None) -> str:
    return "–" if at is None else f"{timezone.localtime(at):%-d %b %Y %H:%M}"
