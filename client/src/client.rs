//! A relay, and what is asked of it.

use std::time::Duration;

use http::{StatusCode, header};
use reqwest::Response;
use serde::Deserialize;
use url::Url;

use crate::{
    ClientError, PendingSignIn, SavedSignIn,
    api::{CreateRequest, CreateResponse},
    checks,
    encryption::DecryptionKey,
    proof::ProofKey,
};

/// Timeout of a call that answers at once, and of the first byte of a stream.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of an answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// A sign-in that is asked for.
#[derive(Clone, Debug, Default)]
pub struct SignIn {
    /// The program's name, shown to the person.
    pub client_name: Option<String>,
    /// The dialog asks the person to continue even where it needs not.
    pub confirm: bool,
    /// The program's client ID, where the relay has clients registered.
    pub client_id: Option<String>,
    /// Scopes that the token is to have, separated by spaces; all that the client may have without.
    pub scope: Option<String>,
    /// The tokens are bound to a key of the sign-in (DPoP, RFC 9449): they are used with
    /// [`PendingSignIn::proof_key`], and a token that anybody could use is refused.
    pub dpop: bool,
}

/// A relay.
#[derive(Clone, Debug)]
pub struct Client {
    relay: Url,
    http: reqwest::Client,
}

impl Client {
    /// A client of the relay whose public URL is `relay`.
    ///
    /// Where the process has no TLS provider yet, *ring* becomes its default.
    ///
    /// # Errors
    /// [`ClientError::Insecure`] unless the URL is `https` or on this machine.
    pub fn new(mut relay: Url) -> Result<Self, ClientError> {
        if !checks::is_secure(&relay) {
            return Err(ClientError::Insecure);
        }
        if !relay.path().ends_with('/') {
            relay.set_path(&format!("{}/", relay.path()));
        }
        // It fails where another part of the process has installed one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .user_agent(concat!("token-relay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { relay, http })
    }

    /// Creates a bound session. Then the person opens [`PendingSignIn::transit_url`], and
    /// [`PendingSignIn::token`] waits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sign_in(&self, sign_in: &SignIn) -> Result<PendingSignIn, ClientError> {
        let malformed = |_| ClientError::Malformed("the created session");
        let url = self.relay.join("addons/sessions").map_err(|_| ClientError::Insecure)?;
        let decryption_key = DecryptionKey::generate()?;
        let proof_key = sign_in.dpop.then(ProofKey::generate).transpose()?;
        let create = CreateRequest {
            bind: true,
            confirm: sign_in.confirm,
            client_name: sign_in.client_name.clone(),
            client_id: sign_in.client_id.clone(),
            scope: sign_in.scope.clone(),
            encryption_key: Some(decryption_key.public()),
            dpop_jkt: proof_key.as_ref().map(ProofKey::thumbprint),
            ..CreateRequest::default()
        };
        let body = serde_json::to_vec(&create).map_err(malformed)?;
        let request = self
            .http
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .timeout(TIMEOUT);
        let answer = request.send().await?;
        if answer.status() != StatusCode::CREATED {
            return Err(refusal(answer).await);
        }
        let created: CreateResponse =
            serde_json::from_slice(&read(answer).await?).map_err(malformed)?;
        let expires_in = Duration::from_secs(created.expires_in).min(checks::MAX_EXPIRES_IN);
        let saved = SavedSignIn::new(created, decryption_key, proof_key, expires_in)?;
        PendingSignIn::new(self.http.clone(), &self.relay, saved, expires_in)
    }

    /// Waits on for a sign-in that another run of the program began and [saved](PendingSignIn::save).
    ///
    /// # Errors
    /// [`ClientError::Expired`] when its time is over, [`ClientError::ForeignUrl`] when it belongs to
    /// another relay.
    pub fn resume(&self, saved: SavedSignIn) -> Result<PendingSignIn, ClientError> {
        let expires_in = saved.expires_in();
        PendingSignIn::new(self.http.clone(), &self.relay, saved, expires_in)
    }
}

/// What an answer that refuses the request says: problem details (RFC 9457), or an OAuth error (RFC 6749
/// §5.2).
#[derive(Deserialize)]
struct Refusal {
    detail: Option<String>,
    error_description: Option<String>,
    title: Option<String>,
}

/// The error behind an answer that refuses the request.
pub(crate) async fn refusal(answer: Response) -> ClientError {
    let status = answer.status();
    // A body that does not end keeps nobody waiting.
    let body = tokio::time::timeout(TIMEOUT, read(answer)).await;
    let body = body.ok().and_then(Result::ok);
    let refusal = body.and_then(|body| serde_json::from_slice::<Refusal>(&body).ok());
    let detail = refusal.and_then(|it| it.detail.or(it.error_description).or(it.title));
    checks::refused(status, detail.as_deref())
}

/// The body of an answer.
pub(crate) async fn read(mut answer: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ClientError::Malformed("it is too large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
