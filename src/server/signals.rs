//! Signals: SIGTERM and SIGINT shut down, SIGHUP reloads the settings.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    server::{ReadSettings, Server, error::AppError, reload::Reloader},
    settings::Snapshot,
};

/// The signals that the service handles.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Installs the handlers; from here on none of these signals ends the process by itself.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn listen() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for any of the signals, for a process that has nothing to reload.
    pub async fn any(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Runs `server` until SIGTERM or SIGINT, then shuts it down. SIGHUP and changed files reload the
/// settings.
pub async fn run_until_signal(
    server: Server,
    signals: Signals,
    snapshot: Snapshot,
    read_settings: ReadSettings,
) {
    let Signals { mut terminate, mut interrupt, mut hang_up } = signals;
    // A closed terminal sends the same signal as an operator who wants a reload.
    let has_terminal = io::stdin().is_terminal();
    let identities = server.identities.clone();
    let mut reloader = Reloader::new(snapshot, read_settings, Arc::clone(&server.app), identities);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => {
                if has_terminal {
                    break;
                }
                reloader.reload().await;
            }
            () = reloader.files_changed() => reloader.reload_changes().await,
        }
    }
    server.shut_down().await;
}
