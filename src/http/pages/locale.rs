//! The texts of the pages: one file per language in `static/locales/`.

use std::collections::HashMap;

use http::{HeaderMap, header};
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use strum::IntoEnumIterator as _;

use crate::http::pages::{ErrorPage, PagesError};

static LOCALES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/static/locales");

/// The language where `Accept-Language` names none of ours.
const DEFAULT_LANGUAGE: &str = "en";

/// Declares a struct of texts. A locale file with one too few or too many is refused.
macro_rules! texts {
    ($($name:ident { $($text:ident),* $(,)? })*) => {$(
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $text: String,)*
        }
    )*};
}

texts! {
    RequestTexts {
        client, not_verified, unnamed, origin, network, other_network, when, just_now, one_minute,
        minutes,
    }
    ProofTexts {
        title, waiting, code_title, code_label, code_warning, code_button, one_left, left,
        stuck_title, stuck, stuck_next, stuck_operator,
    }
    DeviceTexts { title, intro, malformed, unknown }
    ConfirmTexts { title, compare, warning, continue_button }
    LegacyTexts { title, warning, continue_button }
    AccountTexts { title, question, other_network, warning, continue_button, deny_button }
    OnwardTexts { title, link }
    SuccessTexts { title, account, close, undo_button, everywhere_button }
    ErrorText { title, what, next }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Messages {
    pub(super) language: String,
    pub(super) close_button: String,
    pub(super) not_me_button: String,
    pub(super) request: RequestTexts,
    pub(super) proof: ProofTexts,
    pub(super) device: DeviceTexts,
    pub(super) confirm: ConfirmTexts,
    pub(super) legacy: LegacyTexts,
    pub(super) account: AccountTexts,
    pub(super) onward: OnwardTexts,
    pub(super) success: SuccessTexts,
    pub(super) error: ErrorTexts,
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorTexts {
    pub(super) next: String,
    pub(super) reference: String,
    #[serde(flatten)]
    pages: HashMap<ErrorPage, ErrorText>,
}

impl ErrorTexts {
    pub(super) fn of(&self, page: ErrorPage) -> Option<&ErrorText> {
        self.pages.get(&page)
    }
}

/// The language ranges of `Accept-Language`, the preferred one first (RFC 9110 §12.5.4).
fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let mut ranges: Vec<(&str, f32)> = headers
        .get_all(header::ACCEPT_LANGUAGE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').take(32))
        .filter_map(|item| {
            let (range, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = match parameters.trim().strip_prefix("q=") {
                Some(weight) => weight.parse().ok()?,
                None => 1.0,
            };
            (weight > 0.0).then_some((range.trim(), weight))
        })
        .collect();
    // Stable: of equal weights the first wins.
    ranges.sort_by(|left, right| right.1.total_cmp(&left.1));
    ranges.into_iter().map(|(range, _)| range)
}

/// The same as `ui_locales` of an authorization request (OpenID Connect Core §3.1.2.1), if the
/// browser names any language.
pub(crate) fn ui_locales(headers: &HeaderMap) -> Option<String> {
    /// Languages that are passed on.
    const MAX: usize = 5;
    let is_tag = |range: &&str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (2..=35).contains(&range.len()) && range.bytes().all(is_letter)
    };
    let tags = accepted(headers).filter(is_tag).take(MAX).collect::<Vec<_>>();
    (!tags.is_empty()).then(|| tags.join(" "))
}

/// A language that the pages speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(usize);

/// All languages.
#[derive(Debug)]
pub(super) struct Locales {
    all: Vec<Messages>,
    default: Language,
}

impl Locales {
    /// Reads the embedded files.
    pub(super) fn load() -> Result<Self, PagesError> {
        let mut all = LOCALES
            .files()
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "json"))
            .map(|file| {
                let name = file.path().display().to_string();
                let messages: Messages = serde_json::from_slice(file.contents())
                    .map_err(|error| PagesError::Locale(name.clone(), error))?;
                match ErrorPage::iter().find(|page| messages.error.of(*page).is_none()) {
                    Some(page) => Err(PagesError::MissingPage(name, page.as_str())),
                    None => Ok(messages),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|left, right| left.language.cmp(&right.language));
        let default = all
            .iter()
            .position(|messages| messages.language == DEFAULT_LANGUAGE)
            .map(Language)
            .ok_or(PagesError::NoDefault)?;
        Ok(Self { all, default })
    }

    /// The texts of a language, which comes from [`Self::choose`] of the same embedded files.
    pub(super) fn messages(&self, Language(index): Language) -> &Messages {
        &self.all[index]
    }

    /// Every language.
    pub(super) fn iter(&self) -> impl Iterator<Item = Language> {
        (0..self.all.len()).map(Language)
    }

    /// The language that fits `Accept-Language` best (RFC 9110 §12.5.4), by primary subtag.
    pub(super) fn choose(&self, headers: &HeaderMap) -> Language {
        accepted(headers)
            .find_map(|range| {
                let primary = range.split('-').next().unwrap_or(range);
                self.all
                    .iter()
                    .position(|messages| messages.language.eq_ignore_ascii_case(primary))
                    .map(Language)
            })
            .unwrap_or(self.default)
    }
}
