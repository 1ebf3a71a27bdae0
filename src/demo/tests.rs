//! The embedded provider over a real loopback socket, with the relay's own client side.

use std::{collections::HashMap, time::Duration};

use http::{StatusCode, header};
use reqwest::{Client, Response, redirect::Policy};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use url::Url;

use crate::{
    demo::{DemoProvider, RegisteredClient},
    oidc::{
        AuthorizationOptions, AuthorizationResponse, ClientSecrets, LoginAttempt, LoginError,
        Provider as RelyingParty, ProviderOptions,
    },
    session::Identity,
};

const CLIENT_ID: &str = "demo-under-test";
const SECRET: &str = "a-secret-of-the-demo-0123456789abcdef";
const REDIRECT_URI: &str = "http://127.0.0.1:9/callback";

struct Demo {
    issuer: String,
    browser: Client,
    serving: JoinHandle<()>,
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Demo {
    async fn start(auto_login: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let client = RegisteredClient {
            id: CLIENT_ID.to_owned(),
            secret: SECRET.to_owned(),
            redirect_uris: vec![REDIRECT_URI.to_owned()],
        };
        let router = DemoProvider::new(&issuer, client, auto_login).unwrap().router();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let browser = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { issuer, browser, serving }
    }

    fn relying_party(&self, secret: &str) -> RelyingParty {
        let issuer = Url::parse(&self.issuer).unwrap();
        RelyingParty::new(ProviderOptions {
            client_secrets: ClientSecrets::new([secret]),
            clock_skew: Duration::ZERO,
            claims: vec!["email_verified".to_owned()],
            ..ProviderOptions::new(issuer, CLIENT_ID, REDIRECT_URI)
        })
        .unwrap()
    }

    async fn begin(&self) -> (RelyingParty, Url, LoginAttempt) {
        let relying_party = self.relying_party(SECRET);
        let (url, attempt) =
            relying_party.begin(&AuthorizationOptions::default()).await.expect("discovered");
        (relying_party, url, attempt)
    }

    /// Opens the login form as a browser does and sends it with what it holds.
    async fn submit(&self, url: Url, filled_in: &[(&str, &str)]) -> Response {
        let page = self.browser.get(url).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
        let html = page.text().await.unwrap();
        let mut form = hidden_inputs(&html);
        form.extend(filled_in.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let sent = self.browser.post(format!("{}/authorize", self.issuer)).form(&form);
        sent.send().await.unwrap()
    }

    async fn log_in(&self, url: Url) -> AuthorizationResponse {
        let answer = self.submit(url, &[("username", "bob"), ("password", "bob")]).await;
        callback(&location(&answer))
    }

    /// Calls the token endpoint with exactly this form.
    async fn exchange(&self, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let request = self.browser.post(format!("{}/token", self.issuer));
        let answer = request.basic_auth(CLIENT_ID, Some(SECRET)).form(form).send().await.unwrap();
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
        (answer.status(), answer.json().await.unwrap())
    }
}

/// Names and values of the hidden inputs; the page writes one a line.
fn hidden_inputs(html: &str) -> Vec<(String, String)> {
    let attribute = |line: &str, name: &str| {
        let begin = line.split_once(&format!("{name}=\""))?.1;
        begin.split_once('"').map(|(value, _)| value.replace("&#38;", "&").replace("&amp;", "&"))
    };
    let inputs = html.lines().filter(|line| line.contains("type=\"hidden\""));
    let inputs =
        inputs.filter_map(|line| Some((attribute(line, "name")?, attribute(line, "value")?)));
    let inputs = inputs.collect::<Vec<_>>();
    assert!(inputs.len() >= 7, "{html}");
    inputs
}

fn location(answer: &Response) -> Url {
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let url = Url::parse(answer.headers()[header::LOCATION].to_str().unwrap()).unwrap();
    assert!(url.as_str().starts_with(&format!("{REDIRECT_URI}?")), "{url}");
    url
}

fn callback(url: &Url) -> AuthorizationResponse {
    AuthorizationResponse::parse(url.query().unwrap())
}

fn parameters(url: &Url) -> HashMap<String, String> {
    url.query_pairs().into_owned().collect()
}

fn with(url: &Url, name: &str, value: Option<&str>) -> Url {
    let mut changed = url.clone();
    let kept = url.query_pairs().filter(|(key, _)| key != name).collect::<Vec<_>>();
    changed.query_pairs_mut().clear().extend_pairs(kept);
    if let Some(value) = value {
        changed.query_pairs_mut().append_pair(name, value);
    }
    changed
}

#[tokio::test]
async fn the_whole_code_flow_works_with_the_form() {
    let demo = Demo::start(false).await;
    let (relying_party, url, attempt) = demo.begin().await;
    let query = demo.log_in(url).await;
    let identity = relying_party.finish(attempt, query).await.unwrap();
    assert_eq!(identity.subject, "bob");
    assert_eq!(identity.display_name(), "Bob Cratchit");
    assert_eq!(identity.claims["email"], "bob@example.com");
    assert_eq!(identity.claims["email_verified"], true);
}

#[tokio::test]
async fn the_form_is_skipped_only_when_asked_for() {
    let demo = Demo::start(true).await;
    let (relying_party, url, attempt) = demo.begin().await;
    let answer = demo.browser.get(with(&url, "login_hint", Some("carol"))).send().await.unwrap();
    let identity = relying_party.finish(attempt, callback(&location(&answer))).await.unwrap();
    assert_eq!(identity.subject, "carol");
}

#[tokio::test]
async fn a_wrong_password_shows_the_form_again() {
    let demo = Demo::start(false).await;
    for (username, password) in
        [("alice", "bob"), ("mallory", "mallory"), ("", ""), ("alice", ""), ("<b>\"", "x")]
    {
        let (_, url, _) = demo.begin().await;
        let filled_in = [("username", username), ("password", password)];
        let answer = demo.submit(url, &filled_in).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{username}");
        assert!(!answer.headers().contains_key(header::LOCATION));
        let html = answer.text().await.unwrap();
        assert!(html.contains("role=\"alert\""));
        assert!(!html.contains("<b>"), "the name is not escaped");
    }
}

#[tokio::test]
async fn cancelling_tells_the_relying_party() {
    let demo = Demo::start(false).await;
    let (relying_party, url, attempt) = demo.begin().await;
    let answer = demo.submit(url, &[("action", "cancel")]).await;
    let result = relying_party.finish(attempt, callback(&location(&answer))).await;
    let Err(error) = result else { panic!("{result:?}") };
    assert_eq!(error.failure().error, "access_denied");
}

/// The token endpoint's error.
fn refusal(result: &Result<Identity, LoginError>) -> Option<&str> {
    result.as_ref().err()?.provider.as_ref().map(|provider| provider.code.as_str())
}

#[tokio::test]
async fn a_code_is_good_for_once_only() {
    let demo = Demo::start(false).await;
    let (relying_party, url, attempt) = demo.begin().await;
    let query = demo.log_in(url).await;
    relying_party.finish(attempt.clone(), query.clone()).await.unwrap();
    let result = relying_party.finish(attempt, query).await;
    assert_eq!(refusal(&result), Some("invalid_grant"), "{result:?}");
}

#[tokio::test]
async fn a_code_is_good_with_its_verifier_and_redirect_uri_only() {
    let demo = Demo::start(false).await;
    let (relying_party, url, attempt) = demo.begin().await;
    let other = demo.begin().await.2;
    // The code of one attempt injected into the other, whose verifier is another.
    let answer = demo.submit(url, &[("username", "bob"), ("password", "bob")]).await;
    let landed = location(&answer);
    let query = callback(&with(&landed, "state", Some(other.state())));
    let result = relying_party.finish(other, query).await;
    assert_eq!(refusal(&result), Some("invalid_grant"), "{result:?}");
    // That spent the code for its owner as well.
    let result = relying_party.finish(attempt, callback(&landed)).await;
    assert_eq!(refusal(&result), Some("invalid_grant"), "{result:?}");

    let (relying_party, url, attempt) = demo.begin().await;
    let query = demo.log_in(url).await;
    let elsewhere = "http://127.0.0.1:9/elsewhere";
    let result = relying_party.finish_at(elsewhere, attempt, query).await;
    assert_eq!(refusal(&result), Some("invalid_grant"), "{result:?}");
}

#[tokio::test]
async fn a_client_with_a_wrong_secret_gets_nothing() {
    let demo = Demo::start(false).await;
    let stranger = demo.relying_party("wrong-secret");
    let (url, attempt) = stranger.begin(&AuthorizationOptions::default()).await.unwrap();
    let query = demo.log_in(url).await;
    let result = stranger.finish(attempt.clone(), query.clone()).await;
    assert_eq!(refusal(&result), Some("invalid_client"), "{result:?}");
    // A stranger cannot spend the code.
    assert!(demo.relying_party(SECRET).finish(attempt, query).await.is_ok());
}

#[tokio::test]
async fn an_unknown_client_or_redirect_uri_is_not_redirected() {
    let demo = Demo::start(true).await;
    let (_, url, _) = demo.begin().await;
    let wrong = [
        ("client_id", Some("another")),
        ("client_id", None),
        ("redirect_uri", None),
        ("redirect_uri", Some("https://evil.example/callback")),
        ("redirect_uri", Some("http://127.0.0.1:9/callback/")),
        ("redirect_uri", Some("http://127.0.0.1:9/callback?x=1")),
        ("redirect_uri", Some("http://127.0.0.1:9/Callback")),
    ];
    for (name, value) in wrong {
        let bad = with(&url, name, value);
        let form = parameters(&bad);
        let form = demo.browser.post(format!("{}/authorize", demo.issuer)).form(&form);
        for request in [demo.browser.get(bad.clone()), form] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name}={value:?}");
            assert!(!answer.headers().contains_key(header::LOCATION), "{name}={value:?}");
        }
    }
}

#[tokio::test]
async fn an_unacceptable_request_is_sent_back_with_its_error() {
    let demo = Demo::start(true).await;
    let (_, url, attempt) = demo.begin().await;
    let wrong = [
        ("response_type", Some("token"), "unsupported_response_type"),
        ("response_type", None, "unsupported_response_type"),
        ("scope", Some("profile"), "invalid_scope"),
        ("code_challenge", None, "invalid_request"),
        ("code_challenge", Some("short"), "invalid_request"),
        ("code_challenge_method", Some("plain"), "invalid_request"),
        ("code_challenge_method", None, "invalid_request"),
    ];
    for (name, value, error) in wrong {
        let answer = demo.browser.get(with(&url, name, value)).send().await.unwrap();
        let answered = parameters(&location(&answer));
        assert_eq!(answered["error"], error, "{name}={value:?}");
        assert_eq!((answered["state"].as_str(), &answered["iss"]), (attempt.state(), &demo.issuer));
        assert!(!answered.contains_key("code"), "{name}={value:?}");
    }
}

#[tokio::test]
async fn the_token_endpoint_refuses_what_is_not_a_code_exchange() {
    let demo = Demo::start(true).await;
    let refused = demo.exchange(&[("grant_type", "password"), ("username", "bob")]).await;
    assert_eq!(refused, (StatusCode::BAD_REQUEST, json!({"error": "unsupported_grant_type"})));
    let refused = demo.exchange(&[("grant_type", "authorization_code"), ("code", "guess")]).await;
    assert_eq!(refused, (StatusCode::BAD_REQUEST, json!({"error": "invalid_grant"})));
    let answer = demo.browser.post(format!("{}/token", demo.issuer));
    let answer = answer.form(&[("grant_type", "authorization_code")]).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
}

#[test]
fn the_pane_names_every_user() {
    let pane = include_str!("../../static/demo/index.html");
    for user in crate::demo::provider::usernames() {
        assert!(pane.contains(&format!("<b>{user}</b>")), "{user}");
    }
}

#[tokio::test]
async fn discovery_and_keys_are_public_and_hold_nothing_private() {
    let demo = Demo::start(false).await;
    let read = async |path: &str| {
        let answer = demo.browser.get(format!("{}{path}", demo.issuer)).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let metadata = read("/.well-known/openid-configuration").await;
    assert_eq!(metadata["issuer"], demo.issuer);
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    let key = &read("/jwks").await["keys"][0];
    assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")));
    assert!(key.get("d").is_none(), "the private key is published");

    let userinfo = demo.browser.get(format!("{}/userinfo", demo.issuer));
    let answer = userinfo.bearer_auth("guess").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn a_variable_that_says_so_is_off() {
    for off in [None, Some(""), Some(" "), Some("0"), Some("false"), Some("No"), Some("off")] {
        assert!(!super::is_on(off), "{off:?}");
    }
    for on in ["1", "true", "yes", "on", "alice"] {
        assert!(super::is_on(Some(on)), "{on}");
    }
}
