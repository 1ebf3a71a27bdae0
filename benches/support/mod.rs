//! A relay with its store in memory, and sessions in each state, for the benchmarks of single steps.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::json;
use token_relay::{
    api,
    http::{
        AppState,
        addons::streams::{
            StreamMessage, Transport as _, Wait,
            sse::{EventSource, EventStream},
        },
    },
    relay::{CreateSession, Delivery, Subscription},
    server::Server,
    session::{
        ClientId, DialogId, EncryptionKey, Identity, Profile, SessionDetails, SessionId,
        SessionKey, SessionRef, SessionToken, TransitToken,
    },
    settings::Snapshot,
    store::Entry,
    telemetry::Trace,
    token::{
        DpopProof, Issuer, KeyRing, ProvenRequest, SigningKeys, TokenResponse, jws::PrivateKey,
    },
    util::clock::UnixTime,
};
use tokio::runtime::Runtime;

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
});

/// What the handlers of a running service share.
pub static APP: LazyLock<AppState> = LazyLock::new(|| {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let snapshot = Snapshot::demo(listen, "http://127.0.0.1:1", "bench", "secret", None, []);
    RUNTIME.block_on(async {
        let server = Server::start(snapshot.expect("settings").settings).await.expect("a service");
        Arc::clone(server.app())
    })
});

pub const ISSUER: &str = "https://relay.example/";

pub fn issuer() -> (Issuer, Identity) {
    let issuer = Issuer {
        issuer: ISSUER.to_owned(),
        audience: vec![ISSUER.to_owned()],
        client_id: ClientId::implied(),
        scope: "addons".to_owned(),
        ttl: Duration::from_secs(3600),
        claims: vec!["name".to_owned(), "email".to_owned()],
    };
    let claims = json!({"name": "Alice Adams", "email": "alice@example.org"});
    let claims = claims.as_object().expect("an object").clone();
    (issuer, Identity::new("alice", claims))
}

pub fn token(algorithm: Algorithm) -> (Arc<SigningKeys>, TokenResponse) {
    let keys = Arc::new(SigningKeys::generate(algorithm).expect("a key"));
    let (issuer, subject) = issuer();
    let token = issuer.issue(&keys, &subject, UnixTime::now()).expect("a token");
    (keys, token)
}

/// A key of an add-in: Bob's of RFC 7518 appendix C.
pub fn encryption_key() -> EncryptionKey {
    let jwk = json!({
        "kty": "EC", "crv": "P-256",
        "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
        "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
    });
    let jwk: api::EncryptionKey = serde_json::from_value(jwk).expect("a JWK");
    EncryptionKey::try_from(&jwk).expect("a key")
}

/// A DPoP proof, and the request that it is for.
pub fn proof() -> (String, ProvenRequest) {
    let key = PrivateKey::generate(Algorithm::ES256).expect("a key");
    let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let jwk = key.public().expect("a public key");
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
    let now = UnixTime::now().as_secs();
    let claims = json!({"jti": "1", "htm": "GET", "htu": ISSUER, "iat": now});
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = key.sign(message.as_bytes()).expect("a signature");
    let uri = ISSUER.parse().expect("a URL");
    let proof = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    (proof, ProvenRequest { method: "GET".to_owned(), uri })
}

/// Checks a proof.
pub fn check(proof: &str, request: &ProvenRequest) {
    let proof = DpopProof::parse(proof).expect("a proof");
    proof.check(request, None, UnixTime::now()).expect("of this request");
}

/// The message that carries a token.
pub fn authenticated() -> StreamMessage {
    let (_, token) = token(Algorithm::ES256);
    let payload = token.seal(&KeyRing::random(), SessionId::generate().key());
    StreamMessage::Authenticated { token: Box::new(token), payload }
}

/// A session with what its two sides hold of it.
pub struct Session {
    pub id: SessionId,
    pub token: SessionToken,
    pub transit: Option<TransitToken>,
}

/// Consumes a transit token, as a dialog does.
pub fn enter(token: &TransitToken) {
    let session = SessionRef::native(token.session());
    let entry = Entry::TransitToken(token.digest());
    RUNTIME.block_on(APP.relay.enter(session, entry, DialogId::generate())).expect("entered");
}

impl Session {
    pub fn key(&self) -> SessionKey {
        self.id.key()
    }

    pub fn session(&self) -> SessionRef {
        SessionRef::native(self.key())
    }

    pub fn request(&self) -> CreateSession {
        CreateSession {
            session: self.key(),
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

    pub fn draw() -> Self {
        Self { id: SessionId::generate(), token: SessionToken::generate(), transit: None }
    }

    pub fn created() -> Self {
        let mut session = Self::draw();
        let created = RUNTIME.block_on(APP.relay.create(session.request())).expect("created");
        session.transit = created.transit_token;
        session
    }

    pub fn reader(&self) -> Subscription {
        let open =
            APP.relay.open(self.session(), Some(self.token.digest()), Delivery::UntilAcknowledged);
        RUNTIME.block_on(open).expect("a reader")
    }

    pub fn events(&self) -> EventStream {
        let (name, opened_by) = (EventSource::NAME, Trace::none().link());
        EventStream::new(Wait::new(Arc::clone(&APP), name, self.reader(), opened_by))
    }

    pub fn fulfil(&self, token: &TokenResponse) {
        let sealed = token.seal(&APP.sealing_keys, self.key());
        RUNTIME.block_on(APP.relay.fulfil(self.session(), sealed)).expect("fulfilled");
    }
}
