//! The relay's own keys as a client: they sign its assertions (`private_key_jwt`, RFC 7523), and
//! their public halves are published for the provider.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, Header,
    jwk::{CommonParameters, Jwk, PublicKeyUse},
};
use serde_json::{Value, json};

use crate::{
    token::jws::{PrivateKey, thumbprint},
    util::{clock::UnixTime, random::random_bytes},
};

/// From `iat` to `exp` of an assertion.
const ASSERTION_TTL: Duration = Duration::from_secs(60);

/// A text is no private key that can sign assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PEM private keys (PKCS#8) of RSA, P-256, P-384 or Ed25519, one after the other")]
pub struct ClientKeyError;

struct ClientKey {
    /// The key with each algorithm that it can sign with, the usual one first.
    signing: Vec<PrivateKey>,
    id: String,
    public: Value,
}

/// The keys: the first signs, all are published, so that a provider that keeps key sets for a while
/// knows the next key before it is used.
#[derive(Clone, Default)]
pub struct ClientKeys(Arc<Vec<ClientKey>>);

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ClientKeys({} redacted)", self.0.len())
    }
}

impl ClientKeys {
    /// Reads keys, each in PEM.
    ///
    /// # Errors
    /// When one is no private key of a supported kind.
    pub fn from_pem<'p>(keys: impl IntoIterator<Item = &'p str>) -> Result<Self, ClientKeyError> {
        let keys = keys.into_iter().map(ClientKey::from_pem).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(Arc::new(keys)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public halves as a JWK set (RFC 7517 §5).
    pub fn public_set(&self) -> Value {
        json!({"keys": self.0.iter().map(|key| &key.public).collect::<Vec<_>>()})
    }

    /// Whether the key that signs does so with an algorithm that `offered` lists.
    pub(crate) fn sign_with_one_of(&self, offered: Option<&[String]>) -> bool {
        self.0.first().is_some_and(|key| key.signing_for(offered).is_some())
    }

    /// An assertion (RFC 7523 §3) for `audience`, signed with an algorithm that `offered` lists, if
    /// it lists any that the key can.
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        offered: Option<&[String]>,
    ) -> Option<String> {
        let key = self.0.first()?;
        let signing = key.signing_for(offered).or(key.signing.first())?;
        let now = UnixTime::now().as_secs();
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": URL_SAFE_NO_PAD.encode(random_bytes::<16>()),
            "iat": now,
            "exp": now + ASSERTION_TTL.as_secs(),
        });
        let mut header = Header::new(signing.algorithm());
        header.kid = Some(key.id.clone());
        signing.sign_compact(&header, &claims).ok()
    }
}

impl ClientKey {
    /// The key with the first of its algorithms that `offered` lists; any, where nothing is listed.
    fn signing_for(&self, offered: Option<&[String]>) -> Option<&PrivateKey> {
        self.signing.iter().find(|signing| {
            let name = format!("{:?}", signing.algorithm());
            offered.is_none_or(|offered| offered.contains(&name))
        })
    }

    fn from_pem(pem: &str) -> Result<Self, ClientKeyError> {
        const KINDS: [&[Algorithm]; 4] = [
            &[Algorithm::RS256, Algorithm::PS256, Algorithm::RS512, Algorithm::PS512],
            &[Algorithm::ES256],
            &[Algorithm::ES384],
            &[Algorithm::EdDSA],
        ];
        let read = |algorithms: &[Algorithm]| {
            let signing = algorithms
                .iter()
                .map(|algorithm| PrivateKey::from_pem(*algorithm, pem.as_bytes()).ok())
                .collect::<Option<Vec<_>>>()?;
            // One key may sign with several algorithms of its kind, so none is named.
            let common = CommonParameters {
                public_key_use: Some(PublicKeyUse::Signature),
                ..CommonParameters::default()
            };
            let mut public = Jwk { common, algorithm: signing.first()?.public()? };
            let id = thumbprint(&public).ok()?;
            public.common.key_id = Some(id.clone());
            Some(Self { signing, id, public: serde_json::to_value(public).ok()? })
        };
        KINDS.into_iter().find_map(read).ok_or(ClientKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(arguments: &[&str]) -> String {
        let made = std::process::Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm"])
            .args(arguments)
            .output()
            .expect("install openssl, which makes the keys");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap()
    }

    #[test]
    fn every_kind_of_key_signs_assertions_that_its_public_half_verifies() {
        for (arguments, algorithm) in [
            (&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..], "RS256"),
            (&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "ES256"),
            (&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "ES384"),
            (&["ED25519"], "EdDSA"),
        ] {
            let pem = key(arguments);
            let keys = ClientKeys::from_pem([pem.as_str()]).unwrap();
            let assertion = keys.assertion("relay", "https://login.example", None).unwrap();
            let set = keys.public_set();
            assert!(!set.to_string().contains("\"d\""), "{set}");
            let set = crate::oidc::jws::KeySet::parse(set.as_object().unwrap()).unwrap();
            let jws = crate::oidc::jws::Jws::parse(&assertion).unwrap();
            assert_eq!(jws.algorithm_name, algorithm);
            let algorithm = crate::oidc::jws::algorithm(algorithm).unwrap();
            let candidates = set.candidates(algorithm, jws.key_id());
            assert!(
                jws.is_signed_by(algorithm, candidates.iter().map(|key| key.decoding_key())),
                "{algorithm:?}"
            );
            let claims = jws.into_claims();
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("relay"), &json!("relay")));
            assert_eq!(claims["aud"], "https://login.example");
        }
        assert_eq!(ClientKeys::from_pem(["-----BEGIN X-----"]).err(), Some(ClientKeyError));
    }

    #[test]
    fn an_offered_algorithm_is_used() {
        let keys = ClientKeys::from_pem([key(&["RSA"]).as_str()]).unwrap();
        let offered = ["PS256".to_owned()];
        let assertion = keys.assertion("relay", "x", Some(&offered)).unwrap();
        assert_eq!(crate::oidc::jws::Jws::parse(&assertion).unwrap().algorithm_name, "PS256");
    }
}
