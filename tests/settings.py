"""The production settings with a database and folders of the tests' own."""

import os
import tempfile

_scratch = tempfile.mkdtemp(prefix="waypost-tests-")
os.environ["WAYPOST_DATA_DIR"] = _scratch
os.environ["WAYPOST_SECRET_KEY"] = "only-for-tests"
os.mkdir(f"{_scratch}/static")  # WhiteNoise warns when it is missing
os.environ["DATABASE_URL"] = os.environ.get(
    "WAYPOST_TEST_DATABASE_URL", f"sqlite:///{_scratch}/tests.sqlite3"
)
os.environ["BROKER_URL"] = os.environ.get("WAYPOST_TEST_BROKER_URL", "memory://")

from controlplane.config.settings import *  # noqa: E402, F403 - the environment must be set first
from controlplane.config.settings import DATABASES, STORAGES  # noqa: E402

# A file, not memory: the tests of races open the database from several threads.
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["TEST"] = {"NAME": f"{_scratch}/test.sqlite3"}
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
