#!/usr/bin/env python3
"""Authlib against a running Doorward: code + PKCE, userinfo, refresh, client credentials,
introspection, a call through the gateway, revocation, refusal. Says "ok STEP" for each.

  pip install authlib requests
  ISSUER=http://127.0.0.1:8080 WEB_ID=web WEB_SECRET=... REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=... \\
  MACHINE_ID=... MACHINE_SECRET=... GW_ID=... GW_SECRET=... RESOURCE=https://api.example.com GATEWAY_URL=http://127.0.0.1:8081/api/ \\
  python3 authlib_client.py
"""
import html.parser
import os
import urllib.parse

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # the issuer is on loopback

import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from authlib.jose import JsonWebKey, jwt

ENV = os.environ
ISSUER, REDIRECT = ENV["ISSUER"], ENV["REDIRECT_URI"]


def ok(step, more=""):
    print(f"ok {step} {more}".strip(), flush=True)


class Forms(html.parser.HTMLParser):
    """The page's kind, and each button's form with the fields as they stand."""

    def __init__(self, text):
        super().__init__()
        self.kind, self.form, self.buttons = "", None, {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag == "meta" and a.get("name") == "page":
            self.kind = a.get("content", "")
        elif tag == "form":
            self.form = {"action": a.get("action") or "", "fields": {}}
        elif tag == "input" and self.form is not None and a.get("name"):
            if a.get("type") not in ("checkbox", "radio", "submit") or "checked" in a:
                self.form["fields"][a["name"]] = a.get("value") or ""
        elif tag == "button" and self.form is not None and a.get("id"):
            self.buttons[a["id"]] = (self.form, a)

    def press(self, button, base):
        form, own = self.buttons[button]
        fields = dict(form["fields"])
        if own.get("name"):
            fields[own["name"]] = own.get("value") or ""
        return urllib.parse.urljoin(base, own.get("formaction") or form["action"] or base), fields


def walk(url):
    """A person with a browser without scripts, up to the redirect back to the client."""
    browser = requests.Session()
    answer = browser.get(url, allow_redirects=False)
    for _ in range(12):
        if 300 <= answer.status_code < 400:
            url = urllib.parse.urljoin(url, answer.headers["location"])
            if url.startswith(REDIRECT):
                return url
            answer = browser.get(url, allow_redirects=False)
            continue
        assert answer.status_code == 200, (answer.status_code, answer.text)
        page = Forms(answer.text)
        url, fields = page.press("login-submit" if page.kind == "login" else "consent-approve", url)
        if page.kind == "login":
            fields.update(username=ENV["USERNAME_"], password=ENV["PASSWORD_"])
        origin = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))
        answer = browser.post(url, data=fields, headers={"Origin": origin}, allow_redirects=False)
    raise AssertionError(f"no end at {url}")


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
