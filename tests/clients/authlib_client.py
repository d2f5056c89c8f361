#!/usr/bin/env python3
"""Authlib against a running Doorward: code + PKCE, userinfo, refresh, client credentials,
introspection, a call through the gateway, revocation, refusal. Says "ok STEP" for each.

  pip install authlib requests
  ISSUER=http://127.0.0.1:8080 WEB_ID=web WEB_SECRET=... REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=... \\
  MACHINE_ID=... MACHINE_SECRET=... GW_ID=... GW_SECRET=... RESOURCE=https://api.example.com GATEWAY_URL=http://127.0.0.1:8081/api/ \\
  python3 authlib_client.py
"""
import os
import urllib.parse

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # the issuer is on loopback

import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from authlib.jose import JsonWebKey, jwt

from visitor import ENV, REDIRECT, ok, walk

ISSUER = ENV["ISSUER"]


def call(token):
    return requests.get(ENV["GATEWAY_URL"], headers={"Authorization": f"Bearer {token}"}).status_code


server = requests.get(f"{ISSUER}/.well-known/openid-configuration").json()
assert server["issuer"] == ISSUER
ok("discovery", server["issuer"])

web = OAuth2Session(
    ENV["WEB_ID"], ENV["WEB_SECRET"], token_endpoint_auth_method="client_secret_basic", redirect_uri=REDIRECT,
    scope="openid profile email offline_access read", code_challenge_method="S256",
)
verifier, nonce = generate_token(48), generate_token(16)
url, state = web.create_authorization_url(server["authorization_endpoint"], code_verifier=verifier, nonce=nonce)
back = walk(url)
assert urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["iss"] == [ISSUER]
tokens = web.fetch_token(server["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier)
keys = JsonWebKey.import_key_set(requests.get(server["jwks_uri"]).json())
claims = jwt.decode(tokens["id_token"], keys, claims_options={
    "iss": {"essential": True, "value": ISSUER}, "aud": {"essential": True, "value": ENV["WEB_ID"]}, "nonce": {"essential": True, "value": nonce},
})
claims.validate()
ok("code", claims["sub"])

info = web.get(server["userinfo_endpoint"]).json()
assert info["sub"] == claims["sub"] and info["name"] == "Alice A", info
ok("userinfo", info["name"])

refreshed = web.refresh_token(server["token_endpoint"], refresh_token=tokens["refresh_token"])
assert refreshed["access_token"] != tokens["access_token"]
ok("refresh")

machine = OAuth2Session(ENV["MACHINE_ID"], ENV["MACHINE_SECRET"], token_endpoint_auth_method="client_secret_basic", scope="read")
granted = machine.fetch_token(server["token_endpoint"], grant_type="client_credentials", resource=ENV["RESOURCE"])
ok("client_credentials", granted["token_type"])

gw = OAuth2Session(ENV["GW_ID"], ENV["GW_SECRET"], token_endpoint_auth_method="client_secret_basic")


def active(token):
    return gw.introspect_token(server["introspection_endpoint"], token=token).json()["active"]


assert active(granted["access_token"]) and active(refreshed["access_token"])
ok("introspection")

assert call(granted["access_token"]) == 200 and call(refreshed["access_token"]) == 200
ok("gateway")

held = refreshed.get("refresh_token") or tokens["refresh_token"]
assert machine.revoke_token(server["revocation_endpoint"], token=granted["access_token"]).status_code == 200
assert web.revoke_token(server["revocation_endpoint"], token=held).status_code == 200
ok("revocation")

for token in (granted["access_token"], refreshed["access_token"]):
    assert call(token) == 401 and not active(token)
try:
    web.refresh_token(server["token_endpoint"], refresh_token=held)
    raise SystemExit("a revoked refresh token was accepted")
except Exception as error:
    assert "invalid_grant" in str(error), error
ok("refused")
