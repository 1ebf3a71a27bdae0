//! The user code of RFC 8628 §6.1.

use subtle::ConstantTimeEq as _;

use crate::util::random::random_bytes;

/// A short code that a person compares or types: `BCDF-GHJK`, twenty consonants, so that no word
/// appears (RFC 8628 §6.1).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UserCode(String);

impl UserCode {
    const ALPHABET: &'static [u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

    /// A random code, every letter equally likely.
    pub fn generate() -> Self {
        let mut code = String::with_capacity(9);
        while code.len() < 9 {
            let [byte] = random_bytes::<1>();
            // 240 is the largest multiple of 20 in a byte; above it letters would be unequal.
            if byte < 240 {
                if code.len() == 4 {
                    code.push('-');
                }
                code.push(char::from(Self::ALPHABET[usize::from(byte % 20)]));
            }
        }
        Self(code)
    }

    /// The code as it is displayed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a code as a person types or pastes it: in either case, with spaces, with or without the
    /// dash, or with what a text program made of the dash.
    pub fn from_typed(text: &str) -> Option<Self> {
        let is_separator = |letter: char| {
            letter.is_whitespace()
                || matches!(
                    letter,
                    '-' | '\u{AD}' | '\u{200B}' | '\u{2010}'
                        ..='\u{2015}' | '\u{2060}' | '\u{2212}' | '\u{FEFF}'
                )
        };
        let mut letters = String::with_capacity(9);
        for letter in text.chars().filter(|letter| !is_separator(*letter)) {
            if letters.len() == 4 {
                letters.push('-');
            }
            letters.push(letter.to_ascii_uppercase());
            if letters.len() > 9 {
                return None;
            }
        }
        Self::is_well_formed(&letters).then_some(Self(letters))
    }

    /// Compares in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    /// Whether `text` has the form of a code.
    pub fn is_well_formed(text: &str) -> bool {
        text.len() == 9
            && text.bytes().enumerate().all(|(position, byte)| match position {
                4 => byte == b'-',
                _ => Self::ALPHABET.contains(&byte),
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_user_codes_look_like_user_codes(
            text in prop_oneof!["[A-Z]{4}-[A-Z]{4}", "[BCDF]{4}.[BCDF]{4}", any::<String>()],
        ) {
            let expected = text.len() == 9
                && text.chars().enumerate().all(|(position, letter)| {
                    if position == 4 { letter == '-' } else { "BCDFGHJKLMNPQRSTVWXZ".contains(letter) }
                });
            prop_assert_eq!(UserCode::is_well_formed(&text), expected);
        }
    }

    #[test]
    fn a_typed_code_may_be_lower_case_spaced_or_without_its_dash() {
        let code = UserCode("BCDF-GHJK".to_owned());
        for text in [
            "BCDF-GHJK",
            "bcdf-ghjk",
            "bcdfghjk",
            " BCDF GHJK\n",
            "b-c d-f g-h j-k",
            "BCDF\u{2013}GHJK",
        ] {
            assert!(UserCode::from_typed(text).is_some_and(|typed| typed.matches(&code)), "{text}");
        }
        for text in ["", "BCDF-GHJ", "BCDF-GHJKL", "BCDF-GHJA", "BCDF_GHJK", "ÉCDF-GHJK"] {
            assert_eq!(UserCode::from_typed(text), None, "{text}");
        }
    }

    #[test]
    fn user_codes_have_the_alphabet_of_rfc_8628() {
        for _ in 0..200 {
            let code = UserCode::generate();
            let (left, right) = code.as_str().split_once('-').expect("a dash");
            assert_eq!((left.len(), right.len()), (4, 4));
            assert!(
                left.chars()
                    .chain(right.chars())
                    .all(|letter| "BCDFGHJKLMNPQRSTVWXZ".contains(letter))
            );
        }
    }
}
