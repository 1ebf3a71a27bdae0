//! Micro-benchmarks of each step between the end of a login and the arrival of its token.
//!
//! `cargo bench --bench micro [FILTER]`. Store and relay are the in-memory ones of a whole service
//! that listens on a free loopback port; no request is sent to it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::hint::black_box;

use divan::{Bencher, counter::ItemsCount};
use jsonwebtoken::Algorithm;
use token_relay::{
    session::{SessionId, TransitToken},
    token::{KeyRing, Purpose, SigningKeys, TokenResponse, Verifier, dpop, jwe},
    util::clock::UnixTime,
};

use crate::support::{APP, ISSUER, RUNTIME, Session, authenticated, encryption_key, issuer, token};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    divan::main();
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
        let (issuer, subject) = issuer();
        bencher.bench(|| issuer.issue(&keys, black_box(&subject), UnixTime::now()).unwrap());
    }

    #[divan::bench(args = ALGORITHMS)]
    fn verify(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
        let (keys, token) = token(algorithm);
        let verifier = Verifier::new(keys, ISSUER.to_owned(), vec![ISSUER.to_owned()]);
        bencher.bench(|| verifier.verify(black_box(token.access_token().expose())).unwrap());
    }
}

/// What keys of the add-in cost: encrypted delivery (RFC 7516) and DPoP (RFC 9449).
mod keys_of_the_add_in {
    use super::*;

    #[divan::bench]
    fn check_encryption_key(bencher: Bencher<'_, '_>) {
        let key = encryption_key();
        bencher.bench(|| jwe::check(black_box(&key)).unwrap());
    }

    #[divan::bench]
    fn encrypt_token(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        let (key, session) = (encryption_key(), SessionId::generate().key());
        bencher
            .with_inputs(|| token.clone())
            .bench_values(|token| token.encrypt(black_box(&key), session).unwrap());
    }

    #[divan::bench]
    fn check_proof(bencher: Bencher<'_, '_>) {
        let (proof, request) = support::proof();
        bencher.bench(|| support::check(black_box(&proof), &request));
    }

    #[divan::bench]
    fn make_nonce(bencher: Bencher<'_, '_>) {
        let keys = KeyRing::random();
        bencher.bench(|| dpop::nonce(black_box(&keys), UnixTime::now()));
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
        bencher
            .with_inputs(|| Session::created().transit.expect("a transit token"))
            .bench_refs(|token| support::enter(token));
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
        let message = authenticated();
        bencher.bench(|| black_box(&message).to_json(false));
    }

    /// From the ring to the bytes of the event: deliver, unseal, render.
    #[divan::bench]
    fn deliver_and_render(bencher: Bencher<'_, '_>) {
        let (_, token) = token(Algorithm::ES256);
        bencher
            .counter(ItemsCount::new(1usize))
            .with_inputs(|| {
                let session = Session::created();
                let mut events = session.events();
                RUNTIME.block_on(events.next()).expect("an opening");
                session.fulfil(&token);
                events
            })
            .bench_refs(|events| RUNTIME.block_on(events.next()).unwrap());
    }
}
