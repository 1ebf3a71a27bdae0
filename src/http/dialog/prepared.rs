//! Tokens that are signed while the browser is on its way from `/callback` to the request that completes
//! the sign-in. A sign-in for which none is found, because the browser came to another instance or too
//! late, is completed from its cookie alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::Response;
use http::HeaderMap;

use crate::{
    http::{
        App, cookies,
        dialog::cookie::{Account, Dialog, Handle, Stage},
    },
    session::{Digest, Identity},
    signin::Issued,
    telemetry::Trace,
};

/// Maximum number of sign-ins that are prepared at once.
const MAX_PREPARED: usize = 1024;

/// How long a prepared sign-in waits for its browser.
const TTL: Duration = Duration::from_secs(10);

/// Sign-ins that only have to be completed, by the digest of the cookie that their browser was sent.
/// Nobody who does not present that very cookie finds them.
#[derive(Default)]
pub struct PreparedSignIns(Mutex<HashMap<Digest, Box<Prepared>>>);

/// A sign-in that only has to be completed.
pub(super) struct Prepared {
    /// What the cookie holds.
    pub(super) dialog: Dialog,
    /// The token, not stored yet.
    pub(super) issued: Issued,
}

impl PreparedSignIns {
    fn by_cookie(&self) -> MutexGuard<'_, HashMap<Digest, Box<Prepared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Signs the token of a dialog once `response`, which sets its cookie, is sent. Does nothing where the
    /// person is asked about the account first.
    pub(super) fn prepare_sign_in(
        self: &Arc<Self>,
        response: &Response,
        handle: &Handle,
        dialog: Dialog,
    ) {
        let Stage::LoggedIn { account: Account::InCookie(identity), proven } = &dialog.stage else {
            return;
        };
        if proven.needs_account_page() || self.prepared.by_cookie().len() >= MAX_PREPARED {
            return;
        }
        let name = cookies::dialog_name(self, handle.as_str());
        let Some(cookie) = cookies::set_by(response.headers(), &name) else { return };
        let cookie = Digest::of(cookie.as_bytes());
        let (app, identity) = (Arc::clone(self), Arc::clone(identity));
        tokio::spawn(async move {
            if app.prepare(cookie, dialog, &identity) {
                // A task of its own, which has no room for a dialog.
                tokio::spawn(async move {
                    tokio::time::sleep(TTL).await;
                    app.prepared.by_cookie().remove(&cookie);
                });
            }
        });
    }

    /// Signs the token; whether one could be signed.
    fn prepare(&self, cookie: Digest, dialog: Dialog, identity: &Identity) -> bool {
        let sign_in = self.sign_in(&Trace::none());
        let issued = sign_in.issue_ahead(dialog.session(), &dialog.recipient(), identity);
        let Some(issued) = issued else { return false };
        let session = dialog.session().key;
        let prepared = Box::new(Prepared { dialog, issued });
        self.prepared.by_cookie().insert(cookie, prepared);
        tracing::debug!(%session, "access token issued ahead");
        true
    }

    /// Takes the sign-in that was prepared for the browser that holds its cookie.
    pub(super) fn take_prepared(&self, headers: &HeaderMap, handle: &Handle) -> Option<Prepared> {
        let name = cookies::dialog_name(self, handle.as_str());
        let cookie = cookies::get(headers, &name)?;
        let prepared = self.prepared.by_cookie().remove(&Digest::of(cookie.as_bytes()))?;
        Some(*prepared)
    }
}
