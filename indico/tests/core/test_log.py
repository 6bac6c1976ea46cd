"""
Messages about what takes longer than two seconds.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from unittest import mock

from indico.core import log
from indico.core.log import announce
from indico.tests.testutils import slow
from indico.tests.testutils.process import make_environment, wait_until
from indico.tests.testutils.strict import StrictTest


class AnnounceTest(StrictTest):
    def test_a_step_that_takes_long_is_named_once(self) -> None:
        with (
            mock.patch.object(log, "SILENT_SECONDS", 0.01),
            self.assertLogs("indico", "WARNING") as logged,
            announce("Waiting for tea"),
        ):
            wait_until(lambda: logged.output, "a message")
            time.sleep(0.05)
        self.assertEqual(logged.output, ["WARNING:indico:Waiting for tea ..."])

    def test_a_step_that_is_short_or_fails_at_once_is_not_named_and_leaves_no_thread(self) -> None:
        before = set(threading.enumerate())
        with self.assertNoLogs("indico"):
            with announce("Waiting for tea"):
                pass
            with self.assertRaises(ValueError), announce("Waiting for tea"):
                raise ValueError
        later = set(threading.enumerate()) - before
        self.assertEqual([thread for thread in later if isinstance(thread, threading.Timer)], [])

    @slow
    def test_without_a_log_it_is_a_line_on_stderr_after_two_seconds(self) -> None:
        script = (
            "import time\nfrom indico.core.log import announce\n"
            "for seconds in (1, 3):\n"
            "    with announce(f'Waiting {seconds} s'):\n"
            "        time.sleep(seconds)\n"
        )
        command = [sys.executable, "-c", script]
        result = subprocess.run(command, env=make_environment({}), capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", "Waiting 3 s ...\n"))
