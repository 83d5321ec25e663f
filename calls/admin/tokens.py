"""Tokens of devices: which there are, and revoking them at once."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from calls import audit, tokens
from calls.admin.base import ReadOnlyAdmin, are_too_many, people_named
from calls.models import Token
from devices import times


@admin.register(Token)
class TokenAdmin(ReadOnlyAdmin):
    """Tokens are made by API keys."""

    list_display = ("user", "key", "device", "made_at", "expires_at", "live")
    list_select_related = ("user", "key", "device")
    search_fields = ("user__username",)
    search_help_text = "User name or name"
    ordering = ("-made_at",)
    sortable_by = ()
    fields = ("user", "key", "device", "origins", "made_at", "expires_at")
    readonly_fields = fields
    actions = ("revoke",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Token], search_term: str
    ) -> tuple[QuerySet[Token], bool]:
        return (queryset.filter(user__in=people_named(search_term)) if search_term else queryset), False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request)  # its page only shows

    @admin.display(description="live", boolean=True)
    def live(self, token: Token) -> bool:
        return token.expires_at > times.now()

    @admin.action(description="Revoke the selected tokens", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Token]) -> None:
        if are_too_many(request, queryset):
            return
        revoked = 0
        for token in queryset.select_related("user"):
            audit.record(request, token.user, token=(str(token.pk), "revoked"))
            tokens.revoke(token)
            revoked += 1
        self.message_user(request, f"{revoked} revoked. Their sockets are closed.", messages.SUCCESS)
