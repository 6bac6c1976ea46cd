import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const [url, token] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: url });

const login = await client.POST("/auth/login", {
  body: { access_token: token, oauth_id: "1", user: { name: "Ada" } },
});
if (login.error) throw new Error(login.error.data);
const headers = { indico_key: login.data.data.indico_key };

const updated = await client.POST("/user/update", {
  headers,
  body: { update_user: { location: "London" } },
});
console.log(updated.data?.data.location);

const rejected = await client.POST("/user/update", {
  headers,
  body: { update_user: { user_id: "facebook2" } },
});
console.log(rejected.error?.status, rejected.error?.data);
