"""All settings, one file. Every value comes from the environment; the defaults run.

Where nothing is set, the database and the broker are the embedded ones, whose sockets lie
where `apps.core.home` says. The variables are described in docs/configuration.md.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from apps.core.home import Home
from apps.core.reach import read_internal
from apps.engine.serving import EVERY_BELL, bell_of, read_names


def _whole(name: str, default: int, *, least: int = 0) -> int:
    """A whole number from the environment. Raises ImproperlyConfigured, naming the variable."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ImproperlyConfigured(f"{name} is {text!r}; it takes a whole number from {least} up")
    return int(text)


BASE_DIR = Path(__file__).resolve().parent.parent
HOME = Home.from_environment(os.environ, default=BASE_DIR / ".runyard")

#: Which process this is: "web" (threads and a connection pool), "worker" or "beat"
#: (persistent connections), or "command".
ROLE = os.environ.get("RUNYARD_ROLE", "command")

#: Where people reach the console; https turns the cookies Secure and `__Host-`.
PUBLIC_URL = os.environ.get("RUNYARD_PUBLIC_URL", "")
SECURE = PUBLIC_URL.startswith("https://")

DEBUG = os.environ.get("RUNYARD_DEBUG") == "1"
SECRET_KEY = os.environ.get("RUNYARD_SECRET_KEY") or HOME.secret_key()
#: What the workspaces' secrets are encrypted with. Empty: a key in the home, made when needed.
SECRETS_KEY = os.environ.get("RUNYARD_SECRETS_KEY", "")
#: Names that requests may come under. By default: this machine, the address that is listened
#: at, and the public one.
ALLOWED_HOSTS = [host for host in os.environ.get("RUNYARD_ALLOWED_HOSTS", "").split(",") if host]
if not ALLOWED_HOSTS:
    _named = {os.environ.get("RUNYARD_HOST", ""), urlsplit(PUBLIC_URL).hostname or ""}
    ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *sorted(_named - {"", "0.0.0.0", "::"})]  # noqa: S104
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if SECURE else []

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "django_celery_beat",
    "apps.core",
    "apps.workspaces",
    "apps.nodes",
    "apps.workflows",
    "apps.runs",
    "apps.notifications",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "apps.core.http.StaticFilesMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "apps.core.http.ErrorsMiddleware",
    "apps.workspaces.access.WorkspaceMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
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
                "apps.workspaces.access.rights",
            ]
        },
    }
]

# --- database and broker ------------------------------------------------------------------

#: Empty: the embedded servers.
DATABASE_URL = os.environ.get("DATABASE_URL", "")
BROKER_URL = os.environ.get("BROKER_URL", "")
EMBEDDED_DATABASE = not DATABASE_URL
EMBEDDED_BROKER = not BROKER_URL

try:
    _database = dj_database_url.parse(
        DATABASE_URL or f"postgres://runyard@{quote(str(HOME.sockets), safe='')}/runyard"
    )
    if _database["ENGINE"] != "django.db.backends.postgresql":
        raise ValueError
except ValueError:
    # Without the URL, which may hold a password.
    raise ImproperlyConfigured(
        "DATABASE_URL is no address of a PostgreSQL database; write it as "
        "postgres://user:password@host:5432/name, other characters than letters and digits in the "
        "password as %40 and the like"
    ) from None
DATABASES = {"default": _database}
if ROLE == "web":
    # Under ASGI every request would open a connection without it (6.3 ms against 2.7 ms).
    DATABASES["default"]["CONN_MAX_AGE"] = 0
    DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {
        "min_size": 2,
        "max_size": 10,
        "timeout": 10,
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = None
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True

#: What the server ends by itself, so that one process that hangs does not stop the others: a
#: wait for a lock, a statement, and a transaction in which nothing more is said (below a lease:
#: it may hold the row of a node that runs). A command has no limit: migrations and reports
#: take their time.
_LIMITS = {
    "web": {"lock_timeout": 10, "statement_timeout": 30},
    "worker": {"lock_timeout": 10, "statement_timeout": 60},
    "beat": {"lock_timeout": 10, "statement_timeout": 60},
}
if ROLE in _LIMITS:
    _limits = {**_LIMITS[ROLE], "idle_in_transaction_session_timeout": 20}
    _options = DATABASES["default"].setdefault("OPTIONS", {})
    # What DATABASE_URL says comes last, and counts.
    _said = [f"-c {name}={seconds}s" for name, seconds in _limits.items()]
    _options["options"] = " ".join([*_said, _options.get("options", "")]).strip()
    # A server that is gone without a word is noticed within half a minute.
    for _name, _value in {
        "connect_timeout": 10,
        "tcp_user_timeout": 30_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
    }.items():
        _options.setdefault(_name, _value)

if EMBEDDED_BROKER:
    BROKER_URL = f"redis+socket://{HOME.sockets / 'valkey.sock'}?virtual_host=0"

# --- people and pages -----------------------------------------------------------------------

AUTH_USER_MODEL = "workspaces.User"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE
# Cookies know no ports: by name alone two homes on one machine would log each other out.
SESSION_COOKIE_NAME = "__Host-session" if SECURE else f"runyard_session_{HOME.digest}"
CSRF_COOKIE_NAME = "__Host-csrf" if SECURE else f"runyard_csrf_{HOME.digest}"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_HSTS_SECONDS = 31_536_000 if SECURE else 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "worker-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True

# Workspace files and outputs, by sha256.
STORAGES = {
    "default": {
        "BACKEND": "apps.core.storage.WholeFiles",
        "OPTIONS": {"location": HOME.blobs},
    },
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REST_FRAMEWORK = {
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
# The description at /api/v1/schema/. What an operation says of itself: apps/core/api/operation.py.
SPECTACULAR_SETTINGS = {
    "OAS_VERSION": "3.1.0",
    "TITLE": "Runyard",
    "VERSION": "1",
    "DESCRIPTION": "Workflows of Spark, SQL, Python and shell jobs: build, publish, run, watch.",
    "SORT_OPERATIONS": False,
    "SORT_OPERATION_PARAMETERS": False,
    # A PATCH has a shape of its own, and choices stand where they are used.
    "COMPONENT_SPLIT_PATCH": False,
    "POSTPROCESSING_HOOKS": [],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE_NAME},
        }
    },
}

# --- the engine -----------------------------------------------------------------------------

#: A worker's right to an attempt lasts this long unrenewed, on the database's clock.
LEASE_SECONDS = _whole("RUNYARD_LEASE_SECONDS", 30, least=1)
#: Nodes that one worker runs at once.
WORKER_SLOTS = _whole("RUNYARD_WORKER_SLOTS", 16, least=1)
#: The resource queues that a worker serves, as workspace/queue; none: every one.
WORKER_QUEUES = read_names(os.environ.get("RUNYARD_WORKER_QUEUES", ""))
#: Between SIGTERM and SIGKILL to a job that is being stopped.
STOP_GRACE_SECONDS = _whole("RUNYARD_STOP_GRACE_SECONDS", 10)
#: What is kept of one attempt's log: its head and its tail; the middle is left out.
LOG_LIMIT_BYTES = _whole("RUNYARD_LOG_LIMIT_BYTES", 1 << 30)
#: Runs that have been over for so long are removed, with their logs and outputs; 0: none.
RETENTION_DAYS = _whole("RUNYARD_RETENTION_DAYS", 90)
#: Where logs are kept: "folder" (of the home), or s3://bucket/prefix.
LOG_STORE = os.environ.get("RUNYARD_LOG_STORE") or "folder"
if LOG_STORE != "folder" and not (LOG_STORE.startswith("s3://") and urlsplit(LOG_STORE).netloc):
    raise ImproperlyConfigured(
        f"RUNYARD_LOG_STORE is {LOG_STORE!r}; write folder, or s3://bucket/prefix"
    )
#: First of the range of user ids that jobs run as, one per workspace, where the worker is
#: root. 0: jobs run as the worker's own user.
JOB_UID_BASE = _whole("RUNYARD_JOB_UID_BASE", 200_000)
#: Processes and threads that each of these users may have at once on a machine; 0: no limit.
JOB_PROCESSES = _whole("RUNYARD_JOB_PROCESSES", 4_096)

# --- mail -----------------------------------------------------------------------------------

#: The mail server; "": none, and no mail can be sent.
SMTP_HOST = os.environ.get("RUNYARD_SMTP_HOST", "")
#: How the way to it is encrypted: by STARTTLS, by TLS from the first byte, or not at all.
SMTP_SECURITY = os.environ.get("RUNYARD_SMTP_SECURITY") or "starttls"
_smtp_ports = {"starttls": 587, "tls": 465, "none": 25}
if SMTP_SECURITY not in _smtp_ports:
    raise ImproperlyConfigured(
        f"RUNYARD_SMTP_SECURITY is {SMTP_SECURITY!r}; write starttls, tls or none"
    )
SMTP_PORT = _whole("RUNYARD_SMTP_PORT", _smtp_ports[SMTP_SECURITY], least=1)
SMTP_USER = os.environ.get("RUNYARD_SMTP_USER", "")
SMTP_PASSWORD = os.environ.get("RUNYARD_SMTP_PASSWORD", "")
#: Whom mail comes from, as name@example.com.
MAIL_FROM = os.environ.get("RUNYARD_MAIL_FROM", "")
if SMTP_HOST and not re.fullmatch(r"[^@\s<>\"]+@[\w.-]+", MAIL_FROM, re.ASCII):
    raise ImproperlyConfigured(
        f"RUNYARD_MAIL_FROM is {MAIL_FROM!r}; with RUNYARD_SMTP_HOST it names the address that "
        "mail comes from, as runyard@example.com"
    )
#: Mails that one address gets within an hour; what is over it comes in a digest.
MAIL_PER_HOUR = _whole("RUNYARD_MAIL_PER_HOUR", 20, least=1)
#: What webhooks and heartbeats may reach beside the public internet.
try:
    INTERNAL_RECEIVERS = read_internal(os.environ.get("RUNYARD_INTERNAL_RECEIVERS", ""))
except ValueError as error:
    raise ImproperlyConfigured(f"RUNYARD_INTERNAL_RECEIVERS: {error}") from None

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": os.environ.get("RUNYARD_LOG_LEVEL", "INFO")},
    # Lines for each bell, each beat and each start, which would hide the others.
    "loggers": {
        "botocore": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "django_celery_beat": {"level": "WARNING"},
        "uvicorn": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
    },
}

# --- Celery: config/celery.py ---------------------------------------------------------------

CELERY_BROKER_URL = BROKER_URL
CELERY_IMPORTS = ["apps.runs.tasks", "apps.notifications.tasks"]
CELERY_TASK_DEFAULT_QUEUE = EVERY_BELL
# A queue of its own, so that beats which nobody heard for a while do not stand before a bell.
CELERY_TASK_ROUTES = {
    name: {"queue": "runyard.tick"}
    for name in (
        *("runs.tick", "runs.prune", "runs.collect_bytes"),
        *("notifications.tick", "notifications.heartbeat", "notifications.prune"),
    )
}
CELERY_TASK_CREATE_MISSING_QUEUES = True
# What a worker listens to: one that serves some resource queues only has a bell of its own.
CELERY_TASK_QUEUES: dict[str, dict[str, str]] = {bell_of(WORKER_QUEUES): {}, "runyard.tick": {}}
# A message is a hint: acknowledged at once, lost without harm, and nobody reads results.
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# Else a busy worker keeps bells for itself that an idle one could answer.
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_WORKER_POOL = "threads"
CELERY_WORKER_CONCURRENCY = 4
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_max": 0.2}
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 25,
}
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE = {
    "runs.tick": {"task": "runs.tick", "schedule": 1.0},
    "runs.prune": {"task": "runs.prune", "schedule": 600.0},
    "runs.collect_bytes": {"task": "runs.collect_bytes", "schedule": 86_400.0},
    "notifications.tick": {"task": "notifications.tick", "schedule": 5.0},
    "notifications.heartbeat": {"task": "notifications.heartbeat", "schedule": 10.0},
    "notifications.prune": {"task": "notifications.prune", "schedule": 3_600.0},
}
