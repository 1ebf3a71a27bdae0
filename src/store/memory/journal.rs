//! What must outlive a restart of a process without Redis: revocations and ended grants, in a file.
//!
//! The file holds digests and times only. What has expired is removed when it is opened, and now and
//! then while it is in use.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use redb::{Database, ReadableTable as _, TableDefinition};

use crate::{
    store::StoreError,
    util::{clock::UnixTime, private_file},
};

/// EndedKind and digest, to the time up to which it has ended and that of the expiry, both in milliseconds
/// since the Unix epoch.
const ENDED: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("ended");

/// Number of entries written between two removals of what has expired.
const SWEEP_INTERVAL: u32 = 1000;

/// Why the file could not be read or written.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What ended. The numbers are in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedKind {
    /// A token or a browser login, by a mark.
    Mark = 0,
    /// A grant.
    Grant = 1,
    /// Everything of an account.
    Account = 2,
}

impl EndedKind {
    const ALL: [Self; 3] = [Self::Mark, Self::Grant, Self::Account];
}

/// An entry of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JournalEntry {
    pub(super) kind: EndedKind,
    pub(super) digest: [u8; 32],
    /// Up to when everything has ended; the epoch where that says nothing.
    pub(super) at: UnixTime,
    pub(super) expires_at: UnixTime,
}

impl JournalEntry {
    fn key(&self) -> [u8; 33] {
        let mut key = [self.kind as u8; 33];
        key[1..].copy_from_slice(&self.digest);
        key
    }

    fn read(key: &[u8], (at, expires_at): (u64, u64)) -> Option<Self> {
        let (kind, digest) = key.split_first()?;
        let kind = EndedKind::ALL.into_iter().find(|known| *known as u8 == *kind)?;
        let digest = digest.try_into().ok()?;
        let (at, expires_at) = (UnixTime::from_millis(at), UnixTime::from_millis(expires_at));
        Some(Self { kind, digest, at, expires_at })
    }
}

/// The file, which one process at a time has open.
#[derive(Clone)]
pub(super) struct Journal {
    database: Arc<Database>,
    written: Arc<AtomicU32>,
}

impl Journal {
    /// Opens the file, which only its owner may read where it is new, and gives what it holds.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or another process has it open.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<JournalEntry>), StoreError> {
        let failed = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("STATE_FILE {}: {error}", path.display()))
        };
        let mut options = private_file::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(|error| failed(&error))?;
        let database = Database::builder().create_file(file).map_err(|error| failed(&error))?;
        let journal = Self { database: Arc::new(database), written: Arc::default() };
        let entries = journal.sweep().map_err(|error| failed(&error))?;
        Ok((journal, entries))
    }

    /// Writes an entry, and returns when it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) async fn write(&self, entry: JournalEntry) -> Result<(), StoreError> {
        let journal = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            journal.insert(&entry)?;
            let number = journal.written.fetch_add(1, Ordering::Relaxed);
            if number % SWEEP_INTERVAL == SWEEP_INTERVAL - 1 {
                journal.sweep()?;
            }
            Ok::<_, Failed>(())
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StoreError::Unavailable(format!("STATE_FILE: {error}"))),
            Err(_) => Err(StoreError::Unavailable("STATE_FILE: not written".to_owned())),
        }
    }

    fn insert(&self, entry: &JournalEntry) -> Result<(), Failed> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ENDED)?;
            let times = (entry.at.as_millis(), entry.expires_at.as_millis());
            table.insert(entry.key().as_slice(), times)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes what has expired, and gives the rest.
    fn sweep(&self) -> Result<Vec<JournalEntry>, Failed> {
        let now = UnixTime::now().as_millis();
        let transaction = self.database.begin_write()?;
        let mut entries = Vec::new();
        {
            let mut table = transaction.open_table(ENDED)?;
            table.retain(|_, (_, expires_at)| expires_at > now)?;
            for item in table.iter()? {
                let (key, times) = item?;
                entries.extend(JournalEntry::read(key.value(), times.value()));
            }
        }
        transaction.commit()?;
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_was_written_is_there_again_until_it_expires() {
        let name = format!("token-relay-journal-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let entry = |kind, digest, ttl| JournalEntry {
            kind,
            digest: [digest; 32],
            at: UnixTime::from_millis(7),
            expires_at: UnixTime::from_millis((UnixTime::now() + ttl).as_millis()),
        };
        let hour = Duration::from_secs(3600);
        let lasting = [
            entry(EndedKind::Mark, 1, hour),
            entry(EndedKind::Grant, 2, hour),
            entry(EndedKind::Account, 2, 2 * hour),
        ];
        let (journal, entries) = Journal::open(&path).unwrap();
        assert_eq!(entries, []);
        for entry in lasting {
            journal.write(entry).await.unwrap();
        }
        journal.write(entry(EndedKind::Mark, 3, Duration::ZERO)).await.unwrap();
        assert!(matches!(Journal::open(&path), Err(StoreError::Unavailable(_))), "in use");
        drop(journal);
        let (_, entries) = Journal::open(&path).unwrap();
        assert_eq!(entries, lasting);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "no database").unwrap();
        assert!(matches!(Journal::open(&path), Err(StoreError::Unavailable(_))), "damaged");
        std::fs::remove_file(&path).unwrap();
    }
}
