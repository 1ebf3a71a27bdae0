//! The ways in which a wait is ended, and when each began.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;
use jsonwebtoken::Algorithm;
use serde_json::json;
use token_relay::{
    relay::{Registry, Relay, Timing},
    session::{ClientId, Identity, SessionKey, SessionRef},
    store::{
        Stored,
        redis::{RedisOptions, RedisStore, RedisUrl},
    },
    token::{Issuer, KeyRing, SigningKeys, TokenResponse},
    util::clock::UnixTime,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
};

use crate::{
    dialog::{self, Browser},
    link::Target,
    place::Place,
    wire::{Wire, request},
};

/// How a wait is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// By the dialog's last request, `GET /addons/redirect`.
    Dialog,
    /// By one line to `load serve`, which seals a token and fulfils the session.
    Order,
    /// By this process, which seals a token and fulfils the session in the shared Redis.
    Store,
    /// By a publication to nchan.
    Publish,
}

/// When a wait was ended.
pub struct Begun {
    /// Before the first byte left this process.
    pub sent: Instant,
    /// Before the relay was called, where that is another process.
    pub inside: Option<Instant>,
}

/// Something that ends waits.
pub struct Ender {
    way: Way,
    origin: Target,
    wire: Wire,
    browser: Browser,
    orders: Option<BufStream<TcpStream>>,
    store: Option<Publisher>,
}

/// What is prepared for the end of one wait.
pub enum Prepared {
    Request(Vec<u8>),
    Key(SessionKey),
}

impl Ender {
    pub async fn new(
        way: Way,
        origin: Target,
        orders: Option<SocketAddr>,
        store: Option<(&str, &str)>,
    ) -> Self {
        let orders = match (way, orders) {
            (Way::Order, Some(address)) => {
                let socket = TcpStream::connect(address).await.expect("load serve");
                socket.set_nodelay(true).expect("a socket");
                Some(BufStream::new(socket))
            }
            _ => None,
        };
        let store = match (way, store) {
            (Way::Store, Some((url, secret))) => Some(Publisher::new(url, secret).await),
            _ => None,
        };
        let wire = Wire::new(origin);
        Self { way, origin, wire, browser: Browser::new(), orders, store }
    }

    /// Does all that comes before the end, such as the login itself.
    pub async fn prepare(&self, place: &Place) -> Prepared {
        match self.way {
            Way::Dialog => Prepared::Request({
                self.browser.prepare(self.origin, &place.end, place.cookie.as_deref()).await
            }),
            // Of the size of a token event.
            Way::Publish => Prepared::Request(request(
                "POST",
                self.origin,
                &place.end,
                &["content-type: text/plain".to_owned()],
                &"x".repeat(700),
            )),
            Way::Order | Way::Store => Prepared::Key(place.key.expect("a session")),
        }
    }

    /// Ends the wait.
    pub async fn end(&mut self, prepared: &Prepared) -> Begun {
        match prepared {
            Prepared::Request(request) => {
                // Kept open from one to the next, as a proxy keeps it; not in the measured time.
                self.wire.connect().await.expect("a connection");
                let sent = Instant::now();
                dialog::finish(&mut self.wire, request).await;
                Begun { sent, inside: None }
            }
            Prepared::Key(key) => match (&mut self.orders, &self.store) {
                (Some(orders), _) => {
                    let line = format!("{}\n", key.to_base64url());
                    let clocks = (Instant::now(), SystemTime::now());
                    let sent = Instant::now();
                    orders.write_all(line.as_bytes()).await.expect("sent");
                    orders.flush().await.expect("sent");
                    let mut answer = String::new();
                    orders.read_line(&mut answer).await.expect("an answer");
                    let since_epoch =
                        Duration::from_nanos(answer.trim().parse().expect("nanoseconds"));
                    let after = (UNIX_EPOCH + since_epoch).duration_since(clocks.1);
                    let inside = after.ok().map(|after| clocks.0 + after);
                    Begun { sent, inside }
                }
                (None, Some(store)) => {
                    let sent = Instant::now();
                    assert!(store.publish(*key).await, "fulfilled");
                    Begun { sent, inside: None }
                }
                (None, None) => panic!("--orders or --redis"),
            },
        }
    }
}

/// A forged token, to be sealed for any session.
pub fn token() -> TokenResponse {
    let issuer = Issuer {
        issuer: "http://127.0.0.1:8080/".to_owned(),
        audience: vec!["http://127.0.0.1:8080/".to_owned()],
        client_id: ClientId::implied(),
        scope: "addons".to_owned(),
        ttl: Duration::from_secs(3600),
        claims: vec!["name".to_owned(), "email".to_owned()],
    };
    let claims = json!({"name": "Alice Adams", "email": "alice@example.org"});
    let subject = Identity::new("alice", claims.as_object().expect("an object").clone());
    let keys = SigningKeys::generate(Algorithm::ES256).expect("a key");
    let now = UnixTime::now();
    issuer.issue(&keys, &subject, now).expect("a token")
}

/// The relay as a library, over the Redis of the instances that are measured.
pub struct Publisher {
    relay: Arc<Relay>,
    keys: Arc<KeyRing>,
    token: TokenResponse,
}

impl Publisher {
    pub async fn new(url: &str, secret: &str) -> Self {
        let registry = Registry::new(1, 1);
        let options = RedisOptions {
            url: RedisUrl::parse(url).expect("a URL"),
            prefix: "token-relay".to_owned(),
            command_timeout: Duration::from_secs(5),
        };
        let store = RedisStore::connect(&options, registry.clone()).await.expect("a store");
        let timing = Timing {
            delivery_grace: Duration::from_secs(30),
            fulfil_timeout: Duration::from_secs(10),
        };
        let ring = KeyRing::new("SEALING_KEYS", [secret.as_bytes()]).expect("a key");
        let keys = Arc::new(ring);
        Self { relay: Relay::new(store, registry, Arc::clone(&keys), timing), keys, token: token() }
    }

    /// Seals and fulfils; whether the session was waiting for it.
    pub async fn publish(&self, key: SessionKey) -> bool {
        let sealed = self.token.seal(&self.keys, key);
        matches!(self.relay.fulfil(SessionRef::native(key), sealed).await, Ok(Stored::Done))
    }
}
