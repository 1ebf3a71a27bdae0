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

/// A dialog of either version; `Dialog` is one of this.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum AnyDialog<Dialog> {
    Current(Box<Dialog>),
    Earlier(Box<EarlierDialog>),
}

/// A dialog of this version, with the member that 0.1 needs beside `stage`.
#[derive(Serialize)]
pub(super) struct ForBoth<'a, Dialog> {
    #[serde(flatten)]
    pub(super) dialog: &'a Dialog,
    pub(super) add_in: AddIn,
}
