"""
The collection of jobs.

    {action: "report.build", body, user_id, roles, state, created, due, holder, failures, lost, progress,
     result, error, ended, expires, slot}

`due` is when a waiting job may start, or when the lease of a running one ends. Jobs that have ended lack it.
`holder` is new for each claim, so a worker that has lost its lease can't change the job any more. All times
are MongoDB's. `progress`, `result` and `error` are JSON. `slot` is the name and the time of a scheduled job.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from bson.objectid import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from typing_extensions import TypedDict

from indico import config, db
from indico.core.mongo.drivers import by_majority
from indico.db import Document, mongo
from indico.error import InvalidValue, NotFound

ENDED = ("done", "failed", "cancelled")


class JobState(TypedDict):
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    progress: Any
    result: NotRequired[Any]
    error: NotRequired[Any]


@functools.cache
def register() -> None:
    """Declare the indexes, and register the helpers for a user's data. Does so once."""
    db.index("job", "action", "due", partialFilterExpression={"due": {"$exists": True}})
    db.index("job", "user_id", sparse=True)
    db.index("job", "slot", unique=True, sparse=True)
    db.index("job", "expires", expireAfterSeconds=0)
    db.on_remove(remove_jobs)
    db.on_export(export_jobs)


def later(seconds: float) -> Document:
    return {"$add": ["$$NOW", int(seconds * 1000)]}


def ending(state: str, fields: Mapping[str, str], lifetime: float) -> list[Document]:
    """Return the update that ends a job."""
    values = {name: {"$literal": value} for name, value in fields.items()}
    ended = {**values, "state": state, "ended": "$$NOW", "expires": later(lifetime)}
    return [{"$set": ended}, {"$unset": ["due", "holder"]}]


# For clients


@mongo
async def add_job(action: str, body: bytes, fields: Document) -> ObjectId | None:
    """Store a job on a majority, and return its id. Returns None if there is a job of the same `slot`."""
    job_id = ObjectId()
    job = {"action": action, "body": body, "state": "waiting", "failures": 0, "lost": 0, **fields}
    change = {"$setOnInsert": job, "$currentDate": {"created": True, "due": True}}
    try:
        await by_majority(db.mongodb.job).update_one({"_id": job_id}, change, upsert=True)
    except DuplicateKeyError:
        return None
    return job_id


@mongo
async def find_job(job: str, user_id: str) -> JobState:
    """Return the state of a user's job. Raises NotFound."""
    try:
        query = {"_id": db.parse_id(job), "user_id": user_id}
    except InvalidValue:
        raise NotFound("job") from None
    document = await db.mongodb.job.find_one(query, projection={"body": 0})
    if document is None:
        raise NotFound("job")
    return read_state(document)


def read_state(document: Document) -> JobState:
    state: Any = {"state": document["state"], "progress": None}
    for name in ("progress", "result", "error"):
        if name in document:
            state[name] = json.loads(document[name])
    return state  # type: ignore[no-any-return]


@mongo
async def cancel_job(job: str, user_id: str) -> None:
    """End a user's job, unless it has ended."""
    query = {"_id": db.parse_id(job), "user_id": user_id, "due": {"$exists": True}}
    await by_majority(db.mongodb.job).update_one(query, ending("cancelled", {}, config.JOB_LIFETIME))


@mongo
async def remove_jobs(user_id: str) -> None:
    """Delete a user's jobs. The workers cancel those that run."""
    await by_majority(db.mongodb.job).delete_many({"user_id": user_id})


@mongo
async def export_jobs(user_id: str) -> Document:
    """Return a user's jobs, with their bodies as text."""
    jobs = []
    async for job in db.mongodb.job.find({"user_id": user_id}):
        body = job["body"].decode(errors="replace")
        jobs.append({"action": job["action"], "created": job["created"], "body": body, **read_state(job)})
    return {"job": jobs}


# For workers


@mongo
async def claim_job(actions: list[str], holder: ObjectId) -> Document | None:
    """Lease the job that has been due for longest. `lost` counts the leases that ended before their jobs."""
    query = {
        "action": {"$in": actions},
        "due": {"$exists": True},
        "$expr": {"$lte": ["$due", "$$NOW"]},
    }
    lost = {"$add": ["$lost", {"$cond": [{"$eq": ["$state", "running"]}, 1, 0]}]}
    lease = {"state": "running", "holder": holder, "due": later(config.JOB_LEASE), "lost": lost}
    return await db.mongodb.job.find_one_and_update(  # type: ignore[no-any-return]
        query, [{"$set": lease}], sort=[("due", 1)], return_document=ReturnDocument.AFTER
    )


@mongo
async def check_lease(lease: Document, renew: bool) -> bool:
    """Return whether a worker still holds this lease, `{_id, holder}`. With `renew`, let it begin anew."""
    if not renew:
        return await db.mongodb.job.find_one(lease, projection={"_id": 1}) is not None
    result = await db.mongodb.job.update_one(lease, [{"$set": {"due": later(config.JOB_LEASE)}}])
    return bool(result.matched_count)


@mongo
async def update_job(lease: Document, change: list[Document]) -> None:
    """Change a job, unless the lease is lost."""
    await db.mongodb.job.update_one(lease, change)


def waiting(seconds: float, failures: int) -> list[Document]:
    """Return the update that lets a job wait that long, after so many failures."""
    return [{"$set": {"state": "waiting", "due": later(seconds), "failures": failures}}, {"$unset": "holder"}]
