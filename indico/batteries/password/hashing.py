"""
Hashes of passwords: Argon2id, in threads.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from indico.core.types import Described
from indico.error import IndicoError, InvalidValue

MIN_LENGTH, MAX_LENGTH = 8, 1024  # characters
Password = Annotated[str, Described(minLength=MIN_LENGTH, maxLength=MAX_LENGTH, examples=["open sesame"])]

TIME_COST = 3  # passes over the memory
MEMORY_COST = 64 * 1024  # kB of each hash
PARALLELISM = 4  # threads of each hash
HASH_MEMORY = 256 * 1024  # kB of all hashes at a time in a process; further ones wait
THREADS = ThreadPoolExecutor(HASH_MEMORY // MEMORY_COST, "password")  # they start with the first hashes

# What a password is compared with if there is no account, so that the answer takes as long. Nothing has it.
NO_HASH = f"$argon2id$v=19$m={MEMORY_COST},t={TIME_COST},p={PARALLELISM}${22 * 'A'}${43 * 'A'}"


class PasswordError(IndicoError):
    def __init__(self) -> None:
        super().__init__("E-mail or password invalid", 401)


def check_length(password: str) -> None:
    """Raise InvalidValue unless this can become a password."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidValue(f"password should be {MIN_LENGTH} to {MAX_LENGTH} characters")


@functools.cache
def get_hasher() -> Any:
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    return PasswordHash([Argon2Hasher(TIME_COST, MEMORY_COST, PARALLELISM)])


async def hash_password(password: str) -> str:
    return str(await _run(lambda: get_hasher().hash(password)))


async def verify_password(password: str, hashed: str | None) -> str | None:
    """
    Raise PasswordError unless the password has this hash. Without a hash it takes as long. Returns a new hash
    if this one was made with other parameters.
    """
    new_hash: str | None
    is_valid, new_hash = await _run(lambda: get_hasher().verify_and_update(password, hashed or NO_HASH))
    if not is_valid:
        raise PasswordError()
    return new_hash


async def _run(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(THREADS, function)
