//! `POST /addons/fulfil`: a backend completes sessions of the clients that name it, and no others.

use std::{process::Stdio, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::StreamExt as _;
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{
    Browser, Events, Process, TIMEOUT, client,
    redis::{self, eventually, free_port},
    text,
};

const PORTAL: &str = "the secret of the portal of 32 characters or more";
const STRANGER: &str = "the secret of the stranger of 32 characters";

/// Two add-ins, the backend of one, and a backend of neither.
const CLIENTS: [(&str, &str); 10] = [
    ("TOKEN_RELAY_CLIENTS__ROOMS__SCOPE", "rooms:read rooms:create"),
    ("TOKEN_RELAY_CLIENTS__ROOMS__AUDIENCE", "https://rooms.example"),
    ("TOKEN_RELAY_CLIENTS__ROOMS__FULFILLED_BY", "portal"),
    ("TOKEN_RELAY_CLIENTS__FILES__AUDIENCE", "https://files.example"),
    ("TOKEN_RELAY_CLIENTS__PORTAL__GRANTS", "introspect"),
    ("TOKEN_RELAY_CLIENTS__PORTAL__SECRET", PORTAL),
    ("TOKEN_RELAY_CLIENTS__STRANGER__GRANTS", "introspect"),
    ("TOKEN_RELAY_CLIENTS__STRANGER__SECRET", STRANGER),
    ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
    ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000000"),
];

/// A relay for each store.
async fn relays(more: &[(&str, &str)]) -> Vec<(Process, Option<redis::Server>)> {
    let server = redis::Server::start(&[]).await;
    let memory = Process::demo(&[&CLIENTS[..], more].concat());
    let shared = instance(&server.url(), more);
    vec![(memory, None), (shared, Some(server))]
}

fn instance(redis_url: &str, more: &[(&str, &str)]) -> Process {
    let shared = crate::support::shared(redis_url);
    Process::demo(&[&CLIENTS[..], &shared, more].concat())
}

async fn create(base: &str, client_id: &str, scope: Option<&str>) -> Value {
    let mut body = json!({"bind": true, "client_id": client_id});
    if let Some(scope) = scope {
        body["scope"] = json!(scope);
    }
    crate::support::create(base, Some(body)).await
}

async fn fulfil_as(
    base: &str,
    (id, secret): (&str, &str),
    prefer: Option<&str>,
    body: &Value,
) -> Response {
    let mut request =
        client().post(format!("{base}/addons/fulfil")).basic_auth(id, Some(secret)).json(body);
    if let Some(prefer) = prefer {
        request = request.header("prefer", prefer);
    }
    request.send().await.unwrap()
}

async fn fulfil(base: &str, body: &Value) -> (StatusCode, Value) {
    let answer = fulfil_as(base, ("portal", PORTAL), None, body).await;
    (answer.status(), answer.json().await.unwrap())
}

/// The body for a session, with more members.
fn of(session: &Value, more: Value) -> Value {
    let mut body = json!({"transit_token": session["transit_token"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn events(session: &Value) -> Events {
    let token = text(session, "session_token");
    Events::open(text(session, "events_url"), Some(token)).await
}

fn claims(token: &Value) -> Value {
    let payload = text(token, "access_token").split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn problem(body: &Value) -> &str {
    text(body, "type").rsplit(':').next().unwrap()
}

#[tokio::test]
async fn a_backend_completes_a_session_with_a_token_of_the_sessions_client() {
    for (relay, _redis) in relays(&[]).await {
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        let account = json!({
            "subject": "42",
            "claims": {"tenant": "north", "sub": "root", "idp": "evil", "aud": "x", "groups": ["a"]},
            "scope": "rooms:create",
        });
        let (status, body) = fulfil(&relay.url, &of(&session, account)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body, json!({"state": "authenticated", "delivered": false}));
        let event = stream.next().await.unwrap();
        assert_eq!(event.name, "authenticated");
        let claims = claims(&event.data);
        assert_eq!((text(&claims, "sub"), text(&claims, "idp")), ("42", "portal"));
        assert_eq!(text(&claims, "aud"), "https://rooms.example");
        assert_eq!((text(&claims, "client_id"), text(&claims, "scope")), ("rooms", "rooms:create"));
        assert_eq!((text(&claims, "tenant"), &claims["groups"]), ("north", &json!(["a"])));
        let me = client().get(format!("{}/addons/me", relay.url));
        let me = me.bearer_auth(text(&event.data, "access_token")).send().await.unwrap();
        assert_eq!(me.status(), StatusCode::OK);

        // The refresh token of the session goes on saying who vouched.
        let refresh = client()
            .post(format!("{}/addons/token", relay.url))
            .basic_auth(text(&session, "session_id"), Some(text(&session, "session_token")))
            .form(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", text(&event.data, "refresh_token")),
            ]);
        let next: Value = refresh.send().await.unwrap().json().await.unwrap();
        let claims = self::claims(&next);
        assert_eq!((text(&claims, "idp"), text(&claims, "tenant")), ("portal", "north"));

        let (status, body) = fulfil(&relay.url, &of(&session, json!({"subject": "43"}))).await;
        assert_eq!((status, problem(&body)), (StatusCode::CONFLICT, "session-not-pending"));
        let end = client().delete(text(&session, "poll_url"));
        let end = end.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        assert_eq!(end.status(), StatusCode::NO_CONTENT);
        let (status, body) = fulfil(&relay.url, &of(&session, json!({"subject": "43"}))).await;
        assert_eq!((status, problem(&body)), (StatusCode::GONE, "session-gone"));
        relay.logged("session fulfilled by a backend").await;
    }
}

#[tokio::test]
async fn a_session_of_another_client_is_unknown_whatever_became_of_it() {
    for (relay, _redis) in relays(&[]).await {
        let account = json!({"subject": "42"});
        let unknown = async |who: (&str, &str), session: &Value, what: &str| {
            let answer = fulfil_as(&relay.url, who, None, &of(session, account.clone())).await;
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            assert_eq!(
                (status, problem(&body)),
                (StatusCode::NOT_FOUND, "session-not-found"),
                "{what}"
            );
        };
        let (own, other) =
            (create(&relay.url, "rooms", None).await, create(&relay.url, "files", None).await);
        unknown(("portal", PORTAL), &other, "of another client").await;
        unknown(("stranger", STRANGER), &own, "by another backend").await;
        assert_eq!(fulfil(&relay.url, &of(&own, account.clone())).await.0, StatusCode::OK);
        unknown(("stranger", STRANGER), &own, "authenticated").await;
        for session in [&own, &other] {
            let end = client().delete(text(session, "poll_url"));
            let end = end.bearer_auth(text(session, "session_token")).send().await.unwrap();
            assert_eq!(end.status(), StatusCode::NO_CONTENT);
        }
        unknown(("stranger", STRANGER), &own, "gone").await;
        unknown(("portal", PORTAL), &other, "cancelled").await;

        let session = create(&relay.url, "rooms", None).await;
        let token = text(&session, "transit_token");
        let wrong = json!({"transit_token": format!("{}{}", &token[..43], "A".repeat(43))});
        unknown(("portal", PORTAL), &wrong, "with a guessed token").await;
        unknown(("portal", PORTAL), &json!({"transit_token": "x"}), "no token").await;
        for (id, secret) in [("portal", STRANGER), ("rooms", PORTAL), ("nobody", PORTAL)] {
            let answer =
                fulfil_as(&relay.url, (id, secret), None, &of(&session, account.clone())).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{id}");
            assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
        }
        // The session has survived all that.
        assert_eq!(fulfil(&relay.url, &of(&session, account.clone())).await.0, StatusCode::OK);
        let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        assert!(metrics.contains("transit_token"), "{metrics}");
    }
}

#[tokio::test]
async fn guesses_of_transit_tokens_are_counted_and_a_right_one_still_works() {
    let (relay, _) = relays(&[]).await.remove(0);
    let session = create(&relay.url, "rooms", None).await;
    let mut statuses = Vec::new();
    for guess in 0..40 {
        let wrong = json!({"transit_token": format!("{guess:0>86}"), "subject": "42"});
        statuses.push(fulfil(&relay.url, &wrong).await.0);
    }
    assert!(statuses[..30].iter().all(|status| *status == StatusCode::NOT_FOUND), "{statuses:?}");
    assert_eq!(statuses.last(), Some(&StatusCode::TOO_MANY_REQUESTS));
    let right = fulfil(&relay.url, &of(&session, json!({"subject": "42"}))).await;
    assert_eq!(right.0, StatusCode::OK);
}

#[tokio::test]
async fn a_payload_reaches_every_transport() {
    for (relay, _redis) in relays(&[]).await {
        let payload = json!({"ticket": {"seat": 7}, "text": "ä\n\u{2028}", "list": [1, null]});
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        let body = of(&session, json!({"payload": payload}));
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::OK);
        let event = stream.next().await.unwrap();
        assert_eq!((event.name.as_str(), &event.data["payload"]), ("authenticated", &payload));
        let members: Vec<_> = event.data.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["authenticated_at", "payload", "state"]);

        let session = create(&relay.url, "rooms", None).await;
        let mut request = text(&session, "websocket_url").into_client_request().unwrap();
        let protocols = format!("token-relay.v1, bearer.{}", text(&session, "session_token"));
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        let body = of(&session, json!({"payload": payload, "subject": "42"}));
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::OK);
        let message = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!((text(&message, "type"), &message["payload"]), ("authenticated", &payload));
        assert_eq!(text(&claims(&message), "sub"), "42", "beside the token");

        let session = create(&relay.url, "rooms", None).await;
        let body = of(&session, json!({"payload": payload}));
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::OK);
        let poll = client().get(format!("{}?wait=5", text(&session, "poll_url")));
        let poll = poll.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        let answer: Value = poll.json().await.unwrap();
        assert_eq!((text(&answer, "state"), &answer["payload"]), ("authenticated", &payload));

        // The client library.
        let library = token_relay_client::Client::new(relay.url.parse().unwrap()).unwrap();
        let request =
            token_relay_client::SignIn { client_id: Some("rooms".into()), ..Default::default() };
        let pending = library.sign_in(&request).await.unwrap();
        let transit = reqwest::Url::parse(pending.transit_url().as_str()).unwrap();
        let (_, transit) = transit.query_pairs().find(|(name, _)| name == "transit_token").unwrap();
        let body = json!({"transit_token": transit, "payload": payload});
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::OK);
        let token = pending.token().await.unwrap();
        assert!(token.access_token.is_empty());
        assert_eq!(Value::Object(token.payload.unwrap()), payload);
    }
}

#[tokio::test]
async fn a_person_types_the_code_at_the_backend() {
    for (relay, _redis) in relays(&[("TOKEN_RELAY_TRANSIT_TOKEN_TTL", "1s")]).await {
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        // It is good as long as the session.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let typed = text(&session, "user_code").to_lowercase().replace('-', " ");
        let body = json!({"user_code": typed, "subject": "42", "payload": {"seat": 7}});
        let stranger = fulfil_as(&relay.url, ("stranger", STRANGER), None, &body).await;
        assert_eq!(stranger.status(), StatusCode::NOT_FOUND);
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::OK);
        let event = stream.next().await.unwrap();
        assert_eq!(text(&claims(&event.data), "sub"), "42");
        let (status, body) = fulfil(&relay.url, &body).await;
        assert_eq!((status, problem(&body)), (StatusCode::CONFLICT, "session-not-pending"));
        for wrong in ["BCDF-GHJK", "nonsense", ""] {
            let body = json!({"user_code": wrong, "subject": "42"});
            assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::NOT_FOUND, "{wrong}");
        }
        // The codes of sessions that no backend completes lead nowhere.
        let other = create(&relay.url, "files", None).await;
        let body = json!({"user_code": other["user_code"], "subject": "42"});
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_device_gets_its_token_from_a_backend_and_no_payload() {
    let device = [("TOKEN_RELAY_CLIENTS__ROOMS__GRANTS", "session device")];
    for (relay, _redis) in relays(&device).await {
        let begin = client().post(format!("{}/addons/device_authorization", relay.url));
        let begin = begin.form(&[("client_id", "rooms")]).send().await.unwrap();
        let begun: Value = begin.json().await.unwrap();
        let body = json!({"user_code": begun["user_code"], "subject": "42", "payload": {}});
        let (status, answer) = fulfil(&relay.url, &body).await;
        assert_eq!((status, problem(&answer)), (StatusCode::BAD_REQUEST, "bad-request"));
        let body = json!({"user_code": begun["user_code"], "subject": "42"});
        assert_eq!(fulfil(&relay.url, &body).await.0, StatusCode::OK);
        let poll = client().post(format!("{}/addons/token", relay.url)).form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", text(&begun, "device_code")),
            ("client_id", "rooms"),
        ]);
        let token: Value = poll.send().await.unwrap().json().await.unwrap();
        let claims = claims(&token);
        assert_eq!((text(&claims, "sub"), text(&claims, "idp")), ("42", "portal"));
    }
}

#[tokio::test]
async fn a_backend_fails_a_session() {
    for (relay, _redis) in relays(&[]).await {
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        let failure = json!({"error": "access_denied", "error_description": "No seat is left."});
        let (status, body) = fulfil(&relay.url, &of(&session, failure)).await;
        assert_eq!(
            (status, body),
            (StatusCode::OK, json!({"state": "failed", "delivered": false}))
        );
        let event = stream.next().await.unwrap();
        assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "access_denied"));
        assert_eq!(text(&event.data, "error_description"), "No seat is left.");
        let (status, body) = fulfil(&relay.url, &of(&session, json!({"subject": "42"}))).await;
        assert_eq!((status, problem(&body)), (StatusCode::CONFLICT, "session-not-pending"));
    }
}

#[tokio::test]
async fn the_receipt_waits_for_the_acknowledgement() {
    for (relay, _redis) in relays(&[]).await {
        let account = json!({"subject": "42"});
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        let call = {
            let (base, body) = (relay.url.clone(), of(&session, account.clone()));
            tokio::spawn(async move {
                fulfil_as(&base, ("portal", PORTAL), Some("wait=30"), &body).await
            })
        };
        assert_eq!(stream.next().await.unwrap().name, "authenticated");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!call.is_finished(), "delivered is not acknowledged");
        let end = client().delete(text(&session, "poll_url"));
        let end = end.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        assert_eq!(end.status(), StatusCode::NO_CONTENT);
        let answer = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap();
        assert_eq!(answer.headers()["preference-applied"], "wait=30");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body, json!({"state": "gone", "delivered": true}));

        // Read and not acknowledged.
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        let body = of(&session, account.clone());
        let answer = fulfil_as(&relay.url, ("portal", PORTAL), Some("wait=1"), &body).await;
        assert_eq!(
            answer.json::<Value>().await.unwrap(),
            json!({"state": "delivered", "delivered": true})
        );
        assert_eq!(stream.next().await.unwrap().name, "authenticated");

        // Nobody reads.
        let session = create(&relay.url, "rooms", None).await;
        let body = of(&session, account.clone());
        let answer = fulfil_as(&relay.url, ("portal", PORTAL), Some("wait=1"), &body).await;
        let expected = json!({"state": "authenticated", "delivered": false});
        assert_eq!(answer.json::<Value>().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let (relay, _) = relays(&[]).await.remove(0);
    let session = create(&relay.url, "rooms", Some("rooms:read")).await;
    for more in [
        json!({}),
        json!({"claims": {}}),
        json!({"subject": ""}),
        json!({"subject": "a b"}),
        json!({"subject": "ä"}),
        json!({"subject": "x".repeat(256)}),
        json!({"subject": "42", "error": "access_denied"}),
        json!({"payload": {}, "error": "access_denied"}),
        json!({"error": "x\n"}),
        json!({"error": ""}),
        json!({"error": "x", "error_description": "a\nb"}),
        json!({"error_description": "x", "subject": "42"}),
        json!({"payload": []}),
        json!({"payload": 7}),
        json!({"scope": "rooms:read"}),
        json!({"subject": "42", "user_code": "BCDF-GHJK"}),
        json!({"subject": "42", "unknown": true}),
    ] {
        let (status, body) = fulfil(&relay.url, &of(&session, more.clone())).await;
        assert_eq!((status, problem(&body)), (StatusCode::BAD_REQUEST, "bad-request"), "{more}");
    }
    let (status, _) = fulfil(&relay.url, &json!({"subject": "42"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "no session");
    let large = json!({"payload": {"x": "y".repeat(16 * 1024)}});
    assert_eq!(fulfil(&relay.url, &of(&session, large)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let huge = json!({"payload": {"x": "y".repeat(60 * 1024)}});
    assert_eq!(fulfil(&relay.url, &of(&session, huge)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // More than the session requested, and more than its client may have.
    for scope in ["rooms:create", "rooms:read rooms:create", "admin"] {
        let account = json!({"subject": "42", "scope": scope});
        let (status, body) = fulfil(&relay.url, &of(&session, account)).await;
        assert_eq!((status, problem(&body)), (StatusCode::BAD_REQUEST, "invalid-scope"), "{scope}");
    }
    let mut stream = events(&session).await;
    let fits = json!({"payload": {"x": "y".repeat(16 * 1024 - 10)}, "subject": "42"});
    assert_eq!(fulfil(&relay.url, &of(&session, fits)).await.0, StatusCode::OK);
    assert_eq!(text(&stream.next().await.unwrap().data, "scope"), "rooms:read");
}

#[tokio::test]
async fn a_session_with_a_browser_in_its_dialog_is_not_taken_away() {
    for (relay, _redis) in relays(&[("TOKEN_RELAY_CONFIRMATION", "never")]).await {
        let session = create(&relay.url, "rooms", None).await;
        let mut stream = events(&session).await;
        let browser = Browser::default();
        let login = browser.open(text(&session, "transit_url")).await;
        let (status, body) = fulfil(&relay.url, &of(&session, json!({"subject": "42"}))).await;
        assert_eq!((status, problem(&body)), (StatusCode::CONFLICT, "session-not-pending"));
        browser.log_in(&login, "alice", "alice").await;
        let claims = claims(&stream.next().await.unwrap().data);
        assert_eq!((text(&claims, "sub"), claims.get("idp")), ("alice", None));
    }
    let short = [("TOKEN_RELAY_TRANSIT_TOKEN_TTL", "1s")];
    for (relay, _redis) in relays(&short).await {
        let session = create(&relay.url, "rooms", None).await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let (status, body) = fulfil(&relay.url, &of(&session, json!({"subject": "42"}))).await;
        assert_eq!((status, problem(&body)), (StatusCode::GONE, "transit-token-expired"));
    }
}

/// Streams on one instance, backends at the other, at the same moment, over one Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_races_over_redis_lose_nothing() {
    const RACES: usize = 1_000;
    const AT_ONCE: usize = 50;
    let server = redis::Server::start(&[]).await;
    let instances = Arc::new([instance(&server.url(), &[]), instance(&server.url(), &[])]);
    let mut arrived = 0;
    for round in 0..RACES / AT_ONCE {
        let races: Vec<_> = (0..AT_ONCE)
            .map(|race| {
                let instances = Arc::clone(&instances);
                tokio::spawn(async move {
                    let (reads, writes) =
                        (&instances[race % 2].url, &instances[(race + 1) % 2].url);
                    let session = create(reads, "rooms", None).await;
                    let subject = format!("{round}-{race}");
                    let body = of(&session, json!({"subject": subject}));
                    let (event, fulfilled) = tokio::join!(
                        async { events(&session).await.next().await },
                        fulfil(writes, &body)
                    );
                    assert_eq!(fulfilled.0, StatusCode::OK, "{}", fulfilled.1);
                    let event = event.expect("an event");
                    assert_eq!(event.name, "authenticated", "{}", event.data);
                    assert_eq!(text(&claims(&event.data), "sub"), subject);
                })
            })
            .collect();
        for race in races {
            race.await.unwrap();
            arrived += 1;
        }
    }
    println!(
        "{RACES} fulfil calls raced with streams of another instance, {arrived} tokens arrived"
    );
    assert_eq!(arrived, RACES);
}

/// `static/examples/python/login.py`: a login of one's own, and no poll loop.
#[tokio::test]
async fn the_sample_in_python_signs_people_in_with_its_own_login() {
    let (relay, _) = relays(&[]).await.remove(0);
    let port = free_port();
    let mut sample = tokio::process::Command::new("python3")
        .args(["login.py", &port.to_string()])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static/examples/python"))
        .envs([("RELAY", relay.url.as_str()), ("CLIENT_ID", "portal"), ("CLIENT_SECRET", PORTAL)])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    eventually("the sample answers", || async { client().get(&url).send().await.is_ok() }).await;

    let session = create(&relay.url, "rooms", None).await;
    let waiting = tokio::spawn({
        let session = session.clone();
        async move {
            let event = events(&session).await.next().await.unwrap();
            let end = client().delete(text(&session, "poll_url"));
            end.bearer_auth(text(&session, "session_token")).send().await.unwrap();
            event
        }
    });
    let browser = Browser::default();
    let page =
        browser.open(&format!("{url}?transit_token={}", text(&session, "transit_token"))).await;
    let wrong = browser.log_in(&page, "alice", "wrong").await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    // Fields that a browser leaves empty, and a name that nobody has.
    for (user, password) in [("mallory", ""), ("", ""), ("alice", ""), ("", "wonderland")] {
        let page = browser.log_in(&page, user, password).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{user} {password}");
    }
    let done = browser.log_in(&page, "alice", "wonderland").await;
    assert!(done.body.contains("The add-in has its token."), "{}", done.body);
    let event = waiting.await.unwrap();
    let claims = claims(&event.data);
    assert_eq!((text(&claims, "sub"), text(&claims, "idp")), ("alice", "portal"));
    let again = browser.log_in(&page, "alice", "wonderland").await;
    assert!(again.status.is_client_error(), "{}", again.status);
    assert!(again.body.contains("Begin again in the add-in."), "{}", again.body);
    sample.start_kill().unwrap();
}
