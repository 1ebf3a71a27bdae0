//! A span as `traceparent` refers to it (W3C Trace Context).

use std::fmt;

use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Header that carries the caller's place in a trace.
pub const TRACEPARENT: &str = "traceparent";

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Follows the stored `traceparent` of a trace that a caller brought.
const BROUGHT: &str = "+";

/// A span in a trace. Random numbers and no secret, but only of use with access to the trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    pub(crate) sampled: bool,
    /// Whether the trace was begun by a caller and not by this service.
    pub(crate) brought: bool,
}

impl TraceContext {
    /// Reads a `traceparent` (W3C Trace Context §3.2): version 00, or what a later version has in
    /// common with it. `None` for everything else, which is to be ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let [version, trace_id, span_id, flags] =
            [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let [version] = bytes::<1>(version)?;
        let later = version > 0 && version < 0xff && (rest.is_empty() || rest.starts_with('-'));
        let exact = version == 0 && rest.is_empty();
        let (trace_id, span_id) = (bytes::<16>(trace_id)?, bytes::<8>(span_id)?);
        let [flags] = bytes::<1>(flags)?;
        let valid = parts.next().is_none() && trace_id != [0; 16] && span_id != [0; 8];
        (valid && (exact || later)).then_some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
            brought: true,
        })
    }

    /// The `traceparent` of a request; one that occurs twice is ignored.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.to_str().ok()?.trim()),
            _ => None,
        }
    }

    /// As a header's value.
    pub fn to_header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.to_string()).ok()
    }

    /// Whether its spans are exported.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The trace's ID, 32 letters.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace_id)
    }

    /// The span's ID, 16 letters.
    pub fn span_id(&self) -> String {
        hex::encode(self.span_id)
    }
}

/// Exactly `N` bytes in lower-case hexadecimal.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut read = [0; N];
    let lower = !text.bytes().any(|letter| letter.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, &mut read).is_ok()).then_some(read)
}

/// The `traceparent` of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) = (self.trace_id(), self.span_id());
        write!(formatter, "00-{trace_id}-{span_id}-{:02x}", u8::from(self.sampled))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mark = if self.brought { BROUGHT } else { "" };
        serializer.collect_str(&format_args!("{self}{mark}"))
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let plain = text.strip_suffix(BROUGHT);
        let context = Self::parse(plain.unwrap_or(&text));
        let context = context.ok_or_else(|| serde::de::Error::custom("no trace context"))?;
        Ok(Self { brought: plain.is_some(), ..context })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id(), "00f067aa0ba902b7");
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), EXAMPLE);
        let later = EXAMPLE.replacen("00", "01", 1);
        assert_eq!(TraceContext::parse(&format!("{later}-more")), Some(context));
        assert!(TraceContext::parse(&later).is_some());
        let off = TraceContext::parse(&EXAMPLE.replace("-01", "-02")).unwrap();
        assert!(!off.is_sampled());
    }

    #[test]
    fn what_is_not_valid_is_ignored() {
        for bad in [
            String::new(),
            EXAMPLE.to_uppercase(),
            format!("{EXAMPLE}-more"),
            format!("{EXAMPLE}0"),
            EXAMPLE[1..].to_owned(),
            EXAMPLE.replacen("00", "ff", 1),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace("-01", "-g1"),
            EXAMPLE.replace("-00f0", "a00f0"),
            format!("{EXAMPLE}\u{e9}"),
        ] {
            assert_eq!(TraceContext::parse(&bad), None, "{bad}");
        }
        let mut twice = HeaderMap::new();
        twice.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert!(TraceContext::from_headers(&twice).is_some());
        twice.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert!(TraceContext::from_headers(&twice).is_none());
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_ignored(
            text in prop_oneof!["[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}-?", any::<String>()],
        ) {
            if let Some(context) = TraceContext::parse(&text) {
                prop_assert_eq!(&context.to_string()[3..53], &text[3..53]);
            }
        }

        #[test]
        fn what_is_stored_is_what_is_read(
            trace_id: [u8; 16], span_id: [u8; 8], sampled: bool, brought: bool,
        ) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = TraceContext { trace_id, span_id, sampled, brought };
            let stored = serde_json::to_string(&context).unwrap();
            prop_assert_eq!(serde_json::from_str::<TraceContext>(&stored).unwrap(), context);
        }
    }
}
