//! The command line: settings that are wrong, shown and documented.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

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
    assert!(!output.status.success());
    assert!(stderr(&output).contains("SIGNING_KEY"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("confidential"));
}

#[test]
fn check_config_hides_secrets() {
    let secret = ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "confidential");
    let output = run(&["check-config"], &[&PROVIDER[..], &[secret]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("https://login.example") && shown.contains("(set, hidden)"), "{shown}");
    assert!(!shown.contains("confidential"));
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
    let readme = include_str!("../README.md");
    assert!(
        readme.contains(&table),
        "run `token-relay settings` and put its output into README.md"
    );
}

#[test]
fn completions_are_printed() {
    let output = run(&["completions", "bash"], &[]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("token-relay"));
}
