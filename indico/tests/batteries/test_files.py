"""
Files: what is uploaded comes back, whole or in part, to its user alone, and goes when its user does.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import socket
import time
from typing import Any
from unittest import mock

import gridfs
from bson.objectid import ObjectId
from pymongo.errors import AutoReconnect
from tornado.httpclient import HTTPResponse
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.testing import gen_test

from indico import config
from indico.asgi import ASGIApplication
from indico.batteries.files import FileHandler, find_part, save_file
from indico.batteries.files import file_db as FileDB
from indico.batteries.files.file_db import CHUNK_SIZE, StoredFile
from indico.error import NotFound, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.server import BATTERIES
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_ID, USER_KEY
from indico.tests.test_asgi import Exchange
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, linux, read_peak, report_figures
from indico.tests.testutils.server import ServerTest
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

PATIENCE = 30  # seconds
NINES = 5000 * "9"
DATA = bytes(range(256)) * 2500  # three pieces
BOUNDARY = "boundary"
NOT_FOUND = {"status": 404, "data": "The file could not be found"}


class AlbumHandler(IndicoHandler):
    max_body_size = 10**9

    @auth
    @unpack("image")
    @type_check(Upload)
    async def add(self, image: Upload) -> StoredFile:
        image.file.read(10)
        return await save_file(image, self.user_id)

    @auth
    @unpack("file")
    @type_check(str)
    async def drop(self, file: str) -> bool:
        await FileDB.remove(file, self.user_id)
        return True


AlbumRoute = (r"/album/(?P<action>[a-zA-Z]+)?", AlbumHandler)


def make_upload(data: bytes, name: str = "tea.png", content_type: str = "image/png") -> Upload:
    upload = Upload(name, content_type)
    upload.size, upload.file = len(data), io.BytesIO(data)
    return upload


class FilesTest(ServerTest):
    routes = [AuthRoute, UserRoute, AlbumRoute]
    stores = ("auth", "fs.chunks", "fs.files", "user")

    def setUp(self) -> None:
        super().setUp()
        self.post("auth/login", LOGIN_DATA)

    def add(self, data: bytes = DATA, name: str = "tea.png", content_type: str = "image/png") -> StoredFile:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        body = f"{head}Content-Type: {content_type}\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--".encode()
        headers = {**HEADERS, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        response = self.fetch("/album/add", method="POST", headers=headers, body=body)
        answer = json.loads(response.body)
        self.assertEqual(answer["status"], 200, answer)
        stored: StoredFile = answer["data"]
        return stored

    def get(self, file: StoredFile, method: str = "GET", key: Any = HEADERS, **headers: str) -> HTTPResponse:
        return self.fetch(f"/file/{file['file']}", method=method, headers={**key, **headers})

    def count(self) -> tuple[int, int]:
        """Return the numbers of documents and pieces."""
        return self.database["fs.files"].count_documents({}), self.database["fs.chunks"].count_documents({})


class SendTest(FilesTest):
    def test_a_file_comes_back_as_it_was(self) -> None:
        before = time.time_ns() // 1_000_000
        for data in (DATA, b"", b"a", bytes(CHUNK_SIZE), bytes(CHUNK_SIZE + 1)):
            with self.subTest(size=len(data)):
                file = self.add(data)
                self.assertGreaterEqual(file["created"], before)
                shown = (file["name"], file["content_type"], file["size"])
                self.assertEqual(shown, ("tea.png", "image/png", len(data)))
                response = self.get(file)
                self.assertEqual((response.code, response.body), (200, data))
                self.assertEqual(response.headers["Content-Type"], "image/png")

    @slow
    def test_gridfs_of_pymongo_reads_what_is_stored(self) -> None:
        for data in (DATA, b"", bytes(CHUNK_SIZE + 1)):
            stored = gridfs.GridFS(self.database).get(ObjectId(self.add(data)["file"]))
            self.assertEqual((stored.filename, stored.length, stored.read()), ("tea.png", len(data), data))

    @slow
    def test_no_browser_shows_a_file_as_a_page(self) -> None:
        for content_type, sent in (
            ("text/html", "text/html"),
            ("text/plain; charset=utf-8", "text/plain"),
            ("tea", "application/octet-stream"),
            ("é/b", "application/octet-stream"),
        ):
            with self.subTest(content_type):
                response = self.get(self.add(b"a", "té 1;.html", content_type))
                self.assertEqual(response.headers["Content-Type"], sent)
                self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")
                self.assertEqual(response.headers["Content-Security-Policy"], "sandbox")
                disposition = response.headers["Content-Disposition"]
                self.assertRegex(disposition, r"^attachment; filename\*=UTF-8''t[%A-Z0-9]+")

    @gen_test(timeout=PATIENCE)
    async def test_an_asgi_server_sends_files_too(self) -> None:
        file = await save_file(make_upload(DATA), USER_ID)
        exchange = Exchange(
            ASGIApplication(self._app), f"GET /file/{file['file']}", (b"indico_key", USER_KEY.encode())
        )
        await asyncio.wait_for(exchange.give().task, PATIENCE)
        self.assertEqual((exchange.status, exchange.body), (200, DATA))

    def test_head_has_the_headers_alone(self) -> None:
        response = self.get(self.add(), "HEAD")
        self.assertEqual((response.code, response.body), (200, b""))
        self.assertEqual(response.headers["Content-Length"], str(len(DATA)))

    def test_a_range_is_a_part(self) -> None:
        file = self.add()
        size = len(DATA)
        for header, part in (
            ("bytes=0-0", range(1)),
            ("bytes=10-299999", range(10, 300_000)),
            (f"bytes={CHUNK_SIZE}-{CHUNK_SIZE}", range(CHUNK_SIZE, CHUNK_SIZE + 1)),
            (f"bytes={CHUNK_SIZE - 1}-", range(CHUNK_SIZE - 1, size)),
            ("bytes=-5", range(size - 5, size)),
            ("bytes=639990-999999999", range(639_990, size)),
        ):
            with self.subTest(header):
                response = self.get(file, Range=header)
                self.assertEqual((response.code, response.body), (206, DATA[part.start : part.stop]))
                shown = f"bytes {part.start}-{part.stop - 1}/{size}"
                self.assertEqual(response.headers["Content-Range"], shown)

    def test_a_range_that_is_none_is_the_whole_file(self) -> None:
        for header in (
            "",
            "bytes=-",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=a-b",
            "bytes=0-",
            f"bytes={NINES}-",
        ):
            with self.subTest(header):
                self.assertEqual(find_part(header, 7), range(7))
        self.assertEqual(find_part("bytes=0-", 0), range(0))

    def test_a_range_beyond_the_end_is_416(self) -> None:
        file = self.add(b"abc")
        for header in ("bytes=3-", "bytes=-0", "bytes=2-1"):
            with self.subTest(header):
                response = self.get(file, Range=header)
                self.assertEqual(json.loads(response.body), {"status": 416, "data": "The file has 3 bytes"})
                self.assertEqual(response.headers["Content-Range"], "bytes */3")


class OwnerTest(FilesTest):
    def test_a_file_of_another_user_is_404_and_so_is_one_that_there_is_not(self) -> None:
        other = self.post("auth/login", {**LOGIN_DATA, "oauth_id": "other"}, {})["data"]["indico_key"]
        file = self.add()
        missing: StoredFile = {**file, "file": 24 * "0"}
        for found, key in ((file, {"indico_key": other}), (missing, HEADERS)):
            response = self.get(found, key=key)
            self.assertEqual(json.loads(response.body), NOT_FOUND)
            answer = self.post("album/drop", {"file": found["file"]}, key)
            self.assertEqual(answer, NOT_FOUND)
        self.assertEqual(self.get(file, key={}).code, 401)
        self.assertEqual(self.get(file).code, 200)

    def test_a_file_that_is_removed_leaves_nothing(self) -> None:
        kept, file = self.add(b"a"), self.add()
        self.assertEqual(self.post("album/drop", {"file": file["file"]})["data"], True)
        self.assertEqual(self.get(file).code, 404)
        self.assertEqual(self.count(), (1, 1))
        self.assertEqual(self.get(kept).code, 200)

    def test_an_export_lists_files_and_a_removal_deletes_them(self) -> None:
        files = [self.add(b"a"), self.add()]
        self.assertEqual(self.post("user/export", {})["data"]["files"], files)
        self.assertEqual(self.post("user/remove", {})["status"], 200)
        self.assertEqual(self.count(), (0, 0))

    @slow
    def test_the_description_has_the_page(self) -> None:
        if "indico.batteries.openapi" not in BATTERIES:
            self.skipTest("the battery was taken out")
        paths = json.loads(self.fetch("/openapi.json").body)["paths"]
        statuses = "200 206 401 404 413 416 500 503"
        self.assertEqual(" ".join(sorted(paths["/file/{file_id}"]["get"]["responses"])), statuses)


class FailureTest(FilesTest):
    def save(self, upload: Upload) -> asyncio.Task[StoredFile]:
        return asyncio.ensure_future(save_file(upload, USER_ID))

    async def wait_until_empty(self) -> None:
        """Wait for the deletion of what was stored."""
        async with asyncio.timeout(PATIENCE):
            while any("discard" in str(task) for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
        self.assertEqual(self.count(), (0, 0))

    @gen_test(timeout=PATIENCE)
    async def test_a_file_that_can_not_be_read_leaves_nothing(self) -> None:
        upload = make_upload(DATA)
        upload.file.close()
        with self.assertRaises(ValueError):
            await self.save(upload)
        await self.wait_until_empty()

    @gen_test(timeout=PATIENCE)
    async def test_a_caller_that_is_cancelled_leaves_nothing(self) -> None:
        saving = self.save(make_upload(100 * DATA))
        while self.count()[1] < 3:
            await asyncio.sleep(0.001)
        saving.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await saving
        await self.wait_until_empty()

    @gen_test(timeout=PATIENCE)
    async def test_a_file_whose_user_is_removed_meanwhile_is_not_stored(self) -> None:
        saving = self.save(make_upload(20 * DATA))
        while self.count()[1] < 3:
            await asyncio.sleep(0.001)
        await FileDB.remove_all(USER_ID)
        with self.assertRaises(NotFound):
            await saving
        await self.wait_until_empty()

    @gen_test(timeout=PATIENCE)
    async def test_a_file_whose_user_was_removed_before_is_not_stored(self) -> None:
        self.database.user.delete_many({})
        with self.assertRaises(NotFound):
            await self.save(make_upload(DATA))
        await self.wait_until_empty()

    @gen_test(timeout=PATIENCE)
    async def test_what_can_not_be_deleted_goes_with_its_user(self) -> None:
        upload = make_upload(DATA)
        with mock.patch.object(FileDB, "delete", side_effect=AutoReconnect("gone")) as delete:
            complete = mock.patch.object(FileDB, "complete", side_effect=Unavailable("gone"))
            with complete, self.assertRaises(Unavailable):
                await self.save(upload)
            while not delete.called or any("discard" in str(task) for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)
        self.assertEqual(self.count(), (1, 3))
        self.assertEqual(await FileDB.find_all(USER_ID), [])
        await FileDB.remove_all(USER_ID)
        self.assertEqual(self.count(), (0, 0))

    def test_a_piece_that_is_missing_is_an_error_before_the_first_and_a_cut_after_it(self) -> None:
        file = self.add()
        self.database["fs.chunks"].delete_one({"n": 1})
        with self.assertRaises(HTTPStreamClosedError):
            self.get(file)
        self.database["fs.chunks"].delete_one({"n": 0})
        response = self.get(file)
        self.assertEqual(json.loads(response.body), NOT_FOUND)
        self.assertNotIn("Content-Disposition", response.headers)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        file = await self.save(make_upload(20 * DATA))
        close = mock.patch.object(FileHandler, "_close", autospec=True, side_effect=FileHandler._close)
        with (
            mock.patch.object(config, "WRITE_TIMEOUT", 0.2),
            close as closed,
            socket.create_connection(("127.0.0.1", self.get_http_port())) as client,
        ):
            head = f"GET /file/{file['file']} HTTP/1.1\r\nHost: a\r\nindico_key: {USER_KEY}\r\n\r\n"
            client.sendall(head.encode())
            async with asyncio.timeout(PATIENCE):
                while not closed.called:
                    await asyncio.sleep(0.01)


SERVER = """
from indico import server
from indico.tests.batteries.test_files import AlbumRoute

server.ROUTES.append(AlbumRoute)
server.main(debug=False, port=0)
"""


@slow
@linux
class LargeFileTest(ProcessTest):
    def test_100_mb_go_in_and_out_with_flat_memory(self) -> None:
        piece = os.urandom(10**6)
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="large"\r\n\r\n'.encode()
        )
        tail = f"\r\n--{BOUNDARY}--".encode()
        for kind in ("own", "tornado"):
            with self.subTest(server=kind):
                server = self.start(script=SERVER, HTTP_SERVER=kind)
                server.post("auth/login", LOGIN_DATA)
                before = read_peak(server.pid)
                began = time.monotonic()
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
                connection.putrequest("POST", "/album/add")
                connection.putheader("indico_key", USER_KEY)
                connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
                connection.putheader("Content-Length", str(len(head) + 100 * len(piece) + len(tail)))
                connection.endheaders(head)
                for _ in range(100):
                    connection.send(piece)
                connection.send(tail)
                file = json.loads(connection.getresponse().read())["data"]
                stored = time.monotonic()
                connection.request("GET", f"/file/{file['file']}", headers={"indico_key": USER_KEY})
                response = connection.getresponse()
                for number in range(100):
                    self.assertEqual(response.read(len(piece)), piece, number)
                self.assertEqual(response.read(), b"")
                connection.close()
                grown = read_peak(server.pid) - before
                times = f"{stored - began:.1f} s, out {time.monotonic() - stored:.1f} s"
                report_figures(self, f"{kind}: 100 MB in {times}, {grown} kB more")
                self.assertLess(grown, 30_000)
                self.assertEqual(server.stop(), 0)
