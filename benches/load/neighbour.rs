//! The service that the relay asks before a login ends: the claims hook, or the platform's accounts.
//!
//! It answers every request with an account after `--delay`. `GET /counts?delay=N` answers at once with
//! what has been counted since the last time, and sets another delay in milliseconds.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::wire::field;

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Milliseconds from a request to its answer
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

#[derive(Default)]
struct Counts {
    delay: AtomicU64,
    /// Connections that were accepted.
    connections: AtomicU64,
    requests: AtomicU64,
    /// Answers that somebody was still there to take.
    answered: AtomicU64,
    under_way: AtomicU64,
    max_under_way: AtomicU64,
}

impl Counts {
    fn take(&self) -> String {
        let [connections, requests, answered, max] =
            [&self.connections, &self.requests, &self.answered, &self.max_under_way]
                .map(|count| count.swap(0, Relaxed));
        format!(
            r#"{{"connections":{connections},"requests":{requests},"answered":{answered},"max_under_way":{max}}}"#
        )
    }
}

/// Ends with its connection or task, answered or not.
struct UnderWay<'a>(&'a Counts);

impl<'a> UnderWay<'a> {
    fn begin(counts: &'a Counts) -> Self {
        counts.requests.fetch_add(1, Relaxed);
        let now = counts.under_way.fetch_add(1, Relaxed) + 1;
        counts.max_under_way.fetch_max(now, Relaxed);
        Self(counts)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

pub async fn run(arguments: Arguments) {
    assert!(arguments.listen.ip().is_loopback(), "loopback only");
    let counts = Arc::new(Counts::default());
    counts.delay.store(arguments.delay, Relaxed);
    let listener = TcpListener::bind(arguments.listen).await.expect("an address");
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let _ = serve(socket, &counts).await;
        });
    }
}

async fn serve(mut socket: TcpStream, counts: &Counts) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut is_new = true;
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let length = field(&head, "content-length").and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or(0);
        while buffer.len() < length {
            if socket.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..length);
        let body = if let Some(query) = head.strip_prefix("GET /counts?delay=") {
            let digits = query.split(' ').next().unwrap_or_default();
            counts.delay.store(digits.parse().unwrap_or(0), Relaxed);
            counts.take()
        } else {
            if std::mem::take(&mut is_new) {
                counts.connections.fetch_add(1, Relaxed);
            }
            let _under_way = UnderWay::begin(counts);
            let delay = Duration::from_millis(counts.delay.load(Relaxed));
            if !delay.is_zero() {
                // Who gives up closes the connection.
                let gone =
                    async { while socket.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {} };
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = gone => return Ok(()),
                }
            }
            counts.answered.fetch_add(1, Relaxed);
            r#"{"id":"7e0f5b52-9d4e-4f0c-a4f0-0c9d6b6a5a11"}"#.to_owned()
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        socket.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    }
}
