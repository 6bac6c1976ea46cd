"""
Whose address it is that is counted.
"""

from __future__ import annotations

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tornado.httputil import HTTPHeaders

from indico import config
from indico.core.http.proxies import client_address
from indico.tests.testutils.strict import StrictTest


class ClientAddressTest(StrictTest):
    def address(self, remote_ip: str | None, *forwarded: str) -> str:
        headers = HTTPHeaders()
        for value in forwarded:
            headers.add("X-Forwarded-For", value)
        request: Any = SimpleNamespace(remote_ip=remote_ip, headers=headers)
        with mock.patch.object(config, "TRUSTED_PROXIES", [ip_network("10.0.0.0/8"), ip_network("::1")]):
            return client_address(request)

    def test_what_a_stranger_claims_is_not_believed(self) -> None:
        self.assertEqual(self.address("192.0.2.1", "198.51.100.7"), "192.0.2.1")

    def test_a_trusted_proxy_is_believed_and_nobody_before_it(self) -> None:
        self.assertEqual(self.address("10.0.0.1", "203.0.113.9, 198.51.100.7 , 10.1.1.1"), "198.51.100.7")
        self.assertEqual(self.address("::1", "203.0.113.9", "2001:DB8::0:7"), "2001:db8::7")

    def test_who_has_no_address_is_not_believed(self) -> None:
        self.assertEqual(self.address(None, "198.51.100.7"), "None")

    def test_what_is_no_address_is_not_believed(self) -> None:
        for hop in ("", "unknown", "198.51.100.7:80", "<script>", "10.0.0.256", "\xff", 9999 * "1,"):
            with self.subTest(hop=hop[:20]):
                self.assertEqual(self.address("10.0.0.1", f"198.51.100.7,{hop}"), "10.0.0.1")
