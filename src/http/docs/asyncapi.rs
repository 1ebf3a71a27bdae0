//! The AsyncAPI 3.0 document: what a waiting client receives, derived from the types of the messages
//! and the channels of the transports.

use serde_json::{Map, Value, json};
use url::Url;
use utoipa::{PartialSchema as _, ToSchema};

use crate::{
    api::messages::{ClientMessage, Event},
    http::addons::streams::{CHANNELS, Channel, Protocol, credentials::SUBPROTOCOL},
};

/// A message that ends a stream.
pub struct Message {
    /// `event` of an event stream, `type` on a WebSocket.
    pub name: String,
    /// When it is sent.
    pub summary: String,
    schema: Value,
}

/// Every message: a variant of [`Event`] each.
pub fn messages() -> Vec<Message> {
    let event = serde_json::to_value(Event::schema()).unwrap_or_default();
    let variants = event["oneOf"].as_array().cloned().unwrap_or_default();
    let message = |schema: Value| {
        let state = find(&schema, "state")?["enum"][0].as_str()?.to_owned();
        let summary = schema["description"].as_str()?.to_owned();
        Some(Message { name: state, summary, schema })
    };
    variants.into_iter().filter_map(message).collect()
}

/// The schema of a property, which may be in one of several parts.
fn find<'a>(schema: &'a Value, property: &str) -> Option<&'a Value> {
    let parts = schema["allOf"].as_array().into_iter().flatten();
    parts.chain([schema]).find_map(|part| part["properties"].get(property))
}

/// Values of `error` in a failure, and their meanings.
pub const ERRORS: [(&str, &str); 6] = [
    ("access_denied", "The person refused, or the provider did."),
    ("server_error", "The sign-in could not be completed."),
    ("temporarily_unavailable", "The provider is unavailable."),
    ("cancelled", "The add-in ended the session."),
    ("superseded", "Another connection now reads this session."),
    ("transit_token_replayed", "The link was used twice. It may have leaked."),
];

/// A reference to a component.
fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// The server of a channel; AsyncAPI has the parts of the public URL apart.
fn server(public_url: &Url, channel: &Channel) -> Value {
    let scheme = match channel.protocol {
        Protocol::Http => "http",
        Protocol::WebSocket => "ws",
    };
    let scheme = if public_url.scheme() == "https" { format!("{scheme}s") } else { scheme.into() };
    let host = public_url.host_str().unwrap_or_default();
    let host = public_url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let path = public_url.path().trim_end_matches('/');
    let mut server = json!({ "host": host, "protocol": scheme, "description": channel.server });
    if !path.is_empty() {
        server["pathname"] = path.into();
    }
    server
}

/// Schemas of the messages and of what they refer to. A WebSocket has no `event` beside the data, so
/// there the data has a `type`.
fn schemas(messages: &[Message]) -> Value {
    let mut referenced = Vec::new();
    Event::schemas(&mut referenced);
    let mut schemas: Map<_, _> = referenced
        .into_iter()
        .filter_map(|(name, schema)| Some((name, serde_json::to_value(schema).ok()?)))
        .collect();
    let errors = ERRORS.map(|(error, meaning)| format!("`{error}`: {meaning}")).join(" ");
    if let Some(error) = schemas.get_mut("ErrorResponse") {
        error["properties"]["error"]["description"] =
            format!("{errors} Others come from the provider as they are (RFC 6749 §4.1.2.1).")
                .into();
    }
    for Message { name, schema, .. } in messages {
        schemas.insert(format!("{name}Event"), schema.clone());
        let tagged = json!({
            "type": "object",
            "required": ["type"],
            "properties": { "type": { "type": "string", "enum": [name] } },
        });
        let whole = json!({ "allOf": [reference("schemas", &format!("{name}Event")), tagged] });
        schemas.insert(format!("{name}Message"), whole);
    }
    let client = serde_json::to_value(ClientMessage::schema()).unwrap_or_default();
    schemas.insert(ClientMessage::name().into_owned(), client);
    schemas.into()
}

fn described(messages: &[Message]) -> Value {
    let mut described = Map::new();
    for Message { name, summary, .. } in messages {
        let event = json!({
            "name": name,
            "title": format!("Event `{name}`"),
            "summary": summary,
            "description": format!("`event: {name}`, an `id`, and `data`, which is this payload on one line."),
            "contentType": "application/json",
            "payload": reference("schemas", &format!("{name}Event")),
        });
        described.insert(format!("{name}Event"), event);
        let message = json!({
            "name": name,
            "title": format!("Message `{name}`"),
            "summary": summary,
            "contentType": "application/json",
            "payload": reference("schemas", &format!("{name}Message")),
        });
        described.insert(format!("{name}Message"), message);
    }
    let acknowledgement = json!({
        "name": "ack",
        "title": "Acknowledgement",
        "summary": "The token arrived; the relay deletes it.",
        "contentType": "application/json",
        "payload": reference("schemas", &ClientMessage::name()),
        "examples": [{ "payload": ClientMessage::Ack }],
    });
    described.insert("acknowledgement".to_owned(), acknowledgement);
    described.into()
}

/// A channel, and the operation that sends every message of it.
fn described_channel(channel: &Channel, messages: &[Message]) -> (Value, Value) {
    let Channel { name, path, title, .. } = channel;
    let suffix = if channel.tagged { "Message" } else { "Event" };
    let keys = messages.iter().map(|message| format!("{}{suffix}", message.name));
    let messages: Map<_, _> =
        keys.clone().map(|key| (key.clone(), reference("messages", &key))).collect();
    let mut described = json!({
        "address": path,
        "title": title,
        "description": (channel.description)(),
        "servers": [{ "$ref": format!("#/servers/{name}") }],
        "parameters": {
            "session_id": { "description": "The session, as `POST /addons/sessions` returned it." },
        },
        "messages": messages,
    });
    if channel.protocol == Protocol::WebSocket {
        described["messages"]["acknowledgement"] = reference("messages", "acknowledgement");
        described["bindings"] = json!({ "ws": {
            "method": "GET",
            "headers": {
                "type": "object",
                "required": ["Sec-WebSocket-Protocol"],
                "properties": { "Sec-WebSocket-Protocol": { "type": "string", "description": format!("`{SUBPROTOCOL}`, and `bearer.<session_token>` for a bound session.") } },
            },
        } });
    }
    let sent = keys.map(|key| json!({ "$ref": format!("#/channels/{name}/messages/{key}") }));
    let operation = json!({
        "action": "send",
        "channel": { "$ref": format!("#/channels/{name}") },
        "summary": "Sends the outcome of the sign-in.",
        "messages": sent.collect::<Vec<_>>(),
    });
    (described, operation)
}

/// The AsyncAPI document.
pub fn document(public_url: &Url) -> Value {
    let messages = messages();
    let (mut servers, mut channels, mut operations) = (Map::new(), Map::new(), Map::new());
    for channel in &CHANNELS {
        let (described, operation) = described_channel(channel, &messages);
        servers.insert(channel.name.to_owned(), server(public_url, channel));
        channels.insert(channel.name.to_owned(), described);
        operations.insert(channel.operation.to_owned(), operation);
    }
    let acknowledge = json!({
        "action": "receive",
        "channel": { "$ref": "#/channels/websocket" },
        "summary": "Receives the acknowledgement of the token.",
        "messages": [{ "$ref": "#/channels/websocket/messages/acknowledgement" }],
    });
    operations.insert("receiveAcknowledgement".to_owned(), acknowledge);
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "token-relay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages to a waiting add-in, by event stream or WebSocket. The other endpoints are in openapi.json. The meet-compatible surface, where it is on, sends the same at `/api/v1.0/addons/sessions/events/` and `/ws/`, to the session's cookie and CSRF token.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": channels,
        "operations": operations,
        "components": { "messages": described(&messages), "schemas": schemas(&messages) },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{http::addons::streams::StreamMessage, session::Failure};

    fn document_at(url: &str) -> Value {
        document(&Url::parse(url).unwrap())
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document_at("https://relay.example/");
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
        let servers = &document_at("https://relay.example/base/")["servers"];
        assert_eq!(servers["events"]["host"], "relay.example");
        assert_eq!(servers["events"]["protocol"], "https");
        assert_eq!(servers["events"]["pathname"], "/base");
        assert_eq!(servers["websocket"]["protocol"], "wss");
        let servers = &document_at("http://127.0.0.1:8080/")["servers"];
        assert_eq!(servers["websocket"]["host"], "127.0.0.1:8080");
        assert_eq!(servers["websocket"]["protocol"], "ws");
        assert!(servers["events"].get("pathname").is_none());
    }

    /// Names of the properties of a schema, with those of its parts.
    fn properties(schemas: &Value, schema: &Value) -> BTreeSet<String> {
        let reference = schema["$ref"].as_str().and_then(|text| text.rsplit('/').next());
        let own = schema["properties"].as_object().into_iter().flat_map(|all| all.keys().cloned());
        let parts = schema["allOf"].as_array().into_iter().flatten();
        parts
            .chain(reference.map(|name| &schemas[name]))
            .flat_map(|part| properties(schemas, part))
            .chain(own)
            .collect()
    }

    #[test]
    fn a_message_has_the_members_that_are_described() {
        let schemas = document_at("http://127.0.0.1/")["components"]["schemas"].clone();
        let messages: Vec<_> = messages().into_iter().map(|message| message.name).collect();
        assert_eq!(messages, ["authenticated", "failed", "expired"]);
        for (message, name) in [
            (StreamMessage::Failed(Failure::new("access_denied", "No.")), "failed"),
            (StreamMessage::Expired, "expired"),
        ] {
            let names =
                |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
            let event: Value = serde_json::from_str(&message.to_json(false)).unwrap();
            assert_eq!(names(&event), properties(&schemas, &schemas[format!("{name}Event")]));
            let tagged: Value = serde_json::from_str(&message.to_json(true)).unwrap();
            let schema = &schemas[format!("{name}Message")];
            assert_eq!(names(&tagged), properties(&schemas, schema));
            assert_eq!(schema["allOf"][1]["properties"]["type"]["enum"][0], tagged["type"]);
        }
    }
}
