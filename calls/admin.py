"""The operator's way in: lines and their limits, devices, and calls.

Lines and devices are registered here and not beside their models, because what an operator does to them ends legs and
tells sockets, and `devices` may not know of calls. Commands on calls are changelist actions: the change views run
inside a transaction, where the switchboard refuses to work.
"""

from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from calls import conf, machine, switchboard
from calls.models import Call, Leg
from devices.models import Device, Line

DEFAULT_OF = {"max_incoming": "MAX_INCOMING", "max_outgoing": "MAX_OUTGOING"}
admin.site.site_header = admin.site.site_title = "Call platform"
TIMELINE = "%H:%M:%S.%f"


@admin.register(Line)
class LineAdmin(admin.ModelAdmin):
    """Who may do what. Empty limits are the platform's; a change holds for the next call."""

    list_display = ("user", "online", "multi_device", "may_switch", "max_incoming", "max_outgoing", "live_calls")
    list_editable = ("multi_device", "may_switch", "max_incoming", "max_outgoing")
    list_filter = ("multi_device", "may_switch")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__first_name", "user__last_name")
    autocomplete_fields = ("user",)
    ordering = ("user__username",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Line]:
        online = Device.objects.filter(user=OuterRef("user"), signed_out_at=None, online_until__gt=timezone.now())
        live = Count("user__legs", filter=Q(user__legs__state__in=machine.LIVE))
        return super().get_queryset(request).annotate(any_online=Exists(online), live_legs=live)

    def get_readonly_fields(self, request: HttpRequest, obj: Line | None = None) -> tuple[str, ...]:
        return ("user",) if obj else ()

    @admin.display(boolean=True)
    def online(self, line: Line) -> bool:
        return bool(line.any_online)  # type: ignore[attr-defined]

    @admin.display(description="live calls")
    def live_calls(self, line: Line) -> int:
        return int(line.live_legs)  # type: ignore[attr-defined]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """An empty limit shows, in grey, the platform's that holds instead."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name in DEFAULT_OF and field is not None:
            field.widget.attrs |= {"placeholder": conf.get(DEFAULT_OF[db_field.name]), "title": "Empty: the default"}
        return field

    def save_model(self, request: HttpRequest, obj: Line, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        transaction.on_commit(lambda: switchboard.tell_line(obj))  # the admin wraps its views in a transaction


class OnlineFilter(admin.SimpleListFilter):
    title = "online"
    parameter_name = "online"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Online"), ("no", "Offline"), ("out", "Signed out")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        now = timezone.now()
        match self.value():
            case "yes":
                return queryset.filter(signed_out_at=None, online_until__gt=now)
            case "no":
                return queryset.filter(signed_out_at=None, online_until__lte=now)
            case "out":
                return queryset.exclude(signed_out_at=None)
        return queryset


class ReadOnlyAdmin(admin.ModelAdmin):
    """What the platform writes itself: to be seen, and acted on by the actions that stand there."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    """Where people are signed in. Only the name can be changed; signing out is an action."""

    list_display = ("name", "user", "kind", "online", "last_seen_at", "logged_in_at", "signed_out_at")
    list_filter = (OnlineFilter, "kind")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    ordering = ("-last_seen_at",)
    fields = ("name", "user", "kind", "logged_in_at", "last_seen_at", "signed_out_at")
    readonly_fields = fields[1:]
    actions = ("sign_out",)

    @admin.display(boolean=True)
    def online(self, device: Device) -> bool:
        return device.signed_out_at is None and device.online_until > timezone.now()

    @admin.action(description="Sign out the selected devices", permissions=["change"])
    def sign_out(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        devices = list(queryset.filter(signed_out_at=None))
        for device in devices:
            switchboard.sign_out(device)
        skipped = queryset.count() - len(devices)
        self.message_user(
            request,
            f"{len(devices)} signed out." + (f" {skipped} had been signed out already." if skipped else ""),
            messages.SUCCESS if devices else messages.WARNING,
        )


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "Live"), ("ringing", "Ringing"), ("active", "Active"), ("ended", "Ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Call]) -> QuerySet[Call]:
        match self.value():
            case None:
                return queryset
            case "live":
                return queryset.exclude(state="ended")
        return queryset.filter(state=self.value())


class LegInline(admin.TabularInline):
    model = Leg
    extra = 0
    can_delete = False
    fields = ("user", "dir", "state", "reason", "device_name", "online", "mic", "cam")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Call)
class CallAdmin(ReadOnlyAdmin):
    """Calls as they are and were. Ending them is an action; nothing else is changed by hand."""

    list_display = ("placed_at", "who", "kind", "state", "reason", "lasted")
    list_filter = (StateFilter, "reason", "kind", ("placed_at", admin.DateFieldListFilter))
    search_fields = ("=id", "legs__user__username")
    ordering = ("-placed_at",)
    fields = ("id", "kind", "state", "reason", "host", "placed_at", "answered_at", "ended_at", "timeline")
    readonly_fields = fields
    inlines = (LegInline,)
    actions = ("end_call",)
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Call]:
        return super().get_queryset(request).select_related("host").prefetch_related("legs__user")

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """A story to be read: there is nothing to save."""
        shown = {"show_save": False, "show_save_and_continue": False, "title": "Call"}
        return super().change_view(request, object_id, form_url, {**shown, **(extra_context or {})})

    @admin.display(description="who")
    def who(self, call: Call) -> str:
        return " → ".join(leg.user.get_username() for leg in call.legs.all())

    @admin.display(description="lasted")
    def lasted(self, call: Call) -> str:
        if call.answered_at is None:
            return "not answered"
        seconds = int(((call.ended_at or timezone.now()) - call.answered_at).total_seconds())
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    @admin.display(description="timeline")
    def timeline(self, call: Call) -> SafeString:
        """Every accepted change, in order, to the millisecond."""
        names = {str(leg.user_id): leg.user.get_username() for leg in call.legs.all()}
        rows = (
            (timezone.localtime(entry.at).strftime(TIMELINE)[:-3], _sentence(entry.decode(), names))
            for entry in call.entries.all()
        )
        return format_html("<ol>{}</ol>", format_html_join("", "<li>{} &nbsp; {}</li>", rows))

    @admin.action(description="End the selected calls", permissions=["change"])
    def end_call(self, request: HttpRequest, queryset: QuerySet[Call]) -> None:
        command = machine.EndByOperator(request.user.get_username())
        outcomes = [
            switchboard.perform(call_id, command) for call_id in queryset.order_by().values_list("id", flat=True)
        ]
        ended = sum(outcome.refused is None for outcome in outcomes)
        over = len(outcomes) - ended
        self.message_user(
            request,
            f"{ended} ended." + (f" {over} had ended before." if over else ""),
            messages.SUCCESS if ended else messages.WARNING,
        )


def _sentence(command: machine.Command, names: dict[str, str]) -> str:
    """What happened, as an operator would say it."""
    match command:
        case machine.Invite(by=by, callees=callees):
            asked = ", ".join(
                callee.user + (" (at the limit)" if callee.active >= callee.limit else "") for callee in callees
            )
            return f"{names[by.key]} called {asked} from {by.name}"
        case machine.Ringing(by):
            return f"{by.name} of {names[by.key]} rings"
        case machine.Answer(by) | machine.Join(by):
            return f"{names[by.key]} answered on {by.name}"
        case machine.Reject(by):
            return f"{names[by.key]} rejected on {by.name}"
        case machine.Hangup(by) | machine.End(by):
            return f"{names[by.key]} hung up on {by.name}"
        case machine.Move(by):
            return f"{names[by.key]} continued on {by.name}"
        case machine.Media(by, mic, cam):
            return f"{names[by.key]}: microphone {'on' if mic else 'off'}, camera {'on' if cam else 'off'}"
        case machine.Due():
            return "a deadline ran out"
        case machine.Silent(key=key):
            return f"nothing was heard from the device of {names[key]}"
        case machine.Heard(key=key):
            return f"the device of {names[key]} is back"
        case machine.SignedOut(key=key):
            return f"a device of {names[key]} was signed out"
        case machine.EndByOperator(operator):
            return f"{operator} (operator) ended the call"
