// Configurations of `oidc-provider`, each as some provider in the field has it: what the client is
// registered with, and what the provider does otherwise than by default.

const scopes = { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] };

// What ProConnect's documentation for service providers lists; anything else is Y000400 there.
const proconnectParameters = [
  'response_type', 'client_id', 'redirect_uri', 'scope', 'claims', 'state', 'nonce', 'prompt',
  'acr_values', 'login_hint', 'siret_hint', 'idp_hint',
];

export const configurations = {
  basic: { client: { token_endpoint_auth_method: 'client_secret_basic' } },
  post: {
    client: { token_endpoint_auth_method: 'client_secret_post' },
    provider: { clientAuthMethods: ['client_secret_post'] },
  },
  public: { client: { token_endpoint_auth_method: 'none', client_secret: undefined } },
  private_key_jwt: {
    client: {
      token_endpoint_auth_method: 'private_key_jwt', client_secret: undefined,
    },
    ownKeys: true,
    provider: { clientAuthMethods: ['private_key_jwt'] },
  },
  par: {
    client: { token_endpoint_auth_method: 'client_secret_basic' },
    provider: {
      features: {
        pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: true },
      },
    },
  },
  par_private_key_jwt: {
    client: { token_endpoint_auth_method: 'private_key_jwt', client_secret: undefined },
    ownKeys: true,
    provider: {
      features: {
        pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: true },
      },
    },
  },
  form_post: { client: { token_endpoint_auth_method: 'client_secret_basic' } },
  pairwise: {
    client: { token_endpoint_auth_method: 'client_secret_basic', subject_type: 'pairwise' },
    provider: {
      subjectTypes: ['pairwise'],
      pairwiseIdentifier: (_context, accountId) => `pairwise-of-${accountId}`,
    },
  },
  es256: { client: { id_token_signed_response_alg: 'ES256' }, key: ['ec', { namedCurve: 'P-256' }, 'ES256'] },
  es384: { client: { id_token_signed_response_alg: 'ES384' }, key: ['ec', { namedCurve: 'P-384' }, 'ES384'] },
  eddsa: { client: { id_token_signed_response_alg: 'EdDSA' }, key: ['ed25519', {}, 'EdDSA'] },
  ps256: { client: { id_token_signed_response_alg: 'PS256' }, key: ['rsa', { modulusLength: 2048 }, 'PS256'] },
  es512: { client: { id_token_signed_response_alg: 'ES512' }, key: ['ec', { namedCurve: 'P-521' }, 'ES512'] },
  hs256: { client: { id_token_signed_response_alg: 'HS256' } },
  signed_userinfo: {
    client: { userinfo_signed_response_alg: 'RS256' },
    provider: { features: { jwtUserinfo: { enabled: true } } },
  },
  short_code: {
    client: { token_endpoint_auth_method: 'client_secret_basic' },
    provider: { ttl: { AuthorizationCode: 1, AccessToken: 60 } },
  },
  proconnect: proconnect('RS256'),
  proconnect_es256: { ...proconnect('ES256'), key: ['ec', { namedCurve: 'P-256' }, 'ES256'] },
  proconnect_hs256: proconnect('HS256'),
};

function proconnect(algorithm) {
  return {
    client: {
      token_endpoint_auth_method: 'client_secret_post',
      id_token_signed_response_alg: algorithm,
      userinfo_signed_response_alg: algorithm,
    },
    only: proconnectParameters,
    provider: {
      pkce: { required: () => false },
      clientAuthMethods: ['client_secret_post'],
      scopes: ['openid', 'given_name', 'usual_name', 'email', 'uid', 'siret'],
      claims: {
        openid: ['sub'], given_name: ['given_name'], usual_name: ['usual_name'], email: ['email'],
        uid: ['uid'], siret: ['siret'],
      },
      extraParams: ['siret_hint', 'idp_hint'],
      acrValues: ['eidas1'],
      ttl: { AuthorizationCode: 30, AccessToken: 60 },
      features: { jwtUserinfo: { enabled: true } },
    },
  };
}

export const defaults = { claims: scopes, scopes: ['openid', 'profile', 'email'] };
