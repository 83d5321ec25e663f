"""Settings of the servers that are broken: those of a site in production, but without static files: no device asks for
them."""

from callplatform.settings import *  # noqa: F403
from callplatform.settings import STORAGES

STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
