// oauth4webapi 3 against a running Doorward, as FAPI 2.0 has it: for ES256, PS256 and EdDSA a client registers its key, pushes requests (plain and
// signed), proves a DPoP key, reads signed responses (query.jwt, form_post.jwt, jwt), redeems, refreshes, asks userinfo, calls an API, introspects
// (signed too), revokes, takes client credentials; then everything that must be refused. Says "ok STEP ALG" for each.
//
//   npm install oauth4webapi@3
//   ISSUER=http://127.0.0.1:8080 REDIRECT_URI=https://rp.example.com/cb USERNAME_=alice PASSWORD_=… GATEWAY_URL=http://127.0.0.1:8081/api/ \
//   node oauth4webapi_fapi.mjs          the server has [registration] open = true, scope read and the API's resource among what may be had
import assert from 'node:assert/strict'
import { load, ok, Visitor } from './visitor.mjs'

const env = process.env
const oauth = await load('oauth4webapi')
const insecure = { [oauth.allowInsecureRequests]: env.ISSUER.startsWith('http:') }
const redirect_uri = env.REDIRECT_URI
const fapi2 = env.PROFILE === 'fapi2'
// Another server may know the last by its newer name, Ed25519.
const algs = (env.ALGS ?? 'ES256 PS256 EdDSA').split(' ')

const as = await oauth.processDiscoveryResponse(new URL(env.ISSUER), await oauth.discoveryRequest(new URL(env.ISSUER), insecure))
assert.equal(as.require_pushed_authorization_requests === true, fapi2)
assert.equal(as.authorization_response_iss_parameter_supported, true)
for (const alg of algs) {
  for (const list of ['dpop', 'token_endpoint_auth', 'request_object', 'authorization']) {
    assert.ok(as[`${list}_signing_alg_values_supported`]?.includes(alg), `${list}: ${alg}`)
  }
}
ok('discovery', as.issuer)

/** Asks once more where the server wanted a nonce in the proof (RFC 9449 §8, §9). */
let nonces = 0
async function proved(request, process) {
  try {
    return await process(await request())
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error
    nonces += 1
    return process(await request())
  }
}

/** What a refusal said: its status and code, from the body or the challenge. */
async function refused(what, attempt, status, ...codes) {
  let error
  try {
    error = (await attempt(), undefined)
  } catch (thrown) {
    error = thrown
  }
  assert.ok(error, `${what} was not refused`)
  const said = error.error ?? error.cause?.[0]?.parameters?.error ?? error.message
  assert.ok([].concat(status).includes(error.status ?? error.response?.status) && codes.includes(said), `${what}: ${error.status} ${said} ${error.stack}`)
}

async function register(alg, more) {
  const pair = await oauth.generateKeyPair(alg, { extractable: true })
  const { kty, crv, x, y, n, e } = await crypto.subtle.exportKey('jwk', pair.publicKey)
  const kid = `${alg}-1`
  const told = await oauth.processDynamicClientRegistrationResponse(
    await oauth.dynamicClientRegistrationRequest(
      as,
      {
        client_name: `FAPI client ${alg}`,
        redirect_uris: [redirect_uri],
        grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
        response_types: ['code'],
        scope: 'openid profile offline_access read',
        token_endpoint_auth_method: 'private_key_jwt',
        token_endpoint_auth_signing_alg: alg,
        request_object_signing_alg: alg,
        id_token_signed_response_alg: alg,
        authorization_signed_response_alg: alg,
        introspection_signed_response_alg: alg,
        dpop_bound_access_tokens: true,
        require_pushed_authorization_requests: true,
        jwks: { keys: [{ kty, crv, x, y, n, e, kid, use: 'sig', alg }] },
        ...more,
      },
      insecure,
    ),
  )
  // The library calls EdDSA by its newer name in what it signs (RFC 9864), and knows both in what it reads.
  return { client: told, key: { key: pair.privateKey, kid }, auth: oauth.PrivateKeyJwt({ key: pair.privateKey, kid }) }
}

/** The parameters of a request, and what its response is judged by. */
async function question(scope, more = {}) {
  const [verifier, state, nonce] = [oauth.generateRandomCodeVerifier(), oauth.generateRandomState(), oauth.generateRandomNonce()]
  const parameters = {
    response_type: 'code',
    redirect_uri,
    scope,
    state,
    nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    prompt: 'consent',
    ...more,
  }
  return { parameters, verifier, state, nonce }
}

async function push({ client, auth, key }, { parameters }, options) {
  let sent = parameters
  if (options.signed) sent = { request: await oauth.issueRequestObject(as, client, { ...parameters, response_type: 'code' }, key) }
  return proved(
    () => oauth.pushedAuthorizationRequest(as, client, auth, new URLSearchParams(sent), { ...insecure, DPoP: options.DPoP }),
    (response) => oauth.processPushedAuthorizationResponse(as, client, response),
  )
}

/** Through the pages with a pushed request: the parameters that came back, verified. */
async function visit({ client }, asked, pushed) {
  const to = new URL(as.authorization_endpoint)
  to.searchParams.set('client_id', client.client_id)
  to.searchParams.set('request_uri', pushed.request_uri)
  const back = await new Visitor().authorize(to, redirect_uri)
  const mode = asked.parameters.response_mode ?? 'query'
  assert.equal(back instanceof Request, mode.startsWith('form_post'), mode)
  const got = back instanceof Request ? new URLSearchParams(await back.text()) : back.searchParams
  if (!mode.endsWith('jwt')) return oauth.validateAuthResponse(as, client, got, asked.state)
  assert.deepEqual([...got.keys()], ['response'], 'a signed response and nothing beside it')
  return oauth.validateJwtAuthResponse(as, client, got, asked.state, insecure)
}

const redeem = ({ client, auth }, asked, got, DPoP) =>
  proved(
    () => oauth.authorizationCodeGrantRequest(as, client, auth, got, redirect_uri, asked.verifier, { ...insecure, DPoP }),
    async (response) => {
      const tokens = await oauth.processAuthorizationCodeResponse(as, client, response, { expectedNonce: asked.nonce, requireIdToken: true })
      await oauth.validateApplicationLevelSignature(as, response, insecure)
      return tokens
    },
  )

const refresh = ({ client, auth }, token, DPoP) =>
  proved(
    () => oauth.refreshTokenGrantRequest(as, client, auth, token, { ...insecure, DPoP }),
    (response) => oauth.processRefreshTokenResponse(as, client, response),
  )

const machine = ({ client, auth }, DPoP) =>
  proved(
    () => oauth.clientCredentialsGrantRequest(as, client, auth, { scope: 'read' }, { ...insecure, DPoP }),
    (response) => oauth.processClientCredentialsResponse(as, client, response),
  )

const call = (token, DPoP) =>
  proved(
    () => oauth.protectedResourceRequest(token, 'GET', new URL(env.GATEWAY_URL), undefined, undefined, { ...insecure, DPoP }),
    async (response) => response.status,
  )

const userinfo = ({ client }, token, subject, DPoP) =>
  proved(
    () => oauth.userInfoRequest(as, client, token, { ...insecure, DPoP }),
    (response) => oauth.processUserInfoResponse(as, client, subject, response),
  )

async function introspect({ client, auth }, token, signed) {
  const asking = signed ? client : { ...client, introspection_signed_response_alg: undefined }
  const response = await oauth.introspectionRequest(as, asking, auth, token, { ...insecure, requestJwtResponse: signed })
  if (signed) assert.match(response.headers.get('content-type'), /^application\/token-introspection\+jwt/)
  const told = await oauth.processIntrospectionResponse(as, asking, response)
  if (signed) await oauth.validateApplicationLevelSignature(as, response, insecure)
  return told
}

// What an API tells before it is asked with a token (RFC 9728), found by its challenge.
if (env.GATEWAY_URL) {
  const challenge = (await fetch(env.GATEWAY_URL)).headers.get('www-authenticate')
  const [, at] = challenge.match(/resource_metadata="([^"]+)"/)
  const resource = new URL(new URL(at).pathname.replace('/.well-known/oauth-protected-resource', ''), at)
  const told = await oauth.processResourceDiscoveryResponse(resource, await oauth.resourceDiscoveryRequest(resource, insecure))
  assert.ok(told.authorization_servers.includes(as.issuer) && told.scopes_supported.includes('read'), JSON.stringify(told))
  ok('resource metadata', resource.href)
}

const modes = { ES256: ['jwt', 'form_post.jwt'], PS256: ['query.jwt', 'form_post'], EdDSA: ['form_post.jwt', undefined] }
for (const alg of algs) {
  const [signedMode, otherMode] = modes[alg] ?? modes.EdDSA
  const rp = await register(alg, alg === 'PS256' ? { require_signed_request_object: env.SIGNED_ONLY === '1' } : {})
  const keyPair = await oauth.generateKeyPair(alg)
  const DPoP = oauth.DPoP(rp.client, keyPair)
  ok('registration', alg)

  // A signed request, a signed response.
  const asked = await question('openid profile offline_access read', { response_mode: signedMode, dpop_jkt: await DPoP.calculateThumbprint() })
  const pushed = await push(rp, asked, { signed: true })
  assert.ok(pushed.expires_in > 0 && pushed.expires_in <= 600)
  ok('par', `${alg} signed request`)
  const got = await visit(rp, asked, pushed)
  ok('jarm', `${alg} ${signedMode}`)
  const tokens = await redeem(rp, asked, got, DPoP)
  assert.equal(tokens.token_type, 'dpop')
  const claims = oauth.getValidatedIdTokenClaims(tokens)
  assert.equal(JSON.parse(Buffer.from(tokens.id_token.split('.')[0], 'base64url')).alg, alg)
  ok('code', `${alg} ${claims.sub}`)

  const info = await userinfo(rp, tokens.access_token, claims.sub, DPoP)
  assert.equal(info.name, 'Alice A')
  ok('userinfo', alg)

  const renewed = await refresh(rp, tokens.refresh_token, DPoP)
  assert.equal(renewed.token_type, 'dpop')
  assert.notEqual(renewed.access_token, tokens.access_token)
  assert.ok([undefined, tokens.refresh_token].includes(renewed.refresh_token), 'a bound token of a confidential client is not rotated')
  ok('refresh', alg)

  // A plain request, pushed with the key's proof this time.
  const again = await question('openid', otherMode && { response_mode: otherMode })
  const second = await redeem(rp, again, await visit(rp, again, await push(rp, again, { DPoP })), DPoP)
  ok('par', `${alg} plain request ${otherMode ?? 'query'}`)

  const alone = await machine(rp, DPoP)
  assert.equal(alone.token_type, 'dpop')
  ok('client_credentials', alg)

  for (const signed of [false, true]) {
    const told = await introspect(rp, renewed.access_token, signed)
    assert.equal(told.active, true)
    assert.equal(told.cnf.jkt, await DPoP.calculateThumbprint())
    ok('introspection', `${alg} ${signed ? 'signed' : 'plain'}`)
  }
  // A confidential client may change its key: what it gets is bound to the new one (RFC 9449 §5).
  const thief = oauth.DPoP(rp.client, await oauth.generateKeyPair(alg))
  const moved = await refresh(rp, tokens.refresh_token, thief)
  assert.equal((await introspect(rp, moved.access_token, false)).cnf.jkt, await thief.calculateThumbprint())
  if (env.GATEWAY_URL) {
    for (const token of [tokens, renewed, alone]) assert.equal(await call(token.access_token, DPoP), 200)
    // An API of its own believes the same request (RFC 9068 §4, RFC 9449 §7.1).
    let sent
    const catching = (url, options) => fetch((sent = new Request(url, options)))
    await oauth.protectedResourceRequest(alone.access_token, 'GET', new URL(env.GATEWAY_URL), undefined, undefined, { ...insecure, DPoP, [oauth.customFetch]: catching })
    const access = await oauth.validateJwtAccessToken(as, sent, env.RESOURCE, { ...insecure, requireDPoP: true })
    assert.deepEqual([access.client_id, access.scope], [rp.client.client_id, 'read'])
    ok('gateway', alg)
  }

  // What must be refused.
  const stranger = await oauth.generateKeyPair(alg)
  const forged = { ...rp, key: { key: stranger.privateKey, kid: rp.key.kid }, auth: oauth.PrivateKeyJwt({ key: stranger.privateKey, kid: rp.key.kid }) }
  await refused('an assertion of another key', () => machine(forged, DPoP), [400, 401], 'invalid_client')
  await refused('a pushed request of another key', async () => push(forged, await question('openid'), {}), [400, 401], 'invalid_client')
  await refused('a request object of another key', async () => push({ ...rp, key: forged.key }, await question('openid'), { signed: true }), 400, 'invalid_request_object')
  await refused('no proof for client credentials', () => machine(rp), 400, 'invalid_dpop_proof', 'invalid_request', 'invalid_grant')
  await refused('no proof for a refresh', () => refresh(rp, tokens.refresh_token), 400, 'invalid_dpop_proof', 'invalid_request', 'invalid_grant')
  await refused('userinfo with another key', () => userinfo(rp, renewed.access_token, claims.sub, thief), 401, 'invalid_token', 'invalid_dpop_proof')
  await refused('userinfo without a proof', () => userinfo(rp, renewed.access_token, claims.sub), 401, 'invalid_token', 'invalid_dpop_proof')
  if (env.GATEWAY_URL) {
    await refused('a call with another key', () => call(renewed.access_token, thief), 401, 'invalid_token', 'invalid_dpop_proof')
    await refused('a call without a proof', () => call(renewed.access_token), 401, 'invalid_token', 'invalid_dpop_proof')
  }
  const bound = await question('openid', { dpop_jkt: await DPoP.calculateThumbprint() })
  const code = await visit(rp, bound, await push(rp, bound, {}))
  await refused('a code with another key', () => redeem(rp, bound, code, thief), 400, 'invalid_dpop_proof', 'invalid_grant')
  if (fapi2) {
    const bare = new URL(as.authorization_endpoint)
    bare.search = new URLSearchParams({ client_id: rp.client.client_id, ...(await question('openid')).parameters })
    assert.equal((await new Visitor().authorize(bare, redirect_uri)).searchParams.get('error'), 'invalid_request', 'a request that was not pushed')
  }
  const replayed = await question('openid')
  const once = await push(rp, replayed, {})
  await visit(rp, replayed, once)
  const page = await new Visitor().open(`${as.authorization_endpoint}?${new URLSearchParams({ client_id: rp.client.client_id, request_uri: once.request_uri })}`, redirect_uri)
  assert.ok(page instanceof URL ? page.searchParams.has('error') : page.status === 400, 'a pushed request counts once')
  ok('refused', alg)

  for (const token of [renewed.access_token, alone.access_token, second.access_token, tokens.refresh_token]) {
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, rp.client, rp.auth, token, insecure))
  }
  assert.equal((await introspect(rp, renewed.access_token, false)).active, false)
  await refused('a revoked refresh token', () => refresh(rp, tokens.refresh_token, DPoP), 400, 'invalid_grant')
  if (env.GATEWAY_URL) {
    await refused('a call with a revoked token', () => call(alone.access_token, DPoP), 401, 'invalid_token')
  }
  ok('revocation', alg)
}
assert.equal(nonces > 0, env.DPOP_NONCE === '1', `${nonces} nonces were asked for`)
ok('nonce', nonces)
