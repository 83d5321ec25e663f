"""The pages and requests of whoever is signed in, for a site to include. The socket's path is in asgi.py."""

from django.urls import path

from calls import account, views
from calls.api import site

urlpatterns = [
    path("", views.client, name="client"),
    path("people/", views.people, name="people"),
    path("history/", account.history, name="history"),
    path("history/missed/", account.history_missed, name="history-missed"),
    path("history/seen/", account.history_seen, name="history-seen"),
    path("history/hide/", account.history_hide, name="history-hide"),
    path("devices/", account.devices, name="devices"),
    path("devices/rename/", account.device_rename, name="device-rename"),
    path("devices/sign-out/", account.device_sign_out, name="device-sign-out"),
    path("devices/push/", account.device_push, name="device-push"),
    path("ringing/<uuid:call_id>/", account.ringing, name="ringing"),
    path("ringing/<uuid:call_id>/reject/", account.ringing_reject, name="ringing-reject"),
    path("manifest.webmanifest", views.manifest, name="manifest"),
    path("worker.js", views.worker, name="worker"),
    path("offline/", views.offline, name="offline"),
    path("line/", account.line, name="line"),
    path("line/dnd/", account.line_dnd, name="line-dnd"),
    path("line/favourite/", account.line_favourite, name="line-favourite"),
    path("api/v1/", site.urls),
]
