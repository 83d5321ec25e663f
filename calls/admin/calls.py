"""Calls, live and past: their list, and each one's story."""

import datetime as dt
import uuid
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import (
    BooleanField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Window,
    prefetch_related_objects,
)
from django.db.models.functions import RowNumber
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from import_export import resources
from import_export.fields import Field

from calls import aggregates, audit, conf, machine, switchboard
from calls.admin import story
from calls.admin.base import Exported, PanelList, ReadOnlyAdmin, are_too_many, first_people
from calls.models import Call, Leg
from devices import times

LISTED_LEGS, SHOWN_LEGS, EXPORTED_LEGS = 8, 50, 100  # of a call: in the list, on its page, and in a file
MAX_CALLERS = 100  # people whose calls one search shows: all calls of each are looked through
MAX_NAMES = 4  # words in the names of two people
ENDED = ExpressionWrapper(Q(state="ended"), BooleanField())  # as in the index: live calls come first
NOT_ADDED = {
    "not_found": "There is no active person with the user name {}.",
    "call_ended": "The call had ended before.",
    "full": "The call has as many people as it may have.",
    "not_allowed": "{} was rung several times within a minute. Wait a little and try again.",
}
OVER = ExpressionWrapper(Q(ended_at__isnull=False), BooleanField())  # the same, said without the index
TIMES = (("hour", "Last hour", dt.timedelta(hours=1)), ("day", "Last 24 hours", dt.timedelta(days=1)),
         ("week", "Last 7 days", dt.timedelta(days=7)), ("month", "Last 30 days", dt.timedelta(days=30)))  # fmt: skip


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


class ReasonFilter(admin.SimpleListFilter):
    """From the closed set: to ask the table which reasons it has would read all of it."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(story.REASONS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Call]) -> QuerySet[Call]:
        return queryset.filter(state="ended", reason=self.value()) if self.value() else queryset


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("audio", "Audio"), ("video", "Video")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Call]) -> QuerySet[Call]:
        if not self.value():
            return queryset
        live_or_not = ~Q(state="ended") | Q(state="ended")  # always true: names the two indexes that may help
        return queryset.filter(live_or_not, kind=self.value())


class SizeFilter(admin.SimpleListFilter):
    title = "people"
    parameter_name = "people"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("two", "Calls of two"), ("group", "Calls of several")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Call]) -> QuerySet[Call]:
        return queryset.filter(group=self.value() == "group") if self.value() else queryset


class TimeFilter(admin.SimpleListFilter):
    title = "placed"
    parameter_name = "placed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, words) for name, words, _ in TIMES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Call]) -> QuerySet[Call]:
        back = next((time for name, _, time in TIMES if name == self.value()), None)
        return queryset.filter(aggregates.since(times.now() - back)) if back else queryset


class DaysFilter(admin.ListFilter):
    """Placed on these days, the last one included, in the site's time zone. Its fields stand in a form of their own."""

    title = "days"
    template = "admin/calls/call/days.html"
    ENDS = ("from", "until")

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self.ENDS:
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]
        self.kept: list[tuple[str, str]] = []

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.ENDS)

    def choices(self, changelist: Any) -> Any:
        self.kept = [pair for pair in changelist.get_filters_params().items() if pair[0] not in self.ENDS]
        if changelist.query:
            self.kept.append((SEARCH_VAR, changelist.query))
        kept = [(name, value[-1] if isinstance(value, list) else value) for name, value in self.kept]
        without = changelist.get_query_string(remove=list(self.ENDS))
        return [{"kept": kept, "without": without, **{name: self.used_parameters.get(name, "") for name in self.ENDS}}]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Call]) -> QuerySet[Call]:
        first, last = (_day(str(self.used_parameters.get(name, ""))) for name in self.ENDS)
        if first:
            queryset = queryset.filter(aggregates.since(_midnight(first)))
        if last:
            queryset = queryset.filter(placed_at__lt=_midnight(last + dt.timedelta(days=1)))
        return queryset


def _day(text: str) -> dt.date | None:
    """Raises IncorrectLookupParameters, which leads to the list without filters."""
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise IncorrectLookupParameters from error


def _midnight(day: dt.date) -> dt.datetime:
    return timezone.make_aware(dt.datetime.combine(day, dt.time()))


class AddForm(forms.Form):
    """Whom to ring into a call."""

    user = forms.CharField(max_length=150, label="User name")


class NoteForm(forms.Form):
    """Why a call is ended, for those who are in it."""

    note = forms.CharField(
        required=False, max_length=200, label="Reason", help_text="Everybody in the call reads it. May be empty."
    )


class CallResource(resources.ModelResource):
    """A call as a row of a file; times are UTC, lengths are seconds."""

    caller = Field()
    callees = Field()
    rang_s = Field()
    lasted_s = Field()

    class Meta:
        model = Call
        fields = (
            "id", "kind", "state", "reason", "caller", "callees", "placed_at", "answered_at", "ended_at", "rang_s",
            "lasted_s",
        )  # fmt: skip
        export_order = fields

    def dehydrate_caller(self, call: Call) -> str:
        return ", ".join(_callers(call))

    def dehydrate_callees(self, call: Call) -> str:
        more = " and others" if len(call.legs.all()) == EXPORTED_LEGS else ""
        return ", ".join(_callees(call)) + more

    def dehydrate_rang_s(self, call: Call) -> float | None:
        return _seconds(call.placed_at, call.answered_at or call.ended_at)

    def dehydrate_lasted_s(self, call: Call) -> float | None:
        return _seconds(call.answered_at, call.ended_at)


class CallList(PanelList):
    """Each page reads its calls' first legs, and where these calls were answered: two statements, however many calls
    there are, and however much happened in them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        calls = list(self.result_list)
        prefetch_related_objects(calls, _first_legs(LISTED_LEGS))
        answers = story.answers(calls)
        for call in calls:
            call.answered_on = answers.get(call.pk, "")


@admin.register(Call)
class CallAdmin(Exported, ReadOnlyAdmin):
    """Calls as they are and were. They can be ended; nothing else is changed by hand."""

    resource_classes = [CallResource]
    list_display = ("placed", "who", "kind", "now", "rang", "lasted", "answered_on")
    list_filter = (StateFilter, ReasonFilter, KindFilter, SizeFilter, TimeFilter, DaysFilter)
    search_fields = ("id",)
    search_help_text = "One person, two people whose calls with each other you look for, or the id of a call"
    sortable_by = ()
    actions = ("end_call",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CallList

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        newest = F("placed_at").desc()
        if SEARCH_VAR in request.GET:  # few: to be sorted, and not to be looked for along the index of all calls
            return (OVER, newest)
        only_ended = request.GET.get("state") == "ended" or "reason" in request.GET
        return (newest,) if only_ended else (ENDED, newest)

    def get_export_queryset(self, request: HttpRequest) -> QuerySet[Call]:
        return super().get_export_queryset(request).prefetch_related(_first_legs(EXPORTED_LEGS))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Call], search_term: str
    ) -> tuple[QuerySet[Call], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(pk=uuid.UUID(term)), False
        except ValueError:
            people, more = first_people(term, MAX_CALLERS)
        theirs = Leg.objects.filter(user__in=people).order_by()
        if not people:  # nobody has all of these words in the name: they may be the names of two people
            theirs, more = _between(term)
        if more:
            messages.warning(
                request, f"More than {MAX_CALLERS} people fit: calls of the first {MAX_CALLERS} are shown."
            )
        return queryset.filter(pk__in=theirs.values("call")), False

    def get_urls(self) -> list[URLPattern]:
        end, ring, remove = map(self.admin_site.admin_view, (self.end_view, self.ring_view, self.remove_view))
        return [
            path("<uuid:call_id>/ring/", ring, name="calls_call_ring"),
            path("<uuid:call_id>/end/", end, name="calls_call_end"),
            path("<uuid:call_id>/remove/", remove, name="calls_call_remove"),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """The call's story: there is nothing to save."""
        call = self.get_object(request, unquote(object_id))
        if call is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_permission(request, call):
            raise PermissionDenied
        prefetch_related_objects([call], _first_legs(SHOWN_LEGS))
        legs, pages = call.legs.all(), story.pages(call)
        asked = request.GET.get("p", "")
        number = min(int(asked), pages) if asked.isdecimal() and len(asked) < 10 else 0  # 0: the beginning and the end
        more = Leg.objects.filter(call=call).count() - len(legs)
        told = story.page(call, number) if number else story.tell(call)
        context = {
            **self.admin_site.each_context(request),
            "title": self.who(call),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "call": call,
            "reason": story.REASONS.get(call.reason or "", ""),
            "legs": legs,
            "more_legs": f"{more:,}" if more else "",
            "story": told,
            "untold": f"{told.untold:,}",
            "page": number,
            "pages": pages,
            "rang": self.rang(call),
            "lasted": self.lasted(call),
            "answered_on": story.answers([call]).get(call.pk, ""),
            "form": NoteForm() if call.state != "ended" and self.has_change_permission(request, call) else None,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/calls/call/story.html", context)

    def _call_to_change(self, request: HttpRequest, call_id: uuid.UUID) -> Call:
        call: Call | None = self.get_object(request, str(call_id))
        if call is None:
            raise Http404
        if request.method != "POST" or not self.has_change_permission(request, call):
            raise PermissionDenied
        return call

    def end_view(self, request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
        """Ends one call, with a reason that those in it read."""
        call = self._call_to_change(request, call_id)
        form = NoteForm(request.POST)
        if not form.is_valid():
            messages.error(request, "The reason is too long: 200 characters at most.")
        elif self._end(request, call, form.cleaned_data["note"]):
            messages.success(request, "The call was ended, and everybody in it was told.")
        else:
            messages.warning(request, "The call had ended before.")
        return redirect("admin:calls_call_change", call.pk)

    def ring_view(self, request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
        """Rings one more person into a call."""
        call = self._call_to_change(request, call_id)
        form = AddForm(request.POST)
        if not form.is_valid():
            messages.error(request, "Say the user name of the person to add.")
            return redirect("admin:calls_call_change", call.pk)
        name = form.cleaned_data["user"]
        if any(leg.username == name and leg.state in machine.LIVE for leg in call.legs.all()):
            messages.warning(request, f"{name} is in the call already.")
            return redirect("admin:calls_call_change", call.pk)
        command = machine.AddByOperator(request.user.get_username(), (), conf.get("RING_S"), (name,))
        outcome = switchboard.perform(call.pk, command)
        rung = machine.leg_named(outcome.call, name) if outcome.call else None
        if outcome.refused is not None:
            messages.warning(request, NOT_ADDED.get(outcome.refused.code, "Nobody was added.").format(name))
        elif rung is None or rung.state not in machine.LIVE:
            why = story.REASONS.get(rung.state, rung.state).lower() if rung else "unknown"
            messages.warning(request, f"{name} was not rung: {why}.")
        else:
            audit.record(request, call, added=("", f"user {rung.key}"))
            messages.success(request, f"{name} is called into the call.")
        return redirect("admin:calls_call_change", call.pk)

    def remove_view(self, request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
        """Takes one person out of a call of several."""
        call = self._call_to_change(request, call_id)
        leg = next((each for each in call.legs.all() if str(each.pk) == request.POST.get("leg")), None)
        if leg is None:
            raise Http404
        outcome = switchboard.perform(call.pk, machine.RemoveByOperator(request.user.get_username(), leg.username))
        if outcome.refused is None:
            audit.record(request, call, removed=("", f"user {leg.user_id}"))  # by key, which outlives an erased name
            messages.success(request, f"The call goes on without {leg.username}, and everybody in it was told.")
        else:
            messages.warning(request, f"{leg.username} was not in the call any more.")
        return redirect("admin:calls_call_change", call.pk)

    @admin.display(description="who")
    def who(self, call: Call) -> str:
        return f"{story.several(_callers(call))} → {story.several(_callees(call))}"

    @admin.display(description="placed")
    def placed(self, call: Call) -> str:
        return f"{timezone.localtime(call.placed_at):%-d %b %Y %H:%M:%S}"

    @admin.display(description="state")
    def now(self, call: Call) -> str | SafeString:
        if call.state != "ended":
            return format_html('<span class="live {}">{}</span>', call.state, call.state.capitalize())
        return story.REASONS.get(call.reason or "", call.reason or "")

    @admin.display(description="rang")
    def rang(self, call: Call) -> str:
        seconds = _seconds(call.placed_at, call.answered_at or call.ended_at or times.now())
        return f"{seconds:.1f} s"

    @admin.display(description="lasted")
    def lasted(self, call: Call) -> str:
        if call.answered_at is None:
            return "–"
        seconds = int(_seconds(call.answered_at, call.ended_at or times.now()) or 0)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    @admin.display(description="answered on")
    def answered_on(self, call: Call) -> str:
        return call.answered_on or "–"  # type: ignore[attr-defined]

    @admin.action(description="End the selected calls", permissions=["change"])
    def end_call(self, request: HttpRequest, queryset: QuerySet[Call]) -> None:
        live = queryset.exclude(state="ended").order_by()
        if are_too_many(request, live):
            return
        asked = queryset.order_by().count()
        ended = sum(self._end(request, call, "") for call in live)
        over = asked - ended
        self.message_user(
            request,
            f"{ended} ended." + (f" {over} had ended before." if over else ""),
            messages.SUCCESS if ended else messages.WARNING,
        )

    def _end(self, request: HttpRequest, call: Call, note: str) -> bool:
        outcome = switchboard.perform(call.pk, machine.EndByOperator(request.user.get_username(), note))
        if outcome.refused is not None:
            return False
        audit.record(request, call, state=(call.state, "ended"), note=("", note))
        return True


def _between(term: str) -> tuple[QuerySet[Leg], bool]:
    """Legs in calls of two people with each other, one named by the first words and one by the rest, wherever the first
    name ends; and whether more people fit than are looked at."""
    words, found, more = term.split(), Leg.objects.none(), False
    if len(words) > MAX_NAMES:
        return found, False
    for end in range(1, len(words)):
        (ones, more_ones), (others, more_others) = (
            first_people(" ".join(part), MAX_CALLERS) for part in (words[:end], words[end:])
        )
        other = Leg.objects.filter(call=OuterRef("call"), user__in=others).exclude(user=OuterRef("user"))
        found |= Leg.objects.filter(Exists(other.order_by()), user__in=ones)
        more |= bool(ones and others) and (more_ones or more_others)
    return found.order_by(), more


def _first_legs(most: int) -> Prefetch:
    """With each call its first legs, at most so many."""
    place = Window(RowNumber(), partition_by="call", order_by="id")
    return Prefetch("legs", Leg.objects.annotate(place=place).filter(place__lte=most).order_by("id"))


def _callers(call: Call) -> list[str]:
    return [leg.username for leg in call.legs.all() if _has_placed(leg)]


def _callees(call: Call) -> list[str]:
    return [leg.username for leg in call.legs.all() if not _has_placed(leg)]


def _has_placed(leg: Leg) -> bool:
    """Whether it is the leg of the person who placed the call. One that came from another call keeps its direction."""
    return leg.dir == "out" and not leg.transferred_by


def _seconds(start: dt.datetime | None, end: dt.datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds(), 3)
