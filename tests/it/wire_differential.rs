//! Same bytes, same answer: generated requests are sent as the first and as a later request of a
//! connection. The first one may take the SSE fast path, the later one goes through hyper.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

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
const CASES: [(Transport, u32); 2] = [(Transport::Tcp, 800), (Transport::Tls, 160)];

/// Cases that are tried at the same time.
const PARALLEL: u32 = 4;

/// An origin that may read the relay's answers.
const ALLOWED_ORIGIN: &str = "https://add-in.example";

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
    async fn answer(&self, relay: &Relay, mut wire: Wire, pause: Duration) -> (String, bool) {
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
        for cut in cuts {
            // It may be refused before all of it is sent.
            let _ = wire.send(&bytes[start..cut]).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            start = cut;
        }
        if self.half_close {
            let _ = wire.try_finish().await;
        }
        let (bytes, ended) = wire.quiet(pause).await;
        (normal(&String::from_utf8_lossy(&bytes)), ended)
    }
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

/// An answer without what differs from one to the next: times, random pauses, heartbeats, names
/// and IDs made of a session's, the order of the fields.
fn normal(answer: &str) -> String {
    let answer = answer.replace("3\r\n:\n\n\r\n", "");
    let (mut normal, mut head) = (Vec::new(), None::<Vec<String>>);
    for line in answer.split("\r\n") {
        match &mut head {
            _ if line.starts_with("HTTP/1.") => {
                normal.push(line.to_owned());
                head = Some(Vec::new());
            }
            Some(fields) if line.is_empty() => {
                fields.sort();
                normal.append(fields);
                head = None;
                normal.push(String::new());
            }
            Some(_) if line.to_lowercase().starts_with("date:") => {}
            Some(fields) if line.starts_with("set-cookie: token-relay-reader-") => {
                fields.push("set-cookie: reader".to_owned());
            }
            Some(fields) => fields.push(line.to_owned()),
            None if line.starts_with("retry: ") || line.starts_with("event: ") => {
                normal.push(without_random(line));
            }
            None => normal.push(line.replace(":\n\n", "")),
        }
    }
    normal.join("\n")
}

/// The lines of an event stream that are the same for every session.
fn without_random(stream: &str) -> String {
    let same = |line: &&str| !line.starts_with("id: ") && !line.starts_with("retry: ");
    stream.lines().filter(same).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_first_request_of_a_connection_is_answered_as_a_later_one() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (transport, cases) in CASES {
        let settings = [
            ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000"),
            ("TOKEN_RELAY_ALLOWED_ORIGINS", ALLOWED_ORIGIN),
        ];
        let relay = runtime.block_on(async { Relay::start(transport, &settings) });
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
