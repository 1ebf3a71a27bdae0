//! The number of files that the process may open (`RLIMIT_NOFILE`), of which every connection is one.
//! Windows has no such limit.

/// Files besides the connections of the main listener: listeners, the runtime, connections to store
/// and provider, the metrics listener, settings files while they are read.
#[cfg(unix)]
const OTHER_FILES: u64 = 192;

/// Raises the soft limit to the hard one and returns how many of the configured `max_connections`
/// fit below it. Logs a warning when not all do.
#[cfg(unix)]
pub(crate) fn raise(max_connections: usize) -> usize {
    match raise_soft_limit() {
        Ok(limit) => {
            let available = connections_below(limit);
            if available < max_connections {
                tracing::warn!(
                    max_connections,
                    open_files = limit,
                    available,
                    "the limit of open files (RLIMIT_NOFILE) is too low for MAX_CONNECTIONS; \
                     further connections are refused"
                );
            }
            available.min(max_connections)
        }
        Err(error) => {
            tracing::warn!(%error, "the limit of open files (RLIMIT_NOFILE) cannot be read or raised");
            max_connections
        }
    }
}

/// The configured number, which nothing limits.
#[cfg(not(unix))]
pub(crate) fn raise(max_connections: usize) -> usize {
    max_connections
}

#[cfg(unix)]
fn raise_soft_limit() -> std::io::Result<u64> {
    use rlimit::Resource;
    let (soft, hard) = Resource::NOFILE.get()?;
    if soft < hard && Resource::NOFILE.set(hard, hard).is_err() {
        return Ok(soft);
    }
    Ok(hard)
}

/// Connections that leave room for the other files; with a very low limit, half of it.
#[cfg(unix)]
fn connections_below(limit: u64) -> usize {
    let connections = limit.saturating_sub(OTHER_FILES).max(limit / 2);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn room_is_left_for_other_files() {
        assert_eq!(connections_below(20_000), 19_808);
        assert_eq!(connections_below(256), 128);
        assert_eq!(connections_below(u64::MAX), usize::MAX - 192);
    }
}
