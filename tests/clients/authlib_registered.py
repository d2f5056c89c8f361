#!/usr/bin/env python3
"""Authlib and joserfc against a running Doorward: a client registers itself with a key, signs its assertions and a request object, pushes it,
reads a signed response, redeems, refreshes, introspects, revokes, changes its registration and deletes it. Says "ok STEP" for each.

  pip install authlib requests
  ISSUER=http://127.0.0.1:8080 REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=... python3 authlib_registered.py
"""
import os
import time
import urllib.parse

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # the issuer is on loopback

import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from visitor import ENV, REDIRECT, ok, walk

ISSUER, RESOURCE = ENV["ISSUER"], ENV["RESOURCE"]
server = requests.get(f"{ISSUER}/.well-known/oauth-authorization-server").json()
assert server["issuer"] == ISSUER
keys = KeySet.import_key_set(requests.get(server["jwks_uri"]).json())
ok("discovery", ISSUER)

key = ECKey.generate_key("P-256", {"kid": "mine", "use": "sig", "alg": "ES256"}, private=True)
asked = {
    "client_name": "Authlib", "redirect_uris": [REDIRECT], "response_types": ["code"],
    "grant_types": ["authorization_code", "refresh_token", "client_credentials"], "scope": "openid profile offline_access read",
    "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "request_object_signing_alg": "ES256",
    "require_signed_request_object": True, "authorization_signed_response_alg": "ES256", "id_token_signed_response_alg": "ES256",
    "jwks": {"keys": [key.as_dict(private=False)]},
}
answer = requests.post(server["registration_endpoint"], json=asked)
assert answer.status_code == 201, answer.text
told = answer.json()
me = told["client_id"]
assert "client_secret" not in told and told["token_endpoint_auth_method"] == "private_key_jwt"
ok("registration", me)

client = OAuth2Session(
    me, key, token_endpoint_auth_method="private_key_jwt", revocation_endpoint_auth_method="private_key_jwt",
    redirect_uri=REDIRECT, scope=asked["scope"],
)


def prove(session=client, by=key):
    """Authlib's assertions live an hour and name the token endpoint; here it is five minutes at most, and the issuer."""
    claims = {"aud": ISSUER, "exp": int(time.time()) + 60}
    session.client_secret = by
    session.register_client_auth_method(PrivateKeyJWT(claims=claims, headers={"kid": "mine"}, alg="ES256"))
    return session


def verified(text, **expected):
    """A JWT of the issuer, its signature judged by the published keys."""
    token = jwt.decode(text, keys, algorithms=["ES256", "RS256"])
    for name, value in expected.items():
        assert token.claims[name] == value, (name, token.claims)
    assert token.claims["exp"] > time.time()
    return token.claims


verifier, nonce, state = generate_token(48), generate_token(16), generate_token(16)
url, _ = client.create_authorization_url(
    server["authorization_endpoint"], state=state, code_verifier=verifier, code_challenge_method="S256", nonce=nonce, response_mode="jwt",
)
parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
if "code_challenge" not in parameters:
    from authlib.oauth2.rfc7636 import create_s256_code_challenge
    parameters.update(code_challenge=create_s256_code_challenge(verifier), code_challenge_method="S256")
now = int(time.time())
envelope = {"iss": me, "aud": ISSUER, "iat": now, "nbf": now, "exp": now + 60, "jti": generate_token(16)}
request_object = jwt.encode({"alg": "ES256", "kid": "mine", "typ": "oauth-authz-req+jwt"}, {**parameters, **envelope}, key)


def push(session, body):
    """A form authenticated by Authlib's own method (RFC 9126 §2.1)."""
    _, headers, text = session.client_auth("private_key_jwt").prepare("POST", server["pushed_authorization_request_endpoint"], {}, urllib.parse.urlencode(body))
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    return requests.post(server["pushed_authorization_request_endpoint"], data=text, headers=headers)


stranger = ECKey.generate_key("P-256", {"kid": "mine"}, private=True)
assert push(prove(by=stranger), {"request": request_object, "client_id": me}).json()["error"] == "invalid_client"
forged = jwt.encode({"alg": "ES256", "kid": "mine"}, {**parameters, **envelope}, stranger)
assert push(prove(), {"request": forged, "client_id": me}).json()["error"] == "invalid_request_object"
unsigned = push(prove(), parameters)
assert unsigned.status_code == 400 and unsigned.json()["error"].startswith("invalid_request"), unsigned.text
pushed = push(prove(), {"request": request_object, "client_id": me})
assert pushed.status_code == 201, pushed.text
ok("par", "signed request")

to = f'{server["authorization_endpoint"]}?{urllib.parse.urlencode({"client_id": me, "request_uri": pushed.json()["request_uri"]})}'
back = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(walk(to)).query))
assert list(back) == ["response"], back
answered = verified(back["response"], iss=ISSUER, aud=me, state=state)
ok("jarm")

tokens = prove().fetch_token(server["token_endpoint"], grant_type="authorization_code", code=answered["code"], code_verifier=verifier)
subject = verified(tokens["id_token"], iss=ISSUER, aud=me, nonce=nonce)["sub"]
assert client.get(server["userinfo_endpoint"]).json()["sub"] == subject
ok("code", subject)

refreshed = prove().refresh_token(server["token_endpoint"], refresh_token=tokens["refresh_token"])
assert refreshed["access_token"] != tokens["access_token"]
ok("refresh")

machine = OAuth2Session(me, key, token_endpoint_auth_method="private_key_jwt", scope="read")
granted = prove(machine).fetch_token(server["token_endpoint"], grant_type="client_credentials", resource=RESOURCE)
access = jwt.decode(granted["access_token"], keys, algorithms=["ES256"])
assert access.header["typ"] == "at+jwt" and access.claims["aud"] == RESOURCE and access.claims["client_id"] == me
assert requests.get(ENV["GATEWAY_URL"], headers={"Authorization": f'Bearer {granted["access_token"]}'}).status_code == 200
ok("client_credentials")

assert prove().introspect_token(server["introspection_endpoint"], token=granted["access_token"]).json()["active"] is True
revoked = prove().revoke_token(server["revocation_endpoint"], token=granted["access_token"])
assert revoked.status_code == 200, revoked.text
assert prove().introspect_token(server["introspection_endpoint"], token=granted["access_token"]).json() == {"active": False}
ok("revocation")

own, bearer = told["registration_client_uri"], {"Authorization": f'Bearer {told["registration_access_token"]}'}
assert requests.get(own, headers=bearer).json()["client_name"] == "Authlib"
keep = {k: v for k, v in told.items() if k not in ("registration_client_uri", "registration_access_token", "client_id_issued_at", "client_secret_expires_at")}
changed = requests.put(own, headers=bearer, json={**keep, "client_name": "Renamed"})
assert changed.status_code == 200 and changed.json()["client_name"] == "Renamed", changed.text
bearer = {"Authorization": f'Bearer {changed.json().get("registration_access_token") or told["registration_access_token"]}'}
assert requests.get(own).status_code == 401
assert requests.delete(own, headers=bearer).status_code == 204
try:
    prove(machine).fetch_token(server["token_endpoint"], grant_type="client_credentials", resource=RESOURCE)
    raise SystemExit("a deleted client was served")
except Exception as error:
    assert "invalid_client" in str(error), error
ok("management")
