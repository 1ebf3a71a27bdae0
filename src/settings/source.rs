//! Reads raw values from the environment and the file, and remembers where each came from.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use zeroize::Zeroizing;

use super::{Secret, table};

/// Prefix of environment variables.
const PREFIX: &str = "TOKEN_RELAY_";

/// Variables with the prefix that are no settings.
const NOT_SETTINGS: [&str; 3] = ["LOG", "CONFIG", "DEMO_AUTO_LOGIN"];

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
pub(super) enum Origin {
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
}

/// The raw values, and the errors found while making sense of them.
pub(super) struct Source {
    values: BTreeMap<String, Raw>,
    errors: Vec<SettingsError>,
}

impl Source {
    /// Reads environment and file; the environment wins, and in it the prefixed names.
    pub(super) fn read(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Self {
        let mut source = Self { values: BTreeMap::new(), errors: Vec::new() };
        if let Some(path) = file {
            source.read_file(path);
        }
        let (mut prefixed, mut aliases) = (Vec::new(), Vec::new());
        for (variable, value) in environment {
            if let Some(name) = variable.strip_prefix(PREFIX) {
                prefixed.push((name.to_owned(), variable.clone(), value));
            } else if variable == "ADDONS_ENABLED" {
                aliases.push(("MEET_COMPATIBLE".to_owned(), variable, value));
            } else if variable.starts_with("ADDONS_") && known(&variable) {
                aliases.push((variable.clone(), variable, value));
            }
        }
        for (name, variable, value) in aliases.into_iter().chain(prefixed) {
            if NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            if known(&name) {
                source.put(name, value, Origin::Environment(variable));
            } else {
                source.unknown(&variable, &name, |near| format!("{PREFIX}{near}"));
            }
        }
        source.read_secret_files();
        source
    }

    fn read_file(&mut self, path: &Path) {
        let setting = path.display().to_string();
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
                Some(text) => self.put(name, text, Origin::File(path.to_owned())),
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

    /// Replaces `<NAME>_FILE` by the content of that file.
    fn read_secret_files(&mut self) {
        for entry in table::TABLE.iter().filter(|entry| entry.secret) {
            let file_name = format!("{}_FILE", entry.name);
            let Some(Raw { text: path, origin }) = self.values.remove(&file_name) else { continue };
            if self.values.contains_key(entry.name) {
                let problem = format!("give it or {PREFIX}{file_name}, not both");
                self.error(format!("{PREFIX}{}", entry.name), problem);
                continue;
            }
            let path = PathBuf::from(path.as_str());
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let text = text.trim_end_matches(['\r', '\n']).to_owned();
                    self.put(entry.name.to_owned(), text, Origin::SecretFile(path));
                }
                Err(error) => {
                    let problem = format!("{} ({origin}): {error}", path.display());
                    self.error(format!("{PREFIX}{file_name}"), problem);
                }
            }
        }
    }

    fn put(&mut self, name: String, text: String, origin: Origin) {
        self.values.insert(name, Raw { text: Zeroizing::new(text), origin });
    }

    /// Sets a value unless the operator did.
    pub(super) fn preset(&mut self, name: &str, text: &str) {
        if !self.values.contains_key(name) {
            self.put(name.to_owned(), text.to_owned(), Origin::Program);
        }
    }

    /// Notes an error.
    pub(super) fn error(&mut self, setting: impl Into<String>, problem: String) {
        self.errors.push(SettingsError { setting: setting.into(), problem });
    }

    /// Notes an error of a setting, with the source of its value.
    pub(super) fn reject(&mut self, name: &str, expected: &str) {
        let origin = self.values.get(name).map(|raw| format!(" ({})", raw.origin));
        let problem = format!("expected {expected}{}", origin.unwrap_or_default());
        self.error(format!("{PREFIX}{name}"), problem);
    }

    /// Notes that a required setting is missing.
    pub(super) fn missing(&mut self, name: &str, why: &str) {
        self.error(format!("{PREFIX}{name}"), format!("required{why}, but not set"));
    }

    /// Whether the setting has a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// The value; an empty one counts as none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        debug_assert!(table::find(name).is_some(), "{name} is not in the table");
        let text = self.values.get(name)?.text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Where the value came from.
    pub(super) fn origin(&self, name: &str) -> Option<String> {
        self.values.get(name).map(|raw| raw.origin.to_string())
    }

    /// A secret, of `least` characters or more.
    pub(super) fn secret(&mut self, name: &str, least: usize) -> Option<Secret> {
        let text = Zeroizing::new(self.text(name)?);
        if text.chars().count() < least {
            self.reject(name, &format!("{least} characters or more"));
            return None;
        }
        Some(Secret(text))
    }

    /// Secrets separated by commas or lines.
    pub(super) fn secrets(&mut self, name: &str, least: usize) -> Vec<Secret> {
        let secrets = self
            .text(name)
            .unwrap_or_default()
            .split([',', '\n'])
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| Secret(Zeroizing::new(part.to_owned())))
            .collect::<Vec<_>>();
        if secrets.iter().any(|secret| secret.expose().chars().count() < least) {
            self.reject(name, &format!("secrets of {least} characters or more each"));
        }
        secrets
    }

    /// A list separated by commas.
    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Some(parts.map(str::to_owned).collect())
    }

    /// A value of a type with a textual form.
    pub(super) fn parse<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.reject(name, expected);
        }
        parsed
    }

    /// A boolean.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0" | "no" | "off") => false,
            Some("true" | "1" | "yes" | "on") => true,
            Some(_) => {
                self.reject(name, "true or false");
                false
            }
        }
    }

    /// A whole number of at least `least`.
    pub(super) fn number(&mut self, name: &str, default: usize, least: usize) -> usize {
        let expected = format!("a whole number of {least} or more");
        match self.parse::<usize>(name, &expected) {
            Some(number) if number < least => {
                self.reject(name, &expected);
                default
            }
            Some(number) => number,
            None => default,
        }
    }

    /// A duration between two others. In `ADDONS_*` a plain number stands for seconds.
    pub(super) fn duration(
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
    pub(super) fn finish(self) -> Result<(), SettingsErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(SettingsErrors(self.errors)) }
    }

    /// Whether an error was noted.
    pub(super) fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }
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
