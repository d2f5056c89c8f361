#!/usr/bin/env python3
"""joserfc as an upstream that believes the gateway's assertions by its JWKS: type, issuer, audience, times, and nothing else. Says "ok STEP".

  pip install joserfc requests
  ASSERTION=eyJ... JWKS_URL=http://127.0.0.1:8081/.well-known/doorward-gateway/jwks.json GATEWAY=http://127.0.0.1:8080/gateway AUDIENCE=echo
  SUBJECT=machine ACCESS_TOKEN=eyJ... ALG=ES256 python3 joserfc_assertion.py
"""
import os

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

env = os.environ
answer = requests.get(env["JWKS_URL"], timeout=10)
assert answer.status_code == 200 and answer.headers["content-type"] == "application/jwk-set+json", answer.headers
keys = KeySet.import_key_set(answer.json())
assert not any(member in key for key in answer.json()["keys"] for member in ("d", "p", "q", "k"))
print("ok keys", len(keys.keys))

token = jwt.decode(env["ASSERTION"], keys, algorithms=[env["ALG"]])
assert token.header["typ"] == "identity+jwt", token.header
registry = jwt.JWTClaimsRegistry(
    iss={"essential": True, "value": env["GATEWAY"]},
    aud={"essential": True, "value": env["AUDIENCE"]},
    sub={"essential": True, "value": env["SUBJECT"]},
    exp={"essential": True},
)
registry.validate(token.claims)
assert "cnf" not in token.claims and token.claims["exp"] - token.claims["iat"] <= 300
print("ok believed", token.claims["sub"])

try:
    jwt.decode(env["ACCESS_TOKEN"], keys, algorithms=["ES256", "RS256", "EdDSA"])
    raise SystemExit("an access token was believed by the gateway's keys")
except (JoseError, ValueError) as why:
    print("ok access token refused", type(why).__name__)
