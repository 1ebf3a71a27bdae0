//! The demo's OpenID provider alone, which logs in by itself, for instances that share one.

use std::net::SocketAddr;

use clap::Args;
use token_relay::demo::{CLIENT_ID, DemoProvider, RegisteredClient};
use tokio::net::TcpListener;

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    secret: String,
    /// Of the relays
    #[arg(long, value_delimiter = ',')]
    redirect_uris: Vec<String>,
}

pub async fn run(arguments: Arguments) {
    let Arguments { listen, secret, redirect_uris } = arguments;
    assert!(listen.ip().is_loopback(), "loopback only");
    let client = RegisteredClient { id: CLIENT_ID.to_owned(), secret, redirect_uris };
    let provider = DemoProvider::new(&format!("http://{listen}"), client, true);
    let listener = TcpListener::bind(listen).await.expect("an address");
    let router = provider.expect("a provider").router();
    axum::serve(listener, router).await.expect("a server");
}
