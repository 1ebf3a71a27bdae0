-- Asks the relay about the access token of a request, for haproxy.cfg. Sets txn.auth_status and, for a
-- token that is valid, what the relay says of it.

local claims = { "subject", "scope", "name", "email", "token-id" }

core.register_action("forward_auth", { "http-req" }, function(txn, verify)
  local sent = txn.http:req_get_headers()
  -- Which request a DPoP proof must be for; believed from a proxy in TRUSTED_PROXIES.
  local headers = {
    ["x-forwarded-method"] = { txn.f:method() },
    ["x-forwarded-proto"] = { txn.f:ssl_fc() == 1 and "https" or "http" },
    ["x-forwarded-host"] = { sent["host"] and sent["host"][0] or "" },
    ["x-forwarded-uri"] = { txn.f:pathq() },
  }
  for _, name in ipairs({ "authorization", "dpop" }) do
    if sent[name] then
      -- Every line: the relay refuses a request with two.
      headers[name] = {}
      for index, value in pairs(sent[name]) do
        headers[name][index + 1] = value
      end
    end
  end
  local ok, answer = pcall(function()
    return core.httpclient():get({ url = verify, headers = headers, timeout = 5000 })
  end)
  if not ok or not answer or not answer.status then
    txn:set_var("txn.auth_status", 503)
    return
  end
  txn:set_var("txn.auth_status", answer.status)
  local function header(name)
    local values = answer.headers and answer.headers[name]
    return values and values[0] or ""
  end
  txn:set_var("txn.auth_challenge", header("www-authenticate"))
  if header("dpop-nonce") ~= "" then
    txn:set_var("txn.auth_nonce", header("dpop-nonce"))
  end
  for _, claim in ipairs(claims) do
    txn:set_var("txn.auth_" .. claim:gsub("-", "_"), header("x-auth-" .. claim))
  end
end, 1)
