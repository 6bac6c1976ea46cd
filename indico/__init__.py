"""
A boilerplate for JSON API servers: Tornado for HTTP, MongoDB for storage.

Python runs this file first. Its syntax is old, so that old versions of Python can print the error below.
"""

import sys

__version__ = "1.0.0"

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("indico needs Python 3.11 or later, but this is Python {}.{}.{}.".format(*sys.version_info))

from importlib.util import find_spec

if find_spec("tornado") is None:
    sys.exit(
        "indico is not installed for this Python, " + sys.executable + ". Activate the virtual environment"
        " that it is installed in, or install it: pip install -e '.[dev]'"
    )
