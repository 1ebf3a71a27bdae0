//! Clients that ask once a second, as add-ins do that are not told.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    dialog::{Browser, exchange, finish},
    link::Target,
    machine::processor_time,
    percentiles,
    wire::{Wire, request},
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Surface {
    /// `GET /addons/sessions/{id}`
    Native,
    /// `POST /api/v1.0/addons/sessions/poll/`
    Meet,
}

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    target: String,
    #[arg(long, default_value = "native")]
    surface: Surface,
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Seconds; logins end in their second half
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Milliseconds from one question to the next
    #[arg(long, default_value_t = 1_000)]
    pause: u64,
    /// Server processes whose time is counted
    #[arg(long, value_delimiter = ',')]
    processes: Vec<u32>,
}

/// A session, the question that its add-in repeats, and the request that ends its login.
struct Asked {
    question: Vec<u8>,
    last: Vec<u8>,
}

async fn native(wire: &mut Wire, browser: &Browser, target: Target) -> Asked {
    let answer = wire
        .ask(&request("POST", target, "/addons/sessions", &[], ""))
        .await
        .expect("the relay answers");
    assert_eq!(answer.status, 201);
    let session = answer.json();
    let text = |name: &str| session[name].as_str().expect("a member").to_owned();
    let path = format!("/addons/sessions/{}", text("session_id"));
    Asked {
        question: request("GET", target, &path, &[], ""),
        last: browser.prepare(target, &text("transit_url"), None).await,
    }
}

async fn meet(wire: &mut Wire, cookies: &str, target: Target) -> Asked {
    const SESSIONS: &str = "/api/v1.0/addons/sessions";
    let answer = wire
        .ask(&request("POST", target, &format!("{SESSIONS}/init/"), &[], ""))
        .await
        .expect("the relay answers");
    assert_eq!(answer.status, 201);
    let session = answer.json();
    let text = |name: &str| session[name].as_str().expect("a member").to_owned();
    let cookie = answer.field("set-cookie").expect("a cookie").split(';').next().expect("a pair");
    let fields = [format!("cookie: {cookie}"), format!("x-csrftoken: {}", text("csrf_token"))];
    Asked {
        question: request("POST", target, &format!("{SESSIONS}/poll/"), &fields, ""),
        last: exchange(target, cookies, &text("transit_token")),
    }
}

/// What one client saw.
struct Seen {
    questions: usize,
    /// When the token was there, if it came.
    at: Option<Instant>,
}

/// Asks until the token comes or `timeout` is over.
async fn ask(
    target: Target,
    question: &[u8],
    delay: Duration,
    pause: Duration,
    timeout: Instant,
) -> Seen {
    tokio::time::sleep(delay).await;
    let mut wire = Wire::new(target);
    let mut ticks = tokio::time::interval(pause);
    let mut questions = 0;
    while Instant::now() < timeout {
        ticks.tick().await;
        questions += 1;
        let answer = wire.ask(question).await.expect("an answer");
        match answer.status {
            200 => return Seen { questions, at: Some(Instant::now()) },
            202 => {}
            other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
    Seen { questions, at: None }
}

pub async fn run(arguments: Arguments) -> Value {
    let target = Target::of(&arguments.target);
    let browser = Browser::new();
    let cookies = match arguments.surface {
        Surface::Meet => browser.log_in(target).await,
        Surface::Native => String::new(),
    };
    let mut wire = Wire::new(target);
    let mut asked = Vec::with_capacity(arguments.clients);
    for _ in 0..arguments.clients {
        asked.push(Arc::new(match arguments.surface {
            Surface::Native => native(&mut wire, &browser, target).await,
            Surface::Meet => meet(&mut wire, &cookies, target).await,
        }));
    }
    let count = arguments.clients;
    let duration = Duration::from_secs(arguments.seconds);
    let pause = Duration::from_millis(arguments.pause);
    let begun = Instant::now();
    let timeout = begun + duration + Duration::from_secs(10);
    let clients = asked.iter().enumerate().map(|(number, asked)| {
        let asked = Arc::clone(asked);
        let delay = pause.mul_f64(number as f64 / count as f64);
        tokio::spawn(async move { ask(target, &asked.question, delay, pause, timeout).await })
    });
    let clients: Vec<_> = clients.collect();

    // While all wait, what waiting costs; the second half is for the logins.
    tokio::time::sleep(pause).await;
    let time_before = processor_time(&arguments.processes);
    let half = duration / 2;
    tokio::time::sleep(half).await;
    let waiting = processor_time(&arguments.processes) - time_before;

    // A new connection: the server closes one that was idle for so long.
    let mut wire = Wire::new(target);
    let mut sent = vec![None; count];
    let step = half.div_f64(count as f64);
    let start = Instant::now();
    // In an order that has nothing to do with the order of the questions.
    for turn in 0..count {
        let number = turn * 7_919 % count;
        tokio::time::sleep_until((start + step * turn as u32).into()).await;
        sent[number] = Some(Instant::now());
        finish(&mut wire, &asked[number].last).await;
    }
    let seen: Vec<Seen> = stream::iter(clients)
        .then(|client| async { client.await.expect("a client") })
        .collect()
        .await;
    let questions: usize = seen.iter().map(|seen| seen.questions).sum();
    let times: Vec<f64> = seen
        .iter()
        .zip(&sent)
        .filter_map(|(seen, sent)| Some((seen.at? - (*sent)?).as_secs_f64() * 1e3))
        .collect();
    let lost = count - times.len();
    let mut result = percentiles(times);
    result["clients"] = json!(count);
    result["lost"] = json!(lost);
    result["requests_per_login"] = json!(1.0 + questions as f64 / count as f64);
    result["seconds_from_creation_to_login"] = json!(duration.as_secs_f64() * 0.75);
    result["processor_us_per_client_second"] =
        json!(waiting.as_secs_f64() * 1e6 / (count as f64 * half.as_secs_f64()));
    result
}
