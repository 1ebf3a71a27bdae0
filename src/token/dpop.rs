//! Proofs of possession of a key (DPoP, RFC 9449), and the nonces that they carry.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::{
    session::{Digest, PRIVATE_MEMBERS, Thumbprint},
    store::{Store, StoreError},
    token::{
        jws,
        sealing::{KeyRing, OpenError, Purpose},
    },
    util::clock::UnixTime,
};

/// Algorithms of a proof's signature, by their names (RFC 7518 §3.1, RFC 8037 §3.1).
pub const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("PS256", Algorithm::PS256),
];

/// They as the parameter of a challenge (RFC 9449 §7.1).
pub(crate) fn supported() -> String {
    format!("algs=\"{}\"", ALGORITHMS.map(|(name, _)| name).join(" "))
}

/// Maximum length of a proof, in bytes: one with an RSA key of 4096 bits takes about 2 KiB.
const MAX_PROOF: usize = 8 * 1024;

/// Maximum length of `jti`, in bytes.
const MAX_ID: usize = 256;

/// Lifetime of a nonce; a proof cannot be used longer.
const NONCE_TTL: Duration = Duration::from_secs(300);

/// Age from which a nonce is answered with the next one.
const NONCE_RENEWAL: Duration = Duration::from_secs(150);

/// Maximum difference between `iat` and this clock. That a proof is fresh is shown by its nonce.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);

/// How long a proof that was used stays known. An instance whose clock is behind accepts its nonce longer
/// than the one that issued it: their clocks may differ by as much as a client's.
const USED_TTL: Duration =
    Duration::from_secs(NONCE_TTL.as_secs() + MAX_CLOCK_DIFFERENCE.as_secs());

/// Why a proof is refused; its text is the `error_description`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProof {
    /// There is no nonce in it, or none that is still valid (`use_dpop_nonce`, RFC 9449 §8).
    #[error("The proof needs the nonce of the header DPoP-Nonce")]
    Nonce,
    /// There is none.
    #[error("A proof in the header DPoP is needed")]
    Missing,
    /// There are several.
    #[error("The request has more than one header DPoP")]
    Several,
    /// It is not a JWT of the type `dpop+jwt` with what RFC 9449 §4.2 demands.
    #[error("The proof has no valid {0}")]
    Malformed(&'static str),
    /// Its key is private, or a shared secret.
    #[error("The proof holds a private key")]
    PrivateKey,
    /// It is signed by another algorithm.
    #[error("The proof is signed by another algorithm than ES256, ES384, EdDSA and PS256")]
    Algorithm,
    /// The signature is not its key's.
    #[error("The proof's signature is not valid")]
    Signature,
    /// It is for another method.
    #[error("The proof's htm is not the method of the request")]
    Method,
    /// It is for another URI.
    #[error("The proof's htu is not {0}")]
    Uri(String),
    /// It was made at another time.
    #[error("The proof's iat is {0} seconds from the time of this server")]
    Time(u64),
    /// It is for another token.
    #[error("The proof's ath is not the hash of the access token")]
    Token,
    /// Nobody says for which request it must be.
    #[error("The proxy in front does not say which request the proof is for")]
    UnknownRequest,
    /// It was used before.
    #[error("The proof was used before")]
    Replayed,
    /// It is by another key than the token's, the session's or the refresh token's.
    #[error("The proof is by another key than the token is bound to")]
    Key,
}

#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: Value,
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: f64,
    nonce: Option<String>,
    ath: Option<String>,
}

/// `token_type` of a token that its bearer may use (RFC 6750).
pub(super) const BEARER: &str = "Bearer";

/// `token_type` of one that is bound to a key (RFC 9449 §5).
pub(super) const DPOP: &str = "DPoP";

/// The key that a token is bound to: the claim `cnf` (RFC 7800 §3.1, RFC 9449 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyConfirmation {
    /// SHA-256 thumbprint of the public key (RFC 7638).
    #[schema(value_type = String)]
    pub jkt: Thumbprint,
}

/// A request that a proof is for.
#[derive(Clone, Debug)]
pub struct ProvenRequest {
    /// Its method.
    pub method: String,
    /// Its URI as the client sees it; query and fragment do not count.
    pub uri: Url,
}

/// A proof whose signature is valid.
pub struct DpopProof {
    /// The thumbprint of its key.
    pub key: Thumbprint,
    claims: Claims,
}

impl DpopProof {
    /// Verifies type, algorithm and signature of a proof (RFC 9449 §4.3, 3 to 7).
    ///
    /// # Errors
    /// [`InvalidProof`].
    pub fn parse(proof: &str) -> Result<Self, InvalidProof> {
        use InvalidProof::{Algorithm, Malformed, PrivateKey, Signature};
        let jwt = || Malformed("JWT");
        if proof.len() > MAX_PROOF {
            return Err(jwt());
        }
        let (message, signature) = proof.rsplit_once('.').ok_or_else(jwt)?;
        let (head, body) = message.split_once('.').ok_or_else(jwt)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| jwt());
        let header: Header =
            serde_json::from_slice(&decode(head)?).map_err(|_| Malformed("header"))?;
        if header.typ != "dpop+jwt" {
            return Err(Malformed("typ"));
        }
        if header.crit.is_some() {
            return Err(Malformed("header"));
        }
        let algorithm = ALGORITHMS.iter().find(|(name, _)| *name == header.alg);
        let (_, algorithm) = algorithm.ok_or(Algorithm)?;
        if PRIVATE_MEMBERS.iter().any(|member| header.jwk.get(member).is_some()) {
            return Err(PrivateKey);
        }
        let is = |member, own: &str| header.jwk.get(member).is_none_or(|value| value == own);
        if !is("use", "sig") || !is("alg", &header.alg) {
            return Err(Malformed("jwk"));
        }
        let jwk: Jwk = serde_json::from_value(header.jwk).map_err(|_| Malformed("jwk"))?;
        if !is_key_for(*algorithm, &jwk) {
            return Err(Malformed("jwk"));
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| Malformed("jwk"))?;
        if !jws::verify(message.as_bytes(), signature, &key, *algorithm) {
            return Err(Signature);
        }
        let thumbprint = jws::thumbprint(&jwk).ok();
        let key = thumbprint.and_then(|text| Thumbprint::from_base64url(&text).ok());
        let claims: Claims =
            serde_json::from_slice(&decode(body)?).map_err(|_| Malformed("claims"))?;
        if claims.jti.is_empty() || claims.jti.len() > MAX_ID {
            return Err(Malformed("jti"));
        }
        Ok(Self { key: key.ok_or(Malformed("jwk"))?, claims })
    }

    /// Whether it is for this request, now, and, where there is one, for this access token.
    ///
    /// # Errors
    /// [`InvalidProof`].
    pub fn check(
        &self,
        request: &ProvenRequest,
        access_token: Option<&str>,
        now: UnixTime,
    ) -> Result<(), InvalidProof> {
        if self.claims.htm != request.method {
            return Err(InvalidProof::Method);
        }
        let expected = without_query(&request.uri);
        let claimed = Url::parse(&self.claims.htu).ok().map(|uri| without_query(&uri));
        if claimed.as_ref() != Some(&expected) {
            return Err(InvalidProof::Uri(expected.into()));
        }
        #[allow(clippy::cast_precision_loss, reason = "exact until the year 285 million")]
        let difference = (self.claims.iat - now.as_secs() as f64).abs();
        if difference > MAX_CLOCK_DIFFERENCE.as_secs_f64() {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates"
            )]
            return Err(InvalidProof::Time(difference as u64));
        }
        let ath = access_token.map(|token| Digest::of(token.as_bytes()).to_base64url());
        if ath.is_some() && self.claims.ath != ath {
            return Err(InvalidProof::Token);
        }
        Ok(())
    }

    /// Whether its nonce is one of ours; true when it is time for the next one.
    ///
    /// # Errors
    /// [`InvalidProof::Nonce`].
    pub fn check_nonce(&self, keys: &KeyRing, now: UnixTime) -> Result<bool, InvalidProof> {
        let nonce = self.claims.nonce.as_deref().ok_or(InvalidProof::Nonce)?;
        let issued = keys.open_text::<u64>(Purpose::DpopNonce, b"", nonce);
        let issued = issued.map_err(|_: OpenError| InvalidProof::Nonce)?;
        Ok(now.saturating_since(UnixTime::from_secs(issued)) >= NONCE_RENEWAL)
    }

    /// Uses it up, at every instance.
    ///
    /// # Errors
    /// When the store is unavailable; the inner one when it was used before.
    pub async fn use_up(&self, store: &dyn Store) -> Result<Result<(), InvalidProof>, StoreError> {
        let parts = ["dpop", &self.key.to_base64url(), &self.claims.jti];
        let name = Digest::of(parts.join("\n").as_bytes());
        let first = store.mark(name, USED_TTL).await?;
        Ok(if first { Ok(()) } else { Err(InvalidProof::Replayed) })
    }
}

/// A nonce for the next proof (RFC 9449 §8).
///
/// It opens at every instance with the same keys; the store knows nothing of it.
pub fn nonce(keys: &KeyRing, now: UnixTime) -> String {
    // A number always serialises.
    keys.seal_text(Purpose::DpopNonce, b"", &now.as_secs(), NONCE_TTL).unwrap_or_default()
}

/// Whether the key has the type and the curve of the algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
fn is_key_for(algorithm: Algorithm, jwk: &Jwk) -> bool {
    match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => {
            key.curve == EllipticCurve::P256
        }
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES384) => {
            key.curve == EllipticCurve::P384
        }
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => {
            key.curve == EllipticCurve::Ed25519
        }
        (AlgorithmParameters::RSA(_), Algorithm::PS256) => true,
        _ => false,
    }
}

/// Scheme, host and path alone, in the form in which URIs are compared (RFC 3986 §6.2.2, §6.2.3). `Url`
/// normalises case, port and dot segments; what remains are the escapes of the path.
fn without_query(uri: &Url) -> Url {
    let mut uri = uri.clone();
    uri.set_query(None);
    uri.set_fragment(None);
    if uri.path().contains('%') {
        let path = normal_escapes(uri.path());
        uri.set_path(&path);
    }
    uri
}

/// A path whose escapes are in upper case, and only where they are needed.
fn normal_escapes(path: &str) -> String {
    let mut parts = path.split('%');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut byte = [0];
        let escaped =
            part.get(..2).filter(|digits| hex::decode_to_slice(digits, &mut byte).is_ok());
        let escaped = escaped.map(|_| byte[0]);
        let is_unreserved =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        match escaped {
            Some(byte) if is_unreserved(&byte) => normal.push(char::from(byte)),
            Some(byte) => normal.push_str(&format!("%{byte:02X}")),
            None => normal.push('%'),
        }
        let rest = if escaped.is_some() { part.get(2..) } else { Some(part) };
        normal.push_str(rest.unwrap_or_default());
    }
    normal
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::token::jws::PrivateKey;

    const HEAD: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19";

    fn request(method: &str, uri: &str) -> ProvenRequest {
        ProvenRequest { method: method.to_owned(), uri: Url::parse(uri).unwrap() }
    }

    /// RFC 9449 §5 (both requests), §6.1 and §7.1.
    #[test]
    fn the_examples_of_rfc_9449_are_accepted() {
        let at_token = format!(
            "{HEAD}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
        );
        let proof = DpopProof::parse(&at_token).unwrap();
        assert_eq!(proof.key.to_base64url(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        let now = UnixTime::from_secs(1_562_262_616);
        let endpoint = request("POST", "https://server.example.com/token");
        assert_eq!(proof.check(&endpoint, None, now), Ok(()));

        let refresh = format!(
            "{HEAD}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjY1Mjk2fQ.pAqut2IRDm_De6PR93SYmGBPXpwrAk90e8cP2hjiaG5QsGSuKDYW7_X620BxqhvYC8ynrrvZLTk41mSRroapUA"
        );
        let later = UnixTime::from_secs(1_562_265_296);
        assert_eq!(DpopProof::parse(&refresh).unwrap().check(&endpoint, None, later), Ok(()));

        let at_resource = format!(
            "{HEAD}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
        );
        let proof = DpopProof::parse(&at_resource).unwrap();
        let resource = request("GET", "https://RESOURCE.example.org:443/protectedresource?a=b#c");
        let token = Some("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU");
        assert_eq!(proof.check(&resource, token, now), Ok(()));
        assert_eq!(proof.check(&resource, Some("another"), now), Err(InvalidProof::Token));
        assert!(DpopProof::parse(&at_resource.replace("~", "")).is_ok());
        let swapped = at_resource.rsplit_once('.').unwrap().1;
        let swapped = format!("{}.{swapped}", at_token.rsplit_once('.').unwrap().0);
        assert_eq!(DpopProof::parse(&swapped).err(), Some(InvalidProof::Signature));
    }

    fn jwk(key: &PrivateKey) -> Value {
        serde_json::to_value(key.public().unwrap()).unwrap()
    }

    fn made(key: &PrivateKey, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).unwrap());
        format!("{message}.{signature}")
    }

    #[test]
    fn each_part_of_a_proof_counts() {
        let now = UnixTime::from_secs(1_800_000_000);
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let header =
                json!({"typ": "dpop+jwt", "alg": format!("{algorithm:?}"), "jwk": jwk(&key)});
            let claims = json!({"jti": "1", "htm": "GET", "htu": "https://a.example/b/", "iat": now.as_secs()});
            let here = request("GET", "https://a.example/b/");
            let with = |of: &Value, member: &str, value: Value| {
                let mut changed = of.clone();
                changed[member] = value;
                changed
            };
            let check = |header: &Value, claims: &Value| {
                DpopProof::parse(&made(&key, header, claims))?.check(&here, None, now)
            };
            assert_eq!(check(&header, &claims), Ok(()));
            for (difference, accepted) in [(30, true), (-30, true), (301, false), (-301, false)] {
                let iat = json!(1_800_000_000_i64 + difference);
                let checked = check(&header, &with(&claims, "iat", iat));
                assert_eq!(checked.is_ok(), accepted, "{difference} s: {checked:?}");
            }
            let mut private = jwk(&key);
            private["d"] = json!("AAAA");
            for (member, value, reason) in [
                ("typ", json!("JWT"), InvalidProof::Malformed("typ")),
                ("alg", json!("HS256"), InvalidProof::Algorithm),
                ("alg", json!("none"), InvalidProof::Algorithm),
                ("alg", json!("RS256"), InvalidProof::Algorithm),
                ("alg", json!("ES384"), InvalidProof::Malformed("jwk")),
                ("alg", json!("PS256"), InvalidProof::Malformed("jwk")),
                ("jwk", private, InvalidProof::PrivateKey),
                ("jwk", json!({"kty": "oct", "k": "AAAA"}), InvalidProof::PrivateKey),
                ("jwk", json!({}), InvalidProof::Malformed("jwk")),
                ("jwk", json!("a key"), InvalidProof::Malformed("jwk")),
                ("jwk", with(&jwk(&key), "kty", json!("RSA")), InvalidProof::Malformed("jwk")),
                ("jwk", with(&jwk(&key), "crv", json!("P-384")), InvalidProof::Malformed("jwk")),
                ("jwk", with(&jwk(&key), "use", json!("enc")), InvalidProof::Malformed("jwk")),
                ("jwk", with(&jwk(&key), "alg", json!("RS256")), InvalidProof::Malformed("jwk")),
                ("jwk", with(&jwk(&key), "x", json!("AAAA")), InvalidProof::Signature),
                ("crit", json!(["b64"]), InvalidProof::Malformed("header")),
            ] {
                assert_eq!(check(&with(&header, member, value), &claims), Err(reason), "{member}");
            }
            for (member, value, reason) in [
                ("jti", json!(""), InvalidProof::Malformed("jti")),
                ("jti", json!("x".repeat(257)), InvalidProof::Malformed("jti")),
                ("jti", json!("x".repeat(10_000)), InvalidProof::Malformed("JWT")),
                ("jti", json!(7), InvalidProof::Malformed("claims")),
                ("htm", json!("get"), InvalidProof::Method),
                ("htu", json!("https://a.example/b"), InvalidProof::Uri(here.uri.to_string())),
                ("htu", json!("http://a.example/b/"), InvalidProof::Uri(here.uri.to_string())),
                (
                    "htu",
                    json!("https://a.example:8443/b/"),
                    InvalidProof::Uri(here.uri.to_string()),
                ),
                ("htu", json!("https://b@a.example/b/"), InvalidProof::Uri(here.uri.to_string())),
                ("htu", json!("https://a.example/b/%2F"), InvalidProof::Uri(here.uri.to_string())),
                ("htu", json!("/b/"), InvalidProof::Uri(here.uri.to_string())),
                ("iat", json!("1800000000"), InvalidProof::Malformed("claims")),
            ] {
                assert_eq!(check(&header, &with(&claims, member, value)), Err(reason), "{member}");
            }
            for (member, value) in [
                ("iat", json!(1_800_000_000.5)),
                ("htu", json!("HTTPS://A.EXAMPLE:443/c/../%62/?a=b#c")),
            ] {
                let checked = check(&header, &with(&claims, member, value));
                assert_eq!(checked, Ok(()), "{member}");
            }
            let other = PrivateKey::generate(algorithm).unwrap();
            let stolen = with(&header, "jwk", jwk(&other));
            assert_eq!(check(&stolen, &claims), Err(InvalidProof::Signature));
        }
    }

    #[test]
    fn a_nonce_opens_with_our_keys_and_not_for_ever() {
        let (keys, now) = (KeyRing::random(), UnixTime::now());
        let proof = |nonce: Option<String>| DpopProof {
            key: Thumbprint::unknown(),
            claims: Claims {
                jti: "1".to_owned(),
                htm: "GET".to_owned(),
                htu: String::new(),
                iat: 0.0,
                nonce,
                ath: None,
            },
        };
        let fresh = proof(Some(nonce(&keys, now)));
        assert_eq!(fresh.check_nonce(&keys, now), Ok(false));
        assert_eq!(fresh.check_nonce(&keys, now + NONCE_RENEWAL), Ok(true));
        assert_eq!(fresh.check_nonce(&KeyRing::random(), now), Err(InvalidProof::Nonce));
        assert_eq!(proof(None).check_nonce(&keys, now), Err(InvalidProof::Nonce));
        let old = keys.seal_text(Purpose::DpopNonce, b"", &0u64, Duration::ZERO).unwrap();
        assert_eq!(proof(Some(old)).check_nonce(&keys, now), Err(InvalidProof::Nonce));
    }

    #[test]
    fn escapes_count_by_what_they_mean() {
        for (path, normal) in [
            ("/%7ealice/%2f%e2%82%AC", "/~alice/%2F%E2%82%AC"),
            ("/a%", "/a%"),
            ("/a%2", "/a%2"),
            ("/a%zz%41", "/a%zzA"),
            ("/%€", "/%€"),
            ("/%+1", "/%+1"),
        ] {
            assert_eq!(normal_escapes(path), normal);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_proof_by_chance(text in ".{0,400}") {
            proptest::prop_assert!(DpopProof::parse(&text).is_err());
        }
    }
}
