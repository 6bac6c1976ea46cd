"""
Files: keeps uploads in MongoDB, and sends them to their users: `GET /file/<id>`.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

from tornado.iostream import StreamClosedError

import indico.batteries.files.file_db as FileDB
from indico import config
from indico.batteries.files.file_db import StoredFile as StoredFile
from indico.batteries.files.storage import read_file
from indico.batteries.files.storage import save_file as save_file
from indico.core.hooks import Application
from indico.core.http.errors import to_error
from indico.core.http.pages import PageHandler
from indico.error import IndicoError
from indico.utils.auth.auth_utils import auth

RANGE = re.compile(r"bytes=(?!-$)(\d{0,18})-(\d{0,18})")
CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


def install(application: Application) -> None:
    """Serve the files of users. Actions store them, by `save_file`."""
    application.add_handlers(".*", [(r"/file/(?P<file_id>[0-9a-f]{24})", FileHandler)])


class FilePage(PageHandler):
    """A page that sends files. A subclass checks who may read the file, and calls `send_file`."""

    content_type = "application/octet-stream"  # in the API's description
    _is_sending = False

    async def send_file(self, file: StoredFile) -> None:
        """
        Send the file, or the part of it in the header Range, as fast as the client reads it. Browsers don't
        display it as a page, because it comes from a user.
        """
        size = file["size"]
        part = find_part(self.request.headers.get("Range", ""), size)
        if part is None:
            self.set_header("Content-Range", f"bytes */{size}")
            self.fail(IndicoError(f"The file has {size} bytes", 416))
            return
        if len(part) < size:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")
        is_safe = CONTENT_TYPE.fullmatch(file["content_type"])
        self.set_header("Content-Type", file["content_type"] if is_safe else self.content_type)
        self.set_header("Content-Length", len(part))
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(file['name'], safe='')}")
        self.set_header("Content-Security-Policy", "sandbox")
        self.set_header("Accept-Ranges", "bytes")
        try:
            if self.request.method == "GET":  # and not HEAD
                await self._send_part(file, part)
            self.finish()
        except (StreamClosedError, TimeoutError):  # the client has disconnected, or takes nothing
            self._close()
        except Exception as error:
            if not self._is_sending:
                self.clear()
            self.fail(error)

    async def _send_part(self, file: StoredFile, part: range) -> None:
        async for data in read_file(file, part):
            self._is_sending = True
            self.write(data)
            async with asyncio.timeout(config.WRITE_TIMEOUT):
                await self.flush()

    def fail(self, error: BaseException) -> None:
        """If the response has begun, close the connection, so that the client notices the failure."""
        if self._is_sending:
            to_error(error)  # logs it
            self._close()
        else:
            super().fail(error)

    def _close(self) -> None:
        self.request.connection.close()  # type: ignore[union-attr] # all of our servers have it
        self.on_connection_close()


class FileHandler(FilePage):
    user_id: str  # set by @auth

    @auth
    async def get(self, file_id: str) -> None:
        """
        A file of the user.

        206: The part of the file in the header Range
        404: The file does not exist, or belongs to another user
        416: The file is shorter
        """
        await self.send_file(await FileDB.find(file_id, self.user_id))


def find_part(header: str, size: int) -> range | None:
    """Return the positions that this header Range asks for, or None if the file has none of them."""
    match = RANGE.fullmatch(header)
    if match is None or not size:
        return range(size)
    first, last = match.groups()
    if not first:  # the last bytes
        return range(max(size - int(last), 0), size) or None
    return range(int(first), min(int(last or size), size - 1) + 1) or None
