"""The operator's way in: lines and their limits, devices, calls, accounts, and who changed what.

Lines and devices are registered here and not beside their models, because what an operator does to them ends legs and
tells sockets, and `devices` may not know of calls. Commands on calls never run in the admin's change views: those run
inside a transaction, where the switchboard refuses to work.
"""

from typing import Any

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.http import HttpRequest

from calls import switchboard
from calls.admin import audit, calls, devices, hooks, keys, lines, people, tokens  # noqa: F401 - importing registers the pages
from devices.sessions import stored_key

admin.site.site_header = admin.site.site_title = "Call platform"
admin.site.index_title = "Operator's panel"


def _log_out(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
    """As signing out in the client: the devices of this browser go with the sign-in."""
    if request.method == "POST" and request.user.is_authenticated:
        switchboard.end_sign_in(request.user.pk, stored_key(request.session.session_key))
    return AdminSite.logout(admin.site, request, extra_context)


def _change_password(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
    return people.changing_password(
        request, request.user.pk, lambda: AdminSite.password_change(admin.site, request, extra_context)
    )


# The site keeps its class, so that calls can be added to a panel that is there already.
admin.site.logout = _log_out  # type: ignore[method-assign]
admin.site.password_change = _change_password  # type: ignore[method-assign]
