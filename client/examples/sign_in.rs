//! Signs a program in through a relay and calls an API with the token.
//!
//! `cargo run -- demo` in one terminal, `cargo run -p token-relay-client --example sign_in` in another.

use token_relay_client::{Client, SignIn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let relay = Client::new(base.parse()?)?;
    let wanted = SignIn { client_name: Some("The example".to_owned()), ..SignIn::default() };
    let pending = relay.sign_in(&wanted).await?;
    eprintln!("Open {}", pending.transit_url());
    if let Some(code) = pending.user_code() {
        eprintln!("and type this code there: {code}");
    }
    // Woken by the relay; nothing is asked again and again.
    let token = pending.token().await?;

    let api = reqwest::Client::new().get(format!("{}/addons/me", base.trim_end_matches('/')));
    let claims = api.bearer_auth(token.access_token.expose()).send().await?.text().await?;
    println!("{claims}");
    Ok(())
}
