use std::time::Duration;

use super::*;
use crate::{api::Secret, settings::declaration::Unset, telemetry::Sampler};

const SECRET: &str = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
const OTHER: &str = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";
const THIRD: &str = "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f";

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
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.session.ttl, Duration::from_secs(900));
    let public = settings.public_url_for("127.0.0.1:9".parse().unwrap());
    assert_eq!(public.as_str(), "http://127.0.0.1:9/");
    assert_eq!(settings.token_issuer_for(&public), "http://127.0.0.1:9");
    assert!(settings.meet.is_none() && settings.store.url.is_none());
}

#[test]
fn traces_are_off_unless_an_endpoint_says_where_to() {
    let load = |pairs: &[(&str, &str)]| Settings::load(environment(pairs), None).unwrap().traces;
    assert!(
        load(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "somebody_elses")]).is_none()
    );
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let traces = load(&[endpoint]).unwrap();
    assert_eq!(traces.service_name, "token-relay");
    assert_eq!(traces.options().unwrap().sampler, Sampler::ParentBasedAlwaysOn);
    assert!(load(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).is_none());
    let traces = load(&[
        endpoint,
        ("TOKEN_RELAY_OTLP_ENDPOINT", "https://traces.example/base"),
        ("TOKEN_RELAY_OTLP_HEADERS", "authorization=Bearer hunter2, x-tenant=a=b"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
    ]);
    let traces = traces.unwrap();
    assert_eq!(traces.endpoint.as_ref().unwrap().as_str(), "https://traces.example/base");
    assert_eq!(traces.options().unwrap().sampler, Sampler::ParentBasedRatio(0.25));
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
    assert!(text.contains("TOKEN_RELAY_OIDC_ISSUER") && text.contains("OIDC_CLIENT_ID"), "{text}");
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
        "COOKIE_KEYS: expected a key of 32 random bytes",
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
    assert_eq!(settings.session.ttl, Duration::from_secs(300));
    assert_eq!(settings.session.heartbeat, Duration::from_secs(30));
    assert_eq!(settings.session.allowed_origins, ["https://a.example"]);
    assert_eq!(settings.limits.max_streams, 7);
    assert_eq!(settings.token.sealing_keys[0].expose(), SECRET);
    let shown = format!("{:?}", Snapshot::load(variables, Some(&file)).unwrap().effective());
    assert!(shown.contains("(set, redacted)") && !shown.contains(SECRET), "{shown}");
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
    assert!(settings.store.url.is_none() && settings.token.cookie_keys.is_empty());
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
    assert_eq!(settings.token.signing_keys().len(), 1);
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
        Settings::load(environment(&pairs), None).map(|settings| settings.token.signing_keys())
    };
    let (first, second) = (pem(1), pem(2));
    let written = format!("{first}written in between\n{second}");
    for text in [written.clone(), written.replace('\n', "\\n"), written.replace('\n', "\r\n")] {
        let keys = read("EdDSA", &text).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!((keys[0].expose(), keys[1].expose()), (first.as_str(), second.as_str()));
    }
    let secrets = read("HS256", &format!("{SECRET}\n\n {OTHER}\n")).unwrap();
    assert_eq!(secrets.iter().map(Secret::expose).collect::<Vec<_>>(), [SECRET, OTHER]);
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
    let text = Settings::load(environment(&[]), Some(&file)).unwrap_err().to_string();
    assert!(text.starts_with("heartbeat: expected a duration"), "{text}");
    std::fs::write(&file, "token_claims = []\n").unwrap();
    let settings = Settings::load(environment(&[]), Some(&file)).unwrap();
    assert!(settings.token.claims.is_empty());
    let shown = format!("{:?}", Snapshot::load(environment(&[]), Some(&file)).unwrap().effective());
    assert!(shown.contains("\"TOKEN_CLAIMS\", value: \"(empty list)\""), "{shown}");
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
            ("TOKEN_RELAY_SEALING_KEYS", OTHER),
            ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
            ("TOKEN_RELAY_SIGNING_KEY", THIRD),
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
fn readings_are_distinguished_by_what_changed() {
    let read = |pairs: &[(&str, &str)]| Snapshot::load(environment(pairs), None).unwrap();
    let other = OTHER;
    let before = read(&[("TOKEN_RELAY_COOKIE_KEYS", SECRET), ("TOKEN_RELAY_HEARTBEAT", "9s")]);
    assert!(before.changed_from(&before).is_empty());
    let after = read(&[("TOKEN_RELAY_COOKIE_KEYS", other), ("TOKEN_RELAY_HSTS", "1h")]);
    let changed = after.changed_from(&before);
    let changed = changed.iter().map(|setting| (setting.name.as_str(), setting.reload));
    let cookie_keys = ("COOKIE_KEYS", Some(Reloadable::CookieKeys));
    assert!(changed.eq([cookie_keys, ("HEARTBEAT", None), ("HSTS", None)]));
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
        Snapshot::demo(listen, "http://127.0.0.1:8081", "demo", "secret", None, environment(pairs))
            .map(|snapshot| snapshot.settings)
    };
    let settings = demo(&[("TOKEN_RELAY_SESSION_TTL", "2m")]).unwrap();
    assert_eq!(settings.oidc.issuer.as_str(), "http://127.0.0.1:8081/");
    assert_eq!(settings.session.ttl, Duration::from_secs(120));
    let text = demo(&[("TOKEN_RELAY_REDIS_URL", "redis://127.0.0.1")]).unwrap_err().to_string();
    assert!(text.contains("TOKEN_RELAY_SEALING_KEYS: required with REDIS_URL"), "{text}");
}

/// Everything that switches a section on.
const ALL_ON: [(&str, &str); 5] = [
    ("TOKEN_RELAY_OTLP_ENDPOINT", "http://collector:4318"),
    ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
    ("TOKEN_RELAY_MEET_RETURN_TO", "https://meet.example"),
    ("TOKEN_RELAY_ADDONS_CSRF_SECRET", SECRET),
    ("TOKEN_RELAY_ADDONS_TOKEN_SECRET_KEY", OTHER),
];

#[test]
fn a_default_that_is_set_changes_nothing() {
    let defaults = declarations().filter_map(|declaration| match declaration.unset {
        // The switch that is on here.
        Unset::Default(text) if declaration.name != "MEET_COMPATIBLE" => {
            Some((format!("TOKEN_RELAY_{}", declaration.name), text.to_owned()))
        }
        _ => None,
    });
    let unset = environment(&ALL_ON);
    let set = Settings::load(unset.clone().into_iter().chain(defaults), None).unwrap();
    assert_eq!(format!("{set:?}"), format!("{:?}", Settings::load(unset, None).unwrap()));
}

#[test]
fn every_setting_has_a_name_of_its_own_and_a_meaning() {
    let mut names = std::collections::BTreeSet::new();
    for Declaration { name, help, .. } in declarations() {
        assert!(names.insert(name), "{name} is declared twice");
        assert!(!help.trim().is_empty() && !help.ends_with('.'), "{name}: {help}");
    }
    assert!(
        list(ListFormat::Markdown).contains("| `HEARTBEAT` | `15s` | Interval between heartbeats")
    );
    assert!(
        list(ListFormat::Markdown)
            .contains("| `COOKIE_KEYS``[_FILE]` | random; required with Redis |")
    );
}

#[test]
fn an_error_in_the_file_names_its_line_and_a_hint_only_a_near_name() {
    let folder = std::env::temp_dir().join(format!("token-relay-lines-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("relay.toml");
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Settings::load(environment(&[]), Some(&file)).unwrap_err().to_string()
    };
    let text = load("# A comment\nheartbeat = 'often'\n\nhartbeat = '9s'\nweather = 'fine'\n");
    let at = |line: usize| format!("(file {}, line {line})", file.display());
    for expected in [
        format!("heartbeat: expected a duration such as 30s or 15m, from 1s to 5m {}", at(2)),
        format!("hartbeat: no such setting; did you mean heartbeat? {}", at(4)),
        format!("weather: no such setting {}", at(5)),
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
    }
    for (text, line) in [("a = 1\na = 2\n", 2), ("a = 1\n\nb = 'x\n", 3), ("a = 1\n[", 2)] {
        let text = load(text);
        assert!(text.ends_with(&format!("not valid TOML at line {line}")), "{text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_secret_file_that_cannot_be_read_is_one_error() {
    let unreadable = ("TOKEN_RELAY_ADDONS_CSRF_SECRET_FILE", "/nonexistent");
    let others = ALL_ON.iter().filter(|(name, _)| !name.contains("CSRF"));
    let text = errors(&others.chain([&unreadable]).copied().collect::<Vec<_>>());
    assert!(text.starts_with("TOKEN_RELAY_ADDONS_CSRF_SECRET_FILE: /nonexistent"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    let redis = ("TOKEN_RELAY_REDIS_URL", "redis://127.0.0.1");
    let keys = ["COOKIE_KEYS", "SEALING_KEYS", "SIGNING_KEY"]
        .map(|name| (format!("TOKEN_RELAY_{name}_FILE"), "/nonexistent"));
    let mut pairs: Vec<_> = keys.iter().map(|(name, path)| (name.as_str(), *path)).collect();
    pairs.push(redis);
    let text = errors(&pairs);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(!text.contains("required"), "{text}");
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
    assert_eq!((meet.token_issuer.as_str(), meet.random_token_byte_length), ("lasuite-meet", 60));
    let text = errors(&[("TOKEN_RELAY_MEET_COMPATIBLE", "true"), ("ADDONS_CSRF_SECRET", "short")]);
    for name in ["ADDONS_CSRF_SECRET", "ADDONS_TOKEN_SECRET_KEY", "MEET_RETURN_TO"] {
        assert!(text.contains(name), "{text}");
    }
}

/// Meet's names of the provider's settings, each with a value and how it is understood.
const PROVIDER_NAMES: [(&str, &str, &str, &str); 5] = [
    (
        "OIDC_OP_DISCOVERY_ENDPOINT",
        "OIDC_ISSUER",
        "https://login.example/realms/meet/.well-known/openid-configuration",
        "https://login.example/realms/meet",
    ),
    ("OIDC_RP_CLIENT_ID", "OIDC_CLIENT_ID", "meet", "meet"),
    (
        "OIDC_RP_CLIENT_SECRET",
        "OIDC_CLIENT_SECRET",
        "of the Django service",
        "of the Django service",
    ),
    ("OIDC_RP_SCOPES", "OIDC_SCOPES", "openid email", "openid email"),
    (
        "OIDC_AUTH_REQUEST_EXTRA_PARAMS",
        "OIDC_AUTH_PARAMS",
        "{'acr_values': 'eidas1', 'max_age': 0}",
        "acr_values=eidas1&max_age=0",
    ),
];

/// What is understood of the settings in [`PROVIDER_NAMES`].
fn provider_settings(settings: &Settings) -> [String; 5] {
    let oidc = &settings.oidc;
    let secret = oidc.client_secret.as_ref().map(|secret| secret.expose().to_owned());
    let parameters = oidc.auth_params.iter().map(|(name, value)| format!("{name}={value}"));
    [
        oidc.issuer.to_string(),
        oidc.client_id.clone(),
        secret.unwrap_or_default(),
        oidc.scopes.join(" "),
        parameters.collect::<Vec<_>>().join("&"),
    ]
}

/// Where `check-config` says that the value of a setting is.
fn origin_of(snapshot: &Snapshot, name: &str) -> String {
    let found = snapshot.effective().iter().find(|setting| setting.name.eq_ignore_ascii_case(name));
    found.unwrap().origin.clone()
}

#[test]
fn the_names_of_the_django_service_for_the_provider_are_accepted() {
    let own = [("TOKEN_RELAY_PUBLIC_URL", "https://relay.example")];
    let load = |more: &[(&str, &str)]| {
        let pairs = own.iter().chain(more);
        Snapshot::load(pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), None)
    };
    let aliases = PROVIDER_NAMES.map(|(alias, _, value, _)| (alias, value));
    let alone = load(&aliases).unwrap();
    assert_eq!(provider_settings(&alone.settings), PROVIDER_NAMES.map(|(.., meant)| meant));
    // In JSON as well.
    let json = ("OIDC_AUTH_REQUEST_EXTRA_PARAMS", r#"{"acr_values": "eidas1", "max_age": 0}"#);
    let json = load(&[&aliases[..4], &[json]].concat()).unwrap();
    assert_eq!(provider_settings(&json.settings), PROVIDER_NAMES.map(|(.., meant)| meant));

    // A prefixed name takes precedence, in whatever order they stand, and the other is named.
    let others =
        ["https://other.example/", "other", "another secret", "openid groups", "hd=example.org"];
    let prefixed = PROVIDER_NAMES.map(|(_, name, ..)| format!("TOKEN_RELAY_{name}"));
    let mut both: Vec<_> =
        aliases.into_iter().chain(prefixed.iter().map(String::as_str).zip(others)).collect();
    for _ in 0..2 {
        let settings = load(&both).unwrap();
        assert_eq!(provider_settings(&settings.settings), others);
        for (alias, name, ..) in PROVIDER_NAMES {
            let origin = format!(
                "environment TOKEN_RELAY_{name}; another value is ignored: environment {alias}"
            );
            assert_eq!(origin_of(&settings, name), origin);
        }
        both.reverse();
    }
    // The same value twice is no contradiction.
    let same: Vec<_> = aliases
        .into_iter()
        .chain(prefixed.iter().map(String::as_str).zip(PROVIDER_NAMES.map(|(.., value, _)| value)))
        .collect();
    let settings = load(&same).unwrap();
    for (_, name, ..) in PROVIDER_NAMES {
        assert_eq!(origin_of(&settings, name), format!("environment TOKEN_RELAY_{name}"));
    }

    // What is wrong is named as it was written.
    for (index, value) in
        [(0, "ftp://login.example"), (4, "{'a': ['b']}"), (4, "[\"a\"]"), (4, "{a}")]
    {
        let (alias, name, ..) = PROVIDER_NAMES[index];
        let mut pairs = aliases;
        pairs[index].1 = value;
        let text = load(&pairs).err().unwrap().to_string();
        assert!(text.starts_with(&format!("TOKEN_RELAY_{name}: expected ")), "{text}");
        assert!(text.ends_with(&format!("(environment {alias})")), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let text = load(&[&aliases[..], &[("OIDC_RP_CLIENT_SECRET_FILE", "/run/x")]].concat());
    let expected = "OIDC_RP_CLIENT_SECRET: give it or OIDC_RP_CLIENT_SECRET_FILE, not both";
    assert_eq!(text.err().unwrap().to_string(), expected);
    let text = load(&[&aliases[..2], &[("OIDC_RP_CLIENT_SECRET_FILE", "/nonexistent")]].concat());
    let text = text.err().unwrap().to_string();
    assert!(text.starts_with("OIDC_RP_CLIENT_SECRET_FILE: /nonexistent"), "{text}");
}

#[test]
fn the_demo_has_its_own_provider_whatever_the_environment_names() {
    let aliases = PROVIDER_NAMES.map(|(alias, _, value, _)| (alias.to_owned(), value.to_owned()));
    let listen = "127.0.0.1:0".parse().unwrap();
    let issuer = "http://127.0.0.1:8081";
    let demo = Snapshot::demo(listen, issuer, "demo", "secret", None, aliases).unwrap();
    let expected = ["http://127.0.0.1:8081/", "demo", "secret", "openid profile email", ""];
    assert_eq!(provider_settings(&demo.settings), expected);
}

#[test]
fn of_two_aliases_the_settings_own_name_takes_precedence() {
    let mut pairs = ALL_ON.to_vec();
    pairs.push(("CSRF_TRUSTED_ORIGINS", "https://own.example"));
    pairs.push(("DJANGO_CSRF_TRUSTED_ORIGINS", "https://django.example"));
    for _ in 0..2 {
        let settings = Settings::load(environment(&pairs), None).unwrap();
        let trusted = &settings.meet.unwrap().csrf_trusted_origins;
        assert_eq!(trusted, &[TrustedOrigin::Exact("https://own.example".to_owned())]);
        pairs.reverse();
    }
}

#[test]
fn the_environment_wins_over_the_secret_file_of_the_settings_file() {
    let folder = std::env::temp_dir().join(format!("token-relay-layers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("relay.toml");
    std::fs::write(&file, "cookie_keys_file = '/nonexistent/but/replaced'").unwrap();
    let text = Settings::load(environment(&[]), Some(&file)).unwrap_err().to_string();
    assert!(text.starts_with("cookie_keys_file: "), "{text}");
    let other = OTHER;
    std::fs::write(&file, format!("cookie_keys = '{SECRET}'")).unwrap();
    let variables = environment(&[("TOKEN_RELAY_COOKIE_KEYS", other)]);
    let settings = Settings::load(variables, Some(&file)).unwrap();
    assert_eq!(settings.token.cookie_keys[0].expose(), other);
    let both =
        [("TOKEN_RELAY_COOKIE_KEYS", SECRET), ("TOKEN_RELAY_COOKIE_KEYS_FILE", "/nonexistent")];
    let text = errors(&both);
    assert!(text.contains("give it or TOKEN_RELAY_COOKIE_KEYS_FILE, not both"), "{text}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Loads a settings file; the provider comes from the environment.
fn load_file(text: &str, pairs: &[(&str, &str)]) -> Result<Snapshot, SettingsErrors> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("token-relay-{}-{number}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, text).unwrap();
    let loaded = Snapshot::load(environment(pairs), Some(&file));
    std::fs::remove_file(&file).unwrap();
    loaded
}

fn registry(settings: &Settings) -> Clients {
    Clients::new(settings, settings, &Url::parse("https://relay.example/").unwrap())
}

const CLIENT_SECRET: &str = "a client secret of these tests: long enough";

#[test]
fn without_registered_clients_there_is_one_of_the_global_settings() {
    let settings = Settings::load(
        environment(&[
            ("TOKEN_RELAY_ALLOWED_ORIGINS", "https://addin.example"),
            ("TOKEN_RELAY_TOKEN_SCOPE", "rooms:read rooms:create"),
            ("TOKEN_RELAY_INTROSPECTION_CLIENTS", "api:a secret of 16 or more"),
        ]),
        None,
    );
    let settings = settings.unwrap();
    let clients = registry(&settings);
    let addons = clients.find(None).unwrap();
    assert_eq!(clients.find(Some("addons")).unwrap().id, addons.id);
    assert_eq!(addons.proofs, BTreeSet::from([Proof::Browser, Proof::Opener]));
    assert_eq!(addons.audience, ["https://relay.example"]);
    assert_eq!(addons.scope_for(None).unwrap(), "rooms:read rooms:create");
    assert_eq!(addons.scope_for(Some("rooms:create")).unwrap(), "rooms:create");
    for wrong in ["", "rooms:delete", "rooms:read rooms:delete"] {
        assert_eq!(addons.scope_for(Some(wrong)), Err(InvalidScope), "{wrong}");
    }
    assert!(addons.is_implied() && !addons.legacy && !addons.refresh);
    assert!(addons.may(Grant::Session) && !addons.may(Grant::Device));
    assert_eq!(addons.setting(ClientSetting::Proofs), "PROOFS");
    assert!(clients.authenticate("addons", "").is_none());

    let api = clients.authenticate("api", "a secret of 16 or more").unwrap();
    assert!(api.may(Grant::Introspect) && !api.may(Grant::Session));
    assert!(clients.authenticate("api", "another secret").is_none());

    let settings = Settings::load(environment(&[]), None).unwrap();
    let clients = registry(&settings);
    let addons = clients.find(None).unwrap();
    assert!(addons.accepts(Proof::Code) && addons.may(Grant::Device));
}

const CLIENTS: &str = r#"
token_audience = 'https://api.example'
[clients.outlook]
name = 'Rooms for Outlook'
origins = ['https://addin.example', 'http://localhost:3000']
scope = 'rooms:create'
audience = ['https://rooms.example']
token_ttl = '5m'
session_ttl = '3m'
auth_params = 'acr_values=eidas1'
required_claims = ['email_verified=true', 'groups=staff|admins']
legacy = true
fulfilled_by = ['meet']

[clients.meet]
secret = 'a client secret of these tests: long enough'
grants = 'introspect'

[clients.terminal]
proofs = 'code'
grants = 'session device'
"#;

#[test]
fn a_client_inherits_what_it_does_not_say() {
    let snapshot = load_file(CLIENTS, &[]).unwrap();
    assert_eq!(snapshot.warnings(), []);
    let clients = registry(&snapshot.settings);
    assert_eq!(clients.find(None).unwrap_err(), UnknownClient);
    assert_eq!(clients.find(Some("addons")).unwrap_err(), UnknownClient);
    let outlook = clients.find(Some("outlook")).unwrap();
    assert_eq!(outlook.name.as_deref(), Some("Rooms for Outlook"));
    assert_eq!(outlook.proofs, BTreeSet::from([Proof::Browser, Proof::Opener]));
    assert_eq!(outlook.audience, ["https://rooms.example"]);
    assert_eq!(outlook.token_ttl, Duration::from_secs(300));
    assert_eq!(outlook.session_ttl, Duration::from_secs(180));
    assert_eq!(outlook.auth_params.get("acr_values"), Some("eidas1"));
    assert_eq!(outlook.required_claims.names().collect::<Vec<_>>(), ["email_verified", "groups"]);
    assert!(outlook.legacy && outlook.has_origin("http://localhost:3000"));
    assert_eq!(outlook.fulfilled_by[0].as_str(), "meet");
    assert_eq!(outlook.setting(ClientSetting::Origins), "clients.outlook.origins");
    let terminal = clients.find(Some("terminal")).unwrap();
    assert_eq!(terminal.name.as_deref(), Some("terminal"));
    assert_eq!(terminal.audience, ["https://api.example"]);
    assert_eq!(terminal.proofs, BTreeSet::from([Proof::Code]));
    assert!(terminal.may(Grant::Device) && !terminal.legacy);
    assert_eq!(terminal.token_ttl, Duration::from_secs(3600));
    assert!(clients.authenticate("meet", CLIENT_SECRET).is_some());
    assert!(clients.authenticate("terminal", "").is_none());
    assert!(clients.have_origin("https://addin.example") && !clients.have_origin("null"));
}

#[test]
fn pages_without_an_origin_need_the_code_as_a_proof() {
    let rejected = |file: &str, environment: &[(&str, &str)]| {
        let error = load_file(file, environment).err().unwrap().to_string();
        assert!(error.to_lowercase().contains("opaque_origins"), "{error}");
    };
    let origin = ("TOKEN_RELAY_ALLOWED_ORIGINS", "https://addin.example");
    let opaque = ("TOKEN_RELAY_OPAQUE_ORIGINS", "true");
    rejected("", &[opaque, origin]);
    rejected("[clients.a]\nopaque_origins = true\nproofs = 'opener'", &[]);
    rejected("[clients.a]\nopaque_origins = true\norigins = 'https://addin.example'", &[]);
    let file = "[clients.a]\nproofs = 'code'\n[clients.b]\norigins = 'https://addin.example'";
    let clients = registry(&load_file(file, &[opaque]).unwrap().settings);
    let calls = |id| clients.find(Some(id)).unwrap().has_origin("null");
    assert!(calls("a") && !calls("b"), "only a client whose dialogs take the code inherits it");
}

#[test]
fn everything_that_is_wrong_with_clients_is_said_at_once() {
    let text = load_file(
        r#"
[clients.a]
origins = ['https://addin.example/', 'null']
[clients.b]
origins = 'https://*.example'
[clients.c]
origins = 'http://addin.example'
proofs = 'trust'
scope = 'a"b'
[clients.d]
orgins = 'https://addin.example'
secret = 'short, and confidential'
fulfilled_by = 'a, nobody'
grants = 'device'
proofs = 'browser'
[clients.e]
grants = 'introspect'
refresh = true
token_ttl = 'soon'
[clients.'two words']
[clients]
f = 1
"#,
        &[],
    );
    let text = text.map(|_| ()).unwrap_err().to_string();
    for (path, problem, line) in [
        ("clients.a.origins", "expected exact https origins", 3),
        ("clients.b.origins", "expected exact https origins", 5),
        ("clients.c.origins", "expected exact https origins", 7),
        ("clients.c.proofs", "expected one or more of browser, opener and code", 8),
        ("clients.c.scope", "expected scopes", 9),
        ("clients.d.orgins", "no such setting; did you mean origins?", 11),
        ("clients.d.secret", "expected secrets of 32 characters or more each", 12),
        ("clients.d.fulfilled_by", "expected IDs of registered clients that have a secret", 13),
        ("clients.d.proofs", "expected code among them", 15),
        ("clients.e.token_ttl", "expected a duration", 19),
        ("clients.e.refresh", "expected false, or REFRESH_TOKEN_TTL", 18),
        ("clients.two words", "a client ID has 1 to 128 visible ASCII characters", 20),
    ] {
        let found = text.lines().find(|line| line.starts_with(&format!("{path}: ")));
        let found = found.unwrap_or_else(|| panic!("no {path} in {text}"));
        assert!(found.contains(problem) && found.ends_with(&format!("line {line})")), "{found}");
    }
    assert!(text.contains("clients.e.secret: required with the grant introspect"), "{text}");
    assert!(!text.contains("confidential"), "{text}");
}

#[test]
fn a_client_may_come_from_the_environment_and_its_secret_from_a_file() {
    let file = std::env::temp_dir().join(format!("token-relay-client-{}", std::process::id()));
    std::fs::write(&file, CLIENT_SECRET).unwrap();
    let path = file.to_str().unwrap();
    let snapshot = load_file(
        "[clients.My-API]\naudience = 'a'\n",
        &[
            ("TOKEN_RELAY_CLIENTS__MY_API__SECRET_FILE", path),
            ("TOKEN_RELAY_CLIENTS__OUTLOOK__ORIGINS", "https://addin.example"),
            ("TOKEN_RELAY_CLIENTS__OUTLOOK__AUDIENCE", "b"),
        ],
    );
    let snapshot = snapshot.unwrap();
    let clients = registry(&snapshot.settings);
    assert!(clients.authenticate("My-API", CLIENT_SECRET).is_some());
    assert!(clients.find(Some("outlook")).unwrap().has_origin("https://addin.example"));
    assert_eq!(snapshot.files()[1], file);
    let lines: Vec<_> =
        snapshot.effective().iter().filter(|line| line.name.contains("secret")).collect();
    assert_eq!(lines[0].name, "clients.My-API.secret");
    assert_eq!(lines[0].value, "(set, redacted)");
    assert_eq!(lines[0].origin, format!("secret file {path}"));
    std::fs::remove_file(&file).unwrap();

    let text = errors(&[("TOKEN_RELAY_CLIENTS__OUTLOOK__ORIGIN", "https://addin.example")]);
    assert!(text.contains("did you mean TOKEN_RELAY_CLIENTS__OUTLOOK__ORIGINS?"), "{text}");
    let text = errors(&[("TOKEN_RELAY_CLIENTS__OUTLOOK__SECRET_FILE", "/nonexistent")]);
    let expected = "TOKEN_RELAY_CLIENTS__OUTLOOK__SECRET_FILE: /nonexistent";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn what_is_valid_and_harmful_is_said() {
    let load = |pairs: &[(&str, &str)]| Snapshot::load(environment(pairs), None).unwrap();
    let warns = |snapshot: &Snapshot, setting: &str, part: &str| {
        let text = snapshot.warnings().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(
            text.iter()
                .any(|line| line.starts_with(&format!("{setting}: ")) && line.contains(part)),
            "{setting} {part}: {text:?}"
        );
    };
    assert_eq!(load(&[]).warnings(), []);
    warns(
        &load(&[("TOKEN_RELAY_CONFIRMATION", "never")]),
        "TOKEN_RELAY_CONFIRMATION",
        "any website",
    );
    warns(&load(&ALL_ON), "TOKEN_RELAY_MEET_PROOF", "`address`");
    let deprecated = load(&[("TOKEN_RELAY_REQUIRE_BOUND_SESSIONS", "false")]);
    warns(&deprecated, "TOKEN_RELAY_REQUIRE_BOUND_SESSIONS", "deprecated");
    assert!(deprecated.settings.session.legacy());
    let both =
        [("TOKEN_RELAY_REQUIRE_BOUND_SESSIONS", "true"), ("TOKEN_RELAY_LEGACY_SESSIONS", "true")];
    assert!(errors(&both).contains("REQUIRE_BOUND_SESSIONS: expected the inverse"));
    let origins = "http://addin.example,https://outlook.office.com";
    let snapshot = load(&[("TOKEN_RELAY_ALLOWED_ORIGINS", origins)]);
    warns(&snapshot, "TOKEN_RELAY_ALLOWED_ORIGINS", "http://addin.example is plain HTTP");
    warns(&snapshot, "TOKEN_RELAY_ALLOWED_ORIGINS", "https://outlook.office.com is shared");
    warns(
        &load(&[("TOKEN_RELAY_FRAME_ANCESTORS", "*")]),
        "TOKEN_RELAY_FRAME_ANCESTORS",
        "any website",
    );
    let snapshot = load_file(
        "[clients.a]\norigins = 'https://outlook.office.com'\n[clients.b]\n[clients.c]\naudience = 'c'\n",
        &[],
    );
    let snapshot = snapshot.unwrap();
    warns(&snapshot, "clients.a.origins", "is shared");
    warns(&snapshot, "clients.b.audience", "is that of a too");
    assert_eq!(snapshot.warnings().len(), 2);
}

#[test]
fn the_demo_allows_legacy_sessions_unless_the_operator_does_not() {
    let legacy = |pairs: &[(&str, &str)]| {
        let listen = "127.0.0.1:0".parse().unwrap();
        let demo = Snapshot::demo(
            listen,
            "http://127.0.0.1:8081",
            "demo",
            "secret",
            None,
            environment(pairs),
        );
        demo.unwrap().settings.session.legacy()
    };
    assert!(legacy(&[]));
    assert!(!legacy(&[("TOKEN_RELAY_LEGACY_SESSIONS", "off")]));
    assert!(!legacy(&[("TOKEN_RELAY_REQUIRE_BOUND_SESSIONS", "true")]));
    assert!(!Settings::load(environment(&[]), None).unwrap().session.legacy());
}

#[test]
fn keys_are_random_and_differ() {
    let key = |name: &'static str, value: &str| {
        errors(&[(name, value), ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256")])
    };
    let repeated = "ab".repeat(32);
    let words = "correct horse battery staple, correct horse";
    for weak in [words, &repeated, "0123456789abcdef0123456789abcdef", &SECRET[..62]] {
        for name in
            ["TOKEN_RELAY_COOKIE_KEYS", "TOKEN_RELAY_SEALING_KEYS", "TOKEN_RELAY_SIGNING_KEY"]
        {
            let text = key(name, weak);
            assert!(text.contains(&format!("{name}: expected a key of 32 random bytes")), "{text}");
            assert!(!text.contains(weak) && !text.contains("horse"), "{text}");
        }
    }
    let twice = format!("{SECRET}\n{SECRET}");
    assert!(
        key("TOKEN_RELAY_COOKIE_KEYS", &twice).contains("COOKIE_KEYS: expected keys that differ")
    );
    let text = errors(&[("TOKEN_RELAY_COOKIE_KEYS", SECRET), ("TOKEN_RELAY_SEALING_KEYS", SECRET)]);
    assert!(text.contains("SEALING_KEYS: expected keys that differ"), "{text}");

    // What 0.1 sealed with a word-like key still opens, behind a proper one.
    let rotated =
        "5tUXqXwYgnU1vO7m5l2rJxQm9B0tqGd1yNq2w3Zp8Lk=\nan old secret of thirty-two characters";
    let snapshot = Snapshot::load(environment(&[("TOKEN_RELAY_SEALING_KEYS", rotated)]), None);
    let snapshot = snapshot.unwrap();
    assert_eq!(snapshot.settings.token.sealing_keys.len(), 2);
    assert_eq!(snapshot.warnings()[0].setting, "TOKEN_RELAY_SEALING_KEYS");
}

#[test]
fn what_a_listener_leaves_open_is_said() {
    let warned = |pairs: &[(&str, &str)]| {
        let snapshot = Snapshot::load(environment(pairs), None).unwrap();
        let names = snapshot.warnings().iter().map(|warning| warning.setting.clone());
        names.map(|name| name.replace("TOKEN_RELAY_", "")).collect::<Vec<_>>()
    };
    let public = ("TOKEN_RELAY_LISTEN", "0.0.0.0:8080");
    assert_eq!(warned(&[public]), ["LISTEN", "METRICS_LISTEN"]);
    let behind_proxy = [
        public,
        ("TOKEN_RELAY_TRUSTED_PROXIES", "10.0.0.7"),
        ("TOKEN_RELAY_METRICS_LISTEN", "127.0.0.1:9090"),
    ];
    assert_eq!(warned(&behind_proxy), [""; 0]);
    assert_eq!(warned(&[("TOKEN_RELAY_TRUSTED_PROXIES", "0.0.0.0/0")]), ["TRUSTED_PROXIES"]);
    let weak =
        [&ALL_ON[..4], &[("ADDONS_TOKEN_SECRET_KEY", "a secret that Django has had for years")]];
    assert_eq!(warned(&weak.concat()), ["ADDONS_TOKEN_SECRET_KEY", "MEET_PROOF"]);
}

#[test]
fn a_secret_file_that_others_can_read_or_write_is_said() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = std::env::temp_dir().join(format!("token-relay-mode-{}", std::process::id()));
    std::fs::write(&file, SECRET).unwrap();
    for (mode, expected) in
        [(0o600, None), (0o640, None), (0o644, Some("read")), (0o666, Some("written"))]
    {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let pairs = [("TOKEN_RELAY_COOKIE_KEYS_FILE", file.to_str().unwrap())];
        let snapshot = Snapshot::load(environment(&pairs), None).unwrap();
        let warning = snapshot.warnings().first().map(ToString::to_string);
        let part = expected.map(|access| format!("can be {access} by every user"));
        match (&warning, &part) {
            (None, None) => {}
            (Some(warning), Some(part)) => {
                assert!(warning.starts_with("TOKEN_RELAY_COOKIE_KEYS_FILE: "), "{warning}");
                assert!(warning.contains(part), "{warning}");
            }
            _ => panic!("{mode:o}: {warning:?}"),
        }
    }
    std::fs::remove_file(&file).unwrap();
}
