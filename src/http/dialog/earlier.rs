//! What the cookie of a dialog of version 0.1 holds, whose instances may take any step of a sign-in in
//! a rolling upgrade. For one release.

use serde::{Deserialize, Serialize};

use crate::{
    oidc::LoginAttempt,
    session::{Digest, Identity, SessionKey},
    telemetry::TraceContext,
};

/// A dialog of 0.1.
#[derive(Deserialize)]
pub(super) struct EarlierDialog {
    pub(super) add_in: AddIn,
    pub(super) stage: EarlierStage,
    /// Whether this version wrote it; see [`LoggingInForEarlier`].
    #[serde(default)]
    pub(super) is_copy: bool,
}

/// What 0.1 needs of a dialog of this version that is at the provider, under the name by which 0.1
/// looks for it. No more than that: proxies take 4 KiB of a response's fields by default.
#[derive(Serialize)]
pub(super) struct LoggingInForEarlier<'a> {
    pub(super) add_in: AddIn,
    pub(super) stage: LoggingIn<'a>,
    pub(super) is_copy: bool,
}

/// The one stage of [`LoggingInForEarlier`].
#[derive(Serialize)]
pub(super) enum LoggingIn<'a> {
    LoggingIn { attempt: &'a LoginAttempt },
}

/// Who waits for the end of the dialog.
#[derive(Serialize, Deserialize)]
pub(super) struct AddIn {
    pub(super) session: SessionKey,
    pub(super) session_token: Option<Digest>,
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<TraceContext>,
}

/// How far it is.
#[derive(Deserialize)]
pub(super) enum EarlierStage {
    Confirming { csrf: String },
    LoggingIn { attempt: LoginAttempt },
    LoggedIn { identity: Box<Identity> },
    Finished { account: String },
}

/// A dialog of this version, with the member that 0.1 needs beside `stage`.
#[derive(Serialize)]
pub(super) struct ForBoth<'a, Dialog> {
    #[serde(flatten)]
    pub(super) dialog: &'a Dialog,
    pub(super) add_in: AddIn,
}
