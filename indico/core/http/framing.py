"""
How long a body is: as long as the headers say, or as its chunks say.
"""

from __future__ import annotations

import re

from indico.core.http.head import BadRequest

SIZE = re.compile(rb"([0-9a-fA-F]{1,32})\r\n")
SIZE_BEGINNING = re.compile(rb"[0-9a-fA-F]{0,32}\r?")
NEWLINE = b"\r\n"

# In place of the bytes that are left of a chunk with the end of its line:
AT_SIZE = 0
AT_END = 1


class LengthDecoder:
    """Takes a body of known length, with a ChunkDecoder's interface."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def decode(self, data: bytes, start: int) -> tuple[bytes, int, bool]:
        piece = data[start : start + self._left]
        self._left -= len(piece)
        return piece, start + len(piece), not self._left


class ChunkDecoder:
    """
    Takes the chunks of one body apart. It accepts no extensions and no trailers: clients hardly use them, and
    servers differ in how they read them, by which a request can be hidden in another.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = AT_SIZE

    def decode(self, data: bytes, start: int) -> tuple[bytes, int, bool]:
        """
        The data in these bytes, from `start` on, where it ends, and whether the body ends there. Raises
        BadRequest when nothing comes before what is wrong.
        """
        pieces: list[bytes] = []
        left, end, length = self._left, False, len(data)
        while start < length and not end:
            if left > 2:
                piece = data[start : start + left - 2]
                pieces.append(piece)
                start += len(piece)
                left -= len(piece)
            elif left == AT_SIZE:
                match = SIZE.match(data, start)
                if match is None:
                    if not pieces and not SIZE_BEGINNING.fullmatch(data, start):
                        raise BadRequest
                    break
                start = match.end()
                size = int(match[1], 16)
                left = size + 2 if size else AT_END
            else:
                if not data.startswith(NEWLINE, start):
                    if not pieces and data[start:] != b"\r":
                        raise BadRequest
                    break
                start += 2
                end = left == AT_END
                left = AT_SIZE
        self._left = left
        return b"".join(pieces), start, end
