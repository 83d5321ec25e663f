"""Keys of the HTTP API: to make one, which is shown once, and to revoke it at once."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers

from calls.admin.base import PanelAdmin
from calls.api import keys
from calls.models import ApiKey
from devices import times

# A key may do no more than its maker: who may do what a scope allows. None: a superuser, because a token is a person.
NEEDED = {
    "users:read": "auth.view_user", "users:write": "auth.change_user", "users:erase": "auth.delete_user",
    "lines:write": "devices.change_line",
    "devices:read": "devices.view_device", "devices:write": "devices.change_device",
    "tokens:mint": None, "calls:read": "calls.view_call", "calls:write": "calls.change_call",
    "events:read": "calls.view_call", "webhooks:read": "calls.view_webhook", "webhooks:write": "calls.change_webhook",
}  # fmt: skip


def may_give(user: Any, scope: str) -> bool:
    needed = NEEDED[scope]
    return bool(user.is_superuser or (needed and user.has_perm(needed)))


class KeyForm(forms.ModelForm):
    maker: Any = None  # who makes the key

    scopes = forms.MultipleChoiceField(
        choices=[(scope, f"{scope}: {words}") for scope, words in keys.SCOPES.items()],
        widget=forms.CheckboxSelectMultiple,
        help_text="What the key may do, of what you may do yourself. No scope includes another.",
    )
    networks = forms.CharField(
        required=False, label="Allowed networks",
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="One a line, such as 192.0.2.0/24. Empty: from anywhere.",
    )  # fmt: skip

    class Meta:
        model = ApiKey
        fields = ("name", "scopes", "networks", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if scopes := self.fields.get("scopes"):
            scopes.choices = [each for each in scopes.choices if may_give(self.maker, each[0])]  # type: ignore[attr-defined]

    def clean_networks(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data["networks"].splitlines() if line.strip()]

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            try:
                keys.check(self.instance)
            except ValidationError as error:
                self.add_error(None, error)


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("valid", "Valid"), ("ended", "Revoked or expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        ended = Q(revoked_at__isnull=False) | Q(expires_at__lte=times.now())
        match self.value():
            case "valid":
                return queryset.exclude(ended)
            case "ended":
                return queryset.filter(ended)
        return queryset


@admin.register(ApiKey)
class KeyAdmin(PanelAdmin):
    """A key is made and revoked, and never changed."""

    form = KeyForm
    list_display = ("name", "id", "said", "made_at", "expires_at", "used_at", "valid")
    list_filter = (StateFilter,)
    search_fields = ("name",)
    search_help_text = "Name"
    ordering = ("name",)
    fields = ("name", "scopes", "networks", "expires_at")
    actions = ("revoke",)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        shown = ("id", "name", "scopes", "networks", "made_at", "expires_at", "revoked_at", "used_at")
        return self.fields if obj is None else shown

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type("KeyForm", (form,), {"maker": request.user})

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request)  # its page only shows

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="scopes")
    def said(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="valid", boolean=True)
    def valid(self, key: ApiKey) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > times.now())

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        obj.shown = keys.give_secret(obj)  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """The only page that ever shows the key."""
        context = {
            **self.admin_site.each_context(request),
            "title": f"The key {obj.name} was made",
            "opts": self.opts,
            "key": obj.shown,  # type: ignore[attr-defined]
        }
        response = TemplateResponse(request, "admin/calls/apikey/made.html", context)
        add_never_cache_headers(response)
        return response

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        revoked = sum(keys.revoke(key) for key in queryset)
        self.message_user(
            request,
            f"{revoked} revoked. They are refused from now on.",
            messages.SUCCESS if revoked else messages.WARNING,
        )
