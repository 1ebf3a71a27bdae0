//! The files of `deploy/` speak of settings and metrics that exist.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use support::{Browser, Process, client, create, text};

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
    Browser::default().sign_in(text(&session, "transit_url"), "alice").await;
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
    let directory = support::redis::Directory::new();
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
