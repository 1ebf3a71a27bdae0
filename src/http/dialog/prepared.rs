//! Sign-ins that are prepared while the browser is on its way from `/callback` to the request that completes
//! them: the token is signed and sealed, and so is the cookie that follows. A sign-in for which nothing is
//! found, because the browser came to another instance or too late, is completed from its cookie alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::Response;
use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

use crate::{
    http::{
        App, cookies,
        dialog::cookie::{Account, Dialog, Finished, Handle, Stage},
    },
    session::Identity,
    signin::{Completed, Issued},
    telemetry::Trace,
    token::KeyId,
};

/// Maximum number of sign-ins that are prepared at once.
const MAX_PREPARED: usize = 1024;

/// How long a prepared sign-in waits for its browser.
const TTL: Duration = Duration::from_secs(10);

/// Prepared sign-ins by the handle of their dialog. Nobody gets one who does not present the very cookie
/// that its browser was sent.
#[derive(Default)]
pub struct PreparedSignIns(Mutex<HashMap<Handle, Box<Prepared>>>);

/// A prepared sign-in, and who may have it.
struct Prepared {
    /// The cookie's value.
    cookie: String,
    /// What the cookie holds.
    dialog: Dialog,
    ahead: Box<Ahead>,
}

impl Prepared {
    /// Whether this is the cookie. Its last bytes encode the authentication tag, which only its owner knows:
    /// compared first, and in constant time, they leave nothing to be learnt from the rest.
    fn is_for(&self, cookie: &str) -> bool {
        const TAG: usize = 32;
        let (own, presented) = (self.cookie.as_bytes(), cookie.as_bytes());
        match (own.last_chunk::<TAG>(), presented.last_chunk::<TAG>()) {
            (Some(tag), Some(presented_tag)) => {
                bool::from(tag.ct_eq(presented_tag)) && own == presented
            }
            _ => false,
        }
    }
}

/// What was made before the request that completes the sign-in.
pub(super) struct Ahead {
    /// The token, not stored yet.
    pub(super) issued: Issued,
    /// The dialog's next cookie, unless it is too large.
    pub(super) cookie: Option<FinishedCookie>,
}

/// The cookie of a finished dialog, for a sign-in that is completed as it was prepared.
pub(super) struct FinishedCookie {
    value: HeaderValue,
    completed: Completed,
    sealing_key: Option<KeyId>,
}

impl FinishedCookie {
    /// The value of `Set-Cookie`; `None` where another token was issued, or the keys were replaced.
    pub(super) fn of(self, completed: &Completed, app: &App) -> Option<HeaderValue> {
        let is_current =
            self.completed == *completed && self.sealing_key == app.cookie_keys.current();
        is_current.then_some(self.value)
    }
}

impl PreparedSignIns {
    fn by_handle(&self) -> MutexGuard<'_, HashMap<Handle, Box<Prepared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the sign-in of the browser that holds `cookie`.
    fn take(&self, handle: &Handle, cookie: &str) -> Option<Box<Prepared>> {
        let mut by_handle = self.by_handle();
        if by_handle.get(handle)?.is_for(cookie) { by_handle.remove(handle) } else { None }
    }
}

impl App {
    /// Prepares the sign-in of a dialog once `response`, which sets its cookie, is sent. Does nothing where
    /// the person is asked about the account first.
    pub(super) fn prepare_sign_in(
        self: &Arc<Self>,
        response: &Response,
        handle: &Handle,
        dialog: Dialog,
    ) {
        let Stage::LoggedIn { account: Account::InCookie(identity), proven } = &dialog.stage else {
            return;
        };
        if proven.needs_account_page() || self.prepared.by_handle().len() >= MAX_PREPARED {
            return;
        }
        let name = cookies::dialog_name(self, handle.as_str());
        let Some(cookie) = cookies::set_by(response.headers(), &name) else { return };
        let (app, identity) = (Arc::clone(self), Arc::clone(identity));
        let (handle, cookie) = (handle.clone(), cookie.to_owned());
        tokio::spawn(async move {
            let Some(ahead) = app.prepare(&handle, &dialog, &identity) else { return };
            let session = dialog.session().key;
            let prepared = Box::new(Prepared { cookie: cookie.clone(), dialog, ahead });
            app.prepared.by_handle().insert(handle.clone(), prepared);
            tracing::debug!(%session, "access token issued ahead");
            // A task of its own, which has no room for a dialog.
            tokio::spawn(async move {
                tokio::time::sleep(TTL).await;
                app.prepared.take(&handle, &cookie);
            });
        });
    }

    fn prepare(&self, handle: &Handle, dialog: &Dialog, identity: &Identity) -> Option<Box<Ahead>> {
        let sign_in = self.sign_in(&Trace::none());
        let issued = sign_in.issue_ahead(dialog.session(), &dialog.recipient(), identity)?;
        let sealing_key = self.cookie_keys.current();
        let completed = issued.completed();
        let mut finished = dialog.clone();
        finished.stage = Stage::Finished(Finished::new(identity, &completed, true));
        let value = self.dialog_cookie(handle, &finished);
        let cookie = value.map(|value| FinishedCookie { value, completed, sealing_key });
        Some(Box::new(Ahead { issued, cookie }))
    }

    /// Takes the sign-in that was prepared for the browser that holds its cookie.
    pub(super) fn take_prepared(
        &self,
        headers: &HeaderMap,
        handle: &Handle,
    ) -> Option<(Dialog, Box<Ahead>)> {
        if self.prepared.by_handle().is_empty() {
            return None;
        }
        let cookie = cookies::get(headers, &cookies::dialog_name(self, handle.as_str()))?;
        let Prepared { dialog, ahead, .. } = *self.prepared.take(handle, &cookie)?;
        Some((dialog, ahead))
    }
}
