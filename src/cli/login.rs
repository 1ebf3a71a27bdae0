//! `token-relay login`: signs a terminal in through a relay.
//!
//! What is for people goes to standard error, what is for programs to standard output.

use std::{
    fs::{OpenOptions, rename},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use token_relay_client::{Client, ClientError, PendingSignIn, SignIn, api::TokenResponse};
use url::Url;

use crate::util::browser;

/// What `token-relay login` is asked.
#[derive(Debug)]
pub struct LoginOptions {
    /// Public URL of the relay.
    pub relay: Url,
    /// What the person is told that they sign in to.
    pub client_name: String,
    /// Whether the person compares a code first.
    pub confirm: bool,
    /// Whether a browser is opened.
    pub open: bool,
    /// Lines of JSON instead of text.
    pub json: bool,
    /// Keep the token in this file instead of printing it.
    pub store: Option<PathBuf>,
}

/// Why there is no token in the terminal.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The sign-in did not succeed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The person pressed Ctrl-C; the sign-in is cancelled.
    #[error("cancelled")]
    Interrupted,
    /// The token cannot be kept.
    #[error("{}: {source}", path.display())]
    Store {
        /// Where it was to go.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// What is kept of a token: enough for `curl` and for `POST /addons/token`.
#[derive(Serialize)]
struct Stored<'a> {
    state: &'static str,
    #[serde(flatten)]
    token: &'a TokenResponse,
    relay: &'a Url,
    /// Credentials for the refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
}

/// Signs in, and prints or keeps the token.
///
/// # Errors
/// [`LoginError`]. With `json`, the last line on standard output says it too.
pub async fn login(options: &LoginOptions) -> Result<(), LoginError> {
    let ended = try_login(options).await;
    if options.json
        && let Err(error) = &ended
    {
        let code = match error {
            LoginError::Client(error) => error.code(),
            LoginError::Interrupted => "access_denied",
            LoginError::Store { .. } => "server_error",
        };
        print(&json!({"state": "failed", "error": code, "error_description": error.to_string()}));
    }
    ended
}

async fn try_login(options: &LoginOptions) -> Result<(), LoginError> {
    let client = Client::new(options.relay.clone())?;
    let wanted =
        SignIn { client_name: Some(options.client_name.clone()), confirm: options.confirm };
    let pending = client.sign_in(&wanted).await?;
    announce(options, &pending);
    if options.open {
        browser::open(pending.transit_url().as_str());
    }
    let spinner = (!options.json).then(|| spinner(pending.expires_in()));
    let ended = tokio::select! {
        token = pending.token() => token.map_err(LoginError::from),
        _ = tokio::signal::ctrl_c() => {
            // Whoever is at the dialog is told.
            let _ = pending.cancel().await;
            Err(LoginError::Interrupted)
        }
    };
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let token = ended?;
    let credentials = token.refresh_token.is_some();
    let stored = Stored {
        state: "authenticated",
        token: &token,
        relay: &options.relay,
        session_id: credentials.then(|| pending.session_id().expose()),
        session_token: credentials.then(|| pending.session_token().expose()),
    };
    let life = humantime::format_duration(Duration::from_secs(token.expires_in));
    if let Some(path) = &options.store {
        store(path, &stored).map_err(|source| LoginError::Store { path: path.clone(), source })?;
        if options.json {
            print(
                &json!({"state": "authenticated", "stored": path, "expires_in": token.expires_in}),
            );
        } else {
            super::print_error(&format!(
                "Signed in for {life}; the token is in {}.",
                path.display()
            ));
        }
    } else if options.json {
        print(&stored);
    } else {
        super::print_error(&format!("Signed in for {life}."));
        let _ = writeln!(io::stdout().lock(), "{}", token.access_token.expose());
    }
    Ok(())
}

fn announce(options: &LoginOptions, pending: &PendingSignIn) {
    let (url, code) = (pending.transit_url(), pending.user_code());
    if options.json {
        print(&json!({
            "state": "pending",
            "transit_url": url,
            "user_code": code,
            "expires_in": pending.expires_in().as_secs(),
        }));
        return;
    }
    super::print_error(&format!("To sign in, open this address in a browser:\n\n  {url}\n"));
    if let Some(code) = code {
        super::print_error(&format!(
            "It shows a code. Go on only if it is this one:\n\n  {code}\n"
        ));
    }
}

/// Turns while standard error is a terminal, and is not there otherwise.
fn spinner(life: Duration) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    // The template is ours and a test draws it.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed} of {prefix})") {
        spinner.set_style(style);
    }
    spinner.set_prefix(humantime::format_duration(life).to_string());
    spinner.set_message("Waiting for the sign-in; Ctrl-C cancels");
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

fn print(value: &impl Serialize) {
    // Strings and numbers always serialise; nobody may be reading.
    let line = serde_json::to_string(value).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Writes a file that is only the owner's, all or nothing.
fn store(path: &Path, stored: &Stored<'_>) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(&serde_json::to_vec_pretty(stored)?)?;
            file.write_all(b"\n")?;
            file.sync_all()
        })
        .and_then(|()| rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}
