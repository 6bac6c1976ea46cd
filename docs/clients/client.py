import sys

from indico_api import AuthenticatedClient, Client
from indico_api.api.auth import auth_login
from indico_api.api.user import user_update
from indico_api.models import (
    AuthLoginBody,
    AuthLoginBodyUser,
    AuthLoginResponse200,
    UserUpdateBody,
    UserUpdateBodyUpdateUser,
    UserUpdateResponse200,
    UserUpdateResponse400,
)

url, token = sys.argv[1:]
body = AuthLoginBody(access_token=token, oauth_id="1", user=AuthLoginBodyUser(name="Ada"))
login = auth_login.sync(client=Client(base_url=url), body=body)
assert isinstance(login, AuthLoginResponse200), login
client = AuthenticatedClient(base_url=url, token=login.data.indico_key)

update = UserUpdateBodyUpdateUser(location="London")
updated = user_update.sync(client=client, body=UserUpdateBody(update_user=update))
assert isinstance(updated, UserUpdateResponse200), updated
print(updated.data.location)

update = UserUpdateBodyUpdateUser()
update["user_id"] = "facebook2"
rejected = user_update.sync(client=client, body=UserUpdateBody(update_user=update))
assert isinstance(rejected, UserUpdateResponse400), rejected
print(rejected.status, rejected.data)
