//! The Meet-compatible surface.

use std::{path::PathBuf, time::Duration};

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
            DAY, SECOND, choice, duration, duration_or_seconds, exact_origin, flag, list_of,
            number, path, secret_of, service_url, text,
        },
    },
    util::http_client::Authorities,
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
        /// URL of the platform that answers with the account of a browser, such as
        /// `https://meet.internal/api/v1.0/users/me/`; the platform keeps its own login then, and
        /// the relay serves `addons/sessions/` alone
        account_url: Option<Url> =
            setting("MEET_ACCOUNT_URL").optional("none; the relay has the login"), service_url;
        /// PEM file with the certificate authorities of `MEET_ACCOUNT_URL`
        account_ca: Option<PathBuf> = setting("MEET_ACCOUNT_CA").optional("the system's"), path;
        /// Field of that answer that becomes `user_id`, a text or an integer
        user_id_field: String = setting("MEET_USER_ID_FIELD").default("id"), text;
        /// Origins besides that of `PUBLIC_URL` whose pages may call `exchange`, separated by
        /// commas; `https://*.example.org` for all below `example.org`
        csrf_trusted_origins: Vec<TrustedOrigin> =
            setting("CSRF_TRUSTED_ORIGINS").optional("none").unprefixed()
                .alias(&["DJANGO_CSRF_TRUSTED_ORIGINS"]),
            list_of(trusted_origin);
        /// Name of the cookie with the CSRF token of `exchange`
        csrf_cookie: String =
            setting("CSRF_COOKIE_NAME").default("csrftoken").unprefixed(), cookie_name;
        /// URLs below which `authenticate` may return
        return_to: Vec<Url> = setting("MEET_RETURN_TO")
            .optional("none; required without `MEET_ACCOUNT_URL`"), list_of(return_url);
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
        /// Whether its session cookie is `Partitioned`, without which some browsers drop it in a
        /// frame of another site
        partitioned: bool = setting("MEET_COOKIE_PARTITIONED").default("true"), flag;
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

/// Where a page that calls `exchange` may be, as in Django's `CSRF_TRUSTED_ORIGINS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedOrigin {
    /// Exactly this origin.
    Exact(String),
    /// A host and every one below it.
    Domain {
        /// `http` or `https`.
        scheme: String,
        /// The host, with its port where that is not the scheme's own.
        host: String,
    },
}

impl TrustedOrigin {
    /// Whether it is `origin`, which is in its canonical form.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(own) => own == origin,
            Self::Domain { scheme, host } => {
                origin.split_once("://").is_some_and(|(other, found)| {
                    other == scheme
                        && found.strip_suffix(host.as_str()).is_some_and(|subdomain| {
                            subdomain.is_empty() || subdomain.ends_with('.')
                        })
                })
            }
        }
    }
}

fn trusted_origin(text: &str) -> Result<TrustedOrigin, String> {
    let expected = "origins such as https://meet.example or https://*.example.org (no path)";
    let (scheme, host) = text.split_once("://").ok_or(expected)?;
    let (is_domain, host) = match host.strip_prefix("*.") {
        Some(domain) => (true, domain),
        None => (false, host),
    };
    let origin = format!("{scheme}://{host}");
    exact_origin(&origin).ok_or(expected)?;
    Ok(match is_domain {
        true => TrustedOrigin::Domain { scheme: scheme.to_owned(), host: host.to_owned() },
        false => TrustedOrigin::Exact(origin),
    })
}

impl MeetSettings {
    /// The section where the surface is on.
    pub(crate) fn read_if_on(source: &mut Source) -> Option<Self> {
        let MeetSwitch { on } = MeetSwitch::read(source)?;
        if on && !source.has("MEET_ACCOUNT_URL") && !source.has("MEET_RETURN_TO") {
            source.missing("MEET_RETURN_TO", "with MEET_COMPATIBLE and without MEET_ACCOUNT_URL");
        }
        on.then(|| Self::read(source)).flatten()
    }

    /// Whether the relay has the login, not the platform.
    pub(crate) fn has_login(&self) -> bool {
        self.account_url.is_none()
    }

    /// The certificate authorities of `account_url`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn account_authorities(&self) -> std::io::Result<Authorities> {
        let Some(path) = &self.account_ca else { return Ok(Authorities::default()) };
        Ok(Authorities::from_pem(&std::fs::read(path)?).unwrap_or_default())
    }

    pub(crate) fn check(&self, source: &mut Source) {
        if let Some(url) = &self.account_url {
            warn_of_plain_http(source, "MEET_ACCOUNT_URL", url, "people's cookies");
        }
        check_authorities(source, "MEET_ACCOUNT_CA");
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

/// Warns where a service is called without TLS, which carries `what`.
pub(crate) fn warn_of_plain_http(source: &mut Source, name: &str, url: &Url, what: &str) {
    if !is_secure(url) {
        source.warn(name, format!("is plain HTTP: anybody on the network in between reads {what}"));
    }
}

/// Checks a file with certificate authorities, where one is named.
pub(crate) fn check_authorities(source: &mut Source, name: &str) {
    if source.has(name)
        && source.content(name).is_some_and(|pem| Authorities::from_pem(&pem).is_none())
    {
        source.reject(name, "a file with certificates in PEM");
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
