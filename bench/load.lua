-- What wrk sends: lua load.lua's arguments are the action and a file with a line "oauth_id key" a user.

local paths = { echo = "/echo/echo", check = "/auth/check", update = "/user/update", login = "/auth/login",
  plain = "/cost/plain", limited = "/cost/limited", idempotent = "/cost/idempotent", replay = "/cost/idempotent" }
local users = {}
local action, token
local count = 0

function init(args)
  action, token = args[1], args[3]
  for line in io.lines(args[2]) do
    local oauth_id, key = line:match("(%S+) (%S+)")
    users[#users + 1] = { oauth_id = oauth_id, key = key }
  end
  count = math.floor(os.clock() * 1e6)
end

function request()
  count = count + 1
  local user = users[count * 7919 % #users + 1]
  local headers = { ["Content-Type"] = "application/json", indico_key = user.key }
  local body = ""
  if action == "echo" then
    body = '{"message": "Good morning, number ' .. count .. '"}'
  elseif action == "update" then
    body = '{"update_user": {"name": "Ada ' .. count .. '", "location": "Ockham, Surrey"}}'
  elseif action == "login" then
    body = '{"access_token": "' .. token .. '", "oauth_id": "' .. user.oauth_id ..
      '", "user": {"name": "Ada ' .. count .. '", "email": "ada@example.com"}}'
  end
  if action == "echo" or action == "login" then headers.indico_key = nil end
  if action == "idempotent" then headers["Idempotency-Key"] = os.time() .. "-" .. count end
  if action == "replay" then headers["Idempotency-Key"] = "1" end
  return wrk.format("POST", paths[action], headers, body)
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": {"connect": %d, "read": %d, ' ..
    '"write": %d, "status": %d, "timeout": %d}}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect, e.read, e.write, e.status, e.timeout))
end
