//! Makes sense of the raw values: types, defaults, and what must fit together.

use std::{net::SocketAddr, path::Path, time::Duration};

use jsonwebtoken::Algorithm;
use token_relay_client::is_secure;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    settings::{
        Brand, Limits, MeetSettings, OidcSettings, RefreshSettings, Secret, Settings,
        SettingsErrors, SigningAlgorithm, Snapshot, TokenSettings, TraceSettings, source::Source,
        table::TABLE,
    },
    store::{RedisSettings, StoreSettings, redis::RedisUrl},
    telemetry::Sampler,
    token::SigningKeys,
    util::tls::Identity,
};

/// Shortest secret that keys are made of, in characters.
const MIN_SECRET_LENGTH: usize = 32;

/// Larger than any machine needs: a larger number is a slip.
const MOST: usize = 1_000_000_000;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// One line of `check-config`: name, value as shown, where it came from.
pub type Described = (&'static str, String, String);

impl Settings {
    /// Reads the settings from `environment` and the optional TOML `file`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsErrors> {
        make(&mut Source::read(environment, file))
    }

    /// What `load` would run with, secrets hidden.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn describe(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Vec<Described>, SettingsErrors> {
        let mut source = Source::read(environment, file);
        let lines = TABLE
            .iter()
            .map(|entry| {
                let shown = match source.shown(entry.name) {
                    Some(_) if entry.secret => "(set, hidden)".to_owned(),
                    Some(text) => text,
                    None => entry.default.replace('`', ""),
                };
                let origin = source.origin(entry.name).unwrap_or_else(|| "default".to_owned());
                (entry.name, shown, origin)
            })
            .collect();
        make(&mut source).map(|_| lines)
    }
}

impl Snapshot {
    /// Reads the settings as [`Settings::load`] does.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn read(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsErrors> {
        Self::make(Source::read(environment, file))
    }

    /// Settings of `token-relay demo`: the embedded provider, and whatever the environment says.
    ///
    /// # Errors
    /// Everything that is wrong with the environment.
    pub fn demo(
        listen: SocketAddr,
        issuer: &str,
        client_id: &str,
        client_secret: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsErrors> {
        // These belong to the demo; what the environment says of another provider does not fit.
        let foreign = ["TOKEN_RELAY_OIDC_", "TOKEN_RELAY_LISTEN"];
        let environment = environment
            .into_iter()
            .filter(|(name, _)| !foreign.iter().any(|prefix| name.starts_with(prefix)));
        let mut source = Source::read(environment, None);
        source.preset("LISTEN", &listen.to_string());
        source.preset("OIDC_ISSUER", issuer);
        source.preset("OIDC_CLIENT_ID", client_id);
        source.preset("OIDC_CLIENT_SECRET", client_secret);
        // One person, or one benchmark, behind one address.
        source.preset("SESSIONS_PER_MINUTE", "1000000");
        Self::make(source)
    }

    fn make(mut source: Source) -> Result<Self, SettingsErrors> {
        let settings = make(&mut source)?;
        Ok(Self { settings, digests: source.digests(), files: source.files().to_vec() })
    }
}

fn make(source: &mut Source) -> Result<Settings, SettingsErrors> {
    let listen = source
        .parse("LISTEN", "an address such as 127.0.0.1:8080")
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let oidc = oidc(source);
    let store = store(source);
    let token = token(source);
    let public_url = secure_url(source, "PUBLIC_URL");
    let is_private = listen.ip().is_loopback() || listen.ip().is_unspecified();
    if !is_private && !source.has("PUBLIC_URL") {
        source.missing("PUBLIC_URL", " because LISTEN is no loopback address");
    }
    let metrics_listen = source.parse("METRICS_LISTEN", "an address such as 127.0.0.1:9090");
    if metrics_listen == Some(listen) && listen.port() != 0 {
        source.reject("METRICS_LISTEN", "another address than LISTEN");
    }
    let settings = Settings {
        listen,
        tls: tls(source),
        public_url,
        metrics_listen,
        store,
        token,
        cookie_keys: source.secrets("COOKIE_KEYS", MIN_SECRET_LENGTH),
        sealing_keys: source.secrets("SEALING_KEYS", MIN_SECRET_LENGTH),
        session_ttl: source.duration("SESSION_TTL", 15 * MINUTE, (10 * SECOND, DAY)),
        transit_token_ttl: source.duration("TRANSIT_TOKEN_TTL", 2 * MINUTE, (SECOND, HOUR)),
        delivery_grace: source.duration("DELIVERY_GRACE", 30 * SECOND, (SECOND, HOUR)),
        heartbeat: source.duration("HEARTBEAT", 15 * SECOND, (SECOND, 5 * MINUTE)),
        drain_timeout: source.duration("DRAIN_TIMEOUT", 30 * SECOND, (SECOND, HOUR)),
        allowed_origins: origins(source),
        trusted_proxies: networks(source),
        require_bound_sessions: source.flag("REQUIRE_BOUND_SESSIONS"),
        limits: limits(source),
        meet: meet(source),
        brand: brand(source),
        frame_ancestors: frame_ancestors(source),
        hsts: source.has("HSTS").then(|| source.duration("HSTS", DAY, (SECOND, 3650 * DAY))),
        introspection_clients: clients(source),
        log_json: match source.text("LOG_FORMAT").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(_) => {
                source.reject("LOG_FORMAT", "text or json");
                false
            }
        },
        traces: traces(source),
        oidc: match oidc {
            Some(oidc) if source.is_sound() => oidc,
            _ => return Err(source.finish().err().unwrap_or(SettingsErrors(Vec::new()))),
        },
    };
    source.finish().map(|()| settings)
}

fn tls(source: &mut Source) -> Option<Identity> {
    let names = ["TLS_CERTIFICATE", "TLS_KEY"];
    for (name, other) in [(names[0], names[1]), (names[1], names[0])] {
        if source.has(name) && !source.has(other) {
            source.missing(other, &format!(" with {name}"));
        }
    }
    let [chain, key] = names.map(|name| source.file(name));
    match Identity::from_pem(&chain?, &key?) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let name = if error.is_of_the_key() { names[1] } else { names[0] };
            source.reject(name, &error.to_string());
            None
        }
    }
}

fn oidc(source: &mut Source) -> Option<OidcSettings> {
    for name in ["OIDC_ISSUER", "OIDC_CLIENT_ID"] {
        if !source.has(name) {
            source.missing(name, "");
        }
    }
    let mut scopes = source
        .text("OIDC_SCOPES")
        .unwrap_or_else(|| "openid profile email".to_owned())
        .split([' ', ','])
        .filter(|scope| !scope.is_empty())
        .map(str::to_owned)
        .collect::<Vec<_>>();
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    let timeout = source.duration("OIDC_TIMEOUT", 10 * SECOND, (SECOND / 10, MINUTE));
    let clock_skew = source.duration("OIDC_CLOCK_SKEW", MINUTE, (Duration::ZERO, 10 * MINUTE));
    let client_secret = source.secret("OIDC_CLIENT_SECRET", 1);
    let issuer = secure_url(source, "OIDC_ISSUER");
    let client_id = source.text("OIDC_CLIENT_ID");
    Some(OidcSettings {
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        scopes,
        timeout,
        clock_skew,
    })
}

fn store(source: &mut Source) -> StoreSettings {
    let Some(url) = source.secret("REDIS_URL", 1) else { return StoreSettings::Memory };
    for name in ["COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY"] {
        if !source.has(name) {
            source.missing(name, " with REDIS_URL, because all instances must share it");
        }
    }
    let prefix = source.text("REDIS_PREFIX").unwrap_or_else(|| "token-relay".to_owned());
    if prefix.contains(['{', '}']) {
        source.reject("REDIS_PREFIX", "a prefix without braces");
    }
    let command_timeout = source.duration("REDIS_TIMEOUT", 2 * SECOND, (SECOND / 10, MINUTE));
    match RedisUrl::parse(url.expose()) {
        Ok(url) => StoreSettings::Redis(RedisSettings { url, prefix, command_timeout }),
        Err(error) => {
            let wanted = format!("a URL such as redis://host:6379/0; this is {error}");
            source.reject("REDIS_URL", &wanted);
            StoreSettings::Memory
        }
    }
}

fn token(source: &mut Source) -> TokenSettings {
    let algorithm = match source.text("SIGNING_ALGORITHM").as_deref() {
        None | Some("ES256") => SigningAlgorithm::Es256,
        Some("EdDSA") => SigningAlgorithm::EdDsa,
        Some("RS256") => SigningAlgorithm::Rs256,
        Some("HS256") => SigningAlgorithm::Hs256,
        Some(_) => {
            source.reject("SIGNING_ALGORITHM", "ES256, EdDSA, RS256 or HS256");
            SigningAlgorithm::Es256
        }
    };
    if algorithm == SigningAlgorithm::Rs256 && !source.has("SIGNING_KEY") {
        source.missing("SIGNING_KEY", " with RS256");
    }
    let ttl = source.duration("TOKEN_TTL", HOUR, (SECOND, 30 * DAY));
    TokenSettings {
        refresh: refresh(source, ttl),
        algorithm,
        signing_keys: signing_keys(source, "SIGNING_KEY", algorithm),
        previous_signing_keys: signing_keys(source, "PREVIOUS_SIGNING_KEY", algorithm),
        issuer: source.text("TOKEN_ISSUER"),
        audience: source.list("TOKEN_AUDIENCE").unwrap_or_default(),
        scope: source.text("TOKEN_SCOPE").unwrap_or_else(|| "addons".to_owned()),
        ttl,
        claims: source
            .list("TOKEN_CLAIMS")
            .unwrap_or_else(|| vec!["name".to_owned(), "email".to_owned()]),
    }
}

fn refresh(source: &mut Source, access_token_ttl: Duration) -> Option<RefreshSettings> {
    let grant_ttl = source.duration("REFRESH_GRANT_TTL", 30 * DAY, (MINUTE, 3650 * DAY));
    if !source.has("REFRESH_TOKEN_TTL") {
        return None;
    }
    let token_ttl = source.duration("REFRESH_TOKEN_TTL", DAY, (SECOND, 3650 * DAY));
    if token_ttl < access_token_ttl {
        source.reject("REFRESH_TOKEN_TTL", "no less than TOKEN_TTL");
    }
    Some(RefreshSettings { token_ttl, grant_ttl })
}

/// Keys that sign with `algorithm`, in the order in which they are written.
fn signing_keys(source: &mut Source, name: &str, algorithm: SigningAlgorithm) -> Vec<Secret> {
    let Some(text) = source.secret(name, MIN_SECRET_LENGTH) else { return Vec::new() };
    let keys = if text.expose().starts_with("-----BEGIN") {
        // Files of environment variables have one line for each, so PEM comes with `\n` in it.
        pem_blocks(&Zeroizing::new(text.expose().replace("\\n", "\n")))
    } else {
        let lines = text.expose().lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| Secret(line.to_owned().into())).collect()
    };
    let (algorithm, expected) = match algorithm {
        SigningAlgorithm::Es256 => (
            Algorithm::ES256,
            "a PEM private key on P-256 (PKCS#8 that holds its public key too, as \
             `openssl ec -in KEY | openssl pkcs8 -topk8 -nocrypt` writes it)",
        ),
        SigningAlgorithm::EdDsa => (Algorithm::EdDSA, "a PEM private key of Ed25519 (PKCS#8)"),
        SigningAlgorithm::Rs256 => {
            (Algorithm::RS256, "a PEM private key of RSA, of 2048 to 4096 bits")
        }
        SigningAlgorithm::Hs256 => (Algorithm::HS256, "a secret of 32 bytes or more on each line"),
    };
    let fits = |key: &Secret| SigningKeys::from_secret(algorithm, key.expose().as_bytes()).is_ok();
    if keys.is_empty() || !keys.iter().all(fits) {
        source.reject(name, expected);
        return Vec::new();
    }
    keys
}

/// The blocks of a PEM text, each with its own first and last line (RFC 7468 §2); one that is cut
/// off too, so that it is not overlooked. What stands between them is explanatory text.
fn pem_blocks(text: &str) -> Vec<Secret> {
    let (mut blocks, mut block) = (Vec::new(), Zeroizing::new(String::new()));
    for line in text.lines().map(str::trim) {
        if block.is_empty() && !line.starts_with("-----BEGIN") {
            continue;
        }
        block.push_str(line);
        block.push('\n');
        if line.starts_with("-----END") {
            blocks.push(Secret(std::mem::take(&mut block)));
        }
    }
    if !block.is_empty() {
        blocks.push(Secret(block));
    }
    blocks
}

fn limits(source: &mut Source) -> Limits {
    Limits {
        max_streams: source.number("MAX_STREAMS", 19_000, 1..=MOST),
        max_streams_per_session: source.number("MAX_STREAMS_PER_SESSION", 4, 1..=MOST),
        max_connections: source.number("MAX_CONNECTIONS", 19_500, 1..=MOST),
        max_body: source.number("MAX_BODY", 16_384, 256..=MOST),
        sessions_per_minute: u32::try_from(source.number("SESSIONS_PER_MINUTE", 60, 1..=MOST))
            .unwrap_or(u32::MAX),
        header_timeout: source.duration("HEADER_TIMEOUT", 10 * SECOND, (SECOND / 10, 5 * MINUTE)),
    }
}

fn meet(source: &mut Source) -> Option<MeetSettings> {
    if !source.flag("MEET_COMPATIBLE") {
        return None;
    }
    for name in ["ADDONS_CSRF_SECRET", "ADDONS_TOKEN_SECRET_KEY", "MEET_RETURN_TO"] {
        if !source.has(name) {
            source.missing(name, " with MEET_COMPATIBLE");
        }
    }
    let text = |source: &Source, name: &str, default: &str| {
        source.text(name).unwrap_or_else(|| default.to_owned())
    };
    let token_algorithm = text(source, "ADDONS_TOKEN_ALG", "HS256");
    if !["HS256", "HS384", "HS512"].contains(&token_algorithm.as_str()) {
        source.reject("ADDONS_TOKEN_ALG", "HS256, HS384 or HS512");
    }
    let session_id_cookie = text(source, "ADDONS_SESSION_ID_COOKIE", "addonsSid");
    let token_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !session_id_cookie.bytes().all(token_letter) {
        source.reject("ADDONS_SESSION_ID_COOKIE", "letters, digits, dashes, dots, underscores");
    }
    let return_to = source.list("MEET_RETURN_TO").unwrap_or_default();
    let return_to = return_to
        .iter()
        .filter_map(|text| match Url::parse(text) {
            Ok(url) if is_secure(&url) => Some(url),
            _ => {
                source.reject("MEET_RETURN_TO", "https URLs separated by commas");
                None
            }
        })
        .collect();
    let ttl = (SECOND, 30 * DAY);
    Some(MeetSettings {
        session_ttl: source.duration("ADDONS_SESSION_TTL", HOUR, ttl),
        transit_token_ttl: source.duration("ADDONS_TRANSIT_TOKEN_TTL", 2 * MINUTE, ttl),
        csrf_secret: required(source, "ADDONS_CSRF_SECRET"),
        token_secret_key: required(source, "ADDONS_TOKEN_SECRET_KEY"),
        token_algorithm,
        token_issuer: text(source, "ADDONS_TOKEN_ISSUER", "lasuite-meet"),
        token_audience: text(source, "ADDONS_TOKEN_AUDIENCE", "addons"),
        token_ttl: source.duration("ADDONS_TOKEN_TTL", 2 * HOUR, ttl),
        token_type: text(source, "ADDONS_TOKEN_TYPE", "Bearer"),
        token_scope: text(source, "ADDONS_TOKEN_SCOPE", "rooms:create"),
        random_token_byte_length: source.number("ADDONS_RANDOM_TOKEN_BYTE_LENGTH", 60, 32..=256),
        session_id_cookie,
        user_id_claim: text(source, "MEET_USER_ID_CLAIM", "sub"),
        return_to,
        login_ttl: source.duration("MEET_LOGIN_TTL", 12 * HOUR, ttl),
    })
}

/// A secret whose absence was noted already; the empty one is never used.
fn required(source: &mut Source, name: &str) -> Secret {
    source.secret(name, MIN_SECRET_LENGTH).unwrap_or_else(|| Secret(String::new().into()))
}

fn brand(source: &mut Source) -> Brand {
    let color = source.text("BRAND_COLOR");
    let is_color = |text: &String| {
        text.strip_prefix('#')
            .is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    if color.as_ref().is_some_and(|text| !is_color(text)) {
        source.reject("BRAND_COLOR", "a colour such as #2447c5");
    }
    Brand {
        name: source.text("BRAND_NAME").unwrap_or_else(|| "token-relay".to_owned()),
        logo_url: secure_url(source, "BRAND_LOGO_URL"),
        color,
        office_js_url: secure_url(source, "OFFICE_JS_URL"),
    }
}

fn frame_ancestors(source: &mut Source) -> Vec<String> {
    let hosts = source.list("FRAME_ANCESTORS").unwrap_or_default();
    let is_source = |host: &String| {
        host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';')
            && (!host.contains('\'') || host == "'self'")
    };
    if !hosts.iter().all(is_source) {
        source.reject("FRAME_ANCESTORS", "hosts such as https://*.office.com, by commas");
    }
    hosts
}

fn origins(source: &mut Source) -> Vec<String> {
    let origins = source.list("ALLOWED_ORIGINS").unwrap_or_default();
    for origin in &origins {
        let exact =
            Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
        if !exact {
            let expected = "exact origins such as https://outlook.office.com (no path, no `*`)";
            source.reject("ALLOWED_ORIGINS", expected);
        }
    }
    origins
}

fn networks(source: &mut Source) -> Vec<ipnet::IpNet> {
    let parts = source.list("TRUSTED_PROXIES").unwrap_or_default();
    parts
        .iter()
        .filter_map(|text| {
            let address = || text.parse::<std::net::IpAddr>().ok();
            let network = text.parse().ok().or_else(|| address().map(ipnet::IpNet::from));
            if network.is_none() {
                source.reject("TRUSTED_PROXIES", "networks such as 10.0.0.0/8, or addresses");
            }
            network
        })
        .collect()
}

fn clients(source: &mut Source) -> Vec<(String, Secret)> {
    let pairs = source.secrets("INTROSPECTION_CLIENTS", 1);
    pairs
        .iter()
        .filter_map(|pair| match pair.expose().split_once(':') {
            Some((id, secret)) if !id.is_empty() && secret.len() >= 16 => {
                Some((id.to_owned(), Secret(secret.to_owned().into())))
            }
            _ => {
                source.reject(
                    "INTROSPECTION_CLIENTS",
                    "id:secret, the secret of 16 characters or more",
                );
                None
            }
        })
        .collect()
}

fn traces(source: &mut Source) -> Option<TraceSettings> {
    // Variables of the specification may stand in every environment and concern others.
    if !source.has("OTLP_ENDPOINT") {
        return None;
    }
    let sampler = source.text("OTEL_TRACES_SAMPLER");
    let ratio = source.parse("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1").unwrap_or(1.0);
    if !(0.0..=1.0).contains(&ratio) {
        source.reject("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1");
    }
    let sampler = match sampler.as_deref() {
        None | Some("parentbased_always_on") => Sampler::ParentBasedAlwaysOn,
        Some("parentbased_always_off") => Sampler::ParentBasedAlwaysOff,
        Some("parentbased_traceidratio") => Sampler::ParentBasedRatio(ratio),
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => Sampler::Ratio(ratio),
        Some(_) => {
            let names = "always_on, always_off or traceidratio, or one of them after parentbased_";
            source.reject("OTEL_TRACES_SAMPLER", names);
            Sampler::AlwaysOff
        }
    };
    let headers = source.secrets("OTLP_HEADERS", 1);
    let headers = headers
        .iter()
        .filter_map(|pair| {
            let (name, value) = pair.expose().split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let fits = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && http::HeaderValue::from_str(value).is_ok();
            fits.then(|| (name.to_owned(), Secret(value.to_owned().into())))
        })
        .collect::<Vec<_>>();
    if headers.len() < source.secrets("OTLP_HEADERS", 1).len() {
        source.reject("OTLP_HEADERS", "headers such as name=value, separated by commas");
    }
    let service_name = source.text("OTEL_SERVICE_NAME").unwrap_or_else(|| "token-relay".to_owned());
    // A collector is often beside the service and speaks plain HTTP; spans hold no secret.
    let endpoint = source.parse::<Url>("OTLP_ENDPOINT", "a URL such as http://collector:4318")?;
    let plain = endpoint.query().is_none()
        && endpoint.fragment().is_none()
        && endpoint.username().is_empty()
        && endpoint.password().is_none();
    if !matches!(endpoint.scheme(), "http" | "https") || !endpoint.has_host() || !plain {
        source.reject("OTLP_ENDPOINT", "an http or https URL without user or query");
    }
    Some(TraceSettings { endpoint, headers, service_name, sampler })
}

/// An `https` URL, or an `http` one of this machine; nothing else in it than host and path.
fn secure_url(source: &mut Source, name: &str) -> Option<Url> {
    let url = source.parse::<Url>(name, "a URL")?;
    let plain = url.query().is_none() && url.fragment().is_none();
    if is_secure(&url) && plain {
        return Some(url);
    }
    let expected = "an https URL without user or query (http only for loopback hosts)";
    source.reject(name, expected);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let base = [
            ("TOKEN_RELAY_OIDC_ISSUER", "https://login.example"),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "relay"),
        ];
        base.iter().chain(pairs).map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn errors(pairs: &[(&str, &str)]) -> String {
        Settings::load(environment(pairs), None).unwrap_err().to_string()
    }

    #[test]
    fn two_settings_are_enough() {
        let settings = Settings::load(environment(&[]), None).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.session_ttl, Duration::from_secs(900));
        let public = settings.public_url_for("127.0.0.1:9".parse().unwrap());
        assert_eq!(public.as_str(), "http://127.0.0.1:9/");
        assert_eq!(settings.token_issuer_for(&public), "http://127.0.0.1:9");
        assert!(settings.meet.is_none() && !settings.store.is_shared());
    }

    #[test]
    fn traces_are_off_unless_an_endpoint_says_where_to() {
        let load =
            |pairs: &[(&str, &str)]| Settings::load(environment(pairs), None).unwrap().traces;
        assert!(
            load(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "somebody_elses")])
                .is_none()
        );
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let traces = load(&[endpoint]).unwrap();
        assert_eq!(traces.service_name, "token-relay");
        assert_eq!(traces.sampler, Sampler::ParentBasedAlwaysOn);
        assert!(load(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).is_none());
        let traces = load(&[
            endpoint,
            ("TOKEN_RELAY_OTLP_ENDPOINT", "https://traces.example/base"),
            ("TOKEN_RELAY_OTLP_HEADERS", "authorization=Bearer hunter2, x-tenant=a=b"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let traces = traces.unwrap();
        assert_eq!(traces.endpoint.as_str(), "https://traces.example/base");
        assert_eq!(traces.sampler, Sampler::ParentBasedRatio(0.25));
        let headers = traces.headers.iter().map(|(name, value)| (name.as_str(), value.expose()));
        let expected = [("authorization", "Bearer hunter2"), ("x-tenant", "a=b")];
        assert_eq!(headers.collect::<Vec<_>>(), expected);
        assert!(!format!("{traces:?}").contains("hunter2"));

        let text = errors(&[
            ("TOKEN_RELAY_OTLP_ENDPOINT", "ftp://collector"),
            ("TOKEN_RELAY_OTLP_HEADERS", "hunter2"),
            ("TOKEN_RELAY_OTEL_TRACES_SAMPLER", "sometimes"),
            ("TOKEN_RELAY_OTEL_TRACES_SAMPLER_ARG", "2"),
        ]);
        for name in ["OTLP_ENDPOINT", "OTLP_HEADERS", "OTEL_TRACES_SAMPLER", "SAMPLER_ARG"] {
            assert!(text.contains(&format!("{name}: expected")), "{name}: {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = Settings::load([], None).unwrap_err().to_string();
        assert!(
            text.contains("TOKEN_RELAY_OIDC_ISSUER") && text.contains("OIDC_CLIENT_ID"),
            "{text}"
        );
        let text = errors(&[
            ("TOKEN_RELAY_SESION_TTL", "15m"),
            ("TOKEN_RELAY_HEARTBEAT", "15"),
            ("TOKEN_RELAY_ALLOWED_ORIGINS", "*"),
            ("TOKEN_RELAY_PUBLIC_URL", "http://relay.example"),
            ("TOKEN_RELAY_COOKIE_KEYS", "short-and-confidential"),
            ("TOKEN_RELAY_SIGNING_ALGORITHM", "RS256"),
            ("TOKEN_RELAY_TRUSTED_PROXIES", "everybody"),
        ]);
        for part in [
            "TOKEN_RELAY_SESION_TTL: no such setting; did you mean TOKEN_RELAY_SESSION_TTL?",
            "TOKEN_RELAY_HEARTBEAT: expected a duration",
            "ALLOWED_ORIGINS: expected exact origins",
            "PUBLIC_URL: expected an https URL",
            "COOKIE_KEYS: expected secrets of 32",
            "SIGNING_KEY: required with RS256",
            "TRUSTED_PROXIES: expected networks",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("confidential"));
    }

    #[test]
    fn instances_that_share_a_store_must_share_keys() {
        let text = errors(&[("TOKEN_RELAY_REDIS_URL", "redis://:hunter2@127.0.0.1")]);
        for name in ["COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn file_and_secret_files_are_read_and_the_environment_wins() {
        let folder = std::env::temp_dir().join(format!("token-relay-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, secret) = (folder.join("relay.toml"), folder.join("secret"));
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        std::fs::write(
            &file,
            format!(
                "session_ttl = '5m'\nheartbeat = '20s'\nallowed_origins = ['https://a.example']\n\
                 max_streams = 7\nsealing_keys_file = {secret:?}\n"
            ),
        )
        .unwrap();
        let variables = environment(&[("TOKEN_RELAY_HEARTBEAT", "30s")]);
        let settings = Settings::load(variables.clone(), Some(&file)).unwrap();
        assert_eq!(settings.session_ttl, Duration::from_secs(300));
        assert_eq!(settings.heartbeat, Duration::from_secs(30));
        assert_eq!(settings.allowed_origins, ["https://a.example"]);
        assert_eq!(settings.limits.max_streams, 7);
        assert_eq!(settings.sealing_keys[0].expose(), SECRET);
        let shown = format!("{:?}", Settings::describe(variables, Some(&file)).unwrap());
        assert!(shown.contains("(set, hidden)") && !shown.contains(SECRET), "{shown}");
        std::fs::write(&file, format!("cookie_keys = \"{SECRET}\nbroken")).unwrap();
        let text = Settings::load(environment(&[]), Some(&file)).unwrap_err().to_string();
        assert!(text.contains("not valid TOML") && !text.contains(SECRET), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn links_to_a_service_of_the_same_name_are_no_settings() {
        let links = [
            ("TOKEN_RELAY_SERVICE_HOST", "10.0.0.1"),
            ("TOKEN_RELAY_SERVICE_PORT", "80"),
            ("TOKEN_RELAY_SERVICE_PORT_HTTP", "80"),
            ("TOKEN_RELAY_PORT", "tcp://10.0.0.1:80"),
            ("TOKEN_RELAY_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("TOKEN_RELAY_REDIS_PORT", "tcp://10.0.0.2:6379"),
            ("TOKEN_RELAY_REDIS_SERVICE_HOST", "10.0.0.2"),
        ];
        Settings::load(environment(&links), None).unwrap();
        let text = errors(&[("TOKEN_RELAY_PORT", "8080"), ("TOKEN_RELAY_SUPPORT", "a")]);
        assert_eq!(text.matches("no such setting").count(), 2, "{text}");
    }

    #[test]
    fn what_is_set_but_empty_is_not_set() {
        let empty = [("TOKEN_RELAY_REDIS_URL", ""), ("TOKEN_RELAY_COOKIE_KEYS_FILE", " ")];
        let settings = Settings::load(environment(&empty), None).unwrap();
        assert!(!settings.store.is_shared() && settings.cookie_keys.is_empty());
        // Random keys in the place of separators would differ between instances.
        assert!(errors(&[("TOKEN_RELAY_COOKIE_KEYS", ",")]).contains("COOKIE_KEYS: expected"));
    }

    #[test]
    fn a_signing_key_must_fit_its_algorithm() {
        const ED25519: &str = "-----BEGIN PRIVATE KEY-----\\n\
            MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\\n\
            -----END PRIVATE KEY-----";
        let key = ("TOKEN_RELAY_SIGNING_KEY", ED25519);
        let one_line = [("TOKEN_RELAY_SIGNING_ALGORITHM", "EdDSA"), key];
        let settings = Settings::load(environment(&one_line), None).unwrap();
        assert_eq!(settings.token.signing_keys.len(), 1);
        let text = errors(&[key]);
        assert!(text.contains("SIGNING_KEY: expected a PEM private key on P-256"), "{text}");
        assert!(!text.contains("MC4CAQAw"));
    }

    #[test]
    fn several_signing_keys_are_read_in_their_order() {
        let pem = |seed: u8| {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            // RFC 8410 §7: a fixed head, then the seed.
            const HEAD: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
            let der = STANDARD.encode([&HEAD[..], &[seed; 32]].concat());
            format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")
        };
        let read = |algorithm: &str, keys: &str| {
            let pairs =
                [("TOKEN_RELAY_SIGNING_ALGORITHM", algorithm), ("TOKEN_RELAY_SIGNING_KEY", keys)];
            Settings::load(environment(&pairs), None).map(|settings| settings.token.signing_keys)
        };
        let (first, second) = (pem(1), pem(2));
        let written = format!("{first}written in between\n{second}");
        for text in [written.clone(), written.replace('\n', "\\n"), written.replace('\n', "\r\n")] {
            let keys = read("EdDSA", &text).unwrap();
            assert_eq!(keys.len(), 2);
            assert_eq!((keys[0].expose(), keys[1].expose()), (first.as_str(), second.as_str()));
        }
        let secrets = read("HS256", &format!("{SECRET}, with a comma\n\n {SECRET}\n")).unwrap();
        assert_eq!(secrets[0].expose(), format!("{SECRET}, with a comma"));
        assert_eq!(secrets[1].expose(), SECRET);
        for (algorithm, keys) in [
            ("EdDSA", format!("{first}{}", second.replace("END", "AND"))),
            ("EdDSA", first.replace("END", "AND")),
            ("HS256", format!("{SECRET}\nshort, and confidential")),
        ] {
            let error = read(algorithm, &keys).unwrap_err().to_string();
            assert!(error.contains("SIGNING_KEY: expected"), "{error}");
            assert!(!error.contains("confidential"));
        }
    }

    #[test]
    fn an_empty_list_is_no_default() {
        let folder = std::env::temp_dir().join(format!("token-relay-lists-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("relay.toml");
        std::fs::write(&file, "token_claims = []\nheartbeat = []\n").unwrap();
        let settings = Settings::load(environment(&[]), Some(&file)).unwrap();
        assert!(settings.token.claims.is_empty());
        assert_eq!(settings.heartbeat, Duration::from_secs(15));
        let shown = format!("{:?}", Settings::describe(environment(&[]), Some(&file)).unwrap());
        assert!(shown.contains("\"TOKEN_CLAIMS\", \"(empty list)\""), "{shown}");
        // The environment wins here too, and has a way to say the same.
        let claims = |value: &str| {
            let environment = environment(&[("TOKEN_RELAY_TOKEN_CLAIMS", value)]);
            Settings::load(environment, Some(&file)).unwrap().token.claims
        };
        assert_eq!(claims("email"), ["email"]);
        assert!(claims(",").is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_redis_url_must_be_of_use() {
        let check = |url: &str| {
            errors(&[
                ("TOKEN_RELAY_REDIS_URL", url),
                ("TOKEN_RELAY_COOKIE_KEYS", SECRET),
                ("TOKEN_RELAY_SEALING_KEYS", SECRET),
                ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
                ("TOKEN_RELAY_SIGNING_KEY", SECRET),
            ])
        };
        for url in [
            "http://alice:hunter2@localhost",
            "redis://alice:hunter2@localhost/x",
            "redis://alice:hunter2@localhost:port",
            "redis-nonsense://alice:hunter2@localhost",
            "redis-sentinel://alice:hunter2@localhost",
            "rediss://alice:hunter2@localhost?ca=/nonexistent",
        ] {
            let text = check(url);
            assert!(text.contains("REDIS_URL: expected a URL such as"), "{url}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn readings_are_told_apart_by_what_changed() {
        let read = |pairs: &[(&str, &str)]| Snapshot::read(environment(pairs), None).unwrap();
        let other = "abcdef0123456789abcdef0123456789";
        let before = read(&[("TOKEN_RELAY_COOKIE_KEYS", SECRET), ("TOKEN_RELAY_HEARTBEAT", "9s")]);
        assert!(before.differs_from(&before).is_empty());
        let after = read(&[("TOKEN_RELAY_COOKIE_KEYS", other), ("TOKEN_RELAY_HSTS", "1h")]);
        assert_eq!(after.differs_from(&before), ["COOKIE_KEYS", "HEARTBEAT", "HSTS"]);
    }

    #[test]
    fn the_public_url_is_secure_and_known() {
        let public_url = |listen: &str| {
            let settings = Settings::load(environment(&[("TOKEN_RELAY_LISTEN", listen)]), None);
            settings.map(|settings| settings.public_url_for(listen.parse().unwrap()).to_string())
        };
        assert_eq!(public_url("0.0.0.0:80").unwrap(), "http://127.0.0.1/");
        assert_eq!(public_url("[::]:8080").unwrap(), "http://[::1]:8080/");
        let text = public_url("192.0.2.1:8080").unwrap_err().to_string();
        assert!(text.contains("PUBLIC_URL: required because LISTEN"), "{text}");
        for wrong in
            ["https://relay:hunter2@relay.example", "https://relay.example?a", "ftp://127.0.0.1"]
        {
            let text = errors(&[("TOKEN_RELAY_PUBLIC_URL", wrong)]);
            assert!(text.contains("PUBLIC_URL: expected") && !text.contains("hunter2"), "{text}");
        }
        for right in ["https://relay.example/sign-in", "http://a.localhost:1", "http://[::1]"] {
            Settings::load(environment(&[("TOKEN_RELAY_PUBLIC_URL", right)]), None).unwrap();
        }
    }

    #[test]
    fn the_demo_has_its_own_provider_and_heeds_the_rest() {
        let demo = |pairs: &[(&str, &str)]| {
            let listen = "127.0.0.1:0".parse().unwrap();
            Snapshot::demo(listen, "http://127.0.0.1:8081", "demo", "secret", environment(pairs))
                .map(|snapshot| snapshot.settings)
        };
        let settings = demo(&[("TOKEN_RELAY_SESSION_TTL", "2m")]).unwrap();
        assert_eq!(settings.oidc.issuer.as_str(), "http://127.0.0.1:8081/");
        assert_eq!(settings.session_ttl, Duration::from_secs(120));
        let text = demo(&[("TOKEN_RELAY_REDIS_URL", "redis://127.0.0.1")]).unwrap_err().to_string();
        assert!(text.contains("TOKEN_RELAY_SEALING_KEYS: required with REDIS_URL"), "{text}");
    }

    #[test]
    fn the_table_has_every_default() {
        // What the table says is what the program does.
        let defaults = TABLE.iter().filter_map(|entry| {
            let value = entry.default.strip_prefix('`')?.strip_suffix('`')?;
            let is_value = !value.contains('<') && TABLE.iter().all(|other| other.name != value);
            is_value.then(|| (format!("TOKEN_RELAY_{}", entry.name), value.to_owned()))
        });
        let written = Settings::load(environment(&[]).into_iter().chain(defaults), None).unwrap();
        let unwritten = Settings::load(environment(&[]), None).unwrap();
        assert_eq!(format!("{written:?}"), format!("{unwritten:?}"));
    }

    #[test]
    fn the_names_of_the_django_service_are_accepted() {
        let settings = Settings::load(
            environment(&[
                ("ADDONS_ENABLED", "True"),
                ("ADDONS_CSRF_SECRET", SECRET),
                ("ADDONS_TOKEN_SECRET_KEY", SECRET),
                ("ADDONS_SESSION_TTL", "1800"),
                ("ADDONS_TOKEN_TTL", "60"),
                ("TOKEN_RELAY_ADDONS_TOKEN_TTL", "90s"),
                ("TOKEN_RELAY_MEET_RETURN_TO", "https://meet.example"),
            ]),
            None,
        )
        .unwrap();
        let meet = settings.meet.unwrap();
        assert_eq!(meet.session_ttl, Duration::from_secs(1800));
        assert_eq!(meet.token_ttl, Duration::from_secs(90));
        assert_eq!(
            (meet.token_issuer.as_str(), meet.random_token_byte_length),
            ("lasuite-meet", 60)
        );
        let text =
            errors(&[("TOKEN_RELAY_MEET_COMPATIBLE", "true"), ("ADDONS_CSRF_SECRET", "short")]);
        for name in ["ADDONS_CSRF_SECRET", "ADDONS_TOKEN_SECRET_KEY", "MEET_RETURN_TO"] {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_secret_file_of_the_settings_file() {
        let folder =
            std::env::temp_dir().join(format!("token-relay-layers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("relay.toml");
        std::fs::write(&file, "cookie_keys_file = '/nonexistent/but/replaced'").unwrap();
        let text = Settings::load(environment(&[]), Some(&file)).unwrap_err().to_string();
        assert!(text.starts_with("cookie_keys_file: "), "{text}");
        let other = "abcdef0123456789abcdef0123456789";
        std::fs::write(&file, format!("cookie_keys = '{SECRET}'")).unwrap();
        let variables = environment(&[("TOKEN_RELAY_COOKIE_KEYS", other)]);
        let settings = Settings::load(variables, Some(&file)).unwrap();
        assert_eq!(settings.cookie_keys[0].expose(), other);
        let both =
            [("TOKEN_RELAY_COOKIE_KEYS", SECRET), ("TOKEN_RELAY_COOKIE_KEYS_FILE", "/nonexistent")];
        let text = errors(&both);
        assert!(text.contains("give it or TOKEN_RELAY_COOKIE_KEYS_FILE, not both"), "{text}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
