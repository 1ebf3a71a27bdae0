//! WebSockets frame by frame (RFC 6455): handshake, closing codes, and what comes in several parts.

use serde_json::json;

use crate::support::{
    text,
    wire::{Relay, Transport, Wire},
};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const PROTOCOL: &str = "Sec-WebSocket-Protocol: token-relay.v1\r\n";

// Over HTTP/2, where the rest is said by pseudo-header fields (RFC 8441 §5).
const HTTP2_VERSION: (&str, &str) = ("sec-websocket-version", "13");
const HTTP2_PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "token-relay.v1");

fn path(session: &serde_json::Value) -> String {
    let url = reqwest::Url::parse(text(session, "websocket_url")).unwrap();
    url.path().to_owned()
}

async fn ask(wire: &mut Wire, path: &str, fields: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\n{fields}\r\n");
    wire.send(request.as_bytes()).await.unwrap();
}

/// A frame of a client, masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The next frame of the relay, as its first byte and its payload; `None` at the end.
async fn frame(wire: &mut Wire) -> Option<(u8, Vec<u8>)> {
    let head = wire.take(2).await?;
    let length = match head[1] {
        126 => {
            let length = wire.take(2).await?;
            usize::from(u16::from_be_bytes([length[0], length[1]]))
        }
        length => usize::from(length),
    };
    Some((head[0], wire.take(length).await?))
}

/// The code of the close frame that comes, after other frames.
async fn close_code(wire: &mut Wire) -> u16 {
    loop {
        let (first, payload) = frame(wire).await.expect("a close frame");
        if first == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

/// How a WebSocket is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As the first request of a connection.
    First,
    /// As a later one.
    Later,
    /// Over HTTP/2 (RFC 8441).
    Http2,
}

/// Every way over a transport.
fn ways(transport: Transport) -> &'static [Way] {
    match transport {
        Transport::Tcp => &[Way::First, Way::Later],
        Transport::Tls => &[Way::First, Way::Later, Way::Http2],
    }
}

async fn open(relay: &Relay, way: Way) -> (Wire, serde_json::Value) {
    let session = relay.create(None).await;
    let path = path(&session);
    let mut wire = match way {
        Way::First => relay.connect().await,
        Way::Later => relay.connect_used().await,
        Way::Http2 => {
            let fields = [HTTP2_VERSION, HTTP2_PROTOCOL];
            let (status, wire) = relay.connect_http2(&path, &fields).await;
            assert_eq!(status, 200);
            return (wire, session);
        }
    };
    ask(&mut wire, &path, &format!("{UPGRADE}{VERSION}{KEY}{PROTOCOL}")).await;
    let answer = wire.head().await.unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
    // The example of RFC 6455 §1.3.
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    (wire, session)
}

// Field case 12; RFC 6455 §4.2.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_opening_handshake_is_read_as_rfc_6455_writes_it() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let many = [("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000")];
        opening_handshakes(&Relay::start(transport, &many)).await;
    }
}

async fn opening_handshakes(relay: &Relay) {
    let all = format!("{UPGRADE}{VERSION}{KEY}{PROTOCOL}");
    let with = |part: &str, other: &str| all.replace(part, other);
    let two_lines = "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let mixed = "Connection: Keep-Alive, uPgRaDe\r\nUpgrade: h2c, WebSocket\r\n";
    for (fields, status) in [
        (all.clone(), 101),
        (with(UPGRADE, two_lines), 101),
        (with(UPGRADE, mixed), 101),
        (
            with(
                PROTOCOL,
                "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: token-relay.v1\r\n",
            ),
            101,
        ),
        (with(PROTOCOL, ""), 400),
        (with(UPGRADE, "Connection: keep-alive\r\nUpgrade: websocket\r\n"), 400),
        (with(UPGRADE, "Connection: Upgrade\r\nUpgrade: other\r\n"), 400),
        (with(UPGRADE, ""), 400),
        (with(KEY, ""), 400),
        (with(KEY, "Sec-WebSocket-Key: short\r\n"), 400),
        (with(KEY, &format!("{KEY}{KEY}")), 400),
        (with(VERSION, "Sec-WebSocket-Version: 8\r\n"), 426),
        (with(VERSION, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n"), 426),
        (with(VERSION, ""), 426),
        // A request that has a body, whose bytes are no frames (RFC 9110 §7.8).
        (with(PROTOCOL, &format!("{PROTOCOL}Content-Length: 0\r\n")), 101),
        (with(PROTOCOL, &format!("{PROTOCOL}Content-Length: 3\r\n")), 400),
        (with(PROTOCOL, &format!("{PROTOCOL}Transfer-Encoding: chunked\r\n")), 400),
    ] {
        for (name, mut wire) in relay.both().await {
            let session = relay.create(None).await;
            ask(&mut wire, &path(&session), &fields).await;
            let answer = wire.head().await.unwrap();
            assert_eq!(answer.status, status, "{name} {fields}");
            let version = (status == 426).then_some("13");
            assert_eq!(answer.field("sec-websocket-version"), version, "{name} {fields}");
        }
    }
}

// RFC 8441 §5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_version_and_the_subprotocol_count_as_over_http1() {
    let relay = Relay::start(Transport::Tls, &[]);
    let (version, protocol) = (HTTP2_VERSION, HTTP2_PROTOCOL);
    for (fields, status) in [
        (&[version, protocol][..], 200),
        (&[version, ("sec-websocket-protocol", "other"), protocol], 200),
        // There is no key, and one that is sent means nothing.
        (&[version, protocol, ("sec-websocket-key", "short")], 200),
        (&[version], 400),
        (&[version, ("sec-websocket-protocol", "other")], 400),
        (&[("sec-websocket-version", "8"), protocol], 426),
        (&[version, ("sec-websocket-version", "8"), protocol], 426),
        (&[protocol], 426),
    ] {
        let session = relay.create(None).await;
        let (answered, _) = relay.connect_http2(&path(&session), fields).await;
        assert_eq!(answered, status, "{fields:?}");
    }
    // It is no WebSocket elsewhere.
    let session = relay.create(None).await;
    let events = path(&session).replace("/ws", "/events");
    let (answered, _) = relay.connect_http2(&events, &[version, protocol]).await;
    assert_eq!(answered, 405);
}

// Field case 13; RFC 6455 §5.1, §5.2, §5.5, §7.4.1, §8.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_may_not_send_has_its_closing_code_before_and_after_the_token() {
    for transport in [Transport::Tcp, Transport::Tls] {
        what_a_client_may_not_send(transport).await;
    }
}

async fn what_a_client_may_not_send(transport: Transport) {
    let many = [("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000"), ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1")];
    let relay = Relay::start(transport, &many);
    let mut unmasked = masked(0x81, b"{}");
    unmasked.splice(1..6, [2]);
    let cases: [(&str, Vec<u8>, u16); 14] = [
        ("unmasked", unmasked, 1002),
        ("reserved bit", masked(0xc1, b"{}"), 1002),
        ("reserved opcode", masked(0x83, b"{}"), 1002),
        ("reserved control opcode", masked(0x8b, b""), 1002),
        ("ping of 126 bytes", masked(0x89, &[b'x'; 126]), 1002),
        ("fragmented ping", masked(0x09, b"x"), 1002),
        ("continuation of nothing", masked(0x80, b"x"), 1002),
        ("close of one byte", masked(0x88, b"x"), 1002),
        ("no UTF-8", masked(0x81, b"\xff\xfe"), 1007),
        ("binary", masked(0x82, b"x"), 1003),
        ("unknown text", masked(0x81, b"{}"), 1008),
        ("unknown type", masked(0x81, br#"{"type":"nack"}"#), 1008),
        ("too large", masked(0x81, &[b'x'; 1025]), 1009),
        ("far too large", masked(0x81, &[b'x'; 65_000]), 1009),
    ];
    for (name, bytes, code) in cases {
        for way in ways(transport) {
            let (mut wire, _) = open(&relay, *way).await;
            // It may be refused before all of it is sent.
            let _ = wire.send(&bytes).await;
            assert_eq!(close_code(&mut wire).await, code, "{transport:?} {way:?} {name}");
            // Then the connection ends in order, maybe before the client's part of it.
            let _ = wire.send(&masked(0x88, &code.to_be_bytes())).await;
            assert!(wire.rest().await.is_empty(), "{transport:?} {way:?} {name}");
        }
        let after = if transport == Transport::Tls { Way::Http2 } else { Way::First };
        let (mut wire, session) = open(&relay, after).await;
        let page = relay.browser().to_login(&session).await;
        assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
        let (first, token) = frame(&mut wire).await.unwrap();
        assert_eq!(first, 0x81);
        assert!(String::from_utf8(token).unwrap().contains("access_token"));
        let _ = wire.send(&bytes).await;
        assert_eq!(close_code(&mut wire).await, code, "{transport:?} after the token: {name}");
    }
}

// RFC 6455 §5.4, §5.5.2, §5.5.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_fragments_joined_and_a_close_echoed() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let relay = Relay::start(transport, &[]);
        for way in ways(transport) {
            let (mut wire, _) = open(&relay, *way).await;
            wire.send(&masked(0x89, b"hello")).await.unwrap();
            assert_eq!(frame(&mut wire).await.unwrap(), (0x8a, b"hello".to_vec()));
            // `{"type":"ack"}` in two parts with a ping between them; before the token it says
            // nothing.
            let parts =
                [masked(0x01, br#"{"type":"#), masked(0x89, b""), masked(0x80, br#""ack"}"#)];
            wire.send(&parts.concat()).await.unwrap();
            assert_eq!(frame(&mut wire).await.unwrap(), (0x8a, Vec::new()));
            wire.send(&masked(0x88, &1000_u16.to_be_bytes())).await.unwrap();
            assert_eq!(close_code(&mut wire).await, 1000);
            assert!(wire.rest().await.is_empty(), "{transport:?} {way:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_may_come_with_the_request_and_byte_by_byte() {
    for transport in [Transport::Tcp, Transport::Tls] {
        early_frames(&Relay::start(transport, &[])).await;
    }
}

async fn early_frames(relay: &Relay) {
    let session = relay.create(Some(json!({"bind": true}))).await;
    let mut wire = relay.connect().await;
    let protocol = format!(
        "Sec-WebSocket-Protocol: token-relay.v1, bearer.{}\r\n",
        text(&session, "session_token")
    );
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: relay\r\n{UPGRADE}{VERSION}{KEY}{protocol}\r\n",
        path(&session)
    )
    .into_bytes();
    request.extend(masked(0x89, b"early"));
    for byte in request {
        wire.send(&[byte]).await.unwrap();
    }
    assert_eq!(wire.head().await.unwrap().status, 101);
    assert_eq!(frame(&mut wire).await.unwrap(), (0x8a, b"early".to_vec()));
}
