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
    for file in [
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs/deployment.md",
        "deploy/nginx.conf",
        "deploy/systemd/token-relay.service",
    ] {
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

    let bom_file = format!("token-relay-{}.cdx.json", env!("CARGO_PKG_VERSION"));
    let bom = std::fs::read(folder.join(&bom_file)).unwrap();
    let bom: Value = serde_json::from_slice(&bom).unwrap();
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
    let validated = "from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import JsonStrictValidator
import sys; error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()); sys.exit(error and str(error))";
    let python = root().join("target/venv/bin/python");
    output(Command::new(python).args(["-c", validated]).arg(folder.join(bom_file)));

    let crates = ["token-relay", "token-relay-client"];
    for name in crates {
        let file = format!("{name}-{}.crate", env!("CARGO_PKG_VERSION"));
        assert!(sums.contains(&format!("  {file}\n")), "{sums}");
    }
    for end in ["-py3-none-any.whl\n", "token-relay-chart-"] {
        assert!(sums.contains(end), "{end} {sums}");
    }

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

/// What git has below these paths.
fn tracked(paths: &[&str]) -> Vec<String> {
    let listed = output(Command::new("git").arg("ls-files").args(paths).current_dir(root()));
    listed.lines().map(str::to_owned).collect()
}

/// Files that cargo adds by itself.
const BY_CARGO: [&str; 4] = [".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml", "Cargo.toml.orig"];

/// Asserts that the crate has exactly these files beside cargo's own.
fn holds(name: &str, mut wanted: Vec<String>) {
    let list = packed(name);
    // Without a commit there is no file that names it.
    let mut files: Vec<_> = list.lines().filter(|file| !BY_CARGO.contains(file)).collect();
    files.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(files, wanted);
}

#[test]
fn the_client_crate_holds_its_sources_its_example_and_its_licence() {
    let files = tracked(&["client/src", "client/examples", "client/LICENSE"]);
    holds(
        "token-relay-client",
        files.iter().map(|file| file.strip_prefix("client/").unwrap().to_owned()).collect(),
    );
}

#[test]
fn the_crate_holds_what_it_is_built_of_and_nothing_else() {
    let sources = tracked(&["src", "askama.toml", "build.rs"]);
    let texts: String = sources
        .iter()
        .filter(|file| file.ends_with(".rs"))
        .map(|file| std::fs::read_to_string(root().join(file)).unwrap())
        .collect();
    // A static file is compiled in by its path or, as a template, by its name; locales as a folder.
    let is_named = |file: &&String| {
        let path = file.strip_prefix("static/").unwrap();
        let named = |text: &str| texts.contains(text);
        path.starts_with("locales/")
            || named(&format!("static/{path}"))
            || named(&format!("\"{path}\""))
            || path.strip_prefix("pages/").is_some_and(|page| is_template(page, &texts))
    };
    let statics = tracked(&["static"]);
    let wanted = statics.iter().filter(is_named).cloned();
    let documents = ["CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"].map(str::to_owned);
    holds("token-relay", wanted.chain(sources.clone()).chain(documents).collect());
}

/// Whether a template is named by the sources or by another template.
fn is_template(name: &str, sources: &str) -> bool {
    let quoted = format!("\"{name}\"");
    sources.contains(&quoted)
        || tracked(&["static/pages/*.html"])
            .iter()
            .any(|page| std::fs::read_to_string(root().join(page)).unwrap().contains(&quoted))
}

#[test]
fn a_release_needs_what_its_publisher_fills_in() {
    let check = Command::new(root().join("deploy/release")).arg("--check").output().unwrap();
    let errors = String::from_utf8(check.stderr).unwrap();
    let lacks = |file: &str, word: &str| {
        !std::fs::read_to_string(root().join(file)).unwrap().contains(word)
    };
    let wanted = [
        (lacks("Cargo.toml", "\nrepository.workspace"), "crate token-relay has no repository"),
        (lacks("Cargo.toml", "\nauthors.workspace"), "crate token-relay has no authors"),
        (
            lacks("client/Cargo.toml", "\nrepository.workspace"),
            "token-relay-client has no repository",
        ),
        (lacks("static/client/package.json", "\"repository\""), "package.json: repository"),
        (
            lacks("CHANGELOG.md", concat!("\n## ", env!("CARGO_PKG_VERSION"))),
            concat!("no section ## ", env!("CARGO_PKG_VERSION")),
        ),
    ];
    for (is_missing, word) in wanted {
        assert_eq!(errors.contains(word), is_missing, "{word}: {errors}");
    }
    let nothing = errors.is_empty();
    assert_eq!(check.status.success(), nothing, "{errors}");
}
