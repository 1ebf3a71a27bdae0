//! Signs a person in through a token-relay and receives the token by push.
//!
//! [`Client::sign_in`] creates a session; the person opens its [`transit_url`](PendingSignIn::transit_url)
//! and types its [`user_code`](PendingSignIn::user_code) there; [`PendingSignIn::token`] waits on an event
//! stream, or on long polls where no stream gets through. [`PendingSignIn::save`] lets another run of the
//! program continue to wait. [`api`] holds the wire types, which the relay shares.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use token_relay_client::{Client, SignIn};
//!
//! let relay = Client::new("https://relay.example".parse()?)?;
//! let pending = relay.sign_in(&SignIn::default()).await?;
//! println!("Open {}", pending.transit_url());
//! if let Some(code) = pending.user_code() {
//!     println!("and type the code {code}");
//! }
//! let token = pending.token().await?;
//! # Ok(()) }
//! ```
//!
//! Tokens are encrypted for a key of the sign-in, and any other token is refused. With [`SignIn::dpop`]
//! they are also bound to a key (RFC 9449), so that a stolen one is of no use; [`ProofKey`] makes the headers
//! of the requests that use them.
//!
//! The relay is not trusted with the terminal or the browser: every URL it names must be on its own
//! origin, codes and tokens must have their grammar, and texts lose what is not printable.

pub mod api;
mod checks;
mod client;
mod encryption;
mod error;
mod event_stream;
mod key;
mod pending;
mod proof;

pub use crate::{
    checks::{is_secure, printable},
    client::{Client, SignIn},
    encryption::{DecryptionKey, concat_kdf},
    error::ClientError,
    key::PrivateKey,
    pending::{PendingSignIn, SavedSignIn},
    proof::{Proof, ProofKey},
};
