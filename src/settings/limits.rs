//! Limits of one instance and of one client.

use std::{num::NonZeroU32, time::Duration};

use crate::settings::{
    declaration::{section, setting},
    value::{MAX, MINUTE, SECOND, duration, number},
};

section! {
    /// Limits of one instance and of one client.
    pub struct Limits {
        /// Streams that may wait on one instance
        max_streams: usize = setting("MAX_STREAMS").default("19000"), number(1..=MAX);
        /// Streams that may wait for one session
        max_streams_per_session: usize =
            setting("MAX_STREAMS_PER_SESSION").default("4"), number(1..=MAX);
        /// Connections to one instance
        max_connections: usize = setting("MAX_CONNECTIONS").default("19500"), number(1..=MAX);
        /// Maximum size of a request body in bytes
        max_body: usize = setting("MAX_BODY").default("16384"), number(256..=MAX);
        /// Sessions that one client address may create
        sessions_per_minute: NonZeroU32 =
            setting("SESSIONS_PER_MINUTE").default("60"), number(NonZeroU32::MIN..=NonZeroU32::MAX);
        /// Timeout of a request head, idle connections included
        header_timeout: Duration =
            setting("HEADER_TIMEOUT").default("10s"), duration(SECOND / 10, 5 * MINUTE);
    }
}
