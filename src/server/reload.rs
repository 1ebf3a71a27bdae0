//! Applies changed keys, secrets and certificates without a restart: on SIGHUP, and when a file of
//! the settings changes; all of them or none. Requests under way continue with what they began with.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    http::{AppState, operator::metrics::ReloadOutcome},
    server::{AppError, ReadSettings, secrets::Secrets},
    session::{Digest, Surface},
    settings::{Changed, Clients, KeySource, Reloadable, Settings, Snapshot},
    util::tls::Identities,
};

/// Interval at which the files are read. Contents are compared, since Kubernetes exchanges a link to
/// their folder, and not every file system sends notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Time for which the files must not have changed before a reload: a certificate and its key are
/// seldom written at once.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// Added to the lifetime of a token before the key that signed it is dropped, for differing clocks.
const LEEWAY: Duration = Duration::from_secs(60);

/// Contents of files, for comparison; `None` for one that cannot be read.
type Contents = Vec<Option<Digest>>;

/// Applies changed settings where that needs no restart.
pub(crate) struct Reloader {
    active: Snapshot,
    read_settings: Arc<ReadSettings>,
    app: AppState,
    identities: Option<Arc<Identities>>,
    /// What the files held when they were last read.
    seen: Option<Contents>,
}

impl Reloader {
    /// A reloader for a service that runs with the settings `active`.
    pub(crate) fn new(
        active: Snapshot,
        read_settings: ReadSettings,
        app: AppState,
        identities: Option<Arc<Identities>>,
    ) -> Self {
        Self { active, read_settings: Arc::new(read_settings), app, identities, seen: None }
    }

    /// Waits until the contents of the files differ from the last read. The first call returns in any
    /// case, for a file may have changed while the service started. Cancel-safe.
    pub(crate) async fn files_changed(&mut self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let mut now = self.contents().await;
            if self.seen.as_ref() == Some(&now) {
                continue;
            }
            loop {
                tokio::time::sleep(SETTLE_TIME).await;
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
        let files = self.active.files().to_vec();
        let read = |path: &PathBuf| std::fs::read(path).ok().map(|content| Digest::of(&content));
        let read = tokio::task::spawn_blocking(move || files.iter().map(read).collect());
        read.await.unwrap_or_default()
    }

    /// Reloads on request.
    #[cfg(unix)]
    pub(crate) async fn reload(&mut self) {
        self.seen = Some(self.contents().await);
        if self.reload_all().await == ReloadOutcome::Unchanged {
            tracing::info!("reload: no setting changed");
            self.app.metrics.reloaded(ReloadOutcome::Unchanged);
        }
    }

    /// Reloads because a file changed.
    pub(crate) async fn reload_changes(&mut self) {
        self.reload_all().await;
    }

    /// Logs and counts the outcome, except that nothing changed.
    async fn reload_all(&mut self) -> ReloadOutcome {
        let read_settings = Arc::clone(&self.read_settings);
        let read = match tokio::task::spawn_blocking(move || read_settings()).await {
            Ok(read) => read,
            Err(_) => return self.failed(&"the settings could not be read"),
        };
        let next = match read {
            Ok(next) => next,
            // One line a problem, and never a secret in it.
            Err(errors) => return self.failed(&errors.to_string().replace('\n', "; ")),
        };
        let changed = next.changed_from(&self.active);
        let parts = changed.iter().filter_map(|setting| setting.reload).collect();
        let applied = match self.apply(&parts, &next.settings) {
            Ok(applied) => applied,
            Err(error) => return self.failed(&error),
        };
        let (applied, waiting): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|setting| setting.reload.is_some_and(|part| applied.contains(&part)));
        let names = |settings: &[Changed]| {
            settings.iter().map(|setting| setting.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        next.log_warnings();
        self.active = next;
        if !waiting.is_empty() {
            tracing::warn!(settings = names(&waiting), "changed settings need a restart");
        }
        if applied.is_empty() {
            return ReloadOutcome::Unchanged;
        }
        tracing::info!(settings = names(&applied), "changed settings applied");
        let keys = &self.active.settings.keys;
        let is_applied = |key: &&KeySource| applied.iter().any(|it| it.reload == Some(key.reload));
        self.app.recent.keys_exchanged(keys.iter().filter(is_applied));
        self.app.metrics.reloaded(ReloadOutcome::Succeeded);
        ReloadOutcome::Succeeded
    }

    fn failed(&self, problem: &dyn std::fmt::Display) -> ReloadOutcome {
        tracing::error!(%problem, "reload rejected; previous settings remain active");
        self.app.metrics.reloaded(ReloadOutcome::Failed);
        ReloadOutcome::Failed
    }

    /// Replaces `parts` by those of `next`, and returns those that it replaced. Everything is built
    /// first, so that an error changes nothing. What did not change stays: a random key must not be
    /// replaced by another one.
    fn apply(
        &self,
        parts: &BTreeSet<Reloadable>,
        next: &Settings,
    ) -> Result<BTreeSet<Reloadable>, AppError> {
        let Secrets { sealing_keys, cookie_keys, signing_keys, meet } = Secrets::new(next)?;
        let app = &self.app;
        // Each is exchanged once at most, so each is taken out of its option.
        let mut signing_keys = Some(signing_keys);
        let mut sealing_keys = Some(sealing_keys);
        let mut cookie_keys = Some(cookie_keys);
        let (mut csrf_key, mut meet_issuer) = meet.map(|meet| (meet.csrf_key, meet.issuer)).unzip();
        let mut identity = next.tls.clone();
        let mut exchange = |part: Reloadable| match part {
            Reloadable::SigningKeys => signing_keys
                .take()
                .map(|keys| app.signing_keys.replace(keys, app.issuer.ttl + LEEWAY)),
            Reloadable::SealingKeys => {
                sealing_keys.take().map(|keys| app.sealing_keys.replace(keys))
            }
            Reloadable::CookieKeys => cookie_keys.take().map(|keys| app.cookie_keys.replace(keys)),
            Reloadable::OidcClientSecret => {
                app.login.replace_client_secrets(next.oidc.client_secrets());
                Some(())
            }
            Reloadable::OidcClientKey => {
                app.login.replace_client_keys(next.oidc.client_keys());
                Some(())
            }
            Reloadable::Clients => {
                let clients = Clients::new(next, &app.settings, &app.public_url);
                app.verifier.replace_audience(clients.audiences());
                app.metrics.begin_clients(
                    Surface::Native,
                    &clients.labels(),
                    &crate::http::TRANSPORTS,
                );
                app.clients.store(Arc::new(clients));
                Some(())
            }
            Reloadable::ClaimsHookSecret => app
                .hook
                .as_ref()
                .zip(next.hook.secret.clone())
                .map(|(hook, secret)| hook.replace_secret(secret)),
            Reloadable::MeetCsrfSecret => {
                app.meet.as_ref().zip(csrf_key.take()).map(|(meet, key)| {
                    let keys = meet.csrf_keys.load().followed_by(key, meet.session_ttl);
                    meet.csrf_keys.store(Arc::new(keys));
                })
            }
            Reloadable::MeetTokenSecretKey => app
                .meet
                .as_ref()
                .zip(meet_issuer.take())
                .map(|(meet, issuer)| meet.issuer.store(Arc::new(issuer))),
            Reloadable::Tls => self
                .identities
                .as_ref()
                .zip(identity.take())
                .map(|(identities, identity)| identities.replace(identity)),
        };
        Ok(parts.iter().copied().filter(|part| exchange(*part).is_some()).collect())
    }
}
