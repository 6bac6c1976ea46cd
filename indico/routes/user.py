"""
User route: users read, update, export and remove their own data.
"""

from __future__ import annotations

from typing import Any

import indico.db.user_db as UserDB
from indico import db
from indico.db.user_db import UpdateUser, User
from indico.error import AuthError
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import allow, auth
from indico.utils.auth.key_utils import remove_user


class UserHandler(IndicoHandler):
    @auth
    @unpack("update_user")
    @type_check(UpdateUser)
    async def update(self, update_user: UpdateUser) -> User:
        """Set the given fields, and return the whole user as stored now."""
        return await UserDB.update({"$set": update_user}, self.user_id)

    @auth
    async def find(self, data: bytes) -> User:
        """Return the whole user."""
        user = await UserDB.find_user(self.user_id)
        if user is None:
            raise AuthError()
        return user

    @auth
    async def export(self, data: bytes) -> dict[str, Any]:
        """Return all data of the user, by collection."""
        return await db.export_data(self.user_id)

    @auth
    @allow(api_keys=False)
    async def remove(self, data: bytes) -> bool:
        """Delete the user and all data of the user, and end the user's keys permanently."""
        await remove_user(self.user_id)
        return True


UserRoute = (r"/user/(?P<action>[a-zA-Z]+)?", UserHandler)
