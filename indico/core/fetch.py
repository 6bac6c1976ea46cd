"""
Requests for JSON to other servers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPError

LARGEST_RESPONSE = 64 * 1024  # bytes

# Exceptions that `fetch_json`, or reading its result, may raise if the other server is slow or broken.
FAILURES = (HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


async def fetch_json(url: str, seconds: float) -> Any:
    """
    Return the parsed JSON of this URL. Does not follow redirects. Raises one of FAILURES if the request fails
    or takes longer than `seconds`.
    """
    # A separate client: the shared one runs ten requests at a time, and all others wait.
    client = AsyncHTTPClient(force_instance=True, max_body_size=LARGEST_RESPONSE)
    fetching = client.fetch(url, connect_timeout=seconds, request_timeout=seconds, follow_redirects=False)
    fetching.add_done_callback(lambda future: future.exception())
    try:
        # Tornado can't abort a request. It would log an error if the request failed after a cancellation.
        response = await asyncio.shield(fetching)
        return json.loads(response.body.decode("utf-8", "replace"))
    finally:
        client.close()
