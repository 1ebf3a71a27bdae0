//! What is published: the archive that `deploy/release` makes, and the crate.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The release of the program that these tests start, in a folder of its own.
fn release(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let program = env!("CARGO_BIN_EXE_token-relay");
    output(
        Command::new(root().join("deploy/release"))
            .args(["--binary", program, "--out"])
            .arg(&folder),
    );
    folder
}

fn archive(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.to_str().unwrap().ends_with("gnu.tar.gz")).expect("an archive")
}

#[test]
fn the_archive_holds_a_program_that_runs_its_manual_and_completions() {
    let folder = release("release");
    let unpacked = folder.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    output(Command::new("tar").arg("xzf").arg(archive(&folder)).arg("-C").arg(&unpacked));
    let top = std::fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    let version = output(Command::new(top.join("token-relay")).arg("--version"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for page in ["token-relay.1", "token-relay-serve.1", "token-relay-check-config.1"] {
        let page = std::fs::read_to_string(top.join("man").join(page)).unwrap();
        assert!(page.contains(".TH token-relay"), "{page}");
    }
    output(Command::new("bash").arg("-n").arg(top.join("completions/token-relay.bash")));
    for file in ["_token-relay", "token-relay.fish", "token-relay.ps1"] {
        let script = std::fs::read_to_string(top.join("completions").join(file)).unwrap();
        assert!(script.contains("check-config"), "{file}");
    }
    for file in ["LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"] {
        assert!(top.join(file).is_file(), "{file}");
    }
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    for end in [".deb\n", ".rpm\n", ".tgz\n", ".cdx.json\n"] {
        assert!(sums.contains(end), "{end} {sums}");
    }
    output(
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&folder),
    );
    let provenance = std::fs::read_to_string(folder.join("PROVENANCE.md")).unwrap();
    let commit = output(Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()));
    assert!(provenance.contains(commit.trim()), "{provenance}");

    let bom = format!("token-relay-{}.cdx.json", env!("CARGO_PKG_VERSION"));
    let bom: Value = serde_json::from_slice(&std::fs::read(folder.join(bom)).unwrap()).unwrap();
    assert_eq!(
        (bom["bomFormat"].as_str(), bom["specVersion"].as_str()),
        (Some("CycloneDX"), Some("1.5"))
    );
    let components = bom["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    let tokio = named("tokio").unwrap();
    assert_eq!(tokio["licenses"][0]["expression"], "MIT");
    assert_eq!(tokio["hashes"][0]["content"].as_str().unwrap().len(), 64);
    assert!(named("proptest").is_none(), "only tests need it");

    let again = release("release-again");
    let bytes = |folder: &Path| std::fs::read(archive(folder)).unwrap();
    assert!(bytes(&folder) == bytes(&again), "the archive is not reproducible");
}

/// The files of a crate as it would be published.
fn packed(name: &str) -> String {
    output(
        Command::new(env!("CARGO"))
            .args(["package", "--package", name, "--list", "--allow-dirty", "--offline"])
            .current_dir(root()),
    )
}

#[test]
fn the_client_crate_holds_its_sources_and_example() {
    for file in packed("token-relay-client").lines() {
        let is_source = ["src/", "examples/"].iter().any(|folder| file.starts_with(folder));
        assert!(is_source || file.starts_with("Cargo.") || file.starts_with(".cargo"), "{file}");
    }
}

#[test]
fn the_crate_holds_what_it_is_built_of_and_nothing_else() {
    let list = packed("token-relay");
    let files: Vec<&str> = list.lines().collect();
    let tracked =
        output(Command::new("git").args(["ls-files", "src", "static"]).current_dir(root()));
    let needed = tracked.lines().filter(|file| {
        !file.starts_with("static/client/test/") && !file.starts_with("static/examples/")
    });
    for file in needed {
        assert!(files.contains(&file), "{file} is missing");
    }
    for file in files {
        let folder = file.split('/').next().unwrap();
        assert!(!["tests", "benches", "deploy", "docs", "target"].contains(&folder), "{file}");
        assert!(!file.contains("node_modules"), "{file}");
    }
}
