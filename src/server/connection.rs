//! An accepted connection and its limits.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::server::{connection_slots::ConnectionSlot, parking::Parking};

/// Limits on the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Connections open at the same time.
    pub(crate) max_connections: usize,
    /// Time for a request head to arrive, and for the next one on an idle connection.
    pub(crate) header_timeout: Duration,
}

/// Bytes that were read already, in the pieces in which they came.
pub(crate) type Segments = VecDeque<Bytes>;

/// An accepted connection.
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) router: Router,
    pub(crate) limits: ConnectionLimits,
    /// Its slot among the connections of the listener.
    pub(crate) slot: ConnectionSlot,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tracker: TaskTracker,
    pub(crate) parking: Arc<Parking>,
}
