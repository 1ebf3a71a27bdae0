//! Whether the client of a request has shut down its sending side.

use tokio_util::sync::CancellationToken;

/// A request extension that says when the client has shut down its sending side (half-close).
///
/// The request is answered all the same. Only a response that waits has to find out whether the
/// client is still there: closing the connection looks the same at first.
#[derive(Clone, Debug, Default)]
pub struct SendingEnded(CancellationToken);

impl SendingEnded {
    /// Notes that the sending side is shut down.
    pub fn notify(&self) {
        self.0.cancel();
    }

    /// Waits until it is. Cancel-safe.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}
