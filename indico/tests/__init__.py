"""
Tests, in the tree's own order. They need no setting: here are theirs, which the servers that they start
inherit.
"""

import importlib
import os
import signal

from indico import config
from indico.utils.auth import auth_utils

os.environ["INDICO_ENV"] = "development"
os.environ.setdefault("USER_SALT", "the salt of tests")
os.environ.setdefault("DEV_TOKEN", "the token of tests")
os.environ.setdefault("LOGIN_RATE", "off")  # tests log in a lot
os.environ.setdefault("ASYNC_TEST_TIMEOUT", "30")  # seconds, Tornado's: busy machines start processes slowly

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

# Whoever runs the tests may have imported these before.
importlib.reload(config)
importlib.reload(auth_utils)
