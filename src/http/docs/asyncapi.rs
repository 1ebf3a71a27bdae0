//! The description of what a waiting reader is told: `GET /asyncapi.json` (AsyncAPI 3.0), and the
//! section "Events" of `GET /docs`.
//!
//! One table of messages is the source of both; schemas that the long poll shares come from
//! [`openapi`](crate::http::docs::openapi). Called by the router and by the page.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use url::Url;

use crate::http::{
    AppState,
    addons::streams::{
        credentials::SUBPROTOCOL,
        sse::LAST_EVENT_ID,
        websocket::code::{
            DONE, EXPIRED, FORBIDDEN, NOT_FOUND, POLICY, RESTART, TOO_MANY, TRY_AGAIN_LATER,
            UNAUTHORIZED,
        },
    },
    docs::openapi::components,
};

const SESSION_EVENTS: &str = "/addons/sessions/{session_id}/events";
const SESSION_WEBSOCKET: &str = "/addons/sessions/{session_id}/ws";

/// What a reader is told at the end of its wait.
pub struct Message {
    /// `event` of an event stream, `type` on a WebSocket.
    pub name: &'static str,
    /// When it is sent.
    pub summary: &'static str,
    /// Name of the schema of its data.
    pub schema: &'static str,
}

/// Every message of the relay; each is the last of its stream.
pub const MESSAGES: [Message; 3] = [
    Message {
        name: "authenticated",
        summary: "The login is over, and this is the access token.",
        schema: "Authenticated",
    },
    Message { name: "failed", summary: "There will be no token.", schema: "Failed" },
    Message { name: "expired", summary: "The time to sign in is over.", schema: "Expired" },
];

/// Values of `error` in a failure, and what each says.
pub const ERRORS: [(&str, &str); 6] = [
    ("access_denied", "The person refused, or the provider did."),
    ("server_error", "The login could not be completed."),
    ("temporarily_unavailable", "The provider is away."),
    ("cancelled", "The add-in ended the session."),
    ("superseded", "Another connection reads this session now."),
    ("transit_token_replayed", "The link was used twice. It may have leaked."),
];

/// Close codes of the WebSocket, and what each says.
pub const CLOSE_CODES: [(u16, &str); 9] = [
    (DONE, "All is said."),
    (POLICY, "The client sent something else than an acknowledgement."),
    (RESTART, "The instance restarts; come again."),
    (TRY_AGAIN_LATER, "The instance is full, or its store is away; come again later."),
    (UNAUTHORIZED, "The session token is missing or wrong."),
    (FORBIDDEN, "The page's origin may not use the session's cookie."),
    (NOT_FOUND, "No such session."),
    (EXPIRED, "The time to sign in is over."),
    (TOO_MANY, "Too many readers wait for this session."),
];

/// A reference to a component.
fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// The parts of the public URL that AsyncAPI wants apart.
fn server(public_url: &Url, scheme: &str, description: &str) -> Value {
    let scheme = if public_url.scheme() == "https" { format!("{scheme}s") } else { scheme.into() };
    let host = public_url.host_str().unwrap_or_default();
    let host = public_url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let path = public_url.path().trim_end_matches('/');
    let mut server = json!({ "host": host, "protocol": scheme, "description": description });
    if !path.is_empty() {
        server["pathname"] = path.into();
    }
    server
}

fn schemas() -> Value {
    let shared = serde_json::to_value(components()).unwrap_or_default();
    let mut schemas = Map::new();
    for name in ["Authenticated", "Failed"] {
        schemas.insert(name.to_owned(), shared["schemas"][name].clone());
    }
    let errors = ERRORS.map(|(error, meaning)| format!("`{error}`: {meaning}")).join(" ");
    schemas["Failed"]["properties"]["error"]["description"] =
        format!("{errors} Others come from the provider as they are (RFC 6749, 4.1.2.1).").into();
    let expired = json!({
        "type": "object",
        "required": ["state"],
        "properties": { "state": { "type": "string", "enum": ["expired"] } },
    });
    schemas.insert("Expired".to_owned(), expired);
    // A WebSocket has no `event` beside the data, so the data says it.
    for Message { name, schema, .. } in MESSAGES {
        let tagged = json!({
            "type": "object",
            "required": ["type"],
            "properties": { "type": { "type": "string", "enum": [name] } },
        });
        let whole = json!({ "allOf": [reference("schemas", schema), tagged] });
        schemas.insert(format!("{schema}Message"), whole);
    }
    let acknowledgement = json!({
        "type": "object",
        "required": ["type"],
        "properties": { "type": { "type": "string", "enum": ["ack"] } },
    });
    schemas.insert("Acknowledgement".to_owned(), acknowledgement);
    schemas.into()
}

fn messages() -> Value {
    let mut messages = Map::new();
    for Message { name, summary, schema } in MESSAGES {
        let event = json!({
            "name": name,
            "title": format!("Event `{name}`"),
            "summary": summary,
            "description": format!("`event: {name}`, `id: {LAST_EVENT_ID}`, and `data`, which is the payload here on one line."),
            "contentType": "application/json",
            "payload": reference("schemas", schema),
        });
        messages.insert(format!("{name}Event"), event);
        let message = json!({
            "name": name,
            "title": format!("Message `{name}`"),
            "summary": summary,
            "contentType": "application/json",
            "payload": reference("schemas", &format!("{schema}Message")),
        });
        messages.insert(format!("{name}Message"), message);
    }
    let acknowledgement = json!({
        "name": "ack",
        "title": "Acknowledgement",
        "summary": "The token has arrived; the relay forgets it.",
        "contentType": "application/json",
        "payload": reference("schemas", "Acknowledgement"),
        "examples": [{ "payload": { "type": "ack" } }],
    });
    messages.insert("acknowledgement".to_owned(), acknowledgement);
    messages.into()
}

fn channel(address: &str, server: &str, title: &str, description: &str, suffix: &str) -> Value {
    let named = |name: String| {
        let component = reference("messages", &name);
        (name, component)
    };
    let messages: Map<_, _> =
        MESSAGES.iter().map(|message| named(format!("{}{suffix}", message.name))).collect();
    json!({
        "address": address,
        "title": title,
        "description": description,
        "servers": [{ "$ref": format!("#/servers/{server}") }],
        "parameters": {
            "session_id": { "description": "The session, as `POST /addons/sessions` names it." },
        },
        "messages": messages,
    })
}

/// The operation that sends every message of a channel.
fn telling(channel: &str, summary: &str, suffix: &str) -> Value {
    let sent = MESSAGES.iter().map(|message| {
        json!({ "$ref": format!("#/channels/{channel}/messages/{}{suffix}", message.name) })
    });
    json!({
        "action": "send",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "summary": summary,
        "messages": sent.collect::<Vec<_>>(),
    })
}

/// The AsyncAPI document.
pub fn document(public_url: &Url) -> Value {
    let codes = CLOSE_CODES.map(|(code, meaning)| format!("{code}: {meaning}")).join(" ");
    let mut websocket = channel(
        SESSION_WEBSOCKET,
        "websocket",
        "WebSocket",
        &format!(
            "Subprotocol `{SUBPROTOCOL}`. A bound session is read with the session token as a second \
             subprotocol, `bearer.<session_token>`, as a bearer token, or by the cookie that its \
             creation has set. One message, then the relay closes; a reader of a token acknowledges \
             first. Pings keep it alive. Close codes: {codes}"
        ),
        "Message",
    );
    websocket["messages"]["acknowledgement"] = reference("messages", "acknowledgement");
    websocket["bindings"] = json!({ "ws": {
        "method": "GET",
        "headers": {
            "type": "object",
            "required": ["Sec-WebSocket-Protocol"],
            "properties": { "Sec-WebSocket-Protocol": { "type": "string", "description": format!("`{SUBPROTOCOL}`, and `bearer.<session_token>` for a bound session.") } },
        },
    } });
    let events = channel(
        SESSION_EVENTS,
        "events",
        "Server-sent events",
        &format!(
            "`text/event-stream` (WHATWG HTML, 9.2). `retry` comes first, a comment is a sign of \
             life, one event ends the stream. A bound session is read with the session token as a \
             bearer token, or by the cookie that its creation has set. To come back with \
             `Last-Event-ID: {LAST_EVENT_ID}` says that the event has arrived; the answer is 204."
        ),
        "Event",
    );
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "token-relay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a waiting add-in is told, by event stream or WebSocket. The calls around it are in openapi.json. The meet-compatible surface, where it is on, tells the same at `/api/v1.0/addons/sessions/events/` and `/ws/`, to the session's cookie and CSRF token.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": "application/json",
        "servers": {
            "events": server(public_url, "http", "Event streams."),
            "websocket": server(public_url, "ws", "WebSockets."),
        },
        "channels": { "events": events, "websocket": websocket },
        "operations": {
            "tellByEvent": telling("events", "Tells how the sign-in ended.", "Event"),
            "tellByWebSocket": telling("websocket", "Tells how the sign-in ended.", "Message"),
            "receiveAcknowledgement": {
                "action": "receive",
                "channel": { "$ref": "#/channels/websocket" },
                "summary": "Hears that the token has arrived.",
                "messages": [{ "$ref": "#/channels/websocket/messages/acknowledgement" }],
            },
        },
        "components": { "messages": messages(), "schemas": schemas() },
    })
}

/// `GET /asyncapi.json`.
pub async fn asyncapi(State(app): State<AppState>) -> Response {
    let headers = [("cache-control", "public, max-age=300"), ("access-control-allow-origin", "*")];
    (headers, Json(document(&app.public_url))).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{http::addons::streams::StreamMessage, session::Failure};

    fn described(url: &str) -> Value {
        document(&Url::parse(url).unwrap())
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = described("https://relay.example/");
        let text = document.to_string();
        let mut count = 0;
        for rest in text.split("\"$ref\":\"").skip(1) {
            let pointer = &rest[1..rest.find('"').unwrap()];
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            count += 1;
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn servers_follow_the_public_url() {
        let servers = &described("https://relay.example/base/")["servers"];
        assert_eq!(servers["events"]["host"], "relay.example");
        assert_eq!(servers["events"]["protocol"], "https");
        assert_eq!(servers["events"]["pathname"], "/base");
        assert_eq!(servers["websocket"]["protocol"], "wss");
        let servers = &described("http://127.0.0.1:8080/")["servers"];
        assert_eq!(servers["websocket"]["host"], "127.0.0.1:8080");
        assert_eq!(servers["websocket"]["protocol"], "ws");
        assert!(servers["events"].get("pathname").is_none());
    }

    #[test]
    fn a_message_has_the_members_that_are_described() {
        let schemas = described("http://127.0.0.1/")["components"]["schemas"].clone();
        for (told, schema) in [
            (StreamMessage::Failed(Failure::new("access_denied", "No.")), "Failed"),
            (StreamMessage::Expired, "Expired"),
        ] {
            let names =
                |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            let plain: Value = serde_json::from_str(&told.to_json(false)).unwrap();
            assert_eq!(names(&plain), names(&schemas[schema]["properties"]));
            let tagged: Value = serde_json::from_str(&told.to_json(true)).unwrap();
            let tag = &schemas[format!("{schema}Message")]["allOf"][1]["properties"]["type"];
            assert_eq!(tag["enum"][0], tagged["type"]);
        }
    }

    #[test]
    fn close_codes_are_listed_once_and_in_order() {
        assert!(CLOSE_CODES.is_sorted_by(|(left, _), (right, _)| left < right));
    }
}
