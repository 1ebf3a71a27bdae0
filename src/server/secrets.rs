//! Key rings, signing keys and credentials, derived from the secrets in the settings at start-up and
//! in every reload.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::{
    api::Secret,
    server::AppError,
    settings::{MeetSettings, Settings},
    token::{KeyError, KeyRing, MeetClaims, MeetIssuer, SigningKeys},
};

/// Everything that derives from secrets.
pub(crate) struct Secrets {
    pub(crate) sealing_keys: KeyRing,
    pub(crate) cookie_keys: KeyRing,
    pub(crate) signing_keys: SigningKeys,
    pub(crate) meet: Option<MeetSecrets>,
}

/// The same for the meet-compatible surface.
pub(crate) struct MeetSecrets {
    pub(crate) csrf_key: Hmac<Sha256>,
    pub(crate) issuer: MeetIssuer,
}

impl Secrets {
    /// Derives them from the settings. Keys that are not configured are random.
    pub(crate) fn new(settings: &Settings) -> Result<Self, AppError> {
        Ok(Self {
            sealing_keys: key_ring("SEALING_KEYS", &settings.token.sealing_keys)?,
            cookie_keys: key_ring("COOKIE_KEYS", &settings.token.cookie_keys)?,
            signing_keys: signing_keys(settings)?,
            meet: settings.meet.as_ref().map(meet_secrets).transpose()?,
        })
    }
}

fn key_ring(setting: &'static str, secrets: &[Secret]) -> Result<KeyRing, AppError> {
    if secrets.is_empty() {
        return Ok(KeyRing::random());
    }
    KeyRing::new(setting, secrets.iter().map(|secret| secret.expose().as_bytes()))
        .map_err(|source| AppError::Key { setting, source })
}

fn signing_keys(settings: &Settings) -> Result<SigningKeys, AppError> {
    let token = &settings.token;
    let algorithm = token.algorithm;
    let configured = token.signing_keys();
    let refused = |setting| move |source| AppError::Key { setting, source };
    let (mut keys, others) = match configured.split_first() {
        Some((first, others)) => {
            (SigningKeys::from_secret(algorithm, first.expose().as_bytes()), others)
        }
        None => (SigningKeys::generate(algorithm), [].as_slice()),
    };
    for other in others {
        keys = keys.and_then(|keys| keys.with_other(algorithm, other.expose().as_bytes()));
    }
    let mut keys = keys.map_err(refused("SIGNING_KEY"))?;
    for previous in token.previous_signing_keys() {
        keys = keys
            .with_other(algorithm, previous.expose().as_bytes())
            .map_err(refused("PREVIOUS_SIGNING_KEY"))?;
    }
    Ok(keys)
}

fn meet_secrets(settings: &MeetSettings) -> Result<MeetSecrets, AppError> {
    let claims = MeetClaims {
        issuer: settings.token_issuer.clone(),
        audience: settings.token_audience.clone(),
        scope: settings.token_scope.clone(),
        token_type: settings.token_type.clone(),
        ttl: settings.token_ttl,
    };
    let secret = settings.token_secret_key.expose().as_bytes();
    let issuer = MeetIssuer::new(settings.token_algorithm, secret, claims)
        .map_err(|source| AppError::Key { setting: "ADDONS_TOKEN_SECRET_KEY", source })?;
    let csrf_key = Hmac::new_from_slice(settings.csrf_secret.expose().as_bytes())
        .map_err(|_| AppError::Key { setting: "ADDONS_CSRF_SECRET", source: KeyError::Missing })?;
    Ok(MeetSecrets { csrf_key, issuer })
}
