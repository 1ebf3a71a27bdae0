use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};

#[derive(serde::Deserialize)]
pub struct Claims {
    pub sub: String,
    pub client_id: String,
    pub jti: String,
    pub scope: String,
}

pub fn authenticate(authorization: &str, scope: &str, keys: &JwkSet) -> Option<Claims> {
    let (scheme, token) = authorization.split_once(' ')?;
    let header = decode_header(token).ok()?;
    let is_access_token = header.typ.as_deref() == Some("at+jwt");
    let key = DecodingKey::from_jwk(keys.find(header.kid.as_deref()?)?).ok()?;
    let mut checks = Validation::new(Algorithm::ES256);
    checks.set_issuer(&["https://relay.example"]);
    checks.set_audience(&["https://maps.example"]);
    checks.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    let claims = decode::<Claims>(token, &key, &checks).ok()?.claims;
    let may = claims.scope.split(' ').any(|granted| granted == scope);
    (scheme.eq_ignore_ascii_case("bearer") && is_access_token && may).then_some(claims)
}
