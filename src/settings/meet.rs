//! The Meet-compatible surface.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use token_relay_client::is_secure;
use url::Url;

use crate::{
    api::Secret,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        source::Source,
        token::random_key,
        value::{
            DAY, SECOND, choice, duration, duration_or_seconds, flag, list_of, number, secret_of,
            text,
        },
    },
};

/// Minimum length of a secret shared with the Django service, in characters.
const MIN_SECRET: usize = 32;

section! {
    /// Whether the Meet-compatible surface is served.
    pub struct MeetSwitch {
        /// Serve the Meet-compatible surface
        on: bool = setting("MEET_COMPATIBLE").default("false").alias(&["ADDONS_ENABLED"]), flag;
    }
}

section! {
    /// The Meet-compatible surface. Plain numbers are seconds in durations of `ADDONS_*`.
    pub struct MeetSettings {
        /// URLs below which `authenticate` may return
        return_to: Vec<Url> =
            setting("MEET_RETURN_TO").required("with `MEET_COMPATIBLE`"), list_of(return_url);
        /// What `exchange` needs besides the transit token: `none`, or `address` for the network of `init`
        proof: MeetProof = setting("MEET_PROOF").default("none"),
            choice(&[("none", MeetProof::None), ("address", MeetProof::Address)]);
        /// ID-token claim that becomes `user_id`
        user_id_claim: String = setting("MEET_USER_ID_CLAIM").default("sub"), text;
        /// Lifetime of the browser login
        login_ttl: Duration = setting("MEET_LOGIN_TTL").default("12h"), duration(SECOND, 30 * DAY);
        /// Whether `logout` with `returnTo` logs out at the provider too, where it announces that;
        /// `<PUBLIC_URL>/api/v1.0/logout-callback/` must be registered there
        provider_logout: bool = setting("MEET_PROVIDER_LOGOUT").default("true"), flag;
        /// Lifetime of a session of this surface
        session_ttl: Duration =
            setting("ADDONS_SESSION_TTL").default("1h").unprefixed(),
            duration_or_seconds(SECOND, 30 * DAY);
        /// Lifetime of its transit tokens
        transit_token_ttl: Duration =
            setting("ADDONS_TRANSIT_TOKEN_TTL").default("2m").unprefixed(),
            duration_or_seconds(SECOND, 30 * DAY);
        /// Key of its CSRF tokens, 32 characters or more
        csrf_secret: Secret =
            secret("ADDONS_CSRF_SECRET").required("with `MEET_COMPATIBLE`").unprefixed()
                .reload(Reloadable::MeetCsrfSecret),
            secret_of(MIN_SECRET);
        /// Key of its access tokens, 32 characters or more
        token_secret_key: Secret =
            secret("ADDONS_TOKEN_SECRET_KEY").required("with `MEET_COMPATIBLE`").unprefixed()
                .reload(Reloadable::MeetTokenSecretKey),
            secret_of(MIN_SECRET);
        /// Algorithm of its access tokens, `HS256`, `HS384` or `HS512`
        token_algorithm: Algorithm = setting("ADDONS_TOKEN_ALG").default("HS256").unprefixed(),
            choice(&[
                ("HS256", Algorithm::HS256),
                ("HS384", Algorithm::HS384),
                ("HS512", Algorithm::HS512),
            ]);
        /// `iss` of its access tokens
        token_issuer: String =
            setting("ADDONS_TOKEN_ISSUER").default("lasuite-meet").unprefixed(), text;
        /// `aud` of its access tokens
        token_audience: String =
            setting("ADDONS_TOKEN_AUDIENCE").default("addons").unprefixed(), text;
        /// Lifetime of its access tokens
        token_ttl: Duration = setting("ADDONS_TOKEN_TTL").default("2h").unprefixed(),
            duration_or_seconds(SECOND, 30 * DAY);
        /// `token_type` of its answers
        token_type: String = setting("ADDONS_TOKEN_TYPE").default("Bearer").unprefixed(), text;
        /// `scope` of its access tokens
        token_scope: String =
            setting("ADDONS_TOKEN_SCOPE").default("rooms:create").unprefixed(), text;
        /// Random bytes in session ID and transit token
        random_token_byte_length: usize =
            setting("ADDONS_RANDOM_TOKEN_BYTE_LENGTH").default("60").unprefixed(),
            number(32..=256);
        /// Name of its session cookie
        session_id_cookie: String =
            setting("ADDONS_SESSION_ID_COOKIE").default("addonsSid").unprefixed(), cookie_name;
    }
}

/// What `exchange` of the Meet-compatible surface needs besides the transit token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeetProof {
    /// Nothing, as in the Django service: the page that the transit token is handed to decides.
    None,
    /// The network that called `init`: the same IPv4 address, or the same /64 of IPv6.
    Address,
}

impl MeetSettings {
    /// The section where the surface is on.
    pub(crate) fn read_if_on(source: &mut Source) -> Option<Self> {
        let MeetSwitch { on } = MeetSwitch::read(source)?;
        on.then(|| Self::read(source)).flatten()
    }

    pub(crate) fn check(&self, source: &mut Source) {
        for (name, secret) in [
            ("ADDONS_CSRF_SECRET", &self.csrf_secret),
            ("ADDONS_TOKEN_SECRET_KEY", &self.token_secret_key),
        ] {
            if !random_key(secret.expose()) {
                source.warn(
                    name,
                    "is not 32 random bytes in base64 or hex and may be guessed; the Django service \
                     shares it, so replace it in both",
                );
            }
        }
        if self.proof == MeetProof::None {
            source.warn(
                "MEET_PROOF",
                "with `none` a stranger who sends somebody the link of a dialog obtains that \
                 person's token, unless the page that calls `exchange` prevents it; `address` \
                 accepts only the network of `init`",
            );
        }
    }
}

fn return_url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .ok()
        .filter(is_secure)
        .ok_or_else(|| "https URLs separated by commas".to_owned())
}

fn cookie_name(text: &str) -> Result<String, String> {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return Ok(text.to_owned());
    }
    Err("letters, digits, dashes, dots, underscores".to_owned())
}
