//! The session store.

use std::{path::PathBuf, time::Duration};

use crate::{
    settings::{
        declaration::{secret, section, setting},
        source::Source,
        value::{MINUTE, SECOND, duration, number, path},
    },
    store::{StoreOptions, StoreUrl},
};

const MEBIBYTE: usize = 1 << 20;

section! {
    /// The session store.
    pub struct StoreSettings {
        /// Redis or Valkey; without it sessions are in memory
        url: Option<StoreUrl> = secret("REDIS_URL").optional("none"), store_url;
        /// File in which revocations outlive a restart without Redis; one process at a time has it open
        state_file: Option<PathBuf> = setting("STATE_FILE").optional("none"), path;
        /// Prefix of keys and channels
        prefix: String = setting("REDIS_PREFIX").default("token-relay"), prefix;
        /// Timeout of one store command
        timeout: Duration = setting("REDIS_TIMEOUT").default("2s"), duration(SECOND / 10, MINUTE);
        /// Maximum size of the session store without Redis, in bytes; beyond it, creation answers 503
        memory: usize = setting("MEMORY_STORE_MAX").default("268435456"), number(MEBIBYTE..=1 << 40);
    }
}

impl StoreSettings {
    /// What the store is opened with.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            url: self.url.clone(),
            prefix: self.prefix.clone(),
            command_timeout: self.timeout,
            state_file: self.state_file.clone(),
            max_memory: self.memory,
        }
    }

    pub(crate) fn check(&self, source: &mut Source) {
        match (&self.url, &self.state_file) {
            (Some(_), Some(_)) => source.warn("STATE_FILE", "is not used with REDIS_URL"),
            (None, None) if source.has("SIGNING_KEY") => source.warn(
                "STATE_FILE",
                "without it and without REDIS_URL, revoked tokens are valid again after a restart, \
                 because SIGNING_KEY stays the same",
            ),
            _ => {}
        }
    }
}

fn store_url(text: &str) -> Result<StoreUrl, String> {
    StoreUrl::parse(text)
        .map_err(|error| format!("a URL such as redis://host:6379/0; this is {error}"))
}

/// Braces choose the cluster's slot; the store sets its own.
fn prefix(text: &str) -> Result<String, String> {
    if text.contains(['{', '}']) {
        return Err("a prefix without braces".to_owned());
    }
    Ok(text.to_owned())
}
