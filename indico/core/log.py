"""
The logger of the server.
"""

import logging

LOGGER = logging.getLogger("indico")
