"""
All settings, one per line. docs/settings describes them.

Code reads a setting where it uses it (`config.PORT`, not `from indico.config import PORT`), so that tests
and the command line can change it.
"""

from __future__ import annotations

import os

from indico.core.settings import Environment
from indico.core.settings import SettingError as SettingError

DEFAULT_MONGODB = "mongodb://localhost:27017"
YEAR = 365 * 24 * 3600  # seconds

environment = Environment(os.environ)

INDICO_ENV = environment.choice("INDICO_ENV", "development", "production")
PRODUCTION = INDICO_ENV == "production"

PORT = environment.whole("PORT", 5000, 0, 65535)  # 0: any free port
ADDRESS = environment.text("ADDRESS", "" if PRODUCTION else "127.0.0.1")  # empty: all interfaces
HTTP_SERVER = environment.choice("HTTP_SERVER", "own", "tornado")
WORKERS = environment.whole("WORKERS", 1, 1, 512)  # processes sharing the port
SHUTDOWN_TIMEOUT = environment.number("SHUTDOWN_TIMEOUT", 10, 0, 3600)  # seconds

# Requests
REQUEST_TIMEOUT = environment.number("REQUEST_TIMEOUT", 60, 0.01, YEAR)  # seconds
MAX_BODY_SIZE = environment.whole("MAX_BODY_SIZE", 1024 * 1024, 1, 2**31)  # bytes
MAX_UPLOADS = environment.whole("MAX_UPLOADS", 4 * 1024**3, 1, 2**63)  # bytes of files in requests
MAX_ACTIONS = environment.whole("MAX_ACTIONS", 0, 0, 2**31)  # running in a process; 0: no limit

# Connections
HEADER_TIMEOUT = environment.number("HEADER_TIMEOUT", 10, 0.01, YEAR)  # seconds, for the first headers
BODY_TIMEOUT = environment.number("BODY_TIMEOUT", 60, 0.01, YEAR)  # seconds, for a whole body
WRITE_TIMEOUT = environment.number("WRITE_TIMEOUT", 60, 0.01, YEAR)  # seconds, for sending a response
IDLE_TIMEOUT = environment.number("IDLE_TIMEOUT", 75, 0.01, YEAR)  # seconds, between two requests
MAX_UNREAD = environment.whole("MAX_UNREAD", 256 * 1024 * 1024, 1, 2**63)  # bytes of queued requests
MAX_UNSENT = environment.whole("MAX_UNSENT", 256 * 1024 * 1024, 1, 2**63)  # bytes of unsent responses
MAX_CONNECTIONS = environment.whole("MAX_CONNECTIONS", 0, 0, 2**31)  # per process; 0: limited by open files
MAX_CONNECTIONS_PER_ADDRESS = environment.whole("MAX_CONNECTIONS_PER_ADDRESS", 0, 0, 2**31)  # 0: half of it
TRUSTED_PROXIES = environment.networks("TRUSTED_PROXIES")  # their X-Forwarded-For is trusted

# MongoDB
MONGODB = environment.secret("MONGODB", DEFAULT_MONGODB, "mongodb://", "mongodb+srv://")
MONGODB_DATABASE = environment.database("MONGODB_DATABASE", "MONGODB")
MONGODB_DRIVER = environment.choice("MONGODB_DRIVER", "motor", "pymongo", "mongojet")
MONGODB_TIMEOUT = environment.number("MONGODB_TIMEOUT", 5, 0.01, 3600)  # seconds

# Users and keys
MAX_USER_SIZE = environment.whole("MAX_USER_SIZE", 256 * 1024, 1024, 16 * 1024 * 1024)  # bytes of a document
USER_SALT = environment.secret("USER_SALT")
KEY_LIFETIME = environment.number("KEY_LIFETIME", 30 * 24 * 3600, 1, 100 * YEAR)  # seconds
KEY_CACHE = environment.number("KEY_CACHE", 0, 0, 3600)  # seconds that a key is cached; 0: no cache
DEV_TOKEN = environment.secret("DEV_TOKEN")

# Facebook
FACEBOOK_APP_ID = environment.text("FACEBOOK_APP_ID")
FACEBOOK_APP_SECRET = environment.secret("FACEBOOK_APP_SECRET")
FACEBOOK_GRAPH_URL = environment.address("FACEBOOK_GRAPH_URL", "https://graph.facebook.com")

# The battery limit
LOGIN_RATE = environment.rate("LOGIN_RATE", "10/minute")  # logins per address and per oauth_id

# The battery compute
COMPUTE_WORKERS = environment.whole("COMPUTE_WORKERS", 0, 0, 512)  # processes; 0: (cores - 1) / WORKERS
COMPUTE_QUEUE = environment.whole("COMPUTE_QUEUE", 0, 0, 2**31)  # waiting calls; 0: 4 for each process

# The battery idempotency
IDEMPOTENCY_LIFETIME = environment.number("IDEMPOTENCY_LIFETIME", 24 * 3600, 1, YEAR)  # seconds

# The battery cors
CORS_ORIGINS = environment.origins("CORS_ORIGINS")  # their pages may call the server
CORS_HEADERS = environment.headers("CORS_HEADERS")  # that these pages may send, besides the usual ones

# The batteries openapi and docs_page
DOCS = environment.flag("DOCS", not PRODUCTION)  # whether to serve them

# The battery metrics
METRICS_TOKEN = environment.secret("METRICS_TOKEN")  # required to read /metrics, if it is set

# The battery jobs
JOB_WORKERS = environment.whole("JOB_WORKERS", 1, 0, 1000)  # jobs that a process runs at a time
JOB_LEASE = environment.number("JOB_LEASE", 30, 1, 3600)  # seconds until a lost worker's job is run again
JOB_LIFETIME = environment.number("JOB_LIFETIME", 7 * 24 * 3600, 1, 10 * YEAR)  # seconds, of a result

# The battery openid
OPENID_PROVIDERS = environment.providers("OPENID_PROVIDERS")  # name: issuer and client ids

# The battery password
PUBLIC_URL = environment.address("PUBLIC_URL")  # of your pages; without it there is no /password/
MAIL_URL = environment.secret("MAIL_URL", "", "smtp://", "smtps://")
MAIL_FROM = environment.text("MAIL_FROM")  # by default noreply at the host of PUBLIC_URL

# Logging
LOG_LEVEL = environment.choice("LOG_LEVEL", "INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL")
LOG_FORMAT = environment.choice("LOG_FORMAT", "auto", "json", "text")  # auto: text on a terminal

# The battery sentry
SENTRY_DSN = environment.secret("SENTRY_DSN")
SENTRY_TRACES_SAMPLE_RATE = environment.number("SENTRY_TRACES_SAMPLE_RATE", 0, 0, 1)  # share of requests

# The battery opentelemetry
OTEL_EXPORTER_OTLP_ENDPOINT = environment.address("OTEL_EXPORTER_OTLP_ENDPOINT")
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = environment.address("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
OTEL_SDK_DISABLED = environment.text("OTEL_SDK_DISABLED")  # true: no traces
OTEL_TRACES_EXPORTER = environment.text("OTEL_TRACES_EXPORTER")  # none: no traces

environment.load(globals())
# Reads the secrets in files. If this were a `def`, mypy would accept any name as a setting.
globals()["__getattr__"] = environment.make_reader(globals())


def check() -> None:
    """Raise SettingError unless the server can start with these settings."""
    environment.load_files(globals())
    problems = environment.find_problems()
    if PRODUCTION and len(USER_SALT) < 16:
        problems.append("USER_SALT should be a secret of at least 16 characters in production.")
    if PRODUCTION and DEV_TOKEN:
        problems.append("DEV_TOKEN can log in as any user: unset it in production.")
    if problems:
        raise SettingError("\n".join(problems))


def override(**variables: str) -> None:
    """Set settings as environment variables of these names would: `override(PORT="5001")`."""
    environment.override(globals(), variables)
