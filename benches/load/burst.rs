//! Ends many logins at a steady rate while the service that is asked about each account may be slow, and
//! looks at clients that have nothing to do with them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    dialog::{Browser, exchange},
    link::Target,
    machine::{processor_time, resident},
    percentiles,
    place::{Place, Transport, create},
    stream::Stream,
    wire::{Wire, request},
};

/// Where the logins end.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Surface {
    /// `GET /addons/redirect`
    Native,
    /// `POST …/exchange/` with a login at the relay
    Meet,
    /// `POST …/exchange/` with the platform's cookies
    Platform,
}

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    target: String,
    #[arg(long, default_value = "native")]
    surface: Surface,
    /// Logins that end one after the other, before the burst
    #[arg(long, default_value_t = 500)]
    logins: usize,
    /// Logins a second in the burst
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Seconds of the burst
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// `http://ADDRESS` of `load neighbour`
    #[arg(long)]
    neighbour: Option<String>,
    /// The neighbour's delay in the burst, in milliseconds
    #[arg(long, default_value_t = 1_000)]
    delay: u64,
    /// Streams that wait and whose logins do not end
    #[arg(long, default_value_t = 500)]
    streams: usize,
    /// Whether logins on the native surface go on beside those on the other
    #[arg(long)]
    beside: bool,
    /// Server processes whose memory and time are counted
    #[arg(long, value_delimiter = ',')]
    processes: Vec<u32>,
}

/// The request that ends a login, and the place of its reader.
struct Login {
    last: Vec<u8>,
    place: Option<Place>,
}

async fn native(target: Target, wire: &mut Wire, browser: &Browser) -> Login {
    let place = create(wire, target, Transport::Sse, None).await;
    let last = browser.prepare(target, &place.end, None).await;
    Login { last, place: Some(place) }
}

async fn meet(target: Target, wire: &mut Wire, cookies: &str) -> Login {
    let init = request("POST", target, "/api/v1.0/addons/sessions/init/", &[], "");
    let answer = wire.ask(&init).await.expect("the relay answers");
    assert_eq!(answer.status, 201);
    let token = answer.json()["transit_token"].as_str().expect("a token").to_owned();
    Login { last: exchange(target, cookies, &token), place: None }
}

/// Prepares `count` logins up to their last request.
async fn prepare(arguments: &Arguments, surface: Surface, count: usize) -> Vec<Login> {
    const CONNECTIONS: usize = 8;
    let target = Target::of(&arguments.target);
    let cookies = match surface {
        Surface::Native => String::new(),
        Surface::Meet => Browser::new().log_in(target).await,
        Surface::Platform => {
            "meet_sessionid=bench; csrftoken=abcdefghijklmnopqrstuvwxyzABCDEF".to_owned()
        }
    };
    let shares = (0..CONNECTIONS).map(|share| {
        let cookies = &cookies;
        async move {
            let (mut wire, browser) = (Wire::new(target), Browser::new());
            let mut logins = Vec::new();
            for _ in (share..count).step_by(CONNECTIONS) {
                logins.push(match surface {
                    Surface::Native => native(target, &mut wire, &browser).await,
                    Surface::Meet | Surface::Platform => meet(target, &mut wire, cookies).await,
                });
            }
            logins
        }
    });
    let shares: Vec<Vec<Login>> = stream::iter(shares).buffered(CONNECTIONS).collect().await;
    shares.into_iter().flatten().collect()
}

/// Ends logins one after the other; gives the times of those that succeeded.
async fn one_by_one(target: Target, logins: &[Login], processes: &[u32]) -> Value {
    let mut wire = Wire::new(target);
    let before = processor_time(processes);
    let (mut times, mut failed) = (Vec::new(), 0);
    for login in logins {
        wire.connect().await.expect("a connection");
        let sent = Instant::now();
        match wire.ask(&login.last).await {
            Ok(answer) if answer.status < 400 => times.push(sent.elapsed().as_secs_f64() * 1e3),
            _ => failed += 1,
        }
    }
    let used = processor_time(processes) - before;
    let mut result = percentiles(times);
    result["failed"] = json!(failed);
    result["processor_us_each"] = json!(used.as_secs_f64() * 1e6 / logins.len().max(1) as f64);
    result
}

/// What the neighbour has counted since the last time. Sets its delay.
async fn counts(arguments: &Arguments, delay: u64) -> Value {
    let Some(url) = &arguments.neighbour else { return Value::Null };
    let target = Target::of(url);
    let question = request("GET", target, &format!("/counts?delay={delay}"), &[], "");
    Wire::new(target).ask(&question).await.expect("the neighbour answers").json()
}

/// Clients that are not concerned: their times, until `over`.
struct Others {
    over: tokio::sync::watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<(&'static str, Vec<f64>, usize)>>,
}

impl Others {
    /// Twenty creations a second, and where `logins` are given twenty of them.
    fn start(target: Target, logins: Vec<Login>) -> Self {
        let (over, watch) = tokio::sync::watch::channel(false);
        let json = ["content-type: application/json".to_owned()];
        let creation = request("POST", target, "/addons/sessions", &json, r#"{"bind":true}"#);
        let creations = std::iter::repeat(creation);
        let mut tasks = vec![tokio::spawn(ask(target, "creation", creations, watch.clone()))];
        if !logins.is_empty() {
            let requests = logins.into_iter().map(|login| login.last);
            tasks.push(tokio::spawn(ask(target, "login", requests, watch)));
        }
        Self { over, tasks }
    }

    async fn end(self) -> Value {
        let _ = self.over.send(true);
        let mut result = json!({});
        for task in self.tasks {
            let (name, times, failed) = task.await.expect("a client");
            result[name] = percentiles(times);
            result[name]["failed"] = json!(failed);
        }
        result
    }
}

async fn ask(
    target: Target,
    name: &'static str,
    requests: impl Iterator<Item = Vec<u8>>,
    over: tokio::sync::watch::Receiver<bool>,
) -> (&'static str, Vec<f64>, usize) {
    let mut wire = Wire::new(target);
    let (mut times, mut failed) = (Vec::new(), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for request in requests {
        ticks.tick().await;
        if *over.borrow() {
            break;
        }
        wire.connect().await.expect("a connection");
        let sent = Instant::now();
        match wire.ask(&request).await {
            Ok(answer) if answer.status < 400 => times.push(sent.elapsed().as_secs_f64() * 1e3),
            _ => failed += 1,
        }
    }
    (name, times, failed)
}

/// Streams whose sessions nobody ends.
struct Waiting {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<()>,
}

impl Waiting {
    async fn open(target: Target, count: usize) -> Self {
        let (report, ended) = mpsc::unbounded_channel();
        let (mut wire, mut tasks) = (Wire::new(target), Vec::new());
        for number in 0..count {
            let place = create(&mut wire, target, Transport::Sse, None).await;
            let opened = Stream::open(target, number, &place, Transport::Sse).await;
            let mut stream = opened.expect("a connection").expect("a stream");
            let report = report.clone();
            tasks.push(tokio::spawn(async move {
                while stream.next().await.is_ok_and(|(_, seen)| !seen.over && !seen.token) {}
                let _ = report.send(());
            }));
        }
        Self { tasks, ended }
    }

    /// How many of them have ended.
    fn dropped(mut self) -> usize {
        let mut dropped = 0;
        while self.ended.try_recv().is_ok() {
            dropped += 1;
        }
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        dropped
    }
}

/// Why a stream ended, in one word of its last event.
fn outcome(text: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(text);
    let names = ["temporarily_unavailable", "access_denied", "access_token"];
    names.into_iter().find(|name| text.contains(name)).unwrap_or("other")
}

/// The burst itself.
async fn burst(arguments: &Arguments, logins: Vec<Login>) -> Value {
    let target = Target::of(&arguments.target);
    let seen: Arc<Mutex<BTreeMap<&'static str, usize>>> = Arc::default();
    let mut readers = Vec::new();
    // Every fiftieth login has a reader.
    for (number, login) in logins.iter().enumerate().step_by(50) {
        let Some(place) = &login.place else { break };
        let opened = Stream::open(target, number, place, Transport::Sse).await;
        let mut stream = opened.expect("a connection").expect("a stream");
        let seen = Arc::clone(&seen);
        readers.push(tokio::spawn(async move {
            let what = loop {
                match stream.next().await {
                    Ok((_, event)) if event.token => break outcome(&event.text),
                    Ok((_, event)) if !event.over => {}
                    _ => break "dropped",
                }
            };
            *seen.lock().expect("a map").entry(what).or_default() += 1;
        }));
    }
    let wires: Arc<Mutex<Vec<Wire>>> = Arc::default();
    let start = Instant::now();
    let time_before = processor_time(&arguments.processes);
    let mut peak = resident(&arguments.processes);
    let before = peak;
    let mut asked = Vec::with_capacity(logins.len());
    let mut latest = Duration::ZERO;
    for (number, login) in logins.into_iter().enumerate() {
        let due = start + Duration::from_secs(1) * number as u32 / arguments.rate;
        sleep_until(due.into()).await;
        latest = latest.max(due.elapsed());
        if number % 100 == 0 {
            peak = peak.max(resident(&arguments.processes));
        }
        let wires = Arc::clone(&wires);
        asked.push(tokio::spawn(async move {
            let spare = wires.lock().expect("connections").pop();
            let mut wire = spare.unwrap_or_else(|| Wire::new(target));
            let sent = Instant::now();
            let answer = timeout(Duration::from_secs(30), wire.ask(&login.last)).await;
            let took = sent.elapsed().as_secs_f64() * 1e3;
            let status = answer.ok().and_then(Result::ok).map(|answer| answer.status);
            if status.is_some() {
                wires.lock().expect("connections").push(wire);
            }
            (status.unwrap_or(0), took)
        }));
    }
    let (mut succeeded, mut refused, mut other) = (Vec::new(), Vec::new(), 0);
    for task in asked {
        match task.await.expect("a login") {
            (200..400, took) => succeeded.push(took),
            (503, took) => refused.push(took),
            _ => other += 1,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    for reader in readers {
        let _ = timeout(Duration::from_secs(10), reader).await;
    }
    let used = processor_time(&arguments.processes) - time_before;
    json!({
        "seconds": seconds,
        "succeeded": percentiles(succeeded),
        "refused": percentiles(refused),
        "other": other,
        "streams": *seen.lock().expect("a map"),
        "latest_ms": latest.as_secs_f64() * 1e3,
        "resident_before": before,
        "peak_resident": peak,
        "processor_seconds": used.as_secs_f64(),
    })
}

pub async fn run(arguments: Arguments) -> Value {
    let target = Target::of(&arguments.target);
    let count = arguments.rate as usize * arguments.seconds as usize;
    let mut result = json!({});
    counts(&arguments, 0).await;
    let logins = prepare(&arguments, arguments.surface, arguments.logins).await;
    result["alone"] = one_by_one(target, &logins, &arguments.processes).await;
    result["alone"]["neighbour"] = counts(&arguments, 0).await;
    if count == 0 {
        return result;
    }
    let logins = prepare(&arguments, arguments.surface, count).await;
    let beside = async |seconds: u32| match arguments.beside {
        true => prepare(&arguments, Surface::Native, 20 * seconds as usize).await,
        false => Vec::new(),
    };
    let (quiet, loud) = (beside(5).await, beside(arguments.seconds + 10).await);
    let after = prepare(&arguments, arguments.surface, 100).await;
    let waiting = Waiting::open(target, arguments.streams).await;

    let others = Others::start(target, quiet);
    sleep(Duration::from_secs(4)).await;
    result["others_before"] = others.end().await;

    counts(&arguments, arguments.delay).await;
    let others = Others::start(target, loud);
    result["burst"] = burst(&arguments, logins).await;
    result["others"] = others.end().await;
    result["burst"]["neighbour"] = counts(&arguments, 0).await;
    result["after"] = one_by_one(target, &after, &arguments.processes).await;
    result["streams_open"] = json!(arguments.streams);
    result["dropped"] = json!(waiting.dropped());
    result
}
