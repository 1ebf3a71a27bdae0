//! `docs/commands.md`: a terminal session of each command, as the real program printed it. What differs
//! from run to run is replaced. `UPDATE_DOCS=1` writes the file anew.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    doctor::{Broken, Deployment},
    support::{Browser, Process, redis},
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");

const BEGIN: &str = "\
# Commands

What each command prints. A test runs the program and compares (`tests/it/documented_commands.rs`; `UPDATE_DOCS=1`
writes this page anew); addresses, tokens, codes and the version are replaced by examples. Exit statuses are in
`token-relay --help`; below, `$ echo $?` shows those other than 0.
";

/// The page as it grows.
struct Page {
    text: String,
    /// Where commands run.
    folder: redis::Directory,
    /// What is replaced, and by what.
    replaced: Vec<(String, String)>,
}

impl Page {
    fn new() -> Self {
        let mut page =
            Self { text: BEGIN.to_owned(), folder: redis::Directory::new(), replaced: Vec::new() };
        page.replace(concat!(env!("CARGO_PKG_VERSION"), " ("), "<version> (");
        page
    }

    fn replace(&mut self, from: impl Into<String>, to: impl Into<String>) {
        self.replaced.push((from.into(), to.into()));
    }

    fn heading(&mut self, title: &str, text: &str) {
        let _ = write!(self.text, "\n## {title}\n\n{text}\n");
    }

    /// A block of lines as a terminal shows them.
    fn block(&mut self, lines: &str) {
        let mut lines = lines.to_owned();
        for (from, to) in &self.replaced {
            lines = lines.replace(from, to);
        }
        let _ = write!(self.text, "\n```console\n{}\n```\n", lines.trim_end());
    }

    /// A file in the folder, shown as `cat` shows it.
    fn file(&mut self, name: &str, content: &str) -> String {
        std::fs::write(self.folder.file(name), content).unwrap();
        format!("$ cat {name}\n{content}")
    }

    /// Runs the program in the folder; gives the command, what it prints, and its exit status unless 0.
    fn run(&self, arguments: &str, environment: &[(&str, &str)]) -> String {
        self.run_to_line(arguments, environment, usize::MAX)
    }

    /// The same up to that line.
    fn run_to_line(&self, arguments: &str, environment: &[(&str, &str)], lines: usize) -> String {
        let output = self.folder.file("terminal");
        // One file, as one terminal, so that lines are in the order in which they were written.
        let file = File::create(&output).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_token-relay"))
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        let mut text = format!("$ token-relay {arguments}");
        if lines < usize::MAX {
            let _ = write!(text, " | head -n {lines}");
        }
        text.push('\n');
        let printed = std::fs::read_to_string(output).unwrap();
        for line in printed.lines().take(lines) {
            let _ = writeln!(text, "{line}");
        }
        match status.code() {
            Some(0) => {}
            code => {
                let _ = writeln!(text, "$ echo $?\n{}", code.unwrap());
            }
        }
        text
    }
}

fn exported(environment: &[(&str, &str)]) -> String {
    environment.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "$ export {name}={value}");
        text
    })
}

fn help(page: &mut Page) {
    page.heading("Help", "`token-relay COMMAND --help` has the options of a command.");
    page.block(&page.run("--help", &[]));
}

fn settings(page: &mut Page) {
    page.heading(
        "settings",
        "Every setting: a table (the default), a settings file to start from, the same for `docker run --env-file` and \
         systemd's\n`EnvironmentFile`, or JSON.",
    );
    for (format, lines) in [("toml", 16), ("env", 14), ("markdown", 6), ("json", 16)] {
        page.block(&page.run_to_line(&format!("settings --format {format}"), &[], lines));
    }
}

/// The provider of the demo alone, for one client.
fn provider(page: &mut Page) -> Process {
    page.heading("demo-provider", "The demo's OpenID provider alone, to try out a deployment.");
    let folder = page.folder.path().to_owned();
    std::fs::create_dir_all(folder.join("secrets")).unwrap();
    let secret = folder.join("secrets/client_secret");
    std::fs::write(&secret, "of the documentation alone\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let address = format!("127.0.0.1:{}", redis::free_port());
    page.replace(&address, "127.0.0.1:8081");
    let arguments = format!(
        "demo-provider --listen {address} --issuer http://{address} --client-secret-file \
         secrets/client_secret --redirect-uri https://relay.example/callback"
    );
    let (process, first) = started(&folder, &arguments, &[], 1);
    page.block(&format!("$ token-relay {arguments}\n{first}"));
    process
}

/// A process that serves, and its first lines.
fn started(
    folder: &Path,
    arguments: &str,
    environment: &[(&str, &str)],
    lines: usize,
) -> (Process, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_token-relay"));
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    command.args(arguments).current_dir(folder).env_clear().envs(environment.iter().copied());
    Process::spawn_to_line(command, Stdio::piped(), lines)
}

fn check_config(page: &mut Page, issuer: &str) {
    page.heading("check-config", "The settings that `serve` would use, without starting it.");
    let shown = page.file(
        "relay.toml",
        &format!(
            "public_url = \"https://relay.example\"\noidc_issuer = \"{issuer}\"\noidc_client_id = \
             \"token-relay\"\noidc_client_secret_file = \"secrets/client_secret\"\nheartbeat = \"20s\"\n\n\
             [clients.crm]\nname = \"Customers\"\norigins = [\"https://crm.example\"]\n"
        ),
    );
    let changed = page.run("check-config --config relay.toml --changed", &[]);
    page.block(&format!("{shown}{changed}"));
    page.block(&page.run_to_line("check-config --config relay.toml", &[], 14));
    page.heading(
        "check-config with faults",
        "All faults at once, each with its place; exit status 2.",
    );
    let shown = page.file(
        "wrong.toml",
        "oidc_issuer = \"https://login.example\"\nheartbaet = \"15s\"\nsession_ttl = \"fifteen minutes\"\n\
         max_streams = 0\n",
    );
    let wrong = page.run("check-config --config wrong.toml", &[]);
    page.block(&format!("{shown}{wrong}"));
    let shown =
        page.file("broken.toml", "listen = \"127.0.0.1:8080\"\npublic_url = https://relay\n");
    let broken = page.run("check-config --config broken.toml", &[]);
    page.block(&format!("{shown}{broken}"));
    page.block(&page.run("check-config --config missing.toml", &[]));
    page.heading(
        "check-config --online",
        "Asks the provider and the store whether they do what is configured. Exit status 1 where sign-ins fail, 3 \
         where there\nare only warnings.",
    );
    page.block(&page.run("check-config --config relay.toml --online", &[]));
    let wrong = [("TOKEN_RELAY_PUBLIC_URL", "https://elsewhere.example")];
    let online = page.run("check-config --config relay.toml --online", &wrong);
    page.block(&format!("{}{online}", exported(&wrong)));
}

fn serve(page: &mut Page) {
    page.heading("serve", "Serves until SIGTERM or Ctrl-C. The log is on standard error.");
    let folder = page.folder.path().to_owned();
    let listen = format!("127.0.0.1:{}", redis::free_port());
    page.replace(&listen, "127.0.0.1:8080");
    let environment = [("TOKEN_RELAY_LISTEN", listen.as_str())];
    let (_, shown) = started(&folder, "serve --config relay.toml", &environment, 1);
    page.block(&format!("$ token-relay serve --config relay.toml\n{shown}"));
}

fn keys(page: &mut Page) {
    page.heading(
        "keys",
        "The keys of a deployment, for their owner only. Existing ones are not replaced.",
    );
    let made = page.run("keys --dir keys", &[]);
    let again = page.run("keys --dir keys", &[]);
    page.block(&format!("{made}{again}"));
}

async fn demo(page: &mut Page) {
    page.heading("demo", "Relay, provider and a task pane on this machine.");
    let folder = page.folder.path().to_owned();
    let metrics = format!("127.0.0.1:{}", redis::free_port());
    let (demo, shown) = started(
        &folder,
        "demo --no-open --listen 127.0.0.1:0 --provider-listen 127.0.0.1:0",
        &[("TOKEN_RELAY_METRICS_LISTEN", &metrics)],
        5,
    );
    let address = demo.url.strip_prefix("http://").unwrap().to_owned();
    let provider = shown.split("provider: http://").nth(1).unwrap().split(')').next().unwrap();
    page.replace(&address, "127.0.0.1:8080");
    page.replace(provider, "127.0.0.1:8081");
    page.block(&format!("$ token-relay demo --no-open\n{shown}"));

    page.heading(
        "login",
        "Signs in through a relay. The token is the only line on standard output; what a person reads is on standard \
         error.",
    );
    let mut login = Command::new(env!("CARGO_BIN_EXE_token-relay"))
        .args(["login", &demo.url, "--no-open"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(login.stderr.take().unwrap());
    let mut text = String::new();
    let mut indented = Vec::new();
    while indented.len() < 2 {
        let mut line = String::new();
        assert!(said.read_line(&mut line).unwrap() > 0, "{text}");
        if line.starts_with("  ") {
            indented.push(line.trim().to_owned());
        }
        text.push_str(&line);
    }
    let session = json!({"transit_url": indented[0], "user_code": indented[1]});
    Browser::default().sign_in(&session, "alice").await;
    said.read_to_string(&mut text).unwrap();
    let mut token = String::new();
    login.stdout.take().unwrap().read_to_string(&mut token).unwrap();
    assert!(login.wait().unwrap().success(), "{text}");
    let transit_token = indented[0].split("transit_token=").nth(1).unwrap().to_owned();
    page.replace(transit_token, "q1YJ…");
    page.replace(&indented[1], "BCDF-GHJK");
    page.block(&format!(
        "$ token-relay login --no-open\n{text}eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFUzI1NiIs…\n"
    ));
    assert!(token.starts_with("eyJ") && token.lines().count() == 1, "{token}");
    let nobody = format!("http://127.0.0.1:{}", redis::free_port());
    page.replace(&nobody, "http://127.0.0.1:9");
    page.block(&page.run(&format!("login {nobody}"), &[]));

    page.heading("healthcheck", "Whether an instance is ready: silent and 0 where it is.");
    let ready = page.run(&format!("healthcheck {}", demo.url), &[]);
    let unready = page.run(&format!("healthcheck {nobody}"), &[]);
    page.block(&format!("{ready}{unready}"));
}

async fn doctor(page: &mut Page) {
    page.heading(
        "doctor",
        "A deployment from outside, through its proxy. The URL is the public one, `--origin` that of an add-in. Without \
         `--wait`\nit takes 65 s, so that idle timeouts of 60 s are found.",
    );
    let healthy = Deployment::start_with_tls("nginx", Broken::default(), Some("ssl http2")).await;
    examine(page, &healthy, "");
    page.heading(
        "doctor with faults",
        "One finding a line, and below it the line of the proxy's configuration, or the setting, that mends it.",
    );
    let broken = Broken {
        added: "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
            add_header Referrer-Policy no-referrer always;",
        missing: "location = /metrics { return 404; }",
        ..Broken::default()
    };
    let broken = Deployment::start_with_tls("nginx", broken, Some("ssl http2")).await;
    examine(page, &broken, "");
    page.heading(
        "doctor --json",
        "An array of findings: `severity` (`note`, `warning`, `error`), `check`, `text`, and where something mends it \
         `mend`,\nwith `proxy` if that is a line of a proxy's configuration (`nginx`, `caddy`, `haproxy`, `traefik`), \
         else a setting of the relay\nor something to do.",
    );
    examine(page, &broken, " --json");
}

fn examine(page: &mut Page, deployment: &Deployment, more: &str) {
    let certificate = deployment.directory.file("relay.crt");
    let environment = [("SSL_CERT_FILE", certificate.as_str())];
    let arguments =
        format!("doctor {} --origin https://addin.example --wait 1s{more}", deployment.url);
    let mut lines = page.run(&arguments, &environment);
    if !more.is_empty() {
        // The first and the gravest show the form.
        let (begin, _) = lines.split_once("  },\n").unwrap();
        let at = lines.find("\"severity\": \"error\"").unwrap();
        let one = lines[at..].split("  }").next().unwrap();
        let end = &lines[lines.rfind("]\n").unwrap()..];
        lines = format!("{begin}  }},\n  …\n  {{\n    {one}  }},\n  …\n{end}");
    }
    page.replaced.push((deployment.url.clone(), "https://relay.example".to_owned()));
    // A second may begin between the two clocks.
    for clock in ["its clock is 1s behind", "its clock is 1s ahead of", "its clock is 0s ahead of"]
    {
        lines = lines.replace(clock, "its clock is 0s behind");
    }
    let version = env!("CARGO_PKG_VERSION");
    let versions = format!("{version}; this program is {version}");
    page.block(&lines.replace(&versions, "<version>; this program is <version>"));
}

fn others(page: &mut Page) {
    page.heading(
        "completions, man, openapi",
        "A script for the shell, the manual pages, the description of the interface.",
    );
    page.block(&page.run("completions --help", &[]));
    let made = page.run("man --dir man", &[]);
    let mut names: Vec<_> = std::fs::read_dir(page.folder.file("man"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    page.block(&format!("{made}$ ls man\n{}\n", names.join("\n")));
    page.block(&page.run_to_line("openapi", &[], 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_has_what_the_commands_print() {
    let mut page = Page::new();
    help(&mut page);
    settings(&mut page);
    let provider = provider(&mut page);
    check_config(&mut page, &provider.url);
    serve(&mut page);
    keys(&mut page);
    demo(&mut page).await;
    doctor(&mut page).await;
    others(&mut page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(FILE, &page.text).unwrap();
    }
    let written = std::fs::read_to_string(FILE).unwrap_or_default();
    let differing = std::iter::zip(written.lines(), page.text.lines()).find(|(was, is)| was != is);
    assert!(
        written == page.text,
        "docs/commands.md differs: {differing:?}; run the test with UPDATE_DOCS=1 and read what changed"
    );
}
