//! The session store.

use std::time::Duration;

use crate::{
    settings::{
        declaration::{secret, section, setting},
        value::{MINUTE, SECOND, duration},
    },
    store::{RedisOptions, StoreOptions, redis::RedisUrl},
};

section! {
    /// The session store.
    pub struct StoreSettings {
        /// Redis or Valkey; without it sessions are in memory
        url: Option<RedisUrl> = secret("REDIS_URL").optional("none"), redis_url;
        /// Prefix of keys and channels
        prefix: String = setting("REDIS_PREFIX").default("token-relay"), prefix;
        /// Timeout of one store command
        timeout: Duration = setting("REDIS_TIMEOUT").default("2s"), duration(SECOND / 10, MINUTE);
    }
}

impl StoreSettings {
    /// What the store is opened with.
    pub fn options(&self) -> StoreOptions {
        let redis = |url: &RedisUrl| RedisOptions {
            url: url.clone(),
            prefix: self.prefix.clone(),
            command_timeout: self.timeout,
        };
        self.url.as_ref().map_or(StoreOptions::Memory, |url| StoreOptions::Redis(redis(url)))
    }
}

fn redis_url(text: &str) -> Result<RedisUrl, String> {
    RedisUrl::parse(text)
        .map_err(|error| format!("a URL such as redis://host:6379/0; this is {error}"))
}

/// Braces choose the cluster's slot; the store sets its own.
fn prefix(text: &str) -> Result<String, String> {
    if text.contains(['{', '}']) {
        return Err("a prefix without braces".to_owned());
    }
    Ok(text.to_owned())
}
