//! The samples of `docs/apis.md`, run out of that page: each accepts a token of the relay, and refuses
//! what is none.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};
use token_relay::{
    session::Identity,
    token::{Issuer, SigningKeys, jws},
    util::clock::UnixTime,
};

use crate::support::{Browser, Events, Process, TIMEOUT, client, create, redis, text};

/// As the page has it; the test compares.
#[allow(clippy::disallowed_methods, dead_code, reason = "stands in the documentation as it is")]
#[path = "snippets/authenticate.rs"]
mod in_rust;

const PAGE: &str = include_str!("../../docs/apis.md");
const ISSUER: &str = "https://relay.example";
const AUDIENCE: &str = "https://maps.example";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The sample that the page marks with this name.
fn sample(name: &str) -> &'static str {
    let marked = PAGE.split_once(&format!("<!-- run: {name} -->\n```")).unwrap().1;
    let (_language, rest) = marked.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0
}

/// A relay, its keys in this process too, and tokens: a good one, and others by what is wrong.
struct Tokens {
    relay: Process,
    _folder: redis::Directory,
    good: String,
    bad: Vec<(&'static str, String)>,
    keys: JwkSet,
}

async fn tokens() -> Tokens {
    let folder = redis::Directory::new();
    let file = folder.file("signing.pem");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &file])
        .output()
        .expect("openssl runs; install the package openssl");
    assert!(made.status.success());
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SIGNING_KEY_FILE", &file),
        ("TOKEN_RELAY_TOKEN_ISSUER", ISSUER),
        ("TOKEN_RELAY_CLIENTS__CLI__AUDIENCE", AUDIENCE),
        ("TOKEN_RELAY_CLIENTS__CLI__SCOPE", "maps:read maps:write"),
    ]);
    let session = create(&relay.url, Some(json!({"bind": true, "client_id": "cli"}))).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    Browser::default().sign_in(&session, "alice").await;
    let good = text(&events.next().await.unwrap().data, "access_token").to_owned();

    let pem = std::fs::read(&file).unwrap();
    let own = SigningKeys::from_secret(jsonwebtoken::Algorithm::ES256, &pem).unwrap();
    let foreign = SigningKeys::generate(jsonwebtoken::Algorithm::ES256).unwrap();
    let issuer = || Issuer {
        issuer: ISSUER.to_owned(),
        audience: vec![AUDIENCE.to_owned()],
        client_id: "cli".parse().unwrap(),
        scope: "maps:read".to_owned(),
        ttl: Duration::from_secs(3600),
        claims: Vec::new(),
    };
    let identity = Identity::new("alice", serde_json::Map::new());
    let issue = |issuer: Issuer, keys: &SigningKeys, now| {
        issuer.issue(keys, &identity, now).unwrap().access_token().expose().to_owned()
    };
    let now = UnixTime::now();
    let hours_ago = UnixTime::from_secs(now.as_secs() - 3 * 3600);
    let elsewhere = vec!["https://rooms.example".to_owned()];
    let (head, signature) = good.rsplit_once('.').unwrap();
    let swapped = signature.chars().rev().collect::<String>();
    let bad = vec![
        ("expired", issue(issuer(), &own, hours_ago)),
        ("for another API", issue(Issuer { audience: elsewhere, ..issuer() }, &own, now)),
        (
            "of another issuer",
            issue(Issuer { issuer: "https://evil.example".to_owned(), ..issuer() }, &own, now),
        ),
        (
            "without the scope",
            issue(Issuer { scope: "maps:write".to_owned(), ..issuer() }, &own, now),
        ),
        ("of a foreign key", issue(issuer(), &foreign, now)),
        ("with another signature", format!("{head}.{swapped}")),
        ("of another type", retyped(&good, &pem)),
        ("no token", "x".to_owned()),
    ];
    let keys = client().get(format!("{}/.well-known/jwks.json", relay.url));
    let keys = keys.send().await.unwrap().json().await.unwrap();
    Tokens { relay, _folder: folder, good, bad, keys }
}

/// The same claims, well signed, in a JWT that is no access token.
fn retyped(token: &str, pem: &[u8]) -> String {
    let header = jsonwebtoken::decode_header(token).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    let key = jws::PrivateKey::from_pem(jsonwebtoken::Algorithm::ES256, pem).unwrap();
    let header = jsonwebtoken::Header { typ: Some("JWT".to_owned()), ..header };
    key.sign_compact(&header, &claims).unwrap()
}

/// The page's sample with this test's addresses in place of the page's.
fn adapted(name: &str, replace: &[(&str, &str)]) -> String {
    replace.iter().fold(sample(name).to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} in the sample for {name}");
        text.replace(from, to)
    })
}

/// Runs a program that prints one line for each token: `accepted SUB`, or `refused`.
fn verdicts(tokens: &Tokens, program: &str, folder: &Path, script: &str) -> Vec<String> {
    let all: Vec<&str> = std::iter::once(&tokens.good)
        .chain(tokens.bad.iter().map(|(_, token)| token))
        .map(|token| &**token)
        .collect();
    let output = Command::new(program)
        .arg(script)
        .args(all)
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ./tests/run install"));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed.lines().map(str::to_owned).collect()
}

fn expect(name: &str, tokens: &Tokens, verdicts: &[String]) {
    let mut expected = vec!["accepted alice".to_owned()];
    expected.extend(tokens.bad.iter().map(|_| "refused".to_owned()));
    let wrong: Vec<_> = tokens.bad.iter().map(|(wrong, _)| *wrong).collect();
    println!("{name}: 1 token accepted, {} refused: {}", wrong.len(), wrong.join(", "));
    assert_eq!(verdicts, expected, "{name}: good, {wrong:?}");
}

#[tokio::test]
async fn the_samples_for_node_python_and_rust_accept_good_tokens_only() {
    let tokens = tokens().await;
    let jwks = format!("{}/", tokens.relay.url);
    let folder = redis::Directory::new();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();

    // The issuer's name is the page's; the keys come from this test's relay.
    let node = adapted(
        "node",
        &[(
            "new URL(`${ISSUER}/.well-known/jwks.json`)",
            &format!("new URL('{jwks}.well-known/jwks.json')"),
        )],
    );
    write("sample.mjs", &node);
    write(
        "run.mjs",
        "import { authenticate } from './sample.mjs';\n\
         for (const token of process.argv.slice(2)) {\n\
           try { console.log('accepted', (await authenticate(`Bearer ${token}`, 'maps:read')).sub); }\n\
           catch { console.log('refused'); }\n\
         }\n\
         for (const none of [undefined, '', `Basic ${process.argv[2]}`]) {\n\
           try { await authenticate(none, 'maps:read'); console.log('accepted nothing'); } catch {}\n\
         }\n",
    );
    std::os::unix::fs::symlink(
        root().join("tests/support/oauth_clients/node_modules"),
        folder.path().join("node_modules"),
    )
    .unwrap();
    expect("Node.js (jose)", &tokens, &verdicts(&tokens, "node", folder.path(), "run.mjs"));

    let python = adapted(
        "python",
        &[("f\"{ISSUER}/.well-known/jwks.json\"", &format!("\"{jwks}.well-known/jwks.json\""))],
    );
    write("sample.py", &python);
    write(
        "run.py",
        "import sys\nimport jwt\nfrom sample import authenticate\n\
         for token in sys.argv[1:]:\n\
         \x20   try:\n\
         \x20       print('accepted', authenticate(f'Bearer {token}', 'maps:read')['sub'])\n\
         \x20   except jwt.PyJWTError:\n\
         \x20       print('refused')\n\
         for none in ['', f'Basic {sys.argv[1]}']:\n\
         \x20   try:\n\
         \x20       authenticate(none, 'maps:read')\n\
         \x20       print('accepted nothing')\n\
         \x20   except jwt.PyJWTError:\n\
         \x20       pass\n",
    );
    let interpreter = root().join("target/venv/bin/python");
    let interpreter = interpreter.to_str().unwrap();
    expect("Python (PyJWT)", &tokens, &verdicts(&tokens, interpreter, folder.path(), "run.py"));

    assert_eq!(
        sample("rust"),
        include_str!("snippets/authenticate.rs"),
        "tests/it/snippets/authenticate.rs is the sample of docs/apis.md"
    );
    // This crate's provider of algorithms, which the sample's reader chooses by a feature.
    jws::thumbprint(&tokens.keys.keys[0]).unwrap();
    let verdict = |token: &str| match in_rust::authenticate(
        &format!("Bearer {token}"),
        "maps:read",
        &tokens.keys,
    ) {
        Some(claims) => format!("accepted {}", claims.sub),
        None => "refused".to_owned(),
    };
    let all: Vec<_> = std::iter::once(&tokens.good)
        .chain(tokens.bad.iter().map(|(_, token)| token))
        .map(|token| verdict(token))
        .collect();
    expect("Rust (jsonwebtoken)", &tokens, &all);
    for none in ["", "Bearer", &format!("Basic {}", tokens.good)] {
        assert!(in_rust::authenticate(none, "maps:read", &tokens.keys).is_none(), "{none}");
    }
}

#[tokio::test]
async fn the_sample_for_nginx_lets_the_relay_decide() {
    let tokens = tokens().await;
    let folder = redis::Directory::new();
    let place = folder.path().display().to_string();
    let (port, api) = (redis::free_port(), redis::free_port());
    let sample = adapted(
        "nginx",
        &[
            ("https://relay.example/addons/verify", &format!("{}/addons/verify", tokens.relay.url)),
            ("http://127.0.0.1:3000", &format!("http://127.0.0.1:{api}")),
        ],
    );
    let configuration = folder.file("nginx.conf");
    std::fs::write(
        &configuration,
        format!(
            "daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p;\n\
               fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
               server {{ listen 127.0.0.1:{port};\n{sample}\n}}\n\
               server {{ listen 127.0.0.1:{api};\n\
                 location / {{ return 200 '$http_x_auth_subject|$http_x_auth_scope|$http_authorization'; }}\n\
               }} }}\n"
        ),
    )
    .unwrap();
    let mut nginx = Command::new("nginx")
        .args(["-c", &configuration])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts; install the package nginx");
    let url = format!("http://127.0.0.1:{port}/maps");
    let ask = async |token: Option<&str>| {
        let mut request = client().get(&url).header("x-auth-subject", "admin");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await
    };
    let start = Instant::now();
    while ask(None).await.is_err() {
        assert!(start.elapsed() < TIMEOUT, "nginx does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut verdicts = Vec::new();
    // Which API and which scope, the API decides by the headers.
    let refused = [
        "expired",
        "of another issuer",
        "of a foreign key",
        "with another signature",
        "of another type",
        "no token",
    ];
    let bad = tokens.bad.iter().filter(|(wrong, _)| refused.contains(wrong));
    for token in std::iter::once(&tokens.good).chain(bad.map(|(_, token)| token)) {
        let answer = ask(Some(token)).await.unwrap();
        verdicts.push((answer.status().as_u16(), answer.text().await.unwrap()));
    }
    verdicts.push((ask(None).await.unwrap().status().as_u16(), String::new()));
    nginx.kill().unwrap();
    nginx.wait().unwrap();
    assert_eq!(verdicts[0], (200, "alice|maps:read maps:write|".to_owned()));
    assert!(verdicts[1..].iter().all(|(status, _)| *status == 401), "{verdicts:?}");
    println!("nginx (auth_request): 1 token accepted, {} requests refused", verdicts.len() - 1);
}

#[test]
fn what_is_not_run_says_so() {
    let headings = PAGE.lines().filter(|line| line.starts_with("## "));
    for heading in headings.filter(|heading| heading.contains("Go") || heading.contains("Java")) {
        assert!(heading.ends_with("(not run)"), "{heading}");
    }
    let lines = |name: &str| sample(name).lines().count();
    for name in ["node", "python", "rust", "nginx"] {
        assert!(lines(name) <= 28, "{name}: {} lines", lines(name));
    }
}
