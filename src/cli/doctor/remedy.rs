//! The line of a proxy's configuration that mends a finding.

use http::{HeaderMap, header};

/// A reverse proxy whose configuration is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Proxy {
    /// nginx
    Nginx,
    /// Caddy
    Caddy,
    /// HAProxy
    Haproxy,
    /// Traefik
    Traefik,
}

impl Proxy {
    /// The proxy that names itself in `Server` or `Via` (RFC 9110 §10.2.4, §7.6.3).
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = [header::SERVER, header::VIA].into_iter();
        let mut values = values.flat_map(|name| headers.get_all(name));
        values.find_map(|value| {
            let value = value.to_str().ok()?.to_ascii_lowercase();
            let known = [
                ("nginx", Self::Nginx),
                ("openresty", Self::Nginx),
                ("caddy", Self::Caddy),
                ("haproxy", Self::Haproxy),
                ("traefik", Self::Traefik),
            ];
            known.into_iter().find(|(word, _)| value.contains(word)).map(|(_, proxy)| proxy)
        })
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Caddy => "Caddy",
            Self::Haproxy => "HAProxy",
            Self::Traefik => "Traefik",
        }
    }
}

/// What a proxy does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Buffering,
    IdleTimeout,
    Compression,
    Cors,
    Cookies,
    WebSocket,
    WebSocketTimeout,
    Http2,
    Metrics,
    Date,
}

impl Fault {
    /// The line that mends it.
    pub(super) fn line(self, proxy: Proxy) -> &'static str {
        use Proxy::{Caddy, Haproxy, Nginx, Traefik};
        match (self, proxy) {
            (Self::Buffering, Nginx) => "proxy_buffering off; proxy_http_version 1.1;",
            (Self::Buffering, Caddy) => {
                "flush_interval -1  # in reverse_proxy, without response_buffers or buffer_responses"
            }
            (Self::Buffering, Haproxy) => "# remove: http-response wait-for-body",
            (Self::Buffering, Traefik) => {
                "responseForwarding: {flushInterval: -1ms}  # and no buffering middleware"
            }
            (Self::IdleTimeout, Nginx) => "proxy_read_timeout 75s;",
            (Self::IdleTimeout, Caddy) => {
                "# remove from transport http, or raise to 75s: read_timeout, response_header_timeout"
            }
            (Self::IdleTimeout, Haproxy) => "timeout server 75s  # and: timeout client 75s",
            (Self::IdleTimeout, Traefik) => {
                "respondingTimeouts: {readTimeout: 0, writeTimeout: 0}  # of the entry point; \
                 forwardingTimeouts: {responseHeaderTimeout: 75s} of the serversTransport"
            }
            (Self::Compression, Nginx) => {
                "gzip off;  # or gzip_types without text/event-stream and *"
            }
            (Self::Compression, Caddy) => {
                "encode { match { header Content-Type text/html* } }  # or no encode"
            }
            (Self::Compression, Haproxy) => {
                "compression type text/html text/css application/javascript"
            }
            (Self::Compression, Traefik) => "compress: {excludedContentTypes: [text/event-stream]}",
            (Self::Cors, Nginx) => {
                "# remove: add_header Access-Control-…, proxy_hide_header Access-Control-…, and what \
                 answers OPTIONS; the relay does that"
            }
            (Self::Cors, Caddy) => {
                "# remove: header Access-Control-…, and what answers OPTIONS; the relay does that"
            }
            (Self::Cors, Haproxy) => {
                "# remove: http-response set-header, add-header and del-header of \
                 Access-Control-…, and what answers OPTIONS; the relay does that"
            }
            (Self::Cors, Traefik) => {
                "# remove accessControl… from the headers middleware; the relay does that"
            }
            (Self::Cookies, Nginx) => {
                "# remove: proxy_hide_header Set-Cookie, proxy_cookie_domain, proxy_cookie_path, \
                 proxy_cookie_flags, proxy_set_header Cookie"
            }
            (Self::Cookies, Caddy) => {
                "# remove from reverse_proxy: header_down Set-Cookie, header_up Cookie"
            }
            (Self::Cookies, Haproxy) => {
                "# remove: http-response del-header Set-Cookie, http-request del-header Cookie"
            }
            (Self::Cookies, Traefik) => {
                "# remove Set-Cookie from customResponseHeaders, Cookie from customRequestHeaders"
            }
            (Self::WebSocket, Nginx) => {
                "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                 proxy_set_header Connection \"upgrade\";"
            }
            (Self::WebSocket, Caddy) => {
                "# remove from reverse_proxy: header_up Upgrade, header_up Connection"
            }
            (Self::WebSocket, Haproxy) => "# remove: http-request del-header Upgrade",
            (Self::WebSocket, Traefik) => {
                "# remove Upgrade and Connection from customRequestHeaders"
            }
            (Self::WebSocketTimeout, Nginx) => "proxy_read_timeout 75s; proxy_send_timeout 75s;",
            (Self::WebSocketTimeout, Caddy) => {
                "# remove from reverse_proxy, or raise: stream_timeout"
            }
            (Self::WebSocketTimeout, Haproxy) => "timeout tunnel 75s",
            (Self::WebSocketTimeout, Traefik) => {
                "respondingTimeouts: {readTimeout: 0, writeTimeout: 0}  # of the entry point"
            }
            (Self::Http2, Nginx) => "listen 443 ssl http2;  # from 1.25.1 on also: http2 on;",
            (Self::Http2, Caddy) => "servers { protocols h1 h2 h3 }  # in the global options",
            (Self::Http2, Haproxy) => "bind :443 ssl crt … alpn h2,http/1.1",
            (Self::Http2, Traefik) => "alpnProtocols: [h2, http/1.1]  # of tls.options.default",
            (Self::Metrics, Nginx) => {
                "location = /metrics { return 404; } location /operator/ { return 404; }"
            }
            (Self::Metrics, Caddy) => "respond /metrics 404; respond /operator/* 404",
            (Self::Metrics, Haproxy) => {
                "http-request return status 404 if { path /metrics } or { path_beg /operator/ }"
            }
            (Self::Metrics, Traefik) => {
                "rule: Host(`relay.example`) && !Path(`/metrics`) && !PathPrefix(`/operator/`)"
            }
            (Self::Date, Nginx | Caddy | Haproxy | Traefik) => {
                "timedatectl set-ntp true  # on the host of the proxy and of the relay"
            }
        }
    }
}
