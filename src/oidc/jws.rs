//! Signed tokens of the provider (JWS, RFC 7515) and the keys that verify them (JWK, RFC 7517).
//!
//! Tolerant of everything that does not bear on the signature: keys of unknown kinds are skipped,
//! names may be missing or stand twice.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, jwk::Jwk};
use serde_json::{Map, Value};

use crate::token::jws::verify;

/// Algorithms that can be verified, by their names. `Ed25519` is the name that RFC 9864 gives to
/// `EdDSA` on that curve.
pub(crate) const SUPPORTED: [&str; 13] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "Ed25519",
    "HS256", "HS384", "HS512",
];

/// Keys of one set that are looked at; more would be an attack on the processor.
const MAX_KEYS: usize = 100;

/// The algorithm of that name, if it can be verified.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "Ed25519" => Some(Algorithm::EdDSA),
        _ => name.parse().ok(),
    }
}

/// Whether the algorithm's key is a secret that both sides know.
pub(crate) fn is_symmetric(algorithm: Algorithm) -> bool {
    algorithm.family() == AlgorithmFamily::Hmac
}

/// Why a text is no signed token that can be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is encrypted, which is not supported: configure a signed token at the provider")]
    Encrypted,
    #[error("it is not a signed token (JWS)")]
    Form,
    #[error("its header is not a JSON object with `alg`")]
    Header,
    #[error("its header names critical extensions, which are not supported")]
    Critical,
    #[error("its payload is not a JSON object")]
    Payload,
}

/// A signed token, taken apart. Nothing in it is to be believed before [`Jws::is_signed_by`].
pub(crate) struct Jws<'t> {
    /// `alg`, as it is written.
    pub(crate) algorithm_name: String,
    /// `kid`.
    key_id: Option<String>,
    /// `typ`, in lower case and without `application/`.
    pub(crate) media_type: Option<String>,
    message: &'t str,
    signature: &'t str,
    claims: Map<String, Value>,
}

impl<'t> Jws<'t> {
    /// Takes a compact serialisation apart.
    pub(crate) fn parse(token: &'t str) -> Result<Self, Malformed> {
        let token = token.trim();
        match token.split('.').count() {
            3 => {}
            5 => return Err(Malformed::Encrypted),
            _ => return Err(Malformed::Form),
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Malformed::Form)?;
        let (header, payload) = message.split_once('.').ok_or(Malformed::Form)?;
        let object = |part: &str| {
            let json = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
            serde_json::from_slice::<Map<String, Value>>(&json).ok()
        };
        let header = object(header).ok_or(Malformed::Header)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        let algorithm_name = text("alg").ok_or(Malformed::Header)?;
        // An extension that is not understood must not be ignored (RFC 7515 §4.1.11).
        if header.contains_key("crit") {
            return Err(Malformed::Critical);
        }
        let media_type = text("typ").map(|text| {
            let text = text.to_ascii_lowercase();
            text.strip_prefix("application/").map(str::to_owned).unwrap_or(text)
        });
        Ok(Self {
            algorithm_name,
            key_id: text("kid"),
            media_type,
            message,
            signature: signature.trim_end_matches('='),
            claims: object(payload).ok_or(Malformed::Payload)?,
        })
    }

    /// Whether one of the keys made the signature.
    pub(crate) fn is_signed_by<'k>(
        &self,
        algorithm: Algorithm,
        keys: impl IntoIterator<Item = &'k DecodingKey>,
    ) -> bool {
        keys.into_iter().any(|key| {
            key.family() == algorithm.family()
                && verify(self.message.as_bytes(), self.signature, key, algorithm)
        })
    }

    /// The claims, before their signature is verified.
    pub(crate) fn unverified(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The claims. To be called when the signature is verified.
    pub(crate) fn into_claims(self) -> Map<String, Value> {
        self.claims
    }

    /// `kid`.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }
}

/// A public key of the provider.
pub(crate) struct Key {
    id: Option<String>,
    /// `alg`, where the key is for that one only.
    algorithm: Option<Algorithm>,
    curve: Option<String>,
    /// The issuer that the key signs for, where the set serves several (Microsoft Entra).
    pub(crate) issuer: Option<String>,
    key: DecodingKey,
}

/// Base64 in the alphabet and without the padding that RFC 7515 §2 wants; some providers write the
/// usual one.
fn unpadded(value: &str) -> String {
    value.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// A number without leading zero bytes (RFC 7518 §6.3.1.1), which some libraries write as a sign.
fn unsigned(value: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(unpadded(value)).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(URL_SAFE_NO_PAD.encode(&bytes[start..]))
}

impl Key {
    /// Reads a JWK; nothing for one that cannot verify a signature of a supported algorithm.
    fn parse(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str).map(str::to_owned);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let verifies = |operations: &Vec<Value>| operations.iter().any(|one| one == "verify");
        if jwk.get("key_ops").and_then(Value::as_array).is_some_and(|list| !verifies(list)) {
            return None;
        }
        // A key that everybody can read is no shared secret.
        let parameters: &[&str] = match text("kty")?.as_str() {
            "RSA" => &["kty", "n", "e"],
            "EC" => &["kty", "crv", "x", "y"],
            "OKP" => &["kty", "crv", "x"],
            _ => return None,
        };
        // Only what makes the key, so that nothing beside it can be of a wrong type.
        let only = parameters
            .iter()
            .map(|name| {
                let value = text(name)?;
                let value = match *name {
                    "n" | "e" => unsigned(&value)?,
                    "x" | "y" => unpadded(&value),
                    _ => value,
                };
                Some(((*name).to_owned(), Value::String(value)))
            })
            .collect::<Option<Map<_, _>>>()?;
        let algorithm = match text("alg") {
            Some(name) => Some(algorithm(&name)?),
            None => None,
        };
        let plain: Jwk = serde_json::from_value(Value::Object(only)).ok()?;
        Some(Self {
            id: text("kid"),
            algorithm,
            curve: text("crv"),
            issuer: text("issuer"),
            key: DecodingKey::from_jwk(&plain).ok()?,
        })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let curve = match algorithm {
            Algorithm::ES256 => Some("P-256"),
            Algorithm::ES384 => Some("P-384"),
            Algorithm::EdDSA => Some("Ed25519"),
            _ => None,
        };
        self.key.family() == algorithm.family()
            && self.algorithm.is_none_or(|own| own == algorithm)
            && curve.is_none_or(|curve| self.curve.as_deref() == Some(curve))
    }
}

/// The provider's key set.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Entries that cannot be used.
    pub(crate) skipped: usize,
}

impl KeySet {
    /// Reads a JWK set (RFC 7517 §5); nothing for what is none.
    pub(crate) fn parse(set: &Map<String, Value>) -> Option<Self> {
        let entries = set.get("keys")?.as_array()?;
        let keys = entries.iter().take(MAX_KEYS).filter_map(Key::parse).collect::<Vec<_>>();
        let skipped = entries.len() - keys.len();
        Some(Self { keys, skipped })
    }

    /// How many keys can be used.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that may have signed a token: those of its name if it has one, save that a set of
    /// one nameless key needs none.
    pub(crate) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<&Key> {
        let fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        match id {
            Some(id) => {
                fitting.filter(|key| key.id.as_deref().is_none_or(|own| own == id)).collect()
            }
            None => fitting.collect(),
        }
    }
}

impl Key {
    /// The key itself.
    pub(crate) fn decoding_key(&self) -> &DecodingKey {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_read_one_by_one() {
        let rsa = json!({"kty": "RSA", "n": "sXch", "e": "AQAB", "kid": "a", "x5c": [1]});
        let set = json!({"keys": [
            rsa, rsa,
            {"kty": "AKP", "kid": "new"},
            {"kty": "oct", "k": "AAAA"},
            {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "alg": "ES512"},
            {"kty": "RSA", "n": "sXch", "e": "AQAB", "use": "enc"},
            "nothing",
            {"kty": "RSA", "n": 1, "e": "AQAB"},
        ]});
        let set = KeySet::parse(set.as_object().unwrap()).unwrap();
        assert_eq!((set.len(), set.skipped), (2, 6));
        assert_eq!(set.candidates(Algorithm::RS256, Some("a")).len(), 2);
        assert_eq!(set.candidates(Algorithm::RS256, None).len(), 2);
        assert!(set.candidates(Algorithm::RS256, Some("b")).is_empty());
        assert!(set.candidates(Algorithm::ES256, Some("a")).is_empty());
        assert!(KeySet::parse(json!({"keys": {}}).as_object().unwrap()).is_none());
    }

    #[test]
    fn what_is_no_signed_token_is_named() {
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let (head, body) = (part(json!({"alg": "RS256"})), part(json!({"sub": "a"})));
        let error = |token: String| Jws::parse(&token).err();
        assert_eq!(error(format!("{head}.{body}.AAAA")), None);
        assert_eq!(error("a.b.c.d.e".to_owned()), Some(Malformed::Encrypted));
        assert_eq!(error("opaque".to_owned()), Some(Malformed::Form));
        assert_eq!(error(format!("{body}.{body}.AAAA")), Some(Malformed::Header));
        assert_eq!(error(format!("{head}.{}.AAAA", part(json!([])))), Some(Malformed::Payload));
        let critical = part(json!({"alg": "RS256", "crit": ["b64"]}));
        assert_eq!(error(format!("{critical}.{body}.AAAA")), Some(Malformed::Critical));
    }

    #[test]
    fn every_supported_name_is_an_algorithm() {
        assert!(SUPPORTED.iter().all(|name| algorithm(name).is_some()));
        for name in ["none", "ES512", "ES256K", "RSA-OAEP", ""] {
            assert_eq!(algorithm(name), None, "{name}");
        }
    }
}
