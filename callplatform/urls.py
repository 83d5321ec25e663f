"""Every URL of the site. The socket's path is in asgi.py."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import path

from calls import health, views, wallboard

urlpatterns = [
    path("", views.client, name="client"),
    path("people/", views.people, name="people"),
    path("accounts/login/", auth.LoginView.as_view(), name="login"),
    path("accounts/logout/", views.leave, name="logout"),
    path("healthz", health.alive, name="alive"),
    path("readyz", health.ready, name="ready"),
    path("metrics", health.figures, name="metrics"),
    path("admin/wallboard/", wallboard.page, name="wallboard"),
    path("admin/", admin.site.urls),
]
