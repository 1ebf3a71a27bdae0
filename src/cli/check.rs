//! `token-relay check-config --online`: asks the provider and the store whether they do what is
//! configured.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    api::paths,
    oidc::{Finding, Provider, Severity},
    server,
    session::{
        DialogId, Digest, EventId, GrantId, Profile, SealedPayload, SessionId, SessionKey,
        SessionRef,
    },
    settings::Settings,
    store::{
        self, Acknowledged, Entered, Entry, Fulfilled, NewSession, Notifier, ReadMode, ReadRequest,
        Retention, Rotated, Store, StoreError, StoreObserver, Stored, StoredDetails, StoredSession,
    },
};

/// Lifetime of what the check stores.
const TTL: Duration = Duration::from_secs(10);

/// Timeout of a notice from the store.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks provider and store; gives what was found.
pub(super) async fn online(settings: &Settings) -> Vec<Finding> {
    let (mut found, stored) = tokio::join!(provider(settings), session_store(settings));
    found.extend(stored);
    found
}

/// What was found, one finding a line.
pub(super) fn lines(found: &[Finding]) -> String {
    let line = |Finding { severity, check, text }: &Finding| {
        format!("{:<8} {check:<24} {text}\n", severity.as_str())
    };
    found.iter().map(line).collect()
}

async fn provider(settings: &Settings) -> Vec<Finding> {
    const CHECK: &str = "provider.redirect_uri";
    let public = |path: &str| settings.public_address(path);
    let redirect_uris = settings.redirect_uris();
    let mut found = Vec::new();
    if settings.server.public_url.is_none() {
        let text = "PUBLIC_URL is not set; the addresses to register are made of LISTEN";
        found.push(Finding::new(Severity::Warning, CHECK, text));
    }
    if settings.meet.as_ref().is_some_and(|meet| meet.provider_logout) {
        let text = format!(
            "to be registered as post_logout_redirect_uri, for MEET_PROVIDER_LOGOUT: {}",
            public(paths::MEET_LOGOUT_CALLBACK)
        );
        found.push(Finding::new(Severity::Note, CHECK, text));
    }
    let text = format!(
        "may be registered as backchannel_logout_uri: {}",
        public(paths::BACKCHANNEL_LOGOUT)
    );
    found.push(Finding::new(Severity::Note, CHECK, text));
    let options = server::provider_options(settings, public(paths::CALLBACK));
    match Provider::new(options) {
        Ok(provider) => found.extend(provider.probe(&redirect_uris).await),
        Err(error) => {
            found.push(Finding::new(Severity::Error, "provider.discovery", error.to_string()));
        }
    }
    found
}

/// Waits for the change of the session that the check stores.
#[derive(Default)]
struct Changes(Notify);

impl Notifier for Changes {
    fn changed(&self, _: SessionKey, _: Option<Fulfilled>) -> bool {
        self.0.notify_one();
        false
    }

    fn resync(&self) {}
}

/// Nobody counts what the check does.
struct Nobody;

impl StoreObserver for Nobody {
    fn call_finished(&self, _: &'static str, _: Duration, _: bool) {}
    fn state_entered(&self, _: &'static str) {}
}

async fn session_store(settings: &Settings) -> Vec<Finding> {
    const CHECK: &str = "store.commands";
    let options = settings.store.options();
    let shared = options.is_shared();
    let changes = Arc::new(Changes::default());
    let opened = store::open(&options, Arc::clone(&changes) as _, Arc::new(Nobody)).await;
    let store = match opened {
        Ok(store) => store,
        Err(error) => return vec![Finding::new(Severity::Error, CHECK, error.to_string())],
    };
    if !shared {
        let text = "sessions are in the memory of one process: REDIS_URL is not set";
        return vec![Finding::new(Severity::Note, CHECK, text)];
    }
    vec![match try_out(&*store, &changes).await {
        Ok(()) => Finding::new(
            Severity::Note,
            CHECK,
            "a session, its token, marks, values and grants were stored, read and ended",
        ),
        Err(Failed { what, error }) => {
            Finding::new(Severity::Error, CHECK, format!("{what}: {error}"))
        }
    }]
}

/// A step that the store does not do.
struct Failed {
    what: &'static str,
    error: StoreError,
}

/// Names the step that a call of the store is part of.
trait In<T> {
    fn step(self, what: &'static str) -> Result<T, Failed>;
}

impl<T> In<T> for Result<T, StoreError> {
    fn step(self, what: &'static str) -> Result<T, Failed> {
        self.map_err(|error| Failed { what, error })
    }
}

fn expect(is_expected: bool, what: &'static str) -> Result<(), Failed> {
    let error = || StoreError::Corrupt("another answer than the one expected".to_owned());
    if is_expected { Ok(()) } else { Err(Failed { what, error: error() }) }
}

/// Does everything that sign-ins need, on names of its own that expire within seconds.
async fn try_out(store: &dyn Store, changes: &Changes) -> Result<(), Failed> {
    store.check().await.step("the readiness check (scripts, hashes, PUBLISH, subscriptions)")?;
    let (key, transit) = (SessionId::generate().key(), Digest::random());
    let session = SessionRef::native(key);
    let new = NewSession {
        session: StoredSession {
            profile: Profile::Bound,
            session_token: Some(transit),
            browser: None,
            trace: None,
            details: StoredDetails::Sealed(b"check-config"[..].into()),
            client: None,
        },
        transit: Some((transit, TTL)),
        ttl: TTL,
    };
    store.create(key, new).await.step("the creation of a session (EVALSHA or EVAL)")?;
    let subscription = "the notice of a change (SUBSCRIBE, in a cluster SSUBSCRIBE; the channels \
        begin with REDIS_PREFIX)";
    store.subscribe(key).await.step(subscription)?;
    let what = "the dialog's entry";
    let entered = store.enter(session, Entry::TransitToken(transit), DialogId::generate()).await;
    expect(matches!(entered.step(what)?, Entered::Admitted(_)), what)?;
    let what = "the storage of a token";
    let payload = SealedPayload(b"check-config"[..].into());
    let event = EventId::of_token(&payload);
    let stored = store.fulfil(session, payload).await;
    expect(stored.step(what)? == Stored::Done, what)?;
    if tokio::time::timeout(NOTICE_TIMEOUT, changes.0.notified()).await.is_err() {
        let error = StoreError::Unavailable("it does not arrive".to_owned());
        return Err(Failed { what: subscription, error });
    }
    store.unsubscribe(key);
    let what = "the delivery of a token";
    let request = ReadRequest {
        session_token: Some(transit),
        mode: ReadMode::Poll,
        retention: Retention::Grace(TTL),
    };
    store.read(session, request).await.step(what)?;
    let what = "the acknowledgement of a token";
    let acknowledged = store.acknowledge(session, Some(transit), event).await;
    expect(acknowledged.step(what)? == Acknowledged::Done, what)?;
    let what = "a one-time mark (SET NX PX, EXISTS)";
    let name = Digest::random();
    expect(store.mark(name, TTL).await.step(what)?, what)?;
    expect(store.is_marked(name).await.step(what)?, what)?;
    let what = "a value (SET PX, GET, DEL)";
    store.put_value(name, b"check-config"[..].into(), TTL).await.step(what)?;
    expect(store.value(name).await.step(what)?.is_some(), what)?;
    store.remove_value(name).await.step(what)?;
    let what = "a refresh grant (SET PX, GET, scripts)";
    let grant = GrantId::generate();
    store.begin_grant(grant, TTL).await.step(what)?;
    expect(store.rotate_grant(grant, 1, TTL, TTL).await.step(what)? == Rotated::Done, what)?;
    store.end_grant(grant, TTL).await.step(what)?;
    expect(store.is_grant_ended(grant).await.step(what)?, what)
}
