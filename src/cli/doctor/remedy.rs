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
    Authorization,
    Methods,
    Errors,
    BodySize,
    AnswerHeaders,
    PageHeaders,
    Query,
    Cache,
    Path,
    Redirect,
    Upstream,
    Access,
    RateLimit,
    Origin,
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
                "respondingTimeouts: {writeTimeout: 0}  # of the entry point; \
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
                "# remove Set-Cookie from customResponseHeaders, Cookie from \
                 customRequestHeaders"
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
                "respondingTimeouts: {writeTimeout: 0}  # of the entry point"
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
            (Self::Authorization, Nginx) => {
                "proxy_set_header Authorization $http_authorization;  # and no auth_basic"
            }
            (Self::Authorization, Caddy) => {
                "# remove: header_up Authorization, request_header Authorization"
            }
            (Self::Authorization, Haproxy) => "# remove: http-request del-header Authorization",
            (Self::Authorization, Traefik) => {
                "# remove Authorization from customRequestHeaders, and basicAuth"
            }
            (Self::Methods, Nginx) => "# remove: limit_except, if ($request_method …)",
            (Self::Methods, Caddy) => "# remove the matcher: method",
            (Self::Methods, Haproxy) => "# remove: http-request deny if … METH_… or { method … }",
            (Self::Methods, Traefik) => "# remove from the rule: Method(…)",
            (Self::Errors, Nginx) => "proxy_intercept_errors off;",
            (Self::Errors, Caddy) => "# remove from reverse_proxy: handle_response, replace_status",
            (Self::Errors, Haproxy) => {
                "# remove: http-response return, http-response set-status, errorfiles of the relay's \
                 own errors"
            }
            (Self::Errors, Traefik) => "# remove the errors middleware",
            (Self::BodySize, Nginx) => "client_max_body_size 64k;",
            (Self::BodySize, Caddy) => "request_body { max_size 64KB }  # or none",
            (Self::BodySize, Haproxy) => "# remove: http-request deny if { req.body_size gt … }",
            (Self::BodySize, Traefik) => "# remove the buffering middleware",
            (Self::AnswerHeaders, Nginx) => {
                "proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k;"
            }
            (Self::AnswerHeaders, Caddy) => {
                "# remove from transport http, or raise: max_response_header"
            }
            (Self::AnswerHeaders, Haproxy) => "tune.bufsize 32768  # in global",
            (Self::AnswerHeaders, Traefik) => {
                "# remove what refuses /addons/transit/ from rules and middlewares"
            }
            (Self::PageHeaders, Nginx) => {
                "# remove: add_header and proxy_hide_header of Referrer-Policy, \
                 Cross-Origin-Opener-Policy, Content-Security-Policy; the relay sends them"
            }
            (Self::PageHeaders, Caddy) => {
                "# remove: header Referrer-Policy, Cross-Origin-Opener-Policy, \
                 Content-Security-Policy; the relay sends them"
            }
            (Self::PageHeaders, Haproxy) => {
                "# remove: http-response set-header, add-header and del-header of Referrer-Policy, \
                 Cross-Origin-Opener-Policy, Content-Security-Policy; the relay sends them"
            }
            (Self::PageHeaders, Traefik) => {
                "# remove referrerPolicy, contentSecurityPolicy and Cross-Origin-Opener-Policy from \
                 the headers middleware; the relay sends them"
            }
            (Self::Query, Nginx) => "large_client_header_buffers 4 16k;",
            (Self::Query, Caddy) => "servers { max_header_size 64KB }  # in the global options",
            (Self::Query, Haproxy) => "# remove: http-request deny by the length of url or query",
            (Self::Query, Traefik) => "# remove the middleware that refuses long queries",
            (Self::Cache, Nginx) => {
                "# remove: proxy_cache, expires, add_header and proxy_hide_header of Cache-Control"
            }
            (Self::Cache, Caddy) => "# remove: cache, header Cache-Control",
            (Self::Cache, Haproxy) => "# remove: cache-use, http-response set-header Cache-Control",
            (Self::Cache, Traefik) => "# remove Cache-Control from customResponseHeaders",
            (Self::Path, Nginx) => {
                "proxy_pass http://127.0.0.1:8080/;  # with a slash, in location /relay/"
            }
            (Self::Path, Caddy) => "handle_path /relay/* { reverse_proxy 127.0.0.1:8080 }",
            (Self::Path, Haproxy) => "http-request replace-path /relay/(.*) /\\1",
            (Self::Path, Traefik) => "stripPrefix: {prefixes: [/relay]}",
            (Self::Redirect, Nginx) => {
                "server { listen 80; return 301 https://$host$request_uri; }"
            }
            (Self::Redirect, Caddy) => "# remove: auto_https disable_redirects",
            (Self::Redirect, Haproxy) => "http-request redirect scheme https unless { ssl_fc }",
            (Self::Redirect, Traefik) => {
                "redirections: {entryPoint: {to: websecure, scheme: https}}  # of entry point web"
            }
            (Self::Upstream, Nginx) => {
                "proxy_pass http://127.0.0.1:8080;  # where the relay listens"
            }
            (Self::Upstream, Caddy) => "reverse_proxy 127.0.0.1:8080  # where the relay listens",
            (Self::Upstream, Haproxy) => "server relay1 127.0.0.1:8080  # where the relay listens",
            (Self::Upstream, Traefik) => {
                "servers: [{url: 'http://127.0.0.1:8080'}]  # where the relay listens"
            }
            (Self::Access, Nginx) => "# remove: auth_basic, auth_request, deny, return, rewrite",
            (Self::Access, Caddy) => "# remove: basic_auth, forward_auth, respond, redir",
            (Self::Access, Haproxy) => {
                "# remove: http-request auth, http-request deny, http-request redirect"
            }
            (Self::Access, Traefik) => "# remove: basicAuth, forwardAuth, ipAllowList",
            (Self::RateLimit, Nginx) => "limit_req zone=… burst=50 nodelay;  # or none",
            (Self::RateLimit, Caddy) => "# remove: rate_limit, or raise it to 50 events in 10s",
            (Self::RateLimit, Haproxy) => {
                "http-request deny if { sc_http_req_rate(0) gt 50 }  # in 10s, or none"
            }
            (Self::RateLimit, Traefik) => "rateLimit: {average: 10, burst: 50}  # or none",
            (Self::Origin, Nginx) => "proxy_set_header Origin $http_origin;",
            (Self::Origin, Caddy) => "# remove from reverse_proxy: header_up Origin",
            (Self::Origin, Haproxy) => "# remove: http-request del-header Origin",
            (Self::Origin, Traefik) => "# remove Origin from customRequestHeaders",
            (Self::Date, Nginx | Caddy | Haproxy | Traefik) => {
                "timedatectl set-ntp true  # on the host of the proxy and of the relay"
            }
        }
    }
}
