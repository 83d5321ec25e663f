from typing import Any

from django.apps import AppConfig
from django.db.models.signals import pre_migrate

from devices.database import allow_long_statements


class CallsConfig(AppConfig):
    name = "calls"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        pre_migrate.connect(_take_time, sender=self)


def _take_time(using: str, **_kwargs: Any) -> None:
    """An index on a large table takes longer than a statement of a server may."""
    allow_long_statements(using)
