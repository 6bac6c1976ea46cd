"""
User route: users read, update and remove their own data.
"""

from __future__ import annotations

import indico.db.user_db as UserDB
from indico.db.user_db import UpdateUser, User
from indico.error import AuthError
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth, end_key


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
    async def remove(self, data: bytes) -> bool:
        """Delete the user, and end the key for good."""
        # In this order, a login that runs in between either creates a new user, or starts again, because
        # its generation has ended.
        await UserDB.remove(self.user_id)
        await end_key(self.key)
        return True


UserRoute = (r"/user/(?P<action>[a-zA-Z]+)?", UserHandler)
