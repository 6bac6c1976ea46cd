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
from indico.core.http.proxies import client_address, group_address, is_trusted
from indico.core.setting_values import parse_networks
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
        for hop in (
            *(
                "",
                "unknown",
                "<script>",
                "10.0.0.256",
                "\xff",
                9999 * "1,",
                "_hidden",
                "198.51.100.7:",
                ":80",
            ),
            *(
                "198.51.100.7:123456",
                "198.51.100.7:80:80",
                "[198.51.100.7",
                "[]:80",
                "2001:db8::g",
                "1",
                "[::1]x",
            ),
        ):
            with self.subTest(hop=hop[:20]):
                self.assertEqual(self.address("10.0.0.1", f"198.51.100.7,{hop}"), "10.0.0.1")

    def test_one_address_in_many_spellings_is_one(self) -> None:
        for expected, spellings in {
            "198.51.100.7": (
                *("198.51.100.7:80", '"198.51.100.7:80"', "::ffff:198.51.100.7"),
                *("::FFFF:c633:6407", "[::ffff:198.51.100.7]:80", "[::ffff:198.51.100.7]"),
            ),
            "2001:db8::7": (
                *("2001:DB8::0:7", "[2001:db8::7]", "[2001:db8::7]:65535", '"[2001:db8::7]:80"'),
                "2001:db8:0:0:0:0:0:7%eth0",
            ),
        }.items():
            for spelling in spellings:
                with self.subTest(spelling):
                    self.assertEqual(self.address("10.0.0.1", spelling), expected)
                    self.assertEqual(self.address(spelling), expected)

    def test_a_proxy_is_trusted_in_all_its_spellings(self) -> None:
        for proxy in ("::ffff:10.0.0.1", "::FFFF:a00:1", "10.0.0.1:5000", "[::1]:80", "::1%lo"):
            with self.subTest(proxy):
                self.assertEqual(self.address(proxy, "198.51.100.7:1, 10.0.0.2:80"), "198.51.100.7")
        with mock.patch.object(
            config, "TRUSTED_PROXIES", parse_networks("::ffff:10.0.0.0/104, ::ffff:1.2.3.4")
        ):
            found = {
                text: is_trusted(text)
                for text in ("10.9.9.9", "::ffff:10.9.9.9", "1.2.3.4", "1.2.3.5", "::1")
            }
        self.assertEqual(list(found.values()), [True, True, True, False, False])


class GroupTest(StrictTest):
    def test_limits_count_an_ipv6_network_as_one_and_each_ipv4_address(self) -> None:
        for text, group in (
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8:0:0:ffff:ffff:ffff:ffff", "2001:db8::/64"),
            ("2001:db8:0:1::", "2001:db8:0:1::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("None", "None"),  # a Unix socket
        ):
            self.assertEqual(group_address(text), group)
