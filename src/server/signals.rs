//! Signals: SIGTERM and SIGINT shut down, SIGHUP reloads the settings.

use std::{io, sync::Arc};

#[cfg(unix)]
use tokio::signal::unix;
#[cfg(windows)]
use tokio::signal::windows;

use crate::{
    server::{ReadSettings, Server, error::AppError, reload::Reloader},
    settings::Snapshot,
};

/// What a signal asks for.
enum Wish {
    /// To end: SIGTERM and SIGINT; on Windows Ctrl+C, a closed console, and the end of the machine.
    End,
    /// SIGHUP, which Windows does not have.
    #[cfg(unix)]
    HangUp,
}

/// The signals that the service handles.
pub struct Signals(Handlers);

#[cfg(unix)]
struct Handlers {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
}

#[cfg(unix)]
impl Handlers {
    fn install() -> io::Result<Self> {
        let listen = unix::signal;
        // A log that has reached its limit of size (RLIMIT_FSIZE) fails to be written, no more.
        drop(listen(unix::SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self {
            terminate: listen(unix::SignalKind::terminate())?,
            interrupt: listen(unix::SignalKind::interrupt())?,
            hang_up: listen(unix::SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hang_up.recv() => Wish::HangUp,
        }
    }
}

#[cfg(windows)]
struct Handlers {
    interrupt: windows::CtrlC,
    close: windows::CtrlClose,
    shutdown: windows::CtrlShutdown,
}

#[cfg(windows)]
impl Handlers {
    fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: windows::ctrl_c()?,
            close: windows::ctrl_close()?,
            shutdown: windows::ctrl_shutdown()?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::End,
            _ = self.close.recv() => Wish::End,
            _ = self.shutdown.recv() => Wish::End,
        }
    }
}

impl Signals {
    /// Installs the handlers; from here on none of these signals ends the process by itself.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn listen() -> Result<Self, AppError> {
        Handlers::install().map(Self).map_err(AppError::Signals)
    }

    /// Waits for any of the signals, for a process that has nothing to reload.
    pub async fn any(mut self) {
        self.0.next().await;
    }
}

/// Runs `server` until SIGTERM or SIGINT, then shuts it down. SIGHUP and changed files reload the
/// settings.
pub async fn run_until_signal(
    server: Server,
    mut signals: Signals,
    snapshot: Snapshot,
    read_settings: ReadSettings,
) {
    // A closed terminal sends the same signal as an operator who wants a reload.
    #[cfg(unix)]
    let has_terminal = io::IsTerminal::is_terminal(&io::stdin());
    let identities = server.identities.clone();
    let mut reloader = Reloader::new(snapshot, read_settings, Arc::clone(&server.app), identities);
    loop {
        tokio::select! {
            wish = signals.0.next() => match wish {
                Wish::End => break,
                #[cfg(unix)]
                Wish::HangUp if has_terminal => break,
                #[cfg(unix)]
                Wish::HangUp => reloader.reload().await,
            },
            () = reloader.files_changed() => reloader.reload_changes().await,
        }
    }
    server.shut_down().await;
}
