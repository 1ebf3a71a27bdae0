//! Errors of keys and of signing.

use jsonwebtoken::Algorithm;

/// A key cannot be used. Never says what the key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("no key given")]
    Missing,
    /// A secret that could be guessed.
    #[error("the secret must have {min} bytes or more")]
    TooShort {
        /// Bytes that it must have.
        min: usize,
    },
    /// Not a private key for the algorithm, or, on an elliptic curve, one without its public key,
    /// which RFC 5915 lets a writer leave out.
    #[error("not a PEM private key for {0:?} (PKCS#8, with its public key)")]
    NotAPrivateKey(Algorithm),
    /// RSA of less than 2048 bits (RFC 7518 §3.3), or of more than are supported.
    #[error("an RSA key must have 2048 to 4096 bits")]
    RsaSize,
    /// No algorithm that this service signs with.
    #[error("{0:?} is not supported")]
    Unsupported(Algorithm),
    /// A key for this algorithm cannot be generated.
    #[error("a key for {0:?} must be configured")]
    CannotGenerate(Algorithm),
}

/// A token cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The claims cannot be represented.
    #[error("the token cannot be serialised")]
    Serialise(#[from] serde_json::Error),
    /// The key does not sign.
    #[error("the key does not sign")]
    Refused,
}
