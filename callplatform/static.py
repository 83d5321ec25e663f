"""How static files are named outside debug: by a hash of their content, so that browsers may keep them for ever."""

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.storage import ManifestFilesMixin, staticfiles_storage
from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    # Rewrites the imports between ES modules too. Django sees only those that end with a semicolon.
    support_js_module_import_aggregation = True


def missing() -> set[str]:
    """The static files that were not collected. Outside debug a page names them by their hash, and fails without."""
    if settings.DEBUG or not isinstance(staticfiles_storage, ManifestFilesMixin):
        return set()
    names = {path for finder in get_finders() for path, _storage in finder.list(None)}
    return names - staticfiles_storage.hashed_files.keys()
