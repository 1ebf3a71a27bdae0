//! Makes sense of the raw values: types, defaults, and what must fit together.

use std::{net::SocketAddr, path::Path, time::Duration};

use url::{Host, Url};

use super::{
    Brand, Limits, MeetSettings, OidcSettings, RedisSettings, Secret, Settings, SettingsErrors,
    SigningAlgorithm, TokenSettings, source::Source, table::TABLE,
};

/// Shortest secret that keys are made of, in characters.
const SHORTEST_SECRET: usize = 32;

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
        make(Source::read(environment, file))
    }

    /// What `load` would run with, secrets hidden.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn describe(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Vec<Described>, SettingsErrors> {
        let source = Source::read(environment, file);
        let lines = TABLE
            .iter()
            .map(|entry| {
                let shown = match source.text(entry.name) {
                    Some(_) if entry.secret => "(set, hidden)".to_owned(),
                    Some(text) => text,
                    None => entry.default.replace('`', ""),
                };
                let origin = source.origin(entry.name).unwrap_or_else(|| "default".to_owned());
                (entry.name, shown, origin)
            })
            .collect();
        make(source).map(|_| lines)
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
        let foreign = ["TOKEN_RELAY_OIDC_", "TOKEN_RELAY_LISTEN", "TOKEN_RELAY_PUBLIC_URL"];
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
        make(source)
    }
}

fn make(mut source: Source) -> Result<Settings, SettingsErrors> {
    let listen = source
        .parse("LISTEN", "an address such as 127.0.0.1:8080")
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let oidc = oidc(&mut source);
    let redis = source.secret("REDIS_URL", 1).map(|url| RedisSettings {
        url,
        prefix: source.text("REDIS_PREFIX").unwrap_or_else(|| "token-relay".to_owned()),
        timeout: source.duration("REDIS_TIMEOUT", 2 * SECOND, (SECOND / 10, MINUTE)),
    });
    if redis.is_some() {
        for name in ["COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY"] {
            if !source.has(name) {
                source.missing(name, " with REDIS_URL, because all instances must share it");
            }
        }
    }
    let token = token(&mut source);
    let settings = Settings {
        listen,
        public_url: secure_url(&mut source, "PUBLIC_URL"),
        metrics_listen: source.parse("METRICS_LISTEN", "an address such as 127.0.0.1:9090"),
        redis,
        token,
        cookie_keys: source.secrets("COOKIE_KEYS", SHORTEST_SECRET),
        sealing_keys: source.secrets("SEALING_KEYS", SHORTEST_SECRET),
        session_ttl: source.duration("SESSION_TTL", 15 * MINUTE, (10 * SECOND, DAY)),
        transit_token_ttl: source.duration("TRANSIT_TOKEN_TTL", 2 * MINUTE, (SECOND, HOUR)),
        delivery_grace: source.duration("DELIVERY_GRACE", 30 * SECOND, (SECOND, HOUR)),
        heartbeat: source.duration("HEARTBEAT", 15 * SECOND, (SECOND, 5 * MINUTE)),
        drain_timeout: source.duration("DRAIN_TIMEOUT", 30 * SECOND, (SECOND, HOUR)),
        allowed_origins: origins(&mut source),
        trusted_proxies: networks(&mut source),
        require_bound_sessions: source.flag("REQUIRE_BOUND_SESSIONS"),
        limits: limits(&mut source),
        meet: meet(&mut source),
        brand: brand(&mut source),
        frame_ancestors: source.list("FRAME_ANCESTORS").unwrap_or_default(),
        hsts: source.has("HSTS").then(|| source.duration("HSTS", DAY, (SECOND, 3650 * DAY))),
        introspection_clients: clients(&mut source),
        log_json: match source.text("LOG_FORMAT").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(_) => {
                source.reject("LOG_FORMAT", "text or json");
                false
            }
        },
        oidc: match oidc {
            Some(oidc) if source.is_sound() => oidc,
            _ => return Err(source.finish().err().unwrap_or(SettingsErrors(Vec::new()))),
        },
    };
    source.finish().map(|()| settings)
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
    TokenSettings {
        algorithm,
        signing_key: source.secret("SIGNING_KEY", SHORTEST_SECRET),
        previous_signing_key: source.secret("PREVIOUS_SIGNING_KEY", SHORTEST_SECRET),
        issuer: source.text("TOKEN_ISSUER"),
        audience: source.list("TOKEN_AUDIENCE").unwrap_or_default(),
        scope: source.text("TOKEN_SCOPE").unwrap_or_else(|| "addons".to_owned()),
        ttl: source.duration("TOKEN_TTL", HOUR, (SECOND, 30 * DAY)),
        claims: source
            .list("TOKEN_CLAIMS")
            .unwrap_or_else(|| vec!["name".to_owned(), "email".to_owned()]),
    }
}

fn limits(source: &mut Source) -> Limits {
    let most = u32::MAX as usize;
    Limits {
        max_streams: source.number("MAX_STREAMS", 19_000, 1),
        max_streams_per_session: source.number("MAX_STREAMS_PER_SESSION", 4, 1),
        max_connections: source.number("MAX_CONNECTIONS", 19_500, 1),
        max_body: source.number("MAX_BODY", 16_384, 256),
        sessions_per_minute: u32::try_from(source.number("SESSIONS_PER_MINUTE", 60, 1).min(most))
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
        random_token_byte_length: source.number("ADDONS_RANDOM_TOKEN_BYTE_LENGTH", 60, 32).min(256),
        session_id_cookie,
        user_id_claim: text(source, "MEET_USER_ID_CLAIM", "sub"),
        return_to,
        login_ttl: source.duration("MEET_LOGIN_TTL", 12 * HOUR, ttl),
    })
}

/// A secret whose absence was noted already; the empty one is never used.
fn required(source: &mut Source, name: &str) -> Secret {
    source.secret(name, SHORTEST_SECRET).unwrap_or_else(|| Secret(String::new().into()))
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

/// An `https` URL, or an `http` one of this machine.
fn secure_url(source: &mut Source, name: &str) -> Option<Url> {
    let url = source.parse::<Url>(name, "a URL")?;
    if is_secure(&url) && url.query().is_none() && url.fragment().is_none() {
        return Some(url);
    }
    source.reject(name, "an https URL without query (http only for loopback hosts)");
    None
}

fn is_secure(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
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
        assert!(settings.meet.is_none() && settings.redis.is_none());
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
}
