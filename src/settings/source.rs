//! Reads raw values from the environment and the file, and remembers where each came from.

use std::{
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use zeroize::Zeroizing;

use crate::{
    session::Digest,
    settings::{Secret, table},
};

/// Prefix of environment variables.
const PREFIX: &str = "TOKEN_RELAY_";

/// Variables with the prefix that are no settings.
const NOT_SETTINGS: [&str; 3] = ["LOG", "CONFIG", "DEMO_AUTO_LOGIN"];

/// Variables of the OpenTelemetry specification, and the settings that they stand for.
const OPEN_TELEMETRY: [(&str, &str); 5] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTLP_ENDPOINT"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "OTLP_HEADERS"),
    ("OTEL_SERVICE_NAME", "OTEL_SERVICE_NAME"),
    ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER"),
    ("OTEL_TRACES_SAMPLER_ARG", "OTEL_TRACES_SAMPLER_ARG"),
];

/// One thing wrong with the settings. Never holds a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The setting, as the operator wrote it or should have.
    pub setting: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.setting, self.problem)
    }
}

/// All that is wrong with the settings, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsErrors(pub Vec<SettingsError>);

impl fmt::Display for SettingsErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(SettingsError::to_string).collect::<Vec<_>>();
        formatter.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for SettingsErrors {}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The environment variable of that name.
    Environment(String),
    /// The settings file.
    File(PathBuf),
    /// A file that another setting names.
    SecretFile(PathBuf),
    /// The program itself (`demo`).
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(formatter, "environment {name}"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::SecretFile(path) => write!(formatter, "secret file {}", path.display()),
            Self::Program => formatter.write_str("demo"),
        }
    }
}

struct Raw {
    text: Zeroizing<String>,
    origin: Origin,
    /// A list that was written down without members, unlike one that was not written down.
    is_empty_list: bool,
}

/// The raw values, and the errors found while making sense of them.
#[derive(Default)]
pub(crate) struct Source {
    values: BTreeMap<String, Raw>,
    errors: Vec<SettingsError>,
    /// Every file that was read, or should have been.
    files: Vec<PathBuf>,
    /// What the files that plain settings name hold.
    contents: BTreeMap<String, Digest>,
}

impl Source {
    /// Reads environment and file; the environment wins, and in it the prefixed names.
    pub(crate) fn read(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Self {
        let mut source = Self::default();
        if let Some(path) = file {
            source.read_file(path);
            source.read_secret_files(str::to_ascii_lowercase);
        }
        let (mut prefixed, mut aliases, mut disabled) = (Vec::new(), Vec::new(), false);
        for (variable, value) in environment {
            if let Some(name) = variable.strip_prefix(PREFIX) {
                prefixed.push((name.to_owned(), variable.clone(), value));
            } else if variable == "ADDONS_ENABLED" {
                aliases.push(("MEET_COMPATIBLE".to_owned(), variable, value));
            } else if let Some(name) = OPEN_TELEMETRY.iter().find(|(alias, _)| *alias == variable) {
                aliases.push((name.1.to_owned(), variable, value));
            } else if variable.starts_with("ADDONS_") && known(&variable) {
                aliases.push((variable.clone(), variable, value));
            } else if variable == "OTEL_SDK_DISABLED" && value.eq_ignore_ascii_case("true") {
                disabled = true;
            }
        }
        if disabled {
            aliases.retain(|(name, ..)| name != "OTLP_ENDPOINT");
        }
        // A layer at a time, so that a setting of a stronger layer replaces the setting, or the
        // file of it, that a weaker one has, while both in one layer are a contradiction.
        for (layer, prefix) in [(aliases, ""), (prefixed, PREFIX)] {
            let mut found = Self::default();
            for (name, variable, value) in layer {
                if NOT_SETTINGS.contains(&name.as_str()) || is_service_link(&name, &value) {
                    continue;
                }
                if !known(&name) {
                    found.unknown(&variable, &name, |near| format!("{PREFIX}{near}"));
                } else if value.contains(char::REPLACEMENT_CHARACTER) {
                    found.error(variable, "expected text in UTF-8".to_owned());
                } else if !value.trim().is_empty() {
                    // Compose files and charts hand on what is not set as an empty variable.
                    found.put(name, value, Origin::Environment(variable));
                }
            }
            found.read_secret_files(|name| format!("{prefix}{name}"));
            source.values.append(&mut found.values);
            source.errors.append(&mut found.errors);
            source.files.append(&mut found.files);
        }
        source
    }

    fn read_file(&mut self, path: &Path) {
        let setting = path.display().to_string();
        self.files.push(path.to_owned());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.error(setting, error.to_string()),
        };
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                // The parser's own text would repeat the line, which may hold a secret.
                let line = error
                    .span()
                    .map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                return self.error(setting, format!("not valid TOML at line {line}"));
            }
        };
        for (key, value) in table {
            let name = key.to_ascii_uppercase();
            if !known(&name) || key != key.to_ascii_lowercase() {
                self.unknown(&key, &name, str::to_ascii_lowercase);
                continue;
            }
            match plain_text(&value) {
                Some(text) => {
                    let is_empty_list = value.as_array().is_some_and(Vec::is_empty);
                    let origin = Origin::File(path.to_owned());
                    self.values.insert(name, Raw { text: text.into(), origin, is_empty_list });
                }
                None => {
                    self.error(
                        key,
                        "expected a string, number, boolean or list of them".to_owned(),
                    );
                }
            }
        }
    }

    fn unknown(&mut self, written: &str, name: &str, spell: impl Fn(&str) -> String) {
        let near = spell(table::nearest(name));
        self.error(written.to_owned(), format!("no such setting; did you mean {near}?"));
    }

    /// Replaces `<NAME>_FILE` by the content of that file; `spell` writes a name as the operator
    /// did.
    fn read_secret_files(&mut self, spell: impl Fn(&str) -> String) {
        for entry in table::TABLE.iter().filter(|entry| entry.secret) {
            let file_name = format!("{}_FILE", entry.name);
            let Some(Raw { text: path, origin, .. }) = self.values.remove(&file_name) else {
                continue;
            };
            if path.trim().is_empty() {
                continue;
            }
            if self.has(entry.name) {
                let problem = format!("give it or {}, not both", spell(&file_name));
                self.error(spell(entry.name), problem);
                continue;
            }
            let path = PathBuf::from(path.as_str());
            self.files.push(path.clone());
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let text = text.trim_end_matches(['\r', '\n']).to_owned();
                    self.put(entry.name.to_owned(), text, Origin::SecretFile(path));
                }
                Err(error) => {
                    let problem = format!("{} ({origin}): {error}", path.display());
                    self.error(spell(&file_name), problem);
                }
            }
        }
    }

    fn put(&mut self, name: String, text: String, origin: Origin) {
        let text = Zeroizing::new(text);
        self.values.insert(name, Raw { text, origin, is_empty_list: false });
    }

    /// Sets a value unless the operator did.
    pub(crate) fn preset(&mut self, name: &str, text: &str) {
        if !self.values.contains_key(name) {
            self.put(name.to_owned(), text.to_owned(), Origin::Program);
        }
    }

    /// A file that a setting names, by its content.
    pub(crate) fn file(&mut self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let path = PathBuf::from(self.text(name)?);
        self.files.push(path.clone());
        match std::fs::read(&path) {
            Ok(content) => {
                self.contents.insert(name.to_owned(), Digest::of(&content));
                Some(content.into())
            }
            Err(error) => {
                self.error(format!("{PREFIX}{name}"), format!("{}: {error}", path.display()));
                None
            }
        }
    }

    /// What tells one reading of the settings from another, by setting; no value can be read from
    /// it.
    pub(crate) fn digests(&self) -> BTreeMap<&'static str, Digest> {
        let digest = |name: &str| {
            let text = self.shown(name)?;
            let content = self.contents.get(name).map(Digest::as_bytes).copied();
            Some(Digest::of(&[text.as_bytes(), &content.unwrap_or_default()].concat()))
        };
        table::TABLE.iter().filter_map(|entry| Some((entry.name, digest(entry.name)?))).collect()
    }

    /// Every file that was read, or should have been.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Notes an error.
    pub(crate) fn error(&mut self, setting: impl Into<String>, problem: String) {
        self.errors.push(SettingsError { setting: setting.into(), problem });
    }

    /// Notes an error of a setting, with the source of its value.
    pub(crate) fn reject(&mut self, name: &str, expected: &str) {
        let origin = self.values.get(name).map(|raw| format!(" ({})", raw.origin));
        let problem = format!("expected {expected}{}", origin.unwrap_or_default());
        self.error(format!("{PREFIX}{name}"), problem);
    }

    /// Notes that a required setting is missing.
    pub(crate) fn missing(&mut self, name: &str, why: &str) {
        self.error(format!("{PREFIX}{name}"), format!("required{why}, but not set"));
    }

    /// Whether the setting has a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The value; an empty one counts as none.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        debug_assert!(table::find(name).is_some(), "{name} is not in the table");
        let text = self.values.get(name)?.text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The value as `check-config` shows it, if there is one.
    pub(crate) fn shown(&self, name: &str) -> Option<String> {
        let is_empty_list = self.values.get(name)?.is_empty_list;
        if is_empty_list { Some("(empty list)".to_owned()) } else { self.text(name) }
    }

    /// Where the value came from.
    pub(crate) fn origin(&self, name: &str) -> Option<String> {
        self.values.get(name).map(|raw| raw.origin.to_string())
    }

    /// A secret, of `least` characters or more.
    pub(crate) fn secret(&mut self, name: &str, least: usize) -> Option<Secret> {
        let text = Zeroizing::new(self.text(name)?);
        if text.chars().count() < least {
            self.reject(name, &format!("{least} characters or more"));
            return None;
        }
        Some(Secret(text))
    }

    /// Secrets separated by commas or lines.
    pub(crate) fn secrets(&mut self, name: &str, least: usize) -> Vec<Secret> {
        let secrets = self
            .text(name)
            .unwrap_or_default()
            .split([',', '\n'])
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| Secret(Zeroizing::new(part.to_owned())))
            .collect::<Vec<_>>();
        let short = |secret: &Secret| secret.expose().chars().count() < least;
        // Separators alone must not pass for keys.
        if secrets.iter().any(short) || (secrets.is_empty() && self.has(name)) {
            self.reject(name, &format!("secrets of {least} characters or more each"));
        }
        secrets
    }

    /// A list separated by commas.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<String>> {
        if self.values.get(name).is_some_and(|raw| raw.is_empty_list) {
            return Some(Vec::new());
        }
        let text = self.text(name)?;
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Some(parts.map(str::to_owned).collect())
    }

    /// A value of a type with a textual form.
    pub(crate) fn parse<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.reject(name, expected);
        }
        parsed
    }

    /// A boolean.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0" | "no" | "off") => false,
            Some("true" | "1" | "yes" | "on") => true,
            Some(_) => {
                self.reject(name, "true or false");
                false
            }
        }
    }

    /// A whole number within `bounds`.
    pub(crate) fn number(
        &mut self,
        name: &str,
        default: usize,
        bounds: RangeInclusive<usize>,
    ) -> usize {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        match self.parse(name, &expected) {
            Some(number) if bounds.contains(&number) => number,
            Some(_) => {
                self.reject(name, &expected);
                default
            }
            None => default,
        }
    }

    /// A duration between two others. In `ADDONS_*` a plain number stands for seconds.
    pub(crate) fn duration(
        &mut self,
        name: &str,
        default: Duration,
        (least, most): (Duration, Duration),
    ) -> Duration {
        let Some(text) = self.text(name) else { return default };
        let seconds = text.parse().ok().filter(|_| name.starts_with("ADDONS_"));
        let parsed = match seconds {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => humantime::parse_duration(&text).ok(),
        };
        match parsed {
            Some(duration) if (least..=most).contains(&duration) => duration,
            _ => {
                let show = humantime::format_duration;
                let (least, most) = (show(least), show(most));
                self.reject(
                    name,
                    &format!("a duration such as 30s or 15m, from {least} to {most}"),
                );
                default
            }
        }
    }

    /// The errors, if there are any.
    pub(crate) fn finish(&mut self) -> Result<(), SettingsErrors> {
        let errors = std::mem::take(&mut self.errors);
        if errors.is_empty() { Ok(()) } else { Err(SettingsErrors(errors)) }
    }

    /// Whether an error was noted.
    pub(crate) fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The environment of this process. What is no UTF-8 in a value comes as replacement characters,
/// which [`Settings::load`](crate::settings::Settings::load) refuses in settings and ignores elsewhere.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    })
}

/// Whether the variable is one that Kubernetes and Docker links put into every container when a
/// service beside it is called `token-relay` or `token-relay-…`: `…SERVICE_HOST`,
/// `…SERVICE_PORT[_NAME]`, `…PORT=tcp://…`, `…PORT_8080_TCP[_ADDR]`.
fn is_service_link(name: &str, value: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_port = |at: usize| words[at] == "PORT";
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || (0..words.len()).any(|at| is_port(at) && words.get(at + 1).is_some_and(is_number))
        || (words.last() == Some(&"PORT") && value.contains("://"))
}

/// Whether there is such a setting, or a file for one.
fn known(name: &str) -> bool {
    let of_file = |name: &str| table::find(name).is_some_and(|entry| entry.secret);
    table::find(name).is_some() || name.strip_suffix("_FILE").is_some_and(of_file)
}

fn plain_text(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        toml::Value::Array(values) => {
            values.iter().map(plain_text).collect::<Option<Vec<_>>>()?.join(",")
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}
