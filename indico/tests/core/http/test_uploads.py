"""
Files in multipart bodies: stored as they arrive, within limits, and gone when the request ends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import socket
import subprocess
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any
from unittest import mock

from tornado.testing import AsyncTestCase, gen_test

from indico import config
from indico.asgi import ASGIApplication
from indico.batteries.limit import limit
from indico.batteries.openapi import describe_application
from indico.core.hooks import Application
from indico.core.http import uploads
from indico.core.http.uploads import MAX_PARTS, MEMORY, STORAGE, Form
from indico.error import BodyTooLarge
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.core.http.test_hostile import PATIENCE, Client, read_answers
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.test_asgi import ASGIProcessTest, Exchange
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import ServerProcess, open_files, processes_in, read_peak, wait_until
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import allow, auth

BOUNDARY = "frontier"
LIMIT = 5 * MEMORY  # bytes that a body may have here


def describe(upload: Upload) -> list[Any]:
    """Name, type, size, first bytes and whether the file is on the disk."""
    on_disk = not hasattr(upload.file, "getvalue")
    return [upload.name, upload.content_type, upload.size, upload.file.read(5).decode(), on_disk]


def ask_asgi(application: Application, line: str, *headers: tuple[bytes, bytes]) -> Exchange:
    content_type = (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())
    return Exchange(ASGIApplication(application), line, content_type, *headers)


class PictureHandler(IndicoHandler):
    max_body_size = LIMIT
    entered = 0

    @unpack("title", "image")
    @type_check(str, Upload)
    def save(self, title: str, image: Upload) -> list[Any]:
        return [title, *describe(image)]

    @auth
    @unpack("image")
    @type_check(Upload)
    async def keep(self, image: Upload) -> int:
        return image.size

    @unpack(image=None)
    @type_check(Upload | None)
    async def optional(self, image: Upload | None) -> Any:
        return image and describe(image)

    @unpack("images")
    @type_check(list[Upload])
    async def several(self, images: list[Upload]) -> list[Any]:
        return [image.name for image in images]

    @unpack("title")
    @type_check(str)
    def text(self, title: str) -> str:
        return title


class TaskHandler(PictureHandler):
    """It overrides what Tornado calls, so it is dispatched as Tornado does it."""

    ended: list[int] = []

    def on_finish(self) -> None:
        self.ended.append(STORAGE.size)


def make_part(name: str, content: bytes, filename: str | None = None, *headers: str) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = [f"--{BOUNDARY}", disposition, *headers, "", ""]
    return "\r\n".join(lines).encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
TITLE = make_part("title", b"Tea")


def make_request(path: str, body: bytes, *headers: str, size: int | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body) if size is None else size}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def find_deleted_files(*pids: int) -> set[str]:
    """The open files of these processes, or of this one, that have no name any more."""
    files = set().union(*map(open_files, pids or [os.getpid()]))
    return {file for file in files if file.endswith("(deleted)") and not file.startswith("/memfd")}


FILE = make_part("image", b"bytes", "a")
INVALID = (
    b"",
    b"bytes",
    TITLE + FILE,  # it does not end
    TITLE[:-5],
    TITLE.replace(b"\r\n", b"\n") + END,
    (MAX_PARTS + 1) * make_part("title", b"") + END,
    make_part("title", b"Tea", None, *(f"X-{number}: 1" for number in range(20))) + FILE + END,
    make_part("title", b"Tea", None, "X: " + 10_000 * "a") + FILE + END,
    make_part("title", b"\xff") + FILE + END,
)


class UploadTest(ServerTest):
    routes = [
        AuthRoute,
        (r"/picture/(?P<action>[a-zA-Z]+)?", PictureHandler),
        (r"/task/(?P<action>[a-zA-Z]+)?", TaskHandler),
    ]
    stores = False

    def upload(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        """POST a multipart body. Returns the status and the data."""
        response = self.fetch(
            path,
            method="POST",
            body=body,
            headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers},
        )
        envelope = json.loads(response.body)
        self.assertEqual(envelope["status"], response.code)
        return response.code, envelope["data"]

    def setUp(self) -> None:
        super().setUp()
        self.before = find_deleted_files()

    def list_new_files(self) -> set[str]:
        return find_deleted_files() - self.before

    def tearDown(self) -> None:
        self.assertEqual((STORAGE.size, STORAGE.held), (0, 0))
        super().tearDown()

    def test_a_small_file_stays_in_memory(self) -> None:
        body = TITLE + make_part("image", b"bytes", "tea.png", "Content-Type: image/png") + END
        for route in ("picture", "task"):
            with self.subTest(route):
                status, data = self.upload(f"/{route}/save", body)
                self.assertEqual((status, data), (200, ["Tea", "tea.png", "image/png", 5, "bytes", False]))

    def test_a_large_file_goes_to_disk_and_is_gone_after_the_request(self) -> None:
        content = b"large" + 2 * MEMORY * b"a"
        for route in ("picture", "task"):
            with self.subTest(route):
                _, data = self.upload(f"/{route}/save", TITLE + make_part("image", content, "tea.png") + END)
                expected = ["Tea", "tea.png", "application/octet-stream", len(content), "large", True]
                self.assertEqual(data, expected)
                gc.collect()
                self.assertEqual(self.list_new_files(), set())

    def test_names_lose_their_path_and_control_characters(self) -> None:
        for name, expected in {
            "../../etc/passwd": "passwd",
            "C:\\\\temp\\\\tea.png": "tea.png",
            "/": "",
            "tea\x07.png": "tea.png",
            300 * "a": 255 * "a",
        }.items():
            with self.subTest(name):
                _, data = self.upload("/picture/save", TITLE + make_part("image", b"bytes", name) + END)
                self.assertEqual(data[1], expected)

    def test_an_optional_file_may_be_missing_or_not_chosen(self) -> None:
        for part in (TITLE, make_part("image", b"", "")):
            self.assertEqual(self.upload("/picture/optional", part + END), (200, None))
        status, data = self.upload("/picture/optional", make_part("image", b"bytes", "a") + END)
        self.assertEqual((status, data[:1]), (200, ["a"]))

    def test_a_list_takes_all_files_of_its_name(self) -> None:
        for names in (["a"], ["a", "b", "c"]):
            parts = b"".join(make_part("images", b"bytes", name) for name in names)
            self.assertEqual(self.upload("/picture/several", parts + END), (200, names))

    def test_the_last_file_of_a_name_is_used(self) -> None:
        parts = make_part("image", b"first", "a") + make_part("image", b"second", "b")
        self.assertEqual(self.upload("/picture/optional", parts + END)[1][0], "b")

    def test_what_is_no_file_is_named_with_its_type(self) -> None:
        for body in (TITLE + make_part("image", b"bytes") + END,):
            status, data = self.upload("/picture/save", body)
            self.assertEqual((status, data), (400, "Field image - bytes is type str but should be Upload"))
        answer = self.post("picture/save", {"title": "Tea", "image": 7})
        self.assertEqual(answer["data"], "Field image - 7 is type int but should be Upload")
        self.assertEqual(self.upload("/picture/save", TITLE + END), (400, "image field was not provided"))

    def test_a_file_where_a_text_is_expected_is_a_text(self) -> None:
        body = make_part("title", b"Tea", "tea.txt") + make_part("image", b"bytes", "a") + END
        self.assertEqual(self.upload("/picture/save", body)[1][0], "Tea")

    def test_an_action_without_files_takes_no_multipart_body(self) -> None:
        self.assertEqual(self.upload("/picture/text", TITLE + END)[0], 400)

    def test_a_text_and_then_a_file_of_a_name_are_the_file(self) -> None:
        body = make_part("images", b"bytes") + make_part("images", b"bytes", "b") + END
        self.assertEqual(self.upload("/picture/several", body), (200, ["b"]))

    @slow
    def test_an_invalid_multipart_body_is_400(self) -> None:
        for body in INVALID:
            for route in ("picture", "task"):
                with self.subTest(body[:200], route=route):
                    self.assertEqual(self.upload(f"/{route}/save", body)[0], 400)

    def test_a_body_without_a_boundary_is_400(self) -> None:
        for content_type in (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            'Multipart/Form-Data; boundary="',
        ):
            status, data = self.upload("/picture/save", TITLE + END, **{"Content-Type": content_type})
            self.assertEqual((status, data[:31]), (400, "The multipart body is not valid"))

    def test_the_body_may_have_max_body_size_of_its_handler(self) -> None:
        file = make_part("image", LIMIT * b"a", "a")
        for route in ("picture", "task"):
            self.assertEqual(self.upload(f"/{route}/save", TITLE + file + END)[0], 413)

    def test_other_bodies_and_texts_may_have_max_body_size_of_the_settings(self) -> None:
        with mock.patch.object(config, "MAX_BODY_SIZE", 1000):
            self.assertEqual(self.post("picture/save", {"title": 1000 * "a"})["status"], 413)
            for text in (
                make_part("title", 1001 * b"a"),
                make_part(1001 * "a", b""),
                5 * make_part(201 * "a", b""),
            ):
                body = text + make_part("image", b"bytes", "a") + END
                self.assertEqual(self.upload("/picture/save", body)[0], 413)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_the_rest_of_a_body_that_is_too_large_is_dropped(self) -> None:
        client = await Client(self.get_http_port()).connect()
        with mock.patch.object(PictureHandler, "max_body_size", 10):
            for piece in (
                b"Transfer-Encoding: chunked\r\n\r\n",
                b"20\r\n" + 32 * b"a" + b"\r\n",
                b"1\r\na\r\n",
                b"0\r\n\r\n",
            ):
                head = make_request("/picture/save", b"").partition(b"Content-Length")[0]
                await client.send(head + piece if piece.startswith(b"T") else piece)
                await asyncio.sleep(0.05)
            [answer] = read_answers(await client.receive())
        client.socket.close()
        self.assertEqual((answer.status, answer.headers["Connection"]), (413, "close"))

    @gen_test(timeout=PATIENCE)
    async def test_a_body_may_be_larger_than_the_limit_that_tornado_has(self) -> None:
        client = await Client(self.get_http_port()).connect()
        with mock.patch.object(PictureHandler, "max_body_size", 2**30):
            await client.send(make_request("/picture/save", make_part("title", b"\xff") + FILE, size=2**29))
            [answer] = read_answers(await client.receive())
        client.socket.close()
        self.assertEqual(answer.status, 400)

    def test_all_uploads_together_may_have_max_uploads(self) -> None:
        body = TITLE + make_part("image", 2000 * b"a", "a") + END
        with mock.patch.object(config, "MAX_UPLOADS", 1999):
            self.assertEqual(self.upload("/picture/save", body)[0], 503)
        with mock.patch.object(config, "MAX_UPLOADS", 2000):
            self.assertEqual(self.upload("/picture/save", body)[0], 200)

    def test_texts_names_and_empty_files_of_all_uploads_may_have_max_unread(self) -> None:
        for body in (
            make_part("title", 15_000 * b"a"),
            5 * make_part("image" + 3000 * "a", b""),
            40 * make_part("image", b"", "a"),
        ):
            for most, status in ((50_000, 503), (200_000, 200)):
                with mock.patch.object(config, "MAX_UNREAD", most):
                    self.assertEqual(self.upload("/picture/optional", body + END)[0], status)

    def test_files_go_to_disk_while_uploads_take_much_memory(self) -> None:
        content = b"bytes" + MEMORY * 9 // 10 * b"a"
        with mock.patch.object(config, "MAX_UNREAD", MEMORY * 6 // 10):
            _, data = self.upload("/picture/save", TITLE + make_part("image", content, "a") + END)
        self.assertEqual(data[3:], [len(content), "bytes", True])

    def test_a_disk_that_is_full_is_503(self) -> None:
        def refuse() -> Any:
            raise OSError(28, "No space left on device")

        with (
            mock.patch.object(tempfile, "TemporaryFile", refuse),
            self.assertLogs("indico", "WARNING"),
        ):
            body = TITLE + make_part("image", 2 * MEMORY * b"a", "a") + END
            self.assertEqual(self.upload("/picture/save", body)[0], 503)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_in_the_middle_leaves_no_file(self) -> None:
        part = TITLE + make_part("image", 2 * MEMORY * b"a", "a")
        for route in ("picture", "task"):
            client = await Client(self.get_http_port()).connect()
            await client.send(make_request(f"/{route}/save", part, size=LIMIT))
            while not self.list_new_files():
                await asyncio.sleep(0.01)
            client.socket.close()
            while STORAGE.size or self.list_new_files():
                await asyncio.sleep(0.01)

    @gen_test(timeout=PATIENCE)
    async def test_without_a_key_nothing_is_asked_for(self) -> None:
        client = await Client(self.get_http_port()).connect()
        await client.send(make_request("/picture/keep", b"", "Expect: 100-continue", size=LIMIT))
        [answer] = read_answers(await client.receive())  # no 100 either
        client.socket.close()
        self.assertEqual((answer.status, answer.headers["Connection"]), (401, "close"))

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_receiving_the_body_is_no_part_of_the_request_timeout(self) -> None:
        body = TITLE + make_part("image", b"bytes", "a") + END
        with mock.patch.object(config, "REQUEST_TIMEOUT", 0.2):
            client = await Client(self.get_http_port()).connect()
            await client.send(make_request("/picture/save", body)[:-1])
            await asyncio.sleep(0.5)
            await client.send(body[-1:])
            [answer] = read_answers(await client.receive())
        client.socket.close()
        self.assertEqual(answer.status, 200)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_body_may_take_the_body_timeout_of_its_handler(self) -> None:
        if config.HTTP_SERVER == "tornado":
            self.skipTest("Tornado's server closes the connection without a response")
        client = await Client(self.get_http_port()).connect()
        with mock.patch.object(PictureHandler, "body_timeout", 0.1):
            await client.send(make_request("/picture/save", TITLE, size=LIMIT))
            self.assertEqual(await client.receive_all(), b"")
        client.socket.close()

    @gen_test(timeout=PATIENCE)
    async def test_without_a_key_nothing_is_stored(self) -> None:
        client = await Client(self.get_http_port()).connect()
        with mock.patch.object(uploads.Storage, "reserve") as reserve:
            body = make_part("image", MEMORY * b"a", "a") + END
            await client.send(make_request("/picture/keep", body))
            [answer] = read_answers(await client.receive())
        client.socket.close()
        self.assertEqual(answer.status, 401)
        reserve.assert_not_called()


class GuardedHandler(IndicoHandler):
    max_body_size = LIMIT

    @auth
    @allow("admin")
    @unpack("image")
    @type_check(Upload)
    async def admin(self, image: Upload) -> int:
        return image.size

    @auth
    @limit("1/hour")
    @unpack("image")
    @type_check(Upload)
    async def once(self, image: Upload) -> int:
        return image.size


class KeyTest(ServerTest):
    routes = [*UploadTest.routes, (r"/guarded/(?P<action>[a-zA-Z]+)?", GuardedHandler)]
    stores = ("auth", "user", "rate_limit")

    def setUp(self) -> None:
        super().setUp()
        self.post("auth/login", LOGIN_DATA)

    async def get_status(self, path: str, body: bytes) -> int:
        """The status for a body, of which the rest does not come if it has no end."""
        client = await Client(self.get_http_port()).connect()
        size = len(body) + (not body.endswith(END))
        await client.send(make_request(path, body, f"indico_key: {HEADERS['indico_key']}", size=size))
        [answer] = read_answers(await client.receive())
        client.socket.close()
        return answer.status

    @gen_test(timeout=PATIENCE)
    async def test_without_a_role_or_beyond_a_limit_nothing_is_stored(self) -> None:
        self.assertEqual(await self.get_status("/guarded/once", FILE + END), 200)
        with mock.patch.object(uploads.Storage, "reserve") as reserve:
            part = make_part("image", MEMORY * b"a", "a")
            for action, status in (("admin", 403), ("once", 429)):
                self.assertEqual(await self.get_status(f"/guarded/{action}", part), status)
        reserve.assert_not_called()

    def test_with_a_key_it_is_stored(self) -> None:
        body = make_part("image", b"bytes", "a") + END
        response = self.fetch(
            "/picture/keep",
            method="POST",
            body=body,
            headers={**HEADERS, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
        )
        self.assertEqual(response.code, 200)


class TornadoKeyTest(KeyTest):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(config, "HTTP_SERVER", "tornado"))
        super().setUp()


class ASGIKeyTest(KeyTest):
    async def get_status(self, path: str, body: bytes) -> int:
        key = (b"indico_key", HEADERS["indico_key"].encode())
        exchange = ask_asgi(self._app, f"POST {path}", key).give(body, more=not body.endswith(END))
        return (await exchange.finish())[0]


SCRIPT = """
from indico import server
from indico.routes.handler import IndicoHandler
from indico.utils import Upload, type_check, unpack

class FileHandler(IndicoHandler):
    max_body_size = 2 * 1024**3
    body_timeout = 600

    @unpack("file")
    @type_check(Upload)
    def measure(self, file: Upload) -> int:
        return file.size

server.ROUTES.append((r"/file/(?P<action>[a-zA-Z]+)?", FileHandler))
server.main(debug=False)
"""


PIECE, PIECES = b"a" * 1024**2, 1024  # of a file of one GiB
UPLOADS: dict[str, Any] = {"MAX_UPLOADS": "50000000"}  # the size of 500 of the files below


def send_large(port: int) -> bytes:
    head, tail = make_part("file", b"", "large")[:-2], b"\r\n" + END
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(make_request("/file/measure", head, size=len(head) + PIECES * len(PIECE) + len(tail)))
        for _ in range(PIECES):
            client.sendall(PIECE)
        client.sendall(tail)
        return receive_answer(client)


def receive_answer(client: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionError):
        while not received.endswith(b"}") and (part := client.recv(10_000)):
            received += part
    return received


def wait_for_end_of_file(files: set[str], *pids: int, patience: float = 2) -> None:
    """Return when the processes have no deleted files open but these."""
    wait_until(lambda: find_deleted_files(*pids) <= files, "the end of the file", patience)


def leave_in_the_middle(port: int, *pids: int) -> None:
    """Send a part of a file. Return when it is on the disk, and gone from it after the client has left."""
    files = find_deleted_files(*pids)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(make_request("/file/measure", make_part("file", 3 * PIECE, "a"), size=LIMIT))
        wait_until(lambda: bool(find_deleted_files(*pids) - files), "a file on the disk")
    wait_for_end_of_file(files, *pids)


def send_a_thousand(port: int) -> Counter[bytes]:
    """Begin a thousand uploads, and end those that are not rejected. Return how many have each status."""
    part = make_part("file", b"", "one")[:-2] + 100_000 * b"a"
    statuses = Counter[bytes]()
    with ExitStack() as stack:
        clients = []
        for _ in range(1000):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(make_request("/file/measure", part, size=len(part) + len(END) + 2))
            clients.append(client)
        rejected = 0
        while rejected < 500:  # of the others all bytes are stored
            ready, _, _ = select.select(clients, [], [], PATIENCE)
            rejected = len(ready)
        for client in clients:
            with suppress(ConnectionError):
                client.sendall(b"\r\n" + END)
        for client in clients:
            statuses[receive_answer(client)[9:12]] += 1
    return statuses


@slow
class LargeUploadTest(DatabaseTest):  # else each server starts a MongoDB
    def test_a_file_of_one_gib_takes_little_memory_and_is_gone_from_the_disk(self) -> None:
        for kind in ("own", "tornado"):
            with self.subTest(server=kind), ServerProcess(script=SCRIPT, HTTP_SERVER=kind) as server:
                files = find_deleted_files(server.pid)
                self.assertIn(b'"data":%d' % (PIECES * len(PIECE)), send_large(server.port))
                self.assertLess(read_peak(server.pid), 100 * 1024)
                wait_for_end_of_file(files, server.pid, patience=1)  # it is closed after the response

    def test_a_thousand_uploads_at_once_stay_within_max_uploads(self) -> None:
        for kind in ("own", "tornado"):
            with (
                self.subTest(server=kind),
                ServerProcess(script=SCRIPT, HTTP_SERVER=kind, **UPLOADS) as server,
            ):
                self.assertEqual(send_a_thousand(server.port), {b"200": 500, b"503": 500})


@slow
class ASGILargeUploadTest(ASGIProcessTest):
    script = SCRIPT.replace("server.main(debug=False)", "from indico.asgi import application")

    def test_a_file_of_one_gib_takes_little_memory_and_is_gone_from_the_disk(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            pids = processes_in(self.folder)  # of the server and of what it has started
            leave_in_the_middle(port, *pids)
            files = find_deleted_files(*pids)
            self.assertIn(b'"data":%d' % (PIECES * len(PIECE)), send_large(port))
            self.assertLess(self.read_peak(), 100 * 1024)
            wait_for_end_of_file(files, *pids, patience=1)

        self.each(test, script=self.script)

    def test_a_thousand_uploads_at_once_stay_within_max_uploads(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            self.assertEqual(send_a_thousand(port), {b"200": 500, b"503": 500})

        self.each(test, "uvicorn", script=self.script, **UPLOADS)


class ASGIUploadTest(ServerTest):
    routes = UploadTest.routes
    stores = False

    @gen_test
    async def test_a_file_may_come_in_pieces(self) -> None:
        body = TITLE + make_part("image", b"bytes", "a") + END
        for path in ("picture", "task"):
            exchange = self.ask(f"POST /{path}/save")
            for index in range(len(body)):
                exchange.give(body[index : index + 1], more=True)
            self.assertEqual((await exchange.give().finish())[1][1:4], ["a", "application/octet-stream", 5])

    @gen_test
    async def test_without_a_key_nothing_is_asked_for(self) -> None:
        with mock.patch.object(uploads.Storage, "reserve") as reserve:
            exchange = self.ask("POST /picture/keep").give(make_part("image", b"bytes", "a"), more=True)
            self.assertEqual((await exchange.finish())[0], 401)
        reserve.assert_not_called()

    @gen_test
    async def test_an_invalid_multipart_body_is_400_and_one_too_large_413(self) -> None:
        for body, status in (
            *((body, 400) for body in INVALID),
            (make_part("image", LIMIT * b"a", "a"), 413),
        ):
            exchange = self.ask("POST /picture/save")
            for index in range(0, len(body), 50_000):
                exchange.give(body[index : index + 50_000], more=True)
            self.assertEqual((await exchange.give().finish())[0], status)

    @gen_test
    async def test_a_client_that_leaves_leaves_nothing(self) -> None:
        before = find_deleted_files()
        for content, files in ((b"bytes", 0), (2 * MEMORY * b"a", 1)):
            exchange = self.ask("POST /picture/save").give(make_part("image", content, "a"), more=True)
            while STORAGE.size < len(content) or len(find_deleted_files() - before) < files:
                await asyncio.sleep(0)
            await exchange.leave().task
            self.assertEqual((STORAGE.size, find_deleted_files() - before), (0, set()))

    def ask(self, line: str) -> Exchange:
        return ask_asgi(self._app, line)


class FormTest(StrictTest, AsyncTestCase):
    @gen_test
    async def test_after_an_error_nothing_is_read(self) -> None:
        form = Form(f"multipart/form-data; boundary={BOUNDARY}", {}, LIMIT)
        reading = asyncio.ensure_future(form.read())
        await form.wanted
        with mock.patch.object(config, "MAX_BODY_SIZE", 1):
            await form.feed(TITLE + FILE)
        await form.feed(FILE)
        with self.assertRaises(BodyTooLarge):
            await reading
        form.close()
        self.assertEqual(STORAGE.held, 0)

    @gen_test
    async def test_nothing_is_stored_after_a_request_that_ends_while_a_file_is_written(self) -> None:
        form = Form(f"multipart/form-data; boundary={BOUNDARY}", {"image": list[Upload]}, LIMIT)

        async def end_meanwhile(function: Any, *arguments: Any) -> Any:
            result = function(*arguments)
            if not form.complete.done():
                form.close()  # while the first file is moved to the disk
            return result

        reading = asyncio.ensure_future(form.read())
        await form.wanted
        body = make_part("image", b"bytes", "a") + make_part("image", b"more", "b")
        with (
            mock.patch.object(uploads, "MEMORY", 0),
            mock.patch.object(asyncio, "to_thread", end_meanwhile),
        ):
            await form.feed(body)
        with self.assertRaises(asyncio.CancelledError):
            await reading
        self.assertEqual(STORAGE.size, 0)


class DescriptionTest(StrictTest):
    def test_an_action_with_files_takes_a_multipart_body(self) -> None:
        paths = describe_application(make_app(routes=UploadTest.routes))["paths"]
        [(media, content)] = paths["/picture/save"]["post"]["requestBody"]["content"].items()
        self.assertEqual(media, "multipart/form-data")
        self.assertEqual(content["schema"]["properties"]["image"], {"type": "string", "format": "binary"})
        self.assertEqual(list(paths["/picture/text"]["post"]["requestBody"]["content"]), ["application/json"])


class TornadoServerUploadTest(UploadTest):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(config, "HTTP_SERVER", "tornado"))
        super().setUp()
