"""
Test data: a user, and the key that a login of that user returns.
"""

from __future__ import annotations

from typing import Any

from indico import config
from indico.utils.auth.auth_utils import user_hash

OAUTH_ID = "10207"
USER_ID = "facebook" + OAUTH_ID
USER: dict[str, Any] = {
    "user_id": USER_ID,
    "name": "Ada Lovelace",
    "phone": "+44 20 7946 0000",
    "email": "ada@example.com",
    "birthday": -4862073600000,
    "profilePic": "https://example.com/ada.png",
}
LOGIN_DATA: dict[str, Any] = {"access_token": config.DEV_TOKEN, "oauth_id": OAUTH_ID, "user": USER}
USER_KEY = user_hash(USER_ID)
HEADERS = {"Content-Type": "application/json", "indico_key": USER_KEY}
