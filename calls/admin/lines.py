"""Lines: who may have how many calls, on how many devices; and the groups that lines inherit from."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.signing import BadSignature
from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from import_export.admin import ImportExportMixin

from calls import audit, conf, switchboard
from calls.admin.base import (
    MAX_AT_ONCE,
    Errors,
    Exported,
    PanelAdmin,
    PanelList,
    PlainCheckbox,
    PlainHidden,
    PlainNumber,
    are_too_many,
    people_named,
)
from calls.admin.line_files import (
    LIMITS,
    WRITTEN,
    Busy,
    InThePage,
    LineConfirmForm,
    LineImportForm,
    LineResource,
    Text,
    Workbook,
    reading,
)
from calls.facts import limit
from calls.models import LIVE, Leg
from calls.tables import NO_FILE, Unreadable
from devices import times
from devices.models import Device, Line, LineGroup, Rules

INHERITED = (*LIMITS, "max_legs")  # numbers that an empty field leaves to the next wider rule
SAID_BY = {"line": "this line", "group": "its group", "platform": "the platform"}
UNFIT = "Nothing was changed: the file does not fit any more. Choose it again to see why."
BUSY = "Nothing was done: your last file is still being read. Wait until it is, and choose this one again."
NAMED = {  # inputs in the list: the column's head alone does not say whose each is
    "max_incoming": "Incoming calls of {}",
    "max_outgoing": "Outgoing calls of {}",
    "multi_device": "Multi-device of {}",
    "may_switch": "Whether {} may switch multi-device",
}
GATE = {"not_included": "not included", "expired": "ran out"}


def inherited(line: Line, field: str) -> tuple[int, str]:
    """What holds where the line says nothing, and who says so."""
    if line.group is not None and (value := getattr(line.group, field)) is not None:
        return value, f"of {line.group}"
    return conf.get(field.upper()), "of the platform"


class LineRow(forms.ModelForm):
    """A line, in the list and on its page. An empty limit shows, in grey, what holds instead.

    The page says what each value was when it was made, so that only what was changed there is written: the user, or
    another operator, may have changed the rest meanwhile.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for each in self.fields.values() if self.instance.pk else ():
            each.show_hidden_initial = True
        for field in INHERITED:
            if field in self.fields:
                value, whose = inherited(self.instance, field)
                self.fields[field].widget.attrs |= {"placeholder": value, "title": f"Empty: {value}, {whose}"}


class ListedLine(LineRow):
    """The same, drawn for many at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "error_class": Errors})
        user = self.instance.user.get_username() if self.instance.pk else ""  # an empty list asks for one of nobody
        for name, each in self.fields.items():
            each.hidden_widget = PlainHidden
            each.help_text = ""  # a list does not show it, and no input may refer to it
            if name in NAMED:
                each.widget.attrs["aria-label"] = NAMED[name].format(user)

    class Meta:
        widgets = {
            "user": PlainHidden,
            "multi_device": PlainCheckbox,
            "may_switch": PlainCheckbox,
            **{field: PlainNumber({"class": "vIntegerField"}) for field in LIMITS},
        }


class LineList(PanelList):
    """Each page counts devices and calls of its own rows only: two statements, however many lines there are."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        lines = list(self.result_list)
        users = [line.user_id for line in lines]
        devices = Device.objects.filter(user__in=users, signed_out_at=None).order_by().values_list("user")
        online = Count("pk", filter=Q(online_until__gt=times.now()))
        devices_of = {user: (on, all) for user, on, all in devices.annotate(online=online, all=Count("pk"))}
        calls = Leg.objects.filter(LIVE, user__in=users).order_by().values_list("user")
        calls_of = {user: (ins, outs) for user, ins, outs in calls.annotate(ins=_count("in"), outs=_count("out"))}
        for line in lines:
            line.devices_now = devices_of.get(line.user_id, (0, 0))
            line.calls_now = calls_of.get(line.user_id, (0, 0))


def _count(direction: str) -> Count:
    return Count("pk", filter=Q(dir=direction))


class OverLimitFilter(admin.SimpleListFilter):
    """Limits are looked at when a call is placed: one that was lowered since leaves the line above it."""

    title = "live calls"
    parameter_name = "live"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("over", "Over its limit"),
            ("at", "At its limit or over"),
            ("some", "In a call"),
            ("none", "In no call"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Line]) -> QuerySet[Line]:
        in_a_call = Exists(Leg.objects.filter(LIVE, user=OuterRef("user")).order_by())
        match self.value():
            case "some":
                return queryset.filter(in_a_call)
            case "none":
                return queryset.exclude(in_a_call)
            case "over" | "at":
                full = _full(and_at=self.value() == "at").values_list("user", flat=True).order_by("user")
                if request.method == "GET" and full[: MAX_AT_ONCE + 1].count() > MAX_AT_ONCE:
                    messages.warning(request, f"More than {MAX_AT_ONCE:,} lines: the first {MAX_AT_ONCE:,} are shown.")
                return queryset.filter(pk__in=full[:MAX_AT_ONCE])
        return queryset


def _full(and_at: bool) -> Any:
    """The live legs of users who are over a limit; with `and_at`, at one too."""
    legs = Leg.objects.filter(LIVE).order_by().values("user").annotate(ins=_count("in"), outs=_count("out"))
    full = Q()
    for number, field in (("ins", "max_incoming"), ("outs", "max_outgoing")):
        most = Coalesce(f"user__line__{field}", f"user__line__group__{field}", Value(conf.get(field.upper())))
        legs = legs.annotate(**{f"most_{number}": most})
        over = {f"{number}__gte" if and_at else f"{number}__gt": F(f"most_{number}")}
        full |= Q(**over) & Q(**{f"{number}__gt": 0})
    return legs.filter(full)


class NobodyOnlineFilter(admin.SimpleListFilter):
    title = "devices"
    parameter_name = "devices"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("online", "Somebody online"), ("offline", "Nobody online"), ("none", "No device signed in")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Line]) -> QuerySet[Line]:
        signed_in = Device.objects.filter(user=OuterRef("user"), signed_out_at=None)
        match self.value():
            case "online":
                return queryset.filter(Exists(signed_in.filter(online_until__gt=times.now())))
            case "offline":
                return queryset.exclude(Exists(signed_in.filter(online_until__gt=times.now())))
            case "none":
                return queryset.exclude(Exists(signed_in))
        return queryset


class ManyForm(forms.Form):
    """What shall change on many lines at once. Whatever is left alone stays as it is on each."""

    SWITCH = (("", "Leave as it is"), ("on", "On"), ("off", "Off"))
    LIMIT = (("", "Leave as it is"), ("inherit", "Inherit"), ("set", "Set to"))

    multi_device = forms.ChoiceField(choices=SWITCH, required=False, label="Multi-device")
    may_switch = forms.ChoiceField(choices=SWITCH, required=False, label="The user may switch it")
    max_incoming = forms.ChoiceField(choices=LIMIT, required=False, label="Incoming limit")
    max_incoming_number = forms.IntegerField(
        min_value=0, max_value=32767, required=False, label="Incoming calls at a time"
    )
    max_outgoing = forms.ChoiceField(choices=LIMIT, required=False, label="Outgoing limit")
    max_outgoing_number = forms.IntegerField(
        min_value=0, max_value=32767, required=False, label="Outgoing calls at a time"
    )
    max_legs = forms.ChoiceField(choices=LIMIT, required=False, label="People limit")
    max_legs_number = forms.IntegerField(min_value=2, max_value=32767, required=False, label="People in one call")
    may_transfer = forms.ChoiceField(
        choices=(("", "Leave as it is"), ("inherit", "Inherit"), ("on", "Yes"), ("off", "No")),
        required=False, label="May transfer calls",
    )  # fmt: skip
    edition = forms.ChoiceField(
        choices=[("", "Leave as it is"), ("inherit", "Inherit"), *Rules.Edition.choices],
        required=False, label="Multi-device edition",
    )  # fmt: skip
    edition_until = forms.SplitDateTimeField(
        required=False, label="Allowed until", help_text="UTC, for an edition that is allowed until a time.",
        widget=AdminSplitDateTime,
    )  # fmt: skip
    group = forms.ChoiceField(required=False, label="Group of lines")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups = [(str(group.pk), group.name) for group in LineGroup.objects.all()]
        self.fields["group"].choices = [("", "Leave as it is"), ("none", "No group"), *groups]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        said = super().clean() or {}
        for field in INHERITED:
            if (
                said.get(field) == "set"
                and said.get(f"{field}_number") is None
                and not self.has_error(f"{field}_number")
            ):
                what = "people in one call" if field == "max_legs" else "calls at a time"
                self.add_error(f"{field}_number", f"Say how many {what}.")
        if said.get("edition") == "until" and not said.get("edition_until") and not self.has_error("edition_until"):
            self.add_error("edition_until", "Say until when multi-device is allowed.")
        if not self.errors and not self.changes(said):
            raise forms.ValidationError("Nothing is to be changed: choose at least one thing.")
        return said

    def changes(self, said: dict[str, Any] | None = None) -> dict[str, Any]:
        """The fields of a line and their new values."""
        said = self.cleaned_data if said is None else said
        changes: dict[str, Any] = {
            name: said[name] == "on" for name in ("multi_device", "may_switch") if said.get(name)
        }
        for field in INHERITED:
            if said.get(field):
                changes[field] = said[f"{field}_number"] if said[field] == "set" else None
        if said.get("may_transfer"):
            changes["may_transfer"] = {"inherit": None, "on": True, "off": False}[said["may_transfer"]]
        if said.get("edition"):
            changes["edition"] = "" if said["edition"] == "inherit" else said["edition"]
            changes["edition_until"] = said["edition_until"] if said["edition"] == "until" else None
        if said.get("group"):
            changes["group_id"] = None if said["group"] == "none" else int(said["group"])
        return changes


class LimitsAdmin(PanelAdmin):
    """Limits, of which an empty one is inherited."""

    def get_fieldsets(self, request: HttpRequest, obj: Line | LineGroup | None = None) -> Any:
        may_change = obj is None or self.has_change_permission(request, obj)
        return [
            (title, {**options, "fields": _held(options["fields"], may_change)})
            for title, options in super().get_fieldsets(request, obj)
        ]

    @admin.display(description="incoming limit", ordering="max_incoming")
    def incoming_limit(self, limited: Line | LineGroup) -> str:
        return _limit(limited, "max_incoming")

    @admin.display(description="outgoing limit", ordering="max_outgoing")
    def outgoing_limit(self, limited: Line | LineGroup) -> str:
        return _limit(limited, "max_outgoing")

    @admin.display(description="people in one call", ordering="max_legs")
    def people_limit(self, limited: Line | LineGroup) -> str:
        return _limit(limited, "max_legs")


@admin.register(Line)
class LineAdmin(ImportExportMixin, Exported, LimitsAdmin):
    """Who may do what. Empty limits are inherited; a change holds for the next call."""

    resource_classes = [LineResource]
    import_template_name = "admin/devices/line/import.html"
    import_form_class = LineImportForm
    confirm_form_class = LineConfirmForm
    import_formats = [Text, Workbook]
    tmp_storage_class = InThePage
    form = LineRow
    list_display = (
        "person", "online", "live_calls", "max_incoming", "max_outgoing", "multi_device", "may_switch", "included",
        "group",
    )  # fmt: skip
    list_editable = ("multi_device", "may_switch", "max_incoming", "max_outgoing")
    list_filter = (OverLimitFilter, "multi_device", NobodyOnlineFilter, "dnd", "edition", "group")
    list_per_page = 20  # each row has a form
    search_fields = ("user__username",)
    search_help_text = "User name or name"
    autocomplete_fields = ("user",)
    ordering = ("user__username",)
    actions = ("change_many", "sign_out_all")
    fieldsets = (
        (None, {"fields": ("user", "group")}),
        ("Devices", {"fields": ("multi_device", "may_switch", "edition", "edition_until")}),
        ("Limits", {"fields": ("max_incoming", "max_outgoing", "max_legs", "may_transfer")}),
        ("What holds", {"fields": ("holds",)}),
    )
    readonly_fields = ("holds",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Line]:
        return super().get_queryset(request).select_related("user", "group")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LineList

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **{"form": ListedLine} | kwargs)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Line], search_term: str
    ) -> tuple[QuerySet[Line], bool]:
        return (queryset.filter(user__in=people_named(search_term)) if search_term else queryset), False

    def get_readonly_fields(self, request: HttpRequest, obj: Line | None = None) -> tuple[str, ...]:
        return ("user", "holds") if obj else ("holds",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_import_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request)

    def get_list_display(self, request: HttpRequest) -> Any:
        return _held(self.list_display, self.has_change_permission(request))

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> tuple[str, ...]:
        return ("person",)

    @admin.display(description="user", ordering="user__username")
    def person(self, line: Line) -> str:
        full = line.user.get_full_name()
        return f"{line.user.get_username()} ({full})" if full else line.user.get_username()

    @admin.display(description="online")
    def online(self, line: Line) -> str | SafeString:
        online, signed_in = line.devices_now  # type: ignore[attr-defined]
        quiet = format_html('<br><span class="off">{}</span>', "do not disturb") if line.dnd else ""
        if not signed_in:
            return format_html("–{}", quiet)
        where = f"{reverse('admin:devices_device_changelist')}?user__id__exact={line.user_id}&online=in"
        return format_html(
            '<a class="{}" href="{}">{} of {}</a>{}', "some" if online else "nobody", where, online, signed_in, quiet
        )

    @admin.display(description="edition")
    def included(self, line: Line) -> str | SafeString:
        """Whether the switch beside it can be on at all."""
        rule, off = line.rule("edition"), line.multi_device_off(times.now())
        whose = f" ({line.group})" if rule.source == "group" else ""
        if off:
            return format_html('<span class="off">{}{}</span>', GATE[off], whose)
        return f"until {timezone.localtime(rule.until):%-d %b %Y, %H:%M}{whose}" if rule.until else f"allowed{whose}"

    @admin.display(description="live calls")
    def live_calls(self, line: Line) -> str | SafeString:
        ins, outs = line.calls_now  # type: ignore[attr-defined]
        if not ins and not outs:
            return "0"
        over = any(number > limit(line, field) for number, field in zip((ins, outs), LIMITS, strict=True))
        where = f"{reverse('admin:calls_call_changelist')}?state=live&q={line.user.get_username()}"
        return format_html('<a class="{}" href="{}">{} in, {} out</a>', "over" if over else "", where, ins, outs)

    @admin.display(description="at the moment")
    def holds(self, line: Line) -> str | SafeString:
        """Which rule applied: the most specific one that says anything."""
        if line.pk is None:
            return "The line's own word wins over its group's, and that over the platform's."
        now = times.now()
        off, edition = line.multi_device_off(now), line.rule("edition")
        word = "every signed-in device rings" if line.rings_all(now) else "one device rings"
        if line.multi_device and off:
            word += ", although multi-device is switched on: the edition " + (
                "ran out" if off == "expired" else "does not include it"
            )
        if line.dnd:
            word += f". Do not disturb is on: only {_number(len(line.favourites), 'favourite')} can ring it at all"
        limits = [
            (_number(limit(line, field), f"{way} call"), SAID_BY[line.rule(field).source])
            for field, way in zip(LIMITS, ("incoming", "outgoing"), strict=True)
        ]
        return format_html(
            '<ul class="holds">{}<li>{} in one call, says {}.</li><li>{} transfer calls, says {}.</li>'
            "<li>{}. Whether multi-device is included, says {}.</li></ul>",
            format_html_join("", "<li>{} at a time, says {}.</li>", limits),
            _number(limit(line, "max_legs"), "person", "people"), SAID_BY[line.rule("max_legs").source],
            "May" if line.transfers() else "May not", SAID_BY[line.rule("may_transfer").source],
            word[0].upper() + word[1:], SAID_BY[edition.source],
        )  # fmt: skip

    def save_model(self, request: HttpRequest, obj: Line, form: Any, change: bool) -> None:
        if change:
            fields = [name for name in form.changed_data if name in form.fields]
            if fields:
                obj.save(update_fields=fields)
        else:
            super().save_model(request, obj, form, change)
        told = Q(pk=obj.pk)  # as the line is then: the form's copy has old values of what was not changed
        transaction.on_commit(lambda: switchboard.tell_lines(told))  # the admin wraps its views in a transaction

    def add_data_read_fail_error_to_form(self, form: Any, e: Exception) -> None:
        form.add_error("import_file", list(e.args) if isinstance(e, Unreadable) else NO_FILE)

    def import_action(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return super().import_action(request, **kwargs)
        try:
            with reading(request.user.pk):
                return super().import_action(request, **kwargs)
        except Busy:
            messages.error(request, BUSY)
        return redirect("admin:devices_line_import")

    def process_import(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            with reading(request.user.pk):
                return super().process_import(request, **kwargs)
        except Busy:
            messages.error(request, BUSY)
        except BadSignature:
            messages.error(request, "Nothing was changed: this preview is too old. Choose the file again.")
        except Unreadable:  # it was previewed in another format, or by an older version
            messages.error(request, UNFIT)
        return redirect("admin:devices_line_import")

    def process_result(self, result: Any, request: HttpRequest) -> Any:
        """What was imported is told to the devices that it concerns."""
        if result.has_errors() or result.has_validation_errors():  # what it refers to has changed since the preview
            messages.error(request, UNFIT)
            return redirect("admin:devices_line_import")
        changed = [row.object_id for row in result.rows if row.import_type in WRITTEN]
        switchboard.tell_lines(Q(pk__in=changed))
        return super().process_result(result, request)

    @admin.action(description="Change limits, multi-device or group…", permissions=["change"])
    def change_many(self, request: HttpRequest, queryset: QuerySet[Line]) -> TemplateResponse | None:
        keys = list(queryset.order_by("pk").values_list("pk", flat=True)[: MAX_AT_ONCE + 1])
        if len(keys) > MAX_AT_ONCE:
            self.message_user(
                request,
                f"That is more than {MAX_AT_ONCE:,} lines. Narrow the list, use a group of lines, or import a file.",
                messages.ERROR,
            )
            return None
        form = ManyForm(request.POST if "apply" in request.POST else None)
        if form.is_valid():
            for key in keys:
                switchboard.change_line(key, **form.changes())
            self.message_user(
                request, f"{_number(len(keys), 'line')} changed. It holds for the next call.", messages.SUCCESS
            )
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": f"Change {_number(len(keys), 'line')}",
            "opts": self.opts,
            "form": form,
            "media": self.media + form.media,
            "number": len(keys),
            "some": [line.user.get_username() for line in queryset.select_related("user")[:10]],
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "action": "change_many",
        }
        return TemplateResponse(request, "admin/devices/line/change_many.html", context)

    def has_sign_out_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("devices.change_device")

    @admin.action(description="Sign out all devices of the selected", permissions=["sign_out"])
    def sign_out_all(self, request: HttpRequest, queryset: QuerySet[Line]) -> None:
        devices = Device.objects.filter(user__in=queryset.values("user"), signed_out_at=None)
        if are_too_many(request, devices):
            return
        signed_out = sign_out(request, devices)
        self.message_user(
            request,
            f"{signed_out} signed out." if signed_out else "No device was signed in.",
            messages.SUCCESS if signed_out else messages.WARNING,
        )


def _held(fields: Any, may_change: bool) -> list[str]:
    """What is inherited stands in the input where the line's own limit is typed: who has no input is told in words."""
    words = {"max_incoming": "incoming_limit", "max_outgoing": "outgoing_limit", "max_legs": "people_limit"}
    shown = {} if may_change else words
    return [shown.get(field, field) for field in fields]


def _limit(limited: Line | LineGroup, field: str) -> str:
    own: int | None = getattr(limited, field)
    if own is not None:
        return str(own)
    return f"{limit(limited, field) if isinstance(limited, Line) else conf.get(field.upper())} (inherited)"


def _number(number: int, noun: str, many: str = "") -> str:
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def sign_out(request: HttpRequest, devices: QuerySet[Device]) -> int:
    """Signs these devices out, with those that share their sign-ins, and notes who did it. Returns how many there
    were."""
    number = 0
    for device in devices.filter(signed_out_at=None).order_by("pk").iterator(chunk_size=200):
        for gone in switchboard.sign_out(device):  # none, if it went with an earlier one
            audit.record(request, gone, signed_out=("no", "yes"))
            number += 1
    return number


@admin.register(LineGroup)
class LineGroupAdmin(Exported, LimitsAdmin):
    """Rules for many lines: what a line does not say itself, its group says."""

    list_display = (
        "name", "incoming_limit", "outgoing_limit", "people_limit", "may_transfer", "edition", "edition_until",
        "number",
    )  # fmt: skip
    search_fields = ("name",)
    ordering = ("name",)
    fields = ("name", *INHERITED, "may_transfer", "edition", "edition_until")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LineGroup]:
        return super().get_queryset(request).annotate(number=Count("lines"))

    @admin.display(description="lines")
    def number(self, group: LineGroup) -> SafeString:
        where = f"{reverse('admin:devices_line_changelist')}?group__id__exact={group.pk}"
        return format_html('<a href="{}">{}</a>', where, group.number)  # type: ignore[attr-defined]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name in INHERITED and field is not None:
            field.widget.attrs["placeholder"] = conf.get(db_field.name.upper())
        return field

    def save_model(self, request: HttpRequest, obj: LineGroup, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        transaction.on_commit(lambda: switchboard.tell_lines(Q(group=obj)))

    def delete_model(self, request: HttpRequest, obj: LineGroup) -> None:
        self.delete_queryset(request, LineGroup.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[LineGroup]) -> None:
        """What the lines inherited they lose, and are told."""
        lines = list(Line.objects.filter(group__in=queryset).values_list("pk", flat=True))
        super().delete_queryset(request, queryset)
        transaction.on_commit(lambda: switchboard.tell_lines(Q(pk__in=lines)))
