//! Parses an event stream (WHATWG HTML §9.2.6) from bytes that were cut anywhere.

use std::time::Duration;

/// Longest line and longest event, in bytes; a token is a few kilobytes.
const LONGEST: usize = 256 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// The stream holds a line or an event that no relay would send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event stream holds an endless line")]
pub(crate) struct TooLong;

/// What was read so far.
#[derive(Default)]
pub(crate) struct EventStream {
    line: Vec<u8>,
    begun: bool,
    after_return: bool,
    name: String,
    data: String,
    has_data: bool,
    /// Of the last event that had one.
    pub(crate) last_event_id: String,
    /// How long to wait before a reconnect, when the stream said so.
    pub(crate) retry: Option<Duration>,
}

impl EventStream {
    /// Takes more bytes and gives the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                // The second half of a line end that has been dealt with.
                b'\n' if after_return => {}
                b'\r' | b'\n' => events.extend(self.end_line()),
                _ if self.line.len() + self.data.len() >= LONGEST => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// A new connection: what was half read is void, the last event's ID is not.
    pub(crate) fn begin_again(&mut self) {
        let last_event_id = std::mem::take(&mut self.last_event_id);
        *self = Self { last_event_id, ..Self::default() };
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let mut text = String::from_utf8_lossy(&line).into_owned();
        if !std::mem::replace(&mut self.begun, true)
            && let Some(rest) = text.strip_prefix('\u{feff}')
        {
            text = rest.to_owned();
        }
        if text.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return std::mem::take(&mut self.has_data).then_some(Event { name, data });
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => self.name = value.to_owned(),
            "id" if !value.contains('\0') => self.last_event_id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &[u8] = b"\xef\xbb\xbfretry: 2000\r\n\r\n:\n\nevent: authenticated\rid: 1\r\
        data: {\"state\":\ndata:\"authenticated\"}\n\nevent: nothing\n\ndata\n\n";

    fn expected() -> Vec<Event> {
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        vec![event("authenticated", "{\"state\":\n\"authenticated\"}"), event("", "")]
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_bytes_are_cut(
            mut cuts in proptest::collection::vec(0..STREAM.len(), 0..8),
        ) {
            cuts.sort_unstable();
            cuts.push(STREAM.len());
            let (mut stream, mut events, mut from) = (EventStream::default(), Vec::new(), 0);
            for to in cuts {
                events.extend(stream.push(&STREAM[from..to]).unwrap());
                from = to;
            }
            prop_assert_eq!(events, expected());
            prop_assert_eq!(stream.retry, Some(Duration::from_secs(2)));
            prop_assert_eq!(&stream.last_event_id, "1");
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = EventStream::default().push(&bytes);
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut stream = EventStream::default();
        let chunk = [b'x'; 1000];
        assert!((0..1000).any(|_| stream.push(&chunk) == Err(TooLong)));
    }
}
