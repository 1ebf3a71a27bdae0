//! Completes or fails a sign-in: issues the token, seals it, stores it for the waiting reader, and
//! records the outcome. Every way to a token ends here.

mod hook;

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

pub use crate::signin::hook::{Admission, Candidate, ClaimsHook, HookError};

use crate::{
    relay::Relay,
    session::{
        Binding, ClientId, Digest, EncryptionKey, Failure, GoneReason, GrantId, Identity,
        SealedPayload, SessionKey, SessionRef, State, Surface,
    },
    settings::{Client, Clients},
    store::{FailedSession, StoreError, Stored},
    telemetry::{Kind, Trace, TraceContext},
    token::{
        Holder, IssueError, Issuer, KeyId, KeyRing, Refresh, RefreshGrant, RefreshToken,
        SigningKey, SigningKeys, TokenResponse,
    },
    util::clock::UnixTime,
};

/// How a sign-in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
pub enum SignInOutcome {
    /// The token was stored for its session.
    Succeeded,
    /// The person or the provider refused.
    Denied,
    /// The provider was unreachable, or its answer not acceptable.
    ProviderFailed,
    /// The store stayed unavailable.
    StoreFailed,
    /// The session was over.
    TooLate,
}

impl HookError {
    /// What is counted.
    pub fn outcome(&self) -> SignInOutcome {
        match self {
            Self::Denied { .. } => SignInOutcome::Denied,
            Self::Unavailable => SignInOutcome::ProviderFailed,
        }
    }
}

/// By what an access token is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum TokenGrant {
    /// A session of an add-in.
    Session,
    /// The device authorization grant (RFC 8628).
    Device,
    /// A refresh token (RFC 6749 §6).
    Refresh,
    /// A session of the Meet surface.
    Meet,
}

impl TokenGrant {
    /// Where such a token is asked for.
    pub fn surface(self) -> Surface {
        match self {
            Self::Session | Self::Device | Self::Refresh => Surface::Native,
            Self::Meet => Surface::Meet,
        }
    }
}

/// Counts, by client as [`Clients::label`] names it.
pub trait SignInObserver: Send + Sync {
    /// A sign-in ended.
    fn ended(&self, client: &ClientId, outcome: SignInOutcome);

    /// An access token was issued and stored or answered.
    fn issued(&self, client: &ClientId, grant: TokenGrant);
}

/// Why a token did not reach its session.
#[derive(Debug, thiserror::Error)]
pub enum NotCompleted {
    /// The session has its token already.
    #[error("the session has its token already")]
    Already,
    /// The session is over or unknown; no reader can receive a token.
    #[error("the session is over")]
    TooLate,
    /// The session is still pending; the same call may succeed later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No token could be issued. The session has failed.
    #[error(transparent)]
    Issuer(#[from] IssueError),
    /// The claims hook does not admit the account. The session has failed.
    #[error(transparent)]
    Refused(#[from] HookError),
}

/// Who receives a token.
#[derive(Clone, Debug, Default)]
pub struct Recipient {
    /// Who may refresh it, where refresh tokens are enabled; without, nobody.
    pub holder: Option<Holder>,
    /// The keys that it is bound to.
    pub binding: Binding,
}

/// A completed sign-in, with what undoing it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// `jti` of the access token, if it has one.
    pub token_id: Option<String>,
    /// When the access token expires.
    pub expires_at: UnixTime,
    /// The grant of its refresh token, if it has one.
    pub grant: Option<GrantId>,
}

impl Completed {
    fn with(token: &TokenResponse, grant: Option<GrantId>) -> Self {
        let token_id = token.id().map(str::to_owned);
        Self { token_id, expires_at: token.expires_at(), grant }
    }
}

/// A token that was issued and sealed before its sign-in is completed, and is stored nowhere.
pub struct Issued {
    /// Encrypted already, where its reader has a key.
    token: TokenResponse,
    sealed: SealedPayload,
    session: SessionKey,
    /// As they were when it was issued.
    clients: Arc<Clients>,
    signing_key: Arc<SigningKey>,
    sealing_key: Option<KeyId>,
}

impl Issued {
    /// The sign-in that it completes.
    pub fn completed(&self) -> Completed {
        Completed::with(&self.token, None)
    }
}

/// A token that is about to be handed to its session.
struct Parcel {
    token: TokenResponse,
    /// The same sealed, where that is done; without a trace.
    sealed: Option<SealedPayload>,
}

impl From<TokenResponse> for Parcel {
    fn from(token: TokenResponse) -> Self {
        Self { token, sealed: None }
    }
}

/// Everything that completes or fails a sign-in, within one request.
pub struct SignIn<'a> {
    /// Stores the result.
    pub relay: Arc<Relay>,
    /// Issues access tokens.
    pub issuer: &'a Issuer,
    /// The clients that they are issued to.
    pub clients: Arc<Clients>,
    /// Signs them.
    pub signing_keys: &'a SigningKeys,
    /// Seals them.
    pub sealing_keys: &'a KeyRing,
    /// Issues refresh tokens, where they are enabled.
    pub refresh: Option<Refresh>,
    /// Is asked before a token is issued, where one is configured.
    pub hook: Option<&'a ClaimsHook>,
    /// Counts outcomes.
    pub observer: &'a dyn SignInObserver,
    /// The request's place in its trace.
    pub trace: Trace,
}

impl SignIn<'_> {
    /// Issues the access token of a sign-in that is about to be completed. `None` where the claims hook is
    /// to be asked or a refresh token to be stored first, and where it cannot be issued.
    pub fn issue_ahead(
        &self,
        session: SessionRef,
        recipient: &Recipient,
        identity: &Identity,
    ) -> Option<Issued> {
        let (client, issuer) = self.issuer_for(identity).ok()?;
        let is_refreshable = self.refresh_for(client).zip(recipient.holder).is_some();
        if is_refreshable || self.hook_for(identity).is_some() {
            return None;
        }
        let binding = &recipient.binding;
        let bound_to = binding.dpop_key.or(client.bound_without_key());
        let (signing_key, now) = (self.signing_keys.current(), UnixTime::now());
        let token = issuer.issue_under(None, bound_to, self.signing_keys, identity, now).ok()?;
        let token = match &binding.encryption_key {
            Some(key) => token.encrypt(key, session.key).ok()?,
            None => token,
        };
        let client = self.clients.label(session.surface, identity.client_id.as_ref());
        let sealing_key = self.sealing_keys.current();
        let (token, sealed) = self.seal(session.key, token, &client, None);
        Some(Issued {
            token,
            sealed,
            session: session.key,
            clients: Arc::clone(&self.clients),
            signing_key,
            sealing_key,
        })
    }

    /// Whether a token that was issued ahead is what would be issued now.
    fn is_current(&self, issued: &Issued, session: SessionRef) -> bool {
        issued.session == session.key
            && Arc::ptr_eq(&issued.clients, &self.clients)
            && Arc::ptr_eq(&issued.signing_key, &self.signing_keys.current())
            && issued.sealing_key == self.sealing_keys.current()
    }

    /// Issues an access token for `identity`, unless the one that was `issued` ahead is what would be issued
    /// now, and hands it to `session`, whose reader is `recipient`.
    ///
    /// # Errors
    /// [`NotCompleted`].
    pub async fn complete(
        &self,
        session: SessionRef,
        recipient: Recipient,
        identity: &Identity,
        issued: Option<Issued>,
    ) -> Result<Completed, NotCompleted> {
        let issued = issued.filter(|issued| self.is_current(issued, session));
        self.complete_with_token(session, recipient, identity, issued, None).await
    }

    /// The same with a payload beside the token, which is issued now.
    ///
    /// # Errors
    /// [`NotCompleted`].
    pub async fn complete_beside(
        &self,
        session: SessionRef,
        recipient: Recipient,
        identity: &Identity,
        payload: Option<Map<String, Value>>,
    ) -> Result<Completed, NotCompleted> {
        self.complete_with_token(session, recipient, identity, None, payload).await
    }

    async fn complete_with_token(
        &self,
        session: SessionRef,
        recipient: Recipient,
        identity: &Identity,
        issued: Option<Issued>,
        payload: Option<Map<String, Value>>,
    ) -> Result<Completed, NotCompleted> {
        let span = self.trace.child("issue", Kind::Internal);
        let Recipient { holder, binding } = recipient;
        let grant_type = match &holder {
            Some(Holder { client: true, .. }) => TokenGrant::Device,
            _ => TokenGrant::Session,
        };
        let client = self.clients.label(session.surface, identity.client_id.as_ref());
        let (issued, encryption_key) = match issued {
            Some(issued) => {
                tracing::debug!(session = %session.key, "uses the access token that was issued ahead");
                let parcel = Parcel { token: issued.token, sealed: Some(issued.sealed) };
                (Ok((parcel, None)), None)
            }
            None => {
                let key = binding.encryption_key.clone();
                let issued = self.issue(session.key, holder, binding, identity).await;
                (issued.map(|(token, grant)| (token.with_payload(payload).into(), grant)), key)
            }
        };
        span.end();
        match issued {
            Ok((parcel, grant)) => {
                let completed = Completed::with(&parcel.token, grant);
                let key = encryption_key.as_ref();
                let handed_over =
                    self.hand_over(session, parcel, key, &identity.subject, &client).await;
                if handed_over.is_ok() {
                    self.observer.issued(&client, grant_type);
                }
                if let (
                    Err(NotCompleted::TooLate | NotCompleted::Already),
                    Some(refresh),
                    Some(grant),
                ) = (&handed_over, &self.refresh, grant)
                {
                    // Its refresh token was not delivered.
                    let _ = refresh.end(grant).await;
                }
                handed_over.map(|()| completed)
            }
            Err(NotCompleted::Issuer(error)) => Err(self.not_issued(session, error).await),
            Err(NotCompleted::Refused(error)) => {
                self.fail(session, error.failure(), error.outcome()).await;
                Err(error.into())
            }
            Err(error) => {
                self.observer.ended(&client, SignInOutcome::StoreFailed);
                Err(error)
            }
        }
    }

    /// Hands the token that `issue` makes to `session` of the Meet surface; `subject` is for the
    /// audit log.
    ///
    /// # Errors
    /// [`NotCompleted`].
    pub async fn complete_with(
        &self,
        session: SessionRef,
        subject: &str,
        issue: impl FnOnce(UnixTime) -> Result<TokenResponse, IssueError>,
    ) -> Result<(), NotCompleted> {
        let span = self.trace.child("issue", Kind::Internal);
        let issued = issue(UnixTime::now());
        span.end();
        match issued {
            Ok(token) => {
                let client = self.clients.label(session.surface, None);
                self.hand_over(session, token.into(), None, subject, &client).await?;
                self.observer.issued(&client, TokenGrant::Meet);
                Ok(())
            }
            Err(error) => Err(self.not_issued(session, error).await),
        }
    }

    /// Delivers a payload and no token to the session of `client`, encrypted where `recipient` has a
    /// key; `subject` is for the audit log.
    ///
    /// # Errors
    /// [`NotCompleted`].
    pub async fn deliver(
        &self,
        session: SessionRef,
        client: Option<&ClientId>,
        recipient: &Recipient,
        payload: Map<String, Value>,
        subject: &str,
    ) -> Result<(), NotCompleted> {
        let response = TokenResponse::without_token(payload, UnixTime::now());
        let client = self.clients.label(session.surface, client);
        let encryption_key = recipient.binding.encryption_key.as_ref();
        self.hand_over(session, response.into(), encryption_key, subject, &client).await
    }

    /// Fails the sign-in on behalf of somebody who wants to know whether that worked.
    ///
    /// # Errors
    /// When the session is not pending, or the store is unavailable.
    pub async fn reject(
        &self,
        session: SessionRef,
        failure: Failure,
        outcome: SignInOutcome,
    ) -> Result<(), NotCompleted> {
        let error = failure.error.clone();
        let FailedSession { stored, client } = self.relay.fail(session, failure).await?;
        match stored {
            Stored::Done => {
                self.failed(session, client.as_ref(), &error, outcome);
                Ok(())
            }
            Stored::NotPending(State::Gone(_)) | Stored::Unknown => Err(NotCompleted::TooLate),
            Stored::NotPending(_) => Err(NotCompleted::Already),
        }
    }

    /// The client that the person signed in to, and the issuer of its tokens.
    fn issuer_for(&self, identity: &Identity) -> Result<(&Client, Issuer), IssueError> {
        let client = self
            .clients
            .find(identity.client_id.as_ref().map(ClientId::as_str))
            .map_err(|_| IssueError::UnknownClient)?;
        let issuer = Issuer {
            client_id: client.id.clone(),
            audience: client.audience.clone(),
            scope: identity.scope.as_deref().map_or_else(
                || client.scope.join(" "),
                // The client may have lost scopes since the session was created.
                |granted| {
                    let is_own = |scope: &&str| client.scope.iter().any(|own| own == scope);
                    granted.split(' ').filter(is_own).collect::<Vec<_>>().join(" ")
                },
            ),
            ttl: client.token_ttl,
            claims: match identity.idp {
                // A backend chooses its claims one by one.
                Some(_) => identity.claims.keys().cloned().collect(),
                None => self.issuer.claims.clone(),
            },
            ..self.issuer.clone()
        };
        Ok((client, issuer))
    }

    /// The claims hook, where it is asked about `identity`. A backend that vouches for an account has
    /// decided already.
    fn hook_for(&self, identity: &Identity) -> Option<&ClaimsHook> {
        self.hook.filter(|_| identity.idp.is_none())
    }

    /// What issues refresh tokens to `client`, where it gets any.
    fn refresh_for(&self, client: &Client) -> Option<&Refresh> {
        self.refresh.as_ref().filter(|_| client.refresh)
    }

    /// Asks the claims hook, where there is one, about a token for `identity`.
    ///
    /// # Errors
    /// When no token may be issued.
    pub async fn admit(&self, identity: &Identity) -> Result<Option<Admission>, NotCompleted> {
        let Some(hook) = self.hook_for(identity) else { return Ok(None) };
        let (client, issuer) = self.issuer_for(identity)?;
        let requested = &identity.requested;
        let candidate = Candidate {
            iss: &identity.issuer,
            sub: &identity.subject,
            claims: &identity.claims,
            client_id: client.id.as_str(),
            client_name: client.name.as_deref().or(requested.client_name.as_deref()),
            origin: requested.origin.as_deref(),
            origin_proved: requested.origin_proved,
            scope: &issuer.scope,
            acr: identity.acr.as_deref(),
            auth_time: identity.auth_time,
        };
        // A future of its own, so that no sign-in without a hook has room for one.
        Ok(Some(Box::pin(hook.ask(candidate, &self.trace)).await?))
    }

    /// The issuer of a token for `identity`, and what it issues it for, after the claims hook.
    fn admitted<'i>(
        mut issuer: Issuer,
        identity: &'i Identity,
        admission: Option<&Admission>,
    ) -> (Issuer, Cow<'i, Identity>) {
        let Some(admission) = admission else { return (issuer, Cow::Borrowed(identity)) };
        let mut identity = identity.clone();
        admission.apply(&mut issuer, &mut identity);
        (issuer, Cow::Owned(identity))
    }

    async fn issue(
        &self,
        session: SessionKey,
        holder: Option<Holder>,
        binding: Binding,
        identity: &Identity,
    ) -> Result<(TokenResponse, Option<GrantId>), NotCompleted> {
        let admission = self.admit(identity).await?;
        let now = UnixTime::now();
        let (client, issuer) = self.issuer_for(identity)?;
        let (issuer, admitted) = Self::admitted(issuer, identity, admission.as_ref());
        let refresh = self.refresh_for(client);
        let bound_to = binding.dpop_key.or(client.bound_without_key());
        let grant = match refresh.zip(holder) {
            Some((refresh, holder)) => {
                let identity = identity.clone();
                let keys = self.sealing_keys;
                Some(refresh.begin(keys, session, holder, binding, identity, now).await?)
            }
            None => None,
        };
        let id = grant.as_ref().map(|(id, _)| *id);
        let token = issuer.issue_under(id, bound_to, self.signing_keys, &admitted, now)?;
        let token = match grant {
            Some((_, refresh_token)) => token.with_refresh(refresh_token, now),
            None => token,
        };
        Ok((token, id))
    }

    /// The next access token of a grant, whose next refresh token is `next`, as [`Self::admit`]
    /// decided.
    ///
    /// # Errors
    /// When it cannot be signed or encrypted.
    pub fn refreshed(
        &self,
        session: SessionKey,
        grant: &RefreshGrant,
        next: RefreshToken,
        admission: Option<&Admission>,
    ) -> Result<TokenResponse, IssueError> {
        let (_, issuer) = self.issuer_for(&grant.identity)?;
        let (issuer, admitted) = Self::admitted(issuer, &grant.identity, admission);
        let now = UnixTime::now();
        let (id, bound_to) = (Some(grant.id), grant.binding.dpop_key);
        let token = issuer.issue_under(id, bound_to, self.signing_keys, &admitted, now)?;
        let client = self.clients.label(Surface::Native, grant.identity.client_id.as_ref());
        self.observer.issued(&client, TokenGrant::Refresh);
        tracing::info!(
            target: "audit",
            session = %session,
            client_id = %client,
            subject = ?Digest::of(grant.identity.subject.as_bytes()),
            "access token refreshed"
        );
        let token = token.with_refresh(next, grant.authenticated_at);
        Ok(match &grant.binding.encryption_key {
            Some(key) => token.encrypt(key, session)?,
            None => token,
        })
    }

    /// Seals the token of `client` for its session.
    fn seal(
        &self,
        session: SessionKey,
        token: TokenResponse,
        client: &ClientId,
        trace: Option<TraceContext>,
    ) -> (TokenResponse, SealedPayload) {
        // The implied one is known to every instance.
        let is_implied = self.clients.implied().is_some_and(|implied| implied.id == *client);
        let token = token.with_client((!is_implied).then(|| client.clone())).with_trace(trace);
        let sealed = token.seal(self.sealing_keys, session);
        (token, sealed)
    }

    /// Encrypts the token where its reader has a key, seals it and stores it, which notifies every
    /// instance. Its delivery continues the trace from here.
    async fn hand_over(
        &self,
        session: SessionRef,
        parcel: Parcel,
        encryption_key: Option<&EncryptionKey>,
        subject: &str,
        client: &ClientId,
    ) -> Result<(), NotCompleted> {
        let parcel = match encryption_key {
            None => parcel,
            Some(key) => match parcel.token.encrypt(key, session.key) {
                Ok(encrypted) => encrypted.into(),
                Err(error) => return Err(self.not_issued(session, error.into()).await),
            },
        };
        let fulfil = self.trace.child("fulfil", Kind::Internal);
        let publish = fulfil.child("publish", Kind::Producer);
        let (token, payload) = match (publish.context(), parcel.sealed) {
            (None, Some(sealed)) => (parcel.token, sealed),
            (trace, _) => self.seal(session.key, parcel.token, client, trace),
        };
        let relay = self.relay.in_trace(&publish);
        let fulfilled = relay.fulfil(session, payload.clone());
        match token.known_as(session.key, payload, fulfilled).await {
            Ok(Stored::Done) => {
                self.observer.ended(client, SignInOutcome::Succeeded);
                tracing::info!(
                    target: "audit",
                    session = %session.key,
                    client_id = %client,
                    subject = ?Digest::of(subject.as_bytes()),
                    "sign-in completed"
                );
                Ok(())
            }
            Ok(Stored::NotPending(
                State::Authenticated | State::Delivered | State::Gone(GoneReason::Acknowledged),
            )) => Err(NotCompleted::Already),
            Ok(Stored::Unknown | Stored::NotPending(_)) => {
                self.observer.ended(client, SignInOutcome::TooLate);
                Err(NotCompleted::TooLate)
            }
            Err(error) => {
                publish.failed("unavailable");
                fulfil.failed("unavailable");
                self.observer.ended(client, SignInOutcome::StoreFailed);
                Err(error.into())
            }
        }
    }

    async fn not_issued(&self, session: SessionRef, error: IssueError) -> NotCompleted {
        tracing::error!(session = %session.key, %error, "access token not issued");
        let failure = Failure::new("server_error", "The access token could not be issued.");
        self.fail(session, failure, SignInOutcome::ProviderFailed).await;
        error.into()
    }

    /// Fails the sign-in: its stream gets `failure`. A store that is unavailable leaves the session
    /// pending until it expires.
    pub async fn fail(&self, session: SessionRef, failure: Failure, outcome: SignInOutcome) {
        let code = failure.error.clone();
        let client = match self.relay.fail(session, failure).await {
            Ok(failed) => failed.client,
            Err(error) => {
                tracing::warn!(session = %session.key, %error, "failure not stored");
                None
            }
        };
        self.failed(session, client.as_ref(), &code, outcome);
    }

    fn failed(
        &self,
        session: SessionRef,
        client: Option<&ClientId>,
        error: &str,
        outcome: SignInOutcome,
    ) {
        let client = self.clients.label(session.surface, client);
        self.observer.ended(&client, outcome);
        tracing::info!(
            target: "audit",
            session = %session.key,
            client_id = %client,
            error,
            "sign-in failed"
        );
    }
}
