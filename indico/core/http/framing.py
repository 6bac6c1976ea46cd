"""
Decoders of request bodies: with a Content-Length, and in chunks.
"""

from __future__ import annotations

import re

from indico.core.http.head import BadRequest

SIZE = re.compile(rb"([0-9a-fA-F]{1,32})\r\n")
PARTIAL_SIZE = re.compile(rb"[0-9a-fA-F]{0,32}\r?")
NEWLINE = b"\r\n"

# Values of `_remaining` outside a chunk. Inside, it counts the bytes to come, line break included.
AT_SIZE = 0  # before the size of a chunk
AT_END = 1  # before the empty line that ends the body


class LengthDecoder:
    """Decodes a body of known length. It has the interface of ChunkDecoder."""

    __slots__ = ("_remaining",)

    def __init__(self, size: int) -> None:
        self._remaining = size

    def decode(self, data: bytearray) -> tuple[bytes, int, bool]:
        piece = bytes(data[: self._remaining])
        self._remaining -= len(piece)
        return piece, len(piece), not self._remaining


class ChunkDecoder:
    """
    Decodes a body in chunks. It rejects extensions and trailers. Clients hardly use them, and servers parse
    them differently, so an attacker could hide a request in them.
    """

    __slots__ = ("_remaining",)

    def __init__(self) -> None:
        self._remaining = AT_SIZE

    def decode(self, data: bytearray) -> tuple[bytes, int, bool]:
        """
        Return the part of the body in `data`, the index where decoding stopped, and whether the body ends
        there. Raises BadRequest if `data` begins with invalid bytes.
        """
        pieces: list[bytearray] = []
        start, remaining, end, length = 0, self._remaining, False, len(data)
        while start < length and not end:
            if remaining > 2:
                piece = data[start : start + remaining - 2]
                pieces.append(piece)
                start += len(piece)
                remaining -= len(piece)
            elif remaining == AT_SIZE:
                match = SIZE.match(data, start)
                if match is None:
                    if not pieces and not PARTIAL_SIZE.fullmatch(data, start):
                        raise BadRequest
                    break
                start = match.end()
                size = int(match[1], 16)
                remaining = size + 2 if size else AT_END
            else:
                if not data.startswith(NEWLINE, start):
                    if not pieces and data[start:] != b"\r":
                        raise BadRequest
                    break
                start += 2
                end = remaining == AT_END
                remaining = AT_SIZE
        self._remaining = remaining
        return b"".join(pieces), start, end
