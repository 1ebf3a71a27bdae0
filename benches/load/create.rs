//! Creates sessions as fast as they are answered.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    link::Target,
    machine::processor_time,
    percentiles,
    place::path,
    wire::{Wire, request},
};

#[derive(Args)]
pub struct Arguments {
    /// What is posted to
    #[arg(long)]
    url: String,
    #[arg(long, default_value = "")]
    body: String,
    /// Further header lines
    #[arg(long)]
    field: Vec<String>,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Most that are created: a store keeps them
    #[arg(long, default_value_t = 400_000)]
    most: usize,
    /// Server processes whose time is counted
    #[arg(long, value_delimiter = ',')]
    processes: Vec<u32>,
    /// The store's processes, counted apart
    #[arg(long, value_delimiter = ',')]
    store: Vec<u32>,
}

pub async fn run(arguments: Arguments) -> Value {
    let target = Target::of(&arguments.url);
    let mut fields = arguments.field.clone();
    if !arguments.body.is_empty() {
        fields.push("content-type: application/json".to_owned());
    }
    let request = request("POST", target, &path(&arguments.url), &fields, &arguments.body);
    let times = || (processor_time(&arguments.processes), processor_time(&arguments.store));
    let before = times();
    let begun = Instant::now();
    let end = begun + Duration::from_secs(arguments.seconds);
    let most = arguments.most / arguments.connections;
    let clients = (0..arguments.connections).map(|_| {
        let request = &request;
        async move {
            let mut wire = Wire::new(target);
            let (mut times, mut failed) = (Vec::new(), 0);
            while Instant::now() < end && times.len() < most {
                let sent = Instant::now();
                match wire.ask(request).await {
                    Ok(answer) if answer.status == 201 => {
                        times.push(sent.elapsed().as_secs_f64() * 1e3);
                    }
                    _ => failed += 1,
                }
            }
            (times, failed)
        }
    });
    let results: Vec<(Vec<f64>, usize)> =
        stream::iter(clients).buffer_unordered(arguments.connections).collect().await;
    let seconds = begun.elapsed().as_secs_f64();
    let after = times();
    let failed: usize = results.iter().map(|(_, failed)| failed).sum();
    let times: Vec<f64> = results.into_iter().flat_map(|(times, _)| times).collect();
    let created = times.len();
    let mut result = percentiles(times);
    result["failed"] = json!(failed);
    result["connections"] = json!(arguments.connections);
    result["per_second"] = json!((created as f64 / seconds).round());
    let each = |time: Duration| (time.as_secs_f64() * 1e7 / created.max(1) as f64).round() / 10.0;
    result["processor_us_each"] = json!(each(after.0 - before.0));
    result["store_us_each"] = json!(each(after.1 - before.1));
    result
}
