//! New keys and secrets apply while the service runs: on SIGHUP, and when a file changes.

use crate::support::{
    Browser, Events, Process, client, create,
    redis::{self, Directory, eventually},
    signing_key, text,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use token_relay::demo::{DemoProvider, RegisteredClient};

const OLD: &str = crate::support::OLD_KEY;
const NEW: &str = crate::support::NEW_KEY;
const CLIENT_SECRET: &str = "what-the-provider-changed-it-to";

/// Waits until the log says `count` times what came of a reload.
async fn reloaded(relay: &Process, result: &str, count: usize) {
    eventually(&format!("{result} in the log"), || async {
        relay.log().matches(result).count() == count
    })
    .await;
}

const DONE: &str = "changed settings applied";
const FAILED: &str = "reload rejected; previous settings remain active";

async fn get(relay: &Process, path: &str) -> reqwest::Response {
    client().get(format!("{}{path}", relay.url)).send().await.unwrap()
}

/// IDs of the published keys.
async fn published(relay: &Process) -> Vec<String> {
    let keys: Value = get(relay, "/.well-known/jwks.json").await.json().await.unwrap();
    keys["keys"].as_array().unwrap().iter().map(|key| text(key, "kid").to_owned()).collect()
}

async fn reloads(relay: &Process, outcome: &str) -> Option<u64> {
    let name = format!("token_relay_reloads_total{{outcome=\"{outcome}\"}}");
    let metrics = get(relay, "/metrics").await.text().await.unwrap();
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok())
}

/// Signs in; gives the access token.
async fn access_token(relay: &Process) -> String {
    let session = create(&relay.url, None).await;
    let page = Browser::default().sign_in(&session, "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    let answer = client().get(text(&session, "poll_url")).send().await.unwrap();
    text(&answer.json().await.unwrap(), "access_token").to_owned()
}

/// The ID of the key that signed a token.
fn key_of(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    text(&serde_json::from_slice(&header).unwrap(), "kid").to_owned()
}

async fn is_valid(relay: &Process, token: &str) -> bool {
    let answer = client().get(format!("{}/addons/me", relay.url)).bearer_auth(token).send().await;
    match answer.unwrap().status() {
        StatusCode::OK => true,
        StatusCode::UNAUTHORIZED => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_replaced_signing_key_goes_on_verifying_and_the_new_one_signs() {
    let folder = Directory::new();
    let file = folder.file("signing_key");
    let (first, second, third) = (signing_key(), signing_key(), signing_key());
    std::fs::write(&file, &first).unwrap();
    let relay = Process::demo(&[("TOKEN_RELAY_SIGNING_KEY_FILE", &file)]);
    let old_token = access_token(&relay).await;
    let old_key = key_of(&old_token);
    assert_eq!(published(&relay).await, std::slice::from_ref(&old_key));

    // The new key in front, the old one behind it.
    std::fs::write(&file, format!("{second}{first}")).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 1).await;
    relay.logged("SIGNING_KEY").await;
    let new_token = access_token(&relay).await;
    let new_key = key_of(&new_token);
    assert_ne!(new_key, old_key);
    assert_eq!(published(&relay).await, [new_key.clone(), old_key.clone()]);
    assert!(is_valid(&relay, &old_token).await && is_valid(&relay, &new_token).await);

    // Even if the old ones are not named any more: tokens of theirs are still about.
    std::fs::write(&file, &third).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 2).await;
    let newest_token = access_token(&relay).await;
    let newest_key = key_of(&newest_token);
    assert_eq!(published(&relay).await, [newest_key, old_key, new_key]);
    for token in [&old_token, &new_token, &newest_token] {
        assert!(is_valid(&relay, token).await);
    }
    assert_eq!(reloads(&relay, "Succeeded").await, Some(2));
    assert!(!relay.log().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_key_that_never_signed_here_verifies_while_it_is_named() {
    // It is another instance's, which has it in front already.
    let folder = Directory::new();
    let (file, previous) = (folder.file("signing_key"), folder.file("previous"));
    std::fs::write(&file, OLD).unwrap();
    std::fs::write(&previous, NEW).unwrap();
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY_FILE", &file),
        ("TOKEN_RELAY_PREVIOUS_SIGNING_KEY_FILE", &previous),
    ]);
    let other = Process::demo(&[
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", NEW),
        ("TOKEN_RELAY_TOKEN_ISSUER", &relay.url),
        ("TOKEN_RELAY_TOKEN_AUDIENCE", &relay.url),
    ]);
    let token = access_token(&other).await;
    assert!(is_valid(&relay, &token).await);
    // No token of ours lives of it, so it goes with its name.
    std::fs::write(&previous, OLD).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 1).await;
    assert!(!is_valid(&relay, &token).await);
}

#[tokio::test]
async fn a_dialog_outlives_the_rotation_of_the_keys_that_it_was_begun_with() {
    let folder = Directory::new();
    let (cookies, sealing) = (folder.file("cookie_keys"), folder.file("sealing_keys"));
    std::fs::write(&cookies, OLD).unwrap();
    std::fs::write(&sealing, crate::support::SEALING_KEY).unwrap();
    let relay = Process::demo(&[
        ("TOKEN_RELAY_COOKIE_KEYS_FILE", &cookies),
        ("TOKEN_RELAY_SEALING_KEYS_FILE", &sealing),
    ]);
    let begin = async || {
        let session = create(&relay.url, Some(json!({"bind": true}))).await;
        let token = text(&session, "session_token");
        let events = Events::open(text(&session, "events_url"), Some(token)).await;
        let browser = Browser::default();
        let form = browser.to_login(&session).await;
        (events, browser, form)
    };
    let mut dialogs = [begin().await, begin().await].into_iter();
    std::fs::write(&cookies, format!("{NEW}\n{OLD}\n")).unwrap();
    let (new, old) = (crate::support::MEET_KEY, crate::support::SEALING_KEY);
    std::fs::write(&sealing, format!("{new}\n{old}\n")).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 1).await;
    let (mut events, browser, form) = dialogs.next().unwrap();
    let page = browser.log_in(&form, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    assert_eq!(events.next().await.unwrap().name, "authenticated");

    // Without the old key, its cookies mean nothing: the rings really were exchanged.
    std::fs::write(&cookies, NEW).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 2).await;
    let (_events, browser, form) = dialogs.next().unwrap();
    let page = browser.log_in(&form, "alice", "alice").await;
    assert!(page.status.is_client_error(), "{} {}", page.status, page.url);
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_said_without_the_secret() {
    let folder = Directory::new();
    let (signing, clients) = (folder.file("signing_key"), folder.file("clients"));
    std::fs::write(&signing, signing_key()).unwrap();
    std::fs::write(&clients, "api:the secret of the api").unwrap();
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SIGNING_KEY_FILE", &signing),
        ("TOKEN_RELAY_INTROSPECTION_CLIENTS_FILE", &clients),
    ]);
    let token = access_token(&relay).await;
    let before = published(&relay).await;
    // One of the two is fine, and must wait for the other.
    std::fs::write(&clients, "api:another secret of the api").unwrap();
    std::fs::write(&signing, "no key at all, but long and confidential").unwrap();
    relay.signal("HUP");
    reloaded(&relay, FAILED, 1).await;
    relay.logged("SIGNING_KEY: expected a PEM private key").await;
    let log = relay.log();
    assert!(!log.contains("confidential") && !log.contains("secret of the api"), "{log}");
    assert_eq!(published(&relay).await, before);
    assert!(is_valid(&relay, &token).await);
    let introspect = async |secret: &str| {
        let request = client().post(format!("{}/addons/introspect", relay.url));
        let request = request.basic_auth("api", Some(secret)).form(&[("token", &token)]);
        request.send().await.unwrap().status()
    };
    assert_eq!(introspect("the secret of the api").await, StatusCode::OK);
    assert_eq!(introspect("another secret of the api").await, StatusCode::UNAUTHORIZED);
    std::fs::remove_file(&signing).unwrap();
    relay.signal("HUP");
    reloaded(&relay, FAILED, 2).await;
    assert_eq!(reloads(&relay, "Failed").await, Some(2));
    assert_eq!(reloads(&relay, "Succeeded").await, Some(0));

    std::fs::write(&signing, signing_key()).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 1).await;
    assert_eq!(introspect("the secret of the api").await, StatusCode::UNAUTHORIZED);
    assert_eq!(introspect("another secret of the api").await, StatusCode::OK);
    relay.signal("HUP");
    reloaded(&relay, "reload: no setting changed", 1).await;
    assert_eq!(reloads(&relay, "Unchanged").await, Some(1));
}

#[tokio::test]
async fn files_are_watched_behind_the_links_of_kubernetes() {
    // A mounted Secret: the files are links through `..data`, which is exchanged as a whole.
    let folder = Directory::new();
    let volume = folder.path();
    let generation = |name: &str, key: &str| {
        std::fs::create_dir(volume.join(name)).unwrap();
        std::fs::write(volume.join(name).join("signing_key"), key).unwrap();
    };
    let (first, second) = (signing_key(), signing_key());
    generation("..1", &first);
    generation("..2", &format!("{second}{first}"));
    std::os::unix::fs::symlink("..1", volume.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/signing_key", volume.join("signing_key")).unwrap();
    let relay = Process::demo(&[("TOKEN_RELAY_SIGNING_KEY_FILE", &folder.file("signing_key"))]);
    let token = access_token(&relay).await;
    std::os::unix::fs::symlink("..2", volume.join("..data_tmp")).unwrap();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    reloaded(&relay, DONE, 1).await;
    assert_eq!(published(&relay).await.len(), 2);
    assert_ne!(key_of(&access_token(&relay).await), key_of(&token));
    assert!(is_valid(&relay, &token).await);
}

/// A provider in this process, at which `relay` is the client.
async fn provider(relay: &str, secret: &str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let registered = RegisteredClient {
        id: "relay".to_owned(),
        secret: secret.to_owned(),
        redirect_uris: vec![format!("{relay}/callback")],
    };
    let router = DemoProvider::new(&issuer, registered, true).unwrap().router();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    issuer
}

#[tokio::test]
async fn the_client_secret_is_exchanged_and_other_settings_wait_for_a_restart() {
    let folder = Directory::new();
    let (file, secret) = (folder.file("relay.toml"), folder.file("client_secret"));
    std::fs::write(&secret, "what-it-was-before-the-provider-changed-it").unwrap();
    let address = format!("127.0.0.1:{}", redis::free_port());
    let issuer = provider(&format!("http://{address}"), CLIENT_SECRET).await;
    let settings = format!(
        "listen = '{address}'\noidc_issuer = '{issuer}'\noidc_client_id = 'relay'\n\
         oidc_client_secret_file = '{secret}'\nlegacy_sessions = true\n"
    );
    std::fs::write(&file, &settings).unwrap();
    let relay = Process::start(&["serve", "--config", &file], &[]);
    let sign_in = async || {
        let session = create(&relay.url, None).await;
        Browser::default().to_login(&session).await.url.path().to_owned()
    };
    assert_ne!(sign_in().await, "/addons/success", "the provider refuses the secret");
    std::fs::write(&secret, CLIENT_SECRET).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 1).await;
    assert_eq!(sign_in().await, "/addons/success", "{}", relay.log());

    std::fs::write(&file, format!("{settings}heartbeat = '7s'\n")).unwrap();
    relay.signal("HUP");
    reloaded(&relay, "changed settings need a restart", 1).await;
    relay.logged("HEARTBEAT").await;
    std::fs::write(&file, format!("{settings}heartbeat = 'often'\n")).unwrap();
    relay.signal("HUP");
    reloaded(&relay, FAILED, 1).await;
    assert_eq!(sign_in().await, "/addons/success");
}

#[tokio::test]
async fn add_ins_of_the_compatible_surface_keep_their_sessions() {
    let folder = Directory::new();
    let csrf = folder.file("csrf");
    std::fs::write(&csrf, OLD).unwrap();
    let relay = Process::demo(&[
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("TOKEN_RELAY_ADDONS_CSRF_SECRET_FILE", &csrf),
        ("TOKEN_RELAY_ADDONS_TOKEN_SECRET_KEY", OLD),
    ]);
    let at = |name: &str| format!("{}/api/v1.0/addons/sessions/{name}/", relay.url);
    let init = async || {
        let answer = client().post(at("init")).send().await.unwrap();
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let body: Value = answer.json().await.unwrap();
        (cookie, text(&body, "csrf_token").to_owned())
    };
    let poll = async |(cookie, csrf): &(String, String)| {
        let request = client().post(at("poll")).header(header::COOKIE, cookie);
        request.header("x-csrftoken", csrf).send().await.unwrap().status()
    };
    let begun_before = init().await;
    std::fs::write(&csrf, NEW).unwrap();
    relay.signal("HUP");
    reloaded(&relay, DONE, 1).await;
    let begun_after = init().await;
    for session in [&begun_before, &begun_after] {
        assert_eq!(poll(session).await, StatusCode::ACCEPTED);
    }
    // Each was made with its own key.
    let session_id = begun_after.0.strip_prefix("addonsSid=").unwrap();
    let mac = |key: &str| {
        use hmac::Mac as _;
        let mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
        hex::encode(mac.chain_update(session_id).finalize().into_bytes())
    };
    assert_eq!(begun_after.1, mac(NEW));
    assert_ne!(begun_after.1, mac(OLD));
}

#[tokio::test]
async fn a_reload_disturbs_no_open_stream() {
    let folder = Directory::new();
    let file = folder.file("sealing_keys");
    std::fs::write(&file, OLD).unwrap();
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SEALING_KEYS_FILE", &file),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
    ]);
    let mut open = Vec::new();
    for _ in 0..20 {
        let session = create(&relay.url, Some(json!({"bind": true}))).await;
        let token = text(&session, "session_token");
        open.push((Events::open(text(&session, "events_url"), Some(token)).await, session));
    }
    let mut keys = OLD.to_owned();
    for (number, (mut events, session)) in open.into_iter().enumerate() {
        let key = hex::encode(token_relay::session::Digest::of(&[number as u8]).as_bytes());
        keys = format!("{key}\n{keys}");
        std::fs::write(&file, &keys).unwrap();
        relay.signal("HUP");
        let page = Browser::default().to_login(&session).await;
        assert_eq!(page.url.path(), "/addons/success");
        assert_eq!(events.next().await.unwrap().name, "authenticated");
    }
    assert_eq!(reloads(&relay, "Failed").await, Some(0));
    assert!(reloads(&relay, "Succeeded").await >= Some(5));
}
