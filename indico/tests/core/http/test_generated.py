"""
Requests that nobody would think of: whatever a client sends, no answer is the server's fault, and what is
stored stays sound.

The requests are generated, the same in every run; with SLOW_TESTS set there are more of them.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote_plus

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from indico import config
from indico.db.user_db import USER_SCHEMA
from indico.tests.core.http.test_hostile import (
    BARE,
    PATIENCE,
    Answer,
    Client,
    HostileTest,
    make_request,
    read_answers,
)
from indico.tests.mocks import OAUTH_ID, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.server import ServerTest
from indico.utils.auth.auth_utils import user_hash

EXAMPLES = 300 if os.environ.get("SLOW_TESTS") else 60

# Hypothesis keeps what it knows of Unicode in a folder.
_FOLDER = tempfile.mkdtemp(prefix="indico-test-")
atexit.register(shutil.rmtree, _FOLDER)
set_hypothesis_home_dir(_FOLDER)

generated = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)

# JSON, as text: what json.dumps writes is only a part of what a client may write.

NUMBERS = [
    *("0", "-0", "7", "-1", "2147483648", "9007199254740993", "9223372036854775807", "-9223372036854775808"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + 400 * "0", 5000 * "9"),
    *("0.0", "-0.0", "1.5", "1e0", "1E+2", "1e-400", "4.9e-324", "1.7976931348623157e308", "1e308", "1e309"),
    *("-1e309", "0." + 1000 * "3", "1e" + 20 * "9", "0e" + 20 * "9", "123456789.123456789e-7"),
    *("NaN", "Infinity", "-Infinity", "nan", "+1", "01", ".5", "5.", "0x10", "1_000", "--1", "1e", "²"),
]
STRINGS = [
    *(r'"\ud800"', r'"\udfff"', r'"\udc00\ud800"', r'"\ud83d\ude00"', r'"\uD83D\uDE00"', r'"\\ud800"'),
    *(r'"\u0000"', r'"a\u0000b"', r'"\x00"', r'"\uFFFE\uFFFF"', r'"\u"', '"\\', '"\t"', '"\x7f"', "'a'", '"'),
    *('"$set"', '"a.b"', '"__proto__"', '"\u202e"', '"' + 2000 * "a" + '"', '"\N{GRINNING FACE}"'),
]
NAMES = [
    *("", "$", "$set", "$where", "a.b", ".", "a.", "\0", "a\0b", "_id", "user_id", "created", "__proto__"),
    *("0", " ", "a b", "Zoë", "\N{GRINNING FACE}", "\ud800", "update_user", 300 * "n", *USER_SCHEMA),
]

valid_text = st.text(max_size=20)  # no surrogates
names = st.one_of(st.sampled_from(NAMES), valid_text)
strings = st.one_of(
    st.text(st.characters(), max_size=20).map(json.dumps),
    valid_text.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(STRINGS),
)
numbers = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers(-(2**66), 2**66).map(str),
    st.floats().map(json.dumps),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:E}"),
)
leaves = st.one_of(numbers, strings, st.sampled_from(["null", "true", "false", "None", "", "undefined"]))


def join_list(members: list[str]) -> str:
    return f"[{','.join(members)}]"


def join_object(members: list[tuple[str, str]]) -> str:
    return f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in members)}}}"


def objects(values: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.lists(st.tuples(names, values), max_size=5).map(join_object)


def nest(value: str, depth: int, pair: tuple[str, str]) -> str:
    return depth * pair[0] + value + depth * pair[1]


values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=5).map(join_list), objects(inner)),
    max_leaves=12,
)
deep_values = st.builds(
    nest,
    values,
    st.one_of(st.integers(90, 105), st.sampled_from([200, 1000, 20_000])),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"), ("[0,", "]"), ("[", "")]),
)
fields = objects(st.one_of(values, values, deep_values))


def wrap(parts: list[tuple[str, str]]) -> Callable[[str], str]:
    return lambda value: join_object([*parts, ("update_user", value), ("user", value)])


LOGIN_PARTS = [("access_token", json.dumps(config.DEV_TOKEN)), ("oauth_id", json.dumps(OAUTH_ID))]
oauth_ids = st.one_of(strings, values, st.sampled_from([json.dumps(OAUTH_ID), '""', f'"{200 * "1"}"']))
documents = st.one_of(
    fields.map(wrap(LOGIN_PARTS)),
    deep_values.map(wrap(LOGIN_PARTS)),
    st.builds(lambda part, value: wrap([LOGIN_PARTS[0], ("oauth_id", part)])(value), oauth_ids, fields),
    values,
    deep_values,
)

# Bodies: JSON in several encodings, forms, and bytes of any kind.

ENCODINGS = [
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "utf-7",
    "latin-1",
]


def encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "backslashreplace" if encoding == "latin-1" else "surrogatepass")


def damage(body: bytes, place: int, piece: bytes) -> bytes:
    place %= len(body) + 1
    return body[:place] + piece + body[place + len(piece) :]


def join_form(members: list[tuple[str, str]]) -> bytes:
    return "&".join(f"{quote_plus(name, errors='surrogatepass')}={value}" for name, value in members).encode(
        "utf-8", "surrogatepass"
    )


form_names = st.one_of(st.sampled_from(["access_token", "oauth_id", "user", "update_user"]), names)
form_values = st.one_of(
    values,
    strings.map(lambda text: quote_plus(text)),
    st.sampled_from(["%", "%zz", "%ff", "%ed%a0%80", "%00", "="]),
)
raw_bytes = st.binary(max_size=200)
bodies = st.one_of(
    st.builds(encode, documents, st.just("utf-8")),
    st.builds(encode, documents, st.sampled_from(ENCODINGS)),
    st.builds(damage, st.builds(encode, documents, st.just("utf-8")), st.integers(0, 500), raw_bytes),
    st.lists(st.tuples(form_names, form_values), max_size=5).map(join_form),
    raw_bytes,
    st.builds(lambda piece, count: count * piece, st.binary(min_size=1, max_size=3), st.integers(1, 5000)),
)

# Requests

ACTIONS = [
    *("/auth/login", "/auth/check", "/auth/logout", "/user/update", "/user/find", "/user/remove"),
    *("/auth/", "/user/nope", "/auth/post", "/user/render", "/", "/nope"),
]
actions = st.sampled_from([*ACTIONS[:6], *ACTIONS])
RIGHT = re.compile(r"(?i:indico_key): [ \t]*@[ \t]*|(?i:authorization): [ \t]*(?i:bearer) +@[ \t]*")
header_characters = st.characters(max_codepoint=255, exclude_characters="\r\n@")
KEYS = [
    *("@", "@0", "0@", " @ ", '"@"', "@,@", "@, @", "@;", "@\xa0", "\x85@", USER_KEY.upper()),
    *(user_hash("facebook1"), user_hash("facebook2", 1), 56 * "0", ""),
    *(56 * "\xe9", 5000 * "a", "None", "$ne", '{"$ne": null}', 56 * "\xb2"),
]
keys = st.one_of(st.sampled_from(KEYS), st.text(header_characters, max_size=60))
key_headers = st.one_of(
    st.builds(
        lambda name, key: f"{name}: {key}", st.sampled_from(["indico_key", "INDICO_KEY", "Indico-Key"]), keys
    ),
    st.builds(
        lambda name, scheme, key: f"{name}: {scheme}{key}",
        st.sampled_from(["Authorization", "AUTHORIZATION", "authorization"]),
        st.sampled_from(["Bearer ", "bearer ", "BEARER   ", "Bearer\t", "Bearer", "Basic ", ""]),
        keys,
    ),
)
other_headers = st.one_of(
    st.sampled_from(
        ["Content-Type: multipart/form-data; boundary=x", "Content-Encoding: gzip", "Cookie: a=b"]
    ),
    st.builds(
        lambda name, value: f"{name}: {value}",
        st.sampled_from(["Accept", "Content-Type", "Origin", "X-Forwarded-For", "If-None-Match", "Range"]),
        st.text(header_characters, max_size=30),
    ),
)
right_key = st.just(["indico_key: @"])
headers = st.one_of(right_key, right_key, st.lists(st.one_of(key_headers, other_headers), max_size=3))

# Pieces of which a request may consist, or not.

pieces = st.one_of(
    st.sampled_from([b"\r\n", b"\r\n\r\n", b"\n", b" ", b": ", b"\0", b"{}", b"0\r\n\r\n", b"HTTP/1.1"]),
    st.builds(
        "{} {} {}\r\nHost: a\r\n".format,
        st.sampled_from(["POST", "GET", "HEAD", "BREW", "OPTIONS"]),
        st.sampled_from([*ACTIONS, "*", "http://a/auth/check", "/%ff", "/auth/check?a=%ff"]),
        st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]),
    ).map(str.encode),
    st.sampled_from(
        ["Content-Length: 2", "Content-Length: 1", "Transfer-Encoding: chunked", "Expect: 100-continue"]
    ).map(lambda line: f"{line}\r\n".encode()),
    st.sampled_from(ACTIONS).map(lambda path: make_request(f"POST {path} HTTP/1.1")),
    st.binary(max_size=20),
)

# Lives of users: which of them does what.

USERS = ["1", "2", "Zoë \N{GRINNING FACE}"]
whole_users = st.fixed_dictionaries(
    {},
    optional={
        **{name: valid_text for name, (kind, _) in USER_SCHEMA.items() if kind is str and name != "user_id"},
        "birthday": st.integers(-(2**63), 2**63 - 1),
        **{name: st.lists(st.one_of(st.integers(-9, 9), valid_text)) for name in ("asked", "favorite")},
        "pets": st.dictionaries(valid_text, st.floats()),
    },
).map(json.dumps)
steps = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.sampled_from(["login", "login", "update", "update", "update", "find", "remove", "logout"]),
        st.one_of(whole_users, whole_users, whole_users, fields),
    ),
    min_size=1,
    max_size=12,
)


class GeneratedTest(HostileTest, ServerTest):
    """One server for all examples of a test, and one connection for as long as it lasts."""

    def setUp(self) -> None:
        super().setUp()
        # Hypothesis warns of its own generator of random numbers, on some Pythons.
        warnings.filterwarnings("ignore", ".*`register_random`", HypothesisWarning)
        self.most_lines = 10**9  # there are many requests, and each may have its line
        self.connection: Client | None = None
        self.addCleanup(self.disconnect)

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.socket.close()
            self.connection = None

    def request(self, path: str, lines: Sequence[str] = (), body: bytes = b"") -> Answer:
        """The one answer to this request."""
        answer = self.io_loop.run_sync(lambda: self._request(path, lines, body), timeout=PATIENCE)
        assert isinstance(answer, Answer)
        return answer

    async def _request(self, path: str, lines: Sequence[str], body: bytes) -> Answer:
        if self.connection is None:
            self.connection = await Client(self.get_http_port()).connect()
        length = f"Content-Length: {len(body)}"
        await self.connection.send(make_request(f"POST {path} HTTP/1.1", length, *lines, body=body))
        received = b""
        while not is_whole(received):
            part = await self.connection.receive()
            received += part
            if not part:
                self.disconnect()
                break
        [answer] = read_answers(received)
        if answer.headers.get("Connection") == "close":
            self.disconnect()
        return answer

    def call(self, path: str, body: str = "", key: str | None = None) -> Answer:
        lines = [f"indico_key: {key}"] if key else []
        return self.request(path, lines, body.encode("utf-8", "surrogatepass"))

    def login(self, oauth_id: str, user: str = "{}") -> Answer:
        parts = [LOGIN_PARTS[0], ("oauth_id", json.dumps(oauth_id)), ("user", user)]
        return self.call("/auth/login", join_object(parts))


def is_whole(received: bytes) -> bool:
    """Whether these bytes end with an envelope."""
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\nContent-Length: ([0-9]+)", head)
    return bool(end and length) and len(body) == int(length[1] if length else 0)


class RequestTest(GeneratedTest):
    def run_requests(self, requests: list[tuple[str, list[str], bytes]]) -> None:
        """Send them with `@` in their headers for a key, which is valid until one of them ends it."""
        key = self.login(OAUTH_ID).data["indico_key"]
        for path, lines, body in requests:
            answer = self.request(path, [line.replace("@", key) for line in lines], body)
            self.assertIn(answer.status, (200, 400, 401, 404, 415, BARE))
            if answer.status != BARE and path in ACTIONS[6:]:
                self.assertEqual(answer.status, 404)

    @slow
    def test_no_body_is_the_servers_fault_with_a_key(self) -> None:
        @generated
        @given(st.lists(st.tuples(actions, right_key, bodies), min_size=1, max_size=5))
        def run(requests: list[tuple[str, list[str], bytes]]) -> None:
            self.run_requests(requests)

        run()

    @slow
    def test_no_login_is_the_servers_fault(self) -> None:
        @generated
        @given(st.lists(st.tuples(st.just("/auth/login"), st.just([]), bodies), min_size=1, max_size=5))
        def run(requests: list[tuple[str, list[str], bytes]]) -> None:
            self.run_requests(requests)

        run()

    @slow
    def test_no_header_is_the_servers_fault(self) -> None:
        @generated
        @given(st.lists(st.tuples(actions, headers, st.just(b"{}")), min_size=1, max_size=5))
        def run(requests: list[tuple[str, list[str], bytes]]) -> None:
            self.run_requests(requests)

        run()

    @slow
    def test_a_key_that_is_not_the_users_opens_nothing(self) -> None:
        @generated
        @given(st.sampled_from(ACTIONS[1:6]), st.lists(key_headers, max_size=3))
        def run(path: str, lines: list[str]) -> None:
            key = self.login(OAUTH_ID).data["indico_key"]
            right = [bool(RIGHT.fullmatch(line)) for line in lines if not line.startswith("Indico-Key")]
            answer = self.request(path, [line.replace("@", key) for line in lines], b"{}")
            if right != [True]:
                self.assertIn(answer.status, (401, BARE), lines)

        run()

    @slow
    def test_any_bytes_get_envelopes_or_are_cut_off(self) -> None:
        @generated
        @given(st.lists(pieces, max_size=12).map(b"".join))
        def run(data: bytes) -> None:
            answers = self.exchange(data, end=True)
            self.assertLess(max([answer.status for answer in answers], default=0), 500)

        run()


@slow
class FailedTest(GeneratedTest):
    """What failed once."""

    def test_an_update_of_very_many_fields_is_not_the_servers_fault(self) -> None:
        key = self.login(OAUTH_ID).data["indico_key"]
        user = join_object([(f"{number:x}", "0") for number in range(110_000)])
        answer = self.call("/user/update", join_object([("update_user", user)]), key)
        self.assertIn(answer.status, (200, 400))
        self.assertEqual(self.call("/user/find", key=key).status, 200)

    def test_a_login_with_very_many_fields_is_not_the_servers_fault(self) -> None:
        user = join_object([(f"{number:x}", "0") for number in range(110_000)])
        self.assertIn(self.login(OAUTH_ID, user).status, (200, 400))


@slow
class LifeTest(GeneratedTest):
    """Whatever users do, in whatever order."""

    def test_what_is_stored_stays_sound(self) -> None:
        @generated
        @given(steps)
        def run(taken: list[tuple[str, str, str]]) -> None:
            self.database.user.delete_many({})
            self.keys: dict[str, str] = {}  # of the users who are logged in
            self.dead: set[str] = set()  # keys that were ended
            self.documents: dict[str, Any] = {}  # of each user, as the server said last
            for oauth_id, step, value in taken:
                getattr(self, step)(oauth_id, value)
            self.check()

        run()

    def check(self) -> None:
        """What is stored is what the server said, reads back with either driver, and obeys the schema."""
        stored = {document["user_id"]: document for document in self.database.user.find()}
        self.assertEqual(self.database.user.count_documents({}), len(stored))
        self.assertEqual(set(stored), {f"facebook{oauth_id}" for oauth_id in self.documents})
        for oauth_id, said in self.documents.items():
            document = stored[f"facebook{oauth_id}"]
            self.assert_same({**document, "_id": str(document["_id"])}, said)
            for name, (kind, required) in USER_SCHEMA.items():
                if required or name == "created" or name in document:
                    self.assertIsInstance(document[name], kind)
                    self.assertNotIsInstance(document[name], bool)
            if oauth_id in self.keys:
                self.assert_same(self.call("/user/find", key=self.keys[oauth_id]).data, said)
        for key in self.dead:
            self.assertEqual(self.call("/auth/check", key=key).status, 401)

    def assert_same(self, one: Any, other: Any) -> None:
        """Equal down to the types of numbers and the sign of zero."""
        self.assertEqual(json.dumps(one, sort_keys=True), json.dumps(other, sort_keys=True))

    def login(self, oauth_id: str, user: str = "{}") -> Answer:
        answer = super().login(oauth_id, user)
        if answer.status == 200:
            self.keys[oauth_id] = answer.data["indico_key"]
            before = self.documents.get(oauth_id)
            self.documents[oauth_id] = answer.data["user"]
            self.assertEqual(answer.data["user"]["user_id"], f"facebook{oauth_id}")
            if before is not None:
                for name in ("_id", "user_id", "created"):
                    self.assertEqual(answer.data["user"][name], before[name])
                self.assertLessEqual(set(before), set(answer.data["user"]))
        else:
            self.assertEqual(answer.status, 400)
        return answer

    def update(self, oauth_id: str, user: str) -> None:
        answer = self.call("/user/update", join_object([("update_user", user)]), self.keys.get(oauth_id))
        if oauth_id not in self.keys:
            self.assertEqual(answer.status, 401)
        elif answer.status == 200:
            before = self.documents[oauth_id]
            self.documents[oauth_id] = answer.data
            self.assert_same(answer.data, {**before, **json.loads(user)})
        else:
            self.assertEqual(answer.status, 400)

    def find(self, oauth_id: str, _: str) -> None:
        answer = self.call("/user/find", key=self.keys.get(oauth_id))
        if oauth_id in self.keys:
            self.assert_same(answer.data, self.documents[oauth_id])
        else:
            self.assertEqual(answer.status, 401)

    def logout(self, oauth_id: str, _: str) -> None:
        self.leave("/auth/logout", oauth_id)

    def remove(self, oauth_id: str, _: str) -> None:
        if self.leave("/user/remove", oauth_id):
            del self.documents[oauth_id]

    def leave(self, path: str, oauth_id: str) -> bool:
        key = self.keys.pop(oauth_id, None)
        answer = self.call(path, key=key)
        self.assertEqual(answer.status, 401 if key is None else 200)
        if key is not None:
            self.dead.add(key)
        return key is not None
