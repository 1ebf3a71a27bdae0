//! Whole sign-ins (session, stream, token, `/addons/me`) at independent OpenID providers, which the
//! tests install; the matrix of what works, and of what is refused on purpose, is printed.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    Browser, Events, Page, Process, certificate, client, create, form_action, free_port,
    hidden_inputs, text,
};

/// Letters that the two readings of HTTP Basic (RFC 6749 §2.3.1, RFC 7617 alone) differ in.
const SECRET: &str = "s+/=:%~ecret-of-the-tests-of-32-characters-or-more";

/// The claims that a token gets.
const CLAIMS: (&str, &str) = ("TOKEN_RELAY_TOKEN_CLAIMS", "name,email");

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// A running provider, ended when dropped.
struct Provider {
    child: Child,
    /// Kept open: the provider writes notices to it.
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Implementation {
    OidcProvider,
    MockServer,
    DjangoToolkit,
    Authlib,
    Pyop,
    Canaille,
}

impl Implementation {
    fn name(self) -> &'static str {
        match self {
            Self::OidcProvider => "oidc-provider (npm)",
            Self::MockServer => "oauth2-mock-server (npm)",
            Self::DjangoToolkit => "django-oauth-toolkit (PyPI)",
            Self::Authlib => "Authlib (PyPI)",
            Self::Pyop => "pyop (PyPI)",
            Self::Canaille => "canaille (PyPI)",
        }
    }

    fn issuer(self, port: u16) -> String {
        match self {
            Self::DjangoToolkit => format!("http://127.0.0.1:{port}/o"),
            Self::Pyop => format!("https://127.0.0.1:{port}"),
            _ => format!("http://127.0.0.1:{port}"),
        }
    }

    fn start(self, given: &Value) -> Provider {
        let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
        let (program, script, place) = match self {
            Self::OidcProvider => (PathBuf::from("node"), "server.mjs", "provider"),
            Self::MockServer => (PathBuf::from("node"), "mock.mjs", "provider"),
            Self::DjangoToolkit => (python, "django_oauth_toolkit.py", "python_providers"),
            Self::Authlib => (python, "authlib_provider.py", "python_providers"),
            Self::Pyop => (python, "pyop_provider.py", "python_providers"),
            Self::Canaille => (python, "canaille_provider.py", "python_providers"),
        };
        let mut child = Command::new(&program)
            .args([script, &given.to_string()])
            .current_dir(folder(place))
            .env("NODE_NO_WARNINGS", "1")
            .env("AUTHLIB_INSECURE_TRANSPORT", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?}: {error}; run ./tests/run install"));
        let (mut line, mut stdout) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
        stdout.read_line(&mut line).unwrap();
        assert!(
            line.contains("issuer"),
            "{self:?} does not start: {line:?}; run ./tests/run install"
        );
        Provider { child, _stdout: stdout }
    }
}

/// What is expected of a sign-in.
#[derive(Clone, Copy)]
enum Expected {
    /// It works.
    SignedIn,
    /// It is refused; the log has this text.
    Refused(&'static str),
}

use Expected::{Refused, SignedIn};

/// One line of the matrix.
struct Line {
    implementation: Implementation,
    /// The provider's configuration.
    configuration: &'static str,
    /// What the relay is configured with, without the prefix.
    settings: &'static [(&'static str, &'static str)],
    expected: Expected,
}

fn line(
    implementation: Implementation,
    configuration: &'static str,
    settings: &'static [(&'static str, &'static str)],
    expected: Expected,
) -> Line {
    Line { implementation, configuration, settings, expected }
}

/// What came of a line: what `/addons/me` says, or the relay's log.
async fn try_line(
    line: &Line,
    work: &std::path::Path,
    more: &[(&str, String)],
) -> Result<Value, String> {
    let [relay_port, provider_port] = [free_port(), free_port()];
    let relay_url = format!("http://127.0.0.1:{relay_port}");
    let issuer = line.implementation.issuer(provider_port);
    let key_file = work.join("client.pem");
    let certificate_file = work.join("provider.crt");
    let mut environment = vec![
        ("TOKEN_RELAY_LISTEN".to_owned(), format!("127.0.0.1:{relay_port}")),
        ("TOKEN_RELAY_OIDC_ISSUER".to_owned(), issuer),
        ("TOKEN_RELAY_OIDC_CLIENT_ID".to_owned(), "token-relay".to_owned()),
        (CLAIMS.0.to_owned(), CLAIMS.1.to_owned()),
        // Straight to the provider: what comes before is tested elsewhere.
        ("TOKEN_RELAY_LEGACY_SESSIONS".to_owned(), "true".to_owned()),
        ("TOKEN_RELAY_CONFIRMATION".to_owned(), "never".to_owned()),
    ];
    let has_key = line.configuration.contains("private_key_jwt");
    if has_key {
        let file = key_file.to_str().unwrap().to_owned();
        environment.push(("TOKEN_RELAY_OIDC_CLIENT_KEY_FILE".to_owned(), file));
    } else if line.configuration != "public" {
        environment.push(("TOKEN_RELAY_OIDC_CLIENT_SECRET".to_owned(), SECRET.to_owned()));
    }
    if line.implementation == Implementation::Pyop {
        let file = certificate_file.to_str().unwrap().to_owned();
        environment.push(("SSL_CERT_FILE".to_owned(), file));
    }
    for (name, value) in line.settings {
        environment.retain(|(known, _)| *known != format!("TOKEN_RELAY_{name}"));
        environment.push((format!("TOKEN_RELAY_{name}"), (*value).to_owned()));
    }
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let start = || Process::start(&["serve"], &environment);
    let mut given = json!({
        "port": provider_port,
        "configuration": line.configuration,
        "deformation": line.configuration,
        "redirectUris": [format!("{relay_url}/callback")],
        "secret": SECRET,
    });
    if line.configuration.contains("client_secret_post") {
        given["method"] = json!("client_secret_post");
    }
    if line.configuration.starts_with("HS256") {
        given["algorithm"] = json!("HS256");
    }
    if line.implementation == Implementation::Pyop {
        given["certificate"] = json!(certificate_file);
        given["key"] = json!(work.join("provider.key"));
    }
    // A provider that must know the relay's keys is told those that the relay publishes.
    let (relay, _provider) = if has_key {
        let relay = start();
        let keys = client().get(format!("{relay_url}/.well-known/client-jwks.json")).send().await;
        given["jwks"] = keys.unwrap().json().await.unwrap();
        (relay, line.implementation.start(&given))
    } else {
        let provider = line.implementation.start(&given);
        (start(), provider)
    };
    let session = create(&relay.url, None).await;
    let mut events = Events::open(text(&session, "events_url"), None).await;
    let browser = Browser::with(reqwest::Client::builder().tls_danger_accept_invalid_certs(true));
    let mut page = browser.open(text(&session, "transit_url")).await;
    if page.body.contains("name=\"login\"") {
        // The password has a page of its own.
        let mut fields = hidden_inputs(&page.body);
        fields.push(("login".to_owned(), "alice".to_owned()));
        page = browser.submit(form_action(&page).as_str(), &fields).await;
    }
    if page.status == StatusCode::OK && page.body.contains("name=\"password\"") {
        page = browser.log_in(&page, "alice", "alice").await;
    }
    if page.body.contains("name=\"code\"") {
        page = posted(&browser, &page).await;
    }
    if !page.url.as_str().starts_with(&relay_url) {
        return Err(format!("stays at {} {}: {}", page.url.path(), page.status, page.body));
    }
    let event = events.next().await.unwrap();
    match event.name.as_str() {
        "authenticated" => {
            assert_eq!(page.url.path(), "/addons/success", "{:?} {}", page.trail, relay.log());
            let me = client()
                .get(format!("{}/addons/me", relay.url))
                .bearer_auth(text(&event.data, "access_token"))
                .send();
            Ok(me.await.unwrap().json().await.unwrap())
        }
        _ => {
            // Waiting would not help, so the add-in must not be sent to wait.
            assert_eq!(event.data["error"], "server_error", "{event:?} {}", relay.log());
            // The log is written by a thread of its own.
            for _ in 0..100 {
                if relay.log().contains("reason=") {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Err(relay.log())
        }
    }
}

/// Posts the form of `form_post` without any cookie, as browsers do to another site, and goes where
/// that leads.
async fn posted(browser: &Browser, page: &Page) -> Page {
    let fields = hidden_inputs(&page.body);
    let answer = client().post(form_action(page)).form(&fields).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert!(!answer.headers().contains_key("set-cookie"));
    let next = answer.url().join(answer.headers()["location"].to_str().unwrap()).unwrap();
    assert!(!next.as_str().contains("code="), "the code is sealed");
    browser.open(next.as_str()).await
}

/// A folder with the provider's certificate.
fn work_folder(name: &str) -> PathBuf {
    let name = format!("token-relay-providers-{name}-{}", std::process::id());
    let work = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&work).unwrap();
    certificate::make(&work, "provider");
    work
}

#[tokio::test]
async fn sign_ins_work_at_independent_providers() {
    use Implementation::{Authlib, Canaille, DjangoToolkit, MockServer, OidcProvider, Pyop};
    const BASIC_RAW: (&str, &str) = ("OIDC_CLIENT_AUTH", "basic_raw");
    const POST: (&str, &str) = ("OIDC_CLIENT_AUTH", "post");
    const NO_PKCE: (&str, &str) = ("OIDC_PKCE", "false");
    const PROCONNECT_SCOPES: (&str, &str) =
        ("OIDC_SCOPES", "openid given_name usual_name email uid siret");
    let lines = [
        line(OidcProvider, "basic", &[], SignedIn),
        line(OidcProvider, "basic", &[BASIC_RAW], Refused("invalid_request")),
        line(OidcProvider, "post", &[], SignedIn),
        line(OidcProvider, "public", &[], SignedIn),
        line(OidcProvider, "private_key_jwt", &[], SignedIn),
        line(OidcProvider, "par", &[], SignedIn),
        line(OidcProvider, "par_private_key_jwt", &[], SignedIn),
        line(
            OidcProvider,
            "form_post",
            &[("OIDC_AUTH_PARAMS", "response_mode=form_post")],
            SignedIn,
        ),
        line(OidcProvider, "pairwise", &[], SignedIn),
        line(OidcProvider, "es256", &[], SignedIn),
        line(OidcProvider, "es384", &[], SignedIn),
        line(OidcProvider, "eddsa", &[], SignedIn),
        line(OidcProvider, "ps256", &[], SignedIn),
        line(OidcProvider, "hs256", &[], Refused("OIDC_SIGNING_ALGORITHMS=HS256")),
        line(OidcProvider, "hs256", &[("OIDC_SIGNING_ALGORITHMS", "HS256")], SignedIn),
        line(OidcProvider, "signed_userinfo", &[], SignedIn),
        line(
            OidcProvider,
            "proconnect",
            &[
                PROCONNECT_SCOPES,
                ("OIDC_AUTH_PARAMS", "acr_values=eidas1&siret_hint=13002526500013"),
                NO_PKCE,
                ("OIDC_USERINFO_REQUIRED", "true"),
            ],
            SignedIn,
        ),
        // Every parameter that its documentation does not list is refused.
        line(OidcProvider, "proconnect", &[PROCONNECT_SCOPES], Refused("Y000400")),
        line(
            OidcProvider,
            "proconnect_es256",
            &[PROCONNECT_SCOPES, NO_PKCE, ("OIDC_USERINFO_REQUIRED", "true")],
            SignedIn,
        ),
        line(
            OidcProvider,
            "proconnect_hs256",
            &[
                PROCONNECT_SCOPES,
                NO_PKCE,
                ("OIDC_USERINFO_REQUIRED", "true"),
                ("OIDC_SIGNING_ALGORITHMS", "HS256"),
            ],
            SignedIn,
        ),
        line(MockServer, "plain", &[], SignedIn),
        line(MockServer, "claims of other types", &[], SignedIn),
        line(MockServer, "times as text", &[], SignedIn),
        line(MockServer, "fields of other types", &[], SignedIn),
        line(MockServer, "null claims", &[], SignedIn),
        line(MockServer, "further audiences", &[], SignedIn),
        line(MockServer, "foreign audiences", &[], Refused("OIDC_TRUSTED_AUDIENCES")),
        line(MockServer, "foreign audiences", &[("OIDC_TRUSTED_AUDIENCES", "another")], SignedIn),
        line(MockServer, "numeric subject", &[], Refused("a number, not text")),
        line(MockServer, "clock ahead", &[], Refused("OIDC_CLOCK_SKEW")),
        line(MockServer, "clock ahead", &[("OIDC_CLOCK_SKEW", "5m")], SignedIn),
        line(MockServer, "token endpoint of HTML", &[], Refused("403")),
        line(MockServer, "error with status 200", &[], Refused("bad_verification_code")),
        line(DjangoToolkit, "client_secret_basic", &[], SignedIn),
        line(DjangoToolkit, "client_secret_post", &[POST], SignedIn),
        line(DjangoToolkit, "HS256", &[("OIDC_SIGNING_ALGORITHMS", "HS256")], SignedIn),
        line(Authlib, "client_secret_basic", &[BASIC_RAW], SignedIn),
        line(Authlib, "client_secret_basic", &[], SignedIn),
        line(Authlib, "client_secret_post", &[POST], SignedIn),
        line(Canaille, "client_secret_basic", &[], SignedIn),
        line(Canaille, "client_secret_basic", &[BASIC_RAW], SignedIn),
        line(Canaille, "client_secret_post", &[POST], SignedIn),
        line(Pyop, "client_secret_basic, TLS", &[], SignedIn),
        line(Pyop, "client_secret_post, TLS", &[], SignedIn),
    ];
    let work = work_folder("matrix");
    let made = Command::new("openssl")
        .args(["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-out", work.join("client.pem").to_str().unwrap()])
        .status();
    assert!(made.unwrap().success());

    println!("| provider | configuration | settings | outcome |\n| --- | --- | --- | --- |");
    let mut wrong = Vec::new();
    for line in &lines {
        let outcome = try_line(line, &work, &[]).await;
        let settings = line.settings.iter().map(|(name, value)| format!("`{name}={value}`"));
        let settings = settings.collect::<Vec<_>>().join(" ");
        let verdict = match (&outcome, line.expected) {
            (Ok(me), SignedIn) if me["name"] == "Alice Liddell" => "signed in".to_owned(),
            (Err(log), Refused(reason)) if log.contains(reason) => format!("refused: {reason}"),
            (outcome, _) => {
                let name = line.implementation.name();
                wrong.push(format!("{name}, {}, {settings}: {outcome:?}", line.configuration));
                "WRONG".to_owned()
            }
        };
        let name = line.implementation.name();
        println!("| {name} | {} | {settings} | {verdict} |", line.configuration);
    }
    let _ = std::fs::remove_dir_all(&work);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A forward proxy (`tinyproxy`) that writes down what it is asked for.
struct ForwardProxy {
    child: Child,
    url: String,
    log: PathBuf,
}

impl ForwardProxy {
    async fn start(work: &std::path::Path) -> Self {
        let (port, log) = (free_port(), work.join("proxy.log"));
        let settings = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 30\nMaxClients 20\n\
             LogLevel Connect\nLogFile \"{}\"\n",
            log.display()
        );
        let file = work.join("proxy.conf");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("tinyproxy starts; run ./tests/run install");
        crate::support::redis::eventually("the proxy listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self { child, url: format!("http://127.0.0.1:{port}"), log }
    }

    /// What it was asked for since the last time.
    fn requests(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        std::fs::write(&self.log, "").unwrap();
        log.lines().filter(|line| line.contains("Request")).map(str::to_owned).collect()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_back_channel_goes_through_a_forward_proxy() {
    let work = work_folder("proxy");
    let proxy = ForwardProxy::start(&work).await;
    let http = line(Implementation::MockServer, "plain", &[], SignedIn);
    // By CONNECT, and with the certificate of a private authority.
    let https = line(Implementation::Pyop, "client_secret_basic, TLS", &[], SignedIn);
    let all = ("ALL_PROXY", proxy.url.clone());
    for (line, variable, method) in
        [(&http, "HTTP_PROXY", "GET"), (&https, "HTTPS_PROXY", "CONNECT")]
    {
        for settings in [vec![(variable, proxy.url.clone())], vec![all.clone()]] {
            let me = try_line(line, &work, &settings).await.unwrap();
            assert_eq!(me["name"], "Alice Liddell");
            let requests = proxy.requests();
            assert!(requests.iter().any(|line| line.contains(method)), "{requests:?}");
            if method == "GET" {
                for path in ["/.well-known/openid-configuration", "/jwks", "/token"] {
                    let asked = requests.iter().any(|line| line.contains(path));
                    assert!(asked, "{path} in {requests:?}");
                }
            }
        }
        // What is excepted, and what the variable is not for, goes straight.
        let other = if method == "GET" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
        for settings in [
            vec![all.clone(), ("NO_PROXY", "127.0.0.1,login.example".to_owned())],
            vec![(other, proxy.url.clone())],
        ] {
            try_line(line, &work, &settings).await.unwrap();
            assert_eq!(proxy.requests(), Vec::<String>::new(), "{settings:?}");
        }
    }
    let _ = std::fs::remove_dir_all(&work);
}

/// Apple sends the name once, in a field of the form beside the first code, and nowhere else.
#[tokio::test]
async fn the_name_in_the_form_of_the_first_sign_in_is_kept() {
    let port = free_port();
    let address = format!("127.0.0.1:{}", free_port());
    let relay_url = format!("http://{address}");
    let given = json!({
        "port": port, "configuration": "no name", "deformation": "no name",
        "redirectUris": [format!("{relay_url}/callback")], "secret": SECRET,
    });
    let _provider = Implementation::MockServer.start(&given);
    let relay = Process::start(
        &["serve"],
        &[
            ("TOKEN_RELAY_LISTEN", address.as_str()),
            ("TOKEN_RELAY_OIDC_ISSUER", &format!("http://127.0.0.1:{port}")),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_OIDC_CLIENT_SECRET", SECRET),
            ("TOKEN_RELAY_OIDC_AUTH_PARAMS", "response_mode=form_post"),
            CLAIMS,
            ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
        ],
    );
    for (user, name) in [
        (
            Some(r#"{"name":{"firstName":"Ada","lastName":"Lovelace"},"email":"x@evil.example"}"#),
            json!("Ada Lovelace"),
        ),
        (Some("{not json"), Value::Null),
        (None, Value::Null),
    ] {
        let session = create(&relay.url, None).await;
        let browser = Browser::default();
        let mut answer = browser.get(text(&session, "transit_url")).await;
        // The mock sends a query; what Apple posts is made of it.
        let callback = loop {
            let target = answer.headers()["location"].to_str().unwrap();
            let target = answer.url().join(target).unwrap();
            if target.path() == "/callback" {
                break target;
            }
            answer = browser.get(target.as_str()).await;
        };
        let mut form: Vec<(String, String)> = callback.query_pairs().into_owned().collect();
        form.extend(user.map(|user| ("user".to_owned(), user.to_owned())));
        let posted =
            client().post(format!("{relay_url}/callback")).form(&form).send().await.unwrap();
        assert_eq!(posted.status(), StatusCode::SEE_OTHER);
        let next = posted.url().join(posted.headers()["location"].to_str().unwrap()).unwrap();
        assert!(!next.as_str().contains("Lovelace"), "sealed");
        let page = browser.open(next.as_str()).await;
        assert_eq!(page.url.path(), "/addons/success", "{:?} {}", page.trail, relay.log());
        let token: Value =
            client().get(text(&session, "poll_url")).send().await.unwrap().json().await.unwrap();
        let me = client()
            .get(format!("{relay_url}/addons/me"))
            .bearer_auth(text(&token, "access_token"))
            .send();
        let me: Value = me.await.unwrap().json().await.unwrap();
        assert_eq!(me.get("name").cloned().unwrap_or_default(), name, "{me}");
        // The address comes through the browser unsigned.
        assert_ne!(me["email"], "x@evil.example");
    }
}
