//! The exchange of an authorization code, once over all instances: the browser may repeat a callback
//! at another one, which waits for the result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    http::{App, exchanges::CodeExchange, pages::ErrorPage},
    oidc::LoginAttempt,
    session::{Digest, Identity},
    telemetry::Trace,
    token::Purpose,
    util::wiped::WipedBytes,
};

/// How long the result of an exchange is left for other instances.
const TTL: Duration = Duration::from_secs(60);

/// Interval at which an instance looks for the result of an exchange at another one.
const INTERVAL: Duration = Duration::from_millis(100);

/// What one instance leaves for the others.
#[derive(Serialize, Deserialize)]
enum Exchanged {
    Identity(Box<Identity>),
    /// Name of the error page, and the reference.
    Failed(String, String),
}

/// Exchanges the code of an attempt by `exchange`, unless another instance has begun to: then waits
/// for its result.
pub(crate) async fn exchange_once<F>(
    app: &Arc<App>,
    trace: &Trace,
    attempt: LoginAttempt,
    exchange: impl FnOnce(LoginAttempt) -> F,
) -> CodeExchange
where
    F: Future<Output = CodeExchange>,
{
    let name = Digest::of(format!("exchanged:{}", attempt.state()).as_bytes());
    match app.use_state_once(trace, &attempt).await {
        Ok(true) => {}
        Ok(false) => return elsewhere(app, trace, name).await,
        Err(error) => {
            tracing::warn!(%error, "callback deferred");
            return CodeExchange::Unavailable;
        }
    }
    let exchanged = exchange(attempt).await;
    // Without a shared store there is no other instance.
    if app.settings.store.url.is_some() {
        let (app, trace, result) = (Arc::clone(app), trace.clone(), exchanged.clone());
        tokio::spawn(async move { leave(&app, &trace, name, &result).await });
    }
    exchanged
}

/// Leaves a result for the other instances, sealed. What is not left is missed only by a browser that
/// repeats the callback elsewhere.
async fn leave(app: &App, trace: &Trace, name: Digest, exchanged: &CodeExchange) {
    let result = match exchanged {
        CodeExchange::Identity(identity) => Exchanged::Identity(Box::new((**identity).clone())),
        CodeExchange::Failed(page, reference) => {
            Exchanged::Failed(page.as_str().to_owned(), reference.clone())
        }
        CodeExchange::Elsewhere | CodeExchange::Unavailable => return,
    };
    let Ok(plaintext) = serde_json::to_vec(&result).map(WipedBytes::from) else { return };
    let sealed = app.sealing_keys.seal(Purpose::Exchanged, name.as_bytes(), &plaintext);
    let relay = app.relay.in_trace(trace);
    if let Err(error) = relay.store().put_value(name, sealed.into(), TTL).await {
        tracing::debug!(%error, "result of a login not left for other instances");
    }
}

/// Waits for the result of the exchange at another instance.
async fn elsewhere(app: &App, trace: &Trace, name: Digest) -> CodeExchange {
    let relay = app.relay.in_trace(trace);
    let deadline = Instant::now() + app.settings.oidc.timeout * 2;
    while Instant::now() < deadline {
        match relay.store().value(name).await {
            Ok(Some(sealed)) => {
                let opened =
                    app.sealing_keys.open(Purpose::Exchanged, name.as_bytes(), &sealed).ok();
                return match opened.and_then(|text| serde_json::from_slice(&text).ok()) {
                    Some(Exchanged::Identity(identity)) => {
                        CodeExchange::Identity(Arc::from(identity))
                    }
                    Some(Exchanged::Failed(page, reference)) => CodeExchange::Failed(
                        page.parse().unwrap_or(ErrorPage::LoginFailed),
                        reference,
                    ),
                    None => CodeExchange::Elsewhere,
                };
            }
            Ok(None) => tokio::time::sleep(INTERVAL).await,
            Err(_) => return CodeExchange::Unavailable,
        }
    }
    CodeExchange::Elsewhere
}
