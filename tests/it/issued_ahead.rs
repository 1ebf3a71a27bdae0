//! The access token is signed while the browser is on its way from `/callback` to `/addons/redirect`, and
//! anew where anything has changed meanwhile, or the browser comes late or to another instance.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Browser, Events, Process, client, create,
    redis::{self, Directory, eventually},
    signing_key, text,
};

const ISSUED: &str = "access token issued ahead";
const USED: &str = "uses the access token that was issued ahead";

/// A browser that is signed in without a form, and a person who is asked nothing.
const SETTINGS: [(&str, &str); 3] = [
    ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
    ("TOKEN_RELAY_CONFIRMATION", "never"),
    ("TOKEN_RELAY_LOG", "debug"),
];

fn demo(more: &[(&str, &str)]) -> Process {
    Process::demo(&[&SETTINGS[..], more].concat())
}

/// A sign-in whose browser has the response of `/callback` and has not followed it.
struct OnItsWay {
    browser: Browser,
    session: Value,
    events: Events,
    /// The request that completes the sign-in.
    last: String,
}

impl OnItsWay {
    async fn at(relay: &Process) -> Self {
        let session = create(&relay.url, Some(json!({"bind": true}))).await;
        let (url, token) = (text(&session, "events_url"), text(&session, "session_token"));
        let mut events = Events::open(url, Some(token)).await;
        events.until("retry: ").await;
        let browser = Browser::default();
        let dialog = text(&session, "transit_url");
        let last = browser.follow_until(dialog, "/addons/redirect").await;
        Self { browser, session, events, last }
    }

    /// The same whose token is issued.
    async fn with_token(relay: &Process) -> Self {
        let issued = || relay.log().matches(ISSUED).count();
        let before = issued();
        let sign_in = Self::at(relay).await;
        eventually("a token that is issued ahead", || async { issued() > before }).await;
        sign_in
    }

    /// Completes the sign-in; gives the token.
    async fn complete(mut self) -> String {
        let page = self.browser.open(&self.last).await;
        assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
        assert!(page.body.contains("Alice Liddell"), "{}", page.body);
        let event = self.events.next().await.unwrap();
        assert_eq!(event.name, "authenticated");
        text(&event.data, "access_token").to_owned()
    }
}

/// How many sign-ins used a token that was issued ahead, once `completed` are completed.
async fn used(relay: &Process, completed: usize) -> usize {
    // The later of the two lines.
    let count = |line: &str| relay.log().matches(line).count();
    let done = || async { count("sign-in completed") == completed };
    eventually(&format!("{completed} completed sign-ins in the log"), done).await;
    count(USED)
}

async fn subject(relay: &Process, token: &str) -> String {
    let answer = client().get(format!("{}/addons/me", relay.url)).bearer_auth(token).send().await;
    text(&answer.unwrap().json().await.unwrap(), "sub").to_owned()
}

#[tokio::test]
async fn a_token_waits_for_its_own_browser_only_and_serves_once() {
    let relay = demo(&[]);
    let sign_in = OnItsWay::with_token(&relay).await;
    let last = sign_in.last.clone();
    // Neither a browser without the cookie nor one with a cookie that was tampered with finds it.
    let handle = last.split_once("dialog=").unwrap().1;
    let name = format!("token-relay-dialog-{handle}");
    for cookie in ["", &format!("{name}="), &format!("{name}=AAAA")] {
        let stranger = Browser::default();
        let answer = stranger.get_with(&last, &[("cookie", cookie)]).await;
        assert!(answer.status().is_client_error(), "{cookie:?} {}", answer.status());
    }
    assert!(!relay.log().contains("sign-in completed"));
    let session = sign_in.session.clone();
    let token = sign_in.complete().await;
    assert_eq!(used(&relay, 1).await, 1);
    assert_eq!(subject(&relay, &token).await, "alice");

    // Whoever copied the cookie finds nothing either: the session has its token.
    let poll = client().get(text(&session, "poll_url"));
    let poll = poll.bearer_auth(text(&session, "session_token")).send().await.unwrap();
    assert_eq!(text(&poll.json().await.unwrap(), "access_token"), token);
    let OnItsWay { browser, last, mut events, .. } = OnItsWay::with_token(&relay).await;
    let (first, second) = tokio::join!(browser.get(&last), browser.get(&last));
    assert!(first.status().is_redirection() && second.status().is_redirection());
    let event = events.next().await.unwrap();
    assert_eq!(subject(&relay, text(&event.data, "access_token")).await, "alice");
    used(&relay, 2).await;
}

#[tokio::test]
async fn what_was_issued_before_a_reload_is_issued_anew() {
    let folder = Directory::new();
    let (key, clients) = (folder.file("signing_key"), folder.file("clients"));
    let new_key = || std::fs::write(&key, signing_key()).unwrap();
    new_key();
    std::fs::write(&clients, "api:the secret of the api").unwrap();
    let relay = demo(&[
        ("TOKEN_RELAY_SIGNING_KEY_FILE", &key),
        ("TOKEN_RELAY_INTROSPECTION_CLIENTS_FILE", &clients),
    ]);
    let change = [&new_key as &dyn Fn(), &|| {
        std::fs::write(&clients, "api:another secret of the api").unwrap()
    }];
    for (index, change) in change.into_iter().enumerate() {
        let sign_in = OnItsWay::with_token(&relay).await;
        change();
        relay.signal("HUP");
        eventually("the reload", || async {
            relay.log().matches("changed settings applied").count() == index + 1
        })
        .await;
        let token = sign_in.complete().await;
        assert_eq!(used(&relay, index + 1).await, 0);
        assert_eq!(subject(&relay, &token).await, "alice");
    }
    // The control.
    OnItsWay::with_token(&relay).await.complete().await;
    assert_eq!(used(&relay, 3).await, 1);
}

#[tokio::test]
async fn keys_that_are_replaced_meanwhile_seal_the_token_and_the_last_cookie() {
    let folder = Directory::new();
    let (sealing, cookies) = (folder.file("sealing_keys"), folder.file("cookie_keys"));
    let replace = |file: &str, digit: &str| {
        let rest = "e89820860c342f2c7ec694d144023b10301c2accdd078cb5167a06d0c3d5bcc";
        std::fs::write(file, format!("{digit}{rest}")).unwrap();
    };
    replace(&sealing, "1");
    replace(&cookies, "2");
    let relay = demo(&[
        ("TOKEN_RELAY_SEALING_KEYS_FILE", &sealing),
        ("TOKEN_RELAY_COOKIE_KEYS_FILE", &cookies),
    ]);
    // The keys before are gone: the client is sent the token, and the last page names the account, only where
    // both are sealed anew. The token itself depends on no cookie.
    for (index, (file, digit, used_ahead)) in
        [(&sealing, "3", 0), (&cookies, "4", 1)].into_iter().enumerate()
    {
        let sign_in = OnItsWay::with_token(&relay).await;
        replace(file, digit);
        relay.signal("HUP");
        eventually("the reload", || async {
            relay.log().matches("changed settings applied").count() == index + 1
        })
        .await;
        let session = sign_in.session.clone();
        let token = sign_in.complete().await;
        assert_eq!(used(&relay, index + 1).await, used_ahead);
        assert_eq!(subject(&relay, &token).await, "alice");
        let poll = client().get(text(&session, "poll_url"));
        let poll = poll.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        assert_eq!(text(&poll.json().await.unwrap(), "access_token"), token);
    }
}

#[tokio::test]
async fn a_browser_that_is_late_or_comes_to_another_instance_is_signed_in_from_its_cookie() {
    let server = redis::Server::start(&[]).await;
    let url = server.url();
    let settings = [&SETTINGS[..], &crate::support::shared(&url)].concat();
    let relays = [Process::demo(&settings), Process::demo(&settings)];
    let sign_in = OnItsWay::with_token(&relays[0]).await;
    let late = OnItsWay::with_token(&relays[0]).await;
    let elsewhere = sign_in.last.replace(&relays[0].url, &relays[1].url);
    let token = OnItsWay { last: elsewhere, ..sign_in }.complete().await;
    assert_eq!(used(&relays[1], 1).await, 0);
    assert_eq!(subject(&relays[1], &token).await, "alice");

    tokio::time::sleep(Duration::from_secs(11)).await;
    late.complete().await;
    assert_eq!(used(&relays[0], 1).await, 0);
    // The control.
    OnItsWay::with_token(&relays[0]).await.complete().await;
    assert_eq!(used(&relays[0], 2).await, 1);
}

#[tokio::test]
async fn where_the_person_is_asked_or_a_refresh_token_is_stored_nothing_is_issued_ahead() {
    let relay = demo(&[("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day")]);
    OnItsWay::at(&relay).await.complete().await;
    assert_eq!(used(&relay, 1).await, 0);
    assert!(!relay.log().contains(ISSUED));
    let relay = demo(&[("TOKEN_RELAY_CONFIRMATION", "auto")]);
    let session = create(&relay.url, None).await;
    let page = Browser::default().to_login(&session).await;
    assert!(page.trail.iter().any(|url| url.contains("/addons/account")), "{:?}", page.trail);
    assert_eq!(used(&relay, 1).await, 0);
    assert!(!relay.log().contains(ISSUED));
}
