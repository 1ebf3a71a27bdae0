//! The fields of a session's hash besides its state; `scripts/session.lua` names the fields.
//!
//! Written so that version 0.1 reads it, and read as version 0.1 wrote it: for one release both run
//! on the same Redis.

use fred::types::Value;
use serde::{Deserialize, Serialize};

use crate::{
    session::{Digest, Profile, SessionDetails, UserCode},
    store::{StoreError, StoredDetails, StoredSession, redis::reply::Reply},
    telemetry::TraceContext,
};

/// The field `i`. Version 0.1 has the details here, in clear.
#[derive(Serialize, Deserialize)]
struct Info {
    profile: Profile,
    #[serde(default, skip_serializing)]
    user_code: Option<UserCode>,
    #[serde(default, skip_serializing)]
    client_name: Option<String>,
    #[serde(default, skip_serializing)]
    origin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
}

/// Appends the fields of a new session and their values.
pub(super) fn write(
    arguments: &mut Vec<Value>,
    session: StoredSession,
    transit: Option<Digest>,
) -> Result<(), StoreError> {
    let StoredSession { profile, session_token, browser, trace, details, client } = session;
    let info = Info { profile, user_code: None, client_name: None, origin: None, trace };
    let info = serde_json::to_string(&info)
        .map_err(|_| StoreError::Corrupt("a session that cannot be written".to_owned()))?;
    let mut field = |name: &'static str, value: Value| {
        arguments.extend([Value::from_static_str(name), value]);
    };
    field("m", Value::from_static_str(name_of(profile)));
    field("i", info.into());
    for (name, digest) in [("k", session_token), ("b", browser), ("t", transit)] {
        if let Some(digest) = digest {
            field(name, digest.to_base64url().into());
        }
    }
    if let Some(client) = client {
        field("n", client.as_str().into());
    }
    if let StoredDetails::Sealed(envelope) = details {
        field("o", envelope.into());
    }
    Ok(())
}

/// Reads what a script returned by `described`.
pub(super) fn read(reply: &Reply) -> Result<StoredSession, StoreError> {
    let info: Info = serde_json::from_slice(reply.field(2)?).map_err(|_| reply.unexpected())?;
    let sealed = reply.field(5)?;
    let details = if sealed.is_empty() {
        let Info { user_code, client_name, origin, .. } = info;
        let details = SessionDetails { user_code, client_name, origin, ..Default::default() };
        StoredDetails::Clear(Box::new(details))
    } else {
        StoredDetails::Sealed(sealed.clone())
    };
    Ok(StoredSession {
        profile: info.profile,
        session_token: reply.digest(3)?,
        browser: reply.digest(4)?,
        trace: info.trace,
        details,
        // The scripts compare it; the details have it too.
        client: None,
    })
}

fn name_of(profile: Profile) -> &'static str {
    match profile {
        Profile::Legacy => "legacy",
        Profile::Bound => "bound",
        Profile::Device => "device",
        Profile::Meet => "meet",
    }
}
