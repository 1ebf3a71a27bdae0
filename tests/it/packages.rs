//! The packages that `deploy/package` makes: the Debian one is installed on this machine, its service
//! runs as its user, it is upgraded, removed and purged; the RPM is looked into.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::support::{
    Browser, Events, Process, client, create,
    redis::{Directory, free_port},
    text,
};

const SETTINGS: &str = "/etc/token-relay/settings.toml";
const SECRETS: &str = "/etc/token-relay/secrets";
const UNIT: &str = "/usr/lib/systemd/system/token-relay.service";
const PROGRAM: &str = "/usr/bin/token-relay";

/// What a command printed on both streams.
fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    texts.concat()
}

/// What a command printed, which must succeed.
fn done(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// A command with the rights of root: packages are installed with them.
fn root(program: &str, arguments: &[&str]) -> Command {
    let is_root = done(command("id", &["-u"])).trim() == "0";
    let mut root = if is_root {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", program]);
        sudo
    };
    let path = std::env::var("PATH").unwrap_or_default();
    root.args(arguments).env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    root.env("LC_ALL", "C");
    root
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The packages of the program that these tests start, as a version of its own: Debian's and RPM's.
fn packages(folder: &Path, version: &str) -> [String; 2] {
    let program = folder.join("token-relay");
    if !program.exists() {
        // Without what only a debugger reads, as a release is built.
        let built = env!("CARGO_BIN_EXE_token-relay");
        done(command("strip", &["-o", program.to_str().unwrap(), built]));
    }
    let out = folder.join(version);
    let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/package");
    let arguments = ["--binary", program.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let mut make = command(make.to_str().unwrap(), &arguments);
    make.args(["--version", version, "--mtime", "1700000000"]);
    done(make);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    ["deb", "rpm"].map(|kind| {
        let mut of_kind =
            files.iter().filter(|file| file.extension().is_some_and(|end| end == kind));
        of_kind.next().unwrap().to_str().unwrap().to_owned()
    })
}

/// The package as a later version whose settings file ends with another line.
fn later(folder: &Path, deb: &str, version: &str, line: &str) -> String {
    let unpacked = folder.join(format!("{version}-unpacked"));
    let unpacked = unpacked.to_str().unwrap();
    done(command("dpkg-deb", &["--raw-extract", deb, unpacked]));
    let append = |file: &str, change: &dyn Fn(String) -> String| {
        let path = format!("{unpacked}/{file}");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(text)).unwrap();
    };
    append("etc/token-relay/settings.toml", &|text| format!("{text}# {line}\n"));
    append("DEBIAN/control", &|text| {
        text.replace("\nVersion: 0.0.1~test1\n", &format!("\nVersion: {version}\n"))
    });
    let later = folder.join(format!("{version}.deb"));
    let later = later.to_str().unwrap();
    done(command("dpkg-deb", &["-Znone", "--root-owner-group", "--build", unpacked, later]));
    later.to_owned()
}

/// Takes the package from this machine again, however the test ends.
struct Purge;

impl Drop for Purge {
    fn drop(&mut self) {
        let _ = root("dpkg", &["--purge", "token-relay"]).output();
        let _ = root("userdel", &["token-relay"]).output();
    }
}

fn secrets() -> String {
    done(root("sh", &["-c", &format!("cd {SECRETS} && stat -c '%n %U %a' * && sha256sum *")]))
}

/// The service as systemd would start it: `ExecStart` of the installed unit, as its user, with its
/// environment and copies of its credentials.
fn start(credentials: &Path) -> Process {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let lines = |name: &str| {
        let name = format!("{name}=");
        unit.lines().filter_map(|line| line.strip_prefix(&name)).collect::<Vec<_>>()
    };
    assert_eq!((lines("User"), lines("DynamicUser").len()), (vec!["token-relay"], 0));
    let folder = credentials.to_str().unwrap();
    for credential in lines("LoadCredential") {
        let (name, path) = credential.split_once(':').unwrap();
        let copy = format!("{folder}/{name}");
        done(root("install", &["-o", "token-relay", "-m", "400", path, &copy]));
    }
    let [exec] = lines("ExecStart")[..] else { panic!("{unit}") };
    let drop = ["--reuid=token-relay", "--regid=token-relay", "--clear-groups", "--no-new-privs"];
    let mut service = root("setpriv", &drop);
    service.args(["env", "-i"]);
    service.args(lines("Environment").iter().map(|pair| pair.replace("%d", folder)));
    service.args(exec.split(' '));
    Process::spawn(service, Stdio::piped())
}

/// Ends the service, which belongs to another user.
fn stop(service: &Process) {
    done(root("kill", &["-s", "TERM", &service.id().to_string()]));
}

#[tokio::test]
async fn the_debian_package_installs_runs_upgrades_and_goes() {
    let directory = Directory::new();
    let folder = directory.path();
    let [first, _] = packages(folder, "0.0.1~test1");
    let unedited = later(folder, &first, "0.0.1~test2", "another template");
    let second = later(folder, &first, "0.0.1~test3", "another template");
    let third = later(folder, &first, "0.0.1~test4", "a third template");
    let state = || said(&command("dpkg-query", &["-W", "token-relay"]).output().unwrap());
    assert!(
        !state().starts_with("token-relay\t") && !Path::new(PROGRAM).exists(),
        "token-relay is installed on this machine, so its package cannot be tried here"
    );
    let purge = Purge;
    done(root("dpkg", &["--install", &first]));
    assert_eq!(state(), "token-relay\t0.0.1~test1\n");
    done(command("getent", &["passwd", "token-relay"]));
    let keys = secrets();
    for name in ["cookie_keys", "oidc_client_secret", "sealing_keys", "signing_key"] {
        assert!(keys.contains(&format!("{name} root 600\n")), "{keys}");
    }
    done(command("bash", &["-n", "/usr/share/bash-completion/completions/token-relay"]));
    let verified = command("systemd-analyze", &["verify", "--man=no", UNIT]).output().unwrap();
    assert!(verified.status.success() && said(&verified).is_empty(), "{}", said(&verified));
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager", UNIT];
    let exposure = done(command("systemd-analyze", &arguments));
    println!("{}", exposure.lines().last().unwrap());
    let enabled = "/etc/systemd/system/multi-user.target.wants/token-relay.service";
    done(root("systemctl", &["--quiet", "--no-reload", "enable", "token-relay.service"]));
    assert!(std::fs::symlink_metadata(enabled).is_ok());

    // A settings file that nobody touched is replaced.
    done(root("dpkg", &["--install", &unedited]));
    assert!(std::fs::read_to_string(SETTINGS).unwrap().ends_with("# another template\n"));
    assert_eq!(secrets(), keys, "an upgrade keeps the keys");

    // Everything is in comments but what an operator must set.
    done(command(PROGRAM, &["check-config", "--config", SETTINGS]));
    let template = std::fs::read_to_string(SETTINGS).unwrap();
    let given = template.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let given: Vec<_> = given.map(|line| line.split_once(" = ").unwrap().0).collect();
    assert_eq!(given, ["oidc_issuer", "oidc_client_id"]);

    let [port, provider_port] = [free_port(), free_port()];
    let (url, issuer) =
        (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{provider_port}"));
    let secret = directory.file("secret");
    std::fs::write(&secret, "a secret of the tests of 32 characters or more").unwrap();
    let _provider = Process::start(
        &[
            "demo-provider",
            &format!("--listen=127.0.0.1:{provider_port}"),
            &format!("--issuer={issuer}"),
            &format!("--client-secret-file={secret}"),
            &format!("--redirect-uri={url}/callback"),
        ],
        &[],
    );
    let mut settings = template;
    for (name, value) in [
        ("listen", format!("127.0.0.1:{port}")),
        ("public_url", url.clone()),
        ("oidc_issuer", issuer),
        ("oidc_client_id", "token-relay".to_owned()),
    ] {
        let line = settings.lines().find(|line| {
            line.trim_start_matches('#')
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(" = "))
        });
        let line = line.unwrap().to_owned();
        settings = settings.replacen(&line, &format!("{name} = {value:?}"), 1);
    }
    let edited = directory.file("settings.toml");
    std::fs::write(&edited, &settings).unwrap();
    done(root("cp", &[&edited, SETTINGS]));
    done(root("cp", &[&secret, &format!("{SECRETS}/oidc_client_secret")]));
    let keys = secrets();

    let credentials = folder.join("credentials");
    done(root("install", &["-d", "-m", "755", credentials.to_str().unwrap()]));
    let mut service = start(&credentials);
    let users = done(command("ps", &["-C", "token-relay", "-o", "user="]));
    assert!(
        users.lines().any(|user| user == "token-relay" || user.starts_with("token-r")),
        "{users}"
    );
    let session = create(&url, Some(serde_json::json!({"bind": true}))).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;

    // The upgrade leaves settings, keys and the process that runs.
    done(root("dpkg", &["--install", &second]));
    assert_eq!(state(), "token-relay\t0.0.1~test3\n");
    assert_eq!(std::fs::read_to_string(SETTINGS).unwrap(), settings);
    assert_eq!(secrets(), keys);
    // Nor is one that was edited replaced by a new template, which lies beside it.
    done(root("dpkg", &["--force-confold", "--install", &third]));
    assert_eq!(std::fs::read_to_string(SETTINGS).unwrap(), settings);
    let beside = std::fs::read_to_string(format!("{SETTINGS}.dpkg-dist")).unwrap();
    assert!(beside.ends_with("# a third template\n"));
    let page = Browser::default().sign_in(&session, "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "{}", service.log());
    assert_eq!(events.next().await.unwrap().name, "authenticated");
    stop(&service);
    assert!(service.wait().success(), "{}", service.log());
    let mut service = start(&credentials);
    let ready = client().get(format!("{url}/readyz")).send().await.unwrap();
    assert!(ready.status().is_success(), "{}", service.log());
    stop(&service);
    service.wait();

    done(root("dpkg", &["--remove", "token-relay"]));
    assert!(!Path::new(PROGRAM).exists() && !Path::new(UNIT).exists());
    assert!(std::fs::symlink_metadata(enabled).is_err(), "the unit is still enabled");
    assert_eq!(std::fs::read_to_string(SETTINGS).unwrap(), settings, "settings outlive a removal");
    assert_eq!(secrets(), keys, "and keys");
    done(root("dpkg", &["--purge", "token-relay"]));
    assert!(!Path::new("/etc/token-relay").exists());
    drop(purge);
}

#[test]
fn the_rpm_holds_the_same_files() {
    let directory = Directory::new();
    let [deb, rpm] = packages(directory.path(), "0.0.1~test1");
    let query = |more: &[&str]| {
        let mut query = command("rpm", &["--query", "--package", &rpm]);
        query.args(more);
        done(query)
    };
    let listed = query(&["--list"]);
    let mut of_rpm: Vec<_> = listed.lines().collect();
    let listed = done(command("dpkg-deb", &["--contents", &deb]));
    let mut of_deb: Vec<_> = listed
        .lines()
        .filter(|line| !line.starts_with('d'))
        .map(|line| line.rsplit_once(' ').unwrap().1.trim_start_matches('.'))
        .collect();
    of_deb.push("/etc/token-relay");
    for (of_debian, elsewhere) in [
        (
            "/usr/share/zsh/vendor-completions/_token-relay",
            "/usr/share/zsh/site-functions/_token-relay",
        ),
        ("/usr/share/doc/token-relay/copyright", "/usr/share/licenses/token-relay/LICENSE"),
    ] {
        let path = of_deb.iter_mut().find(|path| **path == of_debian).expect(of_debian);
        *path = elsewhere;
    }
    // Debian alone has a changelog file, and overrides of its linter.
    of_deb.retain(|path| !path.ends_with("/changelog.gz") && !path.contains("/lintian/"));
    of_rpm.sort_unstable();
    of_deb.sort_unstable();
    assert_eq!(of_rpm, of_deb);
    for path in [PROGRAM, UNIT, SETTINGS, "/usr/share/man/man1/token-relay-serve.1.gz"] {
        assert!(of_rpm.contains(&path), "{path}");
    }
    assert_eq!(query(&["--configfiles"]), format!("{SETTINGS}\n"));
    assert_eq!(query(&["--queryformat", "%{NAME} %{VERSION} %{ARCH}"]).split(' ').count(), 3);
    let scripts = query(&["--scripts"]);
    for part in
        ["useradd --system", "token-relay keys --dir", "--no-reload disable", "daemon-reload"]
    {
        assert!(scripts.contains(part), "{part}: {scripts}");
    }
    assert!(query(&["--requires"]).contains("glibc >= 2."));
    // The files themselves unpack; their scripts need a system of RPM's own.
    let unpacked = directory.path().join("root");
    let root_option = format!("--root={}", unpacked.to_str().unwrap());
    let arguments = ["--install", "--nodeps", "--noscripts", &root_option, &rpm];
    done(root("rpm", &arguments));
    let program = unpacked.join(PROGRAM.trim_start_matches('/'));
    let version = done(command(program.to_str().unwrap(), &["--version"]));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    done(root("rm", &["-r", unpacked.to_str().unwrap()]));
}
