"""Django's settings, every choice of the operator read from the environment. Meanings and units: .env.example."""

import os
import secrets
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from callplatform.environment import Environment
from devices.database import Connection

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"  # everything that running makes: never committed, kept between starts

env = Environment(Path(os.environ.get("ENV_FILE") or BASE_DIR / ".env"))

DEBUG = env.switch("DEBUG", False)
HTTPS = env.switch("HTTPS", not DEBUG)
HOST = env.text("HOST", "127.0.0.1")
PORT = env.whole("PORT", 8000, least=0, most=65535)
PROCESSES = env.whole("PROCESSES", 1, least=1)
DEVICES_AN_HOUR = env.whole("DEVICES_AN_HOUR", 100, least=1)
PAGE_THREADS = env.whole("PAGE_THREADS", 6, least=1, most=200)
API_THREADS = env.whole("API_THREADS", 4, least=1, most=200)
SIGN_INS_AT_ONCE = 1  # passwords that are checked at a time

GENERATED_KEY_PREFIX = "generated-insecure-"  # callplatform/checks.py refuses such a key outside debug


def debug_key() -> str:
    """One key for this checkout, so that a restart in debug signs nobody out."""
    path = VAR_DIR / "secret_key"
    try:
        VAR_DIR.mkdir(exist_ok=True)
        # Two processes may start at once: the link is atomic, and the second uses the key of the first.
        fresh = path.with_name(f"secret_key.{secrets.token_hex(4)}")
        if not path.exists():
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(GENERATED_KEY_PREFIX + secrets.token_urlsafe(48))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(f"SECRET_KEY is not set, and {path} cannot be made: {error.strerror}.") from error


SECRET_KEY = env.text("SECRET_KEY")
if not SECRET_KEY and DEBUG:
    SECRET_KEY = debug_key()
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set: outside debug it must be a long random text of your own, "
        'such as `python3 -c "import secrets; print(secrets.token_urlsafe(48))"` prints.'
    )

ALLOWED_HOSTS = env.hosts("ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = env.origins("CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "callplatform",
    "import_export",
    "auditlog",
    "axes",
    "ninja",
    "devices",
    "calls",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "callplatform.language.panel_in_english",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "callplatform.private.not_kept",
    "calls.audit.AuditMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "callplatform.urls"
ASGI_APPLICATION = "callplatform.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- the calls' own numbers -------------------------------------------------------------------------------------------

CALLS: dict[str, Any] = {
    "RING_S": env.seconds("RING_S", 45),
    "RING_GRACE_S": env.seconds("RING_GRACE_S", 2),
    "CALLER_SILENT_S": env.seconds("CALLER_SILENT_S", 20),
    "DEVICE_SILENT_S": env.seconds("DEVICE_SILENT_S", 10),
    "LEG_LOST_S": env.seconds("LEG_LOST_S", 45),
    "PING_S": env.seconds("PING_S", 20),
    "PING_CALL_S": env.seconds("PING_CALL_S", 5),
    "PONG_S": env.seconds("PONG_S", 10),
    "LONGEST_CALL_S": env.seconds("LONGEST_CALL_S", 8 * 3600),
    "HELLO_S": env.seconds("HELLO_S", 10),
    "MAX_INCOMING": env.whole("MAX_INCOMING", 1),
    "MAX_OUTGOING": env.whole("MAX_OUTGOING", 1),
    "MAX_LEGS": env.whole("MAX_LEGS", 9, least=2, most=100),
    "MESH_VIDEO": env.whole("MESH_VIDEO", 4, least=0, most=100),
    "END_WITH_HOST": env.switch("END_WITH_HOST", False),
    "ALONE_S": env.seconds("ALONE_S", 60),
    "HELD_ALONE_S": env.seconds("HELD_ALONE_S", 600),
    "FRAME_RATE": env.whole("FRAME_RATE", 200, least=1),
    "FRAME_BURST": env.whole("FRAME_BURST", 1000, least=1),
    "CLOCK_S": env.seconds("CLOCK_S", 1),
    "STUN_URLS": env.ice_urls("STUN_URLS", "stun", "stuns"),
    "TURN_URLS": env.ice_urls("TURN_URLS", "turn", "turns"),
    "TURN_SECRET": env.text("TURN_SECRET"),
    "TURN_TTL_S": env.whole("TURN_TTL_S", 3600, least=60),
    "METRICS_TOKEN": env.text("METRICS_TOKEN"),
    "WEBHOOK_NETWORKS": env.networks("WEBHOOK_NETWORKS"),
    "TOKEN_SECRET": env.text("TOKEN_SECRET"),
    "JWT_ISSUER": env.text("JWT_ISSUER"),
    "JWT_AUDIENCE": env.text("JWT_AUDIENCE"),
    "JWT_SECRET": env.text("JWT_SECRET"),
    "JWT_JWKS_URL": env.text("JWT_JWKS_URL"),
    "JWT_CLAIM": env.text("JWT_CLAIM", "sub"),
    "JWT_CREATE": env.switch("JWT_CREATE", False),
    "API_RATE": env.whole("API_RATE", 50, least=1),
    "API_BURST": env.whole("API_BURST", 200, least=1),
    "KEEP_DAYS": env.whole("KEEP_DAYS", 0, most=36_500),
    "PROXIES": env.whole("PROXIES", 0, most=9),
    "DB_THREADS": env.whole("DB_THREADS", 8, least=1, most=200),
    "PUSH_KEY": env.push_key("PUSH_KEY"),
    "PUSH_CONTACT": env.contact("PUSH_CONTACT"),
}
if PUSH_HOSTS := env.hosts("PUSH_HOSTS"):
    CALLS["PUSH_HOSTS"] = PUSH_HOSTS
if CALLS["PUSH_KEY"] and not CALLS["PUSH_CONTACT"]:
    raise ImproperlyConfigured("PUSH_CONTACT is not set, but PUSH_KEY is: push services want to know whom to write to.")
if CALLS["TURN_URLS"] and not CALLS["TURN_SECRET"]:
    raise ImproperlyConfigured("TURN_SECRET is not set, but TURN_URLS is: give the secret that the TURN server shares.")

if CALLS["JWT_ISSUER"]:
    if bool(CALLS["JWT_SECRET"]) == bool(CALLS["JWT_JWKS_URL"]):
        raise ImproperlyConfigured("JWT_ISSUER is set: set one of JWT_SECRET and JWT_JWKS_URL, and not both.")
    if not CALLS["JWT_AUDIENCE"]:
        raise ImproperlyConfigured("JWT_AUDIENCE is not set, but JWT_ISSUER is: else tokens for others would do here.")
    if CALLS["JWT_SECRET"] and len(CALLS["JWT_SECRET"]) < 32:
        raise ImproperlyConfigured("JWT_SECRET is too short: give 32 characters or more.")
    if CALLS["JWT_JWKS_URL"] and urlsplit(CALLS["JWT_JWKS_URL"]).scheme != "https":
        raise ImproperlyConfigured("JWT_JWKS_URL must be an https address: who changes the keys signs in as anybody.")

# --- database and channel layer ---------------------------------------------------------------------------------------

DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    # SQLite has no row locks: a transaction that begins by taking the one write lock gives the same answers.
    "django.db.backends.sqlite3": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
    # A connection for every thread that may want one at a time: the sockets' threads, pages, the HTTP API, sign-ins;
    # and one to spare. So none of them waits for another. The event loop (orders, pings, arrivals) and the clock (ticks
    # and errands) have five connections beside the pool.
    "django.db.backends.postgresql": {
        # Who waits for a connection is told `unavailable` well before a client takes its socket for dead. A pool that
        # gives up and begins anew finds PostgreSQL a second after its return; else it would look ever more rarely.
        "pool": {
            "min_size": 1,
            "max_size": CALLS["DB_THREADS"] + PAGE_THREADS + API_THREADS + SIGN_INS_AT_ONCE + 1,
            "timeout": 4,
            "reconnect_timeout": 5,
            "connection_class": Connection,
        },
        # A peer that is gone without a word is noticed by the kernel within 10 s: idle or waiting for an answer by
        # probes, with something unsent by the lack of an acknowledgement.
        "connect_timeout": 3,
        "keepalives": 1,
        "keepalives_idle": 4,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 8000,  # milliseconds
    },
}
# The hot path's own prepared statements (devices/prepared.py) look up by key, so the general plan is the right one; to
# plan them again each time costs more than to run them.
DATABASE_SESSION = {
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "synchronous_commit": "on" if env.switch("SYNCHRONOUS_COMMIT", True) else "off",
}
DATABASE_POOLER = env.switch("DATABASE_POOLER", False)
if not DATABASE_POOLER:  # poolers refuse start-up options: `manage.py serve` says what to set instead
    start_up = " ".join(f"-c {name}={value}" for name, value in DATABASE_SESSION.items())
    DEFAULT_OPTIONS["django.db.backends.postgresql"]["options"] = start_up

database = env.database("DATABASE_URL")
if database is None:
    VAR_DIR.mkdir(exist_ok=True)
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": VAR_DIR / "db.sqlite3"}
elif database["ENGINE"] == "django.db.backends.sqlite3":
    database["NAME"] = BASE_DIR / database["NAME"]  # a relative path means the same file wherever a command is typed
database["OPTIONS"] = DEFAULT_OPTIONS[database["ENGINE"]] | database.get("OPTIONS", {})
database["CONN_MAX_AGE"] = 0  # the pool keeps connections; under ASGI a kept one would stay with a dead thread
database["DISABLE_SERVER_SIDE_CURSORS"] = DATABASE_POOLER  # a cursor would be on another session's than the next fetch
database.setdefault("CONN_HEALTH_CHECKS", True)  # after a restart of PostgreSQL, nobody is handed a dead connection
DATABASES = {"default": database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.redis("REDIS_URL")
if REDIS_URL:
    REDIS_OPTIONS: dict[str, Any] = {"health_check_interval": 10, "socket_connect_timeout": 2}
    if not REDIS_URL.startswith("unix:"):  # a Unix socket has no keepalive
        # The kernel ends a connection whose other end is gone within some 9 s. Where something in between answers for
        # Redis, that does not help: calls/hub.py bounds each message, and notices when it hears nothing.
        seconds_or_times = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
        options = seconds_or_times | {"TCP_USER_TIMEOUT": 8000}  # in ms
        known = {getattr(socket, name): value for name, value in options.items() if hasattr(socket, name)}
        REDIS_OPTIONS |= {"socket_keepalive": True, "socket_keepalive_options": known}
    CHANNEL_LAYERS: dict[str, Any] = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [{"address": REDIS_URL} | REDIS_OPTIONS]},
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1000}}}

# --- who may sign in, and what the browser may do ---------------------------------------------------------------------

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# Guessing: a name from an address, so that nobody locks others out of their account from elsewhere.
AUTHENTICATION_BACKENDS = ["callplatform.guard.Guard", "django.contrib.auth.backends.ModelBackend"]
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = env.whole("SIGN_IN_TRIES", 10, least=1)
AXES_COOLOFF_TIME = timedelta(seconds=env.seconds("SIGN_IN_LOCK_S", 900))
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "calls.address.of_request"
# A locked name costs no more: tries meanwhile are not counted, nor written down.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_LOCKOUT_TEMPLATE = "registration/locked.html"
AXES_ENABLE_ACCESS_FAILURE_LOG = False
AXES_DISABLE_ACCESS_LOG = True  # who signs in well is nobody's business here
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

# Who changed which limit, switch, group, account or permission. Devices and calls change too often to be watched row by
# row: what an operator does to them is noted where it is done.
AUDITLOG_INCLUDE_TRACKING_MODELS = (
    "devices.Line",
    "devices.LineGroup",
    {
        "model": "auth.User",
        "include_fields": [
            "username", "first_name", "last_name", "email", "is_active", "is_staff", "is_superuser", "password",
            "groups", "user_permissions",
        ],
        "mask_fields": ["password"],
        "mask_callable": "calls.audit.hidden",
        "m2m_fields": {"groups", "user_permissions"},
    },
    {"model": "auth.Group", "m2m_fields": {"permissions"}},
    {"model": "calls.ApiKey", "include_fields": ["name", "scopes", "networks", "expires_at", "revoked_at"]},
    {"model": "calls.Webhook", "include_fields": ["url", "types"]},
)  # fmt: skip
IMPORT_EXPORT_SKIP_ADMIN_LOG = True  # the same, said once
IMPORT_EXPORT_USE_TRANSACTIONS = True  # an import happens as a whole, or not at all

SESSION_ENGINE = "devices.sessions"  # Django's, with the keys stored as hashes
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"

SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]  # asked by machines beside the server
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
# Two warnings of `check --deploy`, both about HSTS for subdomains: only the site knows whether all of them speak HTTPS.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
# The proxy that ends TLS must set this header itself, and drop one that a client sent.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],
        "media-src": [SELF, "blob:", "mediastream:"],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "manifest-src": [SELF],
        "worker-src": [SELF],
    },
}

# --- files, language, log ---------------------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "callplatform.static.HashedStaticFiles",
    },
}
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = DEBUG

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600  # else the choice would end with the browser
LANGUAGE_COOKIE_SECURE = HTTPS
LOCALE_PATHS = [BASE_DIR / "calls" / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"about": {"()": "calls.logs.Context"}},
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "{asctime} {levelname} {name} {message}",
            "style": "{",
            "rename_fields": {"asctime": "at", "levelname": "level", "name": "logger"},
        },
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": env.choice("LOG_FORMAT", "line", "json"),
            "filters": ["about"],
        },
        "nowhere": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        # Django's own handlers would print each fault a second time, or mail it.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        # It logs a traceback each second while Redis is away, which the hub says in a sentence.
        "channels_redis": {"level": "CRITICAL"},
        # It warns of each attempt while the database is away, which the callers say in a sentence.
        "psycopg.pool": {"level": "ERROR"},
        # What a stranger can cause at will (404, 403, a wrong Host) is answered, not logged; a fault of ours is.
        "django.request": {"level": "ERROR"},
        "axes": {"level": "WARNING"},
        "django.security.DisallowedHost": {"handlers": ["nowhere"], "propagate": False},
    },
}
