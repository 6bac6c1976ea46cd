"""
Requests for JSON to other servers. HTTPS goes through the proxy that HTTPS_PROXY names, except to hosts that
NO_PROXY names.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from tornado.httpclient import HTTPError, HTTPResponse
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient

LARGEST_HEAD = 16 * 1024  # bytes, of the headers of a response
LARGEST_RESPONSE = 64 * 1024  # bytes

# Exceptions that `fetch_json`, or reading its result, may raise if the other server is slow or broken.
FAILURES = (
    HTTPError,
    UnsatisfiableReadError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)


async def fetch_json(url: str, seconds: float) -> Any:
    """
    Return the parsed JSON of this URL. Does not follow redirects. Raises one of FAILURES if the request fails
    or takes longer than `seconds`.
    """
    proxy = find_proxy(url)
    client = make_client()
    if proxy:
        client.tcp_client = ProxyClient(proxy, seconds)
    response = await fetch(client, url, seconds)
    return json.loads(response.body.decode("utf-8", "replace"))


def make_client(resolver: Resolver | None = None) -> SimpleAsyncHTTPClient:
    """Make a client for one request. The shared one runs ten requests at a time, and all others wait."""
    return SimpleAsyncHTTPClient(
        force_instance=True,
        max_header_size=LARGEST_HEAD,
        max_body_size=LARGEST_RESPONSE,
        resolver=resolver,
    )


async def fetch(client: SimpleAsyncHTTPClient, url: str, seconds: float, **options: Any) -> HTTPResponse:
    """
    Return the response of this URL, and close the client. The options are those of Tornado's HTTPRequest.
    Raises one of FAILURES unless the response is 2xx. Does not follow redirects.
    """
    fetching = client.fetch(
        url, connect_timeout=seconds, request_timeout=seconds, follow_redirects=False, **options
    )
    fetching.add_done_callback(lambda future: future.exception())
    try:
        # Tornado can't abort a request. It would log an error if the request failed after a cancellation.
        return await asyncio.shield(fetching)
    finally:
        client.close()


def find_proxy(url: str) -> str:
    """Return the URL of the proxy for this URL, or an empty string. Raises ValueError if it is not HTTP."""
    target = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get("https", "") or proxies.get("all", "")
    if target.scheme != "https" or not proxy or proxy_bypass(target.netloc.rpartition("@")[2]):
        return ""
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.startswith("http://"):  # the message has no password
        raise ValueError("HTTPS_PROXY should begin with http://")
    return proxy


class ProxyClient(TCPClient):
    """Connects to HTTPS servers by the method CONNECT of an HTTP proxy (RFC 9110, 9.3.6)."""

    def __init__(self, proxy: str, seconds: float) -> None:
        super().__init__()
        self._proxy = urlsplit(proxy)
        self._seconds = seconds  # to connect; not all versions of Tornado pass a timeout to `connect`

    async def connect(self, host: str, port: int, *args: Any, **options: Any) -> IOStream:
        tls = options.pop("ssl_options")
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        head = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"
        if self._proxy.username is not None:
            user = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
            head += f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n"
        try:
            async with asyncio.timeout(self._seconds):
                proxy = self._proxy.hostname or "", self._proxy.port or 80
                stream = await super().connect(*proxy, *args, **options)
                try:
                    await stream.write(f"{head}\r\n".encode())
                    answer = await stream.read_until(b"\r\n\r\n", LARGEST_HEAD)
                    if not re.match(rb"HTTP/1\.[01] 2", answer):
                        raise OSError(f"The proxy responded with {answer[:20]!r}")
                    return await stream.start_tls(False, tls, host)
                except BaseException:
                    if stream.socket is not None:  # `start_tls` has not taken it
                        stream.close()
                    raise
        except TimeoutError:  # Tornado 6.5, which has given up already, would log it
            raise StreamClosedError from None
