//! Access tokens, refresh tokens and the keys of this service.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use zeroize::Zeroizing;

use crate::{
    api::Secret,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        source::Source,
        value::{DAY, MINUTE, SECOND, choice, duration, list, secret_of, secrets_of, text},
    },
    token::SigningKeys,
};

/// Shortest secret that keys are made of, in characters.
const MIN_SECRET: usize = 32;

section! {
    /// Access tokens, refresh tokens and the keys of this service.
    pub struct TokenSettings {
        /// Secrets of 32 characters or more, separated by commas or lines; the first seals cookies, all open
        cookie_keys: Vec<Secret> =
            secret("COOKIE_KEYS").optional("random; required with Redis")
                .reload(Reloadable::CookieKeys),
            secrets_of(MIN_SECRET);
        /// Likewise, for tokens in the store
        sealing_keys: Vec<Secret> =
            secret("SEALING_KEYS").optional("random; required with Redis")
                .reload(Reloadable::SealingKeys),
            secrets_of(MIN_SECRET);
        /// `ES256`, `EdDSA`, `RS256` or `HS256`
        algorithm: Algorithm =
            setting("SIGNING_ALGORITHM").default("ES256").reload(Reloadable::SigningKeys),
            choice(&[
                ("ES256", Algorithm::ES256),
                ("EdDSA", Algorithm::EdDSA),
                ("RS256", Algorithm::RS256),
                ("HS256", Algorithm::HS256),
            ]);
        /// PEM private key (PKCS#8), or a secret of 32 characters or more for HS256; of several, one after the other, the first signs, all verify
        signing_key: Option<Secret> =
            secret("SIGNING_KEY").optional("random; required with Redis")
                .reload(Reloadable::SigningKeys),
            secret_of(MIN_SECRET);
        /// Likewise, keys that only verify
        previous_signing_key: Option<Secret> =
            secret("PREVIOUS_SIGNING_KEY").optional("none").reload(Reloadable::SigningKeys),
            secret_of(MIN_SECRET);
        /// `iss` of access tokens
        issuer: Option<String> = setting("TOKEN_ISSUER").optional("`PUBLIC_URL`"), text;
        /// `aud` of access tokens, separated by commas
        audience: Vec<String> = setting("TOKEN_AUDIENCE").optional("`PUBLIC_URL`"), list;
        /// `scope` of access tokens
        scope: String = setting("TOKEN_SCOPE").default("addons"), text;
        /// Lifetime of access tokens
        ttl: Duration = setting("TOKEN_TTL").default("1h"), duration(SECOND, 30 * DAY);
        /// Claims copied from ID token or userinfo
        claims: Vec<String> = setting("TOKEN_CLAIMS").default("name,email"), list;
        /// Time for which a refresh token may stay unused; for bound sessions
        refresh_token_ttl: Option<Duration> =
            setting("REFRESH_TOKEN_TTL").optional("off"), duration(SECOND, 3650 * DAY);
        /// Time for which refresh tokens may follow one login
        refresh_grant_ttl: Duration =
            setting("REFRESH_GRANT_TTL").default("30days"), duration(MINUTE, 3650 * DAY);
    }
}

impl TokenSettings {
    pub(crate) fn check(&self, source: &mut Source) {
        if self.algorithm == Algorithm::RS256 && !source.has("SIGNING_KEY") {
            source.missing("SIGNING_KEY", "with RS256");
        }
        let expected = match self.algorithm {
            Algorithm::EdDSA => "a PEM private key of Ed25519 (PKCS#8)",
            Algorithm::RS256 => "a PEM private key of RSA, of 2048 to 4096 bits",
            Algorithm::HS256 => "a secret of 32 bytes or more on each line",
            _ => {
                "a PEM private key on P-256 (PKCS#8 that holds its public key too, as \
                 `openssl ec -in KEY | openssl pkcs8 -topk8 -nocrypt` writes it)"
            }
        };
        for (name, text, keys) in [
            ("SIGNING_KEY", &self.signing_key, self.signing_keys()),
            ("PREVIOUS_SIGNING_KEY", &self.previous_signing_key, self.previous_signing_keys()),
        ] {
            let fits = |key: &Secret| {
                SigningKeys::from_secret(self.algorithm, key.expose().as_bytes()).is_ok()
            };
            if text.is_some() && (keys.is_empty() || !keys.iter().all(fits)) {
                source.reject(name, expected);
            }
        }
        if self.refresh_token_ttl.is_some_and(|ttl| ttl < self.ttl) {
            source.reject("REFRESH_TOKEN_TTL", "no less than TOKEN_TTL");
        }
    }

    /// Keys that verify, in the order in which they are configured; the first signs.
    pub fn signing_keys(&self) -> Vec<Secret> {
        self.signing_key.as_ref().map(keys).unwrap_or_default()
    }

    /// Keys that only verify.
    pub fn previous_signing_keys(&self) -> Vec<Secret> {
        self.previous_signing_key.as_ref().map(keys).unwrap_or_default()
    }
}

/// The keys in a text: PEM blocks, or secrets, one a line.
fn keys(text: &Secret) -> Vec<Secret> {
    if text.expose().starts_with("-----BEGIN") {
        // Files of environment variables have one line for each, so PEM comes with `\n` in it.
        return pem_blocks(&Zeroizing::new(text.expose().replace("\\n", "\n")));
    }
    text.expose().lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::from).collect()
}

/// The blocks of a PEM text, each with its own first and last line (RFC 7468 §2); one that is cut
/// off too, so that it is not overlooked. What stands between them is explanatory text.
pub(crate) fn pem_blocks(text: &str) -> Vec<Secret> {
    let (mut blocks, mut block) = (Vec::new(), Zeroizing::new(String::new()));
    for line in text.lines().map(str::trim) {
        if block.is_empty() && !line.starts_with("-----BEGIN") {
            continue;
        }
        block.push_str(line);
        block.push('\n');
        if line.starts_with("-----END") {
            blocks.push(Secret::from(block.as_str()));
            block.clear();
        }
    }
    if !block.is_empty() {
        blocks.push(Secret::from(block.as_str()));
    }
    blocks
}
