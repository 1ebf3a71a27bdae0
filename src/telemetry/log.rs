//! The log: lines on standard error, written by a thread of its own.
//!
//! Logging never waits and never fails. The queue is bounded; a line that does not fit, or that
//! standard error does not take, is dropped and counted.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    panic::PanicHookInfo,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Lines that wait for standard error before further ones are dropped.
const QUEUED_LINES: usize = 2048;

/// Time for the queued lines to be written when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Lines dropped because the queue was full; the log is one a process.
static NOT_QUEUED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that standard error did not take.
static NOT_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Lines of the log that this process lost so far.
pub fn lost_lines() -> u64 {
    let not_queued = NOT_QUEUED.get().map_or(0, ErrorCounter::dropped_lines);
    let not_queued = u64::try_from(not_queued).unwrap_or(u64::MAX);
    not_queued.saturating_add(NOT_WRITTEN.load(Ordering::Relaxed))
}

/// Standard error as the writing thread sees it: a failed write is counted and forgotten.
struct StandardError;

impl io::Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // One call is one line.
        if io::stderr().write_all(line).is_err() {
            NOT_WRITTEN.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged: a level, or a list such as `info,token_relay::relay=trace`.
#[derive(Clone, Debug)]
pub struct Filter(Targets);

/// A text is no filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected off, error, warn, info, debug, trace, or a list such as info,token_relay::relay=trace"
)]
pub struct InvalidFilter;

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        // A word alone would be a target that nothing logs to, and everything else would be silent.
        let is_known = |part: &str| {
            part.contains(['=', ':'])
                || ["token_relay", "audit"].contains(&part)
                || part.parse::<LevelFilter>().is_ok()
        };
        if !text.split(',').map(str::trim).all(is_known) {
            return Err(InvalidFilter);
        }
        text.parse().map(Self).map_err(|_| InvalidFilter)
    }
}

/// The log of this process. Dropping it writes the queued lines, as far as standard error takes
/// them within two seconds.
pub struct Log(Option<WorkerGuard>);

impl Log {
    /// Starts to log what `filter` selects, as text or as JSON, panics included.
    pub fn start(Filter(filter): Filter, json: bool) -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUED_LINES)
            .thread_name("log")
            .finish(StandardError);
        let _ = NOT_QUEUED.set(writer.error_counter());
        let layer = tracing_subscriber::fmt::layer()
            // They would be printed by a call that panics where nothing can be printed.
            .log_internal_errors(false)
            .with_writer(writer);
        let log = tracing_subscriber::registry().with(filter);
        if json {
            log.with(layer.json().map_event_format(WithTrace)).init();
        } else {
            log.with(layer.with_ansi(io::stderr().is_terminal())).init();
        }
        std::panic::set_hook(Box::new(log_panic));
        Self(Some(guard))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let guard = self.0.take();
        let (done, flushed) = mpsc::channel();
        // On another thread, because the guard prints to standard output when the writing thread
        // hangs, and that may hang too.
        let flush = move || {
            drop(guard);
            let _ = done.send(());
        };
        if thread::Builder::new().spawn(flush).is_ok() {
            let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// The default hook would wait for standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or_default();
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, message, "a thread panicked");
}

/// Adds `trace_id` and `span_id` to the JSON object that `F` writes, if there is a trace.
pub struct WithTrace<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(ids) = crate::telemetry::log_ids() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => {
                let (trace_id, span_id) = (ids.trace_id(), ids.span_id());
                write!(writer, r#"{{"trace_id":"{trace_id}","span_id":"{span_id}",{rest}"#)
            }
            None => writer.write_str(&line),
        }
    }
}
