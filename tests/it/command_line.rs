//! The command line: settings that are wrong, shown and documented.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::ffi::OsStrExt as _,
    process::{Command, Output},
};

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
        let shared = [
            ("TOKEN_RELAY_REDIS_URL", url),
            ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
            ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
            ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
            ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ];
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
    let wrong = [&PROVIDER[..], &[("TOKEN_RELAY_LOG", "token_relay=loud")]].concat();
    let output = run(&["serve"], &wrong);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("TOKEN_RELAY_LOG"), "{}", stderr(&output));
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
    assert!(line("heartbeat").ends_with("30s  (environment TOKEN_RELAY_HEARTBEAT)"), "{shown}");
    assert!(line("session_ttl").ends_with(&format!("5m  (file {file}, line 2)")), "{shown}");
    let hidden = format!("(set, redacted)  (secret file {secret})");
    assert!(line("oidc_client_secret").ends_with(&hidden), "{shown}");
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
    let output = run(&["healthcheck"], &environment);
    assert!(!output.status.success(), "nobody answers there");
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
