//! Sessions and who may create them.

use std::time::Duration;

use crate::{
    api::Secret,
    settings::{
        declaration::{Reloadable, secret, section, setting},
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
        /// Interval between heartbeats on a stream
        heartbeat: Duration = setting("HEARTBEAT").default("15s"), duration(SECOND, 5 * MINUTE);
        /// Origins that may call from a browser, exact, separated by commas
        allowed_origins: Vec<String> = setting("ALLOWED_ORIGINS").optional("none"), list_of(origin);
        /// Refuse sessions without a session token
        require_bound: bool = setting("REQUIRE_BOUND_SESSIONS").default("false"), flag;
        /// `id:secret` pairs for introspection and revocation, separated by commas
        introspection_clients: Vec<(String, Secret)> =
            secret("INTROSPECTION_CLIENTS").optional("none")
                .reload(Reloadable::IntrospectionClients),
            clients;
    }
}

fn clients(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let client = |pair: &Secret| match pair.expose().split_once(':') {
        Some((id, secret)) if !id.is_empty() && secret.len() >= 16 => {
            Ok((id.to_owned(), Secret::from(secret)))
        }
        _ => Err("id:secret, the secret of 16 characters or more".to_owned()),
    };
    secrets_of(1)(text)?.iter().map(client).collect()
}
