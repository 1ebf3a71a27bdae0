//! The list of every setting as `token-relay settings` prints it: a table for the documentation,
//! files to start a deployment from, and JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::settings::{
    SECTIONS, client_declarations,
    declaration::{self, Declaration, Unset},
    declarations,
};

/// Form of the list of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// A table for documentation
    Markdown,
    /// A settings file with everything commented out but what is required
    Toml,
    /// The same as environment variables, for `docker --env-file` and systemd's `EnvironmentFile`
    Env,
    /// An array of objects
    Json,
}

/// Width of comments.
const WIDTH: usize = 98;

/// A registered client that the files show.
const CLIENT: &str = "my-addin";

/// Every setting in this form.
pub fn list(format: ListFormat) -> String {
    match format {
        ListFormat::Markdown => markdown(),
        ListFormat::Toml => toml(),
        ListFormat::Env => env(),
        ListFormat::Json => {
            // An array of texts always serialises.
            let text = serde_json::to_string_pretty(&json()).unwrap_or_default();
            format!("{text}\n")
        }
    }
}

fn markdown() -> String {
    format!(
        "{}\nSettings of a client: in the table `[clients.<client_id>]` of the settings file, or in \
         environment variables `TOKEN_RELAY_CLIENTS__<CLIENT_ID>__<SETTING>` in upper case.\n\n{}",
        declaration::markdown(declarations()),
        declaration::markdown(client_declarations()),
    )
}

/// A value that an operator replaces, where there is no default.
fn placeholder(declaration: &Declaration) -> Option<&'static str> {
    match (declaration.unset, declaration.name) {
        (Unset::Required(""), "OIDC_ISSUER") => Some("https://login.example"),
        (Unset::Required(""), _) => Some("token-relay"),
        _ => None,
    }
}

fn toml() -> String {
    let mut file = "# Settings of token-relay, for `token-relay serve --config <this file>`.\n\
        # A setting is a line that begins with `#` and no space; it shows the default. An empty \
        text counts as not set.\n# Environment variables take precedence: TOKEN_RELAY_<NAME>.\n"
        .to_owned();
    let line = |file: &mut String, declaration: &Declaration| {
        comment(file, declaration, &declaration.name.to_ascii_lowercase());
        let (mark, text) = value(declaration);
        let is_bare = matches!(text, "true" | "false") || text.parse::<u64>().is_ok();
        let text = if is_bare { text.to_owned() } else { Value::from(text).to_string() };
        let _ = writeln!(file, "{mark}{} = {text}", declaration.name.to_ascii_lowercase());
    };
    for (title, section) in SECTIONS {
        heading(&mut file, title);
        section.iter().for_each(|declaration| line(&mut file, declaration));
    }
    heading(&mut file, "A registered client; without any there is one, made of the settings above");
    let _ = writeln!(file, "\n#[clients.{CLIENT}]");
    client_declarations().iter().for_each(|declaration| line(&mut file, declaration));
    file
}

fn env() -> String {
    let mut file = "# Settings of token-relay as environment variables, for `docker run --env-file` and \
        systemd's EnvironmentFile.\n# A setting is a line that begins with `#` and no space; it shows \
        the default. An empty value counts as not set.\n"
        .to_owned();
    for (title, section) in SECTIONS {
        heading(&mut file, title);
        for declaration in section {
            let name = format!("TOKEN_RELAY_{}", declaration.name);
            comment(&mut file, declaration, &name);
            let (mark, text) = value(declaration);
            let _ = writeln!(file, "{mark}{name}={text}");
        }
    }
    heading(&mut file, "A registered client; without any there is one, made of the settings above");
    let client = CLIENT.replace('-', "_").to_ascii_uppercase();
    for declaration in client_declarations() {
        let setting = declaration.name.to_ascii_uppercase();
        let name = format!("TOKEN_RELAY_CLIENTS__{client}__{setting}");
        comment(&mut file, declaration, &name);
        let (mark, text) = value(declaration);
        let _ = writeln!(file, "{mark}{name}={text}");
    }
    file
}

fn heading(file: &mut String, title: &str) {
    let _ = writeln!(file, "\n\n# ---- {title} ----");
}

/// What stands before the setting, and its value.
fn value(declaration: &Declaration) -> (&'static str, &'static str) {
    match (placeholder(declaration), declaration.unset) {
        (Some(placeholder), _) => ("", placeholder),
        (None, Unset::Default(text)) => ("#", text),
        (None, Unset::Optional(_) | Unset::Required(_)) => ("#", ""),
    }
}

fn comment(file: &mut String, declaration: &Declaration, name: &str) {
    let help = declaration.help.trim().trim_end_matches('.');
    let mut text = format!("{help}.");
    match declaration.unset {
        Unset::Default(_) => {}
        Unset::Optional(words) => {
            let _ = write!(text, " Default: {words}.");
        }
        Unset::Required("") => text.push_str(" Required."),
        Unset::Required(when) => {
            let _ = write!(text, " Required {when}.");
        }
    }
    if declaration.secret {
        let suffix = if name.starts_with(char::is_uppercase) { "_FILE" } else { "_file" };
        let _ = write!(text, " Better: `{name}{suffix}`, the path of a file that holds it.");
    }
    file.push('\n');
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(file, "{line}");
            "#".clone_into(&mut line);
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(file, "{line}");
}

fn json() -> Value {
    let global = SECTIONS.iter().flat_map(|(title, section)| {
        section.iter().map(|declaration| {
            let name = declaration.name;
            let mut entry = entry(declaration, title);
            entry["key"] = json!(name.to_ascii_lowercase());
            entry["variable"] = json!(format!("TOKEN_RELAY_{name}"));
            let unprefixed = declaration.unprefixed.then_some(name);
            let aliases = declaration.aliases.iter().copied().chain(unprefixed);
            entry["aliases"] = json!(aliases.collect::<Vec<_>>());
            entry
        })
    });
    let of_clients = client_declarations().iter().map(|declaration| {
        let name = declaration.name;
        let mut entry = entry(declaration, "Client");
        entry["key"] = json!(format!("clients.<client_id>.{name}"));
        let variable = name.to_ascii_uppercase();
        entry["variable"] = json!(format!("TOKEN_RELAY_CLIENTS__<CLIENT_ID>__{variable}"));
        entry["aliases"] = json!([]);
        entry
    });
    global.chain(of_clients).collect()
}

fn entry(declaration: &Declaration, section: &str) -> Value {
    let default = match declaration.unset {
        Unset::Default(text) => Some(text),
        Unset::Optional(_) | Unset::Required(_) => None,
    };
    json!({
        "name": declaration.name,
        "section": section,
        "meaning": declaration.help.trim(),
        "default": default,
        "unset": declaration.unset_in_words(),
        "required": declaration.unset == Unset::Required(""),
        "secret": declaration.secret,
        "reload": declaration.reload.is_some(),
    })
}
