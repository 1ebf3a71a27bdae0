//! The claims hook: the operator's service is asked before each token, on every way to one, and its
//! faults hold up and lose nothing.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    response::{Html, IntoResponse, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::{
    device,
    support::{
        Browser, Events, MEET_KEY, Page, Process, client, create, hidden_inputs,
        redis::{eventually, free_port},
        text,
    },
};

const SECRET: &str = "the hook knows the relay by this secret of the tests";

/// What the service does.
#[derive(Clone, Debug)]
enum Answer {
    Json(u16, Value),
    Slow(Duration),
    Redirect,
    Html,
    Huge,
}

/// The operator's service.
#[derive(Clone)]
struct Service {
    url: String,
    answer: Arc<Mutex<Answer>>,
    /// Every request: authorization and body.
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Service {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            answer: Arc::new(Mutex::new(Answer::Json(200, json!({})))),
            requests: Arc::default(),
        };
        let router = Router::new()
            .route("/hook", axum::routing::post(decide))
            .fallback(async || axum::Json(json!({})))
            .with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        service
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn last(&self) -> (String, Value) {
        self.requests.lock().unwrap().last().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn relay(&self, more: &[(&str, &str)]) -> Process {
        let hook = [
            ("TOKEN_RELAY_CLAIMS_HOOK_URL", self.url.as_str()),
            ("TOKEN_RELAY_CLAIMS_HOOK_SECRET", SECRET),
            ("TOKEN_RELAY_LOG", "info"),
        ];
        Process::demo(&[&hook[..], more].concat())
    }
}

async fn decide(State(service): State<Service>, headers: HeaderMap, body: String) -> Response {
    let authorization = headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let body = serde_json::from_str(&body).unwrap();
    service.requests.lock().unwrap().push((authorization, body));
    let answer = service.answer.lock().unwrap().clone();
    match answer {
        Answer::Json(status, body) => {
            (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
        }
        Answer::Slow(pause) => {
            tokio::time::sleep(pause).await;
            axum::Json(json!({})).into_response()
        }
        Answer::Redirect => Redirect::temporary("/elsewhere").into_response(),
        Answer::Html => Html("<!doctype html><title>Maintenance</title>").into_response(),
        Answer::Huge => axum::Json(json!({"claims": {"x": "x".repeat(100_000)}})).into_response(),
    }
}

/// A whole sign-in: the session, its last event, and the last page.
async fn sign_in(relay: &Process, body: Value) -> (Value, String, Value, Page) {
    let session = create(&relay.url, Some(body)).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let page = Browser::default().sign_in(&session, "alice").await;
    let event = events.next().await.unwrap();
    (session, event.name, event.data, page)
}

fn claims(token: &Value) -> Value {
    let payload = text(token, "access_token").split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn the_hook_decides_about_claims_and_narrows_the_scope() {
    let service = Service::start().await;
    let relay = service.relay(&[("TOKEN_RELAY_TOKEN_SCOPE", "rooms:read rooms:create")]);
    service.answers(Answer::Json(
        200,
        json!({
            "claims": {"tenant": "north", "sub": "root", "idp": "x", "email": null},
            "scope": "rooms:create rooms:delete",
            "user_id": "7e0f5b52-9d4e-4f0c-a4f0-0c9d6b6a5a11",
        }),
    ));
    let (_, name, token, _) = sign_in(&relay, json!({"bind": true, "client_name": "Notes"})).await;
    assert_eq!(name, "authenticated", "{token}");
    assert_eq!(text(&token, "scope"), "rooms:create");
    let claims = claims(&token);
    assert_eq!((text(&claims, "sub"), text(&claims, "scope")), ("alice", "rooms:create"));
    assert_eq!(text(&claims, "tenant"), "north");
    assert_eq!(text(&claims, "user_id"), "7e0f5b52-9d4e-4f0c-a4f0-0c9d6b6a5a11");
    assert!(claims.get("idp").is_none() && claims.get("email").is_none(), "{claims}");

    let (authorization, asked) = service.last();
    assert_eq!(authorization, format!("Bearer {SECRET}"));
    let members: Vec<_> = asked.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "acr auth_time claims client_id client_name iss origin origin_proved scope sub";
    assert_eq!(members.join(" "), expected);
    assert_eq!((text(&asked, "sub"), text(&asked, "client_id")), ("alice", "addons"));
    assert_eq!(text(&asked, "client_name"), "Notes");
    assert_eq!(text(&asked["claims"], "email"), "alice@example.com");
    assert!(text(&asked, "iss").starts_with("http://127.0.0.1:"));
    assert_eq!((&asked["origin"], &asked["origin_proved"]), (&Value::Null, &json!(false)));

    // A page of the relay itself, whose browser is the proof.
    let browser = Browser::default();
    let session = browser.create(&relay.url, json!({"bind": true})).await;
    browser.sign_in(&session, "alice").await;
    let (_, asked) = service.last();
    assert_eq!((text(&asked, "origin"), &asked["origin_proved"]), (&*relay.url, &json!(true)));
}

#[tokio::test]
async fn a_refusal_reaches_page_and_stream() {
    let service = Service::start().await;
    let relay = service.relay(&[]);
    service.answers(Answer::Json(403, json!({"error_description": "Ask <HR> for a seat."})));
    let (_, name, failure, page) = sign_in(&relay, json!({"bind": true})).await;
    assert_eq!((name.as_str(), text(&failure, "error")), ("failed", "access_denied"));
    assert_eq!(text(&failure, "error_description"), "Ask <HR> for a seat.");
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.body.contains("Ask &#60;HR&#62; for a seat."), "{}", page.body);
    service.answers(Answer::Json(403, json!("no object")));
    let (_, name, failure, page) = sign_in(&relay, json!({"bind": true})).await;
    assert_eq!((name.as_str(), text(&failure, "error")), ("failed", "access_denied"));
    assert_eq!(page.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_hook_without_an_answer_is_temporarily_unavailable() {
    let service = Service::start().await;
    let relay = service.relay(&[]);
    for (answer, cause) in [
        (Answer::Json(500, json!({})), "status 500"),
        (Answer::Json(401, json!({})), "status 401"),
        (Answer::Json(204, json!({})), "status 204"),
        (Answer::Json(200, json!([])), "the answer is not the JSON"),
        (Answer::Json(200, json!({"claims": 7})), "the answer is not the JSON"),
        (Answer::Redirect, "status 307"),
        (Answer::Html, "the answer is not the JSON"),
        (Answer::Huge, "larger than 65536 bytes"),
        (Answer::Slow(Duration::from_secs(8)), "no answer within 5s"),
    ] {
        service.answers(answer.clone());
        let (_, name, failure, page) = sign_in(&relay, json!({"bind": true})).await;
        assert_eq!(name, "failed", "{answer:?}");
        assert_eq!(text(&failure, "error"), "temporarily_unavailable", "{answer:?}");
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        eventually("the log names the cause", || async { relay.log().contains(cause) }).await;
    }
    relay.logged("CLAIMS_HOOK_URL").await;
    assert!(!relay.log().contains(SECRET), "{}", relay.log());
    assert_eq!(service.count(), 9, "no redirect is followed and nothing is tried twice");

    let nobody = [("TOKEN_RELAY_CLAIMS_HOOK_URL", "http://127.0.0.1:9/hook")];
    let relay =
        Process::demo(&[&nobody[..], &[("TOKEN_RELAY_CLAIMS_HOOK_SECRET", SECRET)]].concat());
    let (_, name, failure, _) = sign_in(&relay, json!({"bind": true})).await;
    assert_eq!((name.as_str(), text(&failure, "error")), ("failed", "temporarily_unavailable"));
}

#[tokio::test]
async fn a_refresh_asks_again_and_a_failure_leaves_the_refresh_token_unused() {
    let service = Service::start().await;
    let relay = service.relay(&[
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_TOKEN_SCOPE", "rooms:read rooms:create"),
    ]);
    service.answers(Answer::Json(200, json!({"claims": {"seat": 1}})));
    let begun = json!({"bind": true, "client_name": "Notes"});
    let (session, _, token, _) = sign_in(&relay, begun).await;
    let (_, first) = service.last();
    let refresh = |token: String| {
        let request = client()
            .post(format!("{}/addons/token", relay.url))
            .basic_auth(text(&session, "session_id"), Some(text(&session, "session_token")))
            .form(&[("grant_type", "refresh_token"), ("refresh_token", &token)]);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status(), answer.json::<Value>().await.unwrap())
        }
    };
    let unused = text(&token, "refresh_token").to_owned();
    service.answers(Answer::Json(502, json!({})));
    let (status, problem) = refresh(unused.clone()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(&problem, "error"), "temporarily_unavailable");
    service.answers(Answer::Json(403, json!({"error_description": "The seat was taken back."})));
    let (status, problem) = refresh(unused.clone()).await;
    assert_eq!((status, text(&problem, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    assert_eq!(text(&problem, "error_description"), "The seat was taken back.");
    service.answers(Answer::Json(200, json!({"claims": {"seat": 2}, "scope": "rooms:read"})));
    let (status, next) = refresh(unused.clone()).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    assert_eq!((&claims(&next)["seat"], text(&next, "scope")), (&json!(2), "rooms:read"));
    let (_, asked) = service.last();
    for member in ["iss", "sub", "claims", "client_id", "client_name", "scope"] {
        assert_eq!(asked[member], first[member], "{member}");
    }
    // A narrowed scope is not for ever.
    service.answers(Answer::Json(200, json!({})));
    let (_, last) = refresh(text(&next, "refresh_token").to_owned()).await;
    assert_eq!(text(&last, "scope"), "rooms:read rooms:create");
    assert_eq!(claims(&last).get("seat"), None);
}

#[tokio::test]
async fn the_meet_surface_asks_too() {
    let service = Service::start().await;
    let relay = service.relay(&[
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("ADDONS_CSRF_SECRET", MEET_KEY),
        ("ADDONS_TOKEN_SECRET_KEY", MEET_KEY),
        ("ADDONS_TOKEN_SCOPE", "rooms:create rooms:read"),
    ]);
    let browser = Browser::default();
    let start = format!("{}/api/v1.0/authenticate/?returnTo=http://127.0.0.1:9/addin/x", relay.url);
    let answer = browser.get(&start).await;
    let login = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let page = browser.open(&login).await;
    let mut fields = hidden_inputs(&page.body);
    fields.extend(["username", "password"].map(|name| (name.to_owned(), "alice".to_owned())));
    let action = crate::support::form_action(&page);
    let origin = action.origin().ascii_serialization();
    let answer = browser.post_from(Some(&origin), action.as_str(), &fields).await;
    let callback = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let answer = browser.get(&callback).await;
    let set = answer.headers().get_all(header::SET_COOKIE);
    let cookies: Vec<String> = set
        .iter()
        .map(|value| value.to_str().unwrap().split(';').next().unwrap().to_owned())
        .filter(|pair| pair.starts_with("csrftoken=") || pair.starts_with("token-relay-login="))
        .collect();
    let csrf = cookies.iter().find_map(|pair| pair.strip_prefix("csrftoken=")).unwrap();

    let call = |name: &str, cookie: String, csrf: &str, body: Value| {
        let url = format!("{}/api/v1.0/addons/sessions/{name}/", relay.url);
        let request = client().post(url).header(header::COOKIE, cookie).header("x-csrftoken", csrf);
        let request = request.json(&body);
        async move { request.send().await.unwrap() }
    };
    let init = async || {
        let answer = call("init", String::new(), "", json!({})).await;
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        (cookie, answer.json::<Value>().await.unwrap())
    };
    let (session, begun) = init().await;
    let exchange = async |begun: &Value| {
        let body = json!({"transit_token": text(begun, "transit_token")});
        call("exchange", cookies.join("; "), csrf, body).await
    };
    let poll = async |session: &str, begun: &Value| {
        call("poll", session.to_owned(), text(begun, "csrf_token"), json!({})).await
    };
    service.answers(Answer::Html);
    assert_eq!(exchange(&begun).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(poll(&session, &begun).await.status(), StatusCode::ACCEPTED, "nothing is consumed");
    let decided = json!({
        "claims": {"tenant": "north", "user_id": "x", "iss": "x"},
        "user_id": "7e0f5b52-9d4e-4f0c-a4f0-0c9d6b6a5a11",
        "scope": "rooms:create admin",
    });
    service.answers(Answer::Json(200, decided));
    assert_eq!(exchange(&begun).await.status(), StatusCode::OK);
    let token: Value = poll(&session, &begun).await.json().await.unwrap();
    let claims = claims(&token);
    assert_eq!(text(&claims, "user_id"), "7e0f5b52-9d4e-4f0c-a4f0-0c9d6b6a5a11");
    assert_eq!((text(&claims, "iss"), text(&claims, "tenant")), ("lasuite-meet", "north"));
    assert_eq!((text(&claims, "scope"), text(&token, "scope")), ("rooms:create", "rooms:create"));
    let (_, asked) = service.last();
    assert_eq!((text(&asked, "sub"), text(&asked, "scope")), ("alice", "rooms:create rooms:read"));
    assert_eq!(text(&asked["claims"], "email"), "alice@example.com");

    let (session, begun) = init().await;
    service.answers(Answer::Json(403, json!({"error_description": "No seat."})));
    let answer = exchange(&begun).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"detail": "No seat."}));
    assert_eq!(poll(&session, &begun).await.status(), StatusCode::BAD_REQUEST);
}

/// The device authorization grant (RFC 8628): claims and scope, a refusal, a hook that is slow, one that
/// fails, and the refresh.
#[tokio::test]
async fn the_device_grant_asks_too() {
    let service = Service::start().await;
    let relay = service.relay(&[
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        ("TOKEN_RELAY_CLIENTS__CLI__NAME", "Map tools"),
        ("TOKEN_RELAY_CLIENTS__CLI__GRANTS", "device"),
        ("TOKEN_RELAY_CLIENTS__CLI__SCOPE", "maps:read maps:write"),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        device::FAST,
    ]);
    let begin = async || device::authorize(&relay.url, &[("client_id", "cli")]).await;
    let redeem = async |begun: &Value| device::redeem(&relay.url, "cli", begun).await;

    service.answers(Answer::Json(
        200,
        json!({"claims": {"seat": 1, "client_id": "x"}, "scope": "maps:read admin", "user_id": "7"}),
    ));
    let begun = begin().await;
    assert_eq!(device::approve(&relay.url, &begun).await.url.path(), "/addons/success");
    let (status, token) = redeem(&begun).await;
    assert_eq!(status, StatusCode::OK, "{token}");
    let issued = claims(&token);
    assert_eq!((text(&issued, "scope"), text(&token, "scope")), ("maps:read", "maps:read"));
    assert_eq!((&issued["seat"], text(&issued, "user_id")), (&json!(1), "7"));
    assert_eq!(text(&issued, "client_id"), "cli");
    let (authorization, asked) = service.last();
    assert_eq!(authorization, format!("Bearer {SECRET}"));
    assert_eq!((text(&asked, "client_id"), text(&asked, "client_name")), ("cli", "Map tools"));
    assert_eq!((text(&asked, "sub"), text(&asked, "scope")), ("alice", "maps:read maps:write"));
    assert_eq!((&asked["origin"], &asked["origin_proved"]), (&Value::Null, &json!(false)));

    let refresh = async |token: &str| {
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "cli")];
        let request = client().post(format!("{}/addons/token", relay.url)).form(&form);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let unused = text(&token, "refresh_token");
    service.answers(Answer::Html);
    assert_eq!(refresh(unused).await.0, StatusCode::SERVICE_UNAVAILABLE);
    service.answers(Answer::Json(200, json!({"claims": {"seat": 2}})));
    let (status, next) = refresh(unused).await;
    assert_eq!((status, &claims(&next)["seat"]), (StatusCode::OK, &json!(2)));
    assert_eq!(text(&next, "scope"), "maps:read maps:write", "narrowed for one token alone");

    service.answers(Answer::Json(403, json!({"error_description": "No seat is free."})));
    let begun = begin().await;
    let page = device::approve(&relay.url, &begun).await;
    assert!(page.body.contains("No seat is free."), "{}", page.body);
    let (status, refusal) = redeem(&begun).await;
    assert_eq!((status, text(&refusal, "error")), (StatusCode::BAD_REQUEST, "access_denied"));
    assert_eq!(text(&refusal, "error_description"), "No seat is free.");

    // While the service is asked, the device is told to wait; without an answer in time it fails.
    service.answers(Answer::Slow(Duration::from_secs(60)));
    let begun = begin().await;
    let before = service.count();
    let (page, ()) = tokio::join!(device::approve(&relay.url, &begun), async {
        eventually("the service is asked", async || service.count() > before).await;
        assert_eq!(text(&redeem(&begun).await.1, "error"), "authorization_pending");
    });
    assert!(page.body.contains("data-status=\"error\""), "{}", page.body);
    let (status, failure) = redeem(&begun).await;
    assert_eq!(text(&failure, "error"), "temporarily_unavailable", "{status}");
}

/// A hook that takes a second for each of many logins delays them, and nothing else.
#[tokio::test]
async fn a_slow_hook_delays_logins_and_nothing_else() {
    const LOGINS: usize = 80;
    let service = Service::start().await;
    service.answers(Answer::Slow(Duration::from_secs(1)));
    let relay = Arc::new(
        service
            .relay(&[("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"), ("TOKEN_RELAY_CONFIRMATION", "never")]),
    );
    let begun = Instant::now();
    // A browser keeps the cookies of eight dialogs.
    let browsers: Vec<_> = (0..LOGINS / 8).map(|_| Arc::new(Browser::default())).collect();
    let logins: Vec<_> = (0..LOGINS)
        .map(|login| {
            let (relay, browser) = (Arc::clone(&relay), Arc::clone(&browsers[login / 8]));
            tokio::spawn(async move {
                let session = create(&relay.url, Some(json!({"bind": true}))).await;
                let page = browser.open(text(&session, "transit_url")).await;
                assert_eq!(page.status, StatusCode::OK, "{}", page.url);
            })
        })
        .collect();
    let (mut created, mut slowest) = (0, Duration::ZERO);
    while !logins.iter().all(tokio::task::JoinHandle::is_finished) {
        let asked = Instant::now();
        create(&relay.url, Some(json!({"bind": true}))).await;
        (created, slowest) = (created + 1, slowest.max(asked.elapsed()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for login in logins {
        login.await.unwrap();
    }
    assert_eq!(service.count(), LOGINS);
    println!(
        "{LOGINS} logins in {:?}; beside them {created} creations, the slowest in {slowest:?}",
        begun.elapsed()
    );
    // One after the other they would wait for 80 s.
    assert!(created >= 10 && begun.elapsed() < Duration::from_secs(40));
}

/// `token-relay demo --platform`: accounts of its own, and a page where they can be suspended.
#[tokio::test]
async fn the_demo_has_a_platform_with_accounts_of_its_own() {
    let listen = format!("127.0.0.1:{}", free_port());
    let platform = format!("http://{listen}");
    let arguments = ["demo", "--no-open", "--listen", "127.0.0.1:0", "--provider-listen"];
    let more = ["127.0.0.1:0", "--platform", "--platform-listen", &listen];
    let relay = Process::start(&[&arguments[..], &more].concat(), &[]);
    let page =
        async || client().get(format!("{platform}/")).send().await.unwrap().text().await.unwrap();
    assert!(page().await.contains("Nobody has signed in yet"));
    let (_, _, first, _) = sign_in(&relay, json!({"bind": true, "client_name": "Notes"})).await;
    let (_, _, second, _) = sign_in(&relay, json!({"bind": true})).await;
    let [first, second] = [claims(&first), claims(&second)];
    let id = text(&first, "user_id");
    assert_eq!((id.len(), id), (36, text(&second, "user_id")));
    assert_eq!((&first["platform_tokens"], &second["platform_tokens"]), (&json!(1), &json!(2)));
    let shown = page().await;
    assert!(shown.contains("Alice Liddell") && shown.contains(id), "{shown}");

    let form = [("id".to_owned(), id.to_owned()), ("suspended".to_owned(), "true".to_owned())];
    let suspend = format!("{platform}/accounts");
    let foreign = Browser::default().post_from(Some("https://evil.example"), &suspend, &form).await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let done = Browser::default().post_from(Some(&platform), &suspend, &form).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    let (_, name, failure, last) = sign_in(&relay, json!({"bind": true})).await;
    assert_eq!((name.as_str(), text(&failure, "error")), ("failed", "access_denied"));
    assert!(last.body.contains("has suspended this account"), "{}", last.body);
    let question = json!({"iss": "x", "sub": "x", "client_id": "x"});
    let stranger = client().post(format!("{platform}/hook")).json(&question).send().await.unwrap();
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
}
