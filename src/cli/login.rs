//! `token-relay login`: signs a terminal in through a relay.
//!
//! Text for people goes to standard error, results for programs to standard output.

use std::{
    fs::rename,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use token_relay_client::{
    Client, ClientError, PendingSignIn, PrivateKey, ProofKey, SignIn, api::TokenResponse,
};
use url::Url;

use crate::util::{browser, private_file};

/// Options of `token-relay login`.
#[derive(Debug)]
pub struct LoginOptions {
    /// Public URL of the relay.
    pub relay: Url,
    /// The sign-in to start.
    pub sign_in: SignIn,
    /// Whether a browser is opened.
    pub open: bool,
    /// Lines of JSON instead of text.
    pub json: bool,
    /// File to store the token in, instead of printing it.
    pub store: Option<PathBuf>,
}

/// Why the login failed.
#[derive(Debug, thiserror::Error)]
pub enum TerminalLoginError {
    /// The sign-in did not succeed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The person pressed Ctrl-C; the sign-in is cancelled.
    #[error("cancelled")]
    Interrupted,
    /// The token cannot be stored.
    #[error("{}: {source}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The token as it is printed or stored: enough for `curl` and for `POST /addons/token`.
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
    /// What the answers to the refresh token are encrypted for.
    #[serde(skip_serializing_if = "Option::is_none")]
    decryption_key: Option<PrivateKey>,
    /// What the tokens are bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof_key: Option<&'a ProofKey>,
}

/// Signs in, and prints or stores the token.
///
/// # Errors
/// [`TerminalLoginError`]. With `json`, the last line on standard output names it as well.
pub async fn login(options: &LoginOptions) -> Result<(), TerminalLoginError> {
    let ended = try_login(options).await;
    if options.json
        && let Err(error) = &ended
    {
        let code = match error {
            TerminalLoginError::Client(error) => error.code(),
            TerminalLoginError::Interrupted => "access_denied",
            TerminalLoginError::Store { .. } => "server_error",
        };
        print(&json!({"state": "failed", "error": code, "error_description": error.to_string()}));
    }
    ended
}

async fn try_login(options: &LoginOptions) -> Result<(), TerminalLoginError> {
    let client = Client::new(options.relay.clone())?;
    let pending = client.sign_in(&options.sign_in).await?;
    announce(options, &pending);
    if options.open {
        browser::open(pending.transit_url().as_str());
    }
    let spinner = (!options.json).then(|| spinner(pending.expires_in()));
    let ended = tokio::select! {
        token = pending.token() => token.map_err(TerminalLoginError::from),
        _ = tokio::signal::ctrl_c() => {
            // So that the dialog says so.
            let _ = pending.cancel().await;
            Err(TerminalLoginError::Interrupted)
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
        decryption_key: pending.decryption_key().filter(|_| credentials),
        proof_key: pending.proof_key(),
    };
    let lifetime = humantime::format_duration(Duration::from_secs(token.expires_in));
    if let Some(path) = &options.store {
        store(path, &stored)
            .map_err(|source| TerminalLoginError::Store { path: path.clone(), source })?;
        if options.json {
            print(
                &json!({"state": "authenticated", "stored": path, "expires_in": token.expires_in}),
            );
        } else {
            super::print_error(&format!(
                "Signed in for {lifetime}; the token is in {}.",
                path.display()
            ));
        }
    } else if options.json {
        print(&stored);
    } else {
        super::print_error(&format!("Signed in for {lifetime}."));
        // A backend may deliver a payload in the place of a token.
        let payload = token.payload.as_ref().filter(|_| token.access_token.is_empty());
        let payload = payload.map(|payload| serde_json::to_string(payload).unwrap_or_default());
        let text = payload.as_deref().unwrap_or(token.access_token.expose());
        let _ = writeln!(io::stdout().lock(), "{text}");
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
    super::print_error(&format!(
        "To sign in at {}, open this address in a browser\n\n  {url}\n",
        options.relay
    ));
    if let Some(code) = code {
        super::print_error(&format!("and type this code there:\n\n  {code}\n"));
    }
}

/// Drawn only where standard error is a terminal.
fn spinner(expires_in: Duration) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    // It cannot fail: the template is constant.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed} of {prefix})") {
        spinner.set_style(style);
    }
    spinner.set_prefix(humantime::format_duration(expires_in).to_string());
    spinner.set_message("Waiting for the sign-in; Ctrl-C cancels");
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

fn print(value: &impl Serialize) {
    // Strings and numbers always serialise; a closed pipe is no failure.
    let line = serde_json::to_string(value).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Writes a file that only its owner can read, all or nothing.
fn store(path: &Path, stored: &Stored<'_>) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let written = private_file::options()
        .write(true)
        .create_new(true)
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
