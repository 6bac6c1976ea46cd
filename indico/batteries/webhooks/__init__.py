"""
Webhooks: tells the address in the header `Webhook-URL` of a new job when the job has ended.

    {"type": "job.done", "data": {"job": id, "state": "done"}, "timestamp": "2026-11-26T10:00:00+00:00"}
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import importlib.util
from dataclasses import replace
from typing import Any

from pymongo import ReturnDocument

from indico import config, db
from indico.batteries.jobs import get_worker
from indico.batteries.jobs.store import ENDED, later
from indico.batteries.jobs.worker import repeat
from indico.batteries.webhooks.sending import PrivateAddress, check_url, send
from indico.core.decorators import get_info, set_info
from indico.core.fetch import FAILURES
from indico.core.hooks import Application
from indico.db import Document, mongo
from indico.routes.handler import IndicoHandler
from indico.utils import LOGGER
from indico.utils.auth.auth_utils import auth, user_hash

HEADER = "Webhook-URL"
DESCRIPTION = "Gets a signed message when the job has ended"
LEASE = 60  # seconds until another process sends a message again
MAX_SENDS = 10  # at a time
PAUSES = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)  # seconds between attempts


def install(application: Application) -> None:
    """Add the action `/job/secret`, and send webhooks, if an action has `@job`."""
    worker = get_worker(application)
    if worker is None:
        return
    if importlib.util.find_spec("standardwebhooks") is None:
        LOGGER.warning("There are no webhooks: pip install -e '.[webhooks]'")
        return
    db.index("job", "state", "webhook.due", partialFilterExpression={"webhook.due": {"$exists": True}})
    worker.field_readers.append(read_webhook)
    for job in worker.jobs.values():
        describe_header(job.decorated)
    application.hooks.background_tasks.append(send_webhooks)
    application.add_handlers(".*", [SecretRoute])


def describe_header(action: Any) -> None:
    """Add the header to the description of an action with `@job`."""
    info = get_info(action)
    set_info(action, replace(info, headers={**info.headers, HEADER: DESCRIPTION}))


def make_secret(user_id: str) -> str:
    """Return the secret that signs a user's webhooks."""
    digest = user_hash(f"webhook\n{user_id}")  # no user_id contains a newline
    return f"whsec_{base64.b64encode(bytes.fromhex(digest)).decode()}"


def read_webhook(handler: IndicoHandler) -> Document:
    """Return the field of a new job for its header `Webhook-URL`. Raises InvalidValue."""
    url = handler.request.headers.get(HEADER)
    if url is None:
        return {}
    due = datetime.datetime.fromtimestamp(0, datetime.UTC)  # when the job has ended: at once
    return {"webhook": {"url": check_url(url), "attempts": 0, "due": due}}


class JobHandler(IndicoHandler):
    @auth
    async def secret(self, data: bytes) -> str:
        """Return the secret that signs the user's webhooks."""
        return make_secret(self.user_id)


@mongo
async def claim_webhook() -> Document | None:
    """Return a job whose webhook is due. No other process sends it within LEASE."""
    query = {
        "state": {"$in": ENDED},
        "webhook.due": {"$exists": True},
        "$expr": {"$lte": ["$webhook.due", "$$NOW"]},
    }
    attempts = {"$add": ["$webhook.attempts", 1]}
    change = [{"$set": {"webhook.due": later(LEASE), "webhook.attempts": attempts}}]
    return await db.mongodb.job.find_one_and_update(  # type: ignore[no-any-return]
        query, change, return_document=ReturnDocument.AFTER
    )


@mongo
async def update_webhook(job: Document, pause: int | None) -> None:
    """Let the webhook be due after this pause, or never again."""
    change: Any = {"$unset": "webhook.due"} if pause is None else {"$set": {"webhook.due": later(pause)}}
    query = {"_id": job["_id"], "webhook.attempts": job["webhook"]["attempts"]}
    await db.mongodb.job.update_one(query, [change])


async def send_webhooks(application: Application) -> None:
    """Send webhooks until the server stops."""
    if config.JOB_WORKERS:
        await repeat(application, send_some, asyncio.Event())


async def send_some() -> bool:
    """Send the webhooks that are due, at most MAX_SENDS. Return whether there were any."""
    jobs: list[Document] = []
    while len(jobs) < MAX_SENDS and (job := await claim_webhook()) is not None:
        jobs.append(job)
    await asyncio.gather(*map(send_webhook, jobs))
    return bool(jobs)


async def send_webhook(job: Document) -> None:
    """Send the webhook of a job that has ended. Repeated after PAUSES, but not if the address is private."""
    attempt, pause = job["webhook"]["attempts"], None
    message = {"type": f"job.{job['state']}", "data": {"job": str(job["_id"]), "state": job["state"]}}
    try:
        await send(job["webhook"]["url"], make_secret(job["user_id"]), str(job["_id"]), message)
    except FAILURES as error:
        if attempt <= len(PAUSES) and not isinstance(error, PrivateAddress):
            pause = PAUSES[attempt - 1]
        else:
            LOGGER.warning("The webhook of job %s can't be sent: %r", job["_id"], error)
    await update_webhook(job, pause)


SecretRoute = (r"/job/(?P<action>secret)", JobHandler)
