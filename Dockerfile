# syntax=docker/dockerfile:1
# check=skip=RedundantTargetPlatform

# The bases by name, or by digest: --build-arg BUILD_IMAGE=rust@sha256:…
ARG BUILD_IMAGE=rust:1.95-slim-trixie
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian13:nonroot

# Compiles on the architecture of the building machine for that of the image, without emulation. For two:
# docker buildx build --platform linux/amd64,linux/arm64 .
FROM --platform=${BUILDPLATFORM} ${BUILD_IMAGE} AS build
ARG TARGETARCH
# Debian's native compilers have these names as well.
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc
# A stable release of Debian has one version of each package.
# hadolint ignore=DL3008
RUN case "${TARGETARCH}" in \
        amd64) target=x86_64-unknown-linux-gnu; compiler=gcc-x86-64-linux-gnu ;; \
        arm64) target=aarch64-unknown-linux-gnu; compiler=gcc-aarch64-linux-gnu ;; \
        *) echo "no build for the architecture '${TARGETARCH}'" >&2; exit 1 ;; \
    esac \
    && echo "${target}" > /target \
    && if [ "${TARGETARCH}" != "$(dpkg --print-architecture)" ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends "${compiler}" "libc6-dev-${TARGETARCH}-cross" \
        && rm -rf /var/lib/apt/lists/* \
        && rustup target add "${target}"; \
    fi
WORKDIR /build
# Dependencies first, in a layer of their own that only Cargo.toml and Cargo.lock invalidate.
COPY Cargo.toml Cargo.lock askama.toml ./
COPY .cargo .cargo
COPY client/Cargo.toml client/
# With the features of the program, or some would be compiled twice. Cargo wants the file of each
# benchmark that Cargo.toml names, built or not; none is built here.
RUN sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir -p src client/src static/pages && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs client/src/lib.rs \
    && cargo build --profile dist --locked --package token-relay --target "$(cat /target)" \
    && rm -rf src client/src static
COPY client/src client/src
COPY build.rs build.rs
COPY src src
COPY static static
# The commit that `--version` names; the build has no repository to ask.
ARG COMMIT=unknown
# The stand-ins above are newer than the sources.
RUN touch src/main.rs src/lib.rs client/src/lib.rs \
    && RELAY_COMMIT=${COMMIT} cargo build --profile dist --locked --package token-relay --target "$(cat /target)" \
    && cp "target/$(cat /target)/dist/token-relay" /token-relay

# glibc, CA certificates and nothing else; no shell. Runs as uid 65532. Buildah before 1.30, and Podman with
# it, would take the first stage's platform for a stage that names none.
# hadolint ignore=DL3065
FROM --platform=${TARGETPLATFORM} ${RUNTIME_IMAGE}
ARG COMMIT=unknown
ARG VERSION=0.2.0
# Where the sources are published.
ARG SOURCE=""
LABEL org.opencontainers.image.title="token-relay" \
      org.opencontainers.image.description="Pushes the result of a browser sign-in to the add-in that waits for it" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /token-relay /usr/local/bin/token-relay
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
