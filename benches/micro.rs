//! Micro-benchmarks of each step between the end of a login and the arrival of its token.
//!
//! `cargo bench --bench micro [FILTER]`. Store and relay are the in-memory ones of a whole service
//! that listens on a free loopback port; no request is sent to it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use divan::{Bencher, counter::ItemsCount};
use jsonwebtoken::Algorithm;
use serde_json::json;
use token_relay::{
    http::{
        AppState,
        addons::streams::{StreamMessage, sse::EventStream},
    },
    relay::{CreateSession, Delivery, Subscription},
    server::Server,
    session::{
        DialogId, Identity, Profile, SessionDetails, SessionId, SessionKey, SessionRef,
        SessionToken, TransitToken,
    },
    settings::Snapshot,
    store::Entry,
    telemetry::Trace,
    token::{Issuer, KeyRing, Purpose, SigningKeys, TokenResponse, Verifier},
    util::clock::UnixTime,
};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
});

/// What the handlers of a running service share.
static APP: LazyLock<AppState> = LazyLock::new(|| {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let snapshot = Snapshot::demo(listen, "http://127.0.0.1:1", "bench", "secret", []);
    RUNTIME.block_on(async {
        let server = Server::start(snapshot.expect("settings").settings).await.expect("a service");
        Arc::clone(server.app())
    })
});

const ISSUER: &str = "https://relay.example/";

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    divan::main();
}

fn issuer() -> (Issuer, Identity) {
    let issuer = Issuer {
        issuer: ISSUER.to_owned(),
        audience: vec![ISSUER.to_owned()],
        scope: "addons".to_owned(),
        ttl: Duration::from_secs(3600),
        claims: vec!["name".to_owned(), "email".to_owned()],
    };
    let claims = json!({"name": "Alice Adams", "email": "alice@example.org"});
    let claims = claims.as_object().expect("an object").clone();
    (issuer, Identity::new("alice", claims))
}

fn token(algorithm: Algorithm) -> (Arc<SigningKeys>, TokenResponse) {
    let keys = Arc::new(SigningKeys::generate(algorithm).expect("a key"));
    let (issuer, subject) = issuer();
    let token = issuer.issue(&keys, &subject, UnixTime::now()).expect("a token");
    (keys, token)
}

/// A session with what its two sides hold of it.
struct Session {
    id: SessionId,
    token: SessionToken,
    transit: Option<TransitToken>,
}

impl Session {
    fn key(&self) -> SessionKey {
        self.id.key()
    }

    fn session(&self) -> SessionRef {
        SessionRef::native(self.key())
    }

    fn request(&self) -> CreateSession {
        CreateSession {
            session_id: self.id.clone(),
            session_token: Some(self.token.digest()),
            profile: Profile::Bound,
            browser: None,
            details: SessionDetails::default(),
            ttl: Duration::from_secs(900),
            transit_token_ttl: Duration::from_secs(120),
            random_bytes: 32,
            trace: None,
        }
    }

    fn draw() -> Self {
        Self { id: SessionId::generate(), token: SessionToken::generate(), transit: None }
    }

    fn created() -> Self {
        let mut session = Self::draw();
        let created = RUNTIME.block_on(APP.relay.create(session.request())).expect("created");
        session.transit = created.transit_token;
        session
    }

    fn reader(&self) -> Subscription {
        let open =
            APP.relay.open(self.session(), Some(self.token.digest()), Delivery::UntilAcknowledged);
        RUNTIME.block_on(open).expect("a reader")
    }

    fn fulfil(&self, token: &TokenResponse) {
        let sealed = token.seal(&APP.sealing_keys, self.key());
        RUNTIME.block_on(APP.relay.fulfil(self.session(), sealed)).expect("fulfilled");
    }
}

mod sealing {
    use super::*;

    #[divan::bench(args = [100, 1000, 10_000])]
    fn seal(bencher: Bencher<'_, '_>, length: usize) {
        let (ring, plaintext) = (KeyRing::random(), vec![b'x'; length]);
        bencher.bench(|| ring.seal(Purpose::Payload, &[7; 32], black_box(&plaintext)));
    }

    #[divan::bench(args = [100, 1000, 10_000])]
    fn open(bencher: Bencher<'_, '_>, length: usize) {
        let ring = KeyRing::random();
        let envelope = ring.seal(Purpose::Payload, &[7; 32], &vec![b'x'; length]);
        bencher.bench(|| ring.open(Purpose::Payload, &[7; 32], black_box(&envelope)).unwrap());
    }

    #[divan::bench]
    fn seal_token(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        let key = SessionId::generate().key();
        let ring = KeyRing::random();
        bencher.bench(|| black_box(&token).seal(&ring, key));
    }

    #[divan::bench]
    fn unseal_token(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        let key = SessionId::generate().key();
        let ring = KeyRing::random();
        let sealed = token.seal(&ring, key);
        bencher.bench(|| TokenResponse::unseal(&ring, key, black_box(&sealed)).unwrap());
    }
}

mod tokens {
    use super::*;

    const ALGORITHMS: [Algorithm; 3] = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256];

    #[divan::bench(args = ALGORITHMS)]
    fn issue(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
        let keys = SigningKeys::generate(algorithm).expect("a key");
        let (issuer, subject) = super::issuer();
        bencher.bench(|| issuer.issue(&keys, black_box(&subject), UnixTime::now()).unwrap());
    }

    #[divan::bench(args = ALGORITHMS)]
    fn verify(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
        let (keys, token) = token(algorithm);
        let verifier = Verifier::new(keys, ISSUER.to_owned(), vec![ISSUER.to_owned()]);
        bencher.bench(|| verifier.verify(black_box(token.access_token().expose())).unwrap());
    }
}

mod identifiers {
    use super::*;

    #[divan::bench]
    fn draw() -> SessionId {
        SessionId::generate()
    }

    #[divan::bench]
    fn parse_session_id(bencher: Bencher<'_, '_>) {
        let text = SessionId::generate().expose().to_owned();
        bencher.bench(|| SessionId::parse(black_box(&text)).unwrap());
    }

    #[divan::bench]
    fn parse_transit_token(bencher: Bencher<'_, '_>) {
        let text = TransitToken::generate(SessionId::generate().key()).expose().to_owned();
        bencher.bench(|| TransitToken::parse(black_box(&text)).unwrap());
    }

    #[divan::bench]
    fn key_of_session_id(bencher: Bencher<'_, '_>) {
        let id = SessionId::generate();
        bencher.bench(|| black_box(&id).key());
    }
}

mod in_memory {
    use super::*;

    #[divan::bench]
    fn create(bencher: Bencher<'_, '_>) {
        bencher
            .with_inputs(|| Session::draw().request())
            .bench_values(|request| RUNTIME.block_on(APP.relay.create(request)).unwrap());
    }

    #[divan::bench]
    fn enter(bencher: Bencher<'_, '_>) {
        bencher.with_inputs(|| Session::created().transit.expect("a transit token")).bench_refs(
            |token| {
                let session = SessionRef::native(token.session());
                let entry = Entry::TransitToken(token.digest());
                RUNTIME.block_on(APP.relay.enter(session, entry, DialogId::generate())).unwrap()
            },
        );
    }

    /// From the request to a reader that waits.
    #[divan::bench]
    fn open(bencher: Bencher<'_, '_>) {
        bencher.with_inputs(Session::created).bench_refs(|session| session.reader());
    }

    /// The transition and the ring at the waiting reader's mailbox.
    #[divan::bench]
    fn fulfil(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        bencher
            .with_inputs(|| {
                let session = Session::created();
                let reader = session.reader();
                let sealed = token.seal(&APP.sealing_keys, session.key());
                (session.session(), sealed, reader)
            })
            .bench_values(|(session, sealed, reader)| {
                (RUNTIME.block_on(APP.relay.fulfil(session, sealed)).unwrap(), reader)
            });
    }

    /// From the ring to the payload in the reader's hand.
    #[divan::bench]
    fn deliver(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        bencher
            .with_inputs(|| {
                let session = Session::created();
                let reader = session.reader();
                session.fulfil(&token);
                reader
            })
            .bench_refs(|reader| RUNTIME.block_on(reader.outcome()));
    }

    #[divan::bench]
    fn acknowledge(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        bencher
            .with_inputs(|| {
                let session = Session::created();
                session.fulfil(&token);
                (session.session(), session.token.digest())
            })
            .bench_values(|(session, digest)| {
                RUNTIME.block_on(APP.relay.end(session, Some(digest))).unwrap()
            });
    }
}

mod events {
    use super::*;

    /// The token as the stream's line of JSON.
    #[divan::bench]
    fn render(bencher: Bencher<'_, '_>) {
        let told = StreamMessage::Authenticated(token(Algorithm::ES256).1);
        bencher.bench(|| black_box(&told).to_json(false));
    }

    /// From the ring to the bytes of the event: deliver, unseal, render.
    #[divan::bench]
    fn deliver_and_render(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        bencher
            .counter(ItemsCount::new(1usize))
            .with_inputs(|| {
                let session = Session::created();
                let mut events =
                    EventStream::new(Arc::clone(&APP), session.reader(), Trace::none().link());
                RUNTIME.block_on(events.next()).expect("an opening");
                session.fulfil(&token);
                events
            })
            .bench_refs(|events| RUNTIME.block_on(events.next()).unwrap());
    }
}
