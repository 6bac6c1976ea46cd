"""
Encoding a big answer: a thousand documents with ObjectIds and dates.
"""

from __future__ import annotations

import datetime
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from bson import ObjectId
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from bench.findings import Finding, at_least
from indico.core.http.encoding import encode

UTC = datetime.UTC
DOCUMENTS = [
    {
        "_id": ObjectId(),
        "user_id": f"facebook{number}",
        "name": f"Ada Lovelace {number}",
        "email": f"ada{number}@example.com",
        "created": datetime.datetime(2026, 1, 1, tzinfo=UTC) + datetime.timedelta(seconds=number),
        "seen": datetime.datetime(2026, 6, 1, tzinfo=UTC) + datetime.timedelta(seconds=number),
        "friends": [ObjectId(), ObjectId()],
        "score": number / 7,
    }
    for number in range(1000)
]
ENVELOPE = {"status": 200, "data": DOCUMENTS}
ROUNDS = 99


def encode_ours() -> bytes:
    return encode(ENVELOPE)


def encode_standard() -> bytes:
    def default(value: Any) -> Any:
        return str(value) if isinstance(value, ObjectId) else round(value.timestamp() * 1000)

    return json.dumps(ENVELOPE, default=default).encode()


def encode_fastapi() -> bytes:
    encoders = {ObjectId: str, datetime.datetime: lambda value: round(value.timestamp() * 1000)}
    return bytes(JSONResponse(jsonable_encoder(ENVELOPE, custom_encoder=encoders)).body)


def measure() -> list[Finding]:
    ways: dict[str, Callable[[], bytes]] = {
        "ours": encode_ours,
        "the standard library's": encode_standard,
        "FastAPI's": encode_fastapi,
    }
    answers = {name: json.loads(run()) for name, run in ways.items()}
    if any(answer != answers["ours"] for answer in answers.values()):
        raise AssertionError("they encode differently")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            begin = time.process_time()
            run()
            times[name].append(time.process_time() - begin)
    middle = {name: statistics.median(taken) * 1000 for name, taken in times.items()}
    spent = ", ".join(f"{name} {taken:.2f} ms" for name, taken in middle.items())
    return [
        Finding("1,000 documents", spent),
        at_least(
            "times as fast as the standard library", middle["the standard library's"] / middle["ours"], 4
        ),
        at_least("times as fast as FastAPI", middle["FastAPI's"] / middle["ours"], 1),
    ]
