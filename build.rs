//! Names the commit that a release is built from, for `--version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TOKEN_RELAY_COMMIT");
    // Only for what is shipped: a development build would be compiled again after each commit.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = std::env::var("TOKEN_RELAY_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = commit.or_else(|| if is_release { head() } else { Some("development".into()) });
    // Not by the setting-like name: cargo hands it to the tests too, and the relay refuses a
    // TOKEN_RELAY_ variable that is no setting.
    println!("cargo::rustc-env=RELAY_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit of the repository that holds the sources, if there is one.
fn head() -> Option<String> {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
