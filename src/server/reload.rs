//! New keys, secrets and certificates without a restart: read again when the operator says so
//! (SIGHUP) or when a file changes, and put into force all together or not at all.
//!
//! Called by `app` while it serves. Requests under way go on with what they began with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    http::{AppState, operator::metrics::ReloadOutcome},
    server::{
        AppError, ReadSettings,
        secrets::{Secrets, client_secret},
    },
    session::Digest,
    settings::{Settings, Snapshot},
    util::tls::Identities,
};

/// Pause between two looks at the files. Contents are compared, since Kubernetes exchanges a link
/// to their folder, and notices of the system do not come from every file system.
const WATCH: Duration = Duration::from_secs(2);

/// Several files are seldom written at once: a certificate comes with its key. Nothing is read
/// before they have been still for this long.
const SETTLE: Duration = Duration::from_millis(500);

/// Added to the life of a token before the key that signed it is forgotten: what clocks may differ
/// by.
const LEEWAY: Duration = Duration::from_secs(60);

const SIGNING: [&str; 3] = ["SIGNING_ALGORITHM", "SIGNING_KEY", "PREVIOUS_SIGNING_KEY"];
const TLS: [&str; 2] = ["TLS_CERTIFICATE", "TLS_KEY"];
const MEET: [&str; 2] = ["ADDONS_CSRF_SECRET", "ADDONS_TOKEN_SECRET_KEY"];
const OTHERS: [&str; 4] =
    ["SEALING_KEYS", "COOKIE_KEYS", "OIDC_CLIENT_SECRET", "INTROSPECTION_CLIENTS"];

/// Contents of files, for comparison; `None` for one that cannot be read.
type Contents = Vec<Option<Digest>>;

/// Puts changed settings into force, as far as that is possible without a restart.
pub(crate) struct Reloader {
    in_force: Snapshot,
    read_settings: Arc<ReadSettings>,
    app: AppState,
    identities: Option<Arc<Identities>>,
    /// What the files held when they were last read.
    seen: Option<Contents>,
}

impl Reloader {
    /// A reloader of what runs with `in_force`.
    pub(crate) fn new(
        in_force: Snapshot,
        read_settings: ReadSettings,
        app: AppState,
        identities: Option<Arc<Identities>>,
    ) -> Self {
        Self { in_force, read_settings: Arc::new(read_settings), app, identities, seen: None }
    }

    /// Waits until a file of the settings holds something else than when it was last read. The
    /// first time it says so in any case, for a file may have changed while the service started.
    /// Cancel-safe.
    pub(crate) async fn files_changed(&mut self) {
        loop {
            tokio::time::sleep(WATCH).await;
            let mut now = self.contents().await;
            if self.seen.as_ref() == Some(&now) {
                continue;
            }
            loop {
                tokio::time::sleep(SETTLE).await;
                let later = self.contents().await;
                if later == now {
                    break;
                }
                now = later;
            }
            self.seen = Some(now);
            return;
        }
    }

    async fn contents(&self) -> Contents {
        let files = self.in_force.files().to_vec();
        let read = |path: &PathBuf| std::fs::read(path).ok().map(|content| Digest::of(&content));
        let read = tokio::task::spawn_blocking(move || files.iter().map(read).collect());
        read.await.unwrap_or_default()
    }

    /// Reads everything again because somebody wants it.
    pub(crate) async fn reload(&mut self) {
        self.seen = Some(self.contents().await);
        if self.reload_all().await == ReloadOutcome::Unchanged {
            tracing::info!("settings read again: nothing to put into force");
            self.app.metrics.reloaded(ReloadOutcome::Unchanged);
        }
    }

    /// Reads everything again because a file changed.
    pub(crate) async fn reload_changes(&mut self) {
        self.reload_all().await;
    }

    /// Counts and logs what came of it, save when nothing did.
    async fn reload_all(&mut self) -> ReloadOutcome {
        let read_settings = Arc::clone(&self.read_settings);
        let read = match tokio::task::spawn_blocking(move || read_settings()).await {
            Ok(read) => read,
            Err(_) => return self.failed(&"they could not be read"),
        };
        let next = match read {
            Ok(next) => next,
            // One line a problem, and never a secret in it.
            Err(errors) => return self.failed(&errors.to_string().replace('\n', "; ")),
        };
        let changed = next.differs_from(&self.in_force);
        if let Err(error) = self.put_into_force(&changed, &next.settings) {
            return self.failed(&error);
        }
        let (done, not): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|name| self.can_be_put_into_force(name, &next.settings));
        self.in_force = next;
        if !not.is_empty() {
            tracing::warn!(settings = not.join(", "), "changed settings wait for a restart");
        }
        if done.is_empty() {
            return ReloadOutcome::Unchanged;
        }
        tracing::info!(settings = done.join(", "), "changed settings are in force");
        self.app.metrics.reloaded(ReloadOutcome::Succeeded);
        ReloadOutcome::Succeeded
    }

    fn failed(&self, problem: &dyn std::fmt::Display) -> ReloadOutcome {
        tracing::error!(%problem, "settings not put into force; those from before still are");
        self.app.metrics.reloaded(ReloadOutcome::Failed);
        ReloadOutcome::Failed
    }

    fn can_be_put_into_force(&self, name: &str, next: &Settings) -> bool {
        if TLS.contains(&name) {
            self.identities.is_some() && next.tls.is_some()
        } else if MEET.contains(&name) {
            self.app.meet.is_some() && next.meet.is_some()
        } else {
            SIGNING.contains(&name) || OTHERS.contains(&name)
        }
    }

    /// Makes everything first and exchanges it then, so that a defect changes nothing. What did not
    /// change stays: a key that was drawn at the start must not be drawn again.
    fn put_into_force(&self, changed: &[&str], next: &Settings) -> Result<(), AppError> {
        let secrets = Secrets::of(next)?;
        let app = &self.app;
        let is_changed = |names: &[&str]| changed.iter().any(|name| names.contains(name));
        if is_changed(&SIGNING) {
            app.signing_keys.replace(secrets.signing_keys, app.issuer.ttl + LEEWAY);
        }
        if is_changed(&["SEALING_KEYS"]) {
            app.sealing_keys.replace(secrets.sealing_keys);
        }
        if is_changed(&["COOKIE_KEYS"]) {
            app.cookie_keys.replace(secrets.cookie_keys);
        }
        if is_changed(&["OIDC_CLIENT_SECRET"]) {
            app.login.replace_client_secret(client_secret(next));
        }
        if is_changed(&["INTROSPECTION_CLIENTS"]) {
            app.introspection_clients.store(Arc::new(secrets.introspection_clients));
        }
        if let (Some(meet), Some(new)) = (&app.meet, secrets.meet) {
            if is_changed(&["ADDONS_CSRF_SECRET"]) {
                let keys = meet.csrf_keys.load().followed_by(new.csrf_key, meet.session_ttl);
                meet.csrf_keys.store(Arc::new(keys));
            }
            if is_changed(&["ADDONS_TOKEN_SECRET_KEY"]) {
                meet.issuer.store(Arc::new(new.issuer));
            }
        }
        if let (Some(identities), Some(identity), true) =
            (&self.identities, &next.tls, is_changed(&TLS))
        {
            identities.replace(identity.clone());
        }
        Ok(())
    }
}
