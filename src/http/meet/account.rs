//! Asks the platform whose browser it is, where the platform has the login (`MEET_ACCOUNT_URL`).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    session::Digest,
    telemetry::{Kind, TRACEPARENT, Trace},
    util::http_client::{Authorities, ServiceClient, ServiceError},
};

/// Timeout of one call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of an answer in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Maximum length of a user ID in bytes.
const MAX_USER_ID: usize = 256;

/// What the names of the relay's own cookies begin with.
const OWN_PREFIXES: [&[u8]; 2] = [b"__Host-token-relay-", b"token-relay-"];

/// The platform's accounts.
pub struct Accounts {
    service: ServiceClient,
    url: Url,
    /// `Host`, `X-Forwarded-Host` and `X-Forwarded-Proto`: Django refuses other hosts, and redirects
    /// what did not come over HTTPS.
    host: HeaderValue,
    proto: HeaderValue,
    user_id_field: String,
    /// A cookie of ours beside those with our prefix.
    session_cookie: String,
}

/// Who a browser is on the platform.
#[derive(Clone, Debug)]
pub(super) struct PlatformAccount {
    pub(super) user_id: String,
    /// What the platform says of the person.
    pub(super) fields: Map<String, Value>,
}

/// Why the account is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    /// The browser is not logged in on the platform, or the account is not active.
    #[error("not logged in")]
    NotLoggedIn,
    /// The platform gives no answer that can be used; the cause has been logged.
    #[error("the platform gives no account")]
    Unavailable,
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{}", .0.chain())]
    Service(#[from] ServiceError),
    #[error("the cookies do not fit a request")]
    Request,
    #[error("status {0}, expected 200")]
    Status(StatusCode),
    #[error("the answer is not a JSON object")]
    NotJson,
    #[error("the answer has no text or integer `{0}` (MEET_USER_ID_FIELD)")]
    NoUserId(String),
}

impl Accounts {
    /// The accounts at `url`, of a platform that browsers reach at `public_url`.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn new(
        url: Url,
        authorities: Authorities,
        public_url: &Url,
        user_id_field: String,
        session_cookie: String,
    ) -> Result<Self, reqwest::Error> {
        let host = public_url.host_str().unwrap_or_default();
        let host =
            public_url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Ok(Self {
            service: ServiceClient::new(TIMEOUT, MAX_ANSWER, authorities)?,
            url,
            host: value(&host),
            proto: value(public_url.scheme()),
            user_id_field,
            session_cookie,
        })
    }

    /// The URL that is asked; it names the platform.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether a request has a cookie that may belong to the platform.
    pub(super) fn has_cookies(&self, headers: &HeaderMap) -> bool {
        !self.platform_cookies(headers).is_empty()
    }

    /// The cookies of a request without the relay's own, which are nobody else's business.
    fn platform_cookies(&self, headers: &HeaderMap) -> Vec<u8> {
        let is_own = |pair: &&[u8]| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            name == self.session_cookie.as_bytes()
                || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let pairs = headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
            .map(<[u8]>::trim_ascii)
            .filter(|pair| !pair.is_empty() && !is_own(pair));
        pairs.collect::<Vec<_>>().join(&b"; "[..])
    }

    /// The account of the browser with these headers.
    ///
    /// # Errors
    /// [`AccountError`].
    pub(super) async fn of(
        &self,
        headers: &HeaderMap,
        trace: &Trace,
    ) -> Result<PlatformAccount, AccountError> {
        let call = trace.child("account", Kind::Client);
        match self.ask(headers, &call).await {
            Ok(Some(account)) => Ok(account),
            Ok(None) => Err(AccountError::NotLoggedIn),
            Err(unusable) => {
                call.failed("unavailable");
                tracing::error!(
                    setting = "MEET_ACCOUNT_URL",
                    cause = %unusable,
                    "the platform gives no account; the session stays as it is"
                );
                Err(AccountError::Unavailable)
            }
        }
    }

    async fn ask(
        &self,
        headers: &HeaderMap,
        call: &Trace,
    ) -> Result<Option<PlatformAccount>, Unusable> {
        let cookies = HeaderValue::from_bytes(&self.platform_cookies(headers));
        let mut request = reqwest::Request::new(Method::GET, self.url.clone());
        let sent = request.headers_mut();
        sent.insert(header::HOST, self.host.clone());
        sent.insert("x-forwarded-host", self.host.clone());
        sent.insert("x-forwarded-proto", self.proto.clone());
        sent.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        sent.insert(header::COOKIE, cookies.map_err(|_| Unusable::Request)?);
        if let Some(value) = call.context().and_then(|context| context.to_header()) {
            sent.insert(TRACEPARENT, value);
        }
        let answer = self.service.call(request).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(None),
            status => return Err(Unusable::Status(status)),
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(answer.body()).map_err(|_| Unusable::NotJson)?;
        let user_id = match fields.get(&self.user_id_field) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
            _ => None,
        };
        let user_id = user_id.filter(|id| (1..=MAX_USER_ID).contains(&id.len()));
        let user_id = user_id.ok_or_else(|| Unusable::NoUserId(self.user_id_field.clone()))?;
        tracing::debug!(user = ?Digest::of(user_id.as_bytes()), "the platform names the account");
        Ok(Some(PlatformAccount { user_id, fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relays_own_cookies_stay_here() {
        let url = || Url::parse("https://meet.example/api/v1.0/users/me/").unwrap();
        let accounts = Accounts::new(
            url(),
            Authorities::default(),
            &url(),
            "id".to_owned(),
            "addonsSid".to_owned(),
        )
        .unwrap();
        let headers = |lines: &[&[u8]]| -> HeaderMap {
            let values = lines.iter().map(|line| HeaderValue::from_bytes(line).unwrap());
            values.map(|value| (header::COOKIE, value)).collect()
        };
        for (lines, expected) in [
            (&[&b"meet_sessionid=a; csrftoken=b"[..]][..], &b"meet_sessionid=a; csrftoken=b"[..]),
            (&[b"addonsSid=s; meet_sessionid=a;addonsSid2=c"], b"meet_sessionid=a; addonsSid2=c"),
            (&[b"__Host-token-relay-browser=x;__Host-token-relay-reader-y=z; a=b"], b"a=b"),
            (&[b"token-relay-login=x", b"token-relay-dialog-y=z", b"a=\xe9"], b"a=\xe9"),
            (&[b"addonsSid=s; addonsSid = t; token-relay-login"], b""),
            (&[], b""),
        ] {
            assert_eq!(accounts.platform_cookies(&headers(lines)), expected, "{lines:?}");
            assert_eq!(accounts.has_cookies(&headers(lines)), !expected.is_empty());
        }
    }
}
