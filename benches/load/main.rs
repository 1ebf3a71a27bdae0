//! Load generator: many clients that wait for a login, each on its own session, and what it costs.
//!
//! `benches/run` starts the servers and calls it; see `benches/README.md`. Each mode prints one JSON
//! object and stops by itself. Everything is sent to 127.0.0.0/8.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod burst;
mod create;
mod dialog;
mod ending;
mod keys;
mod link;
mod machine;
mod neighbour;
mod place;
mod poll;
mod provider;
mod serve;
mod storm;
mod stream;
mod wait;
mod wire;

use clap::{Parser, Subcommand};

// As in the relay's own binary, for the mode that serves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct CommandLine {
    /// PEM file with the certificate of servers over TLS
    #[arg(long, global = true)]
    certificate: Option<std::path::PathBuf>,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Open streams, hold them, end some of their sessions
    Wait(wait::Arguments),
    /// Ask once a second, as add-ins do that are not told
    Poll(poll::Arguments),
    /// Create sessions as fast as they are answered
    Create(create::Arguments),
    /// Log in with keys of the add-in and without
    Keys(keys::Arguments),
    /// Keep streams open while instances die, in step with whoever kills them
    Storm(storm::Arguments),
    /// End many logins at a steady rate, beside clients that have nothing to do with them
    Burst(burst::Arguments),
    /// Serve the service that the relay asks about an account
    Neighbour(neighbour::Arguments),
    /// Serve the OpenID provider that several instances share
    Provider(provider::Arguments),
    /// Serve the relay from this process, which also ends sessions on order
    Serve(serve::Arguments),
}

fn main() {
    // `cargo bench` without a name runs every bench, with this argument.
    let words: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    if words.len() == 1 {
        println!("The load generator is run by benches/run.");
        return;
    }
    let CommandLine { certificate, mode } = CommandLine::parse_from(words);
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(file) = &certificate {
        link::trust(file);
    }
    let mut builder = match mode {
        // The relay as its own binary runs it.
        Mode::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        // One thread: the machine's other cores belong to what is measured.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let result = match mode {
            Mode::Wait(arguments) => wait::run(arguments).await,
            Mode::Poll(arguments) => poll::run(arguments).await,
            Mode::Create(arguments) => create::run(arguments).await,
            Mode::Keys(arguments) => keys::run(arguments).await,
            Mode::Storm(arguments) => storm::run(arguments).await,
            Mode::Burst(arguments) => burst::run(arguments).await,
            Mode::Neighbour(arguments) => return neighbour::run(arguments).await,
            Mode::Provider(arguments) => return provider::run(arguments).await,
            Mode::Serve(arguments) => return serve::run(arguments).await,
        };
        println!("{result}");
    });
}

/// p50, p90, p99 and max of durations in milliseconds.
pub fn percentiles(mut milliseconds: Vec<f64>) -> serde_json::Value {
    milliseconds.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((milliseconds.len() as f64 - 1.0) * share).round() as usize;
        milliseconds.get(index).map(|value| (value * 1e4).round() / 1e4)
    };
    serde_json::json!({
        "count": milliseconds.len(),
        "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0),
    })
}
