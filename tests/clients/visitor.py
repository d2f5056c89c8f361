"""What the Python scripts beside this file share: steps said aloud, and a person whose browser has no scripts."""
import html.parser
import os
import urllib.parse

import requests

ENV = os.environ
REDIRECT = ENV["REDIRECT_URI"]


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
