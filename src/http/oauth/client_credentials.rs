//! Client ID and secret in HTTP Basic (RFC 6749 §2.3.1), as clients write them.
//!
//! Used by the calls that authenticate a client, and by the demo's provider.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

/// The pairs that a request may mean: as written (`curl -u`), and form-decoded (as the RFC asks).
pub fn basic(headers: &HeaderMap) -> Vec<(String, String)> {
    let written = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((id, secret)) = written.as_deref().and_then(|text| text.split_once(':')) else {
        return Vec::new();
    };
    let mut pairs = vec![(id.to_owned(), secret.to_owned())];
    if [id, secret].iter().any(|text| text.contains(['%', '+'])) {
        pairs.push((decoded(id), decoded(secret)));
    }
    pairs
}

fn decoded(text: &str) -> String {
    // A pair has a name and a value; here the whole text is the value.
    let whole = format!("={}", text.replace('&', "%26"));
    url::form_urlencoded::parse(whole.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let value = format!("Basic {}", STANDARD.encode(text));
        basic(&HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]))
    }

    proptest! {
        #[test]
        fn both_ways_of_writing_are_read(id in "[^:]{1,20}", secret in ".{0,40}") {
            let encode = |text: &str| {
                url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
            };
            let meant = (id.clone(), secret.clone());
            let raw = pairs(&format!("{id}:{secret}"));
            prop_assert!(raw.contains(&meant));
            let encoded = pairs(&format!("{}:{}", encode(&id), encode(&secret)));
            prop_assert!(encoded.contains(&meant));
        }
    }

    #[test]
    fn what_is_no_pair_is_nobody() {
        assert!(pairs("without a colon").is_empty());
        for value in ["Bearer eDp5", "Basic", "Basic %", "Basic //8="] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert!(basic(&headers).is_empty(), "{value}");
        }
    }
}
