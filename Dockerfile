# syntax=docker/dockerfile:1

# The bases by name, or by digest: --build-arg BUILD_IMAGE=rust@sha256:… For two architectures:
# docker buildx build --platform linux/amd64,linux/arm64 .
ARG BUILD_IMAGE=rust:1.95-slim-trixie
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian13:nonroot

# Dependencies first, in a layer of their own that only Cargo.toml and Cargo.lock invalidate.
FROM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock askama.toml ./
COPY client/Cargo.toml client/
# With the features of the program, or some would be compiled twice. Cargo wants the file of each
# benchmark that Cargo.toml names, built or not; none is built here.
RUN sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir -p src client/src static/pages && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs client/src/lib.rs \
    && cargo build --profile dist --locked --package token-relay \
    && rm -rf src client/src static
COPY client/src client/src
COPY build.rs build.rs
COPY src src
COPY static static
# The commit that `--version` names; the build has no repository to ask.
ARG COMMIT=unknown
# The stand-ins above are newer than the sources.
RUN touch src/main.rs src/lib.rs client/src/lib.rs \
    && RELAY_COMMIT=${COMMIT} cargo build --profile dist --locked --package token-relay

# glibc, CA certificates and nothing else; no shell. Runs as uid 65532.
FROM ${RUNTIME_IMAGE}
ARG COMMIT=unknown
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="token-relay" \
      org.opencontainers.image.description="Pushes the result of a browser sign-in to the add-in that waits for it" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /build/target/dist/token-relay /usr/local/bin/token-relay
# An address; only its name looks like a secret.
# hadolint ignore=DL3064
ENV TOKEN_RELAY_LISTEN=0.0.0.0:8080
EXPOSE 8080
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/token-relay", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/token-relay"]
CMD ["serve"]
