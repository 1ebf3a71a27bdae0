//! Who may have the token: the proofs of a dialog, and what happens without one.

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    Browser, COOKIE_KEY, Events, Page, Process, SEALING_KEY, SIGNING_KEY, attribute, client,
    create, form_action, hidden_inputs, redis, text,
};

const PANE: &str = "https://pane.example";

fn bound() -> Value {
    json!({"bind": true})
}

async fn is_pending(session: &Value) -> bool {
    let poll = client().get(text(session, "poll_url"));
    let poll = poll.bearer_auth(text(session, "session_token")).send().await.unwrap();
    poll.status() == StatusCode::ACCEPTED
}

fn shows_the_provider(page: &Page) -> bool {
    page.body.contains("name=\"username\"")
}

/// The value of an attribute of the element that carries the first page's data.
fn data(page: &Page, name: &str) -> Option<String> {
    let tag = &page.body[page.body.find("<div id=\"proof\"")?..];
    attribute(tag.split('>').next()?, name)
}

/// The opener's proof, as the specification writes it.
fn prove(session: &Value, challenge: &str) -> String {
    let key = Sha256::new()
        .chain_update("token-relay proof key v1")
        .chain_update(text(session, "session_token"))
        .finalize();
    let mac = Hmac::<Sha256>::new_from_slice(&key)
        .unwrap()
        .chain_update("token-relay proof v1")
        .chain_update(Sha256::digest(text(session, "session_id")))
        .chain_update(URL_SAFE_NO_PAD.decode(challenge).unwrap());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

async fn post_proof(
    browser: &Browser,
    page: &Page,
    page_origin: Option<&str>,
    opener: &str,
    proof: &str,
) -> Response {
    let field = |name: &str| data(page, name).unwrap();
    let url = page.url.join(&field("data-action")).unwrap();
    let fields = [
        ("dialog", field("data-dialog")),
        ("csrf", field("data-csrf")),
        ("origin", opener.to_owned()),
        ("proof", proof.to_owned()),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    browser.post_from(page_origin, url.as_str(), &fields).await
}

#[tokio::test]
async fn the_browser_that_created_the_session_goes_straight_to_the_provider() {
    let relay = Process::demo(&[]);
    let browser = Browser::default();
    let session = browser.create(&relay.url, bound()).await;
    let url = text(&session, "transit_url");
    // A page that is not shown, in a frame, or in another browser: nothing happens.
    for fetched in [[("sec-purpose", "prefetch")], [("sec-purpose", "prefetch;prerender")]] {
        let answer = browser.get_with(url, &fetched).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{fetched:?}");
    }
    for elsewhere in ["iframe", "empty", "embed"] {
        let answer = browser.get_with(url, &[("sec-fetch-dest", elsewhere)]).await;
        assert_eq!(answer.status(), StatusCode::OK, "{elsewhere}");
        assert!(!answer.headers().contains_key("cross-origin-opener-policy"), "the first page");
    }
    let head = client().head(url).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!shows_the_provider(&Browser::default().open(url).await));
    let answer = browser.get_with(url, &[("sec-fetch-dest", "document")]).await;
    assert_eq!(answer.status(), StatusCode::FOUND);
    // Reloaded, it is the provider's page again, and the sign-in works.
    let login = browser.open(url).await;
    assert!(shows_the_provider(&login));
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/success");
    assert!(page.body.contains("data-autoclose"), "nobody had to be asked");
    // And again at the end.
    assert_eq!(browser.open(url).await.url.path(), "/addons/success");
}

#[tokio::test]
async fn only_a_script_of_the_relays_own_page_makes_the_browser_a_proof() {
    let relay = Process::demo(&[]);
    let url = format!("{}/addons/sessions", relay.url);
    let own = relay.url.as_str();
    for headers in [
        vec![],
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", own), ("sec-fetch-mode", "no-cors")],
        vec![("origin", own), ("sec-fetch-mode", "navigate")],
    ] {
        let request = headers
            .iter()
            .fold(client().post(&url), |request, (name, value)| request.header(*name, *value));
        let answer = request.json(&bound()).send().await.unwrap();
        let cookies = answer.headers().get_all(header::SET_COOKIE).iter();
        let browser =
            cookies.filter(|cookie| cookie.to_str().unwrap().starts_with("token-relay-browser="));
        assert_eq!(browser.count(), 0, "{headers:?}");
    }
    // A server with a forged Origin has a cookie of its own, which is in no browser of a victim.
    let victim = Browser::default();
    victim.create(own, bound()).await;
    let request = client().post(&url).header("origin", own).json(&bound());
    let session: Value = request.send().await.unwrap().json().await.unwrap();
    let page = victim.open(text(&session, "transit_url")).await;
    assert!(!shows_the_provider(&page), "{}", page.body);
    assert!(is_pending(&session).await);
}

#[tokio::test]
async fn the_opener_needs_the_token_and_an_allowed_origin() {
    let relay = Process::demo(&[("TOKEN_RELAY_ALLOWED_ORIGINS", PANE)]);
    let own = relay.url.as_str();
    let session = create(own, Some(bound())).await;
    let browser = Browser::default();
    let page = browser.open(text(&session, "transit_url")).await;
    assert!(!page.body.contains("name=\"user_code\""), "with origins the code is off");
    assert_eq!(page.body.matches("PROOFS").count(), 1, "the page names the setting");
    let origins = data(&page, "data-origins").unwrap().replace("&#34;", "\"");
    let origins: Vec<String> = serde_json::from_str(&origins).unwrap();
    assert_eq!(origins, [PANE, own]);
    let mut challenge = data(&page, "data-challenge").unwrap();
    let other = create(own, Some(bound())).await;
    // An attacker who made the session knows the key, but is no allowed opener; an allowed opener
    // that does not know the session has no key.
    for (opener, proof) in [
        ("https://evil.example", prove(&session, &challenge)),
        ("null", prove(&session, &challenge)),
        ("", prove(&session, &challenge)),
        ("https://pane.example.evil.example", prove(&session, &challenge)),
        (PANE, prove(&other, &challenge)),
        (PANE, String::new()),
    ] {
        let proof = if opener == PANE { proof } else { prove(&session, &challenge) };
        let answer = post_proof(&browser, &page, Some(own), opener, &proof).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{opener}");
        let used = challenge.clone();
        challenge = text(&answer.json().await.unwrap(), "challenge").to_owned();
        assert_ne!(challenge, used, "a challenge is used once");
    }
    // A form of another page, or of none.
    for origin in [None, Some("null"), Some(PANE), Some("http://sibling.localhost")] {
        let proof = prove(&session, &challenge);
        let answer = post_proof(&browser, &page, origin, PANE, &proof).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{origin:?}");
        assert!(answer.text().await.unwrap().starts_with("<!DOCTYPE"));
    }
    assert!(is_pending(&session).await);
    // A proof is late and still counts.
    let answer = post_proof(&browser, &page, Some(own), PANE, &prove(&session, &challenge)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.unwrap();
    let login = browser.open(text(&answer, "location")).await;
    assert_eq!(browser.log_in(&login, "alice", "alice").await.url.path(), "/addons/success");
    // Once more is too late.
    let again = post_proof(&browser, &page, Some(own), PANE, &prove(&session, &challenge)).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    relay.logged("the opener's proof is not accepted").await;
}

#[tokio::test]
async fn five_wrong_codes_end_the_session_however_many_are_typed_at_once() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, Some(bound())).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let browser = Browser::default();
    let page = browser.open(text(&session, "transit_url")).await;
    let guesses = ["BBBB-BBBB", "BBBB-BBBC", "BBBB-BBBD", "BBBB-BBBF", "BBBB-BBBG", "BBBB-BBBH"];
    let typed = guesses.map(|code| browser.type_code(&page, code));
    let answers = futures_util::future::join_all(typed).await;
    let asked_again = answers.iter().filter(|page| page.status == StatusCode::OK).count();
    assert_eq!(asked_again, 4, "the fifth ends it");
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "access_denied"));
    let late = browser.type_code(&page, text(&session, "user_code")).await;
    assert!(!shows_the_provider(&late), "{}", late.body);
}

#[tokio::test]
async fn a_code_is_typed_as_people_type_and_the_account_is_asked_for() {
    let relay = Process::demo(&[]);
    for typed in [
        str::to_lowercase,
        |code: &str| code.replace('-', ""),
        |code: &str| format!("  {} ", code.replace('-', " ")),
    ] {
        let session = create(&relay.url, Some(json!({"bind": true, "client_name": "Notes"}))).await;
        let browser = Browser::default();
        let page = browser.open(text(&session, "transit_url")).await;
        assert!(page.body.contains("Notes") && page.body.contains("not verified"), "{}", page.body);
        assert!(page.body.contains("127.0.0.1"), "the network: {}", page.body);
        let login = browser.type_code(&page, &typed(text(&session, "user_code"))).await;
        assert!(login.url.query().unwrap().contains("prompt=select_account"), "{}", login.url);
        let mut fields = hidden_inputs(&login.body);
        fields.push(("username".to_owned(), "alice".to_owned()));
        fields.push(("password".to_owned(), "alice".to_owned()));
        let asks = browser.submit(form_action(&login).as_str(), &fields).await;
        assert!(asks.body.contains("id=\"question\"") && asks.body.contains("Alice Liddell"));
        assert!(is_pending(&session).await, "the token is not issued before the answer");
        let last = browser.decide(&asks, "continue").await;
        assert_eq!(last.url.path(), "/addons/success");
        assert!(!last.body.contains("data-autoclose"));
    }
}

#[tokio::test]
async fn nobody_is_signed_in_by_a_link_alone() {
    let relay = Process::demo(&[]);
    // What an attacker's server may send to make the dialog easier.
    for body in [
        json!({"bind": true}),
        json!({"bind": true, "confirm": false}),
        json!({"bind": true, "client_name": "You"}),
        json!({}),
    ] {
        let session = create(&relay.url, Some(body.clone())).await;
        let victim = Browser::default();
        victim.create(&relay.url, bound()).await;
        for _ in 0..3 {
            let page = victim.open(text(&session, "transit_url")).await;
            assert!(!shows_the_provider(&page), "{body}: {}", page.body);
            assert_eq!(page.status, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn legacy_sessions_are_off_unless_allowed() {
    let relay = Process::demo(&[("TOKEN_RELAY_LEGACY_SESSIONS", "false")]);
    let answer = client().post(format!("{}/addons/sessions", relay.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(text(&problem, "type"), "urn:token-relay:problem:bound-session-required");
    assert!(text(&problem, "detail").contains("LEGACY_SESSIONS"), "{problem}");
}

#[tokio::test]
async fn never_asks_for_nothing_and_says_so_at_the_start() {
    let relay = Process::demo(&[("TOKEN_RELAY_CONFIRMATION", "never")]);
    relay.logged("any website").await;
    let session = create(&relay.url, Some(bound())).await;
    let url = text(&session, "transit_url");
    let browser = Browser::default();
    let fetched = browser.get_with(url, &[("sec-purpose", "prefetch")]).await;
    assert_eq!(fetched.status(), StatusCode::SERVICE_UNAVAILABLE);
    let head = client().head(url).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(shows_the_provider(&browser.open(url).await));
}

#[tokio::test]
async fn this_was_not_me_revokes_what_was_given() {
    let relay = Process::demo(&[("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1h")]);
    let browser = Browser::default();
    let session = browser.create(&relay.url, bound()).await;
    let token = text(&session, "session_token");
    let login = browser.open(text(&session, "transit_url")).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    let poll = client().get(text(&session, "poll_url")).bearer_auth(token).send();
    let delivered: Value = poll.await.unwrap().json().await.unwrap();
    let me = async || {
        let request = client().get(format!("{}/addons/me", relay.url));
        request.bearer_auth(text(&delivered, "access_token")).send().await.unwrap().status()
    };
    assert_eq!(me().await, StatusCode::OK);
    let undone = browser.submit(form_action(&page).as_str(), &hidden_inputs(&page.body)).await;
    assert_eq!(undone.status, StatusCode::OK);
    assert!(undone.body.contains("undone"), "{}", undone.body);
    assert_eq!(me().await, StatusCode::UNAUTHORIZED);
    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", text(&delivered, "refresh_token")),
        ("client_id", text(&session, "session_id")),
        ("client_secret", token),
    ];
    let request = client().post(format!("{}/addons/token", relay.url)).form(&refresh);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_callback_sent_twice_at_once_or_reloaded_succeeds_once() {
    let relay = Process::demo(&[]);
    let browser = Browser::default();
    let session = browser.create(&relay.url, bound()).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let login = browser.open(text(&session, "transit_url")).await;
    let mut fields = hidden_inputs(&login.body);
    fields.push(("username".to_owned(), "alice".to_owned()));
    fields.push(("password".to_owned(), "alice".to_owned()));
    let action = form_action(&login);
    let origin = action.origin().ascii_serialization();
    let answer = browser.post_from(Some(&origin), action.as_str(), &fields).await;
    let callback = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let pages = futures_util::future::join_all((0..2).map(|_| browser.open(&callback))).await;
    let ends: HashSet<_> = pages.iter().map(|page| page.url.path().to_owned()).collect();
    assert_eq!(ends, HashSet::from(["/addons/success".to_owned()]));
    assert_eq!(events.next().await.unwrap().name, "authenticated");
    assert_eq!(browser.open(&callback).await.url.path(), "/addons/success", "reloaded");
}

#[tokio::test]
async fn of_too_many_dialogs_the_oldest_goes_and_its_stream_is_told() {
    let relay = Process::demo(&[]);
    let browser = Browser::default();
    let mut dialogs = Vec::new();
    for _ in 0..9 {
        let session = browser.create(&relay.url, bound()).await;
        let login = browser.open(text(&session, "transit_url")).await;
        dialogs.push((session, login));
    }
    let (oldest, login) = &dialogs[0];
    let token = text(oldest, "session_token");
    let mut events = Events::open(text(oldest, "events_url"), Some(token)).await;
    let page = browser.log_in(login, "alice", "alice").await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST, "{}", page.body);
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "access_denied"));
    for (_, login) in &dialogs[1..] {
        let page = browser.log_in(login, "alice", "alice").await;
        assert_eq!(page.url.path(), "/addons/success");
    }
}

#[tokio::test]
async fn pages_are_cut_off_from_the_window_that_opened_them_except_in_office() {
    let relay = Process::demo(&[]);
    for (path, office) in [
        ("/addons/error?error=expired", false),
        ("/addons/success", false),
        ("/addons/error?error=expired&office=1", true),
        ("/addons/error?_host_Info=Outlook$Web$16.00$en-US", true),
        ("/addons/success?_host_Info=Outlook$Web$16.00$en-US", true),
        ("/addons/transit/?transit_token=none", false),
        ("/addons/transit/?transit_token=none&_host_Info=Outlook$Web$16.00$en-US", true),
    ] {
        let answer = client().get(format!("{}{path}", relay.url)).send().await.unwrap();
        let policy = answer.headers().get("cross-origin-opener-policy");
        assert_eq!(policy.is_none(), office, "{path}: {policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_are_guessed_no_faster_on_two_instances_at_once() {
    let server = redis::Server::start(&[]).await;
    let url = server.url();
    let environment = [
        ("TOKEN_RELAY_REDIS_URL", url.as_str()),
        ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
    ];
    let relays = [Process::demo(&environment), Process::demo(&environment)];
    let session = create(&relays[0].url, Some(bound())).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let browser = Browser::default();
    let page = browser.open(text(&session, "transit_url")).await;
    let fields = hidden_inputs(&page.body);
    let path = form_action(&page).path().to_owned();
    let guesses = (0..16).map(|number| {
        let mut fields = fields.clone();
        let letter = char::from(b"BCDFGHJKLMNPQRST"[number]);
        fields.push(("user_code".to_owned(), format!("BBBB-BBB{letter}")));
        let url = format!("{}{path}", relays[number % 2].url);
        let browser = &browser;
        async move { browser.submit(&url, &fields).await }
    });
    let answers = futures_util::future::join_all(guesses).await;
    let asked_again = answers.iter().filter(|page| page.status == StatusCode::OK).count();
    assert_eq!(asked_again, 4, "the fifth ends it, on either instance");
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "access_denied"));
    for relay in &relays {
        let mut fields = fields.clone();
        fields.push(("user_code".to_owned(), text(&session, "user_code").to_owned()));
        let late = browser.submit(&format!("{}{path}", relay.url), &fields).await;
        assert!(!shows_the_provider(&late), "{}", late.body);
    }
}

#[tokio::test]
async fn a_last_page_says_nothing_of_a_sign_in_that_has_not_ended_here() {
    let relay = Process::demo(&[]);
    for path in [
        "/addons/success",
        "/addons/success?dialog=AAAAAAAAAAAAAAAA",
        "/addons/error",
        "/addons/error?error=other&reference=BCDF-GHJK",
    ] {
        let page = Browser::default().open(&format!("{}{path}", relay.url)).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.body.contains("No sign-in here"), "{path}: {}", page.body);
        assert!(page.body.contains("data-status=\"neutral\""), "{path}: {}", page.body);
        assert!(!page.body.contains("BCDF-GHJK"), "{path}: {}", page.body);
    }
    // Between the login and the answer of the person.
    let session = create(&relay.url, Some(bound())).await;
    let browser = Browser::default();
    let page = browser.open(text(&session, "transit_url")).await;
    let login = browser.type_code(&page, text(&session, "user_code")).await;
    let mut fields = hidden_inputs(&login.body);
    fields.push(("username".to_owned(), "alice".to_owned()));
    fields.push(("password".to_owned(), "alice".to_owned()));
    let asks = browser.submit(form_action(&login).as_str(), &fields).await;
    let last = asks.url.as_str().replace("/addons/redirect", "/addons/success");
    let page = browser.open(&last).await;
    assert_eq!(page.url.path(), "/addons/redirect");
    assert!(page.body.contains("id=\"question\""), "{}", page.body);
    assert!(is_pending(&session).await);
    let done = browser.decide(&page, "continue").await;
    assert!(done.body.contains("Alice Liddell"), "{}", done.body);
}
