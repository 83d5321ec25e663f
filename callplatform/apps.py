"""The project as an app, so that its system checks are found."""

from django.apps import AppConfig


class CallplatformConfig(AppConfig):
    name = "callplatform"

    def ready(self) -> None:
        from callplatform import checks  # noqa: F401 - importing registers the checks
