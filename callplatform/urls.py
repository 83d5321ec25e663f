"""Every URL of the site. The socket's path is in asgi.py."""

from django.contrib import admin
from django.urls import include, path
from django.views.i18n import JavaScriptCatalog

from calls import health, views, wallboard

urlpatterns = [
    path("", include("calls.urls")),
    path("language/", views.language, name="language"),
    path("words.js", JavaScriptCatalog.as_view(packages=["calls"]), name="javascript-catalog"),
    path("accounts/login/", views.SignIn.as_view(), name="login"),
    path("accounts/logout/", views.leave, name="logout"),
    path("healthz", health.alive, name="alive"),
    path("readyz", health.ready, name="ready"),
    path("metrics", health.figures, name="metrics"),
    path("admin/wallboard/", wallboard.page, name="wallboard"),
    path("admin/", admin.site.urls),
]
