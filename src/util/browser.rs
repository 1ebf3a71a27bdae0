//! Opens the person's browser.

use std::process::{Command, Stdio};

use crate::util::huge_pages;

/// Opens `url` in the desktop's default browser; false when there is none. `url` must be `http` or
/// `https`: a desktop opens other schemes with other programs.
pub fn open(url: &str) -> bool {
    huge_pages::accept();
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let spawned = Command::new(opener)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match spawned {
        Ok(mut child) => {
            // Some run until the browser ends.
            std::thread::spawn(move || child.wait());
            true
        }
        Err(error) => {
            tracing::debug!(%error, "no browser opened");
            false
        }
    }
}
