//! The program; see [`token_relay::cli`].

use std::process::ExitCode;

// Waiting streams are many small allocations of a few sizes; this allocator packs them densely.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    token_relay::cli::main()
}
