//! Every setting by name: what it is for and what it is when nothing is said.
//!
//! The README's table and the check for unknown names are made from it.

/// One setting.
pub(crate) struct Entry {
    /// Name without the prefix, in upper case.
    pub name: &'static str,
    /// Default, in words where it is no value.
    pub default: &'static str,
    /// Meaning, in one line.
    pub meaning: &'static str,
    /// Whether its value is hidden, and `<NAME>_FILE` is read.
    pub secret: bool,
}

const fn plain(name: &'static str, default: &'static str, meaning: &'static str) -> Entry {
    Entry { name, default, meaning, secret: false }
}

const fn secret(name: &'static str, default: &'static str, meaning: &'static str) -> Entry {
    Entry { name, default, meaning, secret: true }
}

pub(crate) const TABLE: &[Entry] = &[
    plain("LISTEN", "`127.0.0.1:8080`", "Address to listen on"),
    plain(
        "PUBLIC_URL",
        "`http://<LISTEN>`",
        "Where browsers and add-ins reach the relay; `https` unless loopback",
    ),
    plain(
        "TLS_CERTIFICATE",
        "none",
        "PEM file with the certificate chain for `LISTEN`, which then speaks TLS alone",
    ),
    plain("TLS_KEY", "none", "PEM file with the certificate's private key"),
    plain("METRICS_LISTEN", "`LISTEN`", "Separate address for `/metrics`"),
    plain("OIDC_ISSUER", "required", "Issuer of the OpenID provider; `https` unless loopback"),
    plain(
        "OIDC_CLIENT_ID",
        "required",
        "Client ID at the provider; redirect URI is `<PUBLIC_URL>/callback`",
    ),
    secret("OIDC_CLIENT_SECRET", "none", "Client secret; without it the relay is a public client"),
    plain("OIDC_SCOPES", "`openid profile email`", "Scopes asked for"),
    plain("OIDC_TIMEOUT", "`10s`", "Longest back-channel request"),
    plain("OIDC_CLOCK_SKEW", "`60s`", "Tolerated clock difference in ID tokens"),
    secret("REDIS_URL", "none", "Redis or Valkey; without it sessions live in memory"),
    plain("REDIS_PREFIX", "`token-relay`", "Prefix of keys and channels"),
    plain("REDIS_TIMEOUT", "`2s`", "Longest store command"),
    secret(
        "COOKIE_KEYS",
        "random; required with Redis",
        "Secrets of 32 characters or more, separated by commas or lines; the first seals cookies, all open",
    ),
    secret("SEALING_KEYS", "random; required with Redis", "Likewise, for tokens in the store"),
    plain("SIGNING_ALGORITHM", "`ES256`", "`ES256`, `EdDSA`, `RS256` or `HS256`"),
    secret(
        "SIGNING_KEY",
        "random; required with Redis",
        "PEM private key (PKCS#8), or a secret of 32 characters or more for HS256; of several, one after the other, the first signs, all verify",
    ),
    secret("PREVIOUS_SIGNING_KEY", "none", "Likewise, keys that verify only"),
    plain("TOKEN_ISSUER", "`PUBLIC_URL`", "`iss` of access tokens"),
    plain("TOKEN_AUDIENCE", "`PUBLIC_URL`", "`aud` of access tokens, separated by commas"),
    plain("TOKEN_SCOPE", "`addons`", "`scope` of access tokens"),
    plain("TOKEN_TTL", "`1h`", "Life of access tokens"),
    plain(
        "REFRESH_TOKEN_TTL",
        "off",
        "How long a refresh token may stay unused; for bound sessions",
    ),
    plain("REFRESH_GRANT_TTL", "`30days`", "How long refresh tokens may follow one login"),
    plain("TOKEN_CLAIMS", "`name,email`", "Claims copied from ID token or userinfo"),
    plain("SESSION_TTL", "`15m`", "Life of a session"),
    plain("TRANSIT_TOKEN_TTL", "`2m`", "Life of a transit token"),
    plain(
        "DELIVERY_GRACE",
        "`30s`",
        "How long a delivered token stays readable by the same credentials",
    ),
    plain("HEARTBEAT", "`15s`", "Pause between signs of life on a stream"),
    plain("DRAIN_TIMEOUT", "`30s`", "Longest shutdown"),
    plain(
        "ALLOWED_ORIGINS",
        "none",
        "Origins that may call from a browser, exact, separated by commas",
    ),
    plain("TRUSTED_PROXIES", "none", "Networks whose `X-Forwarded-For` is believed"),
    plain("REQUIRE_BOUND_SESSIONS", "`false`", "Turns the legacy profile off"),
    plain("MAX_STREAMS", "`19000`", "Waiting readers on one instance"),
    plain("MAX_STREAMS_PER_SESSION", "`4`", "Waiting readers of one session"),
    plain("MAX_CONNECTIONS", "`19500`", "Connections to one instance"),
    plain("MAX_BODY", "`16384`", "Largest request body in bytes"),
    plain("SESSIONS_PER_MINUTE", "`60`", "Sessions that one client address may create"),
    plain("HEADER_TIMEOUT", "`10s`", "Longest wait for a request head, idle connections included"),
    plain(
        "FRAME_ANCESTORS",
        "none",
        "Hosts that may frame the dialog pages (CSP `frame-ancestors`)",
    ),
    plain("HSTS", "off", "`max-age` of `Strict-Transport-Security`"),
    secret(
        "INTROSPECTION_CLIENTS",
        "none",
        "`id:secret` pairs for introspection and revocation, separated by commas",
    ),
    plain("BRAND_NAME", "`token-relay`", "Name on the dialog pages"),
    plain("BRAND_LOGO_URL", "none", "Logo on the dialog pages, `https`"),
    plain("BRAND_COLOR", "built in", "Accent colour of the dialog pages, `#rrggbb`"),
    plain("OFFICE_JS_URL", "none", "Where dialog pages load Office.js from, for `messageParent`"),
    plain("LOG_FORMAT", "`text`", "`text` or `json`"),
    plain(
        "OTLP_ENDPOINT",
        "off",
        "Base URL of an OpenTelemetry receiver for traces (OTLP over HTTP); alias `OTEL_EXPORTER_OTLP_ENDPOINT`",
    ),
    secret(
        "OTLP_HEADERS",
        "none",
        "Headers of each export, `name=value` by commas; alias `OTEL_EXPORTER_OTLP_HEADERS`",
    ),
    plain("OTEL_SERVICE_NAME", "`token-relay`", "Name in traces; also without the prefix"),
    plain(
        "OTEL_TRACES_SAMPLER",
        "`parentbased_always_on`",
        "Which traces: `[parentbased_]always_on`, `…always_off`, `…traceidratio`; also without the prefix",
    ),
    plain(
        "OTEL_TRACES_SAMPLER_ARG",
        "`1`",
        "Part of the traces for `…traceidratio`, 0 to 1; also without the prefix",
    ),
    plain("MEET_COMPATIBLE", "`false`", "The meet-compatible surface; alias `ADDONS_ENABLED`"),
    plain("MEET_RETURN_TO", "required when on", "URLs below which `authenticate` may return"),
    plain("MEET_USER_ID_CLAIM", "`sub`", "ID-token claim that becomes `user_id`"),
    plain("MEET_LOGIN_TTL", "`12h`", "Life of the browser login"),
    plain("ADDONS_SESSION_TTL", "`1h`", "Life of a session of that surface"),
    plain("ADDONS_TRANSIT_TOKEN_TTL", "`2m`", "Life of its transit tokens"),
    secret(
        "ADDONS_CSRF_SECRET",
        "required when on",
        "Key of its CSRF tokens, 32 characters or more",
    ),
    secret(
        "ADDONS_TOKEN_SECRET_KEY",
        "required when on",
        "Key of its access tokens, 32 characters or more",
    ),
    plain("ADDONS_TOKEN_ALG", "`HS256`", "`HS256`, `HS384` or `HS512`"),
    plain("ADDONS_TOKEN_ISSUER", "`lasuite-meet`", "`iss` of its access tokens"),
    plain("ADDONS_TOKEN_AUDIENCE", "`addons`", "`aud` of its access tokens"),
    plain("ADDONS_TOKEN_TTL", "`2h`", "Life of its access tokens"),
    plain("ADDONS_TOKEN_TYPE", "`Bearer`", "`token_type` in its answers"),
    plain("ADDONS_TOKEN_SCOPE", "`rooms:create`", "`scope` of its access tokens"),
    plain(
        "ADDONS_RANDOM_TOKEN_BYTE_LENGTH",
        "`60`",
        "Random bytes in session ID and transit token",
    ),
    plain("ADDONS_SESSION_ID_COOKIE", "`addonsSid`", "Name of its session cookie"),
];

/// The setting of that name.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

/// The known name that is most like `name`.
pub(crate) fn nearest(name: &str) -> &'static str {
    TABLE
        .iter()
        .map(|entry| entry.name)
        .min_by_key(|known| distance(known, name))
        .unwrap_or_default()
}

/// How many letters must be changed, added or left out (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right = right.as_bytes();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, letter) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..right.len() {
            let change = diagonal + usize::from(letter != right[column]);
            diagonal = row[column + 1];
            row[column + 1] = change.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// All settings as a Markdown table, for the README.
pub fn markdown() -> String {
    let mut text = String::from("| Setting | Default | Meaning |\n| --- | --- | --- |\n");
    for entry in TABLE {
        let file = if entry.secret { "`[_FILE]`" } else { "" };
        let Entry { name, default, meaning, .. } = entry;
        text.push_str(&format!("| `{name}`{file} | {default} | {meaning} |\n"));
    }
    text
}
