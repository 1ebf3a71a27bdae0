//! Parses an event stream (WHATWG HTML §9.2.6) from chunks of bytes that end anywhere.

use std::time::Duration;

/// Maximum size of an event, in bytes; a token has a few kilobytes.
const MAX_EVENT: usize = 256 * 1024;

/// Maximum length of an event ID, in bytes; it goes back in a header.
const MAX_ID: usize = 256;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// An event is larger than any that a relay sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event stream holds an event that is too large")]
pub(crate) struct TooLarge;

/// The state of the parser.
#[derive(Default)]
pub(crate) struct EventStream {
    line: Vec<u8>,
    begun: bool,
    after_return: bool,
    name: String,
    data: String,
    has_data: bool,
    /// Of the event that is being read.
    id: String,
    /// The ID of the last event that was complete. A client sends it when it reconnects, and so
    /// acknowledges the event; an event that was cut off must not count.
    pub(crate) last_event_id: String,
    /// Pause before a reconnect, where the stream names one.
    pub(crate) retry: Option<Duration>,
}

impl EventStream {
    /// Takes more bytes and returns the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                // The second half of a line end.
                b'\n' if after_return => {}
                b'\r' | b'\n' => events.extend(self.end_line()),
                _ if self.line.len() + self.data.len() >= MAX_EVENT => return Err(TooLarge),
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// Begins a new connection: what was half read is void, the last event's ID is not.
    pub(crate) fn begin_again(&mut self) {
        let last_event_id = std::mem::take(&mut self.last_event_id);
        *self = Self { id: last_event_id.clone(), last_event_id, ..Self::default() };
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
            self.last_event_id.clone_from(&self.id);
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
            "id" if value.len() <= MAX_ID && !value.contains(char::is_control) => {
                self.id = value.to_owned();
            }
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
    fn an_event_that_was_cut_off_is_not_acknowledged() {
        let mut stream = EventStream::default();
        stream.push(b"id: a\ndata: 1\n\nevent: authenticated\nid: b\ndata: {\"sta").unwrap();
        assert_eq!(stream.last_event_id, "a");
        stream.begin_again();
        assert_eq!(stream.push(b"event: x\ndata: 2\n\n").unwrap().len(), 1);
        assert_eq!(stream.last_event_id, "a", "an event without an ID keeps the last one");
    }

    #[test]
    fn an_id_that_no_header_can_carry_is_ignored() {
        let mut stream = EventStream::default();
        let long = format!("id: {}\n\n", "x".repeat(MAX_ID + 1));
        for text in ["id: a\u{1b}b\n\n", "id: \u{85}\n\n", long.as_str()] {
            stream.push(text.as_bytes()).unwrap();
            assert_eq!(stream.last_event_id, "");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut stream = EventStream::default();
        let chunk = [b'x'; 1000];
        assert!((0..1000).any(|_| stream.push(&chunk) == Err(TooLarge)));
    }
}
