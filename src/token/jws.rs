//! JSON Web Signatures (RFC 7515) with ring: private keys that sign, and the provider that
//! `jsonwebtoken` verifies with.
//!
//! `jsonwebtoken` has no cryptography of its own here and panics without a provider, so its
//! functions that need one are called only through this module (`clippy.toml` sees to it).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, Header, TokenData,
    Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    jwk::{
        AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, EllipticCurveKeyType, Jwk,
        OctetKeyPairParameters, OctetKeyPairType, RSAKeyParameters, RSAKeyType, ThumbprintHash,
    },
    signature,
};
use ring::{
    digest,
    error::{KeyRejected, Unspecified},
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
        ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
        RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaParameters,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde::{Serialize, de::DeserializeOwned};

use crate::token::error::{KeyError, SignError};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory,
    verifier_factory,
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |der| {
            rsa_components(&RsaKeyPair::from_der(der).map_err(invalid_rsa)?)
        },
        // ring parses no public RSA key; nothing here makes a JWK of one in DER.
        rsa_pub_components_from_public_key: |_| Err(ErrorKind::UnsupportedAlgorithm.into()),
        ec_pub_components_from_private_key,
        ed_pub_components_from_private_key: |der, _| {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
            Ok(key.map_err(|_| ErrorKind::InvalidEddsaKey)?.public_key().as_ref().to_vec())
        },
        compute_digest: |data, hash| {
            let algorithm = match hash {
                ThumbprintHash::SHA256 => &digest::SHA256,
                ThumbprintHash::SHA384 => &digest::SHA384,
                ThumbprintHash::SHA512 => &digest::SHA512,
                _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
            };
            Ok(digest::digest(algorithm, data).as_ref().to_vec())
        },
    },
};

/// Installs the provider. A second call changes nothing.
fn install() {
    let _ = PROVIDER.install_default();
}

/// Verifies a compact JWS and the registered claims that `validation` names.
///
/// # Errors
/// When the signature, the algorithm or one of those claims is not as it must be.
#[expect(clippy::disallowed_methods, reason = "the provider is installed here")]
pub fn decode<T: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    validation: &Validation,
) -> Result<TokenData<T>, Error> {
    install();
    jsonwebtoken::decode(token, key, validation)
}

/// Whether `signature`, in base64url, is the key's for `message`.
#[expect(clippy::disallowed_methods, reason = "the provider is installed here")]
pub fn verify(message: &[u8], signature: &str, key: &DecodingKey, algorithm: Algorithm) -> bool {
    install();
    jsonwebtoken::crypto::verify(signature, message, key, algorithm).unwrap_or(false)
}

/// Signs `claims` as a compact JWS. The key is parsed each time; [`PrivateKey`] parses it once.
///
/// # Errors
/// When the key is not one for the algorithm in `header`.
#[expect(clippy::disallowed_methods, reason = "the provider is installed here")]
pub fn encode(
    header: &Header,
    claims: &impl Serialize,
    key: &EncodingKey,
) -> Result<String, Error> {
    install();
    jsonwebtoken::encode(header, claims, key)
}

/// The SHA-256 thumbprint of a JWK (RFC 7638), in base64url.
///
/// # Errors
/// When the key's type has no thumbprint.
#[expect(clippy::disallowed_methods, reason = "the provider is installed here")]
pub fn thumbprint(key: &Jwk) -> Result<String, Error> {
    install();
    key.thumbprint(ThumbprintHash::SHA256)
}

enum KeyMaterial {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Hmac(hmac::Key),
}

/// A key that signs with one algorithm.
pub struct PrivateKey {
    algorithm: Algorithm,
    material: KeyMaterial,
}

impl PrivateKey {
    /// A shared secret, for the HMAC algorithms.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for any other algorithm.
    pub fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        let hash = hmac_algorithm(algorithm).ok_or(KeyError::Unsupported(algorithm))?;
        Ok(Self { algorithm, material: KeyMaterial::Hmac(hmac::Key::new(hash, secret)) })
    }

    /// A private key in PEM: PKCS#8, or PKCS#1 for RSA.
    ///
    /// # Errors
    /// When it is no such key, too weak, or, on an elliptic curve, lacks its public part.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, KeyError> {
        match PrivateKeyDer::from_pem_slice(pem) {
            Ok(PrivateKeyDer::Pkcs8(key)) => Self::from_der(algorithm, key.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(key)) if algorithm.family() == AlgorithmFamily::Rsa => {
                Self::from_der(algorithm, key.secret_pkcs1_der())
            }
            _ => Err(KeyError::NotAPrivateKey(algorithm)),
        }
    }

    /// A private key in DER: PKCS#8, or PKCS#1 for RSA.
    fn from_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let rejected = |reason: KeyRejected| match reason.to_string().as_str() {
            "TooSmall" | "TooLarge" | "PrivateModulusLenNotMultipleOf512Bits" => KeyError::RsaSize,
            _ => KeyError::NotAPrivateKey(algorithm),
        };
        let material = match algorithm.family() {
            AlgorithmFamily::Ec => {
                let curve = ecdsa_signing(algorithm).ok_or(KeyError::Unsupported(algorithm))?;
                let key = EcdsaKeyPair::from_pkcs8(curve, der, &SystemRandom::new());
                KeyMaterial::Ecdsa(key.map_err(rejected)?)
            }
            AlgorithmFamily::Ed => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                KeyMaterial::Ed25519(key.map_err(rejected)?)
            }
            AlgorithmFamily::Rsa => {
                let padding = rsa_signing(algorithm).ok_or(KeyError::Unsupported(algorithm))?;
                let key = RsaKeyPair::from_pkcs8(der).or_else(|pkcs8| {
                    // Of the two reasons, the one of the format that it has.
                    let size = matches!(rejected(pkcs8), KeyError::RsaSize);
                    RsaKeyPair::from_der(der).map_err(|pkcs1| if size { pkcs8 } else { pkcs1 })
                });
                KeyMaterial::Rsa(key.map_err(rejected)?, padding)
            }
            AlgorithmFamily::Hmac => return Err(KeyError::Unsupported(algorithm)),
        };
        Ok(Self { algorithm, material })
    }

    /// A new key on P-256 or Curve25519.
    ///
    /// # Errors
    /// [`KeyError::CannotGenerate`] for any other algorithm.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_: Unspecified| KeyError::CannotGenerate(algorithm);
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::ES256 => {
                let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let der = EcdsaKeyPair::generate_pkcs8(curve, &random).map_err(failed)?;
                Self::from_der(algorithm, der.as_ref())
            }
            Algorithm::EdDSA => {
                let der = Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?;
                Self::from_der(algorithm, der.as_ref())
            }
            other => Err(KeyError::CannotGenerate(other)),
        }
    }

    /// The algorithm that it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key as the parameters of a JWK (RFC 7518 §6); none for a shared secret.
    pub fn public(&self) -> Option<AlgorithmParameters> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Some(match &self.material {
            KeyMaterial::Ecdsa(key) => {
                // 4, then two coordinates of equal length (SEC 1 §2.3.3).
                let point = key.public_key().as_ref().get(1..)?;
                let (x, y) = point.split_at(point.len() / 2);
                AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
                    key_type: EllipticCurveKeyType::EC,
                    curve: curve(self.algorithm)?,
                    x: encode(x),
                    y: encode(y),
                })
            }
            KeyMaterial::Ed25519(key) => {
                AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
                    key_type: OctetKeyPairType::OctetKeyPair,
                    curve: EllipticCurve::Ed25519,
                    x: encode(key.public_key().as_ref()),
                })
            }
            KeyMaterial::Rsa(key, _) => {
                let PublicKeyComponents { n, e } =
                    PublicKeyComponents::<Vec<u8>>::from(key.public());
                AlgorithmParameters::RSA(RSAKeyParameters {
                    key_type: RSAKeyType::RSA,
                    n: encode(&n),
                    e: encode(&e),
                })
            }
            KeyMaterial::Hmac(_) => return None,
        })
    }

    /// Signs `message`; for ECDSA as the two integers of RFC 7518 §3.4.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |_: Unspecified| SignError::Refused;
        let random = SystemRandom::new();
        Ok(match &self.material {
            KeyMaterial::Ecdsa(key) => {
                key.sign(&random, message).map_err(failed)?.as_ref().to_vec()
            }
            KeyMaterial::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            KeyMaterial::Rsa(key, padding) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(*padding, &random, message, &mut signature).map_err(failed)?;
                signature
            }
            KeyMaterial::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
        })
    }

    /// Signs `claims` as a compact JWS (RFC 7515 §7.1). `header` must name the key's algorithm.
    ///
    /// # Errors
    /// When the claims cannot be serialised, or [`Self::sign`] fails.
    pub fn sign_compact(
        &self,
        header: &Header,
        claims: &impl Serialize,
    ) -> Result<String, SignError> {
        let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header)?);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims)?, &mut token);
        let signature = self.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PrivateKey({:?})", self.algorithm)
    }
}

fn hmac_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn ecdsa_signing(algorithm: Algorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match algorithm {
        Algorithm::ES256 => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
        _ => None,
    }
}

fn curve(algorithm: Algorithm) -> Option<EllipticCurve> {
    match algorithm {
        Algorithm::ES256 => Some(EllipticCurve::P256),
        Algorithm::ES384 => Some(EllipticCurve::P384),
        _ => None,
    }
}

fn rsa_signing(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        Algorithm::RS256 => Some(&RSA_PKCS1_SHA256),
        Algorithm::RS384 => Some(&RSA_PKCS1_SHA384),
        Algorithm::RS512 => Some(&RSA_PKCS1_SHA512),
        Algorithm::PS256 => Some(&RSA_PSS_SHA256),
        Algorithm::PS384 => Some(&RSA_PSS_SHA384),
        Algorithm::PS512 => Some(&RSA_PSS_SHA512),
        _ => None,
    }
}

fn rsa_verification(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn invalid_rsa(reason: KeyRejected) -> Error {
    ErrorKind::InvalidRsaKey(reason.to_string()).into()
}

fn rsa_components(key: &RsaKeyPair) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let PublicKeyComponents { n, e } = PublicKeyComponents::from(key.public());
    Ok((n, e))
}

fn ec_pub_components_from_private_key(
    der: &[u8],
    algorithm: Algorithm,
) -> Result<(EllipticCurve, Vec<u8>, Vec<u8>), Error> {
    let invalid = || Error::from(ErrorKind::InvalidEcdsaKey);
    let signing = ecdsa_signing(algorithm).ok_or_else(invalid)?;
    let key =
        EcdsaKeyPair::from_pkcs8(signing, der, &SystemRandom::new()).map_err(|_| invalid())?;
    let point = key.public_key().as_ref().get(1..).ok_or_else(invalid)?;
    let (x, y) = point.split_at(point.len() / 2);
    Ok((curve(algorithm).ok_or_else(invalid)?, x.to_vec(), y.to_vec()))
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let key = match key.family() {
        AlgorithmFamily::Hmac => PrivateKey::from_secret(*algorithm, key.as_bytes()),
        _ => PrivateKey::from_der(*algorithm, key.as_bytes()),
    };
    match key {
        Ok(key) => Ok(Box::new(key)),
        Err(_) => Err(ErrorKind::InvalidKeyFormat.into()),
    }
}

impl signature::Signer<Vec<u8>> for PrivateKey {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        self.sign(message).map_err(signature::Error::from_source)
    }
}

impl JwtSigner for PrivateKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// A public key or shared secret that verifies with one algorithm.
struct Verifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier_factory(
    algorithm: &Algorithm,
    key: &DecodingKey,
) -> Result<Box<dyn JwtVerifier>, Error> {
    // The family is what keeps a public key from being taken for a shared secret (RFC 8725 §2.1).
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Verifier { algorithm: *algorithm, key: key.clone() }))
}

impl Verifier {
    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        let unparsed = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature)
        };
        match (self.algorithm, self.key.kind()) {
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                unparsed(&ECDSA_P256_SHA256_FIXED, point)
            }
            (Algorithm::ES384, DecodingKeyKind::SecretOrDer(point)) => {
                unparsed(&ECDSA_P384_SHA384_FIXED, point)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => unparsed(&ED25519, key),
            (algorithm, DecodingKeyKind::SecretOrDer(key)) => {
                if let Some(hash) = hmac_algorithm(algorithm) {
                    return hmac::verify(&hmac::Key::new(hash, key), message, signature);
                }
                unparsed(rsa_verification(algorithm).ok_or(Unspecified)?, key)
            }
            (algorithm, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let parameters = rsa_verification(algorithm).ok_or(Unspecified)?;
                PublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
        }
    }
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        Self::verify(self, message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::CommonParameters;
    use serde_json::{Value, json};

    use super::*;

    /// RFC 7515 appendices A.1 to A.3, RFC 8037 appendix A.4: algorithm, JWK, token.
    const EXAMPLES: [(Algorithm, &str, &str); 4] = [
        (
            Algorithm::HS256,
            r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
             eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
             dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            Algorithm::RS256,
            r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
            "eyJhbGciOiJSUzI1NiJ9.\
             eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
             cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            Algorithm::ES256,
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            "eyJhbGciOiJFUzI1NiJ9.\
             eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
             DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            Algorithm::EdDSA,
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
             hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];

    #[test]
    fn the_examples_of_the_rfcs_verify_and_nothing_else_does() {
        for (algorithm, jwk, token) in EXAMPLES {
            let jwk: Jwk = serde_json::from_str(jwk).unwrap();
            let key = DecodingKey::from_jwk(&jwk).unwrap();
            let verifier = verifier_factory(&algorithm, &key).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let good = URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert!(verifier.verify(message.as_bytes(), &good).is_ok(), "{algorithm:?}");
            assert!(verifier.verify(&message.as_bytes()[1..], &good).is_err(), "{algorithm:?}");
            for (index, _) in good.iter().enumerate() {
                let mut bad = good.clone();
                bad[index] ^= 1;
                assert!(
                    verifier.verify(message.as_bytes(), &bad).is_err(),
                    "{algorithm:?} {index}"
                );
            }
            // Zeros once verified everything somewhere (CVE-2022-21449), and lengths are exact.
            let (zeros, cut) = (vec![0; good.len()], good[..good.len() - 1].to_vec());
            for bad in [zeros, Vec::new(), cut, [&good[..], &[0]].concat()] {
                assert!(verifier.verify(message.as_bytes(), &bad).is_err(), "{algorithm:?}");
            }
        }
    }

    fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("install openssl");
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn rsa(bits: u32) -> Vec<u8> {
        let size = format!("rsa_keygen_bits:{bits}");
        openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &size], b"")
    }

    #[test]
    fn every_algorithm_verifies_what_it_signed_and_no_other_algorithm_does() {
        let rsa = rsa(2048);
        let pem = |curve: &str| {
            let curve = format!("ec_paramgen_curve:{curve}");
            openssl(&["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", &curve], b"")
        };
        let (p256, p384) = (pem("P-256"), pem("P-384"));
        let ed25519 = openssl(&["genpkey", "-algorithm", "ED25519"], b"");
        let secret = [7; 64];
        let algorithms = [
            (Algorithm::HS256, &secret[..]),
            (Algorithm::HS384, &secret),
            (Algorithm::HS512, &secret),
            (Algorithm::ES256, &p256),
            (Algorithm::ES384, &p384),
            (Algorithm::EdDSA, &ed25519),
            (Algorithm::RS256, &rsa),
            (Algorithm::RS384, &rsa),
            (Algorithm::RS512, &rsa),
            (Algorithm::PS256, &rsa),
            (Algorithm::PS384, &rsa),
            (Algorithm::PS512, &rsa),
        ];
        let keys = algorithms.map(|(algorithm, text)| {
            let key = match algorithm.family() {
                AlgorithmFamily::Hmac => PrivateKey::from_secret(algorithm, text),
                _ => PrivateKey::from_pem(algorithm, text),
            };
            key.unwrap()
        });
        let public = |key: &PrivateKey| match key.public() {
            Some(parameters) => {
                let jwk = Jwk { common: CommonParameters::default(), algorithm: parameters };
                DecodingKey::from_jwk(&jwk).unwrap()
            }
            None => DecodingKey::from_secret(&secret),
        };
        for signing in &keys {
            let claims = json!({"sub": "alice", "exp": u32::MAX});
            let header = Header::new(signing.algorithm());
            let token = signing.sign_compact(&header, &claims).unwrap();
            for verifying in &keys {
                let algorithm = verifying.algorithm();
                let validation = Validation::new(algorithm);
                let verified = decode::<Value>(&token, &public(verifying), &validation);
                assert_eq!(verified.is_ok(), algorithm == signing.algorithm(), "{algorithm:?}");
                // Not even the signature alone, should the header be taken for another.
                let (message, signature) = token.rsplit_once('.').unwrap();
                let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
                let verified = verifier_factory(&algorithm, &public(verifying))
                    .is_ok_and(|verifier| verifier.verify(message.as_bytes(), &signature).is_ok());
                assert_eq!(verified, algorithm == signing.algorithm(), "{algorithm:?}");
            }
        }
    }

    #[test]
    fn what_signs_by_the_library_is_verified_too() {
        let pem = rsa(2048);
        let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(&pem).unwrap() else {
            panic!("openssl writes PKCS#8");
        };
        let key = EncodingKey::from_rsa_der(der.secret_pkcs8_der());
        let claims = json!({"sub": "alice", "exp": u32::MAX});
        let token = encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
        let public = PrivateKey::from_pem(Algorithm::RS256, &pem).unwrap().public().unwrap();
        let jwk = Jwk { common: CommonParameters::default(), algorithm: public };
        let key = DecodingKey::from_jwk(&jwk).unwrap();
        assert!(decode::<Value>(&token, &key, &Validation::new(Algorithm::RS256)).is_ok());
    }

    #[test]
    fn a_key_is_of_no_use_to_another_family() {
        let key = DecodingKey::from_secret(&[4; 65]);
        assert!(verifier_factory(&Algorithm::ES256, &key).is_err());
        let key = DecodingKey::from_ec_der(&[4; 65]);
        assert!(verifier_factory(&Algorithm::HS256, &key).is_err());
        assert!(signer_factory(&Algorithm::HS256, &EncodingKey::from_ec_der(&[4; 65])).is_err());
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 7638 §3.1.
        let jwk: Jwk = serde_json::from_str(EXAMPLE_OF_RFC_7638).unwrap();
        assert_eq!(thumbprint(&jwk).unwrap(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    const EXAMPLE_OF_RFC_7638: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;

    /// A scalar without its point, as RFC 5915 allows.
    const WITHOUT_PUBLIC_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MEECAQAwEwYHKoZIzj0CAQYIKoZIzj0DAQcEJzAlAgEBBCABAgMEBQYHCAkKCwwN\n\
        Dg8QERITFBUWFxgZGhscHR4fIA==\n-----END PRIVATE KEY-----\n";

    #[test]
    fn bad_keys_are_refused_with_the_reason() {
        let refused = |algorithm, pem: &[u8]| PrivateKey::from_pem(algorithm, pem).unwrap_err();
        let without = WITHOUT_PUBLIC_KEY.as_bytes();
        assert_eq!(refused(Algorithm::ES256, without), KeyError::NotAPrivateKey(Algorithm::ES256));
        // What the settings' error proposes makes it one.
        let mended = openssl(&["pkcs8", "-topk8", "-nocrypt"], &openssl(&["ec"], without));
        assert!(PrivateKey::from_pem(Algorithm::ES256, &mended).is_ok());

        assert_eq!(refused(Algorithm::RS256, &rsa(1024)), KeyError::RsaSize);
        let pkcs1 = openssl(&["rsa", "-traditional"], &rsa(1024));
        assert_eq!(refused(Algorithm::RS256, &pkcs1), KeyError::RsaSize);
        let pkcs1 = openssl(&["rsa", "-traditional"], &rsa(2048));
        assert!(pkcs1.starts_with(b"-----BEGIN RSA PRIVATE KEY-----"));
        assert!(PrivateKey::from_pem(Algorithm::RS256, &pkcs1).is_ok());
        for (algorithm, pem) in [
            (Algorithm::ES256, &rsa(2048)[..]),
            (Algorithm::ES384, &mended),
            (Algorithm::EdDSA, &mended),
            (Algorithm::RS256, &mended),
            (Algorithm::ES256, b"no key"),
        ] {
            assert_eq!(refused(algorithm, pem), KeyError::NotAPrivateKey(algorithm));
        }
    }
}
