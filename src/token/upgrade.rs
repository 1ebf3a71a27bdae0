//! A rolling upgrade from version 0.1: while one of its instances may share the store, everything is
//! sealed in the format that it opens. For one release.

use std::{sync::Arc, time::Duration};

use crate::{
    session::Digest,
    store::{Store, StoreError},
    token::sealing::{Format, KeyRing},
    util::clock::UnixTime,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// For how long a store remembers that this version has used it.
const MEMORY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Notices by marks in the store, one for each day, whether instances of version 0.1 use it: on the
/// first day of this version they do, and on every day on which one of their sessions is found.
pub struct RollingUpgrade {
    store: Arc<dyn Store>,
    /// Whether other instances, and so those of 0.1, can use the store.
    is_shared: bool,
    configured: Option<Format>,
}

impl RollingUpgrade {
    /// For the store, which is shared with other instances if `is_shared`; `configured` is the
    /// operator's decision, if any.
    pub fn new(store: Arc<dyn Store>, is_shared: bool, configured: Option<Format>) -> Self {
        Self { store, is_shared, configured }
    }

    /// The format to seal in until the store has been asked.
    pub fn initial_format(&self) -> Format {
        match self.configured {
            Some(format) => format,
            None if self.is_shared => Format::V1,
            None => Format::V2,
        }
    }

    /// Asks the store whether instances of 0.1 may use it, and lets `rings` seal accordingly.
    /// `noticed`: whether this instance has found a session of theirs since it asked last.
    ///
    /// # Errors
    /// When the store is unavailable; nothing changes then.
    pub async fn check(&self, rings: &[&KeyRing], noticed: bool) -> Result<(), StoreError> {
        if self.configured.is_some() || !self.is_shared {
            return Ok(());
        }
        let today = UnixTime::now().as_secs() / DAY.as_secs();
        let first = self.store.mark(Digest::of(b"edition:0.2"), MEMORY).await?;
        if first || noticed {
            self.store.mark(met_on(today), 2 * DAY).await?;
        }
        let recently = self.store.is_marked(met_on(today)).await?
            || self.store.is_marked(met_on(today.saturating_sub(1))).await?;
        let format = if recently { Format::V1 } else { Format::V2 };
        for ring in rings {
            if ring.format() != format {
                tracing::info!(?format, "cookies and tokens are sealed in another format");
                ring.seal_in(format);
            }
        }
        Ok(())
    }
}

/// The mark of a day on which instances of 0.1 used the store.
fn met_on(day: u64) -> Digest {
    Digest::of(format!("edition:0.1:{day}").as_bytes())
}
