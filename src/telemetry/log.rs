//! Log lines in JSON say which trace they belong to.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

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
