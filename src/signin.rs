//! Completes or fails a sign-in: issues the token, seals it, stores it for the waiting reader, and
//! records the outcome. Every way to a token ends here.

use std::sync::Arc;

use crate::{
    relay::Relay,
    session::{
        ClientId, Digest, Failure, GoneReason, GrantId, Identity, SessionKey, SessionRef, State,
    },
    settings::{Client, Clients},
    store::{StoreError, Stored},
    telemetry::{Kind, Trace},
    token::{
        Holder, IssueError, Issuer, KeyRing, Refresh, RefreshGrant, RefreshToken, SigningKeys,
        TokenResponse,
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

/// Counts outcomes.
pub trait SignInObserver: Send + Sync {
    /// A sign-in ended.
    fn ended(&self, outcome: SignInOutcome);
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
}

/// A completed sign-in, with what undoing it needs.
#[derive(Clone, Debug)]
pub struct Completed {
    /// `jti` of the access token, if it has one.
    pub token_id: Option<String>,
    /// When the access token expires.
    pub expires_at: UnixTime,
    /// The grant of its refresh token, if it has one.
    pub grant: Option<GrantId>,
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
    /// Counts outcomes.
    pub observer: &'a dyn SignInObserver,
    /// The request's place in its trace.
    pub trace: Trace,
}

impl SignIn<'_> {
    /// Issues an access token for `identity` and hands it to `session`. With a `holder` it gets a
    /// refresh token too, where they are enabled.
    ///
    /// # Errors
    /// [`NotCompleted`].
    pub async fn complete(
        &self,
        session: SessionRef,
        holder: Option<Holder>,
        identity: &Identity,
    ) -> Result<Completed, NotCompleted> {
        let span = self.trace.child("issue", Kind::Internal);
        let issued = self.issue(session.key, holder, identity).await;
        span.end();
        match issued {
            Ok((token, grant)) => {
                let completed = Completed {
                    token_id: token.id().map(str::to_owned),
                    expires_at: token.expires_at(),
                    grant,
                };
                let handed_over = self.hand_over(session, token, &identity.subject).await;
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
            Err(error) => {
                self.observer.ended(SignInOutcome::StoreFailed);
                Err(error)
            }
        }
    }

    /// Hands the token that `issue` makes to `session`; `subject` is for the audit log.
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
            Ok(token) => self.hand_over(session, token, subject).await,
            Err(error) => Err(self.not_issued(session, error).await),
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
            ..self.issuer.clone()
        };
        Ok((client, issuer))
    }

    async fn issue(
        &self,
        session: SessionKey,
        holder: Option<Holder>,
        identity: &Identity,
    ) -> Result<(TokenResponse, Option<GrantId>), NotCompleted> {
        let now = UnixTime::now();
        let (client, issuer) = self.issuer_for(identity)?;
        let refresh = self.refresh.as_ref().filter(|_| client.refresh);
        let grant = match refresh.zip(holder) {
            Some((refresh, holder)) => {
                let identity = identity.clone();
                Some(refresh.begin(self.sealing_keys, session, holder, identity, now).await?)
            }
            None => None,
        };
        let id = grant.as_ref().map(|(id, _)| *id);
        let token = issuer.issue_under(id, self.signing_keys, identity, now)?;
        let token = match grant {
            Some((_, refresh_token)) => token.with_refresh(refresh_token, now),
            None => token,
        };
        Ok((token, id))
    }

    /// The next access token of a grant, whose next refresh token is `next`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn refreshed(
        &self,
        session: SessionKey,
        grant: &RefreshGrant,
        next: RefreshToken,
    ) -> Result<TokenResponse, IssueError> {
        let (_, issuer) = self.issuer_for(&grant.identity)?;
        let token = issuer.issue_under(
            Some(grant.id),
            self.signing_keys,
            &grant.identity,
            UnixTime::now(),
        )?;
        tracing::info!(
            target: "audit",
            session = %session,
            subject = ?Digest::of(grant.identity.subject.as_bytes()),
            "access token refreshed"
        );
        Ok(token.with_refresh(next, grant.authenticated_at))
    }

    /// Seals the token and stores it, which notifies every instance. Its delivery continues the
    /// trace from here.
    async fn hand_over(
        &self,
        session: SessionRef,
        token: TokenResponse,
        subject: &str,
    ) -> Result<(), NotCompleted> {
        let fulfil = self.trace.child("fulfil", Kind::Internal);
        let publish = fulfil.child("publish", Kind::Producer);
        let payload = token.with_trace(publish.context()).seal(self.sealing_keys, session.key);
        match self.relay.in_trace(&publish).fulfil(session, payload).await {
            Ok(Stored::Done) => {
                self.observer.ended(SignInOutcome::Succeeded);
                tracing::info!(
                    target: "audit",
                    session = %session.key,
                    subject = ?Digest::of(subject.as_bytes()),
                    "sign-in completed"
                );
                Ok(())
            }
            Ok(Stored::NotPending(
                State::Authenticated | State::Delivered | State::Gone(GoneReason::Acknowledged),
            )) => Err(NotCompleted::Already),
            Ok(Stored::Unknown | Stored::NotPending(_)) => {
                self.observer.ended(SignInOutcome::TooLate);
                Err(NotCompleted::TooLate)
            }
            Err(error) => {
                publish.failed("unavailable");
                fulfil.failed("unavailable");
                self.observer.ended(SignInOutcome::StoreFailed);
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
        self.observer.ended(outcome);
        tracing::info!(target: "audit", session = %session.key, error = failure.error, "sign-in failed");
        if let Err(error) = self.relay.fail(session, failure).await {
            tracing::warn!(session = %session.key, %error, "failure not stored");
        }
    }
}
