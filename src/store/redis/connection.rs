//! Clients of `fred` from a URL: servers, credentials, TLS, timeouts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::types::Builder;
use fred::types::RespVersion;
use fred::types::config::{
    ClusterDiscoveryPolicy, Config, ReconnectPolicy, ServerConfig, TlsConfig, TlsConnector,
    TlsHostMapping, UnresponsiveConfig,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;
use zeroize::Zeroizing;

use crate::store::StoreError;

/// Capacity of the queue between the connection and the task that forwards messages. On overflow
/// the task notices and every subscription reads again.
const MESSAGES: usize = 8192;

/// Maximum pause between two attempts to connect.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(2);

/// Where Redis is. One of
/// `redis://[user:password@]host[:port][/database]`,
/// `redis+unix:///path/to/socket[?db=database]`,
/// `redis-sentinel://[user:password@]host[:port][/database]?sentinelServiceName=name` with further
/// sentinels as `&node=host:port` and their own credentials as `&sentinelUsername=` and
/// `&sentinelPassword=`, or
/// `redis-cluster://[user:password@]host[:port]` with further nodes as `?node=host:port`.
/// `rediss` instead of `redis` is TLS; `ca=/path/to/file.pem` then replaces the system's
/// certificates. `valkey` and `valkeys` mean the same.
#[derive(Clone)]
pub struct RedisUrl(Zeroizing<String>);

impl RedisUrl {
    /// Checks a URL as far as possible without connecting.
    ///
    /// # Errors
    /// When no connection can be made with it.
    pub fn parse(text: &str) -> Result<Self, UnusableUrl> {
        let url = Self(Zeroizing::new(text.to_owned()));
        Plan::new(&url, Duration::from_secs(1)).and_then(|plan| plan.client())?;
        Ok(url)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RedisUrl(redacted)")
    }
}

/// How to connect, checked and ready for use.
pub(crate) struct Plan {
    config: Config,
    timeout: Duration,
}

/// No connection can be made with the URL. Does not repeat it, because it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("unusable: {0}")]
pub struct UnusableUrl(String);

impl From<UnusableUrl> for StoreError {
    fn from(error: UnusableUrl) -> Self {
        Self::Unavailable(format!("the URL of Redis is {error}"))
    }
}

fn malformed(why: &str) -> UnusableUrl {
    UnusableUrl(why.to_owned())
}

impl Plan {
    /// Reads the URL.
    pub(crate) fn new(url: &RedisUrl, timeout: Duration) -> Result<Self, UnusableUrl> {
        let (scheme, rest) = url.0.split_once("://").ok_or_else(|| malformed("no scheme"))?;
        let (family, suffix) = match scheme.find(['-', '+']) {
            Some(at) => scheme.split_at(at),
            None => (scheme, ""),
        };
        let tls = match family {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(malformed("unknown scheme")),
        };
        if !matches!(suffix, "" | "-cluster" | "-sentinel" | "+unix") || (tls && suffix == "+unix")
        {
            return Err(malformed("unknown scheme"));
        }
        // The library's TLS trusts only the system's certificates and uses the process-wide crypto
        // provider; ours is set below, so the library gets the scheme without TLS.
        let plain = format!("redis{suffix}://{rest}");
        let parsed = Url::parse(&plain).map_err(|_| malformed("syntax"))?;
        let mut config =
            Config::from_url(&plain).map_err(|error| malformed(error.kind().to_str()))?;
        let mut authority = None;
        for (name, value) in parsed.query_pairs() {
            match name.as_ref() {
                "ca" if tls => authority = Some(value.into_owned()),
                "ca" => return Err(malformed("`ca` without TLS")),
                "db" if suffix == "+unix" => {
                    let database = value.parse().map_err(|_| malformed("`db` is no number"))?;
                    config.database = Some(database);
                }
                _ => {}
            }
        }
        if tls {
            config.tls = Some(tls_config(authority.as_deref(), suffix == "-cluster")?);
        }
        if let ServerConfig::Clustered { policy, .. } = &mut config.server {
            // The servers in the URL may be the ones that failed.
            *policy = ClusterDiscoveryPolicy::UseCache;
        }
        // Start without Redis and wait for it.
        config.fail_fast = false;
        config.version = RespVersion::RESP3;
        Ok(Self { config, timeout })
    }

    /// Whether channels are sharded.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.config.server, ServerConfig::Clustered { .. })
    }

    /// What to change in the URL if the server's port speaks TLS and the URL does not, or the other
    /// way round; `None` where an attempt to connect failed for another reason.
    pub(crate) fn tls_remedy(&self, error: &Error) -> Option<&'static str> {
        let details = error.details();
        let found = |texts: &[&str]| texts.iter().any(|text| details.contains(text));
        if self.config.tls.is_some() {
            // Without TLS a server waits for the end of the command that it takes a handshake for, or
            // answers in plain text.
            let fits = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Sentinel)
                || found(&["InvalidContentType", "InvalidMessage"]);
            fits.then_some(
                "no TLS handshake; if the port is one without TLS, the URL needs redis: in place of \
                 rediss:, or valkey: in place of valkeys:",
            )
        } else {
            // With TLS a server closes the connection, after an alert that is no answer.
            let fits = matches!(
                error.kind(),
                ErrorKind::Timeout | ErrorKind::Parse | ErrorKind::Canceled | ErrorKind::Sentinel
            ) || found(&[
                "Connection closed",
                "ConnectionReset",
                "UnexpectedEof",
                "BrokenPipe",
                "Invalid frame type prefix",
            ]);
            fits.then_some(
                "no answer in plain text; if the port speaks TLS, the URL needs rediss: in place of \
                 redis:, or valkeys: in place of valkey:",
            )
        }
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::from_config(self.config.clone());
        let timeout = self.timeout;
        builder.with_connection_config(|connection| {
            connection.connection_timeout = timeout;
            connection.internal_command_timeout = timeout;
            connection.tcp.nodelay = Some(true);
            connection.unresponsive = UnresponsiveConfig {
                max_timeout: Some(timeout.saturating_mul(3)),
                interval: Duration::from_secs(1),
            };
        });
        // Without end. The library also waits before the very first attempt, so a start takes at
        // least the first pause.
        let max_pause = u32::try_from(MAX_RECONNECT_PAUSE.as_millis()).unwrap_or(2000);
        let mut policy = ReconnectPolicy::new_exponential(0, 5, max_pause, 2);
        policy.set_jitter(15);
        builder.set_policy(policy);
        builder
    }

    /// A client for commands, not yet connected.
    pub(crate) fn client(&self) -> Result<Client, UnusableUrl> {
        self.builder().build().map_err(|error| malformed(error.kind().to_str()))
    }

    /// A client for subscriptions, not yet connected.
    pub(crate) fn subscriber(&self) -> Result<SubscriberClient, UnusableUrl> {
        let mut builder = self.builder();
        let timeout = self.timeout;
        builder.with_performance_config(|performance| {
            performance.broadcast_channel_capacity = MESSAGES;
            performance.default_command_timeout = timeout;
        });
        builder.build_subscriber_client().map_err(|error| malformed(error.kind().to_str()))
    }
}

/// Trusts the certificates in `authority` (a PEM file), else those of the system.
fn tls_config(authority: Option<&str>, cluster: bool) -> Result<TlsConfig, UnusableUrl> {
    let mut roots = rustls::RootCertStore::empty();
    match authority {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| malformed(&format!("`ca`: {error}")))?;
            roots.add_parsable_certificates(certificates);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(malformed("no certificate to trust"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| malformed("no TLS version"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConfig {
        connector: TlsConnector::from(client),
        // Nodes of a cluster name each other by address; certificates are for the host's name.
        hostnames: if cluster { TlsHostMapping::DefaultHost } else { TlsHostMapping::None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(url: &str) -> Result<Plan, UnusableUrl> {
        Plan::new(&RedisUrl(Zeroizing::new(url.to_owned())), Duration::from_secs(1))
    }

    #[test]
    fn every_documented_form_of_url_is_understood() {
        for (url, cluster, database) in [
            ("redis://localhost", false, None),
            ("redis://alice:secret@localhost:6380/3", false, Some(3)),
            ("redis+unix:///run/redis.sock?db=2", false, Some(2)),
            ("redis-sentinel://a:26379/1?sentinelServiceName=main&node=b:26379", false, Some(1)),
            ("redis-cluster://a:7000?node=b:7000", true, None),
            ("valkey://localhost", false, None),
        ] {
            let plan = plan(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(plan.is_cluster(), cluster, "{url}");
            assert_eq!(plan.config.database, database, "{url}");
        }
    }

    #[test]
    fn a_refused_url_keeps_its_password() {
        for url in [
            "http://alice:hunter2@localhost",
            "alice:hunter2@localhost",
            "redis://alice:hunter2@localhost/x",
            "redis://alice:hunter2@localhost:port",
            "rediss://alice:hunter2@localhost?ca=/nonexistent",
            "redis://alice:hunter2@localhost?ca=/nonexistent",
            "redis-sentinel://alice:hunter2@localhost",
            "redis+unix://alice:hunter2@x/run/redis.sock?db=many",
        ] {
            let error = plan(url).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }
}
