//! HTTP/1.1 byte by byte, over TCP or TLS.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Browser, Process, TIMEOUT,
    certificate::{self, connect, connect_over},
    client,
    redis::{Directory, eventually},
};

/// What bytes travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Tls,
}

/// A relay and how it is reached.
pub struct Relay {
    pub process: Process,
    certificates: Option<Directory>,
}

impl Relay {
    /// The demo over a transport.
    pub fn start(transport: Transport, environment: &[(&str, &str)]) -> Self {
        if transport == Transport::Tcp {
            return Self { process: Process::demo(environment), certificates: None };
        }
        let folder = Directory::new();
        certificate::make(folder.path(), "relay");
        let (chain, key) = (folder.file("relay.crt"), folder.file("relay.key"));
        let mut all = environment.to_vec();
        all.push(("TOKEN_RELAY_TLS_CERTIFICATE", &chain));
        all.push(("TOKEN_RELAY_TLS_KEY", &key));
        Self { process: Process::demo(&all), certificates: Some(folder) }
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.process.url.split_once("://").unwrap().1.parse().unwrap()
    }

    /// A client of it.
    pub fn client(&self) -> reqwest::Client {
        match &self.certificates {
            None => client(),
            Some(folder) => {
                let builder = certificate::trusting(&[&folder.file("relay.crt")]);
                builder.timeout(TIMEOUT).build().unwrap()
            }
        }
    }

    /// A person's browser that trusts it.
    pub fn browser(&self) -> Browser {
        match &self.certificates {
            None => Browser::default(),
            Some(folder) => Browser::with(certificate::trusting(&[&folder.file("relay.crt")])),
        }
    }

    /// The file with its certificate.
    pub fn certificate(&self) -> String {
        self.certificates.as_ref().expect("it speaks TLS").file("relay.crt")
    }

    /// Creates a session from `body`, or a legacy one.
    pub async fn create(&self, body: Option<Value>) -> Value {
        self.create_answer(body).await.json().await.unwrap()
    }

    /// Likewise, as the answer to the creation.
    pub async fn create_answer(&self, body: Option<Value>) -> reqwest::Response {
        let mut request = self.client().post(format!("{}/addons/sessions", self.process.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// The number of sessions created so far.
    pub async fn sessions_created(&self) -> u64 {
        let metrics = self.client().get(format!("{}/metrics", self.process.url));
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        let name = "token_relay_sessions_created_total{";
        let counts = metrics.lines().filter(|line| line.starts_with(name));
        counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// A new connection for HTTP/1.1.
    pub async fn connect(&self) -> Wire {
        self.over(TcpStream::connect(self.address()).await.unwrap()).await
    }

    async fn over(&self, socket: TcpStream) -> Wire {
        socket.set_nodelay(true).unwrap();
        let socket: Box<dyn Duplex> = match &self.certificates {
            None => Box::new(socket),
            Some(folder) => {
                let file = folder.file("relay.crt");
                Box::new(connect_over(socket, "http/1.1", &[&file]).await.unwrap())
            }
        };
        Wire { socket, received: Vec::new() }
    }

    /// A new connection from an address that no other has, since wrong secrets are limited by address.
    pub async fn connect_from_elsewhere(&self) -> Wire {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let from = std::net::Ipv4Addr::from_bits(0x7f07_0000 + number);
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        self.over(socket.connect(self.address()).await.unwrap()).await
    }

    /// A new connection on which a request has been answered already.
    pub async fn connect_used(&self) -> Wire {
        Self::used(self.connect().await).await
    }

    /// Uses a connection for a request.
    pub async fn used(mut wire: Wire) -> Wire {
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(wire.answer().await.unwrap().status, 200);
        wire
    }

    /// A WebSocket over HTTP/2 and TLS (RFC 8441 §5): the status, and the bytes of its stream.
    pub async fn connect_http2(&self, path: &str, fields: &[(&str, &str)]) -> (u16, Wire) {
        let address = format!("localhost:{}", self.address().port());
        let socket = connect(&address, "h2", &[&self.certificate()]).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        // The relay's settings, which offer it, come with its first frames.
        eventually("extended CONNECT is offered", || async {
            client.is_extended_connect_protocol_enabled()
        })
        .await;
        let mut request = http::Request::connect(format!("https://{address}{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (answer, to_relay) = client.send_request(request, false).unwrap();
        let answer = tokio::time::timeout(TIMEOUT, answer).await.unwrap().unwrap();
        let status = answer.status().as_u16();
        let socket = Box::new(tunnel(answer.into_body(), to_relay));
        (status, Wire { socket, received: Vec::new() })
    }

    /// Both of them, with names.
    pub async fn both(&self) -> [(&'static str, Wire); 2] {
        [("first", self.connect().await), ("later", self.connect_used().await)]
    }
}

/// A stream of HTTP/2 as one of bytes.
pub fn tunnel(
    mut from_relay: h2::RecvStream,
    mut to_relay: h2::SendStream<Bytes>,
) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(4096);
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(bytes)) = from_relay.data().await {
            from_relay.flow_control().release_capacity(bytes.len()).unwrap();
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok(length) = read.read(&mut buffer).await
            && length > 0
        {
            if to_relay.send_data(Bytes::copy_from_slice(&buffer[..length]), false).is_err() {
                return;
            }
        }
        let _ = to_relay.send_data(Bytes::new(), true);
    });
    near
}

pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection.
pub struct Wire {
    socket: Box<dyn Duplex>,
    /// Bytes received and not used.
    received: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Wire {
    /// A connection that exists already.
    pub fn over(socket: TcpStream) -> Self {
        Self { socket: Box::new(socket), received: Vec::new() }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// Shuts down the sending side.
    pub async fn finish(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.socket.read_buf(&mut self.received);
        let read = tokio::time::timeout(TIMEOUT, read).await.expect("bytes or the end in time");
        // A broken connection is an end without anything.
        (read.unwrap_or_default() > 0).then_some(())
    }

    /// Reads until the text has come, and drops everything before its end. `None` at the end of the
    /// connection.
    pub async fn until(&mut self, text: &str) -> Option<String> {
        loop {
            let found = self.received.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(start) = found {
                let taken: Vec<u8> = self.received.drain(..start + text.len()).collect();
                return Some(String::from_utf8(taken).unwrap());
            }
            self.more().await?;
        }
    }

    /// The head of an answer.
    pub async fn head(&mut self) -> Option<Answer> {
        let head = self.until("\r\n\r\n").await?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Answer { status, head, body: Vec::new() })
    }

    /// A whole answer; `None` when the connection ends before it.
    pub async fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head().await?;
        if answer.field("transfer-encoding").is_some() {
            loop {
                let size = self.until("\r\n").await?;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                let chunk = self.take(size + 2).await?;
                if size == 0 {
                    return Some(answer);
                }
                answer.body.extend_from_slice(&chunk[..size]);
            }
        }
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = self.take(length).await?;
        Some(answer)
    }

    /// So many bytes; `None` when the connection ends before.
    pub async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.received.len() < length {
            self.more().await?;
        }
        Some(self.received.drain(..length).collect())
    }

    /// Everything until the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await.is_some() {}
        std::mem::take(&mut self.received)
    }

    /// Shuts down the sending side, which may have failed already.
    pub async fn try_finish(&mut self) -> std::io::Result<()> {
        self.socket.shutdown().await
    }

    /// Everything that comes within `pause` of the bytes before, and whether the connection ended.
    pub async fn quiet(&mut self, pause: Duration) -> (Vec<u8>, bool) {
        loop {
            let read = self.socket.read_buf(&mut self.received);
            match tokio::time::timeout(pause, read).await {
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => return (std::mem::take(&mut self.received), true),
                Err(_) => return (std::mem::take(&mut self.received), false),
            }
        }
    }
}
