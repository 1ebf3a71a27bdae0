//! An HTTP/1.1 connection, so that a measured time holds no client library.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Error, ErrorKind, Result};

use crate::link::{Link, Protocol, Target};

/// A connection that is kept while the server keeps it.
pub struct Wire {
    target: Target,
    socket: Option<Link>,
    buffer: Vec<u8>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header field of that name, as it came.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(std::str::from_utf8(&self.head).expect("text"), name)
    }

    /// The header fields of that name.
    pub fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let head = std::str::from_utf8(&self.head).expect("text");
        head.split("\r\n").filter_map(move |line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// The first field of that name in a head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

impl Wire {
    pub fn new(target: Target) -> Self {
        Self { target, socket: None, buffer: Vec::with_capacity(4096) }
    }

    /// Connects unless it is.
    pub async fn connect(&mut self) -> Result<()> {
        if self.socket.is_none() {
            self.socket = Some(self.target.connect(None, Protocol::Http1).await?);
            self.buffer.clear();
        }
        Ok(())
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.connect().await?;
        self.socket.as_mut().expect("connected").write_all(request).await
    }

    /// Sends a request and takes the answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request).await?;
        self.receive().await
    }

    async fn more(&mut self) -> Result<bool> {
        let socket = self.socket.as_mut().ok_or(ErrorKind::NotConnected)?;
        Ok(socket.read_buf(&mut self.buffer).await? > 0)
    }

    /// Takes an answer.
    pub async fn receive(&mut self) -> Result<Answer> {
        let answer = self.read().await;
        let over = |answer: &Answer| answer.field("connection") == Some("close");
        if answer.as_ref().map_or(true, over) {
            self.socket = None;
        }
        answer
    }

    async fn read(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.more().await? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let status = head.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let mut answer = Answer { status: status.unwrap_or(0), head, body: Vec::new() };
        let length = answer.field("content-length").and_then(|text| text.parse::<usize>().ok());
        answer.body = match length {
            Some(length) => {
                while self.buffer.len() < length {
                    if !self.more().await? {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                self.buffer.drain(..length).collect()
            }
            None if answer.status == 204 || answer.status == 304 => Vec::new(),
            None if answer.field("connection") == Some("close") => {
                while self.more().await? {}
                std::mem::take(&mut self.buffer)
            }
            None => return Err(Error::other("an answer without a length")),
        };
        Ok(answer)
    }
}

/// A request as bytes; `fields` are whole lines.
pub fn request(method: &str, target: Target, path: &str, fields: &[String], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", target.address);
    for field in fields {
        text.push_str(field);
        text.push_str("\r\n");
    }
    if method == "POST" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}
