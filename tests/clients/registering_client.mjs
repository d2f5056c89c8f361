// openid-client 6 registers itself with a running Doorward, logs somebody in, reads, changes and removes its registration.
//
//   npm install openid-client@6
//   ISSUER=http://127.0.0.1:8080 REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=… node registering_client.mjs
import assert from 'node:assert/strict'
import { load, ok, Visitor } from './visitor.mjs'

const env = process.env
const client = await load('openid-client')
const insecure = { execute: [client.allowInsecureRequests] }
const issuer = new URL(env.ISSUER)

const metadata = {
  client_name: 'Registered by itself',
  redirect_uris: [env.REDIRECT_URI],
  token_endpoint_auth_method: 'client_secret_post',
  subject_type: 'pairwise',
  contacts: ['ops@rp.example.com'],
}
const web = await client.dynamicClientRegistration(issuer, metadata, undefined, insecure)
const told = web.clientMetadata()
ok('registered', told.client_id)

const verifier = client.randomPKCECodeVerifier()
const nonce = client.randomNonce()
const parameters = { redirect_uri: env.REDIRECT_URI, scope: 'openid email', nonce, code_challenge_method: 'S256' }
const to = client.buildAuthorizationUrl(web, { ...parameters, code_challenge: await client.calculatePKCECodeChallenge(verifier) })
const back = await new Visitor().authorize(to, env.REDIRECT_URI)
const tokens = await client.authorizationCodeGrant(web, back, { pkceCodeVerifier: verifier, expectedNonce: nonce, idTokenExpected: true })
const info = await client.fetchUserInfo(web, tokens.access_token, tokens.claims().sub)
assert.equal(info.email, 'alice@example.com')
ok('code', info.sub)

const own = async (method, body) => {
  const headers = { authorization: `Bearer ${told.registration_access_token}`, ...(body && { 'content-type': 'application/json' }) }
  return fetch(told.registration_client_uri, { method, headers, body: body && JSON.stringify(body) })
}
const read = await (await own('GET')).json()
assert.equal(read.client_name, 'Registered by itself')
assert.deepEqual(read.contacts, ['ops@rp.example.com'])
ok('read')

const changed = await own('PUT', { ...metadata, client_id: told.client_id, client_name: 'Another name' })
assert.equal(changed.status, 200)
assert.equal((await changed.json()).client_name, 'Another name')
ok('changed')

assert.equal((await own('DELETE')).status, 204)
assert.equal((await own('GET')).status, 401)
await assert.rejects(client.clientCredentialsGrant(web, {}), (e) => e.error === 'invalid_client' || e.code === 'OAUTH_WWW_AUTHENTICATE_CHALLENGE')
ok('removed')
