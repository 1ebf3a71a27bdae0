//! A client that waits on an event stream or a WebSocket, with a socket of its own and no library, or
//! on an event stream of a shared HTTP/2 connection.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Error, Result};

use crate::{
    link::{Link, Protocol, Shared, Target, source},
    place::{Place, Transport},
    wire::field,
};

/// What a stream is read from.
enum Source {
    Socket(Link),
    /// The connection ends with its last sender.
    Http2(RecvStream, #[expect(dead_code, reason = "held")] SendRequest<Bytes>),
}

impl Source {
    /// Reads what has come; nothing at the end.
    async fn read(&mut self, into: &mut Vec<u8>) -> Result<usize> {
        match self {
            Self::Socket(link) => {
                let mut buffer = [0u8; 2048];
                let read = link.read(&mut buffer).await?;
                into.extend_from_slice(&buffer[..read]);
                Ok(read)
            }
            Self::Http2(body, _) => match body.data().await {
                Some(data) => {
                    let data = data.map_err(Error::other)?;
                    let _ = body.flow_control().release_capacity(data.len());
                    into.extend_from_slice(&data);
                    Ok(data.len())
                }
                None => Ok(0),
            },
        }
    }
}

/// An open stream.
pub struct Stream {
    source: Source,
    transport: Transport,
    /// Read and not yet looked at.
    rest: Vec<u8>,
    fresh: bool,
}

/// A stream that was not granted.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    /// From `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// What one read brought.
#[derive(Debug, Default)]
pub struct Seen {
    pub heartbeats: u32,
    /// When the client is asked to come again, in milliseconds.
    pub retry: Option<u64>,
    pub token: bool,
    /// What came with the token, or with the failure in its place.
    pub text: Vec<u8>,
    /// The stream is over.
    pub over: bool,
}

impl Stream {
    /// Opens an event stream on an HTTP/2 connection that others share.
    pub async fn open_shared(
        target: Target,
        shared: &Shared,
        number: usize,
        place: &Place,
    ) -> Result<std::result::Result<Self, Refused>> {
        let mut sender = shared.of(target, number).await?.ready().await.map_err(Error::other)?;
        let mut request = http::Request::get(format!("{}{}", target.origin(), place.path))
            .header("accept", "text/event-stream");
        for field in &place.fields {
            let (name, value) = field.split_once(": ").expect("a field");
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(Error::other)?;
        let (response, _) = sender.send_request(request, true).map_err(Error::other)?;
        let response = response.await.map_err(Error::other)?;
        let status = response.status().as_u16();
        if status != 200 {
            let after = response.headers().get("retry-after");
            let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
            return Ok(Err(Refused { status, retry_after: after.map(Duration::from_secs) }));
        }
        let source = Source::Http2(response.into_body(), sender);
        Ok(Ok(Self { source, transport: Transport::Sse, rest: Vec::new(), fresh: true }))
    }

    /// Opens a stream on a connection of its own.
    pub async fn open(
        target: Target,
        number: usize,
        place: &Place,
        transport: Transport,
    ) -> Result<std::result::Result<Self, Refused>> {
        let mut socket = target.connect(Some(source(number)), Protocol::Http1).await?;
        let mut request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", place.path, target.address);
        for field in &place.fields {
            request.push_str(field);
            request.push_str("\r\n");
        }
        request.push_str(match transport {
            Transport::Sse => "accept: text/event-stream\r\n\r\n",
            // The key may be any 16 bytes; these are the example's in RFC 6455 §1.2.
            Transport::Websocket => {
                "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 sec-websocket-protocol: token-relay.v1\r\n\r\n"
            }
        });
        socket.write_all(request.as_bytes()).await?;
        let mut rest = Vec::new();
        let end = loop {
            let mut buffer = [0u8; 1024];
            let read = socket.read(&mut buffer).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            rest.extend_from_slice(&buffer[..read]);
            if let Some(end) = rest.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
        let status = head.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
        let granted = match transport {
            Transport::Sse => status == 200,
            Transport::Websocket => status == 101,
        };
        if !granted {
            let after = field(&head, "retry-after").and_then(|text| text.parse().ok());
            return Ok(Err(Refused { status, retry_after: after.map(Duration::from_secs) }));
        }
        rest.drain(..end);
        rest.shrink_to_fit();
        Ok(Ok(Self { source: Source::Socket(socket), transport, rest, fresh: true }))
    }

    /// Reads once. Also says when the bytes came.
    pub async fn next(&mut self) -> Result<(Instant, Seen)> {
        let mut over = false;
        // What came with the head is looked at before anything else is waited for.
        if !std::mem::take(&mut self.fresh) || self.rest.is_empty() {
            over = self.source.read(&mut self.rest).await? == 0;
        }
        let now = Instant::now();
        let mut seen = match self.transport {
            Transport::Sse => self.events(),
            Transport::Websocket => self.frames().await?,
        };
        seen.over |= over;
        Ok((now, seen))
    }

    fn events(&mut self) -> Seen {
        let text = std::mem::take(&mut self.rest);
        let count =
            |needle: &[u8]| text.windows(needle.len()).filter(|part| *part == needle).count();
        let retry = text.windows(7).position(|part| part == b"retry: ").map(|at| {
            let digits = text[at + 7..].iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
        });
        // A comment at the start of a line: the relay's `:`, nchan's `:` with text.
        let heartbeats = (count(b"\n:") + usize::from(text.starts_with(b":"))) as u32;
        let token = count(b"data: ") > 0;
        let text = if token { text } else { Vec::new() };
        Seen { heartbeats, retry, token, text, over: false }
    }

    async fn frames(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        while let Some((opcode, payload)) = self.frame() {
            match opcode {
                // Text: the token. The relay wants to hear that it came.
                1 => {
                    seen.token = true;
                    self.reply(1, br#"{"type":"ack"}"#).await?;
                }
                8 => {
                    seen.over = true;
                    self.reply(8, &payload).await?;
                }
                9 => {
                    seen.heartbeats += 1;
                    self.reply(10, &payload).await?;
                }
                _ => {}
            }
        }
        Ok(seen)
    }

    /// The next whole frame (RFC 6455 §5.2). Servers do not mask.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second, ..] = *self.rest else { return None };
        let (start, length) = match second & 127 {
            126 => (4, usize::from(u16::from_be_bytes([*self.rest.get(2)?, *self.rest.get(3)?]))),
            127 => panic!("a message of more than 64 kB"),
            short => (2, usize::from(short)),
        };
        let payload = self.rest.get(start..start + length)?.to_vec();
        self.rest.drain(..start + length);
        Some((first & 15, payload))
    }

    /// Sends a frame. A mask of zeros is a mask.
    async fn reply(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let mut frame = vec![128 | opcode, 128 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        match &mut self.source {
            Source::Socket(link) => link.write_all(&frame).await,
            Source::Http2(..) => Err(Error::other("no WebSocket over HTTP/2")),
        }
    }
}
