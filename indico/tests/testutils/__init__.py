"""
What tests are built on: `server.ServerTest` for routes, `mongo.MongoTest` for database helpers, and
`strict.StrictTest` for all else.
"""

import os
import unittest

# Slow tests run when SLOW_TESTS is set, as .ci/run does.
slow = unittest.skipUnless(os.environ.get("SLOW_TESTS"), "slow: set SLOW_TESTS to run it")
