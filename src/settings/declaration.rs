//! How a setting is declared, once, and everything that derives from it: the field of its section,
//! parsing, the table of `token-relay settings`, `check-config`, and what a reload applies.
//!
//! # Adding a setting
//! 1. Add a line to the [`section!`] that it belongs to, such as `limits.rs`:
//!
//!    ```text
//!    /// Streams that may wait on one instance
//!    max_streams: usize = setting("MAX_STREAMS").default("19000"), number(1..=MAX);
//!    ```
//!
//!    - The doc comment is the help text of the table: one sentence without a full stop, the noun
//!      first, the unit where there is one.
//!    - `setting` or, for a value that must never be shown and may come from `<NAME>_FILE`,
//!      `secret`. Then exactly one of `default` (parsed like a value of the operator), `optional`
//!      (the field is an `Option` or a list; the words stand in the table) and `required`.
//!    - `alias` and `unprefixed` name further environment variables; `reload` says that a change
//!      takes effect without a restart, and `server::reload` does not compile until it applies it.
//!    - The parser is one of [`crate::settings::value`] or any
//!      `Fn(&str) -> Result<T, String>`; its error follows the word "expected" and never repeats
//!      the value.
//! 2. Use `settings.limits.max_streams`, in handlers `app.settings.limits.max_streams`. A layer
//!    below the settings (`store`, `oidc`, `token`, …) declares its own options type; the section
//!    fills it in a method beside its declaration.
//!
//! What must hold between several settings is checked in `check` of the section, or of
//! [`Settings`](crate::settings::Settings) where they belong to several. Run `token-relay settings`
//! and put the table into the documentation; a test compares them.

use crate::settings::value::flag;

/// One setting as it is declared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declaration {
    /// Name without the prefix of the environment variable; in the settings file in lower case.
    pub(crate) name: &'static str,
    /// Further environment variables for it, with their whole names.
    pub(crate) aliases: &'static [&'static str],
    /// Whether the name without the prefix is an environment variable for it too.
    pub(crate) unprefixed: bool,
    /// What holds when it is not set.
    pub(crate) unset: Unset,
    /// What it is for.
    pub(crate) help: &'static str,
    /// Whether its value is redacted, and `<NAME>_FILE` is read.
    pub(crate) secret: bool,
    /// What a reload exchanges when it changed; `None` waits for a restart.
    pub(crate) reload: Option<Reloadable>,
}

/// What holds when a setting is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unset {
    /// This value, in the form in which an operator would write it.
    Default(&'static str),
    /// Nothing, which means what the text says.
    Optional(&'static str),
    /// An error; the text says when, such as "with `MEET_COMPATIBLE`".
    Required(&'static str),
}

/// What can be exchanged while the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reloadable {
    SigningKeys,
    SealingKeys,
    CookieKeys,
    OidcClientSecret,
    OidcClientKey,
    Clients,
    ClaimsHookSecret,
    MeetCsrfSecret,
    MeetTokenSecretKey,
    Tls,
}

/// Begins the declaration of a setting that may be shown.
pub(crate) const fn setting(name: &'static str) -> Declaration {
    Declaration {
        name,
        aliases: &[],
        unprefixed: false,
        unset: Unset::Optional("none"),
        help: "",
        secret: false,
        reload: None,
    }
}

/// Begins the declaration of a setting that is never shown and may come from `<NAME>_FILE`.
pub(crate) const fn secret(name: &'static str) -> Declaration {
    Declaration { secret: true, ..setting(name) }
}

impl Declaration {
    pub(crate) const fn default(self, text: &'static str) -> Self {
        Self { unset: Unset::Default(text), ..self }
    }

    pub(crate) const fn optional(self, words: &'static str) -> Self {
        Self { unset: Unset::Optional(words), ..self }
    }

    pub(crate) const fn required(self, when: &'static str) -> Self {
        Self { unset: Unset::Required(when), ..self }
    }

    pub(crate) const fn alias(self, variables: &'static [&'static str]) -> Self {
        Self { aliases: variables, ..self }
    }

    pub(crate) const fn unprefixed(self) -> Self {
        Self { unprefixed: true, ..self }
    }

    pub(crate) const fn reload(self, part: Reloadable) -> Self {
        Self { reload: Some(part), ..self }
    }

    pub(crate) const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }

    /// What holds when it is not set, in words; values in backticks.
    pub(crate) fn unset_in_words(&self) -> String {
        match self.unset {
            Unset::Default(text) => format!("`{text}`"),
            Unset::Optional(words) => words.to_owned(),
            Unset::Required("") => "required".to_owned(),
            Unset::Required(when) => format!("required {when}"),
        }
    }

    /// Whether `text` means what holds when the setting is not set.
    pub(crate) fn is_default(&self, text: &str) -> bool {
        let Unset::Default(default) = self.unset else { return false };
        let durations = [text, default].map(humantime::parse_duration);
        let flags = [text, default].map(flag);
        text == default
            || matches!(durations, [Ok(own), Ok(default)] if own == default)
            || (default.parse::<bool>().is_ok()
                && matches!(flags, [Ok(own), Ok(default)] if own == default))
    }

    /// Its line of the documented table.
    fn markdown(&self) -> String {
        let file = if self.secret { "`[_FILE]`" } else { "" };
        let mut help = self.help.trim().to_owned();
        for alias in self.aliases {
            help.push_str(&format!("; alias `{alias}`"));
        }
        if self.unprefixed {
            help.push_str("; also without the prefix");
        }
        let (name, unset) = (self.name, self.unset_in_words());
        // A value may hold a character that separates cells.
        let cells = [format!("`{name}`{file}"), unset, help].map(|cell| cell.replace('|', "\\|"));
        format!("| {} |\n", cells.join(" | "))
    }
}

/// `declarations` as a Markdown table.
pub(crate) fn markdown<'a>(declarations: impl IntoIterator<Item = &'a Declaration>) -> String {
    let head = "| Setting | Default | Meaning |\n| --- | --- | --- |\n";
    let lines = declarations.into_iter().map(Declaration::markdown);
    std::iter::once(head.to_owned()).chain(lines).collect()
}

/// Declares a section of the settings: the struct that holds its values, how each is declared, and
/// how it is read. See the [module](self) for the form of a line.
macro_rules! section {
    (
        $(#[$attribute:meta])*
        pub struct $section:ident {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $type:ty = $declaration:expr, $parser:expr;
            )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        pub struct $section {
            $(
                $(#[doc = $help])+
                #[doc = ""]
                #[doc = concat!("`` ", stringify!($declaration), " ``")]
                pub $field: $type,
            )*
        }

        impl $section {
            pub(crate) const DECLARATIONS: &'static [$crate::settings::declaration::Declaration] =
                &[$($declaration.help(concat!($($help),+))),*];

            /// Reads the section; `None` when a required value is missing or wrong, which `source`
            /// has noted.
            pub(crate) fn read(source: &mut $crate::settings::source::Source) -> Option<Self> {
                // Every value is read before any is missed, so that all errors are found.
                $(let $field = source.value(&$declaration, $parser);)*
                Some(Self { $($field: $field?),* })
            }

            /// The section with nothing set; `None` where something is required.
            #[cfg(test)]
            #[allow(dead_code)]
            pub(crate) fn unset() -> Option<Self> {
                Self::read(&mut $crate::settings::source::Source::default())
            }
        }
    };
}
pub(crate) use section;
