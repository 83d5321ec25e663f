"""Webhooks and what became of each delivery; to send one again, a selection, or all that have failed."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers

from calls import audit, events, webhooks
from calls.admin.base import PanelAdmin, ReadOnlyAdmin, are_too_many
from calls.models import Delivery, Webhook


class HookForm(forms.ModelForm):
    types = forms.MultipleChoiceField(
        choices=[(type, type) for type in events.TYPES if type != "ping"],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="Which events are sent. None: all of them.",
    )

    class Meta:
        model = Webhook
        fields = ("url", "types")

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        try:
            webhooks.check(url)
        except webhooks.Refused as refused:
            raise forms.ValidationError(str(refused)) from None
        return url


@admin.register(Webhook)
class WebhookAdmin(PanelAdmin):
    """Endpoints. The secret is shown once, when one is made."""

    form = HookForm
    list_display = ("url", "said", "active", "off_why", "failing_since", "waiting", "failed")
    ordering = ("made_at",)
    fields = ("url", "types")
    actions = ("send_test", "send_failed", "switch_on", "switch_off")

    @admin.display(description="types")
    def said(self, webhook: Webhook) -> str:
        return ", ".join(webhook.types) or "all"

    @admin.display(description="waiting")
    def waiting(self, webhook: Webhook) -> str:
        return _counted(webhook, "waiting")

    @admin.display(description="failed")
    def failed(self, webhook: Webhook) -> str:
        return _counted(webhook, "failed")

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        if change:
            obj.save(update_fields=["url", "types"])
        else:
            webhooks.begin(obj)

    def response_add(self, request: HttpRequest, obj: Webhook, post_url_continue: str | None = None) -> Any:
        """The only page that shows the secret."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The webhook was made",
            "opts": self.opts,
            "secret": obj.secret,
        }
        response = TemplateResponse(request, "admin/calls/webhook/made.html", context)
        add_never_cache_headers(response)
        return response

    @admin.action(description="Send a test to the selected webhooks", permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        for webhook in queryset:
            webhooks.test(webhook)
        self.message_user(request, "A ping is on its way. The deliveries show what becomes of it.", messages.SUCCESS)

    @admin.action(description="Send again what has failed", permissions=["change"])
    def send_failed(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        number = sum(webhooks.replay(webhook, failed=True) for webhook in queryset)
        self.message_user(request, f"{number} are sent again.", messages.SUCCESS if number else messages.WARNING)

    @admin.action(description="Switch on", permissions=["change"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        for webhook in queryset.filter(active=False):
            webhooks.switch_on(webhook)
            audit.record(request, webhook, active=(False, True))

    @admin.action(description="Switch off", permissions=["change"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        for webhook in queryset.filter(active=True):
            webhooks.switch_off(webhook.pk, "asked")
            audit.record(request, webhook, active=(True, False))


MOST_COUNTED = 1000


def _counted(webhook: Webhook, state: str) -> str:
    number = Delivery.objects.filter(webhook=webhook, state=state).order_by()[: MOST_COUNTED + 1].count()
    return f"more than {MOST_COUNTED:,}" if number > MOST_COUNTED else f"{number:,}"


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("done", "Done"), ("failed", "Failed"), ("again", "Failed, and sent again")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        return queryset.filter(state=self.value()) if self.value() else queryset


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """What was sent where, and what was answered."""

    list_display = ("event", "webhook", "state", "tries", "at", "status", "took_ms", "next_at", "replay")
    list_filter = (StateFilter,)
    linked_by = ("webhook__id__exact",)
    list_select_related = ("event", "webhook")
    ordering = ("-id",)
    sortable_by = ()
    fields = ("event", "webhook", "call", "state", "tries", "at", "status", "answer", "took_ms", "next_at", "replay")
    readonly_fields = fields
    actions = ("send_again",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request)  # its page only shows

    @admin.action(description="Send the selected again", permissions=["change"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        if are_too_many(request, queryset):
            return
        chosen: dict[Webhook, list[int]] = {}
        for delivery in queryset.select_related("webhook"):
            chosen.setdefault(delivery.webhook, []).append(delivery.pk)
        number = sum(webhooks.replay(webhook, deliveries=ids) for webhook, ids in chosen.items())
        self.message_user(request, f"{number} are sent again.", messages.SUCCESS)
