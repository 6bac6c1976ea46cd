"""
Key route: users make, list and remove API keys for their programs. The actions reject API keys.
"""

from __future__ import annotations

from typing import Annotated

import indico.db.key_db as KeyDB
from indico.core.mongo import key_cache
from indico.core.types import Described
from indico.db.key_db import ListedKey, NewKey
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import allow, auth

Name = Annotated[str, Described(minLength=1, maxLength=100, examples=["backup"])]
Lifetime = Annotated[int, Described(minimum=1, maximum=KeyDB.MAX_LIFETIME)]  # seconds
Roles = list[str]  # the class has an action of the name list
Keys = list[ListedKey]


class KeyHandler(IndicoHandler):
    @auth
    @allow(api_keys=False)
    @unpack("name", lifetime=None, roles=[])
    @type_check(Name, Lifetime | None, Roles)
    async def create(self, name: Name, lifetime: Lifetime | None, roles: Roles) -> NewKey:
        """
        Make an API key. Only this response contains the key itself. Without `lifetime`, in seconds, it does
        not expire. A role of the key is valid only while the user has the role.
        """
        return await KeyDB.create_key(self.key, name, lifetime, roles)

    @auth
    @allow(api_keys=False)
    async def list(self, data: bytes) -> Keys:
        """Return the user's API keys, without the keys themselves. `used` is the hour of the last use."""
        return await KeyDB.list_keys(self.key)

    @auth
    @allow(api_keys=False)
    @unpack("name")
    @type_check(Name)
    async def remove(self, name: Name) -> bool:
        """
        End the API key of this name permanently.

        404: There is no key of this name.
        """
        try:
            await KeyDB.remove_key(self.key, name)
        finally:
            key_cache.forget(self.key_owner["_id"])
        return True


KeyRoute = (r"/key/(?P<action>[a-zA-Z]+)?", KeyHandler)
