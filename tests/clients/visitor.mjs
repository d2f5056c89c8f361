// What the scripts beside this file share: npm packages by folder, steps said aloud, and a person whose browser has no scripts
// (cookies, redirects, plain forms; RFC 6265, and the pages' element ids).
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const env = process.env

/** An npm package: of the folder NODE_MODULES, or wherever node finds it. */
export async function load(name) {
  if (!env.NODE_MODULES) return import(name)
  const require = createRequire(`${env.NODE_MODULES}/x.js`)
  return import(pathToFileURL(require.resolve(name)).href)
}

/** Says that a step was done. */
export const ok = (step, more = '') => console.log(`ok ${step} ${more}`.trim())

const unescape = (s) =>
  s.replace(/&(#x?[0-9a-f]+|\w+);/gi, (whole, e) => {
    if (e[0] === '#') return String.fromCodePoint(e[1] === 'x' || e[1] === 'X' ? parseInt(e.slice(2), 16) : parseInt(e.slice(1), 10))
    return { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }[e] ?? whole
  })
const attributes = (tag) =>
  Object.fromEntries([...tag.matchAll(/([\w-]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+)))?/g)].slice(1).map((m) => [m[1].toLowerCase(), unescape(m[2] ?? m[3] ?? m[4] ?? '')]))

/** A page as it stands: its kind, whether it has an element, the form behind a button. */
export class Page {
  constructor(url, status, html) {
    Object.assign(this, { url, status, html })
    this.kind = html.match(/<meta[^>]*name=["']?page["']?[^>]*content=["']?([\w-]+)/i)?.[1]
  }
  has(id) {
    return new RegExp(`\\bid=["']?${id}["'\\s>]`, 'i').test(this.html)
  }
  form(button) {
    const { html } = this
    const at = html.search(new RegExp(`<button[^>]*\\bid=["']?${button}["'\\s>]`, 'i'))
    assert.ok(at >= 0, `no #${button} on ${this.url} (${this.status}): ${html.replace(/\s+/g, ' ').slice(0, 900)}`)
    const own = attributes(html.slice(at, html.indexOf('>', at) + 1))
    // A button stands in its form, or names it.
    const start = own.form ? html.search(new RegExp(`<form[^>]*\\bid=["']?${own.form}["'\\s>]`, 'i')) : html.lastIndexOf('<form', at)
    const open = attributes(html.slice(start, html.indexOf('>', start) + 1))
    const inside = html.slice(start, html.indexOf('</form', start))
    const fields = new URLSearchParams()
    for (const [tag] of inside.matchAll(/<input\b[^>]*>/gi)) {
      const a = attributes(tag)
      if (!a.name || a.type === 'submit' || (['checkbox', 'radio'].includes(a.type) && !('checked' in a))) continue
      fields.set(a.name, a.value ?? '')
    }
    if (own.name) fields.set(own.name, own.value ?? '')
    return { action: new URL(own.formaction || open.action || this.url, this.url), fields }
  }
}

/** A person and their browser. `fetch` may be another one, which trusts another authority. */
export class Visitor {
  constructor({ fetch = globalThis.fetch, username = env.USERNAME_, password = env.PASSWORD_ } = {}) {
    Object.assign(this, { fetch, username, password, jar: new Map() })
  }

  /** Goes to an address and follows redirects up to a page, or up to an address that begins with `end`. */
  async open(url, end, request = { method: 'GET' }) {
    for (let step = 0; step < 12; step++) {
      const headers = { ...request.headers, cookie: [...this.jar].map(([k, v]) => `${k}=${v}`).join('; ') }
      const response = await this.fetch(url, { ...request, headers, redirect: 'manual' })
      for (const line of response.headers.getSetCookie()) {
        const [pair] = line.split(';')
        const [name, value] = [pair.slice(0, pair.indexOf('=')).trim(), pair.slice(pair.indexOf('=') + 1)]
        if (value === '' || /max-age=0|expires=thu, 01 jan 1970/i.test(line)) this.jar.delete(name)
        else this.jar.set(name, value)
      }
      if (response.status < 300 || response.status >= 400) return new Page(new URL(url), response.status, await response.text())
      url = new URL(response.headers.get('location'), url)
      request = { method: 'GET' }
      if (end && url.href.startsWith(end)) return url
    }
    throw new Error(`no end at ${url}`)
  }

  /** Presses a button of a page, with some fields filled in. */
  press(page, button, fill = {}, end) {
    const { action, fields } = page.form(button)
    for (const [name, value] of Object.entries(fill)) fields.set(name, value)
    return this.open(action, end, { method: 'POST', body: fields, headers: { origin: action.origin } })
  }

  /** Logs in and allows as often as the pages ask, up to the page `kind` or the address `end`. */
  async go(at, { end, kind } = {}) {
    for (let step = 0; step < 6 && at instanceof Page && at.kind !== kind; step++) {
      if (at.has('form-post-submit') || (end && at.html.includes(`action="${end}`))) return at
      assert.equal(at.status, 200, at.html)
      const login = { username: this.username, password: this.password }
      at = await (at.kind === 'login' ? this.press(at, 'login-submit', login, end) : this.press(at, 'consent-approve', {}, end))
    }
    return at
  }

  /** From an authorization URL back to the client: the URL, or the POST of a form (`response_mode=form_post`). */
  async authorize(url, redirectUri) {
    const back = await this.go(await this.open(url, redirectUri), { end: redirectUri })
    if (!(back instanceof Page)) return back
    const { action, fields } = back.form('form-post-submit')
    assert.ok(action.href.startsWith(redirectUri), action.href)
    return new Request(action, { method: 'POST', body: fields })
  }
}
