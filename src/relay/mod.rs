//! The heart: a session's life from creation to acknowledgement, and who waits for it.
//!
//! Called by `http`. Knows no HTTP and no token: it moves sealed payloads between a
//! [`SessionStore`] and the readers that wait on this instance.

mod delivery;
mod registry;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use crate::relay::delivery::{Outcome, Subscription};
pub use crate::relay::registry::{Crowded, DirectWriter, Interruptions, Registry};

use crate::{
    session::{
        Digest, Failure, GoneReason, Profile, ReaderId, SealedPayload, SessionId, SessionInfo,
        SessionKey, State, TransitToken, UserCode,
    },
    store::{
        Ended, Entered, Entry, NewSession, Read, ReadMode, ReadOutcome, SessionStore, StoreError,
        Stored,
    },
    telemetry,
};

/// The times of a session's life.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long the token stays readable after the first delivery.
    pub delivery_grace: Duration,
    /// How long a finished login is offered again to a store that is away.
    pub fulfil_timeout: Duration,
}

/// A session to be created.
#[derive(Clone, Debug)]
pub struct CreateSession {
    /// Its ID, drawn by the caller, who may have to derive other secrets from it.
    pub session_id: SessionId,
    /// SHA-256 of what a reader must present besides; none in the legacy profile.
    pub session_token: Option<Digest>,
    /// How it will be read and entered.
    pub profile: Profile,
    /// Whether the dialog shows a user code first; bound sessions only.
    pub confirm: bool,
    /// The add-in's name as it gave it.
    pub client_name: Option<String>,
    /// The `Origin` of the request.
    pub origin: Option<String>,
    /// How long the session lives.
    pub ttl: Duration,
    /// How long the transit token lives.
    pub transit_token_ttl: Duration,
    /// Random bytes in the transit token.
    pub random_bytes: usize,
}

/// What the creator gets; the secrets leave the relay here and never again.
#[derive(Debug)]
pub struct Created {
    /// Enters a bound or meet session.
    pub transit_token: Option<TransitToken>,
    /// Shown by add-in and dialog.
    pub user_code: Option<UserCode>,
}

/// Why a reader is not let in.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such session.
    #[error("no such session")]
    Unknown,
    /// The credentials are missing or wrong.
    #[error("missing or wrong session token")]
    Unauthorized,
    /// A limit is reached, or the instance shuts down.
    #[error(transparent)]
    Crowded(#[from] Crowded),
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hands sealed tokens to whoever waits for them.
pub struct Relay {
    store: Arc<dyn SessionStore>,
    registry: Arc<Registry>,
    timing: Timing,
}

impl Relay {
    /// A relay over `store`, which must have been made with `registry` as its notifier.
    pub fn new(store: Arc<dyn SessionStore>, registry: Arc<Registry>, timing: Timing) -> Arc<Self> {
        Arc::new(Self { store, registry, timing })
    }

    /// The readers that wait here.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The store, for what is not a session's life: marks and health.
    pub fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    /// Creates a session.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn create(&self, request: CreateSession) -> Result<Created, StoreError> {
        let key = request.session_id.key();
        let transit_token = match request.profile {
            Profile::Legacy => None,
            Profile::Bound | Profile::Meet => {
                Some(TransitToken::generate_with(key, request.random_bytes))
            }
        };
        let user_code = request.confirm.then(UserCode::generate);
        let session = NewSession {
            info: SessionInfo {
                profile: request.profile,
                user_code: user_code.clone(),
                client_name: request.client_name,
                origin: request.origin,
                session_token: request.session_token,
                trace: telemetry::current(),
            },
            transit: transit_token
                .as_ref()
                .map(|token| (token.digest(), request.transit_token_ttl)),
            ttl: request.ttl,
        };
        self.store.create(key, session).await?;
        Ok(Created { transit_token, user_code })
    }

    /// A dialog enters by the ID of a legacy session.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn enter_by_id(&self, session_id: &SessionId) -> Result<Entered, StoreError> {
        self.store.enter(session_id.key(), Entry::SessionId).await
    }

    /// A dialog enters by a transit token, which is thereby consumed.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn enter(&self, token: &TransitToken) -> Result<Entered, StoreError> {
        self.store.enter(token.session(), Entry::Transit(token.digest())).await
    }

    /// Stores a finished login and tells the readers. While the store is away it is offered again
    /// until the timeout is over; then nothing is half done, or the store has it after all and
    /// the readers will find it.
    ///
    /// # Errors
    /// When the store stayed away.
    pub async fn fulfil(
        &self,
        key: SessionKey,
        payload: SealedPayload,
    ) -> Result<Stored, StoreError> {
        let deadline = Instant::now() + self.timing.fulfil_timeout;
        let mut pause = Duration::from_millis(100);
        let mut retried = false;
        loop {
            match self.store.fulfil(key, payload.clone()).await {
                // An earlier try may have reached the store though its answer did not reach us.
                Ok(Stored::NotPending(
                    State::Authenticated | State::Delivered | State::Gone(GoneReason::Acknowledged),
                )) if retried => return Ok(Stored::Done),
                Ok(stored) => return Ok(stored),
                Err(error) if Instant::now() + pause >= deadline => return Err(error),
                Err(error) => tracing::debug!(session = %key, %error, "fulfil is tried again"),
            }
            retried = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Records that the login failed and tells the readers.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn fail(&self, key: SessionKey, failure: Failure) -> Result<Stored, StoreError> {
        self.store.fail(key, failure).await
    }

    /// Looks once, without waiting. `once`: handing out the token ends the session.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn poll(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
        once: bool,
    ) -> Result<ReadOutcome, StoreError> {
        let grace = (!once).then_some(self.timing.delivery_grace);
        self.store.read(key, Read { session_token, mode: ReadMode::Poll, grace }).await
    }

    /// Begins to wait for a session's outcome.
    ///
    /// # Errors
    /// [`OpenError`] when the session or the credentials are unknown, a limit is reached or the
    /// store is away.
    pub async fn open(
        self: &Arc<Self>,
        key: SessionKey,
        session_token: Option<Digest>,
        once: bool,
    ) -> Result<Subscription, OpenError> {
        let mailbox = self.registry.join(key)?;
        // Made at once, so that whatever happens below its drop leaves and unsubscribes.
        let mut reader = Subscription::new(Arc::clone(self), key, mailbox, session_token, once);
        reader.subscribe().await?;
        match reader.attach().await? {
            Ok(()) => Ok(reader),
            Err(delivery::NotAdmitted::Unknown) => Err(OpenError::Unknown),
            Err(delivery::NotAdmitted::Unauthorized) => Err(OpenError::Unauthorized),
        }
    }

    /// Acknowledges a token or cancels a pending session.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn end(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        self.store.end(key, session_token).await
    }

    /// Ends a session because it may have leaked.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn evict(&self, key: SessionKey) -> Result<bool, StoreError> {
        self.store.evict(key, GoneReason::Replayed).await
    }

    /// Notes a delivery that the bus made possible before the store was asked. If it cannot be
    /// noted the token merely stays readable by the same credentials until the session expires.
    fn claim_later(
        self: &Arc<Self>,
        key: SessionKey,
        reader: ReaderId,
        session_token: Option<Digest>,
    ) {
        let relay = Arc::clone(self);
        tokio::spawn(async move {
            let grace = Some(relay.timing.delivery_grace);
            let read = Read { session_token, mode: ReadMode::Claim(reader), grace };
            if let Err(error) = relay.store.read(key, read).await {
                tracing::debug!(session = %key, %error, "delivery not noted");
            }
        });
    }
}
