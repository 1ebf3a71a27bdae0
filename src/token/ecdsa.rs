//! ES256 for the JWT library by ring, which verifies in a fraction of the time.
//!
//! Called by `keys`, once, before the library makes its own choice.

use std::sync::LazyLock;

use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::{CryptoProvider, JwtVerifier, rust_crypto},
    errors::Error,
    signature,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(|| CryptoProvider {
    verifier_factory: verifier,
    ..rust_crypto::DEFAULT_PROVIDER.clone()
});

/// Makes it the library's. Who comes too late, or again, changes nothing: then the library verifies
/// as before, only slower.
pub(crate) fn install() {
    let _ = PROVIDER.install_default();
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    match algorithm {
        Algorithm::ES256 => {
            let point = key.try_get_as_bytes()?.to_vec();
            Ok(Box::new(P256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point))))
        }
        _ => (rust_crypto::DEFAULT_PROVIDER.verifier_factory)(algorithm, key),
    }
}

/// A public key on P-256, as an uncompressed point (SEC 1 §2.3.3).
struct P256(UnparsedPublicKey<Vec<u8>>);

impl signature::Verifier<Vec<u8>> for P256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.0.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for P256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix A.3 of RFC 7515.
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    #[test]
    fn the_example_of_the_rfc_verifies_and_nothing_else_does() {
        let key = DecodingKey::from_ec_components(X, Y).unwrap();
        let verifier = verifier(&Algorithm::ES256, &key).unwrap();
        let (message, signature) = TOKEN.rsplit_once('.').unwrap();
        let decode = |text: &str| {
            use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
            URL_SAFE_NO_PAD.decode(text).unwrap()
        };
        let good = decode(signature);
        assert!(verifier.verify(message.as_bytes(), &good).is_ok());
        assert!(verifier.verify(&message.as_bytes()[1..], &good).is_err());
        for (index, _) in good.iter().enumerate() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert!(verifier.verify(message.as_bytes(), &bad).is_err(), "{index}");
        }
        // Zeros once verified everything somewhere (CVE-2022-21449), and lengths are exact.
        for bad in [vec![0; 64], Vec::new(), good[..63].to_vec(), [&good[..], &[0]].concat()] {
            assert!(verifier.verify(message.as_bytes(), &bad).is_err());
        }
    }
}
