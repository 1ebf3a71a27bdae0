//! The npm package `oidc-provider`, a certified OpenID provider, and relays that use it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::{Process, client, text};

/// A running provider, ended when dropped.
pub struct OidcProvider {
    child: Child,
    /// Kept open: the provider writes notices to it.
    _stdout: BufReader<std::process::ChildStdout>,
    /// Its issuer identifier.
    pub issuer: String,
}

impl OidcProvider {
    /// Starts it.
    pub fn start() -> Self {
        Self::run(&[])
    }

    /// Starts it in one of the configurations of `configurations.mjs`.
    pub fn configured(given: &Value) -> Self {
        Self::run(&[given.to_string()])
    }

    fn run(arguments: &[String]) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/provider");
        assert!(
            std::path::Path::new(folder).join("node_modules/oidc-provider").exists(),
            "oidc-provider is missing: run `npm ci` in tests/support/provider (Node.js 20 or newer)"
        );
        let mut child = Command::new("node")
            .args(["--no-warnings", "server.mjs"])
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node starts; install Node.js 20 or newer");
        let (mut line, mut stdout) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
        stdout.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).expect("the provider's address");
        Self { child, _stdout: stdout, issuer: text(&line, "issuer").to_owned() }
    }

    /// Steers it.
    pub async fn tell(&self, what: &str, body: String) {
        let url = format!("{}/test/{what}", self.issuer);
        let answer = client().post(url).body(body).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// The requests to one of its endpoints, each as its query parameters.
    pub async fn seen(&self, pathname: &str) -> Vec<Value> {
        let answer = client().get(format!("{}/test/seen", self.issuer)).send().await.unwrap();
        let seen: Vec<Value> = answer.json().await.unwrap();
        seen.into_iter().filter(|request| request["pathname"] == pathname).collect()
    }

    /// What connects a relay with it.
    pub fn settings(&self) -> [(&str, &str); 3] {
        [
            ("TOKEN_RELAY_OIDC_ISSUER", self.issuer.as_str()),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret of the tests alone"),
        ]
    }

    /// The relay as an operator runs it, with this provider.
    pub async fn relay(&self, more: &[(&str, &str)]) -> Process {
        let mut environment = vec![
            ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
            ("TOKEN_RELAY_OIDC_ISSUER", self.issuer.as_str()),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret of the tests alone"),
            // Straight to the provider: what comes before is tested elsewhere.
            ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
        ];
        environment.extend(more);
        let relay = Process::start(&["serve"], &environment);
        self.tell("redirect-uri", format!("{}/callback", relay.url)).await;
        relay
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
