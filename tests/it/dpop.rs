//! Tokens that are bound to a key (DPoP, RFC 9449): of use with a fresh proof for this very request, once.

use reqwest::{RequestBuilder, Response, StatusCode, header};
use serde_json::{Value, json};
use token_relay::util::clock::UnixTime;

use crate::support::{Browser, Events, Process, client, dpop_key::Key, redis, text};

const API_SECRET: &str = "a secret of the tests of 32 characters or more";

fn instance(redis_url: &str, more: &[(&str, &str)]) -> Process {
    let clients = [
        ("TOKEN_RELAY_CLIENTS__NOTES__FULFILLED_BY", "portal"),
        ("TOKEN_RELAY_CLIENTS__NOTES__GRANTS", "session device"),
        ("TOKEN_RELAY_CLIENTS__STRICT__FULFILLED_BY", "portal"),
        ("TOKEN_RELAY_CLIENTS__STRICT__GRANTS", "session device"),
        ("TOKEN_RELAY_CLIENTS__STRICT__DPOP_REQUIRED", "true"),
        ("TOKEN_RELAY_CLIENTS__PORTAL__GRANTS", "introspect"),
        ("TOKEN_RELAY_CLIENTS__PORTAL__SECRET", API_SECRET),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_DEVICE_INTERVAL", "1s"),
    ];
    let shared = crate::support::shared(redis_url);
    Process::demo_behind(PUBLIC, &[&shared[..], &clients, more].concat())
}

/// Behind a path prefix, which the proxy in front takes away.
const PUBLIC: &str = "https://relay.example/sign-in";

const ME: &str = "https://relay.example/sign-in/addons/me";
const TOKEN: &str = "https://relay.example/sign-in/addons/token";

/// A session, as its creator addresses it at this instance.
struct Session {
    id: String,
    token: String,
    transit: String,
}

async fn create(relay: &Process, body: Value) -> Response {
    let request = client().post(format!("{}/addons/sessions", relay.url)).json(&body);
    request.send().await.unwrap()
}

async fn created(relay: &Process, body: Value) -> Session {
    let answer = create(relay, body).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let body: Value = answer.json().await.unwrap();
    Session {
        id: text(&body, "session_id").to_owned(),
        token: text(&body, "session_token").to_owned(),
        transit: text(&body, "transit_token").to_owned(),
    }
}

/// A token for a session that a backend fulfils.
async fn token(relay: &Process, client_id: &str, key: &Key) -> (Session, Value) {
    let body = json!({"bind": true, "client_id": client_id, "dpop_jkt": key.thumbprint()});
    let session = created(relay, body).await;
    let events = format!("{}/addons/sessions/{}/events", relay.url, session.id);
    let mut events = Events::open(&events, Some(&session.token)).await;
    fulfil(relay, json!({"transit_token": session.transit, "subject": "alice"})).await;
    let token = events.next().await.unwrap().data;
    assert_eq!(text(&token, "token_type"), "DPoP");
    (session, token)
}

async fn fulfil(relay: &Process, body: Value) {
    let request = client().post(format!("{}/addons/fulfil", relay.url));
    let answer = request.basic_auth("portal", Some(API_SECRET)).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
}

fn me(relay: &Process, token: &str, proof: Option<&str>) -> RequestBuilder {
    let request = client().get(format!("{}/addons/me", relay.url));
    let request = request.header(header::AUTHORIZATION, format!("DPoP {token}"));
    match proof {
        Some(proof) => request.header("dpop", proof),
        None => request,
    }
}

/// `error` of the challenge of RFC 9449 §7.1.
fn challenge(answer: &Response) -> String {
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let challenge = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.starts_with("DPoP ") && challenge.contains("algs=\"ES256 "), "{challenge}");
    challenge.split("error=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

fn nonce(answer: &Response) -> String {
    answer.headers()["dpop-nonce"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_proof_is_for_one_request_and_works_once_over_all_instances() {
    let redis = redis::Server::start(&[]).await;
    let relays = [instance(&redis.url(), &[]), instance(&redis.url(), &[])];
    let [first, second] = &relays;
    let key = Key::generate();
    let (_, answer) = token(first, "notes", &key).await;
    let token = text(&answer, "access_token");
    let none = json!({});
    let ask =
        async |relay: &Process, proof: &str| me(relay, token, Some(proof)).send().await.unwrap();

    // The nonce of one instance is good at the other.
    let answer = ask(first, &key.proof("GET", ME, "", Some(token), &none)).await;
    assert_eq!(challenge(&answer), "use_dpop_nonce");
    let nonce = nonce(&answer);
    let proof = key.proof("GET", ME, &nonce, Some(token), &none);
    assert_eq!(ask(second, &proof).await.status(), StatusCode::OK);
    for relay in &relays {
        assert_eq!(challenge(&ask(relay, &proof).await), "invalid_dpop_proof", "a replay");
    }
    let other = Key::generate();
    let at = |seconds: i64| {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
        key.proof("GET", ME, &nonce, Some(token), &json!({"iat": now + seconds}))
    };
    for (what, proof) in [
        ("another method", key.proof("POST", ME, &nonce, Some(token), &none)),
        ("another path", key.proof("GET", &format!("{ME}/"), &nonce, Some(token), &none)),
        (
            "without the prefix",
            key.proof("GET", "https://relay.example/addons/me", &nonce, Some(token), &none),
        ),
        (
            "the address behind the proxy",
            key.proof("GET", &format!("{}/addons/me", first.url), &nonce, Some(token), &none),
        ),
        ("another token", key.proof("GET", ME, &nonce, Some("another"), &none)),
        ("no token", key.proof("GET", ME, &nonce, None, &none)),
        ("another key", other.proof("GET", ME, &nonce, Some(token), &none)),
        ("a clock ten minutes ahead", at(600)),
        ("a clock ten minutes behind", at(-600)),
        ("no JWT", "a.b.c".to_owned()),
    ] {
        assert_eq!(challenge(&ask(first, &proof).await), "invalid_dpop_proof", "{what}");
    }
    for (what, proof) in [
        ("a clock 30 s ahead", at(30)),
        ("a clock 30 s behind", at(-30)),
        ("a query", key.proof("GET", &format!("{ME}?a=b"), &nonce, Some(token), &none)),
        (
            "a port that is named",
            key.proof("GET", &ME.replace(".example", ".example:443"), &nonce, Some(token), &none),
        ),
    ] {
        assert_eq!(ask(first, &proof).await.status(), StatusCode::OK, "{what}");
    }
    let two = me(first, token, Some(&at(0))).header("dpop", at(0)).send().await.unwrap();
    assert_eq!(challenge(&two), "invalid_dpop_proof");
}

#[tokio::test]
async fn a_bound_token_is_of_no_use_to_who_has_no_key() {
    let redis = redis::Server::start(&[]).await;
    let relay = instance(&redis.url(), &[]);
    let key = Key::generate();
    let (session, answer) = token(&relay, "notes", &key).await;
    let token = text(&answer, "access_token");
    for path in ["me", "verify"] {
        let bearer = client().get(format!("{}/addons/{path}", relay.url)).bearer_auth(token);
        assert_eq!(challenge(&bearer.send().await.unwrap()), "invalid_token");
    }
    // As behind a proxy that strips the proof.
    let stripped = me(&relay, token, None).send().await.unwrap();
    assert_eq!(challenge(&stripped), "invalid_token");

    let introspect = client().post(format!("{}/addons/introspect", relay.url));
    let introspect = introspect.basic_auth("portal", Some(API_SECRET)).form(&[("token", token)]);
    let found: Value = introspect.send().await.unwrap().json().await.unwrap();
    assert_eq!(found["cnf"]["jkt"], key.thumbprint());
    assert_eq!((&found["active"], text(&found, "token_type")), (&json!(true), "DPoP"));

    let refresh = async |proof: Option<String>| {
        let mut request = client()
            .post(format!("{}/addons/token", relay.url))
            .basic_auth(&session.id, Some(&session.token))
            .form(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", text(&answer, "refresh_token")),
            ]);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        request.send().await.unwrap()
    };
    let none = json!({});
    let error = async |answer: Response| {
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        text(&answer.json::<Value>().await.unwrap(), "error").to_owned()
    };
    assert_eq!(error(refresh(None).await).await, "invalid_dpop_proof");
    let demanded = refresh(Some(key.proof("POST", TOKEN, "", None, &none))).await;
    let nonce = nonce(&demanded);
    assert_eq!(error(demanded).await, "use_dpop_nonce");
    let stranger = Key::generate().proof("POST", TOKEN, &nonce, None, &none);
    assert_eq!(error(refresh(Some(stranger)).await).await, "invalid_dpop_proof");
    let elsewhere = key.proof("POST", ME, &nonce, None, &none);
    assert_eq!(error(refresh(Some(elsewhere)).await).await, "invalid_dpop_proof");
    // None of that used the refresh token up.
    let next = refresh(Some(key.proof("POST", TOKEN, &nonce, None, &none))).await;
    assert_eq!(next.status(), StatusCode::OK);
    let next: Value = next.json().await.unwrap();
    let proof = key.proof("GET", ME, &nonce, Some(text(&next, "access_token")), &none);
    let me = me(&relay, text(&next, "access_token"), Some(&proof)).send().await.unwrap();
    assert_eq!(me.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_whose_tokens_must_be_bound_gets_no_other() {
    let redis = redis::Server::start(&[]).await;
    let relay = instance(&redis.url(), &[]);
    let key = Key::generate();
    let answer = create(&relay, json!({"bind": true, "client_id": "strict"})).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let problem: Value = answer.json().await.unwrap();
    assert!(text(&problem, "detail").contains("clients.strict.dpop_required"), "{problem}");
    for malformed in ["", "AAAA", &"A".repeat(43), &"=".repeat(43)] {
        let body = json!({"bind": true, "client_id": "strict", "dpop_jkt": malformed});
        assert_eq!(create(&relay, body).await.status(), StatusCode::BAD_REQUEST, "{malformed}");
    }
    token(&relay, "strict", &key).await;

    // By the device grant the proof may come with the code.
    let request = client().post(format!("{}/addons/device_authorization", relay.url));
    let answer = request.form(&[("client_id", "strict")]).send().await.unwrap();
    let device: Value = answer.json().await.unwrap();
    fulfil(&relay, json!({"user_code": device["user_code"], "subject": "alice"})).await;
    let poll = async |proof: Option<String>| {
        let mut request = client().post(format!("{}/addons/token", relay.url)).form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", text(&device, "device_code")),
            ("client_id", "strict"),
        ]);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        request.send().await.unwrap()
    };
    // A proxy that strips the proof gets no token, and uses the code up for nobody.
    let stripped: Value = poll(None).await.json().await.unwrap();
    assert_eq!(text(&stripped, "error"), "invalid_dpop_proof");
    let demanded = poll(Some(key.proof("POST", TOKEN, "", None, &json!({})))).await;
    let nonce = nonce(&demanded);
    let bound: Value =
        poll(Some(key.proof("POST", TOKEN, &nonce, None, &json!({})))).await.json().await.unwrap();
    assert_eq!(text(&bound, "token_type"), "DPoP", "{bound}");
    let token = text(&bound, "access_token");
    let proof = key.proof("GET", ME, &nonce, Some(token), &json!({}));
    assert_eq!(me(&relay, token, Some(&proof)).send().await.unwrap().status(), StatusCode::OK);

    // A stream has no proof: what it gives is of use to nobody.
    let request = client().post(format!("{}/addons/device_authorization", relay.url));
    let answer = request.form(&[("client_id", "strict")]).send().await.unwrap();
    let device: Value = answer.json().await.unwrap();
    fulfil(&relay, json!({"user_code": device["user_code"], "subject": "alice"})).await;
    let events = format!("{}/addons/sessions/{}/events", relay.url, text(&device, "session_id"));
    let mut events = Events::open(&events, Some(text(&device, "session_token"))).await;
    let unusable = events.next().await.unwrap().data;
    let token = text(&unusable, "access_token");
    let bearer = client().get(format!("{}/addons/me", relay.url)).bearer_auth(token);
    assert_eq!(challenge(&bearer.send().await.unwrap()), "invalid_token");
    let proof = key.proof("GET", ME, &nonce, Some(token), &json!({}));
    let answer = me(&relay, token, Some(&proof)).send().await.unwrap();
    assert_eq!(challenge(&answer), "invalid_dpop_proof");
}

#[tokio::test]
async fn a_proxy_says_which_request_a_proof_is_for_if_it_is_trusted() {
    let redis = redis::Server::start(&[]).await;
    let trusting = instance(&redis.url(), &[("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1/32")]);
    let other = instance(&redis.url(), &[]);
    let key = Key::generate();
    let (_, answer) = token(&trusting, "notes", &key).await;
    let token = text(&answer, "access_token");
    let there = [
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example"),
        ("x-forwarded-uri", "/files/1?a=b"),
    ];
    let ask = async |relay: &Process, fields: &[(&str, &str)], proof: &str| {
        let request = client().get(format!("{}/addons/verify", relay.url)).header("dpop", proof);
        let request = request.header(header::AUTHORIZATION, format!("DPoP {token}"));
        let with =
            |request: RequestBuilder, (name, value): &(&str, &str)| request.header(*name, *value);
        fields.iter().fold(request, with).send().await.unwrap()
    };
    let url = "https://api.example/files/1";
    let proof = |nonce: &str, method: &str, url: &str| {
        key.proof(method, url, nonce, Some(token), &json!({}))
    };
    let demanded = ask(&trusting, &there, &proof("", "PUT", url)).await;
    assert_eq!(challenge(&demanded), "use_dpop_nonce");
    let nonce = nonce(&demanded);
    let answer = ask(&trusting, &there, &proof(&nonce, "PUT", url)).await;
    assert_eq!(
        (answer.status(), answer.headers()["x-auth-subject"] == "alice"),
        (StatusCode::OK, true)
    );
    for (what, fields, proof) in [
        ("another method", &there[..], proof(&nonce, "GET", url)),
        ("another resource", &there, proof(&nonce, "PUT", "https://api.example/files/2")),
        (
            "the relay itself",
            &there,
            proof(&nonce, "GET", "https://relay.example/sign-in/addons/verify"),
        ),
        ("no URI", &there[..3], proof(&nonce, "PUT", url)),
        (
            "a second URI",
            &[&there[..], &[("x-forwarded-uri", "/files/1")]].concat(),
            proof(&nonce, "PUT", url),
        ),
        (
            "no path",
            &[&there[..3], &[("x-forwarded-uri", "@evil.example/files/1")]].concat(),
            proof(&nonce, "PUT", url),
        ),
    ] {
        assert_eq!(
            challenge(&ask(&trusting, fields, &proof).await),
            "invalid_dpop_proof",
            "{what}"
        );
    }
    let untrusted = ask(&other, &there, &proof(&nonce, "PUT", url)).await;
    assert_eq!(challenge(&untrusted), "invalid_dpop_proof");
    redis::eventually("the log names the setting", || async {
        other.log().contains("is not in TRUSTED_PROXIES")
    })
    .await;
}

#[tokio::test]
async fn a_login_of_a_person_is_bound_too() {
    let relay = Process::demo(&[]);
    let key = Key::generate();
    let session = crate::support::create(
        &relay.url,
        Some(json!({"bind": true, "dpop_jkt": key.thumbprint()})),
    )
    .await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = events.next().await.unwrap().data;
    assert_eq!(text(&answer, "token_type"), "DPoP");
    let token = text(&answer, "access_token");
    let url = format!("{}/addons/me", relay.url);
    let demanded = me(&relay, token, Some(&key.proof("GET", &url, "", Some(token), &json!({}))));
    let nonce = nonce(&demanded.send().await.unwrap());
    let proof = key.proof("GET", &url, &nonce, Some(token), &json!({}));
    let claims: Value = me(&relay, token, Some(&proof)).send().await.unwrap().json().await.unwrap();
    assert_eq!((text(&claims, "sub"), &claims["cnf"]["jkt"]), ("alice", &json!(key.thumbprint())));
}

/// What a hostile client sends in the place of a proof, and whether it is one after all.
fn crooked(
    key: &Key,
    method: &str,
    url: &str,
    nonce: &str,
    token: Option<&str>,
) -> Vec<(String, String, bool)> {
    let mut all = Vec::new();
    let mut add = |what: String, header: Value, claims: Value, good: bool| {
        let proof = key.proof_with_header(method, url, nonce, token, &header, &claims);
        all.push((what, proof, good));
    };
    let none = json!({});
    let jwk = |member: &str, value: Value| {
        let mut jwk = key.jwk().clone();
        jwk[member] = value;
        json!({ "jwk": jwk })
    };
    for header in [
        json!({"typ": "JWT"}),
        json!({"alg": "none"}),
        json!({"alg": "HS256"}),
        json!({"alg": "RS256"}),
        json!({"alg": "ES384"}),
        json!({"alg": "EdDSA"}),
        json!({"alg": "PS256"}),
        json!({"jwk": null}),
        json!({"jwk": {"kty": "oct", "k": "AAAA"}}),
        json!({"crit": ["b64"]}),
        jwk("d", json!("AAAA")),
        jwk("kty", json!("RSA")),
        jwk("kty", json!("OKP")),
        jwk("crv", json!("P-384")),
        jwk("crv", json!("Ed25519")),
        jwk("use", json!("enc")),
        jwk("y", key.jwk()["x"].clone()),
    ] {
        add(header.to_string(), header.clone(), none.clone(), false);
    }
    let now = UnixTime::now().as_secs();
    for (claims, good) in [
        (json!({"jti": "x".repeat(10_000)}), false),
        (json!({"jti": format!("{method}{}", "x".repeat(252))}), true),
        (json!({"jti": 7}), false),
        (json!({"iat": now.to_string()}), false),
        (json!({"iat": now as f64 + 0.25}), true),
        (json!({"iat": -1}), false),
        (json!({"iat": 1e300}), false),
        (json!({"htm": method.to_lowercase()}), false),
        (json!({"htm": [method]}), false),
        (json!({"htu": url.to_uppercase()}), false),
        (json!({"htu": url.replace("https://relay", "HTTPS://RELAY")}), true),
        (json!({"htu": url.replace("https:", "http:")}), false),
        (json!({"htu": url.replace(".example", ".example:443")}), true),
        (json!({"htu": url.replace(".example", ".example:444")}), false),
        (json!({"htu": format!("{url}/")}), false),
        (json!({"htu": format!("{url}?a=b#c")}), true),
        (json!({"htu": format!("{url}/../{}", url.rsplit('/').next().unwrap())}), true),
        (json!({"htu": url.replace("addons", "%61ddons")}), true),
        (json!({"htu": url.replace("/sign-in", "")}), false),
        (json!({"htu": url.replace("relay.example", "relay.example.evil.example")}), false),
        (json!({"htu": url.replace("relay", "evil@relay")}), false),
        (json!({"htu": url.replace("https:", "")}), false),
    ] {
        add(claims.to_string(), none.clone(), claims, good);
    }
    let whole = key.proof(method, url, nonce, token, &none);
    let (message, signature) = whole.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    for (what, proof) in [
        ("no signature", format!("{message}.")),
        ("four parts", format!("{whole}.{signature}")),
        ("two in one field", format!("{whole}, {whole}")),
        ("padding", format!("{head}=.{body}.{signature}")),
        ("another signature", format!("{message}.{}", signature.chars().rev().collect::<String>())),
        ("nothing", String::new()),
    ] {
        all.push((what.to_owned(), proof, false));
    }
    all
}

#[tokio::test]
async fn each_crooked_proof_has_the_error_of_its_endpoint_and_uses_nothing_up() {
    let redis = redis::Server::start(&[]).await;
    let relay = instance(&redis.url(), &[]);
    let key = Key::generate();
    let (session, answer) = token(&relay, "notes", &key).await;
    let token = text(&answer, "access_token");
    let none = json!({});
    let nonce = {
        let proof = key.proof("GET", ME, "", Some(token), &none);
        nonce(&me(&relay, token, Some(&proof)).send().await.unwrap())
    };
    for (what, proof, good) in crooked(&key, "GET", ME, &nonce, Some(token)) {
        let answer = me(&relay, token, Some(&proof)).send().await.unwrap();
        match good {
            true => assert_eq!(answer.status(), StatusCode::OK, "{what}"),
            false => assert_eq!(challenge(&answer), "invalid_dpop_proof", "{what}"),
        }
    }
    for (what, ath) in [("none", None), ("of another token", Some("another"))] {
        let proof = key.proof("GET", ME, &nonce, ath, &none);
        let answer = me(&relay, token, Some(&proof)).send().await.unwrap();
        assert_eq!(challenge(&answer), "invalid_dpop_proof", "ath: {what}");
    }
    let mut refresh_token = text(&answer, "refresh_token").to_owned();
    let proofs = crooked(&key, "POST", TOKEN, &nonce, None);
    for (what, proof, good) in proofs {
        let request = client()
            .post(format!("{}/addons/token", relay.url))
            .header("dpop", proof)
            .basic_auth(&session.id, Some(&session.token))
            .form(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]);
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body: Value = answer.json().await.unwrap();
        if good {
            assert_eq!(status, StatusCode::OK, "{what}: {body}");
            refresh_token = text(&body, "refresh_token").to_owned();
        } else {
            assert_eq!(status, StatusCode::BAD_REQUEST, "{what}: {body}");
            assert_eq!(text(&body, "error"), "invalid_dpop_proof", "{what}");
            assert!(!text(&body, "error_description").is_empty());
            assert!(headers.get("dpop-nonce").is_none() && headers["cache-control"] == "no-store");
        }
    }
    let twice = client()
        .post(format!("{}/addons/token", relay.url))
        .header("dpop", key.proof("POST", TOKEN, &nonce, None, &none))
        .header("dpop", key.proof("POST", TOKEN, &nonce, None, &none))
        .basic_auth(&session.id, Some(&session.token))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", &refresh_token)]);
    let twice: Value = twice.send().await.unwrap().json().await.unwrap();
    assert_eq!(text(&twice, "error"), "invalid_dpop_proof");
    assert!(!relay.log().contains(&refresh_token) && !relay.log().contains("panicked"));
}

#[tokio::test]
async fn the_scheme_that_a_request_used_is_the_one_that_is_answered() {
    let relay = Process::demo(&[]);
    let key = Key::generate();
    let session = crate::support::create(&relay.url, Some(json!({"bind": true}))).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = events.next().await.unwrap().data;
    let bearer = text(&answer, "access_token");
    for path in ["me", "verify"] {
        let url = format!("{}/addons/{path}", relay.url);
        for (what, token) in [("a bearer token", bearer), ("no token", "x.y.z")] {
            let proof = key.proof("GET", &url, "", Some(token), &json!({}));
            let request = client().get(&url).header("dpop", proof);
            let request = request.header(header::AUTHORIZATION, format!("DPoP {token}"));
            let answer = request.send().await.unwrap();
            assert_eq!(challenge(&answer), "invalid_token", "{path}: {what}");
            let challenge = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
            let metadata = challenge.contains("resource_metadata=");
            assert_eq!(metadata, path == "me", "{challenge}");
        }
        // A proof beside a bearer token changes nothing.
        let proof = key.proof("GET", &url, "", Some(bearer), &json!({}));
        let request = client().get(&url).header("dpop", proof).bearer_auth(bearer);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "{path}");
        let two = client().get(&url).bearer_auth(bearer);
        let two = two.header(header::AUTHORIZATION, format!("DPoP {bearer}"));
        assert_eq!(two.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn of_the_same_proof_at_once_one_is_accepted_whichever_instance_has_it() {
    let redis = redis::Server::start(&[]).await;
    let relays = [instance(&redis.url(), &[]), instance(&redis.url(), &[])];
    let key = Key::generate();
    let (first, answer) = token(&relays[0], "notes", &key).await;
    let (second, other) = token(&relays[1], "notes", &key).await;
    let token = text(&answer, "access_token");
    let none = json!({});
    let nonce = {
        let proof = key.proof("GET", ME, "", Some(token), &none);
        nonce(&me(&relays[0], token, Some(&proof)).send().await.unwrap())
    };
    let proof = key.proof("GET", ME, &nonce, Some(token), &none);
    let all = (0..30).map(|turn| me(&relays[turn % 2], token, Some(&proof)).send());
    let all = futures_util::future::join_all(all).await;
    let accepted = all.iter().filter(|it| it.as_ref().unwrap().status() == StatusCode::OK).count();
    assert_eq!(accepted, 1);

    // At the token endpoint a proof says nothing of the token: it must not serve for two.
    let refresh = async |relay: &Process, session: &Session, token: &Value, proof: &str| {
        let request = client()
            .post(format!("{}/addons/token", relay.url))
            .header("dpop", proof)
            .basic_auth(&session.id, Some(&session.token))
            .form(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", text(token, "refresh_token")),
            ]);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let proof = key.proof("POST", TOKEN, &nonce, None, &none);
    let refreshed = refresh(&relays[0], &first, &answer, &proof).await;
    assert_eq!(text(&refreshed, "token_type"), "DPoP");
    let replayed = refresh(&relays[1], &second, &other, &proof).await;
    assert_eq!(text(&replayed, "error"), "invalid_dpop_proof");
    let proof = key.proof("POST", TOKEN, &nonce, None, &none);
    let unused = refresh(&relays[1], &second, &other, &proof).await;
    assert_eq!(text(&unused, "token_type"), "DPoP", "the refresh token was not used up");
}

#[tokio::test]
async fn a_refresh_token_that_is_not_bound_is_by_the_first_proof() {
    let redis = redis::Server::start(&[]).await;
    let relay = instance(&redis.url(), &[]);
    let key = Key::generate();
    let session = created(&relay, json!({"bind": true, "client_id": "notes"})).await;
    let events = format!("{}/addons/sessions/{}/events", relay.url, session.id);
    let mut events = Events::open(&events, Some(&session.token)).await;
    fulfil(&relay, json!({"transit_token": session.transit, "subject": "alice"})).await;
    let answer = events.next().await.unwrap().data;
    assert_eq!(text(&answer, "token_type"), "Bearer");
    let refresh = async |grant: &str, token: &str, proof: Option<String>| {
        let mut request = client()
            .post(format!("{}/addons/token", relay.url))
            .basic_auth(&session.id, Some(&session.token))
            .form(&[("grant_type", grant), ("refresh_token", token), ("subject_token", token)]);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let answer = request.send().await.unwrap();
        let nonce = answer.headers().get("dpop-nonce").map(|it| it.to_str().unwrap().to_owned());
        (answer.json::<Value>().await.unwrap(), nonce)
    };
    let none = json!({});
    let first = text(&answer, "refresh_token");
    // Token exchange (RFC 8693) is not offered, so that no bound token becomes another one by it.
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    let (refused, _) = refresh(exchange, first, None).await;
    assert_eq!(text(&refused, "error"), "unsupported_grant_type");
    let without = key.proof("POST", TOKEN, "", None, &none);
    let (demanded, nonce) = refresh("refresh_token", first, Some(without)).await;
    assert_eq!(text(&demanded, "error"), "use_dpop_nonce");
    let nonce = nonce.unwrap();
    let proof = || key.proof("POST", TOKEN, &nonce, None, &none);
    let (bound, _) = refresh("refresh_token", first, Some(proof())).await;
    assert_eq!(text(&bound, "token_type"), "DPoP");
    let second = text(&bound, "refresh_token");
    let (refused, _) = refresh("refresh_token", second, None).await;
    assert_eq!(text(&refused, "error"), "invalid_dpop_proof");
    let stranger = Key::generate().proof("POST", TOKEN, &nonce, None, &none);
    let (refused, _) = refresh("refresh_token", second, Some(stranger)).await;
    assert_eq!(text(&refused, "error"), "invalid_dpop_proof");
    let (next, _) = refresh("refresh_token", second, Some(proof())).await;
    assert_eq!(text(&next, "token_type"), "DPoP");
}

#[tokio::test]
async fn instances_whose_clocks_are_30_s_apart_agree_on_nonces_and_on_what_was_used() {
    let library = std::fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("install the package faketime");
    let redis = redis::Server::start(&[]).await;
    let apart = |offset: &str| {
        let clock = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        instance(&redis.url(), &clock)
    };
    let relays = [instance(&redis.url(), &[]), apart("-30s"), apart("+30s")];
    let key = Key::generate();
    let none = json!({});
    for issuing in &relays {
        let (_, answer) = token(issuing, "notes", &key).await;
        let token = text(&answer, "access_token");
        let proof = key.proof("GET", ME, "", Some(token), &none);
        let demanded = me(issuing, token, Some(&proof)).send().await.unwrap();
        assert_eq!(challenge(&demanded), "use_dpop_nonce");
        let nonce = nonce(&demanded);
        for relay in &relays {
            let proof = key.proof("GET", ME, &nonce, Some(token), &none);
            let answer = me(relay, token, Some(&proof)).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
            for other in &relays {
                let again = me(other, token, Some(&proof)).send().await.unwrap();
                assert_eq!(challenge(&again), "invalid_dpop_proof", "a replay");
            }
        }
    }
}
