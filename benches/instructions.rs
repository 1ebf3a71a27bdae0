//! Each step between a session's creation and the arrival of its token, once, for a profiler that
//! counts instructions. `benches/regression` runs it under Callgrind and compares the counts with what
//! is recorded. The same steps by time: `micro`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{any::Any, hint::black_box};

use jsonwebtoken::Algorithm;
use token_relay::{
    session::{SessionId, TransitToken},
    token::{KeyRing, Purpose, SigningKeys, TokenResponse, Verifier, dpop, jwe},
    util::clock::UnixTime,
};

use crate::support::{APP, ISSUER, RUNTIME, Session, authenticated, encryption_key, issuer, token};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often each step is run; the first time initialises what later ones find.
const RUNS: usize = 5;

/// A step that is ready to run. What it returns is dropped outside of the count.
type Step = Box<dyn FnOnce() -> Box<dyn Any>>;

fn step<T: 'static>(run: impl FnOnce() -> T + 'static) -> Step {
    Box::new(|| Box::new(run()))
}

/// The only function whose instructions count; Callgrind knows it by its name.
#[inline(never)]
fn measured(step: Step) -> Box<dyn Any> {
    step()
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for (name, prepare) in steps() {
        for _ in 0..RUNS {
            let step = prepare();
            println!("{name}");
            drop(black_box(measured(step)));
        }
    }
}

fn steps() -> Vec<(String, Box<dyn Fn() -> Step>)> {
    let mut steps: Vec<(String, Box<dyn Fn() -> Step>)> = Vec::new();
    let mut add = |name: &str, prepare: Box<dyn Fn() -> Step>| steps.push((name.into(), prepare));

    add(
        "seal 1000",
        Box::new(|| {
            let (ring, plaintext) = (KeyRing::random(), vec![b'x'; 1000]);
            step(move || ring.seal(Purpose::Payload, &[7; 32], &plaintext))
        }),
    );
    add(
        "open 1000",
        Box::new(|| {
            let ring = KeyRing::random();
            let envelope = ring.seal(Purpose::Payload, &[7; 32], &[b'x'; 1000]);
            step(move || ring.open(Purpose::Payload, &[7; 32], &envelope).unwrap())
        }),
    );
    add(
        "seal token",
        Box::new(|| {
            let (ring, (_, token)) = (KeyRing::random(), token(Algorithm::ES256));
            let key = SessionId::generate().key();
            step(move || token.seal(&ring, key))
        }),
    );
    add(
        "unseal token",
        Box::new(|| {
            let (ring, (_, token)) = (KeyRing::random(), token(Algorithm::ES256));
            let key = SessionId::generate().key();
            let sealed = token.seal(&ring, key);
            step(move || TokenResponse::unseal(&ring, key, &sealed).unwrap())
        }),
    );
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256] {
        add(
            &format!("issue {algorithm:?}"),
            Box::new(move || {
                let keys = SigningKeys::generate(algorithm).expect("a key");
                let (issuer, identity) = issuer();
                step(move || issuer.issue(&keys, &identity, UnixTime::now()).unwrap())
            }),
        );
        add(
            &format!("verify {algorithm:?}"),
            Box::new(move || {
                let (keys, token) = token(algorithm);
                let verifier = Verifier::new(keys, ISSUER.to_owned(), vec![ISSUER.to_owned()]);
                step(move || verifier.verify(token.access_token().expose()).unwrap())
            }),
        );
    }
    add(
        "check encryption key",
        Box::new(|| {
            let key = encryption_key();
            step(move || jwe::check(&key).unwrap())
        }),
    );
    add(
        "encrypt token",
        Box::new(|| {
            let ((_, token), key) = (token(Algorithm::ES256), encryption_key());
            let session = SessionId::generate().key();
            step(move || token.encrypt(&key, session).unwrap())
        }),
    );
    add(
        "check proof",
        Box::new(|| {
            let (proof, request) = support::proof();
            step(move || support::check(&proof, &request))
        }),
    );
    add(
        "make nonce",
        Box::new(|| {
            let keys = KeyRing::random();
            step(move || dpop::nonce(&keys, UnixTime::now()))
        }),
    );
    add("generate session ID", Box::new(|| step(SessionId::generate)));
    add(
        "parse session ID",
        Box::new(|| {
            let text = SessionId::generate().expose().to_owned();
            step(move || SessionId::parse(&text).unwrap())
        }),
    );
    add(
        "parse transit token",
        Box::new(|| {
            let text = TransitToken::generate(SessionId::generate().key()).expose().to_owned();
            step(move || TransitToken::parse(&text).unwrap())
        }),
    );
    add(
        "key of session ID",
        Box::new(|| {
            let id = SessionId::generate();
            step(move || id.key())
        }),
    );
    add(
        "create",
        Box::new(|| {
            let request = Session::draw().request();
            step(move || RUNTIME.block_on(APP.relay.create(request)).unwrap())
        }),
    );
    add(
        "enter",
        Box::new(|| {
            let token = Session::created().transit.expect("a transit token");
            step(move || support::enter(&token))
        }),
    );
    add(
        "subscribe",
        Box::new(|| {
            let session = Session::created();
            step(move || session.reader())
        }),
    );
    add(
        "fulfil",
        Box::new(|| {
            let session = Session::created();
            let reader = session.reader();
            let sealed = token(Algorithm::ES256).1.seal(&APP.sealing_keys, session.key());
            step(move || {
                (RUNTIME.block_on(APP.relay.fulfil(session.session(), sealed)).unwrap(), reader)
            })
        }),
    );
    add(
        "deliver",
        Box::new(|| {
            let session = Session::created();
            let mut reader = session.reader();
            session.fulfil(&token(Algorithm::ES256).1);
            step(move || {
                let outcome = RUNTIME.block_on(reader.outcome());
                (outcome, reader)
            })
        }),
    );
    add(
        "acknowledge",
        Box::new(|| {
            let session = Session::created();
            session.fulfil(&token(Algorithm::ES256).1);
            let digest = Some(session.token.digest());
            step(move || RUNTIME.block_on(APP.relay.end(session.session(), digest)).unwrap())
        }),
    );
    add(
        "render",
        Box::new(|| {
            let message = authenticated();
            step(move || message.to_json(false))
        }),
    );
    add(
        "deliver and render",
        Box::new(|| {
            let session = Session::created();
            let mut events = session.events();
            RUNTIME.block_on(events.next()).expect("an opening");
            session.fulfil(&token(Algorithm::ES256).1);
            step(move || {
                let event = RUNTIME.block_on(events.next()).unwrap();
                (event, events)
            })
        }),
    );
    steps
}
