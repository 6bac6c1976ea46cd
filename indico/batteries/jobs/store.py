"""
The collection of jobs.

    {action: "report.build", body, user_id, roles, state, created, due, holder, failures, lost, progress,
     result, error, ended, expires, slot}

`due` is when a waiting job may start, or when the lease of a running one ends. Jobs that have ended lack it.
`holder` is new for each claim, so a worker that has lost its lease can't change the job any more. All times
are MongoDB's. `progress`, `result` and `error` are JSON. `slot` is the name and the time of a scheduled job.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NotRequired

from bson.objectid import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from typing_extensions import TypedDict

from indico import config, db
from indico.core.http.encoding import encode
from indico.core.mongo.drivers import by_majority
from indico.db import Document, mongo
from indico.error import InvalidValue, NotFound

ENDED = ("done", "failed", "cancelled")
ACTIVE = {"due": {"$exists": True}}


class JobState(TypedDict):
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    progress: Any
    result: NotRequired[Any]
    error: NotRequired[Any]


def register() -> None:
    """Declare the indexes, and register the helpers for a user's data."""
    db.index("job", "action", "due", partialFilterExpression=ACTIVE)
    db.index("job", "user_id", sparse=True)
    db.index("job", "slot", unique=True, sparse=True)
    db.index("job", "expires", expireAfterSeconds=0)
    db.on_remove(remove_jobs)
    db.on_export(export_jobs)


def later(seconds: float) -> Document:
    return {"$add": ["$$NOW", int(seconds * 1000)]}


def ending(state: str, lifetime: float) -> Document:
    """Return the fields of a job that ends."""
    expires = later(lifetime)
    return {"state": state, "ended": "$$NOW", "expires": expires, "due": "$$REMOVE", "holder": "$$REMOVE"}


def to_json(value: Any) -> Document:
    return {"$literal": encode(value).decode()}


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
async def find_job(job: str, user_id: str, cancel: bool = False) -> JobState:
    """Return the state of a user's job. With `cancel`, end it first, unless it has ended. Raises NotFound."""
    try:
        query = {"_id": db.parse_id(job), "user_id": user_id}
    except InvalidValue:
        raise NotFound("job") from None
    if cancel:
        change = [{"$set": ending("cancelled", config.JOB_LIFETIME)}]
        await by_majority(db.mongodb.job).update_one({**query, **ACTIVE}, change)
    document = await db.mongodb.job.find_one(query, projection={"body": 0})
    if document is None:
        raise NotFound("job")
    return read_state(document)


def read_state(document: Document) -> JobState:
    values = {
        name: json.loads(document[name]) for name in ("progress", "result", "error") if name in document
    }
    return {"state": document["state"], "progress": None, **values}  # type: ignore[typeddict-item]


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


@mongo
async def claim_job(actions: list[str]) -> Document | None:
    """Lease the job that has been due for longest. `lost` counts the leases that ended before their jobs."""
    query = {"action": {"$in": actions}, **ACTIVE, "$expr": {"$lte": ["$due", "$$NOW"]}}
    lost = {"$add": ["$lost", {"$cond": [{"$eq": ["$state", "running"]}, 1, 0]}]}
    lease = {"state": "running", "holder": ObjectId(), "due": later(config.JOB_LEASE), "lost": lost}
    return await db.mongodb.job.find_one_and_update(  # type: ignore[no-any-return]
        query, [{"$set": lease}], sort=[("due", 1)], return_document=ReturnDocument.AFTER
    )


@mongo
async def update_job(lease: Document, fields: Document) -> bool:
    """Set fields of a job. Return False, and change nothing, if the lease, `{_id, holder}`, is lost."""
    result = await db.mongodb.job.update_one(lease, [{"$set": fields}])
    return bool(result.matched_count)
