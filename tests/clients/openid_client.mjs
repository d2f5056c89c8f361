// openid-client 6 against a running Doorward: code + PKCE, userinfo, refresh, client credentials,
// introspection, a call through the gateway, revocation, refusal. Says "ok STEP" for each.
//
//   npm install openid-client@6
//   ISSUER=http://127.0.0.1:8080 WEB_ID=web WEB_SECRET=… REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=… \
//   MACHINE_ID=… MACHINE_SECRET=… GW_ID=… GW_SECRET=… RESOURCE=https://api.example.com GATEWAY_URL=http://127.0.0.1:8081/api/ \
//   node openid_client.mjs
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const env = process.env
async function load() {
  if (!env.NODE_MODULES) return import('openid-client')
  const require = createRequire(`${env.NODE_MODULES}/x.js`)
  return import(pathToFileURL(require.resolve('openid-client')).href)
}
const client = await load()
const insecure = { execute: [client.allowInsecureRequests] }
const issuer = new URL(env.ISSUER)
const ok = (step, more = '') => console.log(`ok ${step} ${more}`.trim())

// A browser without scripts: cookies, redirects, plain forms.
const unescape = (s) =>
  s.replace(/&(#x?[0-9a-f]+|\w+);/gi, (whole, e) => {
    if (e[0] === '#') return String.fromCodePoint(e[1] === 'x' || e[1] === 'X' ? parseInt(e.slice(2), 16) : parseInt(e.slice(1), 10))
    return { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }[e] ?? whole
  })
const attributes = (tag) =>
  Object.fromEntries([...tag.matchAll(/([\w-]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+)))?/g)].slice(1).map((m) => [m[1].toLowerCase(), unescape(m[2] ?? m[3] ?? m[4] ?? '')]))
function form(html, button, base) {
  const at = html.search(new RegExp(`<button[^>]*id=["']?${button}["'\\s>]`, 'i'))
  assert.ok(at >= 0, `no #${button}: ${html.slice(0, 400)}`)
  const start = html.lastIndexOf('<form', at)
  const open = attributes(html.slice(start, html.indexOf('>', start) + 1))
  const inside = html.slice(start, html.indexOf('</form', at))
  const fields = new URLSearchParams()
  for (const [tag] of inside.matchAll(/<input\b[^>]*>/gi)) {
    const a = attributes(tag)
    if (!a.name || a.type === 'submit' || (['checkbox', 'radio'].includes(a.type) && !('checked' in a))) continue
    fields.set(a.name, a.value ?? '')
  }
  const own = attributes(html.slice(at, html.indexOf('>', at) + 1))
  if (own.name) fields.set(own.name, own.value ?? '')
  return { action: new URL(own.formaction || open.action || base, base), fields }
}
async function walk(url, redirectUri) {
  const jar = new Map()
  let request = { method: 'GET' }
  for (let step = 0; step < 12; step++) {
    const headers = { ...request.headers, cookie: [...jar].map(([k, v]) => `${k}=${v}`).join('; ') }
    const response = await fetch(url, { ...request, headers, redirect: 'manual' })
    for (const line of response.headers.getSetCookie()) {
      const [pair] = line.split(';')
      const [name, value] = [pair.slice(0, pair.indexOf('=')).trim(), pair.slice(pair.indexOf('=') + 1)]
      if (value === '' || /max-age=0/i.test(line)) jar.delete(name)
      else jar.set(name, value)
    }
    if (response.status >= 300 && response.status < 400) {
      url = new URL(response.headers.get('location'), url)
      request = { method: 'GET' }
      if (url.href.startsWith(redirectUri)) return url
      continue
    }
    const html = await response.text()
    assert.equal(response.status, 200, html)
    const kind = html.match(/<meta[^>]*name=["']?page["']?[^>]*content=["']?(\w+)/i)?.[1]
    const { action, fields } = form(html, kind === 'login' ? 'login-submit' : 'consent-approve', url)
    if (kind === 'login') {
      fields.set('username', env.USERNAME_)
      fields.set('password', env.PASSWORD_)
    }
    url = action
    request = { method: 'POST', body: fields, headers: { origin: action.origin } }
  }
  throw new Error(`no end at ${url}`)
}

const web = await client.discovery(issuer, env.WEB_ID, undefined, client.ClientSecretBasic(env.WEB_SECRET), insecure)
ok('discovery', web.serverMetadata().issuer)

const verifier = client.randomPKCECodeVerifier()
const [state, nonce] = [client.randomState(), client.randomNonce()]
const to = client.buildAuthorizationUrl(web, {
  redirect_uri: env.REDIRECT_URI,
  scope: 'openid profile email offline_access read',
  code_challenge: await client.calculatePKCECodeChallenge(verifier),
  code_challenge_method: 'S256',
  state,
  nonce,
})
const back = await walk(to, env.REDIRECT_URI)
const tokens = await client.authorizationCodeGrant(web, back, { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true })
const subject = tokens.claims().sub
ok('code', subject)

const info = await client.fetchUserInfo(web, tokens.access_token, subject)
assert.equal(info.name, 'Alice A')
ok('userinfo', info.name)

const refreshed = await client.refreshTokenGrant(web, tokens.refresh_token)
assert.notEqual(refreshed.access_token, tokens.access_token)
ok('refresh')

const machine = await client.discovery(issuer, env.MACHINE_ID, undefined, client.ClientSecretBasic(env.MACHINE_SECRET), insecure)
const granted = await client.clientCredentialsGrant(machine, { scope: 'read', resource: env.RESOURCE })
ok('client_credentials', granted.token_type)

const gw = await client.discovery(issuer, env.GW_ID, undefined, client.ClientSecretBasic(env.GW_SECRET), insecure)
for (const token of [granted.access_token, refreshed.access_token]) {
  assert.equal((await client.tokenIntrospection(gw, token)).active, true)
}
ok('introspection')

const call = async (token) => (await fetch(env.GATEWAY_URL, { headers: { authorization: `Bearer ${token}` } })).status
assert.equal(await call(granted.access_token), 200)
assert.equal(await call(refreshed.access_token), 200)
ok('gateway')

await client.tokenRevocation(machine, granted.access_token)
await client.tokenRevocation(web, refreshed.refresh_token ?? tokens.refresh_token)
ok('revocation')

for (const token of [granted.access_token, refreshed.access_token]) {
  assert.equal(await call(token), 401)
  assert.equal((await client.tokenIntrospection(gw, token)).active, false)
}
await assert.rejects(client.refreshTokenGrant(web, refreshed.refresh_token ?? tokens.refresh_token), (e) => e.error === 'invalid_grant')
ok('refused')
