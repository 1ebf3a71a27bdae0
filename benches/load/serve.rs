//! The relay in this process, so that a session can be fulfilled without HTTP.
//!
//! It is what `token-relay demo` runs, with a second port: each line there is a session key, which is
//! fulfilled, and the answer is when that began.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use token_relay::{
    demo::{self, DemoOptions},
    http::AppState,
    session::{SessionKey, SessionRef},
    store::Stored,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

use crate::ending::token;

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    provider_listen: SocketAddr,
    /// Where orders come in
    #[arg(long)]
    orders: SocketAddr,
}

pub async fn run(arguments: Arguments) {
    let Arguments { listen, provider_listen, orders } = arguments;
    assert!(listen.ip().is_loopback() && orders.ip().is_loopback(), "loopback only");
    let options = DemoOptions {
        listen,
        provider_listen,
        platform_listen: None,
        open: false,
        allow_production: true,
    };
    let started = demo::start(options, token_relay::settings::environment()).await;
    let server = started.expect("the relay starts").server;
    let app = Arc::clone(server.app());
    let listener = TcpListener::bind(orders).await.expect("an address");
    println!("listening on http://{listen}");
    let accepting = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(obey(socket, Arc::clone(&app)));
        }
    });
    let mut terminate = signal(SignalKind::terminate()).expect("signals");
    terminate.recv().await;
    accepting.abort();
    server.shut_down().await;
}

async fn obey(socket: TcpStream, app: AppState) {
    socket.set_nodelay(true).expect("a socket");
    let mut orders = BufStream::new(socket);
    let token = token();
    let mut line = String::new();
    while orders.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let key = SessionKey::from_base64url(line.trim()).expect("a session key");
        let begun = SystemTime::now();
        let sealed = token.seal(&app.sealing_keys, key);
        let stored = app.relay.fulfil(SessionRef::native(key), sealed).await;
        assert!(matches!(stored, Ok(Stored::Done)), "{stored:?}");
        let nanoseconds = begun.duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
        orders.write_all(format!("{nanoseconds}\n").as_bytes()).await.expect("sent");
        orders.flush().await.expect("sent");
        line.clear();
    }
}
