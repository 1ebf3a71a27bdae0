//! Proofs of possession of the key that tokens are bound to (DPoP, RFC 9449).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use crate::{
    ClientError,
    api::{EncryptionKey, Secret},
    key::KeyPair,
};

/// `token_type` of a bound token, and the scheme of `Authorization` that uses it (RFC 9449 §5, §7.1).
pub(crate) const SCHEME: &str = "DPoP";

/// The field of a proof.
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The field of the nonce for the next proof.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Maximum length of a nonce, in bytes.
const MAX_NONCE: usize = 2048;

/// The key of a sign-in that its tokens are bound to. Clones share the nonces that servers named.
///
/// ```no_run
/// # async fn example(
/// #     pending: token_relay_client::PendingSignIn,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let token = pending.token().await?;
/// let key = pending.proof_key().ok_or("the sign-in asked for `dpop`")?;
/// let url = "https://api.example/rooms".parse()?;
/// let mut proof = key.prove(http::Method::GET, &url, &token.access_token);
/// let answer = loop {
///     let request = reqwest::Client::new().get(url.clone()).headers(proof.headers()?);
///     let answer = request.send().await?;
///     // True once at most, where the answer names the nonce that the proof must have.
///     if !proof.renew(answer.status(), answer.headers()) {
///         break answer;
///     }
/// };
/// # Ok(()) }
/// ```
///
/// It serialises as a private JWK (RFC 7518 §6.2.2), so that a program can store it beside its tokens.
#[derive(Clone)]
pub struct ProofKey(Arc<Inner>);

struct Inner {
    pair: KeyPair,
    signing: EcdsaKeyPair,
    public: EncryptionKey,
    /// The newest of each origin.
    nonces: Mutex<HashMap<String, String>>,
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ProofKey").field(&self.thumbprint()).finish()
    }
}

impl Serialize for ProofKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.pair.jwk().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ProofKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Jwk {
            #[serde(flatten)]
            public: EncryptionKey,
            d: KeyPair,
        }
        let Jwk { public, d } = Jwk::deserialize(deserializer)?;
        let own = d.public();
        let fits = (&public.kty, &public.crv, &public.x, &public.y)
            == (&own.kty, &own.crv, &own.x, &own.y);
        let key = fits.then(|| Self::of(d)).transpose().ok().flatten();
        key.ok_or_else(|| serde::de::Error::custom("malformed key"))
    }
}

impl ProofKey {
    /// A new one.
    ///
    /// # Errors
    /// [`ClientError::NoRandomness`].
    pub fn generate() -> Result<Self, ClientError> {
        Self::of(KeyPair::generate()?)
    }

    fn of(pair: KeyPair) -> Result<Self, ClientError> {
        let signing = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &*pair.private_bytes(),
            &pair.point(),
            &SystemRandom::new(),
        );
        // The point is that of the private key, so that only randomness can be missing.
        let signing = signing.map_err(|_| ClientError::NoRandomness)?;
        let public = pair.public();
        Ok(Self(Arc::new(Inner { pair, signing, public, nonces: Mutex::default() })))
    }

    /// The SHA-256 thumbprint of its public key in base64url (RFC 7638): `dpop_jkt` of a creation, `cnf.jkt`
    /// of a token.
    pub fn thumbprint(&self) -> String {
        let EncryptionKey { kty, crv, x, y, .. } = &self.0.public;
        let members = format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
    }

    /// The proof of a request with `access_token` to `url`.
    pub fn prove(&self, method: Method, url: &Url, access_token: &Secret) -> Proof {
        let token = Some(access_token.clone());
        Proof { token, ..self.prove_without_token(method, url) }
    }

    /// The proof of a request to a token endpoint (RFC 9449 §5), which has no access token.
    pub fn prove_without_token(&self, method: Method, url: &Url) -> Proof {
        Proof {
            key: self.clone(),
            method,
            url: url.clone(),
            token: None,
            nonce: None,
            is_renewed: false,
        }
    }

    fn nonce(&self, origin: &str) -> Option<String> {
        self.0.nonces.lock().unwrap_or_else(PoisonError::into_inner).get(origin).cloned()
    }

    fn learn(&self, origin: String, nonce: String) {
        self.0.nonces.lock().unwrap_or_else(PoisonError::into_inner).insert(origin, nonce);
    }

    fn sign(&self, claims: &serde_json::Value) -> Result<String, ClientError> {
        let EncryptionKey { kty, crv, x, y, .. } = &self.0.public;
        let jwk = json!({"kty": kty, "crv": crv, "x": x, "y": y});
        let head = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&head), encode(claims));
        let signature = self.0.signing.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.map_err(|_| ClientError::NoRandomness)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The proof of one request, which may have to be sent twice: a server that wants a nonce in proofs names
/// it in its first answer (RFC 9449 §8, §9).
#[derive(Debug)]
pub struct Proof {
    key: ProofKey,
    method: Method,
    url: Url,
    token: Option<Secret>,
    /// In the headers that were made last.
    nonce: Option<String>,
    is_renewed: bool,
}

impl Proof {
    /// `Authorization` and `DPoP` for the request. A server accepts them once: each attempt takes new ones.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] where the token cannot stand in a header, [`ClientError::NoRandomness`].
    pub fn headers(&mut self) -> Result<HeaderMap, ClientError> {
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| ClientError::NoRandomness)?;
        let origin = self.url.origin().ascii_serialization();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = json!({
            "jti": URL_SAFE_NO_PAD.encode(id),
            "htm": self.method.as_str(),
            "htu": format!("{origin}{}", self.url.path()),
            "iat": now.as_secs(),
        });
        self.nonce = self.key.nonce(&origin);
        if let Some(nonce) = &self.nonce {
            claims["nonce"] = json!(nonce);
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let token = token.expose();
            claims["ath"] = json!(URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes())));
            let mut value = HeaderValue::from_str(&format!("{SCHEME} {token}"))
                .map_err(|_| ClientError::Malformed("access_token"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let proof = HeaderValue::from_str(&self.key.sign(&claims)?);
        headers.insert(DPOP, proof.map_err(|_| ClientError::Malformed("the proof"))?);
        Ok(headers)
    }

    /// Takes the nonce of an answer for the next proofs. True where the request is to be sent again with new
    /// [`headers`](Self::headers): once at most, however often a server names another nonce.
    pub fn renew(&mut self, status: StatusCode, headers: &HeaderMap) -> bool {
        let nonce = headers.get(DPOP_NONCE).and_then(|value| value.to_str().ok());
        let Some(nonce) = nonce.filter(|text| (1..=MAX_NONCE).contains(&text.len())) else {
            return false;
        };
        self.key.learn(self.url.origin().ascii_serialization(), nonce.to_owned());
        let is_refused = matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED);
        let again = is_refused && !self.is_renewed && self.nonce.as_deref() != Some(nonce);
        self.is_renewed |= again;
        again
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn part(proof: &str, at: usize) -> Value {
        let part = proof.split('.').nth(at).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    fn answer(nonce: &str) -> HeaderMap {
        [(DPOP_NONCE, HeaderValue::from_str(nonce).unwrap())].into_iter().collect()
    }

    /// The public key of RFC 9449 §4.1, whose thumbprint §6.1 names.
    #[test]
    fn the_thumbprint_is_that_of_rfc_9449() {
        let public = EncryptionKey {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x: "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs".to_owned(),
            y: "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA".to_owned(),
            ..EncryptionKey::default()
        };
        let own = ProofKey::generate().unwrap();
        let inner = Arc::into_inner(own.0).unwrap();
        let key = ProofKey(Arc::new(Inner { public, ..inner }));
        assert_eq!(key.thumbprint(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    }

    #[test]
    fn a_proof_names_its_request_and_the_hash_of_its_token() {
        let key = ProofKey::generate().unwrap();
        let url = "https://API.example:443/a/../files/1?a=b#c".parse().unwrap();
        // RFC 9449 §7.1.
        let token = Secret::from("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU");
        let mut proof = key.prove(Method::PUT, &url, &token);
        let headers = proof.headers().unwrap();
        assert_eq!(headers["authorization"], format!("DPoP {}", token.expose()));
        let text = headers["dpop"].to_str().unwrap();
        let claims = part(text, 1);
        assert_eq!(claims["htm"], "PUT");
        assert_eq!(claims["htu"], "https://api.example/files/1");
        assert_eq!(claims["ath"], "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
        assert_eq!(claims.get("nonce"), None);
        assert_eq!(part(text, 0)["jwk"].get("d"), None);
        let again = proof.headers().unwrap();
        assert_ne!(part(again["dpop"].to_str().unwrap(), 1)["jti"], claims["jti"]);
        let unfit = Secret::from("a\nb");
        assert!(key.prove(Method::GET, &url, &unfit).headers().is_err());
    }

    #[test]
    fn a_nonce_is_remembered_by_origin_and_renewed_once() {
        let key = ProofKey::generate().unwrap();
        let (here, there): (Url, Url) =
            ("https://a.example/1".parse().unwrap(), "https://b.example/1".parse().unwrap());
        let token = Secret::from("token");
        let nonce = |proof: &mut Proof| {
            part(proof.headers().unwrap()["dpop"].to_str().unwrap(), 1).get("nonce").cloned()
        };
        let mut first = key.prove(Method::GET, &here, &token);
        assert_eq!(nonce(&mut first), None);
        assert!(!first.renew(StatusCode::UNAUTHORIZED, &HeaderMap::new()), "for another reason");
        assert!(first.renew(StatusCode::UNAUTHORIZED, &answer("n1")));
        assert_eq!(nonce(&mut first), Some("n1".into()));
        assert!(!first.renew(StatusCode::UNAUTHORIZED, &answer("n2")), "once");
        // Both are remembered, by every clone; at another origin there is none.
        let mut second = key.clone().prove(Method::GET, &here, &token);
        assert_eq!(nonce(&mut second), Some("n2".into()));
        assert!(!second.renew(StatusCode::OK, &answer("n3")), "it was accepted");
        assert!(!second.renew(StatusCode::UNAUTHORIZED, &answer("n2")), "the one that it had");
        assert_eq!(nonce(&mut key.prove(Method::GET, &there, &token)), None);
        assert!(!second.renew(StatusCode::BAD_REQUEST, &answer(&"n".repeat(MAX_NONCE + 1))));
    }

    #[test]
    fn a_key_is_stored_as_a_jwk_and_not_shown() {
        let key = ProofKey::generate().unwrap();
        let jwk = serde_json::to_value(&key).unwrap();
        assert_eq!((&jwk["kty"], &jwk["crv"]), (&json!("EC"), &json!("P-256")));
        let read: ProofKey = serde_json::from_value(jwk.clone()).unwrap();
        assert_eq!(read.thumbprint(), key.thumbprint());
        assert!(!format!("{key:?}").contains(jwk["d"].as_str().unwrap()));
        let other = serde_json::to_value(ProofKey::generate().unwrap()).unwrap();
        for (member, value) in
            [("d", json!("AAAA")), ("x", other["x"].clone()), ("kty", json!("RSA"))]
        {
            let mut malformed = jwk.clone();
            malformed[member] = value;
            assert!(serde_json::from_value::<ProofKey>(malformed).is_err(), "{member}");
        }
    }
}
