//! Arguments and results of a store's transitions.

use std::{fmt, time::Duration};

use crate::{
    session::{
        ClientId, Digest, GoneReason, Outcome, Profile, SealedPayload, SessionDetails, SessionKey,
        SessionRef, State, SubscriptionId,
    },
    telemetry::TraceContext,
};

/// What a store holds of a session besides its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// How it is read and entered.
    pub profile: Profile,
    /// SHA-256 of the session token, whose preimage a reader of a bound session presents.
    pub session_token: Option<Digest>,
    /// SHA-256 of the browser ID of its creator, when that was recorded.
    pub browser: Option<Digest>,
    /// The trace context of the creation.
    pub trace: Option<TraceContext>,
    /// What its creator said.
    pub details: StoredDetails,
    /// The registered client that created it. Remembered beyond its end, so that backends of other
    /// clients learn nothing of it.
    pub client: Option<ClientId>,
}

/// [`SessionDetails`] as stores hold them.
#[derive(Clone, PartialEq, Eq)]
pub enum StoredDetails {
    /// An AEAD envelope that only the relay opens.
    Sealed(bytes::Bytes),
    /// In clear: a session that version 0.1 created.
    Clear(Box<SessionDetails>),
}

impl fmt::Debug for StoredDetails {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed(envelope) => write!(formatter, "Sealed({} bytes)", envelope.len()),
            Self::Clear(details) => details.fmt(formatter),
        }
    }
}

/// A session to be created.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// What is known of it.
    pub session: StoredSession,
    /// SHA-256 of the transit token and its lifetime; `None` in the legacy profile.
    pub transit: Option<(Digest, Duration)>,
    /// Lifetime of the session.
    pub ttl: Duration,
}

/// What a dialog presents to look at a session or to enter it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The session ID itself; only in the legacy profile.
    SessionId,
    /// The transit token with this SHA-256.
    TransitToken(Digest),
    /// The same, by a dialog whose sealed cookie shows that it was opened before the transit token
    /// expired; a dialog lives as long as its session.
    OpenedDialog(Digest),
}

/// Result of looking at a session, which changes nothing. `T` is what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked<T> {
    /// The session is pending, and no other dialog has entered it.
    Open(T),
    /// No such session, the wrong token, or the wrong way to enter this profile.
    Unknown,
    /// The transit token has expired; the session has not.
    TransitExpired,
    /// Another dialog has entered.
    Used,
    /// The session is not pending.
    NotPending(State),
}

/// Result of entering. `T` is what is known of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered<T> {
    /// The dialog may continue with the sign-in, now and whenever it enters again.
    Admitted(T),
    /// No such session, the wrong token, or the wrong way to enter this profile.
    Unknown,
    /// The transit token has expired; the session has not.
    TransitExpired,
    /// Another dialog entered before; the session has been ended.
    Replayed,
    /// The session is not pending.
    NotPending(State),
}

/// Result of counting an attempt to type the user code. `T` is what is known of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeAttempt<T> {
    /// The code may be compared.
    Allowed {
        /// Attempts left after this one.
        remaining: u32,
        /// What is known of the session.
        session: T,
    },
    /// All attempts were used.
    Exhausted,
    /// No such session.
    Unknown,
    /// The session is not pending.
    NotPending(State),
}

/// What a user code of the device authorization grant leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeTarget {
    /// The session.
    pub session: SessionKey,
    /// SHA-256 of its transit token, with which the dialog enters.
    pub transit_token: Digest,
}

/// Result of fulfilling or failing a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Stored and published.
    Done,
    /// No such session.
    Unknown,
    /// The session was not pending; nothing changed.
    NotPending(State),
}

/// Result of failing a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedSession {
    /// Whether it has failed now.
    pub stored: Stored,
    /// The registered client that created it.
    pub client: Option<ClientId>,
}

/// How a session is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Once, without waiting; a waiting subscription keeps its place.
    Poll,
    /// Likewise, by a client that may not do so more often than this (RFC 8628 §3.5). While the
    /// session is pending, a poll that comes too early is answered [`ReadResult::TooEarly`].
    PacedPoll(Duration),
    /// At the start of a wait: becomes the session's subscription in place of any earlier one.
    Attach(SubscriptionId),
    /// After a change, if still the session's subscription. The newest one wins, because an older
    /// one may be a connection that died without a word.
    Claim(SubscriptionId),
}

/// A request to read a session.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// SHA-256 of the session token presented, if any.
    pub session_token: Option<Digest>,
    /// How it is read.
    pub mode: ReadMode,
    /// What a delivery of the token does.
    pub retention: Retention,
}

/// A token that the bus brought to the session's reader before the store was asked.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryNote {
    /// The session.
    pub session: SessionRef,
    /// SHA-256 of the session token that the reader presented.
    pub session_token: Option<Digest>,
    /// The reader.
    pub subscription: SubscriptionId,
    /// How long the token stays readable.
    pub grace: Duration,
}

impl From<DeliveryNote> for ReadRequest {
    fn from(note: DeliveryNote) -> Self {
        let DeliveryNote { session_token, subscription, grace, .. } = note;
        let (mode, retention) = (ReadMode::Claim(subscription), Retention::Grace(grace));
        Self { session_token, mode, retention }
    }
}

/// What a delivery of the token does to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The token stays readable for this long after its first delivery.
    Grace(Duration),
    /// The session is over (polls of the legacy profile and of the Meet surface), unless this reader
    /// hands the token back.
    Once(SubscriptionId),
}

impl Retention {
    /// The time for which the token stays readable.
    pub fn grace(self) -> Option<Duration> {
        match self {
            Self::Grace(grace) => Some(grace),
            Self::Once(_) => None,
        }
    }
}

/// Result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// No such session.
    Unknown,
    /// The session token is missing or wrong. Nothing changed.
    Unauthorized,
    /// No outcome yet.
    Pending {
        /// Time until the session expires.
        remaining: Duration,
        /// The registered client that created it.
        client: Option<ClientId>,
    },
    /// No outcome yet, and the poll came too early: every further one has to wait for `interval`.
    TooEarly {
        /// Minimum time between two polls from now on.
        interval: Duration,
    },
    /// The session has an outcome.
    Settled(Outcome),
}

/// Result of ending a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It had a token: acknowledged.
    Acknowledged,
    /// It was pending: cancelled.
    Cancelled,
    /// It was over already.
    Already(GoneReason),
    /// It had failed; only the end is remembered now.
    Failed,
    /// No such session.
    Unknown,
    /// The session token is missing or wrong. Nothing changed.
    Unauthorized,
}

/// Result of an acknowledgement by event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The session is over.
    Done,
    /// The id is not that of this session's token event. Nothing changed.
    OtherEvent,
    /// It was over already.
    Already(GoneReason),
    /// No such session.
    Unknown,
    /// The session token is missing or wrong. Nothing changed.
    Unauthorized,
}

/// Result of using a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// It was the newest; the next one replaces it.
    Done,
    /// An older one was used again, so it has leaked: the grant has been ended.
    Reused,
    /// The grant was ended before.
    Ended,
    /// No such grant, or it has expired.
    Unknown,
}

/// A fulfilment as the bus carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fulfilled {
    /// The session's subscription at that moment.
    pub subscription: Option<SubscriptionId>,
    /// The sealed token response.
    pub payload: SealedPayload,
}
