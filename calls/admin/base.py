"""What the operator's pages share: pages that only show, lists that cost the same however much there is, exports."""

from collections.abc import Iterable
from functools import cached_property, reduce
from operator import or_
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.forms.utils import ErrorList, flatatt
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from import_export.admin import ExportMixin
from import_export.formats.base_formats import CSV, XLSX
from import_export.forms import ExportForm

from calls import search
from calls.admin import exports

MAX_COUNTED = 2_000  # rows of a list that are counted; whoever looks for more narrows the list
MAX_PEOPLE = 1000  # people that a search for a name takes into account
MAX_AT_ONCE = 1000  # rows that one action changes
# Columns of the index `person_search`, with the address of mail, which is for those who may see accounts. One more, and
# every search would read the whole table.
NAMES = ("username", "first_name", "last_name")


class BoundedPaginator(Paginator):
    """Counts no further than it must: to count a million rows takes longer than to show a page of them."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: MAX_COUNTED + 1].count())

    @property
    def most(self) -> int:
        return MAX_COUNTED

    @property
    def stopped(self) -> bool:
        return self.count > MAX_COUNTED


class PanelList(ChangeList):
    """A list that can be narrowed by its own filters and its search box only, and looks for one page of rows once.

    Django's list accepts a lookup of any column of the model. Each answer (rows, or no rows) then tells something about
    a column that no page shows: `?session_key__regex=^[0-9a-h]` finds a session's key letter by letter.
    """

    model_admin: "PanelAdmin"

    def get_filters(self, request: HttpRequest) -> Any:
        """The filters that the request asks for. Raises IncorrectLookupParameters for a parameter of no filter."""
        try:
            found = super().get_filters(request)
        except DisallowedModelAdminLookup as error:
            raise IncorrectLookupParameters from error
        # Each filter takes its own parameters out. Django would put the rest to the database as it stands.
        if set(found[2]) - set(self.model_admin.linked_by):
            raise IncorrectLookupParameters
        return found

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        if any("\0" in value for values in self.filter_params.values() for value in values):
            raise IncorrectLookupParameters  # no text in the database has one, and PostgreSQL takes no question with it
        return super().get_queryset(request, *args, **kwargs)

    def get_results(self, request: HttpRequest) -> None:
        most = self.list_per_page
        if self.page_num == 1 and not self.show_all and (self.query or self.get_filters_params()):
            keys = list(self.queryset.order_by().values_list("pk", flat=True)[: most + 1])
            if len(keys) <= most:
                self.queryset = self.queryset.filter(pk__in=keys) if keys else self.queryset.none()
        super().get_results(request)


class Plain:
    """An input without a template: a list has a hundred of them, and half of its time would go into their templates."""

    def _render(self, template_name: str, context: dict[str, Any], renderer: Any = None) -> SafeString:
        widget = context["widget"]
        said = {"type": widget["type"], "name": widget["name"], "value": widget["value"], **widget["attrs"]}
        return format_html("<input{}>", flatatt(said))


class PlainNumber(Plain, forms.NumberInput):
    pass


class PlainCheckbox(Plain, forms.CheckboxInput):
    pass


class PlainHidden(Plain, forms.HiddenInput):
    pass


class Errors(ErrorList):
    """Nothing is said with nothing, and not with an empty template."""

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        return super().render(*args, **kwargs) if self else SafeString("")


def are_too_many(request: HttpRequest, rows: QuerySet[Any]) -> bool:
    """Whether these are more than one action changes; the operator is told so."""
    if rows.order_by()[: MAX_AT_ONCE + 1].count() <= MAX_AT_ONCE:
        return False
    messages.error(request, f"Nothing was done: that is more than {MAX_AT_ONCE:,} at once. Narrow the list.")
    return True


class PanelAdmin(admin.ModelAdmin):
    """A list of any length. Every model of the panel is shown by one of these, those of other packages too."""

    linked_by: tuple[str, ...] = ()  # lookups that links of other pages use, beside those of the list's own filters
    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # a count beside each filter reads the whole table for each
    list_per_page = 50

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PanelList

    def action_checkbox(self, obj: Any) -> SafeString:
        attrs = {"class": "action-select", "aria-label": f"Select this object for an action - {obj}"}
        return PlainCheckbox(attrs, lambda value: False).render(helpers.ACTION_CHECKBOX_NAME, str(obj.pk))

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Django answers 500 when a selected key cannot be one of this table."""
        for key in request.POST.getlist(helpers.ACTION_CHECKBOX_NAME):
            try:
                self.opts.pk.to_python(key)
            except ValidationError:
                messages.error(request, "Nothing was done: one of the selected rows does not exist.")
                return None
        return super().response_action(request, queryset)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Who changed it is for those who may see the audit log: Django lets whoever may see the row."""
        if not request.user.has_perm("auditlog.view_logentry"):
            raise PermissionDenied
        return super().history_view(request, object_id, extra_context)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return super().get_search_results(request, queryset, " ".join(search.words(search_term)))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        title = str(self.opts.verbose_name_plural)
        context = {"title": title[0].upper() + title[1:], **(extra_context or {})}
        if request.method != "GET" or not request.GET.get(SEARCH_VAR):
            return super().changelist_view(request, context)
        try:
            with search.bounded():
                response = super().changelist_view(request, context)
                return response.render() if isinstance(response, TemplateResponse) else response
        except search.TookTooLong:
            messages.error(request, "The search took too long and was ended. Type more of the name.")
            return redirect(request.path)


class ReadOnlyAdmin(PanelAdmin):
    """What the platform writes itself: to be seen, and acted on by the actions that stand there."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Exported(ExportMixin):
    """A list that can be saved as CSV or XLSX, as it is filtered."""

    formats = [CSV, XLSX]
    export_template_name = "admin/export.html"

    def has_export_permission(self, request: HttpRequest) -> bool:
        """The library lets every member of staff save a list: here only who may see it."""
        return bool(self.has_view_permission(request))

    def export_action(self, request: HttpRequest) -> HttpResponseBase:
        """The library's page, but a file that goes out while it is made: a list may have a million rows."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        formats, resources = self.get_export_formats(), self.get_export_resource_classes(request)
        form = ExportForm(formats, resources, data=request.POST or None)
        try:
            rows = self.get_export_queryset(request)
        except IncorrectLookupParameters:  # the list, without what it cannot be asked, as Django's own page shows it
            return redirect(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")
        chosen = formats[int(form.cleaned_data["format"])]() if form.is_valid() else None
        name = self.get_export_filename(request, rows, chosen) if chosen else ""
        if isinstance(chosen, CSV):
            return exports.csv_response(resources[0](), rows, name)
        number = rows.order_by().count()
        if chosen and number <= exports.MAX_IN_WORKBOOK:
            return exports.xlsx_response(resources[0](), rows, name)
        if chosen:
            form.add_error("format", f"{number:,} rows are too many for a workbook: take CSV, or narrow the list.")
        context = self.init_request_context_data(request, form)
        context |= {"number": f"{number:,}", "most": f"{exports.MAX_IN_WORKBOOK:,}"}
        return TemplateResponse(request, self.export_template_name, context)


def people_named(term: str) -> QuerySet[Any]:
    """The keys of people whose user name or name contains every word, in any order."""
    return with_words(get_user_model()._default_manager.all(), term, NAMES).order_by().values_list("pk", flat=True)


def with_words(people: QuerySet[Any], term: str, columns: Iterable[str]) -> QuerySet[Any]:
    """Those of the people who have every word of the term in one of the columns."""
    for word in search.words(term):
        people = people.filter(reduce(or_, (Q(**{f"{column}__icontains": word}) for column in columns)))
    return people


def first_people(term: str, most: int) -> tuple[list[Any], bool]:
    """The keys of people with that name, the one with exactly that user name first, and whether there are more."""
    people = get_user_model()._default_manager
    exact = list(people.filter(username=term.replace("\0", "").strip()).values_list("pk", flat=True))
    found = [key for key in people_named(term)[: most + 1] if key not in exact]
    return (exact + found)[:most], len(exact) + len(found) > most
