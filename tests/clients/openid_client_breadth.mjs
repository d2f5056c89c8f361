// openid-client 6 against a running Doorward on https: what lies around the code flow. Dynamic registration; form_post; a request object; a pushed request
// with a signed response; logout; device authorization; CIBA; token exchange; client certificates of both kinds. Says "ok STEP" for each.
//
//   npm install openid-client@6 undici@6
//   ISSUER=https://localhost:8443 NODE_EXTRA_CA_CERTS=ca.pem CERTIFICATES=folder with app, other and own (.pem, .key) USERNAME_=alice PASSWORD_=… \
//   REDIRECT_URI=https://rp.example.com/cb WEB_ID=web WEB_SECRET=… EXCHANGER_ID=exchanger EXCHANGER_SECRET=… GW_ID=gw GW_SECRET=… \
//   GATEWAY_URL=https://localhost:8444/api/ node openid_client_breadth.mjs          the server has [registration] open = true
import assert from 'node:assert/strict'
import { X509Certificate, createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { load, ok, Page, Visitor } from './visitor.mjs'

const env = process.env
const client = await load('openid-client')
const issuer = new URL(env.ISSUER)
const insecure = issuer.protocol === 'http:' ? { execute: [client.allowInsecureRequests] } : {}
const redirect_uri = env.REDIRECT_URI
const has = (name) => !(env.WITHOUT ?? '').split(' ').includes(name)

const register = (metadata, method = client.ClientSecretBasic()) =>
  client.dynamicClientRegistration(issuer, { redirect_uris: [redirect_uri], scope: 'openid profile email offline_access read', ...metadata }, method, insecure)

/** What a refusal said. */
async function refused(what, attempt, ...codes) {
  let error
  try {
    error = (await attempt(), undefined)
  } catch (thrown) {
    error = thrown
  }
  const said = error?.error ?? error?.cause?.[0]?.parameters?.error ?? error?.message
  assert.ok(codes.includes(said), `${what}: ${said} ${error?.stack}`)
}

async function question(more = {}) {
  const [pkceCodeVerifier, expectedState, expectedNonce] = [client.randomPKCECodeVerifier(), client.randomState(), client.randomNonce()]
  const code_challenge = await client.calculatePKCECodeChallenge(pkceCodeVerifier)
  const parameters = { redirect_uri, scope: 'openid profile', code_challenge, code_challenge_method: 'S256', state: expectedState, nonce: expectedNonce, ...more }
  return { parameters, checks: { pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true } }
}

/** From an authorization URL to tokens, in this person's browser. */
async function answer(config, url, checks, visitor = new Visitor()) {
  return client.authorizationCodeGrant(config, await visitor.authorize(url, redirect_uri), checks)
}

// --- registration, form_post, logout
const rp = await register({ client_name: 'Registered', post_logout_redirect_uris: ['https://rp.example.com/bye'], grant_types: ['authorization_code', 'refresh_token'] })
assert.ok(rp.clientMetadata().client_id && rp.clientMetadata().client_secret && rp.clientMetadata().registration_access_token)
ok('registration', rp.clientMetadata().client_id)

const person = new Visitor()
{
  const { parameters, checks } = await question({ response_mode: 'form_post' })
  const tokens = await answer(rp, client.buildAuthorizationUrl(rp, parameters), checks, person)
  ok('form_post', tokens.claims().sub)
  const info = await client.fetchUserInfo(rp, tokens.access_token, tokens.claims().sub)
  assert.equal(info.name, 'Alice A')

  const silent = await question({ prompt: 'none' })
  assert.equal((await answer(rp, client.buildAuthorizationUrl(rp, silent.parameters), silent.checks, person)).claims().sub, tokens.claims().sub)
  const bye = { post_logout_redirect_uri: 'https://rp.example.com/bye', id_token_hint: tokens.id_token, state: client.randomState() }
  const out = client.buildEndSessionUrl(rp, bye)
  let at = await person.open(out, bye.post_logout_redirect_uri)
  if (at instanceof Page) at = await person.press(at, 'logout-confirm', {}, bye.post_logout_redirect_uri)
  assert.ok(at instanceof URL, at.html)
  assert.equal(at.searchParams.get('state'), bye.state)
  const after = await question({ prompt: 'none' })
  await refused('prompt=none after the logout', () => answer(rp, client.buildAuthorizationUrl(rp, after.parameters), after.checks, person), 'login_required')
  ok('logout')
}

// --- a request object; a pushed request whose response is signed
{
  const pair = await client.randomDPoPKeyPair('ES256', { extractable: true })
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', pair.publicKey)
  const jwks = { keys: [{ kty, crv, x, y, kid: 'k', use: 'sig', alg: 'ES256' }] }
  const key = { key: pair.privateKey, kid: 'k' }
  const signing = { jwks, token_endpoint_auth_method: 'private_key_jwt', request_object_signing_alg: 'ES256', authorization_signed_response_alg: 'ES256' }
  const signer = await register(signing, client.PrivateKeyJwt(key))
  const { parameters, checks } = await question()
  await answer(signer, await client.buildAuthorizationUrlWithJAR(signer, parameters, key), checks)
  ok('request object')

  const pushing = await register({ ...signing, require_pushed_authorization_requests: true }, client.PrivateKeyJwt(key))
  client.useJwtResponseMode(pushing)
  client.enableNonRepudiationChecks(pushing)
  const pushed = await question()
  const url = await client.buildAuthorizationUrlWithPAR(pushing, pushed.parameters)
  assert.deepEqual([...url.searchParams.keys()].sort(), ['client_id', 'request_uri'])
  await answer(pushing, url, pushed.checks)
  ok('pushed request')
}

// --- what a person answers elsewhere: both wait five seconds between two questions, so they wait together
async function device() {
  const tv = await register({ grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'], token_endpoint_auth_method: 'none', redirect_uris: undefined, response_types: [] }, client.None())
  const told = await client.initiateDeviceAuthorization(tv, { scope: 'openid profile offline_access' })
  assert.ok(told.user_code && told.verification_uri && told.verification_uri_complete.includes(told.user_code) && told.expires_in > 0)
  const visitor = new Visitor()
  let page = await visitor.go(await visitor.open(told.verification_uri), { kind: 'device' })
  page = await visitor.press(page, 'device-continue', { user_code: told.user_code.toLowerCase() })
  page = await visitor.go(await visitor.press(page, 'device-approve'), { kind: 'device' })
  assert.ok(page.has('device-approved'), page.html)
  const tokens = await client.pollDeviceAuthorizationGrant(tv, told)
  assert.ok(tokens.claims().sub && tokens.refresh_token)
  await refused('a device code a second time', () => client.pollDeviceAuthorizationGrant(tv, { ...told, interval: 0 }), 'invalid_grant')

  const denied = await client.initiateDeviceAuthorization(tv, { scope: 'openid' })
  page = await visitor.open(denied.verification_uri_complete)
  for (const button of ['form-post-submit', 'device-continue']) if (page.has(button)) page = await visitor.press(page, button)
  await visitor.press(page, 'device-deny')
  await refused('a denied device', () => client.pollDeviceAuthorizationGrant(tv, { ...denied, interval: 0 }), 'access_denied')
  ok('device', tokens.claims().sub)
}
async function ciba() {
  const bank = await register({ grant_types: ['urn:openid:params:grant-type:ciba'], backchannel_token_delivery_mode: 'poll', redirect_uris: undefined, response_types: [] })
  const told = await client.initiateBackchannelAuthentication(bank, { scope: 'openid profile', login_hint: env.USERNAME_, binding_message: 'W4SCT' })
  const visitor = new Visitor()
  let page = await visitor.go(await visitor.open(`${issuer.origin}/ciba`), { kind: 'backchannel' })
  assert.ok(page.html.includes('W4SCT'), page.html)
  const button = (page) => page.html.match(/backchannel-(?:approve)-[\w-]+/)[0]
  page = await visitor.press(page, button(page))
  const tokens = await client.pollBackchannelAuthenticationGrant(bank, told)
  assert.ok(tokens.claims().sub)
  const denied = await client.initiateBackchannelAuthentication(bank, { scope: 'openid', login_hint: env.USERNAME_ })
  page = await visitor.open(`${issuer.origin}/ciba`)
  await visitor.press(page, button(page).replace('approve', 'deny'))
  await refused('a denied request', () => client.pollBackchannelAuthenticationGrant(bank, { ...denied, interval: 0 }), 'access_denied')
  await refused('an unknown person', () => client.initiateBackchannelAuthentication(bank, { scope: 'openid', login_hint: 'nobody' }), 'unknown_user_id')
  ok('ciba', tokens.claims().sub)
}
await Promise.all([has('device') && device(), has('ciba') && ciba()])

// --- token exchange
if (env.EXCHANGER_ID) {
  const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
  const web = await client.discovery(issuer, env.WEB_ID, undefined, client.ClientSecretBasic(env.WEB_SECRET), insecure)
  const { parameters, checks } = await question({ scope: 'openid read' })
  const subject = await answer(web, client.buildAuthorizationUrl(web, parameters), checks)
  const exchanger = await client.discovery(issuer, env.EXCHANGER_ID, undefined, client.ClientSecretBasic(env.EXCHANGER_SECRET), insecure)
  const exchange = (more) =>
    client.genericGrantRequest(exchanger, 'urn:ietf:params:oauth:grant-type:token-exchange', { subject_token: subject.access_token, subject_token_type: ACCESS_TOKEN, resource: env.VAULT, scope: 'open', ...more })
  const gw = await client.discovery(issuer, env.GW_ID, undefined, client.ClientSecretBasic(env.GW_SECRET), insecure)
  const as = await exchange({})
  assert.equal(as.issued_token_type, ACCESS_TOKEN)
  const told = await client.tokenIntrospection(gw, as.access_token)
  assert.deepEqual([told.active, told.sub, told.aud, told.scope, told.act], [true, subject.claims().sub, env.VAULT, 'open', undefined])
  const actor = await client.clientCredentialsGrant(exchanger, { resource: env.RESOURCE, scope: 'read' })
  const on = await exchange({ actor_token: actor.access_token, actor_token_type: ACCESS_TOKEN })
  assert.equal((await client.tokenIntrospection(gw, on.access_token)).act.sub, env.EXCHANGER_ID)
  await refused('a token that is none', () => exchange({ subject_token: 'nonsense' }), 'invalid_request', 'invalid_grant')
  await refused('more than the client has', () => exchange({ scope: 'open write' }), 'invalid_scope')
  ok('token exchange')
}

// --- client certificates
if (env.CERTIFICATES) {
  const undici = await load('undici')
  const pem = (name) => readFileSync(`${env.CERTIFICATES}/${name}`)
  const ca = readFileSync(env.NODE_EXTRA_CA_CERTS)
  const showing = (name) => {
    const dispatcher = new undici.Agent({ connect: { ca, ...(name && { cert: pem(`${name}.pem`), key: pem(`${name}.key`) }) } })
    return (url, options) => undici.fetch(url, { ...options, dispatcher })
  }
  const x5t = (name) => createHash('sha256').update(new X509Certificate(pem(`${name}.pem`)).raw).digest('base64url')
  const publicJwk = (name) => ({ ...new X509Certificate(pem(`${name}.pem`)).publicKey.export({ format: 'jwk' }), x5c: [new X509Certificate(pem(`${name}.pem`)).raw.toString('base64')] })
  const kinds = [
    ['tls_client_auth', 'app', { tls_client_auth_subject_dn: 'CN=app,O=Example' }],
    ['self_signed_tls_client_auth', 'own', { jwks: { keys: [publicJwk('own')] } }],
  ]
  for (const [method, name, more] of kinds) {
    const bound = { token_endpoint_auth_method: method, tls_client_certificate_bound_access_tokens: true, grant_types: ['authorization_code', 'refresh_token', 'client_credentials'] }
    const registered = await register({ ...bound, ...more }, client.TlsClientAuth())
    const metadata = { ...registered.clientMetadata(), use_mtls_endpoint_aliases: true }
    const config = new client.Configuration(registered.serverMetadata(), metadata.client_id, metadata, client.TlsClientAuth())
    assert.ok(config.serverMetadata().mtls_endpoint_aliases.token_endpoint.startsWith('https://'))
    config[client.customFetch] = showing(name)
    const granted = await client.clientCredentialsGrant(config, { scope: 'read' })
    const told = await client.tokenIntrospection(config, granted.access_token)
    assert.equal(told.cnf['x5t#S256'], x5t(name))
    const { parameters, checks } = await question({ scope: 'openid offline_access read' })
    const tokens = await answer(config, client.buildAuthorizationUrl(config, parameters), checks)
    assert.equal((await client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub)).sub, tokens.claims().sub)
    const renewed = await client.refreshTokenGrant(config, tokens.refresh_token)
    const call = async (fetch, token) => (await fetch(env.GATEWAY_URL, { headers: { authorization: `Bearer ${token}` } })).status
    for (const token of [granted, tokens, renewed]) {
      assert.equal(await call(showing(name), token.access_token), 200)
      assert.equal(await call(showing('other'), token.access_token), 401, 'another certificate')
      assert.equal(await call(showing(), token.access_token), 401, 'no certificate')
    }
    config[client.customFetch] = showing('other')
    await refused('another certificate', () => client.clientCredentialsGrant(config, { scope: 'read' }), 'invalid_client')
    await refused('userinfo with another certificate', () => client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub), 'invalid_token')
    config[client.customFetch] = showing()
    await refused('no certificate', () => client.clientCredentialsGrant(config, { scope: 'read' }), 'invalid_client')
    config[client.customFetch] = showing(name)
    await client.tokenRevocation(config, granted.access_token)
    assert.equal(await call(showing(name), granted.access_token), 401, 'revoked')
    ok(method)
  }
}
