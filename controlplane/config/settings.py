"""All settings, from the environment; `.env.example` lists every variable. One file for
development, tests and production: only the environment differs."""

from pathlib import Path
from urllib.parse import urlsplit

import environ
import structlog
from django.core.exceptions import ImproperlyConfigured

from controlplane.catalog.s3_settings import s3_settings
from controlplane.config.secret_key import load_secret_key
from controlplane.domain.gates import Verdict
from controlplane.domain.rollout import DeploymentState, ResumeChoice, RolloutState, StageState
from controlplane.domain.windows import WindowKind

BASE_DIR = Path(__file__).resolve().parents[2]
env = environ.Env()
env_file = BASE_DIR / ".env"
if env_file.exists():
    env.read_env(env_file)

DATA_DIR = Path(env.str("WAYPOST_DATA_DIR", default=str(BASE_DIR / "data"))).absolute()
PUBLIC_URL = env.str("WAYPOST_PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")
DEBUG = env.bool("WAYPOST_DEBUG", default=False)
SECRET_KEY = load_secret_key(DATA_DIR)
ALLOWED_HOSTS = env.list(
    "WAYPOST_ALLOWED_HOSTS",
    default=["localhost", "127.0.0.1", "[::1]", urlsplit(PUBLIC_URL).hostname or "localhost"],
)


def positive(name: str, default: float) -> float:
    """A number of seconds over 0; a wrong one stops the start and says so."""
    value: float = env.float(name, default=default)
    if not value > 0:
        raise ImproperlyConfigured(f"{name} is {value}; it must be a number of seconds over 0.")
    return value


def at_least(name: str, default: int, *, least: int) -> int:
    """A whole number of `least` or more; a wrong one stops the start and says so."""
    value: int = env.int(name, default=default)
    if value < least:
        raise ImproperlyConfigured(f"{name} is {value}; it must be {least} or more.")
    return value


# The engine looks at every rollout this often; rings through the broker only make it sooner.
WAYPOST_TICK_SECONDS = positive("WAYPOST_TICK_SECONDS", 5)
# How often an agent with nothing to do asks.
WAYPOST_POLL_SECONDS = positive("WAYPOST_POLL_SECONDS", 15)
# A report older than this is no evidence. Three polls, so that one lost report is no alarm.
WAYPOST_STALE_SECONDS = positive("WAYPOST_STALE_SECONDS", 3 * WAYPOST_POLL_SECONDS + 5)
# How long a site may report something else than is desired before its drift is acted on.
WAYPOST_DRIFT_SECONDS = positive("WAYPOST_DRIFT_SECONDS", 300)
# How long an approval is worth something.
WAYPOST_APPROVAL_HOURS = positive("WAYPOST_APPROVAL_HOURS", 24)
# How long sums of what was measured are kept, of each minute, hour and day, each longer than the
# one before. Intervals may come a day late, so minutes are kept for two at least.
WAYPOST_MINUTE_SUMS_HOURS = at_least("WAYPOST_MINUTE_SUMS_HOURS", 48, least=48)
WAYPOST_HOUR_SUMS_DAYS = at_least(
    "WAYPOST_HOUR_SUMS_DAYS", 35, least=WAYPOST_MINUTE_SUMS_HOURS // 24 + 1
)
WAYPOST_DAY_SUMS_DAYS = at_least("WAYPOST_DAY_SUMS_DAYS", 400, least=WAYPOST_HOUR_SUMS_DAYS)
# Without a tick for this long the engine counts as down.
WAYPOST_ENGINE_STALE_SECONDS = positive("WAYPOST_ENGINE_STALE_SECONDS", 60)
WAYPOST_ARTIFACT_DIR = Path(
    env.str("WAYPOST_ARTIFACT_DIR", default=str(DATA_DIR / "artifacts"))
).absolute()
# Versions' files in a bucket instead of the folder.
try:
    WAYPOST_S3 = s3_settings(
        bucket=env.str("WAYPOST_S3_BUCKET", default=""),
        endpoint=env.str("WAYPOST_S3_ENDPOINT", default=""),
        prefix=env.str("WAYPOST_S3_PREFIX", default=""),
        region=env.str("WAYPOST_S3_REGION", default="us-east-1"),
        access_key=env.str("WAYPOST_S3_ACCESS_KEY", default=""),
        secret_key=env.str("WAYPOST_S3_SECRET_KEY", default=""),
    )
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from error
# A larger file is cut into chunks but gets no patches; 0 makes none at all.
WAYPOST_PATCH_MAX_FILE_BYTES = env.int("WAYPOST_PATCH_MAX_FILE_BYTES", default=8 << 30)
# What one caller of the REST API may ask of one web process: per second, and at once. 0: no limit.
WAYPOST_API_RATE = env.float("WAYPOST_API_RATE", default=50)
WAYPOST_API_BURST = env.int("WAYPOST_API_BURST", default=200)
# How many calls of one web process may wait for news at a time (`?wait=`).
WAYPOST_API_WAITERS = env.int("WAYPOST_API_WAITERS", default=1000)
# Lets issuers of identities (OpenID Connect) be asked over http at loopback addresses, for tests.
WAYPOST_OIDC_ALLOW_LOOPBACK_HTTP = env.bool("WAYPOST_OIDC_ALLOW_LOOPBACK_HTTP", default=False)
# Lets issuers of identities be at private addresses, such as a GitLab in your own network.
WAYPOST_OIDC_ALLOW_PRIVATE = env.bool("WAYPOST_OIDC_ALLOW_PRIVATE", default=False)
# The MLflow server that versions may come from; empty: none. No other address is ever asked.
WAYPOST_MLFLOW_URL = env.str("WAYPOST_MLFLOW_URL", default="").rstrip("/")
WAYPOST_MLFLOW_USERNAME = env.str("WAYPOST_MLFLOW_USERNAME", default="")
WAYPOST_MLFLOW_PASSWORD = env.str("WAYPOST_MLFLOW_PASSWORD", default="")
WAYPOST_MLFLOW_TOKEN = env.str("WAYPOST_MLFLOW_TOKEN", default="")
# What its webhooks are signed with; empty: they are refused.
WAYPOST_MLFLOW_WEBHOOK_SECRET = env.str("WAYPOST_MLFLOW_WEBHOOK_SECRET", default="")
# Buckets that versions registered at s3://... may lie in.
WAYPOST_MLFLOW_S3_BUCKETS = env.list("WAYPOST_MLFLOW_S3_BUCKETS", default=[])
# How often a linked model is looked at there; a webhook only makes it sooner.
WAYPOST_MLFLOW_RECONCILE_SECONDS = positive("WAYPOST_MLFLOW_RECONCILE_SECONDS", 120)
# The interpreter of the environment that converts models; empty: models that need it are refused.
WAYPOST_CONVERTER_PYTHON = env.str("WAYPOST_CONVERTER_PYTHON", default="")
# Lets models be unpickled where no walls can be built around their code.
WAYPOST_CONVERTER_UNWALLED = env.bool("WAYPOST_CONVERTER_UNWALLED", default=False)
# Where webhooks may lead beyond https to public addresses.
WAYPOST_WEBHOOK_ALLOW_HTTP = env.bool("WAYPOST_WEBHOOK_ALLOW_HTTP", default=False)
WAYPOST_WEBHOOK_ALLOW_PRIVATE = env.bool("WAYPOST_WEBHOOK_ALLOW_PRIVATE", default=False)

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "django_structlog",
    "controlplane.audit",
    "controlplane.accounts",
    "controlplane.fleet",
    "controlplane.catalog",
    "controlplane.telemetry",
    "controlplane.rollouts",
    "controlplane.api",
    "controlplane.web",
    "controlplane.ops",
]
MIDDLEWARE = [
    "controlplane.api.request_id.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "controlplane.api.conventions.ConventionsMiddleware",
]
# Its own middleware made sure that the id is one that a log line can hold.
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = True
# As much as api/body_limit.py lets through.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
ROOT_URLCONF = "controlplane.config.urls"
ASGI_APPLICATION = "controlplane.config.asgi.application"
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
                "controlplane.web.context.console",
            ],
        },
    }
]

DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{DATA_DIR}/waypost.sqlite3")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # IMMEDIATE: a transaction takes the write lock when it begins, so none fails half way with
    # "database is locked". WAL: readers never wait. FULL: acknowledged writes survive a power cut.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
    }
elif env.bool("WAYPOST_DATABASE_POOL", default=False):
    # For web processes only: a worker forks, and a pool does not survive that.
    DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 16}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
    )
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"

# Without a broker every ring is lost and the engine lives by its tick alone, which is correct.
CELERY_BROKER_URL = env.str("BROKER_URL", default="memory://")
CELERY_TASK_IGNORE_RESULT = True
# Webhooks have a queue and a worker of their own (the courier): a receiver that does not answer
# must not keep the engine waiting. So have chunk maps (the packer), which take minutes of a core.
CELERY_TASK_ROUTES = {
    "audit.deliver": {"queue": "webhooks"},
    "catalog.make_chunk_maps": {"queue": "chunk-maps"},
    # What is fetched from registries: minutes, of other machines' time.
    "catalog.look_at_registries": {"queue": "imports"},
}
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 90
CELERY_TASK_SOFT_TIME_LIMIT = 60
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
if CELERY_BROKER_URL.startswith(("redis", "rediss", "valkey")):
    # A task must end (90 s) before its message becomes visible again (120 s).
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "visibility_timeout": 120,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 2,
        "socket_timeout": 30,
    }
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    "tick": {
        "task": "rollouts.tick",
        "schedule": WAYPOST_TICK_SECONDS,
        # A tick nobody ran in time is worthless: the next one sees the same rows.
        "options": {"expires": max(WAYPOST_TICK_SECONDS, 1)},
    },
    # Retries, and what a lost ring left behind.
    "webhooks": {
        "task": "audit.deliver",
        "schedule": WAYPOST_TICK_SECONDS,
        "options": {"expires": max(WAYPOST_TICK_SECONDS, 1)},
    },
    # Far less urgent than often: each time it finds little that is a day old.
    "accounts": {"task": "accounts.prune", "schedule": 600, "options": {"expires": 600}},
    "uploads": {
        "task": "catalog.drop_stale_uploads",
        "schedule": 3600,
        "options": {"expires": 3600},
    },
    "measurements": {"task": "fleet.prune", "schedule": 60, "options": {"expires": 60}},
    "sums": {"task": "telemetry.roll_up", "schedule": 30, "options": {"expires": 30}},
    "old-sums": {"task": "telemetry.forget", "schedule": 600, "options": {"expires": 600}},
    "chunk-maps": {
        "task": "catalog.make_chunk_maps",
        "schedule": WAYPOST_TICK_SECONDS,
        "options": {"expires": max(WAYPOST_TICK_SECONDS, 1)},
    },
}

if WAYPOST_MLFLOW_URL:
    # Only then is there a worker that takes them from the queue.
    CELERY_BEAT_SCHEDULE["registries"] = {
        "task": "catalog.look_at_registries",
        "schedule": WAYPOST_TICK_SECONDS,
        "options": {"expires": max(WAYPOST_TICK_SECONDS, 1)},
    }

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["controlplane.api.auth.ApiTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["controlplane.api.auth.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["controlplane.api.strict_json.StrictJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "controlplane.api.paging.Paging",
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "controlplane.api.selectors.SelectorFilter",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "controlplane.api.errors.problem_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Waypost",
    "DESCRIPTION": "Models, sites and rollouts, for people's scripts and CI jobs.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["controlplane.api.auth.HasScope"],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "PREPROCESSING_HOOKS": ["controlplane.api.schema.only_public_paths"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "controlplane.api.schema.add_conventions",
    ],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "RolloutState": [state.value for state in RolloutState],
        "StageState": [state.value for state in StageState],
        "DeploymentState": [state.value for state in DeploymentState],
        "DeploymentKind": ["forward", "rollback"],
        "GateVerdict": [verdict.value for verdict in Verdict],
        "FitVerdict": ["ok", "no", "unknown"],
        "SignatureVerdict": ["ok", "warned", "refused"],
        "UnsignedPolicy": ["allowed", "warned", "refused"],
        "WindowKind": [kind.value for kind in WindowKind],
        "ImportState": ["pending", "importing", "imported", "failed"],
        "ReadingFigure": [
            "power_kw",
            "cooling_kw",
            "water_l_per_hour",
            "round_trip_ms",
            "uplink_mbit_per_s",
            "downlink_mbit_per_s",
        ],
        "ResumeChoice": [choice.value for choice in ResumeChoice],
    },
}

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
SECURE_HSTS_SECONDS = 31_536_000 if SESSION_COOKIE_SECURE else 0
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https")
    if env.bool("WAYPOST_BEHIND_TLS_PROXY", default=False)
    else None
)
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

LOG_LEVEL = env.str("WAYPOST_LOG_LEVEL", default="INFO").upper()
_processors: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": structlog.stdlib.ProcessorFormatter,
            "processor": structlog.processors.JSONRenderer(),
            "foreign_pre_chain": _processors,
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Every poll of every agent would be a line; what matters is logged by name.
        "django_structlog.middlewares": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
    },
}
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_processors,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
