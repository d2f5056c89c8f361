// openid-client 6 against a running Doorward of the profile oidc-dynamic: responses that carry an ID token (OpenID Connect Core §3.2, §3.3), in the fragment and
// in a form. Says "ok STEP" for each.
//
//   npm install openid-client@6
//   ISSUER=http://127.0.0.1:8080 REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=… node openid_client_front.mjs
//   the server has profile = "oidc-dynamic" and [registration] open = true
import assert from 'node:assert/strict'
import { load, ok, Visitor } from './visitor.mjs'

const env = process.env
const client = await load('openid-client')
const issuer = new URL(env.ISSUER)
const insecure = issuer.protocol === 'http:' ? { execute: [client.allowInsecureRequests] } : {}
const redirect_uri = env.REDIRECT_URI

const register = (metadata) =>
  client.dynamicClientRegistration(issuer, { redirect_uris: [redirect_uri], scope: 'openid profile', ...metadata }, client.ClientSecretBasic(), insecure)

async function goes(response_types, response_mode) {
  const hybrid = response_types.includes('code')
  const config = await register({ response_types: [response_types], grant_types: hybrid ? ['authorization_code', 'implicit'] : ['implicit'] })
  if (hybrid) client.useCodeIdTokenResponseType(config)
  else client.useIdTokenResponseType(config)
  const [pkceCodeVerifier, expectedState, expectedNonce] = [client.randomPKCECodeVerifier(), client.randomState(), client.randomNonce()]
  const parameters = { redirect_uri, scope: 'openid profile', state: expectedState, nonce: expectedNonce, ...(response_mode && { response_mode }) }
  if (hybrid) Object.assign(parameters, { code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier), code_challenge_method: 'S256' })
  const back = await new Visitor().authorize(client.buildAuthorizationUrl(config, parameters), redirect_uri)
  assert.equal(back instanceof Request, response_mode === 'form_post')
  if (back instanceof URL) assert.ok(back.hash.includes('id_token=') && back.search === '', back.href)
  if (hybrid) {
    // The library judges c_hash and nonce of the ID token in front, then compares it with the one from the token endpoint.
    const tokens = await client.authorizationCodeGrant(config, back, { pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true })
    ok(`${response_types} ${response_mode ?? 'fragment'}`, tokens.claims().sub)
  } else {
    const claims = await client.implicitAuthentication(config, back, expectedNonce, { expectedState })
    assert.ok(claims.name === 'Alice A', 'an ID token that comes alone carries the claims (Core §5.4)')
    ok(`${response_types} ${response_mode ?? 'fragment'}`, claims.sub)
  }
}
for (const response_type of ['id_token', 'code id_token']) for (const response_mode of [undefined, 'form_post']) await goes(response_type, response_mode)

// A browser that refuses gets the error where the answer would have been.
const config = await register({ response_types: ['id_token'], grant_types: ['implicit'] })
client.useIdTokenResponseType(config)
const nonce = client.randomNonce()
const back = await new Visitor().authorize(client.buildAuthorizationUrl(config, { redirect_uri, scope: 'openid', nonce, prompt: 'none' }), redirect_uri)
assert.ok(back.hash.includes('error=login_required'), back.href)
await assert.rejects(client.implicitAuthentication(config, back, nonce), (error) => error.error === 'login_required')
ok('refused')
