//! What a provider says of an error, cleaned and bounded for the log and for people.

/// Maximum length of a provider's text in the log and in answers, in characters.
const MAX_DESCRIPTION: usize = 200;

/// Maximum length of a provider's error code in the log and in answers, in characters.
const MAX_CODE: usize = 64;

/// The provider's own error (RFC 6749 §4.1.2.1 and §5.2), cleaned and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderError {
    /// `error`.
    pub code: String,
    /// `error_description`.
    pub description: Option<String>,
}

impl ProviderError {
    /// Cleans what the provider sent.
    pub(crate) fn new(code: &str, description: Option<&str>) -> Self {
        let description = description.map(clean).filter(|text| !text.is_empty());
        Self { code: clean_code(code), description }
    }

    /// Whether it says that the person declined. The specification's word is `access_denied`;
    /// providers have others, such as `user_cancelled_login`.
    pub(crate) fn is_denial(&self) -> bool {
        let code = self.code.to_ascii_lowercase();
        ["denied", "cancel", "declined", "abort"].iter().any(|word| code.contains(word))
    }

    /// Whether it says that the person must be asked (OpenID Connect Core §3.1.2.6).
    pub(crate) fn needs_interaction(&self) -> bool {
        const CODES: [&str; 4] = [
            "login_required",
            "interaction_required",
            "consent_required",
            "account_selection_required",
        ];
        CODES.contains(&self.code.as_str())
    }
}

/// An error code in the alphabet of RFC 6749 Appendix A.7, bounded.
fn clean_code(text: &str) -> String {
    let allowed = |letter: &char| matches!(letter, '!'..='~') && !matches!(letter, '"' | '\\');
    let code = text.chars().filter(allowed).take(MAX_CODE).collect::<String>();
    if code.is_empty() { "server_error".to_owned() } else { code }
}

/// Text of a provider for people and for the log: letters of every language, but nothing that
/// could make a false line or turn the direction of writing; bounded.
pub(crate) fn clean(text: &str) -> String {
    let allowed = |letter: &char| {
        !letter.is_control()
            && !matches!(*letter,
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
    };
    text.chars().filter(allowed).take(MAX_DESCRIPTION).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_stays_as_written_but_makes_no_line() {
        let error = ProviderError::new("a\r\nb", Some("L'utilisateur\na refus\u{e9} \u{202e}x"));
        assert_eq!(error.code, "ab");
        assert_eq!(error.description.as_deref(), Some("L'utilisateura refus\u{e9} x"));
        let error = ProviderError::new(&"e".repeat(900), Some(&"\u{e9}".repeat(900)));
        assert_eq!(error.code.len(), MAX_CODE);
        assert_eq!(error.description.map(|text| text.chars().count()), Some(MAX_DESCRIPTION));
    }
}
