//! Verifies the provider's tokens: ID tokens (OpenID Connect Core §3.1.3.7),
//! signed userinfo (§5.3.2) and logout tokens (Back-Channel Logout §2.6).
//!
//! Typed is only what the protocol needs; every other claim may have any shape, and one that is
//! null counts as absent.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::{
    oidc::{
        error::{LoginError, Step},
        jws::{self, Jws, KeySet, Malformed},
        metadata::Metadata,
        options::{ClientSecrets, ProviderOptions, Text, lists},
    },
    session::Digest,
    util::clock::UnixTime,
};

/// The event of a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// How old a logout token without `exp` may be.
const LOGOUT_TOKEN_TTL: Duration = Duration::from_secs(120);

/// Why a token is not accepted.
#[derive(Debug)]
pub(crate) enum Unverified {
    /// The metadata or keys in use do not fit; newer ones may.
    Outdated(LoginError),
    /// It says something wrong.
    Wrong(LoginError),
}

impl Unverified {
    pub(crate) fn into_error(self) -> LoginError {
        match self {
            Self::Outdated(error) | Self::Wrong(error) => error,
        }
    }
}

/// A verified ID token.
#[derive(Debug)]
pub(crate) struct IdToken {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// All its claims, without those that are null.
    pub(crate) claims: Map<String, Value>,
}

/// Whom a logout token logs out: the session at the provider if it names one, else all of the
/// subject's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutToken {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: Option<String>,
    /// `sid`.
    pub session_id: Option<String>,
    /// `iat`.
    pub issued_at: UnixTime,
}

/// What a token is verified against.
pub(crate) struct TokenVerifier<'p> {
    pub(crate) options: &'p ProviderOptions,
    pub(crate) secrets: &'p ClientSecrets,
    pub(crate) metadata: &'p Metadata,
    pub(crate) keys: &'p KeySet,
}

impl TokenVerifier<'_> {
    /// Verifies an ID token.
    pub(crate) fn id_token(
        &self,
        token: &str,
        nonce: &str,
        access_token: &str,
    ) -> Result<IdToken, Unverified> {
        let (claims, algorithm) = self.signed(Step::IdToken, token)?;
        self.id_claims(claims, algorithm, nonce, access_token).map_err(Unverified::Wrong)
    }

    fn id_claims(
        &self,
        claims: Map<String, Value>,
        algorithm: Algorithm,
        nonce: &str,
        access_token: &str,
    ) -> Result<IdToken, LoginError> {
        let claims = Claims { step: Step::IdToken, claims };
        let issuer = self.issuer(&claims)?;
        self.audience(&claims)?;
        let now = now();
        claims.required_time("exp")?;
        claims.required_time("iat")?;
        self.times(&claims, now)?;
        let subject = claims.required_text("sub")?.to_owned();
        match claims.text("nonce")? {
            None => return Err(claims.wrong("nonce", "missing")),
            Some(found) if !same(found, nonce) => {
                return Err(claims.wrong("nonce", "of another sign-in"));
            }
            Some(_) => {}
        }
        if let Some(expected) = claims.text("at_hash")?
            && !half_hashes(algorithm, access_token).iter().any(|hash| hash == expected)
        {
            return Err(claims.wrong("at_hash", "of another access token"));
        }
        Ok(IdToken { issuer, subject, claims: claims.claims })
    }

    /// Verifies userinfo that came signed. Its `sub` is the caller's to compare.
    pub(crate) fn userinfo(&self, token: &str) -> Result<Map<String, Value>, Unverified> {
        let (claims, _) = self.signed(Step::Userinfo, token)?;
        let claims = Claims { step: Step::Userinfo, claims };
        let verified = || {
            // The specification has both in a signed answer (§5.3.2), but not as a must.
            if claims.has("iss") {
                self.issuer(&claims)?;
            }
            if claims.has("aud") {
                self.audience(&claims)?;
            }
            self.times(&claims, now())
        };
        match verified() {
            Ok(()) => Ok(claims.claims),
            Err(error) => Err(Unverified::Wrong(error)),
        }
    }

    /// Verifies a logout token.
    pub(crate) fn logout_token(&self, token: &str) -> Result<LogoutToken, Unverified> {
        let (claims, _) = self.signed(Step::LogoutToken, token)?;
        self.logout_claims(Claims { step: Step::LogoutToken, claims }).map_err(Unverified::Wrong)
    }

    fn logout_claims(&self, claims: Claims) -> Result<LogoutToken, LoginError> {
        let issuer = self.issuer(&claims)?;
        self.audience(&claims)?;
        let now = now();
        let issued_at = claims.required_time("iat")?;
        self.times(&claims, now)?;
        let oldest = now - LOGOUT_TOKEN_TTL.as_secs_f64() - self.options.clock_skew.as_secs_f64();
        if !claims.has("exp") && issued_at < oldest {
            return Err(claims.wrong("iat", "too long ago for a token without `exp`"));
        }
        let event = claims.claims.get("events").and_then(|events| events.get(LOGOUT_EVENT));
        if !event.is_some_and(Value::is_object) {
            return Err(claims.wrong("events", "no logout"));
        }
        // So that no ID token is taken for one.
        if claims.has("nonce") {
            return Err(claims.wrong("nonce", "present"));
        }
        let [subject, session_id] = [claims.text("sub")?, claims.text("sid")?];
        let [subject, session_id] = [subject, session_id].map(|text| text.map(str::to_owned));
        if subject.is_none() && session_id.is_none() {
            return Err(claims.wrong("sub", "missing, as is `sid`"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let issued_at = UnixTime::from_millis((issued_at.clamp(0.0, 1e12) * 1000.0) as u64);
        Ok(LogoutToken { issuer, subject, session_id, issued_at })
    }

    /// Verifies the signature; gives the claims without those that are null.
    fn signed(
        &self,
        step: Step,
        token: &str,
    ) -> Result<(Map<String, Value>, Algorithm), Unverified> {
        let wrong = |reason: Text| Unverified::Wrong(LoginError::failed(step, reason));
        let outdated =
            |field, reason: Text| Unverified::Outdated(LoginError::failed(step, reason).at(field));
        let jws = Jws::parse(token).map_err(|error: Malformed| wrong(error.to_string().into()))?;
        // Explicit types keep one kind of token from being taken for another (RFC 8725 §3.11).
        let is_logout = jws.media_type.as_deref() == Some("logout+jwt");
        let is_access = jws.media_type.as_deref() == Some("at+jwt");
        if is_access || (is_logout && step != Step::LogoutToken) {
            let error = LoginError::failed(step, "`typ`: another kind of token").at("typ");
            return Err(Unverified::Wrong(error));
        }
        let name = crate::oidc::provider_error::clean(&jws.algorithm_name);
        let Some(algorithm) = jws::algorithm(&name) else {
            return Err(Unverified::Wrong(
                LoginError::failed(
                    step,
                    format!(
                        "the signature algorithm {name} is not supported; supported are {}",
                        jws::SUPPORTED.join(", ")
                    ),
                )
                .at("alg"),
            ));
        };
        if let Err((reason, may_change)) = self.allows(step, algorithm, &name) {
            let error = LoginError::failed(step, reason).at("alg");
            return Err(if may_change {
                Unverified::Outdated(error)
            } else {
                Unverified::Wrong(error)
            });
        }
        let verified = if jws::is_symmetric(algorithm) {
            let keys = self.secrets.expose().map(|text| DecodingKey::from_secret(text.as_bytes()));
            jws.is_signed_by(algorithm, &keys.collect::<Vec<_>>())
        } else {
            let candidates = self.keys.candidates(algorithm, jws.key_id());
            if candidates.is_empty() {
                return Err(outdated("kid", "the provider's key set has no key for it".into()));
            }
            // A set that serves several issuers says which key is whose.
            let is_of_issuer = |issuer: &str| {
                let claim = |name: &str| jws.unverified().get(name).and_then(Value::as_str);
                let tenant = claim("tid").unwrap_or_default();
                claim("iss").is_some_and(|iss| iss == issuer.replace("{tenantid}", tenant))
            };
            let candidates = candidates
                .into_iter()
                .filter(|key| key.issuer.as_deref().is_none_or(is_of_issuer))
                .map(|key| key.decoding_key());
            jws.is_signed_by(algorithm, candidates)
        };
        if !verified {
            let by = if jws::is_symmetric(algorithm) {
                "its signature does not verify with the client secret"
            } else {
                "its signature does not verify with a key of the provider"
            };
            return Err(outdated("signature", by.into()));
        }
        let mut claims = jws.into_claims();
        claims.retain(|_, value| !value.is_null());
        Ok((claims, algorithm))
    }

    /// Whether tokens may be signed with `algorithm`; if not, why, and whether newer metadata may
    /// change that.
    fn allows(&self, step: Step, algorithm: Algorithm, name: &str) -> Result<(), (Text, bool)> {
        let configured = &self.options.signing_algorithms;
        if configured.contains(algorithm) {
            return if jws::is_symmetric(algorithm) && self.secrets.is_empty() {
                Err((format!("{name} needs OIDC_CLIENT_SECRET").into(), false))
            } else {
                Ok(())
            };
        }
        if jws::is_symmetric(algorithm) {
            let reason = format!(
                "it is signed with {name}, that is with the client secret; choose RS256 or ES256 \
                 for this client at the provider, or allow it by OIDC_SIGNING_ALGORITHMS={name}"
            );
            return Err((reason.into(), false));
        }
        if !configured.is_empty() {
            return Err((format!("{name} is not in OIDC_SIGNING_ALGORITHMS").into(), false));
        }
        let announced = self.metadata.signing_algorithms.as_deref();
        let is_announced = |name: &str| lists(announced, name).unwrap_or(true);
        let is_edwards = algorithm == Algorithm::EdDSA;
        let by_other_name = is_edwards && (is_announced("EdDSA") || is_announced("Ed25519"));
        if step != Step::IdToken || is_announced(name) || by_other_name {
            Ok(())
        } else {
            let reason =
                format!("{name} is not in the provider's id_token_signing_alg_values_supported");
            Err((reason.into(), true))
        }
    }

    /// The issuer, which is the provider's, or that of an allowed tenant.
    fn issuer(&self, claims: &Claims) -> Result<String, LoginError> {
        let issuer = claims.required_text("iss")?;
        let own = &self.metadata.issuer;
        let tenant = claims.text("tid")?;
        let expected = if own.is_template() {
            own.of_tenant(tenant.ok_or_else(|| claims.wrong("tid", "missing"))?)
        } else {
            own.as_str().to_owned()
        };
        if issuer != expected {
            return Err(claims.wrong("iss", "another issuer"));
        }
        let allowed = &self.options.allowed_tenants;
        let is_allowed = |tenant: &str| allowed.iter().any(|one| one.eq_ignore_ascii_case(tenant));
        if (own.is_template() || !allowed.is_empty()) && !tenant.is_some_and(is_allowed) {
            let error = LoginError::new(
                crate::oidc::error::FailureKind::NotAllowed,
                Step::Requirements,
                "the account's tenant is not in OIDC_ALLOWED_TENANTS",
            );
            return Err(error.at("tid"));
        }
        Ok(expected)
    }

    /// The audience: this client, and further ones only where they are known or the token was made
    /// for this client (`azp`).
    fn audience(&self, claims: &Claims) -> Result<(), LoginError> {
        let client_id = self.options.client_id.as_str();
        let audiences = match claims.claims.get("aud") {
            None => return Err(claims.wrong("aud", "missing")),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several
                .iter()
                .map(|one| one.as_str().ok_or_else(|| claims.wrong("aud[]", "not text")))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(claims.wrong("aud", "neither text nor a list")),
        };
        if !audiences.contains(&client_id) {
            return Err(claims.wrong("aud", "for another client"));
        }
        let authorized = claims.text("azp")?;
        if authorized.is_some_and(|party| party != client_id) {
            return Err(claims.wrong("azp", "another client"));
        }
        let trusted = &self.options.trusted_audiences;
        let is_known = |one: &&str| *one == client_id || trusted.iter().any(|known| known == one);
        if authorized.is_none() && !audiences.iter().all(is_known) {
            return Err(claims.wrong(
                "aud",
                "further audiences without `azp`, none of them in \
                 OIDC_TRUSTED_AUDIENCES",
            ));
        }
        Ok(())
    }

    /// `exp`, `iat` and `nbf`, as far as they are there.
    fn times(&self, claims: &Claims, now: f64) -> Result<(), LoginError> {
        let skew = self.options.clock_skew.as_secs_f64();
        let setting = format!(
            "OIDC_CLOCK_SKEW, now {}, tolerates a difference between the clocks",
            humantime::format_duration(self.options.clock_skew)
        );
        if let Some(expires) = claims.time("exp")?
            && expires + skew <= now
        {
            let ago = now - expires;
            return Err(claims.wrong("exp", &format!("expired {ago:.0} s ago; {setting}")));
        }
        for name in ["iat", "nbf"] {
            if let Some(from) = claims.time(name)?
                && from > now + skew
            {
                let ahead = from - now;
                return Err(claims.wrong(
                    name,
                    &format!(
                        "{ahead:.0} s in the future: the provider's clock and this host's differ; \
                         {setting}"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Claims, read with errors that name the claim and never its value.
struct Claims {
    step: Step,
    claims: Map<String, Value>,
}

impl Claims {
    fn wrong(&self, name: &'static str, problem: &str) -> LoginError {
        LoginError::failed(self.step, format!("`{name}`: {problem}")).at(name)
    }

    fn has(&self, name: &str) -> bool {
        self.claims.contains_key(name)
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, LoginError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &format!("{}, not text", shape(other)))),
        }
    }

    fn required_text(&self, name: &'static str) -> Result<&str, LoginError> {
        match self.text(name)? {
            None => Err(self.wrong(name, "missing")),
            Some("") => Err(self.wrong(name, "empty")),
            Some(text) => Ok(text),
        }
    }

    /// A time in seconds: an integer, a fraction, or either as text.
    fn time(&self, name: &'static str) -> Result<Option<f64>, LoginError> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        let time = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match time.filter(|time| time.is_finite()) {
            Some(time) => Ok(Some(time)),
            None => Err(self.wrong(name, &format!("{}, not a time in seconds", shape(value)))),
        }
    }

    fn required_time(&self, name: &'static str) -> Result<f64, LoginError> {
        self.time(name)?.ok_or_else(|| self.wrong(name, "missing"))
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[allow(clippy::cast_precision_loss)]
fn now() -> f64 {
    UnixTime::now().as_millis() as f64 / 1000.0
}

fn same(left: &str, right: &str) -> bool {
    Digest::of(left.as_bytes()).matches(&Digest::of(right.as_bytes()))
}

/// The left half of a token's hash (OpenID Connect Core §3.1.3.6). For EdDSA no specification says
/// which hash; both in use are accepted.
fn half_hashes(algorithm: Algorithm, token: &str) -> Vec<String> {
    let half = |hash: &[u8]| URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2]);
    let short = || half(&Sha256::digest(token));
    let long = || half(&Sha512::digest(token));
    match algorithm {
        Algorithm::HS384 | Algorithm::ES384 | Algorithm::RS384 | Algorithm::PS384 => {
            vec![half(&Sha384::digest(token))]
        }
        Algorithm::HS512 | Algorithm::RS512 | Algorithm::PS512 => vec![long()],
        Algorithm::EdDSA => vec![long(), short()],
        _ => vec![short()],
    }
}
