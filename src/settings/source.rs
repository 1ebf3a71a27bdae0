//! The raw values of the settings: read from the environment and the settings file, each with its
//! origin, and the errors found while they are parsed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use crate::{
    session::{ClientId, Digest},
    settings::{
        KeyOrigin, client_declarations,
        declaration::{Declaration, Unset},
        declarations,
        value::Field,
    },
    util::private_file::access_of_others,
};

/// Prefix of environment variables.
const PREFIX: &str = "TOKEN_RELAY_";

/// Variables with the prefix that are no settings; `COMMIT` is one of the build.
const NOT_SETTINGS: [&str; 4] = ["LOG", "CONFIG", "DEMO_AUTO_LOGIN", "COMMIT"];

/// What the keys of a client's settings begin with; its ID and the setting's name follow.
const CLIENTS: &str = "clients.";

/// What environment variables for a client's settings begin with, after the prefix.
const CLIENT_VARIABLES: &str = "CLIENTS__";

/// Suffix of the name of a file that holds a secret.
const FILE: &str = "_FILE";

/// Letters of a name for each that may be wrong in it, for another name to be offered in its place.
const LETTERS_PER_SLIP: usize = 5;

/// Maximum number of wrong letters in a name that another is offered for.
const MAX_SLIPS: usize = 3;

/// A list without members, which an environment variable can express too. Unlike an empty text, it
/// is a value.
const EMPTY_LIST: &str = ",";

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

/// A setting that is valid and harmful: the service starts and says so. Never holds a secret's
/// value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsWarning {
    /// The setting, with its prefix.
    pub setting: String,
    /// What it leaves open, and what to do.
    pub text: String,
}

impl fmt::Display for SettingsWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.setting, self.text)
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
    /// The settings file, at that line.
    File(PathBuf, usize),
    /// A file that another setting names.
    SecretFile(PathBuf),
    /// The program itself (`demo`).
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(formatter, "environment {name}"),
            Self::File(path, line) => write!(formatter, "file {}, line {line}", path.display()),
            Self::SecretFile(path) => write!(formatter, "secret file {}", path.display()),
            Self::Program => formatter.write_str("demo"),
        }
    }
}

struct Raw {
    text: Zeroizing<String>,
    origin: Origin,
    /// Where another value of the setting is, which this one takes precedence over.
    ignored: Option<Origin>,
}

/// The raw values, and the errors found while they are parsed.
///
/// The key of a global setting is its name, that of a client's setting `clients.<client_id>.<name>`.
#[derive(Default)]
pub(crate) struct Source {
    values: BTreeMap<String, Raw>,
    clients: BTreeSet<ClientId>,
    /// What the names of the section that is read are prefixed with to make keys.
    scope: String,
    errors: Vec<SettingsError>,
    warnings: Vec<SettingsWarning>,
    /// Settings that an error was noted for already.
    failed: BTreeSet<String>,
    /// Whether the settings file could not be read, so that nothing can be said to be missing.
    is_file_unread: bool,
    /// Every file that was read, or should have been.
    files: Vec<PathBuf>,
    /// Digests of the files that plain settings name, by setting.
    contents: BTreeMap<String, Digest>,
}

impl Source {
    /// Reads environment and file. The environment takes precedence, and in it first the prefixed
    /// names, then a setting's own name without the prefix, then its aliases in their order.
    pub(crate) fn read(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Self {
        let mut source = Self::default();
        if let Some(path) = file {
            source.read_file(path);
            source.read_secret_files();
        }
        let (mut prefixed, mut aliases, mut disabled) = (Vec::new(), Vec::new(), false);
        for (variable, value) in environment {
            if let Some(name) = variable.strip_prefix(PREFIX) {
                let key = source.key_of_variable(name);
                prefixed.push((key, variable.clone(), value));
            } else if let Some((name, rank)) = name_of_alias(&variable) {
                aliases.push((rank, name, variable, value));
            } else if variable == "OTEL_SDK_DISABLED" && value.eq_ignore_ascii_case("true") {
                disabled = true;
            }
        }
        if disabled {
            aliases.retain(|(_, name, ..)| name != "OTLP_ENDPOINT");
        }
        // The first in rank comes last and replaces the others.
        aliases.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        let aliases = aliases.into_iter().map(|(_, name, variable, value)| (name, variable, value));
        // A layer at a time, so that a setting of a stronger layer replaces the setting, or the
        // file of it, that a weaker one has, while both in one layer are a contradiction.
        for layer in [aliases.collect(), prefixed] {
            let mut found = Self::default();
            for (name, variable, value) in layer {
                if NOT_SETTINGS.contains(&name.as_str()) || is_service_link(&name, &value) {
                    continue;
                }
                if !is_known(&name) {
                    let of_client = name.starts_with(CLIENTS).then(|| variable.rsplit_once("__"));
                    let spell = |near: &str| match of_client.flatten() {
                        Some((client, _)) => format!("{client}__{}", near.to_ascii_uppercase()),
                        None => format!("{PREFIX}{near}"),
                    };
                    found.unknown(&variable, &name, spell, "");
                } else if value.contains(char::REPLACEMENT_CHARACTER) {
                    found.error(&name, variable, "expected text in UTF-8".to_owned());
                } else if !value.trim().is_empty() {
                    // Compose files and charts pass on what is not set as an empty variable.
                    found.put(name, value, Origin::Environment(variable));
                }
            }
            found.read_secret_files();
            for (key, raw) in std::mem::take(&mut found.values) {
                source.insert(key, raw);
            }
            source.clients.append(&mut found.clients);
            source.errors.append(&mut found.errors);
            source.failed.append(&mut found.failed);
            source.warnings.append(&mut found.warnings);
            source.files.append(&mut found.files);
        }
        source
    }

    fn read_file(&mut self, path: &Path) {
        let setting = path.display().to_string();
        self.files.push(path.to_owned());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                self.is_file_unread = true;
                return self.error("", setting, error.to_string());
            }
        };
        let line = |offset: usize| {
            let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        };
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                // The parser's own message would repeat the line, which may hold a secret.
                let at = error.span().map(|span| format!(" at line {}", line(span.start)));
                let problem = format!("not valid TOML{}", at.unwrap_or_default());
                self.is_file_unread = true;
                return self.error("", setting, problem);
            }
        };
        let origin = |offset: usize| Origin::File(path.to_owned(), line(offset));
        for (key, value) in table {
            let at = origin(key.span().start);
            let (key, value) = (key.get_ref().as_ref(), value.get_ref());
            match (key, value) {
                ("clients", DeValue::Table(clients)) => {
                    for (id, settings) in clients {
                        let at = origin(id.span().start);
                        self.read_client(id.get_ref(), settings.get_ref(), &at, origin);
                    }
                }
                ("clients", _) => {
                    self.error("", key, format!("expected tables [clients.<client_id>] ({at})"));
                }
                _ => self.read_value(key, &key.to_ascii_uppercase(), value, at),
            }
        }
    }

    fn read_client(
        &mut self,
        id: &str,
        settings: &DeValue<'_>,
        at: &Origin,
        origin: impl Fn(usize) -> Origin,
    ) {
        let written = format!("{CLIENTS}{id}");
        let client_id = match id.parse::<ClientId>() {
            Ok(client_id) => client_id,
            Err(error) => return self.error("", written, format!("{error} ({at})")),
        };
        let DeValue::Table(settings) = settings else {
            return self.error("", written, format!("expected a table of settings ({at})"));
        };
        self.clients.insert(client_id);
        for (name, value) in settings {
            let at = origin(name.span().start);
            let key = format!("{written}.{}", name.get_ref());
            self.read_value(&key, &key, value.get_ref(), at);
        }
    }

    /// Takes a value of the settings file for the setting with this key, `written` there.
    fn read_value(&mut self, written: &str, key: &str, value: &DeValue<'_>, at: Origin) {
        let lower_case = !written.bytes().any(|byte| byte.is_ascii_uppercase());
        if !is_known(key) || !(lower_case || key.starts_with(CLIENTS)) {
            self.unknown(written, key, str::to_ascii_lowercase, &format!(" ({at})"));
        } else if let Some(text) = plain_text(value) {
            self.put(key.to_owned(), text, at);
        } else {
            self.error(key, written, format!("expected text, number, boolean or list ({at})"));
        }
    }

    /// The key of the setting that a variable, without its prefix, is about. A client's ID stands in
    /// it in upper case, with an underscore for what a variable's name cannot have.
    fn key_of_variable(&self, name: &str) -> String {
        let Some((id, setting)) =
            name.strip_prefix(CLIENT_VARIABLES).and_then(|rest| rest.split_once("__"))
        else {
            return name.to_owned();
        };
        let as_variable = |id: &str| {
            let letter = |byte: char| if byte.is_ascii_alphanumeric() { byte } else { '_' };
            id.chars().map(letter).collect::<String>().to_ascii_uppercase()
        };
        let registered = self.clients.iter().find(|client| as_variable(client.as_str()) == id);
        let id = registered.map_or_else(|| id.to_ascii_lowercase(), ToString::to_string);
        format!("{CLIENTS}{id}.{}", setting.to_ascii_lowercase())
    }

    fn unknown(&mut self, written: &str, name: &str, spell: impl Fn(&str) -> String, at: &str) {
        let (section, name) = match name.strip_prefix(CLIENTS).and_then(|key| key.rsplit_once('.'))
        {
            Some((_, name)) => (client_declarations(), name),
            None => (&[][..], name),
        };
        let global = declarations().filter(|_| section.is_empty());
        // The settings file has a table too.
        let is_in_file = section.is_empty() && !written.starts_with(PREFIX);
        let tables = is_in_file.then_some("CLIENTS");
        let near = section
            .iter()
            .chain(global)
            .map(|declaration| declaration.name)
            .chain(tables)
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .filter(|(slips, known)| *slips <= (known.len() / LETTERS_PER_SLIP).clamp(1, MAX_SLIPS))
            .min_by_key(|(slips, _)| *slips);
        let hint = near.map(|(_, known)| format!("; did you mean {}?", spell(known)));
        self.error(name, written, format!("no such setting{}{at}", hint.unwrap_or_default()));
    }

    /// Replaces `<NAME>_FILE` by the content of that file.
    fn read_secret_files(&mut self) {
        let as_written = |origin: &Origin, key: &str| match origin {
            Origin::Environment(variable) => variable.clone(),
            _ => key.to_ascii_lowercase(),
        };
        let files: Vec<_> = self.values.keys().filter_map(|key| secret_of_file(key)).collect();
        for (name, file_name) in files {
            let Some(Raw { text: path, origin, .. }) = self.values.remove(&file_name) else {
                continue;
            };
            if path.trim().is_empty() {
                continue;
            }
            let name = name.as_str();
            let file_as_written = as_written(&origin, &file_name);
            if let Some(raw) = self.values.get(name).filter(|raw| !raw.text.trim().is_empty()) {
                let problem = format!("give it or {file_as_written}, not both");
                self.error(name, as_written(&raw.origin, name), problem);
                continue;
            }
            let path = PathBuf::from(path.as_str());
            self.files.push(path.clone());
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    if let Some(access) = access_of_others(&path) {
                        let text = format!("{} can be {access} by every user", path.display());
                        self.warnings.push(SettingsWarning { setting: file_as_written, text });
                    }
                    let text = Zeroizing::new(text);
                    let text = text.trim_end_matches(['\r', '\n']).to_owned();
                    self.put(name.to_owned(), text, Origin::SecretFile(path));
                }
                Err(error) => {
                    let problem = format!("{} ({origin}): {error}", path.display());
                    self.error(name, file_as_written, problem);
                }
            }
        }
    }

    fn put(&mut self, key: String, text: String, origin: Origin) {
        if let Some((id, _)) = key.strip_prefix(CLIENTS).and_then(|key| key.rsplit_once('.')) {
            self.clients.extend(id.parse::<ClientId>());
        }
        self.insert(key, Raw { text: Zeroizing::new(text), origin, ignored: None });
    }

    /// Sets a value that takes precedence over the one that there may be.
    fn insert(&mut self, key: String, mut raw: Raw) {
        if let Some(earlier) = self.values.remove(&key)
            && earlier.text.trim() != raw.text.trim()
            && !earlier.text.trim().is_empty()
        {
            raw.ignored = Some(earlier.origin);
        }
        self.values.insert(key, raw);
    }

    /// Every client that is registered.
    pub(crate) fn clients(&self) -> BTreeSet<ClientId> {
        self.clients.clone()
    }

    /// Lets `read` read the settings of a client.
    pub(crate) fn within<T>(&mut self, client: &ClientId, read: impl FnOnce(&mut Self) -> T) -> T {
        self.scope = format!("{CLIENTS}{client}.");
        let value = read(self);
        self.scope.clear();
        value
    }

    /// The key of the setting `name` of the section that is read.
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.scope)
    }

    /// The name of a setting as errors and `check-config` show it.
    fn written(&self, name: &str) -> String {
        let prefix = if self.scope.is_empty() { PREFIX } else { &self.scope };
        format!("{prefix}{name}")
    }

    /// Sets a value unless the operator did.
    pub(crate) fn preset(&mut self, name: &str, text: &str) {
        if !self.values.contains_key(name) {
            self.put(name.to_owned(), text.to_owned(), Origin::Program);
        }
    }

    /// Adds an item to a list that the operator may have set.
    pub(crate) fn add(&mut self, name: &str, item: &str) {
        let text = self.text(name).filter(|text| text.as_str() != EMPTY_LIST);
        let list = text.map_or_else(|| item.to_owned(), |text| format!("{},{item}", *text));
        self.put(name.to_owned(), list, Origin::Program);
    }

    /// The value of a setting, or what it is when it is not set. A value that `parse` refuses is
    /// noted and replaced by the default, so that the checks of other settings continue. `None` when
    /// there is neither.
    pub(crate) fn value<T, F: Field<T>>(
        &mut self,
        declaration: &Declaration,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<F> {
        if let Some(text) = self.text(declaration.name) {
            match parse(&text) {
                Ok(value) => return Some(F::new(value)),
                Err(expected) => self.reject(declaration.name, &expected),
            }
        }
        match declaration.unset {
            Unset::Default(text) => parse(text).ok().map(F::new),
            Unset::Optional(_) => F::unset().or_else(|| parse("").ok().map(F::new)),
            Unset::Required(when) => {
                if !self.has(declaration.name) {
                    self.missing(declaration.name, when);
                }
                F::unset()
            }
        }
    }

    /// The content of the file that a setting names.
    pub(crate) fn content(&mut self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let path = PathBuf::from(self.text(name)?.as_str());
        self.files.push(path.clone());
        match std::fs::read(&path) {
            Ok(content) => {
                let access = access_of_others(&path).filter(|access| {
                    // A certificate is public.
                    *access == "written" || content.windows(11).any(|part| part == b"PRIVATE KEY")
                });
                if let Some(access) = access {
                    self.warn(name, format!("{} can be {access} by every user", path.display()));
                }
                self.contents.insert(name.to_owned(), Digest::of(&content));
                Some(content.into())
            }
            Err(error) => {
                let problem = format!("{}: {error}", path.display());
                self.error(name, self.written(name), problem);
                None
            }
        }
    }

    /// A digest of each value by key, which tells one reading from another and reveals none.
    pub(crate) fn digests(&self) -> BTreeMap<String, Digest> {
        let set = self.values.iter().filter(|(_, raw)| !raw.text.trim().is_empty());
        let digest = |(key, raw): (&String, &Raw)| {
            let content = self.contents.get(key).map(Digest::as_bytes).copied();
            let parts = [raw.text.trim().as_bytes(), &content.unwrap_or_default()];
            (key.clone(), Digest::of(&parts.concat()))
        };
        set.map(digest).collect()
    }

    /// Every file that was read, or should have been.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Records an error of the setting `name`, which the operator wrote as `written`.
    fn error(&mut self, name: &str, written: impl Into<String>, problem: String) {
        self.failed.insert(name.to_owned());
        self.errors.push(SettingsError { setting: written.into(), problem });
    }

    /// Records that the value of a setting is wrong, with its origin.
    pub(crate) fn reject(&mut self, name: &str, expected: &str) {
        let key = self.key(name);
        let raw = self.values.get(&key);
        let origin = raw.map(|raw| format!(" ({})", raw.origin)).unwrap_or_default();
        let written = match raw.map(|raw| &raw.origin) {
            Some(Origin::File(..)) if self.scope.is_empty() => name.to_ascii_lowercase(),
            _ => self.written(name),
        };
        self.error(&key, written, format!("expected {expected}{origin}"));
    }

    /// Records a warning about a valid setting.
    pub(crate) fn warn(&mut self, name: &str, text: impl Into<String>) {
        let setting = self.written(name);
        self.warnings.push(SettingsWarning { setting, text: text.into() });
    }

    /// Every warning.
    pub(crate) fn warnings(&self) -> &[SettingsWarning] {
        &self.warnings
    }

    /// Records an error of a variable that is no setting of ours, such as one that a library reads.
    pub(crate) fn foreign(&mut self, variable: &str, problem: String) {
        self.error(variable, variable, problem);
    }

    /// Records that a setting is required and not set, unless there is an error of it already.
    pub(crate) fn missing(&mut self, name: &str, when: &str) {
        let key = self.key(name);
        if self.is_file_unread || self.failed.contains(&key) {
            return;
        }
        let space = if when.is_empty() { "" } else { " " };
        let problem = format!("required{space}{}, but not set", when.replace('`', ""));
        self.error(&key, self.written(name), problem);
    }

    /// Whether the setting has a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// Where a key comes from.
    pub(crate) fn key_origin(&self, name: &str) -> KeyOrigin {
        if !self.has(name) {
            return KeyOrigin::Random;
        }
        match self.values.get(&self.key(name)).map(|raw| &raw.origin) {
            Some(Origin::SecretFile(path)) => {
                let changed = path.metadata().and_then(|metadata| metadata.modified());
                changed.map_or(KeyOrigin::Given, |at| KeyOrigin::File(at.into()))
            }
            _ => KeyOrigin::Given,
        }
    }

    /// The value; an empty one counts as none.
    fn text(&self, name: &str) -> Option<Zeroizing<String>> {
        let text = self.values.get(&self.key(name))?.text.trim();
        (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()))
    }

    /// The value and its origin, as `check-config` shows them, where the setting has one.
    pub(crate) fn shown(&self, declaration: &Declaration) -> Option<(String, String)> {
        let text = self.text(declaration.name)?;
        let raw = self.values.get(&self.key(declaration.name))?;
        let mut origin = raw.origin.to_string();
        if let Some(ignored) = &raw.ignored {
            origin.push_str(&format!("; another value is ignored: {ignored}"));
        }
        let shown = match text.as_str() {
            EMPTY_LIST => "(empty list)".to_owned(),
            _ if declaration.secret => "(set, redacted)".to_owned(),
            text => text.to_owned(),
        };
        Some((shown, origin))
    }

    /// The errors, if there are any.
    pub(crate) fn finish(self) -> Result<(), SettingsErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(SettingsErrors(self.errors)) }
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

/// The declaration of the setting with this key.
pub(crate) fn find(key: &str) -> Option<&'static Declaration> {
    match key.strip_prefix(CLIENTS) {
        Some(of_client) => {
            let (_, name) = of_client.rsplit_once('.')?;
            client_declarations().iter().find(|declaration| declaration.name == name)
        }
        None => declarations().find(|declaration| declaration.name == key),
    }
}

/// The keys of a secret and of the file that holds it, where `key` is that file's.
fn secret_of_file(key: &str) -> Option<(String, String)> {
    let (secret, suffix) = key.split_at_checked(key.len().checked_sub(FILE.len())?)?;
    let is_file = suffix.eq_ignore_ascii_case(FILE) && find(key).is_none();
    let is_secret = find(secret).is_some_and(|declaration| declaration.secret);
    (is_file && is_secret).then(|| (secret.to_owned(), key.to_owned()))
}

/// Whether there is such a setting, or a file for one.
fn is_known(key: &str) -> bool {
    find(key).is_some() || secret_of_file(key).is_some()
}

/// The setting without a client, or its file, that a variable stands for.
pub(crate) fn key_of_global(variable: &str) -> Option<String> {
    match variable.strip_prefix(PREFIX) {
        Some(key) => Some(key.to_owned()),
        None => name_of_alias(variable).map(|(key, _)| key),
    }
}

/// The setting, or its file, that a variable without the prefix stands for, and the rank of that
/// name: 0 for the setting's own.
fn name_of_alias(variable: &str) -> Option<(String, usize)> {
    let find = |variable: &str| {
        declarations().find_map(|declaration| {
            if declaration.unprefixed && declaration.name == variable {
                return Some((declaration, 0));
            }
            let at = declaration.aliases.iter().position(|alias| *alias == variable)?;
            Some((declaration, at + 1))
        })
    };
    if let Some((declaration, rank)) = find(variable) {
        return Some((declaration.name.to_owned(), rank));
    }
    let (declaration, rank) =
        find(variable.strip_suffix(FILE)?).filter(|(found, _)| found.secret)?;
    Some((format!("{}{FILE}", declaration.name), rank))
}

/// A value of the settings file as an environment variable would write it.
fn plain_text(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string()
        }
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Array(values) if values.is_empty() => EMPTY_LIST.to_owned(),
        DeValue::Array(values) => {
            let texts = values.iter().map(|value| plain_text(value.get_ref()));
            texts.collect::<Option<Vec<_>>>()?.join(",")
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}
