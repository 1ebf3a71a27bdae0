//! Keeps streams open while instances die, in step with whoever kills them.
//!
//! Reads commands from standard input and answers each with a line of JSON: `watch` before something
//! is done to an instance, `settle` to wait until every stream is open again, `end`. Meanwhile
//! logins end at a steady rate. Clients reconnect as `token-relay.js` does: after the `retry` they
//! were given, doubled with every refusal, times a random number from a half to one, and not before
//! `Retry-After`. As behind a load balancer, an attempt that meets a dead instance goes to the next
//! one at once, and an attempt after a refusal to the next one, too.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    ending::Publisher,
    link::Target,
    percentiles,
    place::{Kind, Place, Transport, make},
    stream::{Refused, Stream},
};

/// Longest that a stream or a token is waited for.
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Args)]
pub struct Arguments {
    /// Instances; a failed attempt goes to the next
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// How many of them streams are opened at first, evenly
    #[arg(long, default_value_t = 1)]
    first: usize,
    #[arg(long, default_value = "sse")]
    transport: Transport,
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// Logins that end each second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    #[arg(long)]
    redis: String,
    #[arg(long)]
    sealing_key: String,
}

/// What has happened since the last `watch`, and to all logins.
#[derive(Default)]
struct Ledger {
    /// Streams that are not open though their session is pending.
    away: usize,
    lost_connections: usize,
    /// 503 and 429.
    refused: usize,
    /// Attempts that met a dead instance.
    failed: usize,
    back: Vec<f64>,
    last_back: Option<Instant>,
    /// When each session was fulfilled.
    published: Vec<Option<Instant>>,
    arrived: Vec<f64>,
    twice: usize,
}

struct Client {
    number: usize,
    place: Arc<Place>,
    targets: Arc<Vec<Target>>,
    target: usize,
    transport: Transport,
    ledger: Arc<Mutex<Ledger>>,
}

impl Client {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("a ledger")
    }

    /// Waits for the token however often the connection breaks.
    async fn run(mut self) {
        let mut retry = 1_000u64;
        let mut attempts = 0;
        let mut since = Instant::now();
        loop {
            let mut retry_after = Duration::ZERO;
            match self.attempt().await {
                Ok(Ok(stream)) => {
                    attempts = 0;
                    {
                        let mut ledger = self.ledger();
                        ledger.away -= 1;
                        ledger.back.push(since.elapsed().as_secs_f64() * 1e3);
                        ledger.last_back = Some(Instant::now());
                    }
                    if self.read(stream, &mut retry).await {
                        return;
                    }
                    since = Instant::now();
                    let mut ledger = self.ledger();
                    ledger.away += 1;
                    ledger.lost_connections += 1;
                }
                Ok(Err(refused)) => {
                    assert!(matches!(refused.status, 429 | 503), "{refused:?}");
                    self.ledger().refused += 1;
                    retry_after = refused.retry_after.unwrap_or_default();
                    self.target = (self.target + 1) % self.targets.len();
                    attempts += 1;
                }
                // All are dead.
                Err(_) => attempts += 1,
            }
            let longest = (retry * 2u64.pow(attempts.min(10))).min(30_000) as f64;
            let random = getrandom::u64().expect("a random number") as f64 / u64::MAX as f64;
            let pause = Duration::from_secs_f64(longest / 1e3 * (0.5 + random / 2.0));
            tokio::time::sleep(pause.max(retry_after)).await;
        }
    }

    /// Tries one instance after the other until one answers.
    async fn attempt(&mut self) -> std::io::Result<Result<Stream, Refused>> {
        let mut turn = 0;
        loop {
            let target = self.targets[self.target];
            let opened = Stream::open(target, self.number, &self.place, self.transport).await;
            turn += 1;
            if opened.is_ok() || turn == self.targets.len() {
                return opened;
            }
            self.ledger().failed += 1;
            self.target = (self.target + 1) % self.targets.len();
        }
    }

    /// Reads one stream to its end; whether the token came.
    async fn read(&self, mut stream: Stream, retry: &mut u64) -> bool {
        while let Ok((at, seen)) = stream.next().await {
            *retry = seen.retry.unwrap_or(*retry);
            if seen.token {
                let mut ledger = self.ledger();
                let published = ledger.published[self.number].expect("published");
                ledger.arrived.push((at - published).as_secs_f64() * 1e3);
                return true;
            }
            if seen.over {
                return false;
            }
        }
        false
    }
}

/// Ends logins at a steady rate, until aborted.
async fn log_in(
    publisher: Arc<Publisher>,
    places: Arc<Vec<Arc<Place>>>,
    ledger: Arc<Mutex<Ledger>>,
    rate: u32,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    let order = (0..places.len()).map(|turn| turn * 7_919 % places.len());
    let mut order: VecDeque<usize> = order.collect();
    while let Some(number) = order.pop_front() {
        ticks.tick().await;
        let key = places[number].key.expect("a session");
        ledger.lock().expect("a ledger").published[number] = Some(Instant::now());
        if !publisher.publish(key).await {
            ledger.lock().expect("a ledger").twice += 1;
        }
    }
}

/// Waits until `reached` holds; whether it did in time.
async fn until(ledger: &Mutex<Ledger>, reached: impl Fn(&Ledger) -> bool) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if reached(&ledger.lock().expect("a ledger")) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

pub async fn run(arguments: Arguments) -> Value {
    let targets: Arc<Vec<Target>> =
        Arc::new(arguments.targets.iter().map(|url| Target::of(url)).collect());
    let places = make(Kind::Relay, targets[0], arguments.transport, arguments.streams, None).await;
    let places = Arc::new(places);
    let ledger = Arc::new(Mutex::new(Ledger {
        away: places.len(),
        published: vec![None; places.len()],
        ..Ledger::default()
    }));
    for (number, place) in places.iter().enumerate() {
        let client = Client {
            number,
            place: Arc::clone(place),
            targets: Arc::clone(&targets),
            target: number % arguments.first,
            transport: arguments.transport,
            ledger: Arc::clone(&ledger),
        };
        tokio::spawn(client.run());
        if number % 64 == 63 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(until(&ledger, |ledger| ledger.away == 0).await, "all streams open");
    println!("{}", json!({"open": places.len()}));

    let publisher = Arc::new(Publisher::new(&arguments.redis, &arguments.sealing_key).await);
    let logins = log_in(publisher, Arc::clone(&places), Arc::clone(&ledger), arguments.rate);
    let logins = tokio::spawn(logins);
    let mut watched = Instant::now();
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(command)) = commands.next_line().await {
        match command.as_str() {
            "watch" => {
                let mut ledger = ledger.lock().expect("a ledger");
                (ledger.lost_connections, ledger.refused, ledger.failed) = (0, 0, 0);
                ledger.back.clear();
                watched = Instant::now();
                println!("{}", json!({"watching": true}));
            }
            "settle" => {
                let lost = |ledger: &Ledger| ledger.lost_connections > 0 && ledger.away == 0;
                let all_back = until(&ledger, lost).await;
                let ledger = ledger.lock().expect("a ledger");
                let last = ledger.last_back.expect("a stream");
                let mut result = percentiles(ledger.back.clone());
                result["all_back"] = json!(all_back);
                result["seconds_until_all_back"] = json!((last - watched).as_secs_f64());
                result["connections_lost"] = json!(ledger.lost_connections);
                result["refused"] = json!(ledger.refused);
                result["failed_attempts"] = json!(ledger.failed);
                println!("{result}");
            }
            "end" => break,
            other => panic!("no such command: {other}"),
        }
    }
    logins.abort();
    // A token may be under way to a client that is still coming back.
    let all = |ledger: &Ledger| ledger.arrived.len() == ledger.published.iter().flatten().count();
    until(&ledger, all).await;
    let ledger = ledger.lock().expect("a ledger");
    let published = ledger.published.iter().flatten().count();
    let mut result = percentiles(ledger.arrived.clone());
    result["logins"] = json!(published);
    result["lost"] = json!(published - ledger.arrived.len());
    result["not_stored"] = json!(ledger.twice);
    result
}
