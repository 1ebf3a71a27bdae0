//! Same bytes, same answer: requests are sent as the first and as a later request of a connection. The
//! first one may take the SSE fast path, the later one goes through hyper.
//!
//! [`variants`] lists requests for an event stream that differ from a plain one in one respect each;
//! [`case`] generates others at random.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use futures_util::{StreamExt as _, stream};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::support::{
    text,
    wire::{Relay, Transport, Wire},
};

/// Generated cases over each transport.
const CASES: [(Transport, u32); 2] = [(Transport::Tcp, 480), (Transport::Tls, 96)];

/// Generated cases that are tried at the same time.
const PARALLEL: u32 = 4;

/// Variants that are tried at the same time.
const PARALLEL_VARIANTS: usize = 24;

const SETTINGS: [(&str, &str); 2] = [
    ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000"),
    // It may read the relay's answers.
    ("TOKEN_RELAY_ALLOWED_ORIGINS", "https://add-in.example"),
];

/// Silence after which an answer counts as complete, and the same when in doubt.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(3)];

#[derive(Clone, Copy, Debug)]
enum Target {
    /// The event stream of a pending session.
    Events,
    /// With a query.
    EventsWithQuery,
    /// That of a session that has ended, with the ID of the event that said so.
    EventsAfterTheEnd,
    /// As an absolute URI.
    AbsoluteEvents,
    UnknownEvents,
    Poll,
    Healthz,
    Nowhere,
}

#[derive(Clone, Debug)]
struct Case {
    /// Whether the session has a session token.
    bound: bool,
    /// What comes before the request line.
    prelude: &'static str,
    method: &'static str,
    target: Target,
    version: &'static str,
    fields: Vec<String>,
    line_end: &'static str,
    /// What ends the head.
    blank: &'static str,
    body: &'static str,
    pipelined: Option<&'static str>,
    /// Where the bytes are cut, in thousandths.
    cuts: Vec<usize>,
    half_close: bool,
}

fn field() -> impl Strategy<Value = String> {
    let fixed = [
        "Host: relay",
        "Connection: close",
        "Connection: keep-alive",
        "Connection: keep-alive, close",
        "Connection: Upgrade",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Content-Length: 0",
        "Content-Length: 3",
        "Accept: text/event-stream",
        "Accept: */*",
        "Authorization: Bearer {session_token}",
        "Authorization: Bearer {session_token}",
        "Authorization: Bearer wrong",
        "Authorization: Basic wrong",
        "Cookie: a=b; c=d",
        "Origin: https://evil.example",
        "Origin: https://add-in.example",
        "Last-Event-ID: 7",
        "Sec-Fetch-Mode: cors",
        "Host: other.example:8080",
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket",
        "Cookie: a=b\r\nCookie: c=d",
        "Sec-Fetch-Site: cross-site\r\nOrigin: null",
        "X-Forwarded-For: 203.0.113.7",
        "Content-Encoding: gzip",
        "TE: trailers",
        "X-Empty:",
        "X-Folded: a",
    ];
    let malformed = [
        "Host: other",
        "host:relay",
        "Host: a@b",
        "Host: a:x",
        "Host : relay",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "X-Nul: \0",
        "X-Return: a\rb",
        "Ho st: relay",
        "Content-Length: x",
        "Content-Length: +3",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, chunked",
        "Expect: something",
        "Authorization: Bearer a\r\nAuthorization: Bearer b",
        " folded",
        "no colon",
    ];
    prop_oneof![
        1 => proptest::sample::select(malformed.to_vec()).prop_map(str::to_owned),
        9 => proptest::sample::select(fixed.to_vec()).prop_map(str::to_owned),
        1 => "[A-Za-z-]{1,20}".prop_flat_map(|name| {
            "[ -~]{0,200}".prop_map(move |value| format!("X-{name}: {value}"))
        }),
        1 => "[ -~\u{e9}\t]{0,30}".prop_map(|text| format!("X-Any: {text}")),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let target = prop_oneof![
        8 => Just(Target::Events),
        1 => Just(Target::EventsWithQuery),
        1 => Just(Target::EventsAfterTheEnd),
        2 => Just(Target::AbsoluteEvents),
        3 => Just(Target::UnknownEvents),
        1 => Just(Target::Poll),
        1 => Just(Target::Healthz),
        1 => Just(Target::Nowhere),
    ];
    let method = prop_oneof![
        24 => Just("GET"), 2 => Just("HEAD"), 2 => Just("POST"), 1 => Just("get"), 1 => Just("PUT"),
        1 => Just("DELETE"), 1 => Just("OPTIONS"), 1 => Just("GET "),
    ];
    let prelude = prop_oneof![40 => Just(""), 1 => Just("\r\n"), 1 => Just("\n"), 1 => Just(" ")];
    let version = prop_oneof![8 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => Just("HTTP/1.2")];
    let fields = (proptest::bool::weighted(0.9), proptest::collection::vec(field(), 0..5));
    let fields = fields.prop_map(|(host, mut fields)| {
        // Most requests are well-formed so far.
        if host {
            fields.insert(0, "Host: relay".to_owned());
        }
        fields
    });
    let line_end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let blank =
        prop_oneof![20 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r\r\n"), 1 => Just("")];
    let body = prop_oneof![10 => Just(""), 1 => Just("abc"), 1 => Just("3\r\nabc\r\n0\r\n\r\n")];
    let pipelined = proptest::option::weighted(
        0.3,
        proptest::sample::select(vec![
            "GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n",
            "GET /addons/sessions/x/events HTTP/1.1\r\nHost: relay\r\n\r\n",
            "GET / HTTP/1.1\r\n",
            "HEAD /healthz HTTP/1.1\r\nHost: relay\r\n\r\nGET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n",
            "POST /nowhere HTTP/1.1\r\nHost: relay\r\nContent-Length: 3\r\n\r\nabc",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\u{16}\u{3}\u{1}",
            "\r\n",
        ]),
    );
    let cuts = proptest::collection::vec(0_usize..1000, 0..4);
    let line = (any::<bool>(), prelude, method, target, version);
    (line, fields, (line_end, blank), body, pipelined, cuts, any::<bool>()).prop_map(
        |(line, fields, (line_end, blank), body, pipelined, cuts, half_close)| {
            let (bound, prelude, method, target, version) = line;
            Case {
                bound,
                prelude,
                method,
                target,
                version,
                fields,
                line_end,
                blank,
                body,
                pipelined,
                cuts,
                half_close,
            }
        },
    )
}

impl Case {
    fn bytes(&self, session: &Value, last_event: &str) -> Vec<u8> {
        let session_token = session["session_token"].as_str().unwrap_or("none");
        let session = text(session, "session_id");
        let path = match self.target {
            Target::Events => format!("/addons/sessions/{session}/events"),
            Target::EventsWithQuery => format!("/addons/sessions/{session}/events?_=1"),
            Target::EventsAfterTheEnd => {
                format!("/addons/sessions/{session}/events?lastEventId={last_event}")
            }
            Target::AbsoluteEvents => format!("http://relay/addons/sessions/{session}/events"),
            Target::UnknownEvents => "/addons/sessions/unknown/events".to_owned(),
            Target::Poll => format!("/addons/sessions/{session}"),
            Target::Healthz => "/healthz".to_owned(),
            Target::Nowhere => "/nowhere/events".to_owned(),
        };
        let end = self.line_end;
        let mut request = format!("{}{} {path} {}{end}", self.prelude, self.method, self.version);
        for field in &self.fields {
            // Wrong session tokens are limited for all connections together.
            if self.bound && field.contains("Bearer") && !field.contains("{session_token}") {
                continue;
            }
            request.push_str(&field.replace("{session_token}", session_token));
            request.push_str(end);
        }
        request.push_str(self.blank);
        request.push_str(self.body);
        request.push_str(self.pipelined.unwrap_or_default());
        request.into_bytes()
    }

    /// What is answered, and whether the connection has ended.
    async fn answer(&self, relay: &Relay, wire: Wire, pause: Duration) -> (String, bool) {
        let session = relay.create(self.bound.then(|| json!({"bind": true}))).await;
        let last_event = match self.target {
            Target::EventsAfterTheEnd => ended(relay, &session).await,
            _ => String::new(),
        };
        let bytes = self.bytes(&session, &last_event);
        let mut cuts: Vec<_> = self.cuts.iter().map(|cut| cut * bytes.len() / 1000).collect();
        if self.blank != self.line_end {
            // hyper parses such a head when it comes whole, and waits for more of one that comes in
            // parts; which of them it sees is a matter of time.
            cuts.clear();
        }
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut start = 0;
        let parts = cuts.into_iter().map(|cut| {
            let part = bytes[start..cut].to_vec();
            start = cut;
            part
        });
        let parts: Vec<_> = parts.collect();
        exchange(wire, &parts, Duration::from_millis(2), self.half_close, pause).await
    }
}

/// Sends the parts with a `gap` after each. What is answered until there is silence for `pause`, and
/// whether the connection has ended.
async fn exchange(
    mut wire: Wire,
    parts: &[Vec<u8>],
    gap: Duration,
    half_close: bool,
    pause: Duration,
) -> (String, bool) {
    for part in parts {
        // It may be refused before all of it is sent.
        let _ = wire.send(part).await;
        tokio::time::sleep(gap).await;
    }
    if half_close {
        let _ = wire.try_finish().await;
    }
    let (bytes, ended) = wire.quiet(pause).await;
    (normal(&String::from_utf8_lossy(&bytes)), ended)
}

/// Ends a session; the ID of the event that says so.
async fn ended(relay: &Relay, session: &Value) -> String {
    let token = session["session_token"].as_str().unwrap_or_default();
    let authorized = |request: reqwest::RequestBuilder| match token {
        "" => request,
        token => request.bearer_auth(token),
    };
    let delete = authorized(relay.client().delete(text(session, "poll_url")));
    assert_eq!(delete.send().await.unwrap().status(), 204);
    let events = authorized(relay.client().get(text(session, "events_url")));
    let events = events.send().await.unwrap().text().await.unwrap();
    let id = events.lines().find_map(|line| line.strip_prefix("id: "));
    id.unwrap_or_else(|| panic!("no ID in {events}")).to_owned()
}

/// Answers without what differs from one to the next: times, random pauses, heartbeats, names and IDs
/// made of a session's, the order of the fields.
fn normal(answers: &str) -> String {
    let answers = answers.replace("3\r\n:\n\n\r\n", "");
    let (mut normal, mut rest) = (Vec::new(), &*answers);
    while let Some((head, body)) = rest.split_once("\r\n\r\n") {
        if !head.starts_with("HTTP/1.") {
            break;
        }
        let (status, fields) = head.split_once("\r\n").unwrap_or((head, ""));
        let fields = fields.lines().filter(|line| !line.starts_with("date:"));
        let mut fields: Vec<_> = fields
            .map(|line| match line.split_once("token-relay-reader-") {
                Some((before, _)) => before,
                None => line,
            })
            .collect();
        fields.sort_unstable();
        let length = fields.iter().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        // There is no body after HEAD.
        let length = if body.starts_with("HTTP/1.") { 0 } else { length.min(body.len()) };
        normal.push(status.to_owned());
        normal.extend(fields.into_iter().map(str::to_owned));
        normal.push(format!("\n{}", &body[..length]));
        rest = &body[length..];
    }
    let stream = rest.split("\r\n").map(without_random);
    normal.push(stream.collect::<Vec<_>>().join("\n"));
    normal.join("\n")
}

/// The lines of an event stream that are the same for every session.
fn without_random(stream: &str) -> String {
    let same = |line: &&str| {
        !line.is_empty()
            && !line.starts_with("id: ")
            && !line.starts_with("retry: ")
            && *line != ":"
    };
    stream.lines().filter(same).collect::<Vec<_>>().join("\n")
}

/// The session that a variant asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Pending, without a session token.
    Legacy,
    /// Pending, with a session token.
    Bound,
    /// Cancelled.
    Ended,
}

/// A request for an event stream that differs from a plain one in one respect, in the parts in which
/// it is sent. `{id}`, `{token}`, `{cookie}` and `{end}` stand for what belongs to its session.
#[derive(Clone, Debug)]
struct Variant {
    kind: Kind,
    parts: Vec<String>,
    half_close: bool,
}

const EVENTS: &str = "/addons/sessions/{id}/events";
const UNKNOWN: &str = "/addons/sessions/unknown/events";
const AUTHORIZED: &str = "Authorization: Bearer {token}\r\n";
const NEXT: &str = "GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n";

/// Requests that are answered with a stream, a stream, 401, 404 and 204.
const ANSWERS: [(Kind, &str, &str); 5] = [
    (Kind::Legacy, EVENTS, ""),
    (Kind::Bound, EVENTS, AUTHORIZED),
    (Kind::Bound, EVENTS, ""),
    (Kind::Legacy, UNKNOWN, ""),
    (Kind::Ended, EVENTS, "Last-Event-ID: {end}\r\n"),
];

/// What a plain request has not: fields that a handler reads, that concern the body or the connection,
/// that are malformed.
const FIELDS: [&str; 54] = [
    "Origin: https://add-in.example",
    "Origin: https://evil.example",
    "Origin: null",
    "Cookie: {cookie}",
    "Cookie: {cookie}\r\nOrigin: https://add-in.example",
    "Cookie: {cookie}\r\nOrigin: https://evil.example",
    "Cookie: a=b\r\nCookie: {cookie}",
    "Cookie: {cookie}\r\nCookie: a=b",
    "Cookie: a=b; {cookie}; {cookie}",
    "Sec-WebSocket-Protocol: token-relay.v1, bearer.{token}",
    "authorization:bearer {token}",
    "AUTHORIZATION: \t Bearer {token} ",
    "Authorization: Bearer {token}\r\nAuthorization: Bearer {token}",
    "Authorization: Basic e30=",
    "Last-Event-ID: {end}",
    "Last-Event-ID: 7",
    "Accept: text/html",
    "Accept-Encoding: gzip, br",
    "Range: bytes=0-3",
    "If-None-Match: *",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Host: relay",
    "Host: other",
    "Expect: 100-continue",
    "Expect: other",
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: x",
    "Content-Length: -1",
    "Content-Length: 3\r\nContent-Length: 4",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Content-Encoding: gzip",
    "Content-Type: application/json",
    "X-Forwarded-For: 203.0.113.7",
    "Sec-Fetch-Site: cross-site",
    "Sec-Purpose: prefetch",
    "Origin: https://add-in.example\r\nAccess-Control-Request-Method: GET",
    "X: \t a \t ",
    "X: a\rb",
    "X: a\0b",
    "X: \u{e9}",
    "X : a",
    " X: a",
    "X: a\r\n folded",
    "no colon",
    ": a",
    "X:",
];

/// Other request lines, whose `{}` is the plain target.
const REQUEST_LINES: [&str; 36] = [
    "HEAD {} HTTP/1.1",
    "get {} HTTP/1.1",
    "POST {} HTTP/1.1",
    "OPTIONS {} HTTP/1.1",
    "DELETE {} HTTP/1.1",
    "GETS {} HTTP/1.1",
    "PRI {} HTTP/1.1",
    "GET {} HTTP/1.0",
    "GET {} HTTP/1.2",
    "GET {} HTTP/2.0",
    "GET {} http/1.1",
    "GET {} HTTP/1.1 ",
    "GET {}",
    "GET {} ",
    "GET  {} HTTP/1.1",
    "GET {}  HTTP/1.1",
    "GET\t{} HTTP/1.1",
    " GET {} HTTP/1.1",
    "GET {}/ HTTP/1.1",
    "GET {}? HTTP/1.1",
    "GET {}?_=1 HTTP/1.1",
    "GET {}?lastEventId={end} HTTP/1.1",
    "GET {}?a=/events HTTP/1.1",
    "GET {}?% HTTP/1.1",
    "GET {}?\u{e9} HTTP/1.1",
    "GET {}#fragment HTTP/1.1",
    "GET {}%20 HTTP/1.1",
    "GET {}\u{e9} HTTP/1.1",
    "GET http://relay{} HTTP/1.1",
    "GET http://other{} HTTP/1.1",
    "GET http://a@relay{} HTTP/1.1",
    "GET ftp://relay{} HTTP/1.1",
    "GET //relay{} HTTP/1.1",
    "GET /x/..{} HTTP/1.1",
    "GET {}|events HTTP/1.1",
    "GET /events HTTP/1.1",
];

fn plain(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: relay\r\n{fields}\r\n")
}

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    let mut add = |kind, parts: &[&str], half_close| {
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        all.push(Variant { kind, parts, half_close });
    };
    for (kind, target, own) in ANSWERS {
        let head = plain(target, own);
        for fields in FIELDS {
            add(kind, &[&plain(target, &format!("{own}{fields}\r\n"))], false);
        }
        // More than the request: another, or bytes that are none, at once or later.
        let noise = ["x".repeat(900), "x".repeat(3000)];
        let requests = NEXT.repeat(60);
        for more in
            [NEXT, "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &requests, &noise[0], &noise[1]]
        {
            for half_close in [false, true] {
                add(kind, &[&format!("{head}{more}")], half_close);
                add(kind, &[&head, more], half_close);
            }
        }
        // A body, at once, later, in part.
        let long = "x".repeat(3000);
        let chunked = format!("BB8\r\n{long}\r\n0\r\n\r\n");
        let length = |body: &str| format!("Content-Length: {}", body.len());
        for (field, body) in [
            (length("abc"), "abc"),
            (length(&long), &*long),
            ("Transfer-Encoding: chunked".to_owned(), &*chunked),
            (format!("Expect: 100-continue\r\n{}", length(&long)), &*long),
            (format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{}", length(&long)), &*long),
        ] {
            let head = plain(target, &format!("{own}{field}\r\n"));
            add(kind, &[&format!("{head}{body}{NEXT}")], false);
            add(kind, &[&head, body, NEXT], false);
            add(kind, &[&head, &body[..body.len() / 2]], false);
            add(kind, &[&head, &body[..body.len() / 2]], true);
        }
        // Connections that were lost before the end of the head.
        for part in [0, 1, 20, head.len() - 3, head.len() - 1] {
            add(kind, &[&head[..part]], true);
            add(kind, &[&head[..part]], false);
        }
        add(kind, &[&head], true);
        // As many as are allowed, and one more.
        for count in [99, 100, 101, 120] {
            let own_count = 1 + own.lines().count();
            let fields: String = (own_count..count).map(|it| format!("x-{it}: y\r\n")).collect();
            add(kind, &[&plain(target, &format!("{own}{fields}"))], false);
        }
        for (start, rest) in (1..10).map(|tenths| head.split_at(head.len() * tenths / 10)) {
            add(kind, &[start, rest], false);
        }
    }
    let (kind, target) = (Kind::Legacy, EVENTS);
    for line in REQUEST_LINES {
        let line = line.replace("{}", target);
        add(kind, &[&format!("{line}\r\nHost: relay\r\n\r\n")], false);
        for more in ["", NEXT] {
            add(Kind::Ended, &[&format!("{line}\r\nHost: relay\r\n\r\n{more}")], false);
        }
    }
    for host in ["", "Host:\r\n", "Host: a@b\r\n", "Host: a:x\r\n", "host:relay:80\r\n"] {
        add(kind, &[&format!("GET {target} HTTP/1.1\r\n{host}\r\n")], false);
    }
    // Line ends: whole, in lines, and cut within the last one.
    for line_end in ["\r\n", "\n", "\r\r\n", "\r"] {
        for blank in ["\r\n", "\n", "\r\r\n", "\n\r\n", "\r", ""] {
            let lines =
                [format!("GET {target} HTTP/1.1{line_end}"), format!("Host: relay{line_end}")];
            let [first, second] = &lines;
            for more in ["", NEXT] {
                add(kind, &[&format!("{first}{second}{blank}{more}")], false);
                add(kind, &[first, second, &format!("{blank}{more}")], false);
            }
            let whole = format!("{first}{second}{blank}");
            let (start, last) = whole.split_at(whole.len() - 1);
            add(kind, &[start, last], false);
        }
    }
    for before in ["\r\n", "\n", "\r\n\r\n", "\r", " ", "\0"] {
        let head = plain(target, "");
        add(kind, &[&format!("{before}{head}")], false);
        add(kind, &[before, &head], false);
    }
    // Heads at the limits, at once and in parts.
    for length in [16_384, 16_385, 20_000, 24_575, 24_576, 24_577, 30_000] {
        let value = "y".repeat(length - plain(target, "X: \r\n").len() - 39);
        let head = plain(target, &format!("X: {value}\r\n"));
        add(kind, &[&head], false);
        let (start, rest) = head.split_at(head.len() / 2);
        add(kind, &[start, rest], false);
        add(kind, &[&head[..head.len() - 1], "\n"], false);
    }
    all
}

impl Variant {
    async fn answer(&self, relay: &Relay, wire: Wire, pause: Duration) -> (String, bool) {
        let body = (self.kind != Kind::Legacy).then(|| json!({"bind": true}));
        let created = relay.create_answer(body).await;
        let cookies = created.headers().get_all("set-cookie").into_iter();
        let mut cookies = cookies.filter_map(|cookie| cookie.to_str().unwrap().split(';').next());
        let cookie = cookies.find(|cookie| cookie.contains("token-relay-reader-"));
        let cookie = cookie.unwrap_or("none=").to_owned();
        let session: Value = created.json().await.unwrap();
        let end = match self.kind {
            Kind::Ended => ended(relay, &session).await,
            _ => "none".to_owned(),
        };
        let parts = self.parts.iter().map(|part| {
            part.replace("{id}", text(&session, "session_id"))
                .replace("{token}", session["session_token"].as_str().unwrap_or("none"))
                .replace("{cookie}", &cookie)
                .replace("{end}", &end)
                .into_bytes()
        });
        let parts: Vec<_> = parts.collect();
        // Long enough for each part to be read on its own.
        exchange(wire, &parts, pause / 4, self.half_close, pause).await
    }

    /// Compares the answers; the status line, or both answers where they differ.
    async fn compare(&self, relay: &Relay) -> Result<String, String> {
        let mut differing = String::new();
        for pause in PAUSES {
            let (first, later) =
                (relay.connect_from_elsewhere().await, relay.connect_from_elsewhere());
            let later = Relay::used(later.await).await;
            let (first, later) =
                tokio::join!(self.answer(relay, first, pause), self.answer(relay, later, pause));
            if first == later {
                return Ok(first.0.lines().next().unwrap_or("none").to_owned());
            }
            differing = format!("{self:?}\nfirst: {first:#?}\nlater: {later:#?}");
        }
        Err(differing)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_in_one_respect_from_a_request_for_a_stream_is_answered_as_a_later_one() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let relay = Relay::start(transport, &SETTINGS);
        // Over TLS some of them.
        let step = if transport == Transport::Tcp { 1 } else { 4 };
        let variants: Vec<_> = variants().into_iter().step_by(step).collect();
        let count = variants.len();
        let answers = stream::iter(variants.iter().map(|variant| variant.compare(&relay)));
        let answers: Vec<_> = answers.buffer_unordered(PARALLEL_VARIANTS).collect().await;
        let mut statuses = BTreeMap::<String, u32>::new();
        let mut differing = Vec::new();
        for answer in answers {
            match answer {
                Ok(status) => *statuses.entry(status).or_default() += 1,
                Err(answers) => differing.push(answers),
            }
        }
        println!("{transport:?}, {count} variants: {statuses:?}");
        assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n\n"));
        if step > 1 {
            continue;
        }
        for status in [
            "200 OK",
            "204 No Content",
            "400 Bad Request",
            "401 Unauthorized",
            "403 Forbidden",
            "404 Not Found",
            "431 Request Header Fields Too Large",
            "501 Not Implemented",
        ] {
            let status = format!("HTTP/1.1 {status}");
            assert!(statuses.contains_key(&status), "no variant ends with {status}");
        }
    }
}

#[test]
fn the_first_request_of_a_connection_is_answered_as_a_later_one() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (transport, cases) in CASES {
        let relay = runtime.block_on(async { Relay::start(transport, &SETTINGS) });
        let statuses = Mutex::new(BTreeMap::new());
        // Most of the time is silence.
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| compare(&runtime, &relay, cases / PARALLEL, &statuses));
            }
        });
        let statuses = statuses.into_inner().unwrap();
        println!("{transport:?}, {cases} cases: {statuses:?}");
        for status in ["HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request", "HTTP/1.1 404 Not Found"] {
            assert!(statuses.contains_key(status), "no case ends with {status}");
        }
    }
}

/// Compares generated cases; counts the status lines.
fn compare(
    runtime: &tokio::runtime::Runtime,
    relay: &Relay,
    cases: u32,
    statuses: &Mutex<BTreeMap<String, u32>>,
) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let compare = |case: Case| {
        runtime.block_on(async {
            let mut answers = Vec::new();
            for pause in PAUSES {
                let (first, later) = tokio::join!(
                    async { case.answer(relay, relay.connect_from_elsewhere().await, pause).await },
                    async {
                        case.answer(
                            relay,
                            Relay::used(relay.connect_from_elsewhere().await).await,
                            pause,
                        )
                        .await
                    },
                );
                if first == later {
                    let status = first.0.lines().next().unwrap_or("none").to_owned();
                    *statuses.lock().unwrap().entry(status).or_default() += 1;
                    return Ok(());
                }
                answers = vec![first, later];
            }
            Err(TestCaseError::fail(format!("{answers:#?}")))
        })
    };
    TestRunner::new(config).run(&case(), compare).unwrap_or_else(|error| panic!("{error}"));
}
