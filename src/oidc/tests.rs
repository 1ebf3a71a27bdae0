//! The sign-in against a provider that misbehaves, over a real loopback socket.
//!
//! Each fault is switched on at a small provider of the test's own; keys and tokens are made with
//! another library than the one that verifies them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::Utc;
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{
    Algorithm, Header,
    jwk::{CommonParameters, Jwk},
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{oidc::*, session::Identity, token::jws::PrivateKey};

const CLIENT_ID: &str = "relay-under-test";
const CLIENT_SECRET: &str = "client-secret-0123456789abcdef0123";
const REDIRECT_URI: &str = "https://relay.example/callback";
const CODE: &str = "code-5e0c3b0f9d";
const ACCESS_TOKEN: &str = "access-token-8b1a9953c4";

/// The relay's timeout with the provider in these tests.
const TIMEOUT: Duration = Duration::from_millis(400);

/// Longer than anything may take here, on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

const DISCOVERY: &str = "/.well-known/openid-configuration";

#[derive(Clone)]
struct Key {
    algorithm: Algorithm,
    private: Arc<PrivateKey>,
    public: Jwk,
}

impl Key {
    fn new(algorithm: Algorithm, id: &str) -> Self {
        let private = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => {
                let made = std::process::Command::new("openssl")
                    .args(["genpkey", "-quiet", "-algorithm", "RSA"])
                    .args(["-pkeyopt", "rsa_keygen_bits:2048"])
                    .output()
                    .expect("install openssl, which makes the RSA key");
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                PrivateKey::from_pem(algorithm, &made.stdout).unwrap()
            }
            _ => PrivateKey::generate(algorithm).unwrap(),
        };
        let common = CommonParameters {
            key_algorithm: Some(algorithm.into()),
            key_id: Some(id.to_owned()),
            ..CommonParameters::default()
        };
        let public = Jwk { common, algorithm: private.public().unwrap() };
        Self { algorithm, private: Arc::new(private), public }
    }

    fn sign(&self, claims: &Value) -> String {
        let mut head = Header::new(self.algorithm);
        head.kid = self.public.common.key_id.clone();
        self.private.sign_compact(&head, claims).unwrap()
    }

    /// The left half of the hash of `text` (OpenID Connect Core §3.1.3.6).
    fn half_hash(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(match self.algorithm {
            Algorithm::EdDSA => Sha512::digest(text)[..32].to_vec(),
            _ => Sha256::digest(text)[..16].to_vec(),
        })
    }
}

/// What an endpoint does instead of its work.
#[derive(Clone)]
enum Fault {
    /// Never answers.
    Silence,
    /// Begins to answer and stops.
    Stall,
    /// Answers without an end.
    Flood,
    /// Answers like this.
    Answer(StatusCode, String),
    /// Sends elsewhere.
    Redirect(String),
}

type Counterfeit = Box<dyn Fn(&Value) -> String + Send>;

struct Behaviour {
    faults: HashMap<&'static str, Fault>,
    metadata: Map<String, Value>,
    signer: Key,
    published: Vec<Value>,
    /// Members that replace those of an honest ID token; `null` removes one.
    claims: Map<String, Value>,
    counterfeit: Option<Counterfeit>,
    userinfo: Value,
}

struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

struct Shared {
    issuer: String,
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
}

/// A provider, gone when dropped.
struct Fake {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fake {
    async fn start() -> Self {
        Self::start_with(TcpListener::bind("127.0.0.1:0").await.unwrap(), "")
    }

    /// `tail` is what its issuer has after the authority.
    fn start_with(listener: TcpListener, tail: &str) -> Self {
        let signer = Key::new(Algorithm::ES256, "first");
        let shared = Arc::new(Shared {
            issuer: format!("http://{}{tail}", listener.local_addr().unwrap()),
            behaviour: Mutex::new(Behaviour {
                faults: HashMap::new(),
                metadata: Map::new(),
                published: vec![serde_json::to_value(&signer.public).unwrap()],
                signer,
                claims: Map::new(),
                counterfeit: None,
                userinfo: json!({"sub": "subject-1", "name": "Ada"}),
            }),
            seen: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { shared, serving }
    }

    fn set<T>(&self, change: impl FnOnce(&mut Behaviour) -> T) -> T {
        change(&mut self.shared.behaviour.lock().unwrap())
    }

    fn sign_with(&self, key: &Key) {
        self.set(|behaviour| {
            behaviour.signer = key.clone();
            behaviour.published = vec![serde_json::to_value(&key.public).unwrap()];
        });
    }

    fn fault(&self, path: &'static str, fault: Fault) {
        self.set(|behaviour| behaviour.faults.insert(path, fault));
    }

    fn requests(&self, path: &str) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.path == path).count()
    }

    fn options(&self) -> ProviderOptions {
        let issuer = url::Url::parse(&self.shared.issuer).unwrap();
        ProviderOptions {
            client_secrets: ClientSecrets::new([CLIENT_SECRET]),
            scopes: vec!["profile".to_owned()],
            timeout: TIMEOUT,
            ..ProviderOptions::new(issuer, CLIENT_ID, REDIRECT_URI)
        }
    }

    fn relying_party(&self) -> Provider {
        Provider::new(self.options()).unwrap()
    }

    /// A relying party with other options.
    fn with(&self, change: impl FnOnce(&mut ProviderOptions)) -> Provider {
        let mut options = self.options();
        change(&mut options);
        Provider::new(options).unwrap()
    }

    /// Begins; lets the provider issue a token for the attempt's nonce.
    async fn begin(&self, provider: &Provider) -> Result<(url::Url, LoginAttempt), LoginError> {
        let begun = provider.begin(&AuthorizationOptions::default()).await?;
        self.set(|behaviour| {
            behaviour.claims.entry("nonce").or_insert_with(|| json!(begun.1.nonce));
        });
        Ok(begun)
    }

    /// A whole sign-in by a new relying party.
    async fn sign_in(&self) -> Result<Identity, LoginError> {
        self.sign_in_at(&self.relying_party()).await
    }

    async fn sign_in_at(&self, provider: &Provider) -> Result<Identity, LoginError> {
        let attempt = self.begin(provider).await?.1;
        let query = self.callback(&attempt, &format!("&iss={}", self.shared.issuer));
        let secrets = [
            attempt.state.clone(),
            attempt.nonce.clone(),
            attempt.pkce_verifier.clone(),
            CODE.to_owned(),
            ACCESS_TOKEN.to_owned(),
            CLIENT_SECRET.to_owned(),
        ];
        let finished = tokio::time::timeout(TEST_TIMEOUT, provider.finish(attempt, query));
        let finished = finished.await.expect("a sign-in ends in time");
        // The next sign-in has a nonce of its own.
        self.set(|behaviour| match behaviour.claims.get("nonce") {
            Some(nonce) if *nonce == secrets[1] => behaviour.claims.remove("nonce"),
            _ => None,
        });
        if let Err(error) = &finished {
            let shown = format!("{error} {error:?} {:?}", error.failure());
            for secret in secrets {
                assert!(!shown.contains(&secret), "a secret in {shown}");
            }
            assert!(!shown.contains("eyJ"), "a token in {shown}");
        }
        finished
    }

    fn callback(&self, attempt: &LoginAttempt, tail: &str) -> AuthorizationResponse {
        AuthorizationResponse::parse(&format!("code={CODE}&state={}{tail}", attempt.state))
    }

    /// An ID token as it should be, except for what a test changed.
    fn honest_claims(shared: &Shared, behaviour: &Behaviour) -> Value {
        let now = Utc::now().timestamp();
        let mut claims = json!({
            "iss": shared.issuer,
            "sub": "subject-1",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "at_hash": behaviour.signer.half_hash(ACCESS_TOKEN),
        });
        for (name, value) in &behaviour.claims {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }
}

fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

async fn answer(State(shared): State<Arc<Shared>>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    // An issuer with a path has its endpoints below it.
    let path = head.uri.path();
    let path = path.strip_prefix("/tenant").unwrap_or(path).to_owned();
    let body = axum::body::to_bytes(body, 100_000).await.unwrap();
    shared.seen.lock().unwrap().push(Seen { path: path.clone(), headers: head.headers, body });
    let fault = shared.behaviour.lock().unwrap().faults.get(path.as_str()).cloned();
    match fault {
        Some(Fault::Silence) => return std::future::pending().await,
        Some(Fault::Stall) => {
            let begun = futures_util::stream::iter([Ok::<_, std::io::Error>("{")]);
            let body = Body::from_stream(begun.chain(futures_util::stream::pending()));
            return json_response(StatusCode::OK, body);
        }
        Some(Fault::Flood) => {
            let spaces = Bytes::from_static(&[b' '; 16 * 1024]);
            let flood =
                futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(spaces.clone()));
            return json_response(StatusCode::OK, Body::from_stream(flood));
        }
        Some(Fault::Answer(status, body)) => return json_response(status, body),
        Some(Fault::Redirect(target)) => {
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target)]).into_response();
        }
        None => {}
    }
    let behaviour = shared.behaviour.lock().unwrap();
    let body = match path.as_str() {
        DISCOVERY => {
            let base = shared.issuer.trim_end_matches('/');
            let mut metadata = json!({
                "issuer": shared.issuer,
                "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"),
                "userinfo_endpoint": format!("{base}/userinfo"),
                "jwks_uri": format!("{base}/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported":
                    ["ES256", "EdDSA", "RS256", "PS256", "HS256", "none", "ES999"],
                "authorization_response_iss_parameter_supported": true,
            });
            metadata.as_object_mut().unwrap().extend(behaviour.metadata.clone());
            metadata
        }
        "/jwks" => json!({"keys": behaviour.published}),
        "/token" => {
            let claims = Fake::honest_claims(&shared, &behaviour);
            let id_token = match &behaviour.counterfeit {
                Some(counterfeit) => counterfeit(&claims),
                None => behaviour.signer.sign(&claims),
            };
            json!({"access_token": ACCESS_TOKEN, "token_type": "Bearer", "id_token": id_token})
        }
        "/userinfo" => behaviour.userinfo.clone(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    drop(behaviour);
    json_response(StatusCode::OK, body.to_string())
}

fn refused_id_token(result: &Result<Identity, LoginError>) -> bool {
    matches!(result, Err(LoginError { step: Step::IdToken, kind: FailureKind::Failed, .. }))
}

fn unavailable(result: &Result<Identity, LoginError>) -> bool {
    matches!(result, Err(LoginError { kind: FailureKind::Unavailable, .. }))
}

fn wrong_field(result: &Result<Identity, LoginError>) -> Option<&str> {
    result.as_ref().err()?.field.as_deref()
}

fn unsigned(head: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(head), part(claims))
}

#[tokio::test]
async fn a_sign_in_works_with_every_kind_of_key() {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256] {
        let fake = Fake::start().await;
        fake.sign_with(&Key::new(algorithm, "k"));
        // A key type of the future among the keys must not hide the others.
        fake.set(|behaviour| behaviour.published.insert(0, json!({"kty": "AKP", "kid": "new"})));
        let identity =
            fake.sign_in().await.unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        assert_eq!(identity.subject, "subject-1", "{algorithm:?}");
    }
}

#[tokio::test]
async fn the_request_carries_what_rfc_9700_asks_for() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    let (url, attempt) = fake.begin(&provider).await.unwrap();
    let query = url.query_pairs().into_owned().collect::<HashMap<_, _>>();
    assert_eq!(query["response_type"], "code");
    assert_eq!(query["redirect_uri"], REDIRECT_URI);
    assert_eq!(query["scope"], "openid profile");
    assert_eq!((&query["state"], &query["nonce"]), (&attempt.state, &attempt.nonce));
    assert_eq!(query["code_challenge_method"], "S256");
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&attempt.pkce_verifier));
    assert_eq!(query["code_challenge"], challenge);
    let again = provider.begin(&AuthorizationOptions::default()).await.unwrap().1;
    assert_ne!((&again.state, &again.nonce), (&attempt.state, &attempt.nonce));
    assert_ne!(again.pkce_verifier, attempt.pkce_verifier);

    let verifier = attempt.pkce_verifier.clone();
    let callback = fake.callback(&attempt, &format!("&iss={}", fake.shared.issuer));
    provider.finish(attempt, callback).await.unwrap();
    let seen = fake.shared.seen.lock().unwrap();
    let exchange = seen.iter().find(|seen| seen.path == "/token").unwrap();
    let form = url::form_urlencoded::parse(&exchange.body).into_owned();
    let form = form.collect::<HashMap<_, _>>();
    assert_eq!(form["grant_type"], "authorization_code");
    assert_eq!(form["code"], CODE);
    assert_eq!(form["redirect_uri"], REDIRECT_URI);
    assert_eq!(form["code_verifier"], verifier);
    let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}")));
    assert_eq!(exchange.headers[header::AUTHORIZATION], basic);
}

#[tokio::test]
async fn an_attempt_answers_to_its_own_state_only_and_not_for_ever() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    let attempt = fake.begin(&provider).await.unwrap().1;
    let other = fake.begin(&provider).await.unwrap().1;
    let iss = format!("&iss={}", fake.shared.issuer);
    let result = provider.finish(attempt.clone(), fake.callback(&other, &iss)).await;
    assert_eq!(wrong_field(&result), Some("state"), "{result:?}");

    let mut sealed = serde_json::to_value(&attempt).unwrap();
    let begun = sealed["begun_at"].as_u64().unwrap();
    sealed["begun_at"] = json!(begun - 601);
    let old = serde_json::from_value::<LoginAttempt>(sealed.clone()).unwrap();
    let query = fake.callback(&attempt, &iss);
    let result = provider.finish(old, query.clone()).await;
    let Err(error) = result else { panic!("{result:?}") };
    assert_eq!(error.kind, FailureKind::TooLate, "{error:?}");
    assert_eq!(fake.requests("/token"), 0, "the code went out nevertheless");
}

#[tokio::test]
async fn the_callback_must_come_from_the_provider_that_was_asked() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    let real = fake.shared.issuer.clone();
    for tail in [
        String::new(),
        "&iss=".to_owned(),
        "&iss=https://evil.example".to_owned(),
        format!("&iss={real}/"),
        format!("&iss={}", real.to_uppercase()),
    ] {
        let attempt = fake.begin(&provider).await.unwrap().1;
        let query = fake.callback(&attempt, &tail);
        let result = provider.finish(attempt, query).await;
        assert_eq!(wrong_field(&result), Some("iss"), "{tail}: {result:?}");
        // Neither is its error believed.
        let attempt = fake.begin(&provider).await.unwrap().1;
        let query = format!("error=access_denied&state={}{tail}", attempt.state);
        let result = provider.finish(attempt, AuthorizationResponse::parse(&query)).await;
        assert_eq!(wrong_field(&result), Some("iss"), "{tail}: {result:?}");
    }
    assert_eq!(fake.requests("/token"), 0, "a code went to the wrong provider");
}

#[tokio::test]
async fn a_provider_that_does_not_promise_the_issuer_may_leave_it_out() {
    let fake = Fake::start().await;
    fake.set(|behaviour| {
        let name = "authorization_response_iss_parameter_supported".to_owned();
        behaviour.metadata.insert(name, json!(false))
    });
    let provider = fake.relying_party();
    let attempt = fake.begin(&provider).await.unwrap().1;
    let query = fake.callback(&attempt, "&iss=https://evil.example");
    let result = provider.finish(attempt.clone(), query).await;
    assert_eq!(wrong_field(&result), Some("iss"), "{result:?}");
    let query = fake.callback(&attempt, "");
    assert_eq!(provider.finish(attempt, query).await.unwrap().subject, "subject-1");
}

#[tokio::test]
async fn the_providers_refusal_reaches_the_reader() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    let attempt = fake.begin(&provider).await.unwrap().1;
    let query = format!("error=access_denied&state={}&iss={}", attempt.state, fake.shared.issuer);
    let result = provider.finish(attempt, AuthorizationResponse::parse(&query)).await;
    let Err(error) = result else { panic!("{result:?}") };
    assert_eq!(error.kind, FailureKind::Denied, "{error:?}");
    assert_eq!(error.failure().error, "access_denied");
}

#[tokio::test]
async fn forged_id_tokens_are_refused() {
    let honest = Fake::start().await;
    assert!(honest.sign_in().await.is_ok(), "the control works");

    type Attack = fn(&Fake);
    fn claim(fake: &Fake, name: &str, value: Value) {
        fake.set(|behaviour| drop(behaviour.claims.insert(name.to_owned(), value)));
    }
    fn counterfeit(fake: &Fake, counterfeit: impl Fn(&Value) -> String + Send + 'static) {
        fake.set(|behaviour| behaviour.counterfeit = Some(Box::new(counterfeit)));
    }
    fn hmac(claims: &Value, secret: &[u8]) -> String {
        let mut head = Header::new(Algorithm::HS256);
        head.kid = Some("first".to_owned());
        PrivateKey::from_secret(Algorithm::HS256, secret)
            .unwrap()
            .sign_compact(&head, claims)
            .unwrap()
    }
    let attacks: &[(&str, Attack)] = &[
        ("no algorithm", |fake| {
            counterfeit(fake, |claims| format!("{}.", unsigned(&json!({"alg": "none"}), claims)));
        }),
        ("no algorithm, with the key's name", |fake| {
            let head = json!({"alg": "none", "kid": "first", "typ": "JWT"});
            counterfeit(fake, move |claims| format!("{}.", unsigned(&head, claims)));
        }),
        ("no signature", |fake| {
            let head = json!({"alg": "ES256", "kid": "first"});
            counterfeit(fake, move |claims| format!("{}.", unsigned(&head, claims)));
        }),
        ("HMAC with the client secret", |fake| {
            counterfeit(fake, |claims| hmac(claims, CLIENT_SECRET.as_bytes()));
        }),
        ("HMAC with the public key's JSON", |fake| {
            let key = fake.set(|behaviour| behaviour.published[0].to_string());
            counterfeit(fake, move |claims| hmac(claims, key.as_bytes()));
        }),
        ("HMAC with the public key's coordinates", |fake| {
            let key = fake.set(|behaviour| behaviour.published[0].clone());
            let mut point = vec![4];
            for coordinate in ["x", "y"] {
                point.extend(URL_SAFE_NO_PAD.decode(key[coordinate].as_str().unwrap()).unwrap());
            }
            counterfeit(fake, move |claims| hmac(claims, &point));
        }),
        ("HMAC with a published symmetric key", |fake| {
            let key = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 32]), "kid": "first"});
            fake.set(|behaviour| behaviour.published = vec![key]);
            counterfeit(fake, |claims| hmac(claims, &[7; 32]));
        }),
        ("somebody else's key under the same name", |fake| {
            let key = Key::new(Algorithm::ES256, "first");
            counterfeit(fake, move |claims| key.sign(claims));
        }),
        ("somebody else's key under no name", |fake| {
            let mut key = Key::new(Algorithm::ES256, "x");
            key.public.common.key_id = None;
            counterfeit(fake, move |claims| key.sign(claims));
        }),
        ("an algorithm of another family", |fake| {
            let key = Key::new(Algorithm::EdDSA, "first");
            counterfeit(fake, move |claims| key.sign(claims));
        }),
        ("an algorithm that the provider does not list", |fake| {
            fake.set(|behaviour| {
                let name = "id_token_signing_alg_values_supported".to_owned();
                drop(behaviour.metadata.insert(name, json!(["RS256"])));
            });
        }),
        ("claims changed after the signature", |fake| {
            let key = fake.set(|behaviour| behaviour.signer.clone());
            counterfeit(fake, move |claims| {
                let honest = key.sign(claims);
                let mut parts = honest.split('.').map(str::to_owned).collect::<Vec<_>>();
                let mut changed = claims.clone();
                changed["sub"] = json!("victim");
                parts[1] = URL_SAFE_NO_PAD.encode(changed.to_string());
                parts.join(".")
            });
        }),
        ("a critical header that nobody knows", |fake| {
            let head = json!({"alg": "ES256", "kid": "first", "crit": ["exp2"], "exp2": 1});
            counterfeit(fake, move |claims| format!("{}.AAAA", unsigned(&head, claims)));
        }),
        ("another nonce", |fake| claim(fake, "nonce", json!("another"))),
        ("no nonce", |fake| claim(fake, "nonce", Value::Null)),
        ("another issuer", |fake| claim(fake, "iss", json!("https://evil.example"))),
        ("another audience", |fake| claim(fake, "aud", json!("another-client"))),
        ("no audience", |fake| claim(fake, "aud", json!([]))),
        ("a second audience", |fake| claim(fake, "aud", json!([CLIENT_ID, "another-client"]))),
        ("another authorized party", |fake| claim(fake, "azp", json!("another-client"))),
        ("expired", |fake| claim(fake, "exp", json!(Utc::now().timestamp() - 61))),
        ("issued in the future", |fake| claim(fake, "iat", json!(Utc::now().timestamp() + 90))),
        ("not valid yet", |fake| claim(fake, "nbf", json!(Utc::now().timestamp() + 90))),
        ("another access token's hash", |fake| {
            let hash = fake.set(|behaviour| behaviour.signer.half_hash("another token"));
            claim(fake, "at_hash", json!(hash));
        }),
        ("an empty subject", |fake| claim(fake, "sub", json!(""))),
    ];
    for (name, attack) in attacks {
        let fake = Fake::start().await;
        attack(&fake);
        let result = fake.sign_in().await;
        assert!(refused_id_token(&result), "{name}: {result:?}");
        assert_eq!(result.unwrap_err().failure().error, "server_error", "{name}");
        assert_eq!(fake.requests("/userinfo"), 0, "{name}");
    }
    for name in ["sub", "iss", "exp", "iat", "aud"] {
        let fake = Fake::start().await;
        claim(&fake, name, Value::Null);
        let result = fake.sign_in().await;
        assert!(refused_id_token(&result), "without {name}: {result:?}");
        assert_eq!(wrong_field(&result), Some(name));
    }
}

#[tokio::test]
async fn small_differences_between_clocks_are_tolerated() {
    for (name, difference) in [("exp", -30), ("iat", 30), ("nbf", 30)] {
        let fake = Fake::start().await;
        let time = json!(Utc::now().timestamp() + difference);
        fake.set(|behaviour| behaviour.claims.insert(name.to_owned(), time));
        let result = fake.sign_in().await;
        assert!(result.is_ok(), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn a_key_rotation_is_survived_without_hammering_the_provider() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    fake.sign_in_at(&provider).await.unwrap();
    assert_eq!(fake.requests("/jwks"), 1);
    fake.sign_with(&Key::new(Algorithm::ES256, "second"));
    fake.sign_in_at(&provider).await.unwrap();
    assert_eq!(fake.requests("/jwks"), 2);
    // Known keys are not fetched again.
    fake.sign_in_at(&provider).await.unwrap();
    assert_eq!(fake.requests("/jwks"), 2);
    // Nor are they for every bad signature.
    let stranger = Key::new(Algorithm::ES256, "third");
    fake.set(|behaviour| {
        behaviour.counterfeit = Some(Box::new(move |claims| stranger.sign(claims)))
    });
    for _ in 0..5 {
        let result = fake.sign_in_at(&provider).await;
        assert!(refused_id_token(&result), "{result:?}");
    }
    assert_eq!(fake.requests("/jwks"), 2);
}

#[tokio::test]
async fn a_refresh_that_was_given_up_holds_back_nobody() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    fake.sign_in_at(&provider).await.unwrap();
    fake.sign_with(&Key::new(Algorithm::ES256, "second"));
    fake.fault("/jwks", Fault::Silence);
    let attempt = fake.begin(&provider).await.unwrap().1;
    let query = fake.callback(&attempt, &format!("&iss={}", fake.shared.issuer));
    let asked = async {
        while fake.requests("/jwks") < 2 {
            tokio::task::yield_now().await;
        }
    };
    // The browser goes away in the middle.
    tokio::select! {
        biased;
        () = asked => {}
        result = provider.finish(attempt, query) => panic!("{result:?}"),
    }
    fake.set(|behaviour| {
        behaviour.claims.clear();
        behaviour.faults.clear();
    });
    fake.sign_in_at(&provider).await.unwrap();
}

#[tokio::test]
async fn a_key_replaced_under_the_same_name_is_found_too() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    fake.sign_in_at(&provider).await.unwrap();
    fake.sign_with(&Key::new(Algorithm::ES256, "first"));
    fake.sign_in_at(&provider).await.unwrap();
    // From one kind of key to another.
    let provider = fake.relying_party();
    fake.sign_in_at(&provider).await.unwrap();
    fake.sign_with(&Key::new(Algorithm::EdDSA, "first"));
    fake.sign_in_at(&provider).await.unwrap();
}

#[tokio::test]
async fn a_provider_that_is_down_is_found_when_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Fake::start_with(listener, "");
    let provider = fake.relying_party();
    fake.serving.abort();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let result = provider.begin(&AuthorizationOptions::default()).await;
    let Err(error) = result else { panic!("there was no provider") };
    assert_eq!(error.kind, FailureKind::Unavailable, "{error:?}");
    assert_eq!(error.failure().error, "temporarily_unavailable");
    assert!(matches!(provider.status(), ProviderStatus::Failed(_)), "{:?}", provider.status());

    let fake = Fake::start_with(TcpListener::bind(address).await.unwrap(), "");
    fake.sign_in_at(&provider).await.unwrap();
    assert_eq!(provider.status(), ProviderStatus::Discovered);
}

#[tokio::test]
async fn a_slow_provider_costs_no_more_than_the_time_out() {
    for path in [DISCOVERY, "/jwks", "/token"] {
        for fault in [Fault::Silence, Fault::Stall] {
            let fake = Fake::start().await;
            fake.fault(path, fault);
            let result = fake.sign_in().await;
            assert!(unavailable(&result), "{path}: {result:?}");
        }
    }
}

#[tokio::test]
async fn many_people_wait_for_a_slow_provider_together() {
    const PEOPLE: usize = 30;
    let fake = Fake::start().await;
    fake.fault(DISCOVERY, Fault::Silence);
    let provider = fake.relying_party();
    let options = AuthorizationOptions::default();
    let begun = futures_util::future::join_all((0..PEOPLE).map(|_| provider.begin(&options)));
    // One after the other they would need 30 times the timeout.
    let begun = tokio::time::timeout(TIMEOUT * 10, begun).await.expect("nobody queues");
    let failed = |begun: &Result<_, LoginError>| {
        begun.as_ref().is_err_and(|error| error.kind == FailureKind::Unavailable)
    };
    assert!(begun.iter().all(failed));
    assert!(fake.requests(DISCOVERY) <= 2, "{}", fake.requests(DISCOVERY));

    // The failure is not kept: who comes later asks again.
    fake.set(|behaviour| behaviour.faults.clear());
    assert!(provider.begin(&options).await.is_ok());
}

#[tokio::test]
async fn endless_answers_are_cut_off() {
    for path in [DISCOVERY, "/jwks", "/token"] {
        let fake = Fake::start().await;
        fake.fault(path, Fault::Flood);
        let unhurried = fake.with(|options| options.timeout = TEST_TIMEOUT);
        let result = fake.sign_in_at(&unhurried).await;
        let Err(error) = &result else { panic!("{path}: {result:?}") };
        // By its size and not by the time it takes.
        assert!(error.reason.contains("larger than"), "{path}: {error}");
    }
}

#[tokio::test]
async fn only_what_waiting_may_mend_is_called_unavailable() {
    for (path, step) in
        [(DISCOVERY, Step::Discovery), ("/jwks", Step::Keys), ("/token", Step::TokenEndpoint)]
    {
        for (status, body, kind) in [
            (StatusCode::OK, "{", FailureKind::Failed),
            (StatusCode::OK, "[]", FailureKind::Failed),
            (StatusCode::OK, "{\"access_token\":\"access-token-8b1a9953c4\"}", FailureKind::Failed),
            (StatusCode::NOT_FOUND, "{}", FailureKind::Failed),
            (StatusCode::FORBIDDEN, "<html>", FailureKind::Failed),
            (StatusCode::INTERNAL_SERVER_ERROR, "<html>", FailureKind::Unavailable),
            (StatusCode::SERVICE_UNAVAILABLE, "", FailureKind::Unavailable),
            (StatusCode::TOO_MANY_REQUESTS, "{}", FailureKind::Unavailable),
        ] {
            let fake = Fake::start().await;
            fake.fault(path, Fault::Answer(status, body.to_owned()));
            let result = fake.sign_in().await;
            let Err(error) = &result else { panic!("{path} {status} {body}: {result:?}") };
            assert_eq!((error.step, error.kind), (step, kind), "{path} {status} {body}: {error}");
            // Metadata and key set are parsed before they are found wanting.
            if path == "/token" || !body.contains("access") {
                assert_eq!(error.status, Some(status.as_u16()), "{path} {body}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_token_endpoints_error_is_logged_without_what_it_may_repeat() {
    let fake = Fake::start().await;
    let answer = json!({"error": "invalid_grant", "error_description": format!("no {CODE}!")});
    fake.fault("/token", Fault::Answer(StatusCode::BAD_REQUEST, answer.to_string()));
    let error = fake.sign_in().await.unwrap_err();
    let provider = error.provider.as_ref().unwrap();
    assert_eq!(provider.code, "invalid_grant");
    assert_eq!(provider.description.as_deref(), Some("no (redacted)!"));
    assert_eq!(error.failure().error, "server_error");
    for code in [format!("bad {CODE}"), "a\r\nforged=line".to_owned(), "e".repeat(9_000)] {
        // The secret may also stand where the text is cut.
        let description = format!("{}{CLIENT_SECRET}", "x".repeat(190));
        let answer = json!({"error": code, "error_description": description});
        fake.fault("/token", Fault::Answer(StatusCode::BAD_REQUEST, answer.to_string()));
        let error = fake.sign_in().await.unwrap_err();
        let provider = error.provider.unwrap();
        assert!(provider.code.len() <= 80 && !provider.code.contains(['\r', '\n']));
        assert!(!provider.description.unwrap().contains("client-secret"));
    }
}

#[tokio::test]
async fn redirects_of_the_back_channel_are_not_followed() {
    for path in [DISCOVERY, "/jwks", "/token", "/userinfo"] {
        let fake = Fake::start().await;
        let elsewhere = Fake::start().await;
        let target = format!("{}{path}", elsewhere.shared.issuer);
        fake.fault(path, Fault::Redirect(target));
        let provider = fake.with(|options| options.claims = vec!["name".to_owned()]);
        let result = fake.sign_in_at(&provider).await;
        if path == "/userinfo" {
            assert!(!result.unwrap().claims.contains_key("name"));
        } else {
            let Err(error) = &result else { panic!("{path}: {result:?}") };
            assert_eq!((error.kind, error.status), (FailureKind::Failed, Some(307)), "{error:?}");
        }
        assert_eq!(elsewhere.requests(path), 0, "{path} was followed");
        assert_eq!(fake.requests(path), 1, "{path} was not asked");
    }
}

#[tokio::test]
async fn metadata_of_another_issuer_is_refused() {
    for issuer in ["https://evil.example", "http://127.0.0.1:1", ""] {
        let fake = Fake::start().await;
        fake.set(|behaviour| behaviour.metadata.insert("issuer".to_owned(), json!(issuer)));
        let result = fake.sign_in().await;
        assert_eq!(wrong_field(&result), Some("issuer"), "{issuer}: {result:?}");
        assert!(!unavailable(&result), "{issuer}: {result:?}");
    }
}

#[tokio::test]
async fn issuers_with_a_slash_at_the_end_or_with_a_path_work() {
    for tail in ["", "/", "/tenant", "/tenant/"] {
        let fake = Fake::start_with(TcpListener::bind("127.0.0.1:0").await.unwrap(), tail);
        let result = fake.sign_in().await;
        assert!(result.is_ok(), "{tail}: {result:?}");
    }
}

async fn with_claims(fake: &Fake, claims: &[&str]) -> Identity {
    let claims = claims.iter().map(|name| (*name).to_owned()).collect();
    fake.sign_in_at(&fake.with(|options| options.claims = claims)).await.unwrap()
}

#[tokio::test]
async fn userinfo_fills_what_the_id_token_lacks_and_changes_nothing() {
    let fake = Fake::start().await;
    fake.set(|behaviour| {
        behaviour.claims.insert("email".to_owned(), json!("ada@example.com"));
        behaviour.userinfo = json!({
            "sub": "subject-1", "email": "other@example.com", "department": "engines", "x": 1,
        });
    });
    let identity = with_claims(&fake, &["email", "department"]).await;
    assert_eq!(identity.claims["email"], "ada@example.com");
    assert_eq!(identity.claims["department"], "engines");
    assert!(!identity.claims.contains_key("x"), "nobody asked for it");
    let seen = fake.shared.seen.lock().unwrap();
    let asked = seen.iter().find(|seen| seen.path == "/userinfo").unwrap();
    assert_eq!(asked.headers[header::AUTHORIZATION], format!("Bearer {ACCESS_TOKEN}"));
}

#[tokio::test]
async fn userinfo_is_not_asked_when_nothing_is_missing() {
    let fake = Fake::start().await;
    fake.set(|behaviour| behaviour.claims.insert("email".to_owned(), json!("ada@example.com")));
    assert_eq!(with_claims(&fake, &["email"]).await.claims["email"], "ada@example.com");
    assert_eq!(fake.requests("/userinfo"), 0);
}

#[tokio::test]
async fn userinfo_that_cannot_be_believed_is_left_out() {
    let faults = [
        Fault::Answer(StatusCode::OK, json!({"sub": "victim", "email": "v@x"}).to_string()),
        Fault::Answer(StatusCode::OK, json!({"email": "v@x"}).to_string()),
        Fault::Answer(StatusCode::OK, json!({"sub": 1, "email": "v@x"}).to_string()),
        Fault::Answer(StatusCode::OK, "[".to_owned()),
        Fault::Answer(StatusCode::FORBIDDEN, json!({"sub": "subject-1", "email": "v"}).to_string()),
        Fault::Silence,
        Fault::Stall,
        Fault::Flood,
    ];
    for fault in faults {
        let fake = Fake::start().await;
        fake.fault("/userinfo", fault);
        let identity = with_claims(&fake, &["email"]).await;
        assert_eq!(fake.requests("/userinfo"), 1);
        assert_eq!(identity.subject, "subject-1");
        assert!(identity.claims.is_empty(), "{:?}", identity.claims);
    }
}

/// The provider can continue our traces; without a trace no header is sent.
#[cfg(feature = "opentelemetry")]
#[tokio::test]
async fn the_back_channel_hands_on_the_trace_of_the_request() {
    use crate::telemetry::{
        RequestHead, Sampler, TRACEPARENT, TraceContext, Tracing, TracingOptions,
    };
    let fake = Fake::start().await;
    fake.sign_in().await.unwrap();
    let calls = |fake: &Fake| {
        let seen = fake.shared.seen.lock().unwrap();
        let parents = seen.iter().map(|seen| seen.headers.get(TRACEPARENT).cloned());
        parents.collect::<Vec<_>>()
    };
    assert!(calls(&fake).iter().all(Option::is_none));
    fake.shared.seen.lock().unwrap().clear();

    let tracing = Tracing::start(&TracingOptions {
        // Nobody listens: what is exported is tested elsewhere.
        endpoint: url::Url::parse("http://127.0.0.1:9").unwrap(),
        headers: Vec::new(),
        service_name: "test".to_owned(),
        sampler: Sampler::ParentBasedAlwaysOn,
    })
    .unwrap();
    let incoming = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let head = RequestHead {
        method: http::Method::GET,
        route: "/callback".to_owned(),
        scheme: "http",
        host: None,
        port: None,
        incoming: TraceContext::parse(incoming),
        deferred: true,
    };
    let span = tracing.request(head);
    let provider = fake.relying_party().in_trace(&span.trace());
    span.run(async {
        fake.sign_in_at(&provider).await.unwrap();
        http::Response::new(())
    })
    .await;
    let parents = calls(&fake);
    // Discovery, keys, token.
    assert_eq!(parents.len(), 3);
    let mut spans = std::collections::HashSet::new();
    for parent in parents {
        let parent = TraceContext::parse(parent.unwrap().to_str().unwrap()).unwrap();
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled() && parent.span_id() != "00f067aa0ba902b7");
        assert!(spans.insert(parent.span_id()), "each call is a span of its own");
    }
}

/// Changes claims of the ID token.
fn claims(fake: &Fake, changes: Value) {
    let Value::Object(changes) = changes else { panic!("{changes}") };
    fake.set(|behaviour| behaviour.claims.extend(changes));
}

fn metadata(fake: &Fake, changes: Value) {
    let Value::Object(changes) = changes else { panic!("{changes}") };
    fake.set(|behaviour| behaviour.metadata.extend(changes));
}

#[tokio::test]
async fn claims_and_fields_that_are_not_used_may_have_any_shape() {
    let fake = Fake::start().await;
    claims(
        &fake,
        json!({
            "updated_at": "2025-12-23T10:59:07.841Z",
            "email_verified": "true",
            "address": "one line",
            "auth_time": "1700000000",
            "amr": "pwd",
            "acr": 1,
            "exp": (Utc::now().timestamp() + 300).to_string(),
            "iat": Utc::now().timestamp() as f64 + 0.25,
            "azp": null,
        }),
    );
    // A null at this fake provider removes; one that is sent is tried beside it.
    fake.set(|behaviour| {
        let key = behaviour.signer.clone();
        behaviour.counterfeit = Some(Box::new(move |claims| {
            let mut claims = claims.clone();
            claims["azp"] = Value::Null;
            claims["email"] = Value::Null;
            key.sign(&claims)
        }));
        behaviour.userinfo = json!({"sub": "subject-1", "email": "ada@example.com"});
    });
    let identity = with_claims(&fake, &["email"]).await;
    assert_eq!(identity.claims["email"], "ada@example.com");
    assert_eq!(identity.claims["email_verified"], "true");
    assert_eq!((identity.auth_time, identity.amr), (Some(1_700_000_000), vec!["pwd".to_owned()]));

    let answer = json!({
        "access_token": ACCESS_TOKEN, "token_type": "bearer", "scope": ["openid"],
        "expires_in": "3599", "id_token": null,
    });
    fake.fault("/token", Fault::Answer(StatusCode::OK, answer.to_string()));
    let result = fake.sign_in().await;
    // Read, and found to lack what matters.
    assert_eq!(wrong_field(&result), Some("id_token"), "{result:?}");
}

#[tokio::test]
async fn a_subject_that_is_no_text_is_named() {
    let fake = Fake::start().await;
    claims(&fake, json!({"sub": 4711}));
    let error = fake.sign_in().await.unwrap_err();
    assert_eq!((error.step, error.field.as_deref()), (Step::IdToken, Some("sub")));
    assert_eq!(error.failure().error, "server_error");
    assert!(error.reason.contains("a number, not text"), "{error}");
}

#[tokio::test]
async fn further_audiences_need_azp_or_trust() {
    for (change, trusted, accepted) in [
        (json!({"aud": [CLIENT_ID, "329836626744180738"], "azp": CLIENT_ID}), None, true),
        (json!({"aud": [CLIENT_ID, "api"]}), Some("api"), true),
        (json!({"aud": [CLIENT_ID, "api"]}), Some("other"), false),
        (json!({"aud": [CLIENT_ID, "api"]}), None, false),
        (json!({"aud": [CLIENT_ID, "api"], "azp": "api"}), Some("api"), false),
        (json!({"aud": ["api"], "azp": CLIENT_ID}), Some("api"), false),
    ] {
        let fake = Fake::start().await;
        claims(&fake, change.clone());
        let provider = fake.with(|options| {
            options.trusted_audiences = trusted.into_iter().map(str::to_owned).collect();
        });
        let result = fake.sign_in_at(&provider).await;
        assert_eq!(result.is_ok(), accepted, "{change} {trusted:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_change_of_algorithm_is_followed_at_the_next_sign_in() {
    let fake = Fake::start().await;
    metadata(&fake, json!({"id_token_signing_alg_values_supported": ["RS256"]}));
    fake.sign_with(&Key::new(Algorithm::RS256, "first"));
    let provider = fake.relying_party();
    fake.sign_in_at(&provider).await.unwrap();
    metadata(&fake, json!({"id_token_signing_alg_values_supported": ["ES256"]}));
    fake.sign_with(&Key::new(Algorithm::ES256, "second"));
    fake.sign_in_at(&provider).await.unwrap();

    let fake = Fake::start().await;
    let head = json!({"alg": "ES512", "kid": "first"});
    fake.set(|behaviour| {
        let head = head.clone();
        behaviour.counterfeit =
            Some(Box::new(move |claims| format!("{}.AAAA", unsigned(&head, claims))));
    });
    let error = fake.sign_in().await.unwrap_err();
    assert!(error.reason.contains("ES512 is not supported"), "{error}");
}

#[tokio::test]
async fn a_shared_secret_signs_only_where_the_operator_says_so() {
    for (algorithm, name) in [(Algorithm::HS256, "HS256"), (Algorithm::HS512, "HS512")] {
        let fake = Fake::start().await;
        fake.set(|behaviour| {
            behaviour.claims.insert("at_hash".to_owned(), Value::Null);
            behaviour.counterfeit = Some(Box::new(move |claims| {
                let key = PrivateKey::from_secret(algorithm, CLIENT_SECRET.as_bytes()).unwrap();
                key.sign_compact(&Header::new(algorithm), claims).unwrap()
            }));
        });
        let error = fake.sign_in().await.unwrap_err();
        assert!(error.reason.contains(&format!("OIDC_SIGNING_ALGORITHMS={name}")), "{error}");
        let allowed = |secret: &str| {
            fake.with(|options| {
                options.signing_algorithms = SigningAlgorithms::parse([name]).unwrap();
                options.client_secrets = ClientSecrets::new([secret]);
            })
        };
        fake.sign_in_at(&allowed(CLIENT_SECRET)).await.unwrap();
        let result = fake.sign_in_at(&allowed("another secret of the same length..")).await;
        assert_eq!(wrong_field(&result), Some("signature"), "{result:?}");
    }
}

#[tokio::test]
async fn clocks_that_differ_are_named_with_the_setting() {
    for (name, difference) in [("iat", 90), ("nbf", 3600), ("exp", -120)] {
        let fake = Fake::start().await;
        claims(&fake, json!({ name: Utc::now().timestamp() + difference }));
        let error = fake.sign_in().await.unwrap_err();
        assert_eq!(error.field.as_deref(), Some(name));
        assert!(error.reason.contains("OIDC_CLOCK_SKEW, now 1m"), "{error}");
        let provider = fake.with(|options| options.clock_skew = Duration::from_secs(7200));
        fake.sign_in_at(&provider).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_may_stand_twice_in_the_key_set() {
    let fake = Fake::start().await;
    fake.set(|behaviour| {
        let key = behaviour.published[0].clone();
        behaviour.published.push(key);
        let other = serde_json::to_value(&Key::new(Algorithm::ES256, "first").public).unwrap();
        behaviour.published.insert(0, other);
    });
    fake.sign_in().await.unwrap();
}

#[tokio::test]
async fn metadata_with_faults_that_do_not_matter_work() {
    let fake = Fake::start().await;
    metadata(
        &fake,
        json!({
            "subject_types_supported": null,
            "response_types_supported": null,
            "op_policy_uri": "",
            "claims_parameter_supported": "true",
            "authorization_response_iss_parameter_supported": "true",
            "token_endpoint_auth_methods_supported": "client_secret_post",
        }),
    );
    fake.sign_in().await.unwrap();
    let seen = fake.shared.seen.lock().unwrap();
    let exchange = seen.iter().find(|seen| seen.path == "/token").unwrap();
    assert!(!exchange.headers.contains_key(header::AUTHORIZATION), "post was offered alone");
    assert!(std::str::from_utf8(&exchange.body).unwrap().contains("client_secret="));
}

#[tokio::test]
async fn signed_userinfo_is_verified() {
    type Make = fn(&Key, &Value) -> String;
    let cases: [(&str, Make, Value, bool); 6] = [
        ("its own", |key, claims| key.sign(claims), json!({}), true),
        ("no issuer", |key, claims| key.sign(claims), json!({"iss": null, "aud": null}), true),
        ("another key", |_, claims| Key::new(Algorithm::ES256, "x").sign(claims), json!({}), false),
        ("another audience", |key, claims| key.sign(claims), json!({"aud": "other"}), false),
        ("another issuer", |key, claims| key.sign(claims), json!({"iss": "https://x"}), false),
        ("another subject", |key, claims| key.sign(claims), json!({"sub": "victim"}), false),
    ];
    for (name, make, change, believed) in cases {
        let fake = Fake::start().await;
        let key = fake.set(|behaviour| behaviour.signer.clone());
        let mut userinfo = json!({
            "iss": fake.shared.issuer, "aud": CLIENT_ID, "sub": "subject-1",
            "given_name": "Angela", "usual_name": "Dubois", "email": "a@example.com",
        });
        userinfo.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        fake.fault("/userinfo", Fault::Answer(StatusCode::OK, make(&key, &userinfo)));
        let identity = with_claims(&fake, &["email"]).await;
        assert_eq!(identity.claims.contains_key("email"), believed, "{name}");
        if believed {
            assert_eq!(identity.claims["name"], "Angela Dubois", "{name}");
        } else {
            let provider = fake.with(|options| options.userinfo_required = true);
            let error = fake.sign_in_at(&provider).await.unwrap_err();
            assert_eq!(error.step, Step::Userinfo, "{name}");
        }
    }
}

#[tokio::test]
async fn each_way_of_authentication_sends_the_secret_as_it_says() {
    const SECRET: &str = "a+b/c=d:e%f~g";
    let basic =
        |secret: &str| format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{secret}")));
    let form = |seen: &Seen| {
        url::form_urlencoded::parse(&seen.body).into_owned().collect::<HashMap<_, _>>()
    };
    for method in [ClientAuth::Basic, ClientAuth::BasicRaw, ClientAuth::Post, ClientAuth::None] {
        let fake = Fake::start().await;
        let provider = fake.with(|options| {
            options.client_secrets = ClientSecrets::new([SECRET]);
            options.client_auth = method;
        });
        fake.sign_in_at(&provider).await.unwrap();
        let seen = fake.shared.seen.lock().unwrap();
        let exchange = seen.iter().find(|seen| seen.path == "/token").unwrap();
        let sent = exchange.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
        let form = form(exchange);
        match method {
            ClientAuth::Basic => assert_eq!(sent, Some(&*basic("a%2Bb%2Fc%3Dd%3Ae%25f%7Eg"))),
            ClientAuth::BasicRaw => assert_eq!(sent, Some(&*basic(SECRET))),
            _ => assert_eq!(sent, None),
        }
        let in_form = form.get("client_secret").map(String::as_str);
        assert_eq!(in_form, (method == ClientAuth::Post).then_some(SECRET), "{method:?}");
        assert_eq!(form.contains_key("client_id"), sent.is_none(), "{method:?}");
    }
}

#[tokio::test]
async fn an_authorization_request_has_the_configured_parameters_and_no_others() {
    let fake = Fake::start().await;
    metadata(&fake, json!({"prompt_values_supported": ["login", "none"]}));
    let provider = fake.with(|options| {
        options.pkce = false;
        options.auth_params = AuthParams::parse("acr_values=eidas1&siret_hint=1").unwrap();
    });
    let asked = AuthorizationOptions {
        login_hint: Some("ada@example.com".to_owned()),
        prompt: Some(Prompt::SelectAccount),
        ui_locales: Some("fr".to_owned()),
        ..AuthorizationOptions::default()
    };
    let (url, attempt) = provider.begin(&asked).await.unwrap();
    let query = url.query_pairs().into_owned().collect::<HashMap<_, _>>();
    let mut names = query.keys().map(String::as_str).collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "acr_values",
            "client_id",
            "login_hint",
            "nonce",
            "prompt",
            "redirect_uri",
            "response_type",
            "scope",
            "siret_hint",
            "state",
        ]
    );
    assert_eq!(query["prompt"], "login", "the nearest that this provider takes");
    assert!(query["state"].len() >= 32 && query["nonce"].len() >= 32);
    assert!(attempt.pkce_verifier.is_empty());

    metadata(&fake, json!({"ui_locales_supported": ["fr", "en"]}));
    let url = fake.relying_party().begin(&asked).await.unwrap().0;
    assert!(url.query_pairs().any(|(name, value)| name == "ui_locales" && value == "fr"));
}

#[tokio::test]
async fn of_many_tenants_only_the_allowed_ones_sign_in() {
    const TENANT: &str = "8d0c1f9e-1111-2222-3333-444455556666";
    let fake = Fake::start_with(TcpListener::bind("127.0.0.1:0").await.unwrap(), "/tenant");
    let base = fake.shared.issuer.trim_end_matches("/tenant").to_owned();
    metadata(&fake, json!({"issuer": format!("{base}/{{tenantid}}")}));
    metadata(&fake, json!({"authorization_response_iss_parameter_supported": false}));
    let error = fake.sign_in().await.unwrap_err();
    assert!(error.reason.contains("OIDC_ALLOWED_TENANTS"), "{error}");
    let provider = fake.with(|options| options.allowed_tenants = vec![TENANT.to_owned()]);
    for (tenant, issuer, step) in [
        (TENANT, format!("{base}/{TENANT}"), None),
        ("another", format!("{base}/another"), Some(Step::Requirements)),
        (TENANT, format!("{base}/another"), Some(Step::IdToken)),
    ] {
        claims(&fake, json!({"tid": tenant, "iss": issuer}));
        let attempt = fake.begin(&provider).await.unwrap().1;
        let response = fake.callback(&attempt, "");
        let result = provider.finish(attempt, response).await;
        fake.set(|behaviour| behaviour.claims.remove("nonce"));
        match step {
            None => assert_eq!(result.unwrap().issuer, issuer),
            Some(step) => assert_eq!(result.unwrap_err().step, step, "{tenant} {issuer}"),
        }
    }
}

#[tokio::test]
async fn accounts_that_do_not_meet_the_requirements_are_refused() {
    let fake = Fake::start().await;
    claims(&fake, json!({"email": "ada@example.com", "hd": "example.com"}));
    let sign_in = async |required: &str, trust_email: bool| {
        let provider = fake.with(|options| {
            options.required_claims = RequiredClaims::parse(required.split(',')).unwrap();
            options.trust_email = trust_email;
        });
        fake.sign_in_at(&provider).await
    };
    sign_in("hd=example.com|example.org", false).await.unwrap();
    for (required, field) in [("hd=example.org", "hd"), ("email_verified=true", "email_verified")] {
        let error = sign_in(required, false).await.unwrap_err();
        assert_eq!((error.kind, error.field.as_deref()), (FailureKind::NotAllowed, Some(field)));
        assert_eq!(error.failure().error, "access_denied");
        assert!(!error.to_string().contains("example.com"), "no value in {error}");
    }
    let identity = sign_in("email_verified=true", true).await.unwrap();
    assert_eq!(identity.claims["email_verified"], true);
}

#[tokio::test]
async fn a_token_endpoint_that_moved_is_found() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    metadata(&fake, json!({"token_endpoint": format!("{}/moved", fake.shared.issuer)}));
    fake.begin(&provider).await.unwrap();
    fake.set(|behaviour| behaviour.claims.remove("nonce"));
    metadata(&fake, json!({"token_endpoint": format!("{}/token", fake.shared.issuer)}));
    fake.sign_in_at(&provider).await.unwrap();
    assert_eq!((fake.requests("/moved"), fake.requests("/token")), (1, 1));
}

#[tokio::test]
async fn the_second_of_two_secrets_is_tried() {
    let fake = Fake::start().await;
    let answer = json!({"error": "invalid_client"}).to_string();
    fake.fault("/token", Fault::Answer(StatusCode::UNAUTHORIZED, answer));
    let provider = fake.with(|options| options.client_secrets = ClientSecrets::new(["new", "old"]));
    let error = fake.sign_in_at(&provider).await.unwrap_err();
    assert!(fake.requests("/token") >= 2);
    assert!(error.client_auth.unwrap().contains("client_secret_basic"), "{error:?}");
    assert_eq!(error.failure().error, "server_error");
}

#[tokio::test]
async fn a_logout_token_is_verified() {
    let fake = Fake::start().await;
    let provider = fake.relying_party();
    let key = fake.set(|behaviour| behaviour.signer.clone());
    let now = Utc::now().timestamp();
    let honest = json!({
        "iss": fake.shared.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 60, "jti": "1",
        "sub": "subject-1", "sid": "session-1",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    });
    let token = provider.logout_token(&key.sign(&honest)).await.unwrap();
    assert_eq!(token.session_id.as_deref(), Some("session-1"));
    assert_eq!(token.subject.as_deref(), Some("subject-1"));
    for (change, field) in [
        (json!({"nonce": "x"}), "nonce"),
        (json!({"events": {}}), "events"),
        (json!({"aud": "other"}), "aud"),
        (json!({"iss": "https://evil.example"}), "iss"),
        (json!({"sub": null, "sid": null}), "sub"),
        (json!({"exp": now - 120}), "exp"),
        (json!({"exp": null, "iat": now - 600}), "iat"),
    ] {
        let mut claims = honest.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = provider.logout_token(&key.sign(&claims)).await.unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{change}: {error}");
    }
}

/// Key sets as providers write them, whether or not RFC 7518 would have it.
#[tokio::test]
async fn keys_are_found_as_providers_write_them() {
    let rsa = Key::new(Algorithm::RS256, "k");
    let plain = serde_json::to_value(&rsa.public).unwrap();
    let with = |change: Value| {
        let mut key = plain.clone();
        key.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        key
    };
    let modulus = plain["n"].as_str().unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(modulus).unwrap();
    let sign_byte = URL_SAFE_NO_PAD.encode([&[0], &bytes[..]].concat());
    let padding = ["", "=", "==", "="][modulus.len() * 3 % 4];
    let other = serde_json::to_value(&Key::new(Algorithm::RS256, "k").public).unwrap();
    for (name, published, found) in [
        ("nothing optional", json!([{"kty": "RSA", "n": plain["n"], "e": plain["e"]}]), true),
        ("a numeric kid", json!([with(json!({"kid": 7}))]), true),
        ("x5c, x5t", json!([with(json!({"x5c": ["MIIB"], "x5t": 1, "x5u": null}))]), true),
        ("use, key_ops", json!([with(json!({"use": "sig", "key_ops": ["verify"]}))]), true),
        ("a sign byte", json!([with(json!({"n": sign_byte}))]), true),
        ("padding", json!([with(json!({"n": format!("{modulus}{padding}")}))]), true),
        ("base64", json!([with(json!({"n": STANDARD.encode(&bytes)}))]), true),
        ("the same kid twice", json!([other, plain, other]), true),
        (
            "unknown kinds beside",
            json!([{"kty": "AKP"}, {}, 1, null, "x", {"kty": "RSA"}, plain]),
            true,
        ),
        (
            "another curve beside",
            json!([{"kty": "EC", "crv": "secp256k1", "kid": "k"}, plain]),
            true,
        ),
        ("another kid", json!([with(json!({"kid": "other"}))]), false),
        ("for encryption", json!([with(json!({"use": "enc"}))]), false),
        ("of another algorithm", json!([with(json!({"alg": "RS512"}))]), false),
        ("none", json!([]), false),
    ] {
        let fake = Fake::start().await;
        fake.sign_with(&rsa);
        fake.set(|behaviour| behaviour.published = published.as_array().unwrap().clone());
        let result = fake.sign_in().await;
        assert_eq!(result.is_ok(), found, "{name}: {result:?}");
        if !found {
            assert_eq!(wrong_field(&result), Some("kid"), "{name}: {result:?}");
        }
    }
}

/// Bodies and statuses of the token endpoint that say the same in other ways.
#[tokio::test]
async fn the_token_endpoints_answer_is_read_as_providers_write_it() {
    let fake = Fake::start().await;
    for (name, change, wrong) in [
        ("other case", json!({"token_type": "BEARER"}), None),
        ("no type", json!({"token_type": null}), None),
        ("negative lifetime", json!({"expires_in": -1}), None),
        ("fraction", json!({"expires_in": 3599.5, "scope": null}), None),
        ("objects", json!({"scope": {}, "refresh_token": [], "id_token_type": 1}), None),
        ("MAC", json!({"token_type": "mac"}), Some("token_type")),
        ("a list", json!({"id_token": ["x"]}), Some("id_token")),
        ("a number", json!({"access_token": 5}), Some("access_token")),
        ("empty", json!({"access_token": ""}), Some("access_token")),
        ("an ID token that is none", json!({"id_token": "opaque"}), None),
    ] {
        for (status, mark) in [(StatusCode::OK, "\u{feff}"), (StatusCode::CREATED, "")] {
            let provider = fake.relying_party();
            let attempt = fake.begin(&provider).await.unwrap().1;
            let mut answer = {
                let behaviour = fake.shared.behaviour.lock().unwrap();
                let id_token =
                    behaviour.signer.sign(&Fake::honest_claims(&fake.shared, &behaviour));
                json!({"access_token": ACCESS_TOKEN, "token_type": "Bearer", "id_token": id_token})
            };
            answer.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let body = format!("{mark}{answer}");
            fake.fault("/token", Fault::Answer(status, body));
            let query = fake.callback(&attempt, &format!("&iss={}", fake.shared.issuer));
            let result = provider.finish(attempt, query).await;
            fake.set(|behaviour| behaviour.claims.remove("nonce"));
            if name.starts_with("an ID token") {
                assert!(refused_id_token(&result), "{name}: {result:?}");
            } else {
                assert_eq!(result.is_ok(), wrong.is_none(), "{name} {status}: {result:?}");
                assert_eq!(wrong_field(&result), wrong, "{name} {status}: {result:?}");
            }
        }
    }
}

#[tokio::test]
async fn claims_of_other_shapes_are_read_or_named() {
    let now = Utc::now().timestamp();
    for (change, wrong) in [
        (json!({"aud": [CLIENT_ID]}), None),
        (json!({"aud": [CLIENT_ID, CLIENT_ID]}), None),
        (json!({"iat": now + 30, "nbf": now + 30}), None),
        (json!({"iat": format!("{now}.5"), "exp": (now + 300) as f64 + 0.5}), None),
        (json!({"at_hash": null}), None),
        (json!({"sid": 7, "acr": [], "amr": {}, "auth_time": "yesterday"}), None),
        (json!({"email_verified": "TRUE", "name": {"x": 1}, "locale": []}), None),
        (json!({"sub": ""}), Some("sub")),
        (json!({"sub": null}), Some("sub")),
        (json!({"sub": ["subject-1"]}), Some("sub")),
        (json!({"aud": []}), Some("aud")),
        (json!({"aud": {"x": CLIENT_ID}}), Some("aud")),
        (json!({"aud": [CLIENT_ID, 7]}), Some("aud[]")),
        (json!({"azp": 7}), Some("azp")),
        (json!({"iss": 7}), Some("iss")),
        (json!({"iat": "soon"}), Some("iat")),
        (json!({"iat": null}), Some("iat")),
        (json!({"exp": true}), Some("exp")),
        (json!({"nonce": null}), Some("nonce")),
        (json!({"nonce": 7}), Some("nonce")),
        (json!({"at_hash": 7}), Some("at_hash")),
        (json!({"at_hash": "AAAA"}), Some("at_hash")),
    ] {
        let fake = Fake::start().await;
        claims(&fake, change.clone());
        let result = fake.sign_in().await;
        assert_eq!(result.is_ok(), wrong.is_none(), "{change}: {result:?}");
        assert_eq!(wrong_field(&result), wrong, "{change}: {result:?}");
    }
}
