//! A client that waits on an event stream or a WebSocket, with a socket of its own and no library.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Result},
    net::{TcpSocket, TcpStream},
};

use crate::{
    place::{Place, Transport},
    wire::field,
};

/// An open stream.
pub struct Stream {
    socket: TcpStream,
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
    /// The stream is over.
    pub over: bool,
}

impl Stream {
    /// Opens a stream. `number` spreads clients over eight addresses, since one has 28 000 ports.
    pub async fn open(
        target: SocketAddr,
        number: usize,
        place: &Place,
        transport: Transport,
    ) -> Result<std::result::Result<Self, Refused>> {
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::new(127, 0, 1, 1 + (number % 8) as u8);
        socket.bind((source, 0).into())?;
        let mut socket = socket.connect(target).await?;
        let mut request = format!("GET {} HTTP/1.1\r\nhost: {target}\r\n", place.path);
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
        Ok(Ok(Self { socket, transport, rest, fresh: true }))
    }

    /// Reads once. Also says when the bytes came.
    pub async fn next(&mut self) -> Result<(Instant, Seen)> {
        let mut over = false;
        // What came with the head is looked at before anything else is waited for.
        if !std::mem::take(&mut self.fresh) || self.rest.is_empty() {
            let mut buffer = [0u8; 2048];
            let read = self.socket.read(&mut buffer).await?;
            over = read == 0;
            self.rest.extend_from_slice(&buffer[..read]);
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
        Seen {
            // A comment at the start of a line: the relay's `:`, nchan's `:` with text.
            heartbeats: (count(b"\n:") + usize::from(text.starts_with(b":"))) as u32,
            retry,
            token: count(b"data: ") > 0,
            over: false,
        }
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
        self.socket.write_all(&frame).await
    }
}
