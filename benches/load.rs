//! Load generator: many open streams, each on its own session or channel, and what it costs.
//!
//! `benches/run` starts the servers and calls it; see `benches/README.md`. It opens `--streams`
//! event streams over several loopback addresses, ends `--deliveries` of them, and prints one
//! JSON object. Everything it sends goes to 127.0.0.0/8, and it stops by itself.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::mpsc,
};

/// What is measured.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// token-relay: sessions, ended through the dialog.
    Relay,
    /// nginx with nchan: channels, ended by a publication.
    Nchan,
}

struct Arguments {
    kind: Kind,
    /// Where streams are opened.
    target: String,
    /// Where sessions are created and ended; another instance, perhaps.
    origin: String,
    streams: usize,
    deliveries: usize,
    /// Server processes whose memory and time are counted.
    processes: Vec<u32>,
    /// How long the streams are only held, to see whether any is dropped.
    hold: Duration,
}

fn arguments() -> Arguments {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let mut values = HashMap::new();
    for pair in words.chunks(2) {
        if let [name, value] = pair {
            values.insert(name.trim_start_matches('-').to_owned(), value.clone());
        }
    }
    let number = |name: &str, default: usize| {
        values.get(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let target = values.get("target").expect("--target URL").trim_end_matches('/').to_owned();
    Arguments {
        kind: match values.get("kind").map(String::as_str) {
            Some("nchan") => Kind::Nchan,
            _ => Kind::Relay,
        },
        origin: values.get("origin").unwrap_or(&target).trim_end_matches('/').to_owned(),
        target,
        streams: number("streams", 1_000),
        deliveries: number("deliveries", 300),
        processes: values
            .get("processes")
            .map(|text| text.split(',').map(|id| id.parse().expect("a process ID")).collect())
            .unwrap_or_default(),
        hold: Duration::from_secs(number("hold", 0) as u64),
    }
}

/// Resident memory of the processes, in bytes.
fn resident(processes: &[u32]) -> u64 {
    let of = |id: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    processes.iter().map(of).sum()
}

/// Processor time of the processes.
fn processor_time(processes: &[u32]) -> Duration {
    let of = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default().to_owned();
        let fields: Vec<u64> =
            rest.split_whitespace().filter_map(|text| text.parse().ok()).collect();
        // utime and stime, in hundredths of a second; the state before them is no number.
        fields.get(10).unwrap_or(&0) + fields.get(11).unwrap_or(&0)
    };
    Duration::from_millis(processes.iter().map(of).sum::<u64>() * 10)
}

/// A session or a channel.
struct Place {
    path: String,
    token: Option<String>,
    /// How its stream is ended.
    end: String,
}

async fn create(client: &reqwest::Client, arguments: &Arguments, number: usize) -> Place {
    if arguments.kind == Kind::Nchan {
        let name = format!("c{}x{number}", std::process::id());
        return Place { path: format!("/sub/{name}"), token: None, end: format!("/pub/{name}") };
    }
    let answer = client
        .post(format!("{}/addons/sessions", arguments.origin))
        .json(&json!({"bind": true}))
        .send()
        .await
        .expect("the relay answers");
    let session: Value = answer.json().await.expect("a session");
    let text = |name: &str| session[name].as_str().expect("a member").to_owned();
    let path = |url: String| format!("/{}", url.splitn(4, '/').nth(3).expect("a path"));
    Place {
        path: path(text("events_url")),
        token: Some(text("session_token")),
        end: text("transit_url"),
    }
}

enum Happened {
    Opened,
    Arrived(usize, Instant),
    Dropped,
}

/// Opens a stream and reports what happens on it.
async fn read(
    target: SocketAddr,
    number: usize,
    place: Arc<Place>,
    report: mpsc::UnboundedSender<Happened>,
) {
    let outcome = async {
        let socket = TcpSocket::new_v4()?;
        // One address has some 28 000 ports; eight are enough for everything.
        let source = Ipv4Addr::new(127, 0, 1, 1 + (number % 8) as u8);
        socket.bind((source, 0).into())?;
        let mut socket = socket.connect(target).await?;
        let bearer = place.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {target}\r\naccept: text/event-stream\r\n{}\r\n",
            place.path,
            bearer.unwrap_or_default()
        );
        socket.write_all(request.as_bytes()).await?;
        let mut buffer = [0u8; 2048];
        let mut opened = false;
        loop {
            let read = socket.read(&mut buffer).await?;
            let now = Instant::now();
            if read == 0 {
                return std::io::Result::Ok(());
            }
            let bytes = &buffer[..read];
            if !opened {
                assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(bytes));
                opened = true;
                let _ = report.send(Happened::Opened);
            }
            if bytes.windows(6).any(|part| part == b"data: ") {
                let _ = report.send(Happened::Arrived(number, now));
                return Ok(());
            }
        }
    };
    let _: std::io::Result<()> = outcome.await;
    let _ = report.send(Happened::Dropped);
}

/// Goes through the dialog up to its last step, whose address and cookies are given.
async fn prepare(client: &reqwest::Client, origin: &str, transit_url: &str) -> (String, String) {
    let mut cookies: HashMap<String, String> = HashMap::new();
    let path = transit_url.splitn(4, '/').nth(3).expect("a path");
    let mut url = format!("{origin}/{path}");
    loop {
        let header = cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let header = header.collect::<Vec<_>>().join("; ");
        if url.contains("/addons/redirect") {
            return (url, header);
        }
        let answer = client.get(&url).header("cookie", header).send().await.expect("an answer");
        for cookie in answer.headers().get_all("set-cookie") {
            let pair = cookie.to_str().expect("text").split(';').next().expect("a pair");
            let (name, value) = pair.split_once('=').expect("a value");
            cookies.insert(name.to_owned(), value.to_owned());
        }
        let location = answer.headers().get("location").expect("a redirect");
        let location = location.to_str().expect("text");
        url = reqwest::Url::parse(&url).expect("a URL").join(location).expect("a URL").into();
    }
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(arguments()));
}

async fn run(arguments: Arguments) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(32)
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let target: SocketAddr =
        arguments.target.strip_prefix("http://").expect("http").parse().expect("an address");
    assert!(target.ip().is_loopback(), "loopback only");

    let begun = Instant::now();
    let places: Vec<Arc<Place>> = stream::iter(0..arguments.streams)
        .map(|number| create(&client, &arguments, number))
        .buffered(16)
        .map(Arc::new)
        .collect()
        .await;
    let creation = begun.elapsed();

    // Sessions exist on both sides of this measurement: the difference is the streams'.
    let memory_before = resident(&arguments.processes);
    let (report, mut reports) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let mut opened = 0;
    let mut dropped = 0;
    for (number, place) in places.iter().enumerate() {
        tokio::spawn(read(target, number, Arc::clone(place), report.clone()));
        // A few hundred under way at a time, as from a busy network and not from a loop.
        while number + 1 - opened - dropped > 256 {
            match reports.recv().await {
                Some(Happened::Opened) => opened += 1,
                _ => dropped += 1,
            }
        }
    }
    while opened + dropped < arguments.streams {
        match reports.recv().await {
            Some(Happened::Opened) => opened += 1,
            _ => dropped += 1,
        }
    }
    let connecting = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory_after = resident(&arguments.processes);

    tokio::time::sleep(arguments.hold).await;
    while let Ok(happened) = reports.try_recv() {
        dropped += usize::from(matches!(happened, Happened::Dropped));
    }

    // Spread over all streams, so that no neighbourhood is warm.
    let step = (arguments.streams / arguments.deliveries.max(1)).max(1);
    let chosen: Vec<usize> =
        (0..arguments.streams).step_by(step).take(arguments.deliveries).collect();
    let mut ready = Vec::new();
    for number in &chosen {
        let place = &places[*number];
        ready.push(match arguments.kind {
            Kind::Relay => prepare(&client, &arguments.origin, &place.end).await,
            Kind::Nchan => (format!("{}{}", arguments.origin, place.end), String::new()),
        });
    }
    let time_before = processor_time(&arguments.processes);
    let mut milliseconds = Vec::new();
    let mut lost = 0;
    for (number, (url, cookies)) in chosen.iter().zip(&ready) {
        let request = match arguments.kind {
            Kind::Relay => client.get(url).header("cookie", cookies),
            // Of the size of a token event.
            Kind::Nchan => client.post(url).body("x".repeat(700)),
        };
        let sent = Instant::now();
        let answer = tokio::spawn(request.send());
        let arrival = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                match reports.recv().await {
                    Some(Happened::Arrived(arrived, at)) if arrived == *number => return at,
                    Some(Happened::Dropped) => dropped += 1,
                    _ => {}
                }
            }
        });
        match arrival.await {
            Ok(at) => milliseconds.push((at - sent).as_secs_f64() * 1000.0),
            Err(_) => lost += 1,
        }
        let answer = answer.await.unwrap().expect("an answer");
        assert!(answer.status().is_success() || answer.status().is_redirection());
        drop(answer.bytes().await);
    }
    let time = processor_time(&arguments.processes) - time_before;
    // Each chosen stream ends after its event; those are not losses.
    let dropped = dropped.saturating_sub(milliseconds.len());
    milliseconds.sort_by(f64::total_cmp);
    let per = |duration: Duration| arguments.streams as f64 / duration.as_secs_f64();
    let memory = memory_after.saturating_sub(memory_before) as f64 / opened.max(1) as f64;
    println!(
        "{}",
        json!({
            "streams": arguments.streams,
            "opened": opened,
            "dropped": dropped,
            "lost": lost,
            "created_per_second": per(creation).round(),
            "connected_per_second": per(connecting).round(),
            "bytes_per_stream": memory.round(),
            "p50_ms": percentile(&milliseconds, 0.5),
            "p90_ms": percentile(&milliseconds, 0.9),
            "p99_ms": percentile(&milliseconds, 0.99),
            "max_ms": percentile(&milliseconds, 1.0),
            "processor_ms_per_1000_deliveries":
                time.as_secs_f64() * 1e6 / milliseconds.len().max(1) as f64,
        })
    );
}
