"""How static files are named outside debug: by a hash of their content, so that browsers may keep them for ever."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    # Rewrites the imports between ES modules too. Django sees only those that end with a semicolon.
    support_js_module_import_aggregation = True
