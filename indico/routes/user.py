"""
User route: what users may do with themselves.
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
        """Set the given fields, and give back the whole user as stored now."""
        return await UserDB.update({"$set": update_user}, self.user_id)

    @auth
    async def find(self, data: bytes) -> User:
        """The whole user."""
        user = await UserDB.find_user(self.user_id)
        if user is None:
            raise AuthError()
        return user

    @auth
    async def remove(self, data: bytes) -> bool:
        """Delete the user, and end the key for good."""
        # In this order: a login in between either finds its generation ended or makes a new user.
        await UserDB.remove(self.user_id)
        await end_key(self.key)
        return True


UserRoute = (r"/user/(?P<action>[a-zA-Z]+)?", UserHandler)
