//! Names the commit that a release is built from, for `--version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RELAY_COMMIT");
    // Only for what is shipped: a development build would be compiled again after each commit.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = std::env::var("RELAY_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = commit.or_else(packed_from);
    let commit = commit.or_else(|| if is_release { head() } else { Some("development".into()) });
    // Not by the setting-like name: cargo hands it to the tests too, and the relay refuses a
    // TOKEN_RELAY_ variable that is no setting.
    println!("cargo::rustc-env=RELAY_BUILT_FROM={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit of the repository that holds the sources, if there is one.
fn head() -> Option<String> {
    // Another repository may hold an unpacked archive of the sources.
    if !std::path::Path::new(".git").exists() {
        return None;
    }
    // In a linked worktree these are not below `.git`. A path that does not exist would make cargo
    // compile everything again each time.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// The commit that a published crate was packed from, in the file that `cargo package` adds.
fn packed_from() -> Option<String> {
    let file = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = file.split_once("\"sha1\": \"")?;
    rest.get(..12).map(str::to_owned)
}

/// What a git command prints, if it succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
