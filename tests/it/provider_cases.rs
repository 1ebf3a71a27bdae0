//! Cases from the field at a real provider: large claims, slow people, error pages with their log
//! lines, posted forms, what a client adds to the authorization request.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{
    Browser, Events, Page, Process, client, create, form_action, free_port, hidden_inputs,
    provider::OidcProvider,
    redis::{self, command, eventually},
    shared, text,
};

/// The same address at another instance.
fn at(base: &str, url: &str) -> String {
    format!("{base}/{}", url.splitn(4, '/').nth(3).unwrap())
}

/// Goes through the provider's login form, up to the relay's callback, which is not requested.
async fn to_callback(browser: &Browser, login: &Page, user: &str) -> String {
    let mut fields = hidden_inputs(&login.body);
    fields.push(("username".to_owned(), user.to_owned()));
    fields.push(("password".to_owned(), user.to_owned()));
    let mut answer = browser.post_from(None, form_action(login).as_str(), &fields).await;
    loop {
        let target = answer.headers()["location"].to_str().unwrap();
        let target = answer.url().join(target).unwrap();
        if target.path() == "/callback" {
            return target.to_string();
        }
        answer = browser.get(target.as_str()).await;
    }
}

/// What an answer leads to.
fn location(answer: &reqwest::Response) -> String {
    let target = answer.headers()["location"].to_str().unwrap();
    answer.url().join(target).unwrap().to_string()
}

async fn me(base: &str, access_token: &str) -> Value {
    let answer = client().get(format!("{base}/addons/me")).bearer_auth(access_token);
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn claims_of_hundreds_of_groups_reach_every_instance() {
    let provider = OidcProvider::start();
    let server = redis::Server::start(&[]).await;
    let redis_url = server.url();
    let ports = [free_port(), free_port()];
    let public_url = format!("http://127.0.0.1:{}", ports[0]);
    let listen = ports.map(|port| format!("127.0.0.1:{port}"));
    let relays = [&listen[0], &listen[1]].map(|listen| {
        let own = [
            ("TOKEN_RELAY_LISTEN", listen.as_str()),
            ("TOKEN_RELAY_PUBLIC_URL", &public_url),
            ("TOKEN_RELAY_TOKEN_CLAIMS", "name,email,groups"),
            ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1h"),
        ];
        let settings = provider.settings();
        Process::start(&["serve"], &[&settings[..], &shared(&redis_url), &own].concat())
    });
    let [first, second] = relays.each_ref().map(|relay| relay.url.as_str());
    provider.tell("redirect-uri", format!("{public_url}/callback")).await;
    let hand = server.client().await;
    // Accounts, which may stay as long as a session. The result of an exchange, which other
    // instances may need, stays for a minute.
    let accounts = async || {
        let mut count = 0;
        for key in command(&hand, &["KEYS", "token-relay:value:*"]).await.into_array() {
            let ttl = command(&hand, &["PTTL", &key.as_string().unwrap()]).await;
            count += usize::from(ttl.as_i64().unwrap() > 120_000);
        }
        count
    };
    let browser = Browser::default();
    let mut tokens = Vec::new();
    // So many groups, with names of so many letters: in the cookie, and too large for it.
    for (count, length) in [(3, 16), (80, 36), (200, 16), (200, 36)] {
        provider.tell("groups", json!([count, length]).to_string()).await;
        let session = create(first, Some(json!({"bind": true}))).await;
        let session_token = text(&session, "session_token");
        let stream = at(second, text(&session, "events_url"));
        let mut events = Events::open(&stream, Some(session_token)).await;
        let page = browser.open(text(&session, "transit_url")).await;
        let login = browser.type_code(&page, text(&session, "user_code")).await;
        let callback = to_callback(&browser, &login, "alice").await;
        let redirect = location(&browser.get(&callback).await);
        assert_eq!(accounts().await, usize::from(count > 3), "{count} groups");
        // Any instance shows the page about the account, as often as it is asked.
        for base in [second, second, first] {
            let asks = browser.open(&at(base, &redirect)).await;
            assert!(asks.body.contains("Alice Liddell"), "{count}: {} {}", asks.status, asks.body);
        }
        let asks = browser.open(&redirect).await;
        let last = browser.decide(&asks, "continue").await;
        assert_eq!(last.url.path(), "/addons/success", "{count}: {}", relays[0].log());
        let event = events.next().await.unwrap();
        assert_eq!(event.name, "authenticated", "{count}");
        let token = text(&event.data, "access_token").to_owned();
        println!("{count} groups of {length} letters: access token of {} bytes", token.len());
        for base in [first, second] {
            let groups = me(base, &token).await["groups"].as_array().unwrap().len();
            assert_eq!(groups, count);
            let verify = client().get(format!("{base}/addons/verify")).bearer_auth(&token);
            assert_eq!(verify.send().await.unwrap().status(), StatusCode::OK);
        }
        let refreshed = client()
            .post(format!("{second}/addons/token"))
            .basic_auth(text(&session, "session_id"), Some(session_token))
            .form(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", text(&event.data, "refresh_token")),
            ]);
        let refreshed = refreshed.send().await.unwrap();
        assert_eq!(refreshed.status(), StatusCode::OK, "{count}");
        let refreshed: Value = refreshed.json().await.unwrap();
        let again = me(first, text(&refreshed, "access_token")).await;
        assert_eq!(again["groups"].as_array().unwrap().len(), count);
        // Nothing of it stays behind.
        assert_eq!(accounts().await, 0);
        tokens.push(token);
    }
    assert!(tokens.iter().any(|token| token.len() > 10_000));

    // The other ways to wait, at the largest.
    for way in ["poll_url", "websocket_url"] {
        let session = create(first, Some(json!({"bind": true}))).await;
        let (url, session_token) = (text(&session, way), text(&session, "session_token"));
        let page = browser.open(text(&session, "transit_url")).await;
        let waiting: tokio::task::JoinHandle<Value> = if way == "poll_url" {
            let poll = client().get(at(second, &format!("{url}?wait=20")));
            let poll = poll.bearer_auth(session_token).send();
            tokio::spawn(async { poll.await.unwrap().json().await.unwrap() })
        } else {
            let url = at(&second.replace("http://", "ws://"), url);
            let mut request = url.into_client_request().unwrap();
            let offer = format!("token-relay.v1, bearer.{session_token}").parse().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", offer);
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            tokio::spawn(async move {
                let message = socket.next().await.unwrap().unwrap();
                serde_json::from_str(message.to_text().unwrap()).unwrap()
            })
        };
        let login = browser.type_code(&page, text(&session, "user_code")).await;
        let last = browser.log_in(&login, "alice", "alice").await;
        assert_eq!(last.url.path(), "/addons/success");
        let told = waiting.await.unwrap();
        let groups = me(second, text(&told, "access_token")).await["groups"].clone();
        assert_eq!(groups[199], json!(format!("{:-<36}", "group-number-199")), "{way}");
    }
}

#[tokio::test]
async fn large_claims_survive_a_request_that_the_browser_repeats() {
    let provider = OidcProvider::start();
    let claims = ("TOKEN_RELAY_TOKEN_CLAIMS", "groups");
    let relay = provider.relay(&[claims]).await;
    let session = create(&relay.url, None).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let callback = to_callback(&browser, &login, "alice").await;
    let redirect = location(&browser.get(&callback).await);
    // The same cookies twice at once: the second finds the account removed, and the session with
    // its token.
    let (one, two) = tokio::join!(browser.get(&redirect), browser.get(&redirect));
    for answer in [one, two] {
        assert!(location(&answer).contains("/addons/success"), "{answer:?} {}", relay.log());
    }
    let token: Value =
        client().get(text(&session, "poll_url")).send().await.unwrap().json().await.unwrap();
    let claims = me(&relay.url, text(&token, "access_token")).await;
    assert_eq!(claims["groups"].as_array().unwrap().len(), 200);
}

#[tokio::test]
async fn a_dialog_lasts_as_long_as_its_session() {
    let provider = OidcProvider::start();
    let settings =
        std::env::temp_dir().join(format!("token-relay-ttl-{}.toml", std::process::id()));
    let clients = "[clients.hasty]\nname = 'Hasty'\n[clients.patient]\nname = 'Patient'\n\
                   session_ttl = '1h'\n";
    std::fs::write(&settings, clients).unwrap();
    let ttl = ("TOKEN_RELAY_SESSION_TTL", "10s");
    let relay = provider.relay(&[ttl, ("TOKEN_RELAY_CONFIG", settings.to_str().unwrap())]).await;
    let mut waiting = Vec::new();
    for client_id in ["hasty", "patient"] {
        let session = create(&relay.url, Some(json!({"bind": true, "client_id": client_id}))).await;
        let token = text(&session, "session_token");
        let events = Events::open(text(&session, "events_url"), Some(token)).await;
        let browser = Browser::default();
        let login = browser.to_login(&session).await;
        assert!(login.body.contains("name=\"password\""), "{}", login.body);
        waiting.push((session, events, browser, login));
    }
    let (_, mut events, browser, login) = waiting.remove(0);
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "expired", "the stream is told: {event:?}");
    // The person notices nothing, and logs in after all.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.status, StatusCode::GONE, "{:?}", page.trail);
    assert!(page.body.contains("took too long"), "{}", page.body);
    logged_with_reference(&relay, &page, &["took too long"]).await;

    let (_, mut events, browser, login) = waiting.remove(0);
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "{:?} {}", page.trail, relay.log());
    assert_eq!(events.next().await.unwrap().name, "authenticated");
    std::fs::remove_file(&settings).unwrap();
}

/// The log line under the reference that a page shows has the session and each of `words`.
async fn logged_with_reference(relay: &Process, page: &Page, words: &[&str]) -> String {
    let line = || {
        let log = relay.log();
        let found = log.lines().find(|line| {
            let rest = line.split("reference=").nth(1).unwrap_or_default();
            let reference = rest.split_whitespace().next().unwrap_or_default().trim_matches('"');
            !reference.is_empty() && page.body.contains(reference)
        });
        found.map(str::to_owned)
    };
    eventually("the log names the reference", || async { line().is_some() }).await;
    let line = line().unwrap();
    for word in words.iter().chain(&["session="]) {
        assert!(line.contains(word), "{word} in {line}");
    }
    line
}

#[tokio::test]
async fn the_reference_on_an_error_page_finds_cause_and_session() {
    let provider = OidcProvider::start();
    let wrong = ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "not the secret that the provider knows");
    let relay = provider.relay(&[wrong]).await;
    let browser = Browser::default();

    // The provider refuses the client.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token").to_owned();
    let mut events = Events::open(text(&session, "events_url"), Some(&token)).await;
    let login = browser.to_login(&session).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/error");
    let line = logged_with_reference(
        &relay,
        &page,
        &["invalid_client", "client_secret_basic", "token endpoint", "401"],
    )
    .await;
    assert!(!line.contains("not the secret"), "{line}");
    let event = events.next().await.unwrap();
    assert_eq!(text(&event.data, "error"), "server_error", "waiting would not help");
    let address = page.url.to_string();

    // The person declines.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let other = Browser::default();
    let login = other.to_login(&session).await;
    let mut fields = hidden_inputs(&login.body);
    fields.push(("action".to_owned(), "cancel".to_owned()));
    let page = other.submit(form_action(&login).as_str(), &fields).await;
    logged_with_reference(&relay, &page, &["access_denied", "The person cancelled."]).await;

    // The browser has lost its cookie.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let third = Browser::default();
    let login = third.to_login(&session).await;
    let callback = to_callback(&third, &login, "alice").await;
    let page = Browser::default().open(&callback).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    logged_with_reference(&relay, &page, &["did not keep its cookie"]).await;

    // The link was used.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    Browser::default().to_login(&session).await;
    let page = Browser::default().open(text(&session, "transit_url")).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    logged_with_reference(&relay, &page, &["another dialog has the link"]).await;

    // Another site cannot make the relay show a reference: not one of its own, and not one of ours
    // on another page.
    for forged in [
        format!("{}/addons/error?error=denied&reference=WXYZ-WXYZ", relay.url),
        address.replace("error=login_failed", "error=denied"),
        address.replace("reference=", "reference=A"),
    ] {
        assert_ne!(forged, address, "the address is another");
        let page = browser.open(&forged).await;
        assert_eq!(page.status, StatusCode::OK);
        let shown = page.body.contains("WXYZ-WXYZ");
        let log = relay.log();
        let references = log.split("reference=").skip(1).filter_map(|rest| {
            rest.split_whitespace().next().map(|word| word.trim_matches('"').to_owned())
        });
        let ours = references.filter(|reference| reference.len() > 6);
        assert!(!shown && !ours.into_iter().any(|one| page.body.contains(&one)), "{}", page.body);
    }
}

/// ProConnect's codes live for 30 seconds; a browser that sleeps meanwhile brings them too late.
#[tokio::test]
async fn a_code_that_has_expired_is_named_and_the_person_starts_again() {
    let provider = OidcProvider::configured(&json!({
        "configuration": "short_code", "secret": "a secret of the tests alone",
    }));
    let relay = provider.relay(&[]).await;
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token").to_owned();
    let mut events = Events::open(text(&session, "events_url"), Some(&token)).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let callback = to_callback(&browser, &login, "alice").await;
    // The lifetime of the code, and the second to which the provider rounds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let page = browser.open(&callback).await;
    assert_eq!(page.url.path(), "/addons/error", "{:?}", page.trail);
    logged_with_reference(&relay, &page, &["invalid_grant", "expired", "token endpoint"]).await;
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "server_error"));
    // Reloading the page asks the provider no second time.
    let again = browser.open(&callback).await;
    assert!(again.status.is_client_error(), "{} {}", again.status, again.body);
    assert_eq!(provider.seen("/token").await.len(), 1);
    // The person begins again from the add-in.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token").to_owned();
    let mut events = Events::open(text(&session, "events_url"), Some(&token)).await;
    let page = browser.open(text(&session, "transit_url")).await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

#[tokio::test]
async fn what_client_and_session_ask_for_reaches_the_provider() {
    let provider = OidcProvider::start();
    let settings =
        std::env::temp_dir().join(format!("token-relay-params-{}.toml", std::process::id()));
    let clients = "oidc_auth_params = 'acr_values=everybody&idp_hint=house'\n\
                   [clients.strict]\nname = 'Strict'\nauth_params = 'acr_values=eidas2'\n\
                   required_claims = 'groups=staff|board'\n[clients.plain]\nname = 'Plain'\n";
    std::fs::write(&settings, clients).unwrap();
    let relay = provider.relay(&[("TOKEN_RELAY_CONFIG", settings.to_str().unwrap())]).await;
    let asked = async |body: Value| {
        let session = create(&relay.url, Some(body)).await;
        let browser = Browser::default();
        let login = browser.to_login(&session).await;
        (session, browser, login, provider.seen("/auth").await.pop().unwrap())
    };
    let hint = "alice+x@example.com";
    let (_, _, _, seen) = asked(json!({
        "bind": true, "client_id": "plain", "login_hint": hint, "prompt": "login",
    }))
    .await;
    let expected = [("acr_values", "everybody"), ("idp_hint", "house"), ("prompt", "login")];
    for (name, value) in expected.into_iter().chain([("login_hint", hint)]) {
        assert_eq!(seen[name], value, "{seen}");
    }
    for prompt in ["select_account", "consent"] {
        let body = json!({"bind": true, "client_id": "plain", "prompt": prompt});
        let (_, _, _, seen) = asked(body).await;
        assert_eq!(seen["prompt"], prompt);
        assert!(seen.get("login_hint").is_none(), "{seen}");
    }
    // Neither the creator nor anybody else asks for a sign-in without the person.
    for body in [
        json!({"bind": true, "client_id": "plain", "prompt": "none"}),
        json!({"bind": true, "client_id": "plain", "prompt": "login consent"}),
        json!({"bind": true, "client_id": "plain", "login_hint": ""}),
        json!({"bind": true, "client_id": "plain", "login_hint": "a\nb"}),
        json!({"bind": true, "client_id": "plain", "login_hint": "x".repeat(321)}),
    ] {
        let answer = client().post(format!("{}/addons/sessions", relay.url)).json(&body).send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["type"], "urn:token-relay:problem:bad-request", "{problem}");
    }

    let (session, browser, login, seen) = asked(json!({"bind": true, "client_id": "strict"})).await;
    assert_eq!((&seen["acr_values"], &seen["idp_hint"]), (&json!("eidas2"), &json!("house")));
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/error", "{:?}", page.trail);
    logged_with_reference(&relay, &page, &["field=\"groups\"", "requirements"]).await;
    assert_eq!(text(&events.next().await.unwrap().data, "error"), "access_denied");

    // The same person may use the other client.
    let (session, browser, login, _) = asked(json!({"bind": true, "client_id": "plain"})).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    browser.log_in(&login, "alice", "alice").await;
    assert_eq!(events.next().await.unwrap().name, "authenticated", "{}", relay.log());
    std::fs::remove_file(&settings).unwrap();
}

#[tokio::test]
async fn a_posted_form_is_exchanged_once_whoever_repeats_it() {
    let provider = OidcProvider::start();
    let mode = ("TOKEN_RELAY_OIDC_AUTH_PARAMS", "response_mode=form_post");
    let relay = provider.relay(&[mode]).await;
    let session = create(&relay.url, None).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let form = browser.log_in(&login, "alice", "alice").await;
    let fields = hidden_inputs(&form.body);
    assert!(fields.iter().any(|(name, _)| name == "code"), "{}", form.body);
    let posted = async || {
        let answer = client().post(form_action(&form)).form(&fields).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        location(&answer)
    };
    // Posted twice, and each address opened twice: by a browser that cancels and repeats.
    let addresses = [posted().await, posted().await];
    provider.tell("pause", "300".to_owned()).await;
    let (one, two, three) = tokio::join!(
        browser.get(&addresses[0]),
        browser.get(&addresses[0]),
        browser.get(&addresses[1])
    );
    for answer in [&one, &two, &three] {
        assert!(location(answer).contains("/addons/redirect"), "{answer:?} {}", relay.log());
    }
    assert_eq!(browser.open(&location(&one)).await.url.path(), "/addons/success");
    assert_eq!(browser.open(&addresses[0]).await.url.path(), "/addons/success", "reloaded");
    assert_eq!(provider.seen("/token").await.len(), 1, "the code was exchanged once");
    // A copy of the address is of no use elsewhere.
    let elsewhere = Browser::default().open(&addresses[0]).await;
    assert_eq!(elsewhere.status, StatusCode::BAD_REQUEST);
    let token: Value =
        client().get(text(&session, "poll_url")).send().await.unwrap().json().await.unwrap();
    assert_eq!(token["state"], "authenticated");
}
