//! The browser login of the Meet-compatible surface at a real provider: silent, repeated, ended at
//! the provider and by it (OpenID Connect RP-Initiated and Back-Channel Logout).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};

use crate::support::{
    Browser, Events, Page, Process, client, create, form_action, free_port, hidden_inputs,
    provider::OidcProvider, redis::eventually, text,
};

/// A relay with the surface, where browsers may return to its own health check.
struct Meet {
    relay: Process,
    return_to: String,
}

impl Meet {
    async fn start(provider: &OidcProvider, more: &[(&str, &str)]) -> Self {
        Self::start_with(provider, more, true).await
    }

    /// `by_session` is whether the provider names its session when it logs somebody out.
    async fn start_with(provider: &OidcProvider, more: &[(&str, &str)], by_session: bool) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let (url, return_to) = (format!("http://{address}"), format!("http://{address}/healthz"));
        let own = [
            ("TOKEN_RELAY_LISTEN", address.as_str()),
            ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
            ("TOKEN_RELAY_MEET_RETURN_TO", return_to.as_str()),
            ("ADDONS_CSRF_SECRET", crate::support::MEET_KEY),
            ("ADDONS_TOKEN_SECRET_KEY", crate::support::MEET_KEY),
            ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
            ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1h"),
        ];
        let settings = [&provider.settings()[..], &own, more].concat();
        let relay = Process::start(&["serve"], &settings);
        let registration = json!({
            "redirect_uris": [format!("{url}/callback"), format!("{url}/api/v1.0/callback/")],
            "post_logout_redirect_uris": [format!("{url}/api/v1.0/logout-callback/")],
            "backchannel_logout_uri": format!("{url}/addons/backchannel_logout"),
            "backchannel_logout_session_required": by_session,
        });
        provider.tell("client", registration.to_string()).await;
        Self { relay, return_to }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1.0/{path}", self.relay.url)
    }

    fn authenticate(&self, more: &str) -> String {
        self.url(&format!("authenticate/?returnTo={}{more}", self.return_to))
    }

    /// Logs the browser in with the provider's form.
    async fn log_in(&self, browser: &Browser) -> Page {
        let login = browser.open(&self.authenticate("")).await;
        assert!(login.body.contains("name=\"password\""), "{} {}", login.url, login.body);
        let page = browser.log_in(&login, "alice", "alice").await;
        assert_eq!(page.url.as_str(), self.return_to, "{:?} {}", page.trail, self.relay.log());
        page
    }

    /// Whether the browser is logged in: `exchange` asks for a CSRF token then, else for a login.
    async fn is_logged_in(&self, browser: &Browser) -> bool {
        let answer = browser.post_from(None, &self.url("addons/sessions/exchange/"), &[]).await;
        match answer.status() {
            StatusCode::UNAUTHORIZED => false,
            StatusCode::FORBIDDEN => true,
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        }
    }
}

/// The last page of a trail at this path, with its query.
fn visited(page: &Page, path: &str) -> Option<Url> {
    let urls = page.trail.iter().map(|url| Url::parse(url).unwrap());
    urls.rev().find(|url| url.path() == path)
}

#[tokio::test]
async fn a_silent_login_asks_nobody_and_always_returns() {
    let provider = OidcProvider::start();
    let meet = Meet::start(&provider, &[]).await;
    let browser = Browser::on_loopback();
    // Nobody is logged in at the provider: `login_required`, and back.
    let page = browser.open(&meet.authenticate("&silent=true")).await;
    assert_eq!(page.url.as_str(), meet.return_to, "{:?}", page.trail);
    let seen = provider.seen("/auth").await.pop().unwrap();
    assert_eq!(seen["prompt"], "none");
    let callback = visited(&page, "/api/v1.0/callback/").unwrap();
    assert!(callback.as_str().contains("error=login_required"), "{callback}");
    assert!(!meet.is_logged_in(&browser).await);
    assert!(!meet.relay.log().contains("login_required"), "it is no failure");
    // Reloaded, it returns again.
    assert_eq!(browser.open(callback.as_str()).await.url.as_str(), meet.return_to);

    meet.log_in(&browser).await;
    assert!(provider.seen("/auth").await.pop().unwrap().get("prompt").is_none());
    assert!(meet.is_logged_in(&browser).await);
    // Now the provider knows the person.
    let page = browser.open(&meet.authenticate("&silent=true")).await;
    assert_eq!(page.url.as_str(), meet.return_to, "{:?}", page.trail);
    assert!(visited(&page, "/api/v1.0/callback/").unwrap().as_str().contains("code="));
    assert!(meet.is_logged_in(&browser).await);

    // A provider that is down keeps nobody from the page, and the log has why. Who wants to log in
    // gets a page with the reference.
    let absent = Meet::start(&provider, &[("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9")]).await;
    let page = Browser::on_loopback().open(&absent.authenticate("&silent=true")).await;
    assert_eq!(page.url.as_str(), absent.return_to, "{:?}", page.trail);
    let page = Browser::on_loopback().open(&absent.authenticate("")).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    let named = || {
        let log = absent.relay.log();
        let rest = log.split("reference=").skip(1);
        let mut references = rest.filter_map(|rest| rest.split_whitespace().next());
        references.any(|one| one.len() > 6 && page.body.contains(one.trim_matches('"')))
    };
    eventually("the log names the reference", || async { named() }).await;
}

#[tokio::test]
async fn a_callback_that_is_repeated_ends_where_the_first_did() {
    let provider = OidcProvider::start();
    let meet = Meet::start(&provider, &[]).await;
    let browser = Browser::on_loopback();
    let login = browser.open(&meet.authenticate("")).await;
    let mut fields = hidden_inputs(&login.body);
    fields.push(("username".to_owned(), "alice".to_owned()));
    fields.push(("password".to_owned(), "alice".to_owned()));
    let mut answer = browser.post_from(None, form_action(&login).as_str(), &fields).await;
    let callback = loop {
        let target = answer.headers()["location"].to_str().unwrap();
        let target = answer.url().join(target).unwrap();
        if target.path() == "/api/v1.0/callback/" {
            break target.to_string();
        }
        answer = browser.get(target.as_str()).await;
    };
    // Two at once while the token endpoint is slow.
    provider.tell("pause", "300".to_owned()).await;
    let (one, two) = tokio::join!(browser.get(&callback), browser.get(&callback));
    for answer in [one, two] {
        assert_eq!(answer.headers()["location"], meet.return_to.as_str(), "{}", meet.relay.log());
    }
    assert_eq!(browser.open(&callback).await.url.as_str(), meet.return_to, "reloaded");
    assert!(meet.is_logged_in(&browser).await);
    assert_eq!(provider.seen("/token").await.len(), 1);
    // Elsewhere it is worth nothing.
    let elsewhere = Browser::on_loopback().open(&callback).await;
    assert_eq!(elsewhere.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn forty_unfinished_logins_do_not_overflow_the_request_head() {
    let provider = OidcProvider::start();
    let meet = Meet::start(&provider, &[]).await;
    let browser = Browser::on_loopback();
    for _ in 0..40 {
        let answer = browser.get(&meet.authenticate("")).await;
        assert_eq!(answer.status(), StatusCode::FOUND);
    }
    meet.log_in(&browser).await;
    assert!(meet.is_logged_in(&browser).await);
}

#[tokio::test]
async fn a_logout_ends_the_login_at_the_provider_and_what_it_granted_everywhere() {
    // With the session at the provider in the logout token, and with the subject alone.
    for (groups, by_session) in [(3, true), (200, true), (3, false)] {
        let provider = OidcProvider::start();
        // An ID token that does not fit into a cookie is needed for the logout as well.
        provider.tell("groups", json!([groups, 36]).to_string()).await;
        provider.tell("claims-in-id-token", String::new()).await;
        let meet = Meet::start_with(&provider, &[], by_session).await;
        let browser = Browser::on_loopback();
        meet.log_in(&browser).await;

        // An add-in of the native surface, in the same session at the provider.
        let session = create(&meet.relay.url, Some(json!({"bind": true}))).await;
        let token = text(&session, "session_token").to_owned();
        let mut events = Events::open(text(&session, "events_url"), Some(&token)).await;
        let page = browser.open(text(&session, "transit_url")).await;
        assert_eq!(page.url.path(), "/addons/success", "{:?} {}", page.trail, meet.relay.log());
        let granted = events.next().await.unwrap().data;
        let refresh = async |refresh_token: &str| {
            let request = client()
                .post(format!("{}/addons/token", meet.relay.url))
                .basic_auth(text(&session, "session_id"), Some(&token))
                .form(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token)]);
            let answer = request.send().await.unwrap();
            (answer.status(), answer.json::<Value>().await.unwrap())
        };
        let (status, granted) = refresh(text(&granted, "refresh_token")).await;
        assert_eq!(status, StatusCode::OK);

        // The logout goes to the provider, which asks, tells the relay, and sends the browser back.
        let asks = browser.open(&meet.url(&format!("logout/?returnTo={}", meet.return_to))).await;
        assert_eq!(asks.url.path(), "/session/end", "{:?} {}", asks.trail, asks.body);
        assert_eq!(asks.status, StatusCode::OK, "{}", asks.body);
        let sent: std::collections::HashMap<_, _> = asks.url.query_pairs().into_owned().collect();
        assert_eq!(sent["id_token_hint"].split('.').count(), 3);
        assert!(groups < 200 || sent["id_token_hint"].len() > 8_000);
        assert!(sent["post_logout_redirect_uri"].ends_with("/api/v1.0/logout-callback/"));
        assert!(!sent.contains_key("client_id"), "no parameter that is not needed");
        assert!(sent["state"].len() >= 32);
        let mut fields = hidden_inputs(&asks.body);
        fields.push(("logout".to_owned(), "yes".to_owned()));
        let page = browser.submit(form_action(&asks).as_str(), &fields).await;
        assert_eq!(page.url.as_str(), meet.return_to, "{:?}", page.trail);
        assert!(!meet.is_logged_in(&browser).await);

        // The provider's back channel has ended the grant, and with it the access token: at once,
        // or with the next use of the refresh token.
        let me = async || {
            let me = client().get(format!("{}/addons/me", meet.relay.url));
            me.bearer_auth(text(&granted, "access_token")).send().await.unwrap().status()
        };
        let now = if by_session { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(me().await, now);
        let (status, answer) = refresh(text(&granted, "refresh_token")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer} {}", meet.relay.log());
        assert_eq!(answer["error"], "invalid_grant");
        assert_eq!(me().await, StatusCode::UNAUTHORIZED);

        // Where the page returns to is the relay's to say.
        for state in ["", "?state=", "?state=x"] {
            let answer = client().get(meet.url(&format!("logout-callback/{state}"))).send().await;
            assert_eq!(answer.unwrap().status(), StatusCode::BAD_REQUEST);
        }
        // Without a login nobody is sent to the provider.
        let page = browser.open(&meet.url(&format!("logout/?returnTo={}", meet.return_to))).await;
        assert_eq!(page.trail.len(), 2, "{:?}", page.trail);
    }
}

#[tokio::test]
async fn a_logout_stays_local_where_the_operator_wants_it_so() {
    let provider = OidcProvider::start();
    let local = ("TOKEN_RELAY_MEET_PROVIDER_LOGOUT", "false");
    let meet = Meet::start(&provider, &[local]).await;
    let browser = Browser::on_loopback();
    meet.log_in(&browser).await;
    let page = browser.open(&meet.url(&format!("logout/?returnTo={}", meet.return_to))).await;
    assert_eq!((page.url.as_str(), page.trail.len()), (meet.return_to.as_str(), 2));
    assert!(!meet.is_logged_in(&browser).await);
}

#[tokio::test]
async fn a_logout_elsewhere_ends_the_browser_login_here() {
    let provider = OidcProvider::start();
    let meet = Meet::start(&provider, &[]).await;
    let browser = Browser::on_loopback();
    meet.log_in(&browser).await;
    // At the provider itself, without the relay.
    let asks = browser.open(&format!("{}/session/end", provider.issuer)).await;
    let mut fields = hidden_inputs(&asks.body);
    fields.push(("logout".to_owned(), "yes".to_owned()));
    browser.submit(form_action(&asks).as_str(), &fields).await;
    eventually("the relay is told", || async { !meet.is_logged_in(&browser).await }).await;
    meet.log_in(&browser).await;
    assert!(meet.is_logged_in(&browser).await, "a later login counts");
}

#[tokio::test]
async fn a_logout_token_that_is_not_to_be_believed_ends_nothing() {
    let provider = OidcProvider::start();
    let meet = Meet::start(&provider, &[]).await;
    let browser = Browser::on_loopback();
    meet.log_in(&browser).await;
    let url = format!("{}/addons/backchannel_logout", meet.relay.url);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!(
        "{}.{}.",
        part(json!({"alg": "none", "typ": "logout+jwt"})),
        part(json!({
            "iss": provider.issuer, "aud": "token-relay", "sub": "alice", "iat": 2_000_000_000,
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        }))
    );
    for form in [vec![], vec![("logout_token", "x")], vec![("logout_token", unsigned.as_str())]] {
        let answer = client().post(&url).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.json::<Value>().await.unwrap()["error"], "invalid_request");
    }
    let answer = client().post(&url).json(&json!({})).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(meet.is_logged_in(&browser).await);
}

#[tokio::test]
async fn proconnect_gets_the_parameters_that_it_lists_and_no_others() {
    const SECRET: &str = "s+/=:%~ecret-of-the-tests-of-32-characters-or-more";
    let address = format!("127.0.0.1:{}", free_port());
    let (url, return_to) = (format!("http://{address}"), format!("http://{address}/healthz"));
    let provider = OidcProvider::configured(&json!({
        "configuration": "proconnect",
        "secret": SECRET,
        "redirectUris": [format!("{url}/callback"), format!("{url}/api/v1.0/callback/")],
        "postLogoutRedirectUris": [format!("{url}/api/v1.0/logout-callback/")],
    }));
    let settings = [
        ("TOKEN_RELAY_LISTEN", address.as_str()),
        ("TOKEN_RELAY_OIDC_ISSUER", provider.issuer.as_str()),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
        ("TOKEN_RELAY_OIDC_CLIENT_SECRET", SECRET),
        ("TOKEN_RELAY_OIDC_CLIENT_AUTH", "post"),
        ("TOKEN_RELAY_OIDC_SCOPES", "openid given_name usual_name email uid siret"),
        ("TOKEN_RELAY_OIDC_AUTH_PARAMS", "acr_values=eidas1&siret_hint=13002526500013"),
        ("TOKEN_RELAY_OIDC_PKCE", "false"),
        ("TOKEN_RELAY_OIDC_USERINFO_REQUIRED", "true"),
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", return_to.as_str()),
        // Only userinfo has it, as a signed JWT.
        ("TOKEN_RELAY_MEET_USER_ID_CLAIM", "uid"),
        ("ADDONS_CSRF_SECRET", crate::support::MEET_KEY),
        ("ADDONS_TOKEN_SECRET_KEY", crate::support::MEET_KEY),
        ("TOKEN_RELAY_CONFIRMATION", "never"),
    ];
    let meet = Meet { relay: Process::start(&["serve"], &settings), return_to: return_to.clone() };
    let browser = Browser::on_loopback();
    meet.log_in(&browser).await;
    assert!(meet.is_logged_in(&browser).await);
    let body = json!({"bind": true, "login_hint": "alice@example.com", "prompt": "login"});
    let session = create(&meet.relay.url, Some(body)).await;
    browser.get_with(text(&session, "transit_url"), &[("accept-language", "fr")]).await;
    let login = browser.to_login(&session).await;
    assert!(login.body.contains("name=\"password\""), "{}", login.body);

    let listed = [
        "acr_values",
        "claims",
        "client_id",
        "idp_hint",
        "login_hint",
        "nonce",
        "prompt",
        "redirect_uri",
        "response_type",
        "scope",
        "siret_hint",
        "state",
    ];
    let seen = provider.seen("/auth").await;
    for request in &seen {
        for (name, value) in request.as_object().unwrap() {
            assert!(name == "pathname" || listed.contains(&name.as_str()), "{name}: Y000400");
            let long = name != "state" && name != "nonce" || value.as_str().unwrap().len() >= 32;
            assert!(long, "{name} has fewer than 32 characters");
        }
    }
    let last = seen.last().unwrap();
    for (name, value) in [
        ("siret_hint", "13002526500013"),
        ("acr_values", "eidas1"),
        ("prompt", "login"),
        ("login_hint", "alice@example.com"),
    ] {
        assert_eq!(last[name], value, "{last}");
    }

    let asks = browser.open(&meet.url(&format!("logout/?returnTo={return_to}"))).await;
    assert_eq!(asks.url.path(), "/session/end", "{:?} {}", asks.trail, asks.body);
    let mut sent: Vec<_> = asks.url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    sent.sort();
    assert_eq!(sent, ["id_token_hint", "post_logout_redirect_uri", "state"]);
    let mut fields = hidden_inputs(&asks.body);
    fields.push(("logout".to_owned(), "yes".to_owned()));
    let page = browser.submit(form_action(&asks).as_str(), &fields).await;
    assert_eq!(page.url.as_str(), return_to, "{:?}", page.trail);
}
