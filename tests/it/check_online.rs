//! `check-config --online` at a real provider and a real Redis, each with the faults that operators
//! make, and what `/readyz` says of them.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    Process, client, free_port,
    provider::OidcProvider,
    redis::{Server, command, eventually, tls_server},
    text,
};

const PUBLIC_URL: &str = "https://relay.example";

async fn check(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_token-relay"));
    command.args(["check-config", "--online"]).args(arguments).env_clear();
    command.envs(environment.iter().copied()).output().await.unwrap()
}

/// Exit status and findings: severity, what was looked at, text.
async fn findings(environment: &[(&str, &str)]) -> (Option<i32>, Vec<[String; 3]>) {
    let output = check(&["--json"], environment).await;
    let parsed: Result<Vec<Value>, _> = serde_json::from_slice(&output.stdout);
    let found = parsed.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let found = found
        .iter()
        .map(|one| ["severity", "check", "text"].map(|name| text(one, name).to_owned()));
    (output.status.code(), found.collect())
}

/// The texts of one severity.
fn of<'f>(found: &'f [[String; 3]], severity: &str) -> Vec<&'f str> {
    let fits = found.iter().filter(|[own, ..]| own == severity);
    fits.map(|[_, _, text]| text.as_str()).collect()
}

async fn registered(provider: &OidcProvider) {
    let uris = [format!("{PUBLIC_URL}/callback"), format!("{PUBLIC_URL}/api/v1.0/callback/")];
    provider.tell("client", json!({"redirect_uris": uris}).to_string()).await;
}

#[tokio::test]
async fn what_fits_is_confirmed_and_what_does_not_is_named() {
    let provider = OidcProvider::start();
    registered(&provider).await;
    let public_url = ("TOKEN_RELAY_PUBLIC_URL", PUBLIC_URL);
    let with = |more: &[(&'static str, &'static str)]| -> Vec<(String, String)> {
        let all = [&provider.settings()[..], &[public_url], more].concat();
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let run = async |more: &[(&'static str, &'static str)]| {
        let owned = with(more);
        let environment: Vec<_> =
            owned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        findings(&environment).await
    };

    let (code, found) = run(&[]).await;
    assert_eq!(code, Some(0), "{found:#?}");
    for expected in [
        "discovered http://127.0.0.1:",
        "to be registered at the provider: https://relay.example/callback",
        "takes a request that comes back to https://relay.example/callback",
        "the provider accepts the client",
        "client_secret_basic",
        "sessions are in the memory of one process",
    ] {
        assert!(of(&found, "note").iter().any(|text| text.contains(expected)), "{found:#?}");
    }

    // What the operator did wrong, the exit status, the severity, and what is said of it.
    type Settings = &'static [(&'static str, &'static str)];
    let cases: [(Settings, i32, &str, &str); 8] = [
        (
            &[("TOKEN_RELAY_OIDC_CLIENT_SECRET", "another secret, not the registered one")],
            1,
            "error",
            "invalid_client",
        ),
        (&[("TOKEN_RELAY_OIDC_CLIENT_ID", "unknown")], 1, "error", "HTTP 400"),
        (
            &[("TOKEN_RELAY_PUBLIC_URL", "https://elsewhere.example")],
            1,
            "error",
            "is https://elsewhere.example/callback registered",
        ),
        (
            &[("TOKEN_RELAY_OIDC_SCOPES", "openid profile offline")],
            3,
            "warning",
            "`offline` of OIDC_SCOPES is not in scopes_supported",
        ),
        (&[("TOKEN_RELAY_OIDC_PKCE", "false")], 1, "warning", "OIDC_PKCE=false leaves it out"),
        (
            &[("TOKEN_RELAY_OIDC_AUTH_PARAMS", "response_mode=form_post&acr_values=x")],
            0,
            "note",
            "the provider accepts the client",
        ),
        (
            &[("TOKEN_RELAY_OIDC_SIGNING_ALGORITHMS", "HS512")],
            1,
            "error",
            "none of the algorithms that the relay accepts",
        ),
        (
            &[("TOKEN_RELAY_OIDC_REQUIRED_CLAIMS", "hd=example.org")],
            3,
            "warning",
            "`hd` of OIDC_REQUIRED_CLAIMS is not in claims_supported",
        ),
    ];
    for (settings, status, severity, expected) in cases {
        let (code, found) = run(settings).await;
        assert_eq!(code, Some(status), "{settings:?} {found:#?}");
        let texts = of(&found, severity);
        assert!(texts.iter().any(|text| text.contains(expected)), "{settings:?} {found:#?}");
        let all = format!("{found:?}");
        assert!(!all.contains("not the registered one") && !all.contains("of the tests alone"));
    }

    // Both surfaces have addresses to register.
    let meet = [
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "https://meet.example"),
        ("ADDONS_CSRF_SECRET", crate::support::MEET_KEY),
        ("ADDONS_TOKEN_SECRET_KEY", crate::support::MEET_KEY),
    ];
    let (_, found) = run(&meet).await;
    for path in ["callback/", "logout-callback/"] {
        let url = format!("https://relay.example/api/v1.0/{path}");
        assert!(of(&found, "note").iter().any(|text| text.ends_with(&url)), "{found:#?}");
    }
    assert!(of(&found, "error").is_empty(), "{found:#?}");

    // For people: one line each.
    let owned = with(&[]);
    let environment: Vec<_> =
        owned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = check(&[], &environment).await;
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.lines().all(|line| line.starts_with("note ")), "{shown}");
    assert!(shown.lines().count() > 5, "{shown}");
}

#[tokio::test]
async fn a_provider_that_cannot_be_discovered_is_an_error() {
    let provider = OidcProvider::start();
    let elsewhere = format!("{}/realms/main", provider.issuer);
    for issuer in ["http://127.0.0.1:9", elsewhere.as_str()] {
        let environment =
            [("TOKEN_RELAY_OIDC_ISSUER", issuer), ("TOKEN_RELAY_OIDC_CLIENT_ID", "relay")];
        let (code, found) = findings(&environment).await;
        assert_eq!(code, Some(1), "{found:#?}");
        let [error] = of(&found, "error")[..] else { panic!("{found:#?}") };
        assert!(error.starts_with("discovery: "), "{error}");
        // The address was made of LISTEN.
        assert!(of(&found, "warning")[0].contains("PUBLIC_URL"), "{found:#?}");
    }
}

#[tokio::test]
async fn a_redis_that_sessions_cannot_use_is_named_with_what_is_missing() {
    let provider = OidcProvider::start();
    registered(&provider).await;
    let server = Server::start(&[]).await;
    let hand = server.client().await;
    let locked = Server::start(&["--requirepass", "secret"]).await;
    let (tls, authority) = tls_server().await;
    let replica = Server::start(&[]).await;
    let second = replica.client().await;
    command(&second, &["REPLICAOF", "127.0.0.1", &server.port.to_string()]).await;
    let mut cases = vec![
        (server.url(), None),
        (replica.url(), Some("readiness check")),
        (format!("redis://127.0.0.1:{}", free_port()), Some("Connection refused")),
        (format!("redis://:word@127.0.0.1:{}", locked.port), Some("WRONGPASS")),
        (format!("redis://localhost:{}", tls.port), Some("speaks TLS, the URL needs rediss:")),
        (
            format!("rediss://localhost:{}?ca={authority}", server.port),
            Some("without TLS, the URL needs redis:"),
        ),
        (format!("rediss://127.0.0.2:{}?ca={authority}", tls.port), Some("NotValidForName")),
    ];
    for (missing, step) in [
        ("-@scripting", "readiness check"),
        ("-publish", "readiness check"),
        // Readiness may notice it first.
        ("-subscribe", "subscri"),
        ("-exists", "readiness check"),
        ("-del", "readiness check"),
        ("-get", "readiness check"),
    ] {
        let name = format!("without{}", missing.trim_start_matches(['-', '@']));
        let rule = ["ACL", "SETUSER", &name, "on", ">word", "~*", "&*", "+@all", missing];
        command(&hand, &rule).await;
        cases.push((format!("redis://{name}:word@127.0.0.1:{}", server.port), Some(step)));
    }
    for (url, step) in cases {
        let shared = [
            ("TOKEN_RELAY_PUBLIC_URL", PUBLIC_URL),
            ("TOKEN_RELAY_REDIS_URL", url.as_str()),
            ("TOKEN_RELAY_REDIS_TIMEOUT", "500ms"),
            ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
            ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
            ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
            ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ];
        let (code, found) = findings(&[&provider.settings()[..], &shared].concat()).await;
        let errors = of(&found, "error");
        match step {
            None => assert_eq!((code, errors.len()), (Some(0), 0), "{found:#?}"),
            Some(step) => {
                assert_eq!(code, Some(1), "{url}: {found:#?}");
                assert!(errors.len() == 1 && errors[0].contains(step), "{url}: {found:#?}");
                assert!(!errors[0].contains(":word@"), "{errors:?}");
            }
        }
    }
    // What was tried is gone.
    let left = command(&hand, &["KEYS", "*{*}*"]).await.into_array();
    for key in left {
        let name = key.as_string().unwrap();
        let ttl = command(&hand, &["PTTL", &name]).await.as_i64().unwrap();
        assert!((0..=70_000).contains(&ttl), "{name} stays for {ttl} ms");
    }
}

#[tokio::test]
async fn readiness_says_what_does_not_fit() {
    let provider = OidcProvider::start();
    let scopes = ("TOKEN_RELAY_OIDC_SCOPES", "openid profile offline");
    let relay = provider.relay(&[scopes]).await;
    let ready = async |relay: &Process| -> Value {
        client().get(format!("{}/readyz", relay.url)).send().await.unwrap().json().await.unwrap()
    };
    eventually("the provider is discovered", || async {
        ready(&relay).await["provider"] == "discovered"
    })
    .await;
    let answer = ready(&relay).await;
    assert_eq!(answer["status"], "ready");
    let warnings = answer["provider_warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().contains("`offline`"), "{answer}");
    eventually("the log has it", || async { relay.log().contains("`offline`") }).await;
}
