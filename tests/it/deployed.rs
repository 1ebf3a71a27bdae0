//! The files of `deploy/` speak of settings and metrics that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Browser, MEET_KEY, Process, client, create, text};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// All words below `deploy/` that begin with `prefix`, and what follows it.
fn words(prefix: &str, letter: impl Fn(char) -> bool) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let texts = files(&folder).into_iter().map(|path| std::fs::read_to_string(path).unwrap());
    let rest_of_words = texts.flat_map(|text| {
        let rests = text.split(prefix).skip(1);
        rests
            .map(|rest| rest.chars().take_while(|each| letter(*each)).collect())
            .collect::<Vec<_>>()
    });
    rest_of_words.filter(|word: &String| !word.is_empty()).collect()
}

#[tokio::test]
async fn every_metric_named_in_deploy_is_served() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    // Some are only there once a login has ended.
    Browser::default().sign_in(&session, "alice").await;
    let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let named = words("token_relay_", |each| each.is_ascii_lowercase() || each == '_');
    assert!(named.len() >= 7, "{named:?}");
    for name in named {
        let served = metrics.lines().any(|line| {
            let rest = line.strip_prefix("token_relay_").and_then(|line| line.strip_prefix(&name));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(served, "token_relay_{name} is not in {metrics}");
    }
}

/// `promtool` of the search path, or where `./tests/run install` puts it.
fn promtool() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("target/tools/bin/promtool");
    let mut command = if own.exists() { Command::new(own) } else { Command::new("promtool") };
    command.current_dir(root);
    command
}

#[test]
fn the_alerts_are_valid_and_fire_when_they_should() {
    for arguments in [
        ["check", "rules", "deploy/prometheus/alerts.yaml"],
        ["test", "rules", "tests/support/alerts.test.yaml"],
    ] {
        let output = promtool().args(arguments).output();
        let output = output.expect("install promtool: ./tests/run install");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    }
    // None is without a test.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = std::fs::read_to_string(root.join("deploy/prometheus/alerts.yaml")).unwrap();
    let tests = std::fs::read_to_string(root.join("tests/support/alerts.test.yaml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested = alerts
        .filter(|alert| !tests.contains(&format!("alertname=\"{alert}\"")))
        .collect::<Vec<_>>();
    assert_eq!(untested, [""; 0]);
}

#[test]
fn every_setting_named_in_deploy_exists() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_token-relay")).arg("settings").output().unwrap().stdout;
    let table = String::from_utf8(output).unwrap();
    let named = words("TOKEN_RELAY_", |each| each.is_ascii_uppercase() || each == '_');
    assert!(named.len() >= 10, "{named:?}");
    for name in named {
        let row = match name.strip_suffix("_FILE") {
            Some(secret) => format!("| `{secret}``[_FILE]` |"),
            None => format!("| `{name}`"),
        };
        // Only a Kubernetes variable that is mentioned to say that it is none of ours.
        assert!(name == "PORT" || table.contains(&row), "no setting {name}");
    }
}

#[test]
fn systemd_accepts_the_unit() {
    let directory = crate::support::redis::Directory::new();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/token-relay.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let installed = "/usr/local/bin/token-relay";
    assert!(unit.contains(installed));
    // It must be able to find the program.
    let unit = unit.replace(installed, env!("CARGO_BIN_EXE_token-relay"));
    let path = directory.file("token-relay.service");
    std::fs::write(&path, unit).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&path).output();
        output.expect("systemd-analyze runs; install the package systemd")
    };
    let verified = analyze(&["verify", "--man=no"]);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.is_empty(), "{said}");
    // In tenths; what systemd calls "OK" ends at 4.9.
    let exposed = analyze(&["security", "--offline=true", "--threshold=20"]);
    assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
}

/// The processes of `compose.yaml` without containers: two relays, Redis, the provider.
#[tokio::test]
async fn the_provider_of_the_sample_deployment_signs_people_in() {
    let store = crate::support::redis::Server::start(&[]).await;
    let directory = crate::support::redis::Directory::new();
    let secret = directory.file("oidc_client_secret");
    std::fs::write(&secret, "a secret of the tests of 32 characters or more\n").unwrap();
    let [provider_port, first_port, second_port] =
        [(); 3].map(|()| crate::support::redis::free_port());
    let issuer = format!("http://127.0.0.1:{provider_port}");
    // What both relays call themselves; no proxy stands between in this test.
    let public_url = format!("http://127.0.0.1:{first_port}");
    let _provider = Process::start(
        &[
            "demo-provider",
            &format!("--listen=127.0.0.1:{provider_port}"),
            &format!("--issuer={issuer}"),
            &format!("--client-secret-file={secret}"),
            &format!("--redirect-uri={public_url}/callback"),
        ],
        &[],
    );
    let relay = |port: u16| {
        Process::start(
            &["serve"],
            &[
                ("TOKEN_RELAY_LISTEN", &format!("127.0.0.1:{port}")),
                ("TOKEN_RELAY_PUBLIC_URL", &public_url),
                ("TOKEN_RELAY_OIDC_ISSUER", &issuer),
                ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
                ("TOKEN_RELAY_OIDC_CLIENT_SECRET_FILE", &secret),
                ("TOKEN_RELAY_REDIS_URL", &store.url()),
                ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
                ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
                ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
                ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
                ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
            ],
        )
    };
    let (first, second) = (relay(first_port), relay(second_port));
    let session = create(&second.url, None).await;
    let mut events = crate::support::Events::open(
        &text(&session, "events_url").replace(&public_url, &second.url),
        None,
    )
    .await;
    let page = Browser::default().sign_in(&session, "carol").await;
    assert_eq!(page.url.path(), "/addons/success", "{}", first.log());
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

/// Runs a program of the tests' Python environment and returns what it printed.
fn python(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/venv/bin/python");
    assert!(python.exists(), "install the Python packages: ./tests/run install");
    let output = Command::new(python).args(arguments).current_dir(root).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

#[test]
fn the_chart_renders_with_helms_engine_and_the_relay_accepts_its_environment() {
    python(&["deploy/helm/schema.py", "--check"]);
    let printed = python(&["tests/support/helm/render.py"]);
    println!("{printed}");
    let rendered: Rendered = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    let environments = rendered.environments;
    assert_eq!(environments["moved"]["TOKEN_RELAY_MAX_BODY"], "1048576");
    assert_eq!(environments.keys().collect::<Vec<_>>(), ["meet", "moved"]);
    for (name, environment) in environments {
        let output = Command::new(env!("CARGO_BIN_EXE_token-relay"))
            .arg("check-config")
            .env_clear()
            .envs(&environment)
            // Of the Secret that `deploy/meet/relay.yaml` names.
            .envs(
                [("ADDONS_CSRF_SECRET", MEET_KEY), ("ADDONS_TOKEN_SECRET_KEY", MEET_KEY)]
                    .into_iter()
                    .filter(|_| name == "meet"),
            )
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // What `helm test` runs, with this machine in the place of the Service.
    let relay = Process::demo(&[]);
    let healthcheck = |url: &str| {
        let arguments = rendered
            .healthcheck
            .iter()
            .map(|argument| argument.replace("http://demo-token-relay:80", url));
        Command::new(env!("CARGO_BIN_EXE_token-relay")).args(arguments).output().unwrap()
    };
    assert!(rendered.healthcheck[1].starts_with("http://demo-token-relay:80"));
    let ready = healthcheck(&relay.url);
    assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
    drop(relay);
    assert!(!healthcheck("http://127.0.0.1:9").status.success());
}

/// What `tests/support/helm/render.py` prints last.
#[derive(serde::Deserialize)]
struct Rendered {
    environments: BTreeMap<String, BTreeMap<String, String>>,
    /// Arguments of the pod of `helm test`.
    healthcheck: Vec<String>,
}

#[test]
fn compose_declares_one_image_and_hadolint_accepts_the_dockerfile() {
    println!("{}", python(&["tests/support/deploy_files.py"]));
}
