//! Arguments and results of a store's transitions.

use std::time::Duration;

use crate::session::{
    Digest, GoneReason, Outcome, SealedPayload, SessionInfo, State, SubscriptionId,
};

/// A session to be created.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// What is known of it.
    pub info: SessionInfo,
    /// SHA-256 of the transit token and its lifetime; `None` in the legacy profile.
    pub transit: Option<(Digest, Duration)>,
    /// Lifetime of the session.
    pub ttl: Duration,
}

/// What a dialog enters with.
#[derive(Clone, Debug)]
pub enum Entry {
    /// The session ID itself; only in the legacy profile.
    SessionId,
    /// The transit token with this SHA-256, which is consumed.
    Transit(Digest),
}

/// Result of entering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The dialog may continue with the sign-in.
    Admitted(SessionInfo),
    /// No such session, the wrong token, or the wrong way to enter this profile.
    Unknown,
    /// The transit token has expired; the session has not.
    TransitExpired,
    /// The transit token was used before; the session has been ended.
    Replayed,
    /// The session is not pending.
    NotPending(State),
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

/// How a session is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Once, without waiting; a waiting subscription keeps its place.
    Poll,
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
    /// How long the token stays readable after its first delivery. `None`: the delivery ends the
    /// session (polls of the legacy profile and of the Meet surface).
    pub grace: Option<Duration>,
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
