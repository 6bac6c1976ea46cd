"""
Asking other servers for JSON.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPError

LARGEST_ANSWER = 64 * 1024  # bytes

# What `fetch_json`, and looking into what it brought, may raise when the other server is slow or broken.
FAILURES = (HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


async def fetch_json(url: str, seconds: float) -> Any:
    """
    What the JSON at this address says; redirects are not followed. Raises one of FAILURES when it can't be
    had in that time.
    """
    # A client of its own: the shared one lets ten requests through at a time, and the others wait.
    client = AsyncHTTPClient(force_instance=True, max_body_size=LARGEST_ANSWER)
    fetching = client.fetch(url, connect_timeout=seconds, request_timeout=seconds, follow_redirects=False)
    fetching.add_done_callback(lambda future: future.exception())
    try:
        # Tornado can't abort it, and would log an error if it failed after whoever asked was cancelled.
        response = await asyncio.shield(fetching)
        return json.loads(response.body.decode("utf-8", "replace"))
    finally:
        client.close()
