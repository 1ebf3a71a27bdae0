# Short names for the commands of the project. `just --list` shows them.

# The relay with an embedded OpenID provider
demo:
    cargo run -- demo

# Install what the tests need (Debian)
install:
    ./tests/run install

# Checks that run no test: format, lints, documentation, dependencies
check:
    ./tests/run format clippy documentation dependencies

# Unit and integration tests
test:
    ./tests/run rust

# Tests of the JavaScript client and of the pages in Chromium
browser:
    ./tests/run client browser

# Everything that CI runs
ci:
    ./tests/run

# Benchmarks beside nginx with nchan
bench *parts:
    benches/run {{parts}}

# What a release publishes, from a clean checkout
release *options:
    deploy/release {{options}}
