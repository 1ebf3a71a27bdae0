//! The listeners, the proxies in front of them, and the log.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use url::Url;

use crate::{
    api::Secret,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        source::Source,
        value::{
            DAY, HOUR, SECOND, address, choice, duration, flag, list_of, network, path, secret_of,
            secure_url,
        },
    },
    util::tls::TlsIdentity,
};

section! {
    /// The listeners, the proxies in front of them, and the log.
    pub struct ServerSettings {
        /// Address to listen on
        listen: SocketAddr = setting("LISTEN").default("127.0.0.1:8080"), address;
        /// URL by which browsers and add-ins reach the relay; `https` unless loopback
        public_url: Option<Url> =
            setting("PUBLIC_URL").optional("`http://<LISTEN>`"), secure_url;
        /// PEM file with the certificate chain for `LISTEN`, which then speaks TLS only
        tls_certificate: Option<PathBuf> =
            setting("TLS_CERTIFICATE").reload(Reloadable::Tls), path;
        /// PEM file with the certificate's private key
        tls_key: Option<PathBuf> = setting("TLS_KEY").reload(Reloadable::Tls), path;
        /// Separate address for `/metrics` and `/operator/`, in plain HTTP
        metrics_listen: Option<SocketAddr> =
            setting("METRICS_LISTEN").optional("`LISTEN`"), address;
        /// Password of the operator's page at `/operator/`, 32 characters or more. Without it the page is at
        /// `METRICS_LISTEN` only, and ends no tokens
        operator_token: Option<Secret> = secret("OPERATOR_TOKEN").optional("none"), secret_of(32);
        /// Networks whose `X-Forwarded-For` is believed
        trusted_proxies: Vec<IpNet> = setting("TRUSTED_PROXIES").optional("none"), list_of(network);
        /// `max-age` of `Strict-Transport-Security`
        hsts: Option<Duration> =
            setting("HSTS").optional("off"), duration(SECOND, 3650 * DAY);
        /// Whether `Strict-Transport-Security` holds for every subdomain of the host too
        hsts_include_subdomains: bool = setting("HSTS_INCLUDE_SUBDOMAINS").default("false"), flag;
        /// Whom to tell of a vulnerability: URIs such as `mailto:security@example.org`, separated by
        /// commas, for `/.well-known/security.txt` (RFC 9116)
        security_contact: Vec<Url> =
            setting("SECURITY_CONTACT").optional("none"), list_of(contact);
        /// When that stops being valid, such as `2027-06-30T00:00:00Z`; less than a year ahead
        security_expires: Option<SystemTime> =
            setting("SECURITY_EXPIRES").optional("required with `SECURITY_CONTACT`"), moment;
        /// Maximum duration of a shutdown
        drain_timeout: Duration = setting("DRAIN_TIMEOUT").default("30s"), duration(SECOND, HOUR);
        /// Format of the log, `text` or `json`
        log_format: LogFormat = setting("LOG_FORMAT").default("text"),
            choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    }
}

/// Whom to tell: a URI that one can write to, call or open (RFC 9116 §2.5.3).
fn contact(text: &str) -> Result<Url, String> {
    let url =
        Url::parse(text).ok().filter(|url| ["https", "mailto", "tel"].contains(&url.scheme()));
    url.ok_or_else(|| "URIs that begin with https:, mailto: or tel:".to_owned())
}

/// A moment (RFC 3339).
fn moment(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text)
        .map_err(|_| "a date and time in UTC such as 2027-06-30T00:00:00Z".to_owned())
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl ServerSettings {
    pub(crate) fn check(&self, source: &mut Source) {
        let private = self.listen.ip().is_loopback() || self.listen.ip().is_unspecified();
        if !private && !source.has("PUBLIC_URL") {
            source.missing("PUBLIC_URL", "because LISTEN is no loopback address");
        }
        match self.security_expires {
            None if !self.security_contact.is_empty() => {
                source.missing("SECURITY_EXPIRES", "with SECURITY_CONTACT");
            }
            Some(expires) if expires <= SystemTime::now() => source.warn(
                "SECURITY_EXPIRES",
                "is over, so that `/.well-known/security.txt` is not served; check the contact and \
                 set a later one",
            ),
            Some(expires) if expires > SystemTime::now() + 366 * DAY => source.warn(
                "SECURITY_EXPIRES",
                "is more than a year ahead; nobody then checks whether the contact still exists",
            ),
            _ => {}
        }
        if self.metrics_listen == Some(self.listen) && self.listen.port() != 0 {
            source.reject("METRICS_LISTEN", "another address than LISTEN");
        }
        if self.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            source.warn(
                "TRUSTED_PROXIES",
                "trusts every address, so that anybody chooses the client address that limits and \
                 the log see; name the proxy's",
            );
        }
        if self.listen.ip().is_loopback() {
            return;
        }
        if !source.has("TLS_CERTIFICATE") && self.trusted_proxies.is_empty() {
            source.warn(
                "LISTEN",
                "plain HTTP on an address that others reach, and no TRUSTED_PROXIES; set \
                 TLS_CERTIFICATE, or put a proxy with TLS in front and name it",
            );
        }
        if self.metrics_listen.is_none() {
            source.warn(
                "METRICS_LISTEN",
                "unset: `/metrics` is served on LISTEN, to everybody that reaches it",
            );
        }
    }

    /// Reads certificate and key, where they are set.
    pub(crate) fn identity(source: &mut Source) -> Option<TlsIdentity> {
        let names = ["TLS_CERTIFICATE", "TLS_KEY"];
        for (name, other) in [(names[0], names[1]), (names[1], names[0])] {
            if source.has(name) && !source.has(other) {
                source.missing(other, &format!("with {name}"));
            }
        }
        let [chain, key] = names.map(|name| source.content(name));
        match TlsIdentity::from_pem(&chain?, &key?) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let name = if error.is_of_the_key() { names[1] } else { names[0] };
                source.reject(name, &error.to_string());
                None
            }
        }
    }
}
