//! Opens streams, holds them, ends some of their sessions.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::{
    ending::{Ender, Way},
    link::{Shared, Target},
    machine::{Kernel, processor_time, proportional, resident},
    percentiles,
    place::{Kind, Place, Transport, make},
    stream::Stream,
};

/// Pause between what comes before the ends and the first of them.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Arguments {
    #[arg(long, default_value = "relay")]
    kind: Kind,
    #[arg(long, default_value = "sse")]
    transport: Transport,
    /// Where streams are opened, in turn
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
    /// Streams on each HTTP/2 connection; 0 is one HTTP/1.1 connection each
    #[arg(long, default_value_t = 0)]
    per_connection: usize,
    /// Where sessions are created and ended, if not there: another instance
    #[arg(long)]
    origin: Option<String>,
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// `client_id` of a registered client whose pages are of the relay's own origin
    #[arg(long)]
    client: Option<String>,
    /// How many waits are ended in each way
    #[arg(long, default_value_t = 300)]
    deliveries: usize,
    /// The ways
    #[arg(long, value_delimiter = ',', default_value = "dialog")]
    ways: Vec<Way>,
    /// Of `load serve`, for the way `order`
    #[arg(long)]
    orders: Option<SocketAddr>,
    /// For the way `store`
    #[arg(long)]
    redis: Option<String>,
    /// The instances' sealing key, for the way `store`
    #[arg(long, default_value = "")]
    sealing_key: String,
    /// Server processes whose memory and time are counted
    #[arg(long, value_delimiter = ',')]
    processes: Vec<u32>,
    /// The store's processes, counted apart
    #[arg(long, value_delimiter = ',')]
    store: Vec<u32>,
    /// `NAME=ID+ID`: processes whose memory and time are counted together
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Seconds for which the streams are only held
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Seconds between the server's signs of life
    #[arg(long, default_value_t = 15)]
    heartbeat: u64,
}

/// Processes that belong together.
#[derive(Clone)]
struct Part {
    name: String,
    processes: Vec<u32>,
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, processes) = text.split_once('=').ok_or("NAME=ID+ID")?;
        let processes = processes.split('+').map(str::parse).collect::<Result<_, _>>();
        let processes = processes.map_err(|error| format!("{error}"))?;
        Ok(Self { name: name.to_owned(), processes })
    }
}

/// What each part has used up to one moment.
struct Used(Vec<(u64, u64, Duration)>);

impl Used {
    fn now(parts: &[Part]) -> Self {
        let of = |part: &Part| {
            let ids = &part.processes;
            (resident(ids), proportional(ids), processor_time(ids))
        };
        Self(parts.iter().map(of).collect())
    }
}

/// Moments of a run at which parts are looked at, in their order.
struct Moments {
    start: Used,
    before: Used,
    open: Used,
    held: Used,
    prepared: Used,
    settled: Used,
    ended: Used,
}

impl Moments {
    /// A row for each part.
    fn rows(&self, parts: &[Part], opened: usize, hold: u64, logins: usize) -> Value {
        let mut rows = Map::new();
        for (index, part) in parts.iter().enumerate() {
            let [start, before, open, held] =
                [&self.start, &self.before, &self.open, &self.held].map(|used| used.0[index]);
            let [prepared, settled, ended] =
                [&self.prepared, &self.settled, &self.ended].map(|used| used.0[index]);
            let each = |from: Duration, to: Duration, count: f64| {
                (to - from).as_secs_f64() * 1e6 / count.max(1.0)
            };
            let streams = opened as f64;
            let memory = |before: u64, open: u64| (open as f64 - before as f64) / streams.max(1.0);
            let row = json!({
                "resident_before": before.0,
                "resident_open": open.0,
                "proportional_before": before.1,
                "proportional_open": open.1,
                "bytes_per_stream": memory(before.0, open.0),
                "proportional_bytes_per_stream": memory(before.1, open.1),
                "create_us": each(start.2, before.2, streams),
                "connect_us": each(before.2, open.2, streams),
                "waiting_us_per_stream_second": each(open.2, held.2, streams * hold as f64),
                "dialog_us": each(held.2, prepared.2, logins as f64),
                "last_request_us": each(settled.2, ended.2, logins as f64),
            });
            rows.insert(part.name.clone(), row);
        }
        Value::Object(rows)
    }
}

enum Happened {
    Opened,
    Arrived(usize, Instant),
    Over(String),
}

/// A stream's signs of life, as its client saw them.
#[derive(Default)]
struct Life {
    heartbeats: AtomicU32,
    /// Milliseconds since the beginning.
    last: AtomicU64,
    longest_gap: AtomicU64,
}

impl Life {
    fn sign(&self, heartbeats: u32, now: u64) {
        self.heartbeats.fetch_add(heartbeats, Ordering::Relaxed);
        let gap = now - self.last.swap(now, Ordering::Relaxed);
        self.longest_gap.fetch_max(gap, Ordering::Relaxed);
    }
}

struct Subscription {
    target: Target,
    shared: Option<Arc<Shared>>,
    number: usize,
    place: Arc<Place>,
    transport: Transport,
    begun: Instant,
    lives: Arc<Vec<Life>>,
    report: mpsc::UnboundedSender<Happened>,
}

impl Subscription {
    async fn run(self) {
        let why = match self.read().await {
            Ok(why) => why,
            Err(error) => error.to_string(),
        };
        let _ = self.report.send(Happened::Over(why));
    }

    /// Reads to the end; gives why it ended.
    async fn read(&self) -> std::io::Result<String> {
        let opened = match &self.shared {
            Some(shared) => {
                Stream::open_shared(self.target, shared, self.number, &self.place).await?
            }
            None => Stream::open(self.target, self.number, &self.place, self.transport).await?,
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(refused) => return Ok(format!("{refused:?}")),
        };
        let life = &self.lives[self.number];
        let since = |at: Instant| (at - self.begun).as_millis() as u64;
        life.last.store(since(Instant::now()), Ordering::Relaxed);
        let _ = self.report.send(Happened::Opened);
        let mut first = true;
        loop {
            let (at, seen) = stream.next().await?;
            if seen.token {
                let _ = self.report.send(Happened::Arrived(self.number, at));
                return Ok("done".to_owned());
            }
            if seen.over {
                return Ok("closed by the server".to_owned());
            }
            // A comment that opens the stream is no sign of life.
            life.sign(if first { 0 } else { seen.heartbeats }, since(at));
            first = false;
        }
    }
}

/// Where streams report; open even when no stream is left.
struct Reports {
    reports: mpsc::UnboundedReceiver<Happened>,
    _open: mpsc::UnboundedSender<Happened>,
}

/// What has happened so far.
#[derive(Default)]
struct Tally {
    opened: usize,
    /// Streams that ended without a token.
    dropped: usize,
    why: Vec<String>,
}

impl Tally {
    fn count(&mut self, happened: &Happened) {
        match happened {
            Happened::Opened => self.opened += 1,
            Happened::Over(why) if why == "done" => {}
            Happened::Over(why) => {
                self.dropped += 1;
                if self.why.len() < 5 {
                    self.why.push(why.clone());
                }
            }
            Happened::Arrived(..) => {}
        }
    }
}

/// Opens all streams and waits until each is open or refused.
async fn open(
    arguments: &Arguments,
    places: &[Arc<Place>],
    lives: &Arc<Vec<Life>>,
    begun: Instant,
) -> (Tally, Reports) {
    let targets: Vec<Target> = arguments.target.iter().map(|url| Target::of(url)).collect();
    let per_connection = arguments.per_connection;
    let shared = (per_connection > 0).then(|| Arc::new(Shared::new(places.len(), per_connection)));
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut tally = Tally::default();
    for (number, place) in places.iter().enumerate() {
        let (place, lives, report) = (Arc::clone(place), Arc::clone(lives), report.clone());
        let (transport, shared) = (arguments.transport, shared.clone());
        // Streams of one connection have one target.
        let target = targets[number / per_connection.max(1) % targets.len()];
        let subscription =
            Subscription { target, shared, number, place, transport, begun, lives, report };
        tokio::spawn(subscription.run());
        // A few hundred under way at a time, as from a busy network and not from a loop.
        while number + 1 - tally.opened - tally.dropped > 256 {
            tally.count(&reports.recv().await.expect("a report"));
        }
    }
    while tally.opened + tally.dropped < places.len() {
        tally.count(&reports.recv().await.expect("a report"));
    }
    (tally, Reports { reports, _open: report })
}

/// Signs of life while the streams were held.
fn heartbeats(lives: &[Life], before: &[u32], hold: Duration, heartbeat: Duration) -> Value {
    let expected = (hold.as_secs_f64() / heartbeat.as_secs_f64()).floor() as u32;
    let counts: Vec<u32> = lives
        .iter()
        .zip(before)
        .map(|(life, before)| life.heartbeats.load(Ordering::Relaxed) - before)
        .collect();
    let missing = counts.iter().filter(|count| **count + 1 < expected).count();
    let gap = lives.iter().map(|life| life.longest_gap.load(Ordering::Relaxed)).max();
    json!({
        "seconds": hold.as_secs(),
        "expected": expected,
        "fewest": counts.iter().min(),
        "most": counts.iter().max(),
        "streams_that_missed_some": missing,
        "longest_gap_ms": gap,
    })
}

/// Ends `chosen` waits one at a time.
async fn deliver(
    ender: &mut Ender,
    chosen: &[usize],
    places: &[Arc<Place>],
    arguments: &Arguments,
    tally: &mut Tally,
    reports: &mut Reports,
) -> (Value, [Used; 2]) {
    let mut ready = Vec::with_capacity(chosen.len());
    for number in chosen {
        ready.push(ender.prepare(&places[*number]).await);
    }
    let prepared = Used::now(&arguments.parts);
    // What comes before the end, at the relay a login, leaves caches, cores and the scheduler as no other server
    // finds them.
    tokio::time::sleep(SETTLE).await;
    let settled = Used::now(&arguments.parts);
    let times = || (processor_time(&arguments.processes), processor_time(&arguments.store));
    let before = times();
    let (mut all, mut inside, mut lost) = (Vec::new(), Vec::new(), 0);
    for (number, prepared) in chosen.iter().zip(&ready) {
        let begun = ender.end(prepared).await;
        let arrival = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match reports.reports.recv().await.expect("a report") {
                    Happened::Arrived(arrived, at) if arrived == *number => return at,
                    other => tally.count(&other),
                }
            }
        });
        match arrival.await {
            Ok(at) => {
                all.push((at - begun.sent).as_secs_f64() * 1e3);
                inside.extend(begun.inside.map(|begun| (at - begun).as_secs_f64() * 1e3));
            }
            Err(_) => lost += 1,
        }
    }
    let after = times();
    let delivered = all.len().max(1) as f64;
    let per_thousand = |time: Duration| (time.as_secs_f64() * 1e6 / delivered).round();
    let mut result = percentiles(all);
    result["lost"] = json!(lost);
    result["processor_ms_per_1000"] = json!(per_thousand(after.0 - before.0));
    result["store_ms_per_1000"] = json!(per_thousand(after.1 - before.1));
    if !inside.is_empty() {
        result["inside"] = percentiles(inside);
    }
    (result, [prepared, settled])
}

pub async fn run(arguments: Arguments) -> Value {
    let processes = &arguments.processes;
    let origin = Target::of(arguments.origin.as_ref().unwrap_or(&arguments.target[0]));
    let used_start = Used::now(&arguments.parts);
    let begun = Instant::now();
    let places = make(
        arguments.kind,
        origin,
        arguments.transport,
        arguments.streams,
        arguments.client.as_deref(),
    )
    .await;
    let creation = begun.elapsed();

    // Sessions exist on both sides of this measurement: the difference is the streams'.
    let kernel = Kernel::now();
    let memory_before = resident(processes);
    let used_before = Used::now(&arguments.parts);
    let lives: Arc<Vec<Life>> = Arc::new(places.iter().map(|_| Life::default()).collect());
    let begun = Instant::now();
    let time_before = processor_time(processes);
    let store_before = processor_time(&arguments.store);
    let (mut tally, mut reports) = open(&arguments, &places, &lives, begun).await;
    let connecting = begun.elapsed();
    let connecting_time = processor_time(processes) - time_before;
    let store_time = processor_time(&arguments.store) - store_before;
    let opened = tally.opened;
    let per_stream = |time: Duration| (time.as_secs_f64() * 1e6 / opened.max(1) as f64).round();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory_after = resident(processes);
    let used_open = Used::now(&arguments.parts);

    let mut result = Map::new();
    result.insert("kernel".to_owned(), Kernel::now().since(&kernel));
    if arguments.hold > 0 {
        let count = |life: &Life| life.heartbeats.load(Ordering::Relaxed);
        let before: Vec<u32> = lives.iter().map(count).collect();
        let time_before = processor_time(processes);
        let hold = Duration::from_secs(arguments.hold);
        tokio::time::sleep(hold).await;
        let time = processor_time(processes) - time_before;
        while let Ok(happened) = reports.reports.try_recv() {
            tally.count(&happened);
        }
        let per = opened.max(1) as f64 * hold.as_secs_f64();
        result.insert(
            "held".to_owned(),
            heartbeats(&lives, &before, hold, Duration::from_secs(arguments.heartbeat)),
        );
        let each = time.as_secs_f64() * 1e6 / per;
        result.insert("processor_us_per_stream_second".to_owned(), json!(each));
        result.insert("bytes_after_hold".to_owned(), json!(resident(processes)));
    }

    let used_held = Used::now(&arguments.parts);
    let mut used_prepared = None;
    let store = arguments.redis.as_deref().map(|url| (url, arguments.sealing_key.as_str()));
    let count = arguments.deliveries * arguments.ways.len();
    // Spread over all streams, so that no neighbourhood is warm.
    let step = (arguments.streams / count.max(1)).max(1);
    let chosen: Vec<usize> = (0..arguments.streams).step_by(step).take(count).collect();
    for (index, way) in arguments.ways.iter().enumerate() {
        let mine: Vec<usize> =
            chosen.iter().copied().skip(index).step_by(arguments.ways.len()).collect();
        let mut ender = Ender::new(*way, origin, arguments.orders, store).await;
        let (delivered, used) =
            deliver(&mut ender, &mine, &places, &arguments, &mut tally, &mut reports).await;
        used_prepared.get_or_insert(used);
        result.insert(format!("{way:?}").to_lowercase(), delivered);
    }

    if let (false, Some([prepared, settled])) = (arguments.parts.is_empty(), used_prepared) {
        let ended = Used::now(&arguments.parts);
        let (start, before, open, held) = (used_start, used_before, used_open, used_held);
        let moments = Moments { start, before, open, held, prepared, settled, ended };
        let rows = moments.rows(&arguments.parts, opened, arguments.hold, chosen.len());
        result.insert("parts".to_owned(), rows);
    }

    let memory = memory_after.saturating_sub(memory_before) as f64;
    for (name, value) in [
        ("streams", json!(arguments.streams)),
        ("opened", json!(opened)),
        ("dropped", json!(tally.dropped)),
        ("why_dropped", json!(tally.why)),
        ("created_per_second", json!((places.len() as f64 / creation.as_secs_f64()).round())),
        ("connected_per_second", json!((opened as f64 / connecting.as_secs_f64()).round())),
        ("processor_us_per_connect", json!(per_stream(connecting_time))),
        ("store_us_per_connect", json!(per_stream(store_time))),
        ("bytes_before", json!(memory_before)),
        ("bytes_open", json!(memory_after)),
        ("bytes_per_stream", json!((memory / opened.max(1) as f64).round())),
    ] {
        result.insert(name.to_owned(), value);
    }
    Value::Object(result)
}
