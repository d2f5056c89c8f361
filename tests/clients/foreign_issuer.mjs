// oidc-provider (certified) as another authorization server beside Doorward: JWT and opaque access tokens by resource indicators
// (RFC 8707), introspection as JSON and signed (RFC 7662, RFC 9701), revocation (RFC 7009). Says "ready" and serves until it is killed.
//
//   npm install oidc-provider@8
//   PORT=9400 CLIENTS='[…]' RESOURCE=https://api.example.com node foreign_issuer.mjs
import { generateKeyPairSync } from 'node:crypto'
import { load } from './visitor.mjs'

const { default: Provider } = await load('oidc-provider')
const env = process.env
const issuer = `http://127.0.0.1:${env.PORT}`
const key = (type, options, alg) => ({ ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), use: 'sig', alg })

const provider = new Provider(issuer, {
  clients: JSON.parse(env.CLIENTS),
  jwks: { keys: [key('ec', { namedCurve: 'P-256' }, 'ES256'), key('rsa', { modulusLength: 2048 }, 'RS256')] },
  scopes: ['read'],
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
  enabledJWA: { introspectionSigningAlgValues: ['ES256', 'RS256'] },
  ttl: { ClientCredentials: 300 },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    jwtIntrospection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource, client) => ({
        scope: 'read',
        audience: resource,
        accessTokenFormat: client.clientId === 'opaque' ? 'opaque' : 'jwt',
        jwt: { sign: { alg: client.clientId === 'rsa' ? 'RS256' : 'ES256' } },
      }),
    },
  },
})
provider.on('introspection.error', (_, error) => console.error('introspection:', error.error_detail ?? error.message, error.error_description))
provider.listen(Number(env.PORT), '127.0.0.1', () => console.log('ready'))
