//! What ends, stays ended: everything of a person at once, on every instance, and after a restart
//! with and without Redis.

use std::time::{Duration, UNIX_EPOCH};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    Browser, COOKIE_KEY, Events, Page, Process, SEALING_KEY, SIGNING_KEY, attribute, client,
    create, form_action, hidden_inputs, redis, text,
};

const ADMIN: (&str, &str) = ("admin", "a secret of the administration of 32 characters");
const API: (&str, &str) = ("api", "a secret of the interface of 32 characters");

/// A relay with a backend that may end everything of a person, and one that may not. With `store`, a
/// setting and its value, more than one instance or process may use it.
fn relay(store: &[(&str, &str)]) -> Process {
    let fixed = [
        ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
        ("TOKEN_RELAY_TOKEN_ISSUER", "https://relay.example"),
        ("TOKEN_RELAY_TOKEN_AUDIENCE", "https://api.example"),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_CLIENTS__ADMIN__GRANTS", "introspect revoke"),
        ("TOKEN_RELAY_CLIENTS__ADMIN__SECRET", ADMIN.1),
        ("TOKEN_RELAY_CLIENTS__API__GRANTS", "introspect"),
        ("TOKEN_RELAY_CLIENTS__API__SECRET", API.1),
        ("TOKEN_RELAY_LOG", "info"),
    ];
    Process::demo(&[&fixed, store].concat())
}

/// A signed-in add-in: its session, its tokens, the last page of the dialog.
struct SignedIn {
    session: Value,
    tokens: Value,
    browser: Browser,
    page: Page,
}

async fn sign_in(relay: &Process, user: &str) -> SignedIn {
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let browser = Browser::default();
    let page = browser.sign_in(&session, user).await;
    let tokens = events.next().await.unwrap().data;
    SignedIn { session, tokens, browser, page }
}

impl SignedIn {
    async fn verify(&self, relay: &Process) -> StatusCode {
        let request = client().get(format!("{}/addons/verify", relay.url));
        let token = text(&self.tokens, "access_token");
        request.bearer_auth(token).send().await.unwrap().status()
    }

    async fn is_active(&self, relay: &Process) -> bool {
        let answer = client()
            .post(format!("{}/addons/introspect", relay.url))
            .basic_auth(API.0, Some(API.1))
            .form(&[("token", text(&self.tokens, "access_token"))])
            .send()
            .await
            .unwrap();
        answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
    }

    async fn refresh(&self, relay: &Process) -> (StatusCode, Value) {
        let answer = client()
            .post(format!("{}/addons/token", relay.url))
            .basic_auth(
                text(&self.session, "session_id"),
                Some(text(&self.session, "session_token")),
            )
            .form(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", text(&self.tokens, "refresh_token")),
            ])
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Whether everything of it works, or nothing; anything in between fails.
    async fn works(&self, relay: &Process) -> bool {
        let verified = self.verify(relay).await == StatusCode::OK;
        assert_eq!(self.is_active(relay).await, verified);
        verified
    }

    async fn has_ended(&self, relay: &Process) {
        assert!(!self.works(relay).await);
        let (status, refused) = self.refresh(relay).await;
        assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    }
}

async fn revoke(
    relay: &Process,
    by: Option<(&str, &str)>,
    form: &[(&str, &str)],
) -> (StatusCode, String) {
    let mut request = client().post(format!("{}/addons/revoke", relay.url)).form(form);
    if let Some((id, secret)) = by {
        request = request.basic_auth(id, Some(secret));
    }
    let answer: Response = request.send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    (status, body["error"].as_str().unwrap_or_default().to_owned())
}

/// A token of the second in which everything ended counts as issued before.
async fn next_second() {
    let since = UNIX_EPOCH.elapsed().unwrap();
    let rest = Duration::from_secs(since.as_secs() + 1) - since;
    tokio::time::sleep(rest + Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_backend_ends_everything_of_a_person_at_every_instance() {
    let server = redis::Server::start(&[]).await;
    let url = server.url();
    let shared: [&[(&str, &str)]; 2] = [&[("TOKEN_RELAY_REDIS_URL", &url)], &[]];
    for store in shared {
        let first = relay(store);
        let second = if store.is_empty() { None } else { Some(relay(store)) };
        let second = second.as_ref().unwrap_or(&first);
        let (one, two) = (sign_in(&first, "alice").await, sign_in(second, "alice").await);
        let bob = sign_in(&first, "bob").await;
        for (by, form, expected) in [
            (None, vec![("sub", "alice")], (401, "invalid_client")),
            (Some((ADMIN.0, "another secret")), vec![("sub", "alice")], (401, "invalid_client")),
            (Some(API), vec![("sub", "alice")], (400, "unauthorized_client")),
            (Some(ADMIN), vec![("sub", "")], (400, "invalid_request")),
            (Some(ADMIN), vec![], (400, "invalid_request")),
            (Some(ADMIN), vec![("sub", "alice"), ("token", "a")], (400, "invalid_request")),
            (Some(ADMIN), vec![("sub", "carol")], (200, "")),
        ] {
            let (status, error) = revoke(&first, by, &form).await;
            assert_eq!((status.as_u16(), error.as_str()), expected, "{by:?} {form:?}");
        }
        for signed_in in [&one, &two, &bob] {
            assert!(signed_in.works(second).await);
        }
        assert_eq!(revoke(second, Some(ADMIN), &[("sub", "alice")]).await.0, StatusCode::OK);
        for relay in [&first, second] {
            one.has_ended(relay).await;
            two.has_ended(relay).await;
            assert!(bob.works(relay).await);
        }
        next_second().await;
        let again = sign_in(&first, "alice").await;
        assert!(again.works(second).await);
        assert_eq!(again.refresh(second).await.0, StatusCode::OK);
        assert_eq!(bob.refresh(second).await.0, StatusCode::OK);
        let metrics = client().get(format!("{}/metrics", second.url)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let accounts = if store.is_empty() { 2 } else { 1 };
        let line = format!("token_relay_revocations_total{{what=\"Account\"}} {accounts}");
        assert!(metrics.contains(&line), "{metrics}");
        redis::eventually("the audit log has it", || async {
            second.log().contains("everything of the person revoked")
        })
        .await;
        assert!(!second.log().contains("alice"), "the log names no person: {}", second.log());
    }
}

#[tokio::test]
async fn a_person_signs_out_everywhere_on_the_last_page() {
    let relay = relay(&[]);
    let (one, two) = (sign_in(&relay, "alice").await, sign_in(&relay, "alice").await);
    let bob = sign_in(&relay, "bob").await;
    let button = two.page.body.split("<button").find(|tag| tag.contains("value=\"everywhere\""));
    let button = button.unwrap_or_else(|| panic!("{}", two.page.body));
    assert_eq!(attribute(button, "name").as_deref(), Some("decision"));
    let mut fields = hidden_inputs(&two.page.body);
    fields.push(("decision".to_owned(), "everywhere".to_owned()));
    let target = form_action(&two.page);
    // Neither another site nor another browser does it in the person's place.
    let foreign =
        two.browser.post_from(Some("https://evil.example"), target.as_str(), &fields).await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert_ne!(one.browser.submit(target.as_str(), &fields).await.status, StatusCode::OK);
    assert!(one.works(&relay).await && two.works(&relay).await);
    let page = two.browser.submit(target.as_str(), &fields).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("signed out everywhere"), "{}", page.body);
    one.has_ended(&relay).await;
    two.has_ended(&relay).await;
    assert!(bob.works(&relay).await);
}

#[tokio::test]
async fn what_was_ended_is_ended_after_a_restart_without_redis() {
    let directory = redis::Directory::new();
    let file = directory.file("state");
    let with_file = [("TOKEN_RELAY_STATE_FILE", file.as_str())];
    let first = relay(&with_file);
    let (token, grant) = (sign_in(&first, "bob").await, sign_in(&first, "carol").await);
    let (alice, other) = (sign_in(&first, "alice").await, sign_in(&first, "bob").await);
    let form = [("token", text(&token.tokens, "access_token"))];
    assert_eq!(revoke(&first, None, &form).await.0, StatusCode::OK);
    let form = [("token", text(&grant.tokens, "refresh_token"))];
    assert_eq!(revoke(&first, None, &form).await.0, StatusCode::OK);
    assert_eq!(revoke(&first, Some(ADMIN), &[("sub", "alice")]).await.0, StatusCode::OK);
    // Without a word, so that it must be on the disk by then.
    first.signal("KILL");
    drop(first);
    let second = relay(&with_file);
    for ended in [&token, &grant, &alice] {
        assert!(!ended.works(&second).await);
    }
    assert!(other.works(&second).await);
    assert!(!second.log().contains("STATE_FILE"), "{}", second.log());
    drop(second);
    // Otherwise it is not, and a warning says so.
    let third = relay(&[]);
    assert!(token.works(&third).await);
    third.logged("STATE_FILE").await;
    third.logged("revoked tokens are valid again").await;
}

#[test]
fn a_state_file_that_cannot_be_used_is_named() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_token-relay"))
        .arg("serve")
        .env("TOKEN_RELAY_LISTEN", "127.0.0.1:0")
        .env("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9")
        .env("TOKEN_RELAY_OIDC_CLIENT_ID", "relay")
        .env("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret")
        .env("TOKEN_RELAY_STATE_FILE", "/no/such/folder/state")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && log.contains("STATE_FILE /no/such/folder/state"), "{log}");
}
