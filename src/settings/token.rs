//! Access tokens, refresh tokens and the keys of this service.

use std::{collections::BTreeSet, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::Algorithm;
use zeroize::Zeroizing;

use crate::{
    api::Secret,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        source::Source,
        value::{DAY, MINUTE, SECOND, choice, duration, flag, list, secret_of, secrets_of, text},
    },
    token::{Format, SigningKeys},
};

/// Random bytes of a key.
const KEY_BYTES: usize = 32;

/// Minimum length of a secret that keys derive from, in characters.
const MIN_SECRET: usize = 32;

section! {
    /// Access tokens, refresh tokens and the keys of this service.
    pub struct TokenSettings {
        /// Keys of 32 random bytes in base64 or hex, separated by commas or lines, as
        /// `token-relay keys` makes them; the first seals cookies, all open
        cookie_keys: Vec<Secret> =
            secret("COOKIE_KEYS").optional("random; required with Redis")
                .reload(Reloadable::CookieKeys),
            sealing_keys;
        /// Likewise, for tokens in the store
        sealing_keys: Vec<Secret> =
            secret("SEALING_KEYS").optional("random; required with Redis")
                .reload(Reloadable::SealingKeys),
            sealing_keys;
        /// Key derivation with which cookies and tokens are sealed: `1` is opened by version 0.1 too,
        /// `2` is HKDF. `auto` seals with `1` over Redis until no instance of 0.1 has been noticed
        /// there for a day. Both are opened
        format: Option<Format> = setting("SEALING_FORMAT").default("auto"),
            choice(&[("auto", None), ("1", Some(Format::V1)), ("2", Some(Format::V2))]);
        /// `ES256`, `EdDSA`, `RS256` or `HS256`
        algorithm: Algorithm =
            setting("SIGNING_ALGORITHM").default("ES256").reload(Reloadable::SigningKeys),
            choice(&[
                ("ES256", Algorithm::ES256),
                ("EdDSA", Algorithm::EdDSA),
                ("RS256", Algorithm::RS256),
                ("HS256", Algorithm::HS256),
            ]);
        /// PEM private key (PKCS#8), or 32 random bytes in base64 or hex for HS256; of several, one after the other, the first signs, all verify
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
        /// Whether access tokens must be bound to a key of the client (DPoP, RFC 9449), which a client
        /// may always ask for
        dpop_required: bool = setting("DPOP_REQUIRED").default("false"), flag;
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
            Algorithm::HS256 => "32 random bytes in base64 or hex on each line",
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
        let of_signing = match self.algorithm {
            // A key may be in both lists while it is rotated.
            Algorithm::HS256 => {
                let mut keys = self.signing_keys();
                let own: BTreeSet<_> = keys.iter().map(|key| key.expose().to_owned()).collect();
                let previous = self.previous_signing_keys().into_iter();
                keys.extend(previous.filter(|key| !own.contains(key.expose())));
                keys
            }
            _ => Vec::new(),
        };
        let names = ["COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY"];
        let keys = [self.cookie_keys.as_slice(), &self.sealing_keys, &of_signing];
        let mut known = BTreeSet::new();
        for (name, keys) in names.into_iter().zip(keys) {
            for (place, key) in keys.iter().enumerate() {
                if !known.insert(key.expose()) {
                    source.reject(name, "keys that differ from each other and from all others");
                    break;
                }
                match random_key(key.expose()) {
                    true => {}
                    false if place == 0 => {
                        source.reject(name, RANDOM_KEY);
                    }
                    false => source.warn(
                        name,
                        "a key that is not 32 random bytes still opens or verifies what was made \
                         with it; remove it once that has expired",
                    ),
                }
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

const RANDOM_KEY: &str =
    "a key of 32 random bytes in base64 or hex in front, as `token-relay keys` makes it";

fn sealing_keys(text: &str) -> Result<Vec<Secret>, String> {
    secrets_of(MIN_SECRET)(text).map_err(|_| RANDOM_KEY.to_owned())
}

/// Whether a text is 32 random bytes or more in hex or base64. Repeated and patterned bytes are
/// not: of 32 random ones fewer than 16 different are out of the question.
pub(crate) fn random_key(text: &str) -> bool {
    let decoded = if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        hex::decode(text).ok()
    } else {
        let text = text.trim_end_matches('=');
        STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok()
    };
    decoded.map(Zeroizing::new).is_some_and(|bytes| {
        bytes.len() >= KEY_BYTES && bytes.iter().collect::<BTreeSet<_>>().len() >= KEY_BYTES / 2
    })
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
