//! Where a client waits: a session of the relay or a channel of nchan.

use std::sync::Arc;

use clap::ValueEnum;
use futures_util::{StreamExt as _, stream};
use token_relay::session::{SessionId, SessionKey};

use crate::{
    link::Target,
    wire::{Wire, request},
};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// token-relay.
    Relay,
    /// nginx with nchan.
    Nchan,
}

/// How a client waits.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Sse,
    Websocket,
}

/// A session or a channel.
pub struct Place {
    /// Of its stream.
    pub path: String,
    /// Header lines with the reader's credentials.
    pub fields: Vec<String>,
    /// Where the dialog enters, or where nchan is published to.
    pub end: String,
    /// The cookie of the browser that created the session, which its dialog proves itself by.
    pub cookie: Option<String>,
    /// The store's key of a session.
    pub key: Option<SessionKey>,
}

/// The path of a URL.
pub fn path(url: &str) -> String {
    format!("/{}", url.splitn(4, '/').nth(3).expect("a path"))
}

/// Creates a session.
pub async fn create(
    wire: &mut Wire,
    origin: Target,
    transport: Transport,
    client: Option<&str>,
) -> Place {
    let mut fields = vec!["content-type: application/json".to_owned()];
    let mut body = r#"{"bind":true}"#.to_owned();
    if let Some(client) = client {
        // As a script of a page of the relay's own.
        fields.push(format!("origin: {}", origin.origin()));
        fields.push("sec-fetch-site: same-origin".to_owned());
        fields.push("sec-fetch-mode: cors".to_owned());
        body = format!(r#"{{"bind":true,"client_id":"{client}"}}"#);
    }
    let answer = wire
        .ask(&request("POST", origin, "/addons/sessions", &fields, &body))
        .await
        .expect("the relay answers");
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let cookie = answer
        .fields("set-cookie")
        .filter_map(|cookie| cookie.split(';').next())
        .find(|pair| pair.contains("token-relay-browser"))
        .map(str::to_owned);
    let session = answer.json();
    let text = |name: &str| session[name].as_str().expect("a member").to_owned();
    let url = match transport {
        Transport::Sse => text("events_url"),
        Transport::Websocket => text("websocket_url"),
    };
    Place {
        path: path(&url),
        fields: vec![format!("authorization: Bearer {}", text("session_token"))],
        end: text("transit_url"),
        cookie,
        key: Some(SessionId::parse(&text("session_id")).expect("a session ID").key()),
    }
}

/// Makes `count` places.
pub async fn make(
    kind: Kind,
    origin: Target,
    transport: Transport,
    count: usize,
    client: Option<&str>,
) -> Vec<Arc<Place>> {
    if kind == Kind::Nchan {
        let place = |number| {
            let name = format!("c{}x{number}", std::process::id());
            let (path, end) = (format!("/sub/{name}"), format!("/pub/{name}"));
            Arc::new(Place { path, fields: Vec::new(), end, cookie: None, key: None })
        };
        return (0..count).map(place).collect();
    }
    const CONNECTIONS: usize = 16;
    let shares = (0..CONNECTIONS).map(|share| {
        let count = (share..count).step_by(CONNECTIONS).count();
        async move {
            let mut wire = Wire::new(origin);
            let mut places = Vec::with_capacity(count);
            for _ in 0..count {
                places.push(Arc::new(create(&mut wire, origin, transport, client).await));
            }
            places
        }
    });
    stream::iter(shares).buffer_unordered(CONNECTIONS).collect::<Vec<_>>().await.concat()
}
