# syntax=docker/dockerfile:1

# Dependencies first, in a layer of their own that only Cargo.toml and Cargo.lock can outdate.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock askama.toml ./
COPY client/Cargo.toml client/
# Cargo wants the file of each benchmark that Cargo.toml names, built or not; none is built here.
RUN sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir -p src client/src static/pages && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs client/src/lib.rs \
    && cargo build --profile dist --locked --package token-relay --no-default-features --features opentelemetry \
    && rm -rf src client/src static
COPY client/src client/src
COPY src src
COPY static static
# The stand-ins above are newer than the sources.
RUN touch src/main.rs src/lib.rs client/src/lib.rs \
    && cargo build --profile dist --locked --package token-relay

# glibc, CA certificates and nothing else; no shell. Runs as uid 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/dist/token-relay /usr/local/bin/token-relay
ENV TOKEN_RELAY_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/token-relay", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/token-relay"]
CMD ["serve"]
