// openid-client 6 against a running Doorward: code + PKCE, userinfo, refresh, client credentials,
// introspection, a call through the gateway, revocation, refusal. Says "ok STEP" for each.
//
//   npm install openid-client@6
//   ISSUER=http://127.0.0.1:8080 WEB_ID=web WEB_SECRET=… REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=… \
//   MACHINE_ID=… MACHINE_SECRET=… GW_ID=… GW_SECRET=… RESOURCE=https://api.example.com GATEWAY_URL=http://127.0.0.1:8081/api/ \
//   node openid_client.mjs
import assert from 'node:assert/strict'
import { load, ok, Visitor } from './visitor.mjs'

const env = process.env
const client = await load('openid-client')
const insecure = { execute: [client.allowInsecureRequests] }
const issuer = new URL(env.ISSUER)

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
const back = await new Visitor().authorize(to, env.REDIRECT_URI)
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
