//! Sessions and who may create them.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    api::Secret,
    session::ClientId,
    settings::{
        client::{Proof, proofs, proofs_or_default, warning_of_origin},
        declaration::{Reloadable, secret, section, setting},
        source::Source,
        value::{DAY, HOUR, MINUTE, SECOND, duration, flag, list_of, origin, secrets_of},
    },
};

section! {
    /// Sessions and who may create them.
    pub struct SessionSettings {
        /// Lifetime of a session
        ttl: Duration = setting("SESSION_TTL").default("15m"), duration(10 * SECOND, DAY);
        /// Lifetime of a transit token
        transit_token_ttl: Duration =
            setting("TRANSIT_TOKEN_TTL").default("2m"), duration(SECOND, HOUR);
        /// Time for which a delivered token stays readable by the same credentials
        delivery_grace: Duration = setting("DELIVERY_GRACE").default("30s"), duration(SECOND, HOUR);
        /// Minimum time between two polls of a client of the device authorization grant (RFC 8628)
        device_interval: Duration =
            setting("DEVICE_INTERVAL").default("5s"), duration(SECOND, MINUTE);
        /// Interval between heartbeats on a stream
        heartbeat: Duration = setting("HEARTBEAT").default("15s"), duration(SECOND, 5 * MINUTE);
        /// Origins that may call from a browser, exact, separated by commas
        allowed_origins: Vec<String> = setting("ALLOWED_ORIGINS").optional("none"), list_of(origin);
        /// Allow calls of pages without an origin (`Origin: null`), as plug-in hosts show them; any site
        /// can make one, so that only a typed code is their proof
        opaque_origins: bool = setting("OPAQUE_ORIGINS").default("false"), flag;
        /// Proofs of which a dialog needs one: `browser`, `opener`, `code`; without registered clients
        proofs: Option<BTreeSet<Proof>> =
            setting("PROOFS").optional("`browser opener`, and `code` without `ALLOWED_ORIGINS`"),
            proofs;
        /// Allow sessions without a session token
        legacy_sessions: Option<bool> =
            setting("LEGACY_SESSIONS").optional("`false`; `true` in `demo`"), flag;
        /// Deprecated: the inverse of `LEGACY_SESSIONS`
        require_bound_sessions: Option<bool> =
            setting("REQUIRE_BOUND_SESSIONS").optional("none"), flag;
        /// `id:secret` pairs of clients with the grant `introspect` alone, separated by commas
        introspection_clients: Vec<(ClientId, Secret)> =
            secret("INTROSPECTION_CLIENTS").optional("none").reload(Reloadable::Clients),
            introspection_clients;
    }
}

impl SessionSettings {
    pub(crate) fn check(&self, source: &mut Source) {
        if self.legacy_sessions.is_some() && self.legacy_sessions == self.require_bound_sessions {
            source.reject("REQUIRE_BOUND_SESSIONS", "the inverse of LEGACY_SESSIONS, or none");
        } else if self.require_bound_sessions.is_some() {
            source
                .warn("REQUIRE_BOUND_SESSIONS", "is deprecated; use LEGACY_SESSIONS, its inverse");
        }
        let proofs = proofs_or_default(self.proofs.as_ref(), &self.allowed_origins);
        if self.opaque_origins && !proofs.contains(&Proof::Code) {
            source.reject("OPAQUE_ORIGINS", "false, or code among the PROOFS");
        }
        let registered = source.clients();
        let twice = |(id, _): &(ClientId, Secret)| registered.contains(id);
        if self.introspection_clients.iter().any(twice) {
            source.reject("INTROSPECTION_CLIENTS", "clients that are not registered otherwise too");
        }
        for origin in &self.allowed_origins {
            if let Some(warning) = warning_of_origin(origin) {
                source.warn("ALLOWED_ORIGINS", format!("{origin} {warning}"));
            }
        }
    }

    /// Whether sessions without a session token are allowed.
    pub fn legacy(&self) -> bool {
        let inverse = self.require_bound_sessions.map(|required| !required);
        self.legacy_sessions.or(inverse).unwrap_or(false)
    }
}

/// `id:secret` pairs.
fn introspection_clients(text: &str) -> Result<Vec<(ClientId, Secret)>, String> {
    let client = |pair: &Secret| {
        let (id, secret) = pair.expose().split_once(':')?;
        let id = id.parse().ok()?;
        (secret.len() >= 16).then(|| (id, Secret::from(secret)))
    };
    let clients = secrets_of(1)(text)?.iter().map(client).collect::<Option<_>>();
    clients.ok_or_else(|| "id:secret, the secret of 16 characters or more".to_owned())
}
