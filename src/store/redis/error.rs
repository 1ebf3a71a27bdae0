//! What the errors of the library and of the server mean.

use fred::error::{Error, ErrorKind};

use crate::store::StoreError;

/// Whether the server has to be sent a script in full: on first use, after a restart, after a failover.
pub(super) fn is_unknown_script(error: &Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// Whether the server could not read a script because of its flags.
pub(super) fn is_unread_flag(error: &Error) -> bool {
    let details = error.details();
    details.starts_with("ERR Error compiling script") && details.contains("near '#'")
}

/// The text of an error. Redis 6 puts that of a command within a script behind the script's name.
pub(super) fn reason(error: &Error) -> &str {
    let details = error.details();
    let within_script = details
        .strip_prefix("ERR Error running script")
        .map(|rest| rest.rsplit_once(": -").map_or(rest, |(_, reason)| reason));
    within_script.unwrap_or(details)
}

/// Converts the library's error. Redis repeats the arguments of an unknown command in its answer;
/// they are cut off.
pub(super) fn store_error(error: &Error) -> StoreError {
    let details = reason(error);
    let details = details.split(", with args").next().unwrap_or_default();
    let text = format!("{}: {details}", error.kind().to_str());
    let lowercase = details.to_ascii_lowercase();
    if ["unknown command `hello`", "unknown command 'hello'"]
        .iter()
        .any(|it| lowercase.contains(it))
    {
        return StoreError::Unavailable(format!(
            "the server is older than Redis 6, or HELLO is renamed ({text})"
        ));
    }
    if lowercase.contains("unknown redis command") || lowercase.contains("unknown command") {
        return StoreError::Unavailable(format!(
            "the server lacks a command: it is renamed, or the server is older than Redis 6, or \
             than Redis 7 in a cluster ({text})"
        ));
    }
    match error.kind() {
        ErrorKind::Parse | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
            StoreError::Corrupt(text)
        }
        ErrorKind::Unknown if details.starts_with("ERR ") => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}
