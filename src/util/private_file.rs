//! Files and folders that only their owner can read. Windows has no modes: there a file inherits the
//! rights of its folder.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    path::Path,
};

/// Options for a file that is made for its owner alone (mode 0600).
pub(crate) fn options() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there are no modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder for its owner alone (mode 0700), and those above it where they are missing.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// What every user of this machine may do with a file, where it is too much for a secret.
pub(crate) fn access_of_others(path: &Path) -> Option<&'static str> {
    #[cfg(unix)]
    {
        let metadata = std::fs::metadata(path).ok()?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        match (mode & 0o002 != 0, mode & 0o004 != 0) {
            (true, _) => Some("written"),
            (false, true) => Some("read"),
            (false, false) => None,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
