//! A client's key, and proofs of its possession (DPoP, RFC 9449) made with it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_relay::{token::jws::PrivateKey, util::clock::UnixTime};

use crate::support::text;

/// A client's key.
pub struct Key {
    private: PrivateKey,
    jwk: Value,
}

impl Key {
    pub fn generate() -> Self {
        let private = PrivateKey::generate(Algorithm::ES256).unwrap();
        let jwk = serde_json::to_value(private.public().unwrap()).unwrap();
        Self { private, jwk }
    }

    pub fn thumbprint(&self) -> String {
        let (x, y) = (text(&self.jwk, "x"), text(&self.jwk, "y"));
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    /// A proof; members of `more` replace those of the honest one.
    pub fn proof(
        &self,
        method: &str,
        url: &str,
        nonce: &str,
        token: Option<&str>,
        more: &Value,
    ) -> String {
        self.proof_with_header(method, url, nonce, token, &json!({}), more)
    }

    /// The public key as a JWK.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// The same; members of `header` replace those of the honest header.
    pub fn proof_with_header(
        &self,
        method: &str,
        url: &str,
        nonce: &str,
        token: Option<&str>,
        header_members: &Value,
        more: &Value,
    ) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk});
        header.as_object_mut().unwrap().extend(header_members.as_object().unwrap().clone());
        let jti: [u8; 16] = std::array::from_fn(|_| rand_byte());
        let mut claims = json!({
            "jti": URL_SAFE_NO_PAD.encode(jti), "htm": method, "htu": url, "nonce": nonce,
            "iat": UnixTime::now().as_secs(),
        });
        if let Some(token) = token {
            claims["ath"] = json!(URL_SAFE_NO_PAD.encode(Sha256::digest(token)));
        }
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.private.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn rand_byte() -> u8 {
    let mut byte = [0];
    getrandom::fill(&mut byte).unwrap();
    byte[0]
}
