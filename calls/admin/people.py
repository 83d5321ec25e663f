"""Accounts and roles. Nobody can give somebody, or themselves, more than they have."""

import io
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import ReadOnlyPasswordHashWidget, UserChangeForm
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.models import ProtectedError
from django.http import HttpRequest, HttpResponse

from calls import audit, switchboard, tokens
from calls.admin.base import NAMES, PanelAdmin, with_words
from calls.models import LIVE, Leg
from devices.models import Line
from devices.sessions import stored_key

MAX_ERASED = 100  # people that are erased at once: their names are taken out of each of their calls

User = get_user_model()
if admin.site.is_registered(User):
    admin.site.unregister(User)
if admin.site.is_registered(Group):
    admin.site.unregister(Group)


def changing_password(request: HttpRequest, user: Any, change: Callable[[], HttpResponse]) -> HttpResponse:
    """Signs out the devices of the user whose password this changes, at once. Those of the browser in which it was
    changed stay, as its sign-in does, under a session with another key."""
    before = stored_key(request.session.session_key)
    response = change()
    if request.method == "POST":
        after = stored_key(request.session.session_key)
        if before != after:
            request.session.save()  # with its proof of the new password: else it would look as if it had ended
            switchboard.keep_devices(request.user.pk, before, after)
        switchboard.sign_out_ended(user)
    return response


def may_give(request: HttpRequest, role: Group) -> bool:
    """Whether this request's user has every permission of the role."""
    return _has_all(request, role.permissions)


def _has_all(request: HttpRequest, permissions: Any) -> bool:
    mine = request.user.get_all_permissions()
    theirs = permissions.values_list("content_type__app_label", "codename")
    return request.user.is_superuser or all(f"{app}.{codename}" in mine for app, codename in theirs)


class PasswordKind(ReadOnlyPasswordHashWidget):
    """Says that there is a password and how it is hashed. Django's widget shows the first letters of the hash too."""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        context = super().get_context(name, value, attrs)
        context["summary"] = context["summary"][:1]  # the algorithm, or that there is no password
        return context


class PersonForm(UserChangeForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if password := self.fields.get("password"):
            password.widget = PasswordKind()


@admin.register(User)
class PersonAdmin(PanelAdmin, UserAdmin):
    """Accounts. Whoever is no superuser cannot touch one, nor make one, nor give single permissions."""

    form = PersonForm
    list_display = ("username", "first_name", "last_name", "is_active", "is_staff", "roles", "last_login")
    list_filter = ("is_active", "is_staff", "groups")
    search_help_text = "User name, name, or address of mail"
    delete_confirmation_template = "admin/calls/erase.html"
    delete_selected_confirmation_template = "admin/calls/erase.html"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("groups")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return with_words(queryset, search_term, (*NAMES, "email")), False

    @admin.display(description="roles")
    def roles(self, user: Any) -> str:
        if user.is_superuser:
            return "superuser"
        return ", ".join(group.name for group in user.groups.all()) or "–"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and self._may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and self._may_touch(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Who is erased, and who cannot be, because a call of theirs is live. Said in few words for each: what goes and
        what stays is the same for everybody, and stands on the page."""
        keys = [user.pk for user in objs]
        busy = set(Leg.objects.filter(LIVE, user__in=keys).values_list("user", flat=True))
        users = User._default_manager.filter(pk__in=keys).order_by("username")[: MAX_ERASED + 1]
        in_calls = [user.get_username() for user in users if user.pk in busy]
        live = [f"{name} is called or in a call: end that call first" for name in in_calls]
        if len(keys) > MAX_ERASED:
            live.append(f"Choose at most {MAX_ERASED} people at a time")
        names = [f"{user.get_username()} ({user.get_full_name() or 'no name'})" for user in users]
        return names, {}, set(), live

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_queryset(request, User._default_manager.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Erases these people as `manage.py erase` does, which takes transactions of its own: after the page's."""
        for user in list(queryset):
            transaction.on_commit(partial(_erase, request, user))

    def _may_touch(self, request: HttpRequest, obj: Any) -> bool:
        if obj is None or request.user.is_superuser:
            return True
        if obj.is_superuser or not _has_all(request, obj.user_permissions):
            return False
        return all(may_give(request, role) for role in obj.groups.all())

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields if request.user.is_superuser else (*fields, "is_superuser", "user_permissions")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "groups" and not request.user.is_superuser:
            given = [role.pk for role in Group.objects.all() if may_give(request, role)]
            kwargs["queryset"] = Group.objects.filter(pk__in=given)
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        Line.make([obj.pk])  # so that the list of lines has everybody
        if change and not obj.is_active:  # after the form's transaction
            transaction.on_commit(partial(tokens.revoke_all, obj), robust=True)
            transaction.on_commit(partial(switchboard.sign_out_deactivated, obj.pk), robust=True)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        user = self.get_object(request, id)
        change = partial(super().user_change_password, request, id, form_url)
        return changing_password(request, user.pk if user else None, change)


def _erase(request: HttpRequest, user: Any) -> None:
    """The account of somebody who was in no call goes altogether."""
    try:
        call_command("erase", "--", user.get_username(), yes=True, stdout=io.StringIO())
    except CommandError as error:  # a call has come meanwhile
        messages.error(request, str(error))
        return
    user.refresh_from_db()
    audit.record(request, user, erased=("", "yes"))
    with suppress(ProtectedError):
        user.delete()


@admin.register(Group)
class RoleAdmin(PanelAdmin, GroupAdmin):
    """Roles: groups with permissions. Only a superuser changes what a role may."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_delete_permission(request, obj)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "permissions":
            kwargs["queryset"] = Permission.objects.select_related("content_type")
        return super().formfield_for_manytomany(db_field, request, **kwargs)
