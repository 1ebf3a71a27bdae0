//! The command line: settings that are wrong, shown and documented.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::ffi::OsStrExt as _,
    process::{Command, Output, Stdio},
};

use token_relay_client::{Client, SignIn};

use crate::support::Browser;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_token-relay"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const PROVIDER: [(&str, &str); 2] =
    [("TOKEN_RELAY_OIDC_ISSUER", "https://login.example"), ("TOKEN_RELAY_OIDC_CLIENT_ID", "relay")];

#[test]
fn missing_and_wrong_settings_are_named_and_end_with_2() {
    let output = run(&["serve"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("TOKEN_RELAY_OIDC_ISSUER: required"), "{}", stderr(&output));
    let wrong = [&PROVIDER[..], &[("TOKEN_RELAY_HEARTBAET", "15s")]].concat();
    let output = run(&["serve"], &wrong);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean TOKEN_RELAY_HEARTBEAT?"), "{}", stderr(&output));
    let output = run(&["serve", "--config", "/no/such/file"], &PROVIDER);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/no/such/file"));
    let weak =
        [&PROVIDER[..], &[("TOKEN_RELAY_SIGNING_KEY", "no PEM at all, but long and confidential")]];
    let output = run(&["serve"], &weak.concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("SIGNING_KEY"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("confidential"));
}

#[test]
fn a_redis_url_that_cannot_be_used_ends_with_2() {
    for url in ["redis://:confidential@localhost:port", "redis-sentinel://:confidential@localhost"]
    {
        let shared = crate::support::shared(url);
        for command in ["serve", "check-config"] {
            let output = run(&[command], &[&PROVIDER[..], &shared].concat());
            assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
            assert!(stderr(&output).contains("REDIS_URL: expected"), "{}", stderr(&output));
            assert!(!stderr(&output).contains("confidential"));
        }
    }
}

#[test]
fn trust_anchors_that_cannot_be_read_are_named_and_end_with_2() {
    let folder = std::env::temp_dir().join(format!("token-relay-trust-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let garbage = "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    let files = [
        "/no/such/file".to_owned(),
        folder.to_str().unwrap().to_owned(),
        file("empty.pem", ""),
        file("text.pem", "certificates: see the other file"),
        file("garbage.pem", garbage),
        file("cut.pem", &garbage[..40]),
    ];
    let anchors = files.iter().map(|file| ("SSL_CERT_FILE", file.as_str()));
    for (name, value) in anchors.chain([("SSL_CERT_DIR", "/no/such/folder")]) {
        for command in [&["serve"][..], &["check-config"], &["check-config", "--online"]] {
            let output = run(command, &[&PROVIDER[..], &[(name, value)]].concat());
            assert_eq!(output.status.code(), Some(2), "{command:?} {value} {}", stderr(&output));
            let named = format!("{name}: {value}");
            assert!(stderr(&output).contains(&named), "{command:?} {}", stderr(&output));
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn check_config_hides_secrets() {
    let secret = ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "confidential");
    let output = run(&["check-config"], &[&PROVIDER[..], &[secret]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains("https://login.example") && shown.contains("(set, redacted)"),
        "{shown}"
    );
    assert!(!shown.contains("confidential"));
}

#[test]
fn the_log_level_is_checked_and_foreign_variables_are_left_alone() {
    for wrong in ["token_relay=loud", "verbose", "info,loud", "token_relay=info,,x"] {
        let environment = [&PROVIDER[..], &[("TOKEN_RELAY_LOG", wrong)]].concat();
        for command in ["serve", "check-config"] {
            let output = run(&[command], &environment);
            assert_eq!(output.status.code(), Some(2), "{wrong}");
            let said = stderr(&output);
            assert!(said.contains("TOKEN_RELAY_LOG: expected off, error"), "{said}");
        }
    }
    for right in ["", " ", "WARN", "off", "info,token_relay::relay=trace", "hyper=debug", "audit"] {
        let environment = [&PROVIDER[..], &[("TOKEN_RELAY_LOG", right)]].concat();
        assert!(run(&["check-config"], &environment).status.success(), "{right}");
    }
    let latin1 = OsStr::from_bytes(b"caf\xe9");
    let check = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-relay"));
        command.arg("check-config").env_clear().envs(PROVIDER).env(name, latin1).output().unwrap()
    };
    assert!(check("SHOP").status.success());
    let output = check("TOKEN_RELAY_BRAND_NAME");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("BRAND_NAME: expected text in UTF-8"), "{}", stderr(&output));
}

#[test]
fn the_environment_wins_over_the_file_and_secrets_come_from_files() {
    let folder = std::env::temp_dir().join(format!("token-relay-command-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, secret) = (folder.join("relay.toml"), folder.join("client-secret"));
    std::fs::write(&secret, "confidential\n").unwrap();
    std::fs::write(&file, "heartbeat = '20s'\nsession_ttl = '5m'\ncookie_keys = ''\n").unwrap();
    let (file, secret) = (file.to_str().unwrap(), secret.to_str().unwrap());
    let more = [("TOKEN_RELAY_HEARTBEAT", "30s"), ("TOKEN_RELAY_OIDC_CLIENT_SECRET_FILE", secret)];
    let environment = [&PROVIDER[..], &more].concat();
    let output = run(&["check-config", "--config", file], &environment);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| {
        let found = shown.lines().find(|line| line.split_whitespace().next() == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in {shown}")).to_owned()
    };
    assert!(line("HEARTBEAT").contains("30s  (environment TOKEN_RELAY_HEARTBEAT"), "{shown}");
    assert!(line("SESSION_TTL").ends_with(&format!("5m  (file {file}, line 2)")), "{shown}");
    let hidden = format!("(set, redacted)  (secret file {secret})");
    assert!(line("OIDC_CLIENT_SECRET").ends_with(&hidden), "{shown}");
    assert!(!shown.contains("confidential"));
    // The variable says it as well as `--config`.
    let by_name =
        run(&["check-config"], &[&environment[..], &[("TOKEN_RELAY_CONFIG", file)]].concat());
    assert_eq!(String::from_utf8(by_name.stdout).unwrap(), shown);
    let both = [&environment[..], &[("TOKEN_RELAY_OIDC_CLIENT_SECRET", "confidential")]].concat();
    let output = run(&["check-config", "--config", file], &both);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("OIDC_CLIENT_SECRET_FILE, not both"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("confidential"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_health_check_asks_the_instance_that_is_named_and_nobody_else() {
    let statuses =
        [("200 OK", true), ("503 Service Unavailable", false), ("302 Found\r\nlocation: /", false)];
    for (status, ready) in statuses {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let instance = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = request.next().unwrap().unwrap();
            while !request.next().unwrap().unwrap().is_empty() {}
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
            first
        });
        // A proxy is for the way to the provider.
        let proxy = [("http_proxy", "http://127.0.0.1:9"), ("all_proxy", "http://127.0.0.1:9")];
        let output = run(&["healthcheck", &url], &proxy);
        assert_eq!(output.status.success(), ready, "{}", stderr(&output));
        assert!(instance.join().unwrap().starts_with("GET /readyz HTTP/1.1"));
    }
}

#[test]
fn an_address_in_use_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let environment = [&PROVIDER[..], &[("TOKEN_RELAY_LISTEN", address.as_str())]].concat();
    let output = run(&["serve"], &environment);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&format!("cannot listen on {address}")),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("another program listens there"), "{}", stderr(&output));
    let output = run(&["healthcheck"], &environment);
    assert!(!output.status.success(), "nobody answers there");
}

/// The kernel answers as one that was started with `ipv6.disable=1`, or a container without IPv6.
#[test]
fn a_host_without_ipv6_is_said_with_what_to_do() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (listen, instead) in [("[::]:8471", "0.0.0.0:8471"), ("[::1]:8471", "127.0.0.1:8471")] {
        for name in ["TOKEN_RELAY_LISTEN", "TOKEN_RELAY_METRICS_LISTEN"] {
            let free = ("TOKEN_RELAY_LISTEN", "127.0.0.1:0");
            let environment = [&PROVIDER[..], &[free, (name, listen)]].concat();
            let output = Command::new("python3")
                .arg(root.join("tests/support/without_ipv6.py"))
                .args([env!("CARGO_BIN_EXE_token-relay"), "serve"])
                .env_remove("TOKEN_RELAY_CONFIG")
                .envs(environment)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            let said = format!(
                "cannot listen on {listen}: Address family not supported by protocol (os error 97); \
                 if this host has no IPv6, listen on {instead} instead"
            );
            assert!(stderr(&output).contains(&said), "{}", stderr(&output));
        }
    }
}

#[test]
fn the_readme_lists_every_setting_as_the_program_knows_it() {
    let table = String::from_utf8(run(&["settings"], &[]).stdout).unwrap();
    let readme = include_str!("../../docs/settings.md");
    assert!(
        readme.contains(&table),
        "run `token-relay settings` and put its output into docs/settings.md"
    );
}

#[test]
fn completions_are_printed() {
    let output = run(&["completions", "bash"], &[]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("token-relay"));
}

#[test]
fn keys_are_made_once_for_their_owner_and_the_settings_take_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = std::env::temp_dir().join(format!("token-relay-keys-{}", std::process::id()));
    let path = folder.to_str().unwrap();
    let output = run(&["keys", "--dir", path], &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let files = ["cookie_keys", "sealing_keys", "signing_key"].map(|name| folder.join(name));
    let before = files.each_ref().map(|file| std::fs::read(file).unwrap());
    for file in &files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let names = ["COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY"];
    let names = names.map(|name| format!("TOKEN_RELAY_{name}_FILE"));
    let keys: Vec<_> = std::iter::zip(&names, &files)
        .map(|(name, file)| (name.as_str(), file.to_str().unwrap()))
        .collect();
    let state_file = [("TOKEN_RELAY_STATE_FILE", "/var/lib/token-relay/state")];
    let output = run(&["check-config"], &[&PROVIDER[..], &keys, &state_file].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let output = run(&["check-config"], &[&PROVIDER[..], &keys].concat());
    assert!(stderr(&output).contains("revoked tokens are valid again"), "{}", stderr(&output));

    // One that is missing is not made alone: the others would belong to another deployment.
    std::fs::remove_file(&files[0]).unwrap();
    let output = run(&["keys", "--dir", path], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no key was written"), "{}", stderr(&output));
    assert!(!files[0].exists());
    assert_eq!(std::fs::read(&files[2]).unwrap(), before[2]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_demo_refuses_what_belongs_to_a_deployment() {
    let key = [("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY)];
    for (arguments, environment) in [
        (&["demo", "--no-open", "--listen", "0.0.0.0:0"][..], &[][..]),
        (&["demo", "--no-open", "--listen", "127.0.0.1:0"][..], &key[..]),
    ] {
        let output = run(arguments, environment);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("--allow-production"), "{}", stderr(&output));
        assert!(!stderr(&output).contains(crate::support::COOKIE_KEY));
    }
}

#[test]
fn what_is_harmful_is_said_beside_the_effective_configuration() {
    let never = [("TOKEN_RELAY_CONFIRMATION", "never"), ("TOKEN_RELAY_TRUSTED_PROXIES", "::/0")];
    let output = run(&["check-config"], &[&PROVIDER[..], &never].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    for name in ["CONFIRMATION", "TRUSTED_PROXIES"] {
        let line = format!("warning: TOKEN_RELAY_{name}: ");
        assert!(stderr(&output).contains(&line), "{}", stderr(&output));
    }
}

#[test]
fn check_config_shows_what_was_changed_and_what_is_to_be_registered() {
    let more = [
        ("TOKEN_RELAY_PUBLIC_URL", "https://relay.example/below"),
        ("TOKEN_RELAY_HEARTBEAT", "20s"),
        // The defaults in other words.
        ("TOKEN_RELAY_SESSION_TTL", "900s"),
        ("TOKEN_RELAY_OIDC_PKCE", "yes"),
        ("TOKEN_RELAY_CLIENTS__ADDIN__ORIGINS", "https://addin.example"),
    ];
    let environment = [&PROVIDER[..], &more].concat();
    let output = run(&["check-config", "--changed"], &environment);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    let (settings, register) = shown.split_once("\n\n").unwrap();
    let names: Vec<_> =
        settings.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected =
        ["PUBLIC_URL", "OIDC_ISSUER", "OIDC_CLIENT_ID", "HEARTBEAT", "clients.addin.origins"];
    assert_eq!(names, expected, "{shown}");
    let uri = "Redirect URI to register at the provider: https://relay.example/below/callback\n";
    assert_eq!(register, uri);
    // Without it every setting is there, by the name that the documentation has.
    let all = String::from_utf8(run(&["check-config"], &environment).stdout).unwrap();
    assert!(all.ends_with(uri), "{all}");
    let documented = include_str!("../../docs/settings.md");
    for name in all.lines().take_while(|line| !line.is_empty()) {
        let name = name.split_whitespace().next().unwrap();
        let name = name.strip_prefix("clients.addin.").unwrap_or(name);
        assert!(documented.contains(&format!("| `{name}`")), "{name} is not in docs/settings.md");
    }
}

#[test]
fn what_cannot_be_read_is_the_only_thing_said_and_hints_are_near() {
    let folder = std::env::temp_dir().join(format!("token-relay-unread-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let wrong = folder.join("relay.toml");
    std::fs::write(&wrong, "listen = '127.0.0.1:0'\n\noidc_client_secret = confidential\n")
        .unwrap();
    let wrong = wrong.to_str().unwrap();
    let table = folder.join("table.toml");
    std::fs::write(
        &table,
        "oidc_issuer = 'https://login.example'\noidc_client_id = 'relay'\n[client.x]\n",
    )
    .unwrap();
    let table = table.to_str().unwrap();
    for (file, expected) in [
        ("/no/such/file", "/no/such/file: "),
        (wrong, "not valid TOML at line 3"),
        (table, "client: no such setting; did you mean clients?"),
    ] {
        let output = run(&["check-config", "--config", file], &[]);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
        assert!(!said.contains("confidential"), "{said}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    for (written, hint) in [
        ("HEARTBAET", Some("HEARTBEAT")),
        ("COOKIE_KEY", Some("COOKIE_KEYS")),
        ("MAX_STREAM_PER_SESSIONS", Some("MAX_STREAMS_PER_SESSION")),
        ("OIDC_CLIENT_NAME", None),
        ("OIDC_TOKEN_URL", None),
        ("METRICS_PATH", None),
    ] {
        let name = format!("TOKEN_RELAY_{written}");
        let output = run(&["serve"], &[&PROVIDER[..], &[(name.as_str(), "x")]].concat());
        let said = stderr(&output);
        match hint {
            Some(near) => {
                assert!(said.contains(&format!("did you mean TOKEN_RELAY_{near}?")), "{said}");
            }
            None => assert!(said.contains(written) && !said.contains("did you mean"), "{said}"),
        }
    }
}

#[test]
fn every_form_of_the_list_has_every_setting() {
    let list = |format: &str| {
        String::from_utf8(run(&["settings", "--format", format], &[]).stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&list("json")).unwrap();
    let settings = json.as_array().unwrap();
    let (markdown, toml, env) = (list("markdown"), list("toml"), list("env"));
    assert!(settings.len() > 80, "{}", settings.len());
    for setting in settings {
        let text = |member: &str| setting[member].as_str().unwrap();
        assert!(markdown.contains(&format!("| `{}`", text("name"))), "{setting}");
        let key = text("key").rsplit('.').next().unwrap();
        assert!(
            toml.lines()
                .any(|line| { line.trim_start_matches('#').starts_with(&format!("{key} = ")) }),
            "{setting}"
        );
        let variable = text("variable").replace("<CLIENT_ID>", "MY_ADDIN");
        assert!(
            env.lines()
                .any(|line| { line.trim_start_matches('#').starts_with(&format!("{variable}=")) }),
            "{setting}"
        );
    }
    // systemd unquotes and Docker does not: a value means the same to both where there is nothing to
    // unquote, and no space at an end.
    for line in env.lines().filter(|line| line.contains('=') && !line.starts_with("# ")) {
        let (_, value) = line.split_once('=').unwrap();
        assert!(!value.contains(['"', '\'', '\\', '$', '`']) && value.trim() == value, "{line}");
    }
}

/// Settings in both forms, as they are printed and with every setting uncommented.
#[tokio::test]
async fn the_starter_files_start_a_relay() {
    let uncommented = |file: &str| {
        let lines = file.lines().map(|line| match line.strip_prefix('#') {
            Some(setting)
                if setting.starts_with(|first: char| first.is_alphabetic() || first == '[') =>
            {
                setting
            }
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let list = |format: &str| {
        String::from_utf8(run(&["settings", "--format", format], &[]).stdout).unwrap()
    };
    let folder = std::env::temp_dir().join(format!("token-relay-starter-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let toml = list("toml");
    for (number, content) in [toml.clone(), uncommented(&toml)].into_iter().enumerate() {
        // A port of its own is the one thing that this machine needs.
        let path = folder.join(format!("relay-{number}.toml"));
        std::fs::write(&path, content).unwrap();
        let config = ("TOKEN_RELAY_CONFIG", path.to_str().unwrap());
        let relay = crate::support::Process::start(
            &["serve"],
            &[config, ("TOKEN_RELAY_LISTEN", "127.0.0.1:0")],
        );
        let answer = crate::support::client().get(format!("{}/healthz", relay.url)).send().await;
        assert!(answer.unwrap().status().is_success(), "{}", relay.log());
    }
    let env = list("env");
    for content in [env.clone(), uncommented(&env)] {
        let settings = content.lines().filter(|line| !line.starts_with('#'));
        let settings: Vec<_> = settings.filter_map(|line| line.split_once('=')).collect();
        assert!(settings.len() >= 2, "{content}");
        let output = run(&["check-config", "--changed"], &settings);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_help_says_exit_statuses_the_log_and_where_completions_go() {
    let help = |arguments: &[&str]| String::from_utf8(run(arguments, &[]).stdout).unwrap();
    let program = help(&["--help"]);
    for expected in ["Exit status:", "130", "TOKEN_RELAY_LOG", "TOKEN_RELAY_CONFIG"] {
        assert!(program.contains(expected), "{program}");
    }
    let completions = help(&["completions", "--help"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(completions.contains(&format!("completions {shell} >")), "{completions}");
    }
}

#[tokio::test]
async fn the_demo_says_how_to_try_it() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_token-relay"))
        .args(["demo", "--no-open", "--listen", "127.0.0.1:0", "--provider-listen", "127.0.0.1:0"])
        .env("TOKEN_RELAY_DEMO_AUTO_LOGIN", "")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let said: Vec<_> = lines.take(5).map(Result::unwrap).collect();
    let url = said[0].split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    for (line, expected) in std::iter::zip(
        &said[1..],
        [
            "alice, bob, carol (the password is the name)".to_owned(),
            format!("{url}/outlook/"),
            format!("{url}/docs"),
            format!("token-relay login {url}"),
        ],
    ) {
        assert!(line.ends_with(&expected), "{said:#?}");
    }
    // An empty variable is off: the provider asks who it is.
    let relay = Client::new(url.parse().unwrap()).unwrap();
    let pending = relay.sign_in(&SignIn::default()).await.unwrap();
    let browser = Browser::default();
    let page = browser
        .type_code(
            &browser.open(pending.transit_url().as_str()).await,
            pending.user_code().unwrap(),
        )
        .await;
    assert!(page.body.contains("type=\"password\""), "{}", page.body);
    demo.kill().unwrap();
    demo.wait().unwrap();
}

#[test]
fn login_names_the_relay_that_it_asks() {
    let nobody = format!("http://127.0.0.1:{}/", crate::support::free_port());
    let output = run(&["login", &nobody, "--no-open"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("the relay cannot be reached"), "{said}");
    assert!(said.contains(&format!("({})", nobody.trim_end_matches('/'))), "{said}");
}
