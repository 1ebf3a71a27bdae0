//! Why the service cannot start.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    http::pages::PagesError, oidc, store::StoreError, telemetry::TracingError, token::KeyError,
};

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A configured key is unusable.
    #[error("{setting}: {source}")]
    Key {
        /// The setting.
        setting: &'static str,
        /// Why it is unusable.
        source: KeyError,
    },
    /// The OpenID client cannot be built.
    #[error("OIDC_ISSUER: {0}")]
    Login(#[from] oidc::LoginError),
    /// The store cannot be built.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The dialog pages cannot be prepared.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Traces cannot be exported.
    #[error("OTLP_ENDPOINT: {0}")]
    Traces(#[from] TracingError),
    /// A file with certificate authorities cannot be read.
    #[error("{setting}: {source}")]
    Authorities {
        /// The setting.
        setting: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The HTTP client of a service of the operator's cannot be built.
    #[error("cannot call services: {0}")]
    Service(#[from] reqwest::Error),
    /// The thread that watches parked connections cannot be started.
    #[error("cannot watch connections: {0}")]
    Parking(io::Error),
    /// Signal handlers cannot be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(io::Error),
}

/// An address cannot be listened on. Says what to do where the cause is a usual one.
#[derive(Debug)]
pub struct ListenError {
    /// The configured address.
    pub address: SocketAddr,
    /// The error of the operating system.
    pub source: io::Error,
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        write!(formatter, "cannot listen on {address}: {source}")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                formatter.write_str("; another program listens there: end it, or take another port")
            }
            io::ErrorKind::PermissionDenied if address.port() < 1024 => formatter.write_str(
                "; a port below 1024 needs the capability CAP_NET_BIND_SERVICE: grant it, or take \
                 a port from 1024 on",
            ),
            io::ErrorKind::PermissionDenied => Ok(()),
            // The error is EAFNOSUPPORT where the kernel has no IPv6 or a sandbox denies it, and
            // EADDRNOTAVAIL where IPv6 is disabled on the interfaces.
            kind => match in_ipv4(address) {
                Some(other) => {
                    write!(formatter, "; if this host has no IPv6, listen on {other} instead")
                }
                None if kind == io::ErrorKind::AddrNotAvailable => formatter.write_str(
                    "; no interface of this host has that address: 0.0.0.0 means all of IPv4",
                ),
                None => Ok(()),
            },
        }
    }
}

/// The address of IPv4 that listens to the same, for an address of IPv6.
fn in_ipv4(address: &SocketAddr) -> Option<SocketAddr> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    let ip = if ip.is_loopback() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    Some(SocketAddr::new(ip.into(), address.port()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_listened_on_comes_with_what_to_do() {
        for (address, code, remedy) in [
            ("[::]:8080", libc::EAFNOSUPPORT, "; if this host has no IPv6, listen on 0.0.0.0:8080"),
            ("[::1]:8080", libc::EADDRNOTAVAIL, "has no IPv6, listen on 127.0.0.1:8080 instead"),
            ("[2001:db8::1]:80", libc::EADDRNOTAVAIL, "listen on 0.0.0.0:80 instead"),
            ("192.0.2.1:80", libc::EADDRNOTAVAIL, "; no interface of this host has that address"),
            ("[::]:80", libc::EACCES, "; a port below 1024 needs the capability"),
            ("0.0.0.0:443", libc::EACCES, "; a port below 1024 needs the capability"),
            ("[::]:8080", libc::EADDRINUSE, "; another program listens there"),
            ("127.0.0.1:8080", libc::EADDRINUSE, "; another program listens there"),
        ] {
            let error = ListenError {
                address: address.parse().unwrap(),
                source: io::Error::from_raw_os_error(code),
            };
            let text = error.to_string();
            assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
            assert!(text.contains(remedy), "{text}");
        }
        let address = "127.0.0.1:8080".parse().unwrap();
        let source = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(ListenError { address, source }.to_string().ends_with("(os error 24)"));
    }
}
