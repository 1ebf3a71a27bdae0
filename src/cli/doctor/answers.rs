//! What arrives of the relay's answers: errors, methods, large requests, the headers of the dialog,
//! and whether one or several instances answer.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use serde_json::Value;
use token_relay_client::api::CreateResponse;
use url::Url;

use super::{Doctor, Fault, Session, Unusable, finding};
use crate::{api::paths, http::error::PROBLEM_JSON, oidc::Severity};

/// Requests that look for different instances, each on a connection of its own.
const REQUESTS: usize = 4;

/// Size of a large request body in bytes, less than the default of `MAX_BODY`.
const LARGE_BODY: usize = 12 * 1024;

/// Length of a long query in characters: an authorization code of some providers has 2 000.
const LONG_QUERY: usize = 2500;

/// Whether an answer is an error in the relay's own form (RFC 9457).
pub(super) fn is_problem(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    content_type.is_some_and(|it| it.starts_with(PROBLEM_JSON))
}

/// Every value of a header, in order.
fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

impl Doctor {
    /// Whether all instances are of one version and publish the same keys.
    pub(super) async fn instances(&mut self) {
        let (mut versions, mut keys) = (BTreeSet::new(), Vec::<BTreeSet<String>>::new());
        // One after the other: a proxy that takes turns takes them by request.
        for _ in 0..REQUESTS {
            if let Some(document) = self.document(paths::OPENAPI).await {
                versions.extend(document["info"]["version"].as_str().map(str::to_owned));
            }
        }
        for _ in 0..REQUESTS {
            let set = self.document(paths::JWKS).await.unwrap_or_default();
            let set = set["keys"].as_array().into_iter().flatten();
            let ids: BTreeSet<_> =
                set.filter_map(|key| Some(key["kid"].as_str()?.to_owned())).collect();
            if !ids.is_empty() {
                keys.push(ids);
            }
        }
        self.versions(&versions);
        let other = keys.iter().skip(1).find(|ids| keys.first().is_some_and(|it| it != *ids));
        match (keys.first(), other) {
            // While keys are rotated, instances share one of them.
            (Some(first), Some(other)) if first.is_disjoint(other) => self.misset(
                Severity::Error,
                "instances",
                "several instances answer and sign with different keys: a token of one is refused \
                 by the others",
                "the same SIGNING_KEY, SEALING_KEYS, COOKIE_KEYS and REDIS_URL at every instance"
                    .to_owned(),
            ),
            (Some(_), Some(_)) => {
                self.note("instances", "instances publish different sets of keys: a rotation");
            }
            _ => {}
        }
    }

    async fn document(&self, path: &str) -> Option<Value> {
        let answer = self.ask_anew(path).await.ok()?;
        serde_json::from_slice(answer.body()).ok()
    }

    fn versions(&mut self, versions: &BTreeSet<String>) {
        let own = env!("CARGO_PKG_VERSION");
        let minor =
            |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
        let names = versions.iter().map(String::as_str).collect::<Vec<_>>();
        match names.as_slice() {
            [] => self.note("version", format!("{} is not served", paths::OPENAPI)),
            [version] if minor(version) == minor(own) => {
                self.note("version", format!("{version}; this program is {own}"));
            }
            [version] => self.misset(
                Severity::Warning,
                "version",
                &format!("the relay is {version}, this program {own}; checks may not fit"),
                "run doctor of the relay's version".to_owned(),
            ),
            several => self.misset(
                Severity::Warning,
                "version",
                &format!("instances of different versions answer: {}", several.join(", ")),
                "finish the upgrade, or remove the instances of the other version".to_owned(),
            ),
        }
    }

    /// Whether an answer is one of the relay, or of a proxy that lets requests pass to it, in which
    /// case it may have one of the statuses `other`.
    pub(super) fn is_let_in(
        &self,
        answer: &Response<Vec<u8>>,
        other: &[StatusCode],
    ) -> Result<(), Unusable> {
        let status = answer.status();
        let is_ours = is_problem(answer.headers()) || other.contains(&status);
        let (check, severity, fault, what) = match status.as_u16() {
            _ if is_ours => return Ok(()),
            429 | 503 => ("limit", Severity::Warning, Fault::RateLimit, "limits requests"),
            401 | 403 | 407 => ("access", Severity::Error, Fault::Access, "lets nobody in"),
            300..=399 => ("access", Severity::Error, Fault::Access, "leads elsewhere"),
            _ => return Ok(()),
        };
        let text = format!("the proxy {what} in place of the relay: it answers {status}");
        Err(Unusable(self.diagnosis(severity, check, fault, &text)))
    }

    /// Whether errors and large requests pass; gives whether errors do.
    pub(super) async fn errors(&mut self) -> Result<bool, Unusable> {
        let json = [(header::CONTENT_TYPE, "application/json")];
        // It is no object, and so creates nothing.
        let answer = self.ask(Method::POST, paths::SESSIONS, &json, b"[".to_vec()).await;
        match answer {
            Ok(answer) if answer.status().is_client_error() && is_problem(answer.headers()) => {
                self.note("errors", "arrive as the relay sends them");
            }
            Ok(answer) => {
                self.is_let_in(&answer, &[])?;
                let content_type = values(answer.headers(), &header::CONTENT_TYPE).join(", ");
                let text = format!(
                    "an error of the relay arrives as {} {content_type} in place of 400 \
                     {PROBLEM_JSON}: clients cannot say what is wrong",
                    answer.status()
                );
                self.fault(Severity::Warning, "errors", Fault::Errors, &text);
                return Ok(false);
            }
            Err(error) => {
                self.found.push(finding(Severity::Warning, "errors", error));
                return Ok(false);
            }
        }
        let mut large = vec![b' '; LARGE_BODY];
        large[0] = b'[';
        let refused = match self.ask(Method::POST, paths::SESSIONS, &json, large).await {
            Ok(answer) if is_problem(answer.headers()) => None,
            Ok(answer) => Some(format!("is answered {}", answer.status())),
            Err(error) => Some(format!("is not answered: {error}")),
        };
        match refused {
            None => self.note("body", format!("a request of {LARGE_BODY} bytes passes")),
            Some(how) => {
                let text = format!(
                    "a request of {LARGE_BODY} bytes {how}, while the relay takes MAX_BODY"
                );
                self.fault(Severity::Warning, "body", Fault::BodySize, &text);
            }
        }
        Ok(true)
    }

    /// Whether a session can be read, wherever the requests arrive.
    pub(super) async fn session(&self, session: &Session) -> Result<(), Unusable> {
        let path = paths::of_session(paths::SESSION, session.id.expose());
        let bearer = format!("Bearer {}", session.token.expose());
        let headers = [(header::AUTHORIZATION, bearer.as_str())];
        for _ in 0..REQUESTS {
            let answer = self.ask_on(&self.anew, Method::GET, &path, &headers, Vec::new()).await;
            let answer = answer.map_err(|error| {
                Unusable(finding(Severity::Error, "session", format!("cannot be read: {error}")))
            })?;
            self.is_let_in(&answer, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN])?;
            match answer.status() {
                status if status.is_success() => {}
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let text = "the Authorization header does not reach the relay: a session \
                        cannot be read with its token";
                    let fault = Fault::Authorization;
                    return Err(Unusable(self.diagnosis(
                        Severity::Error,
                        "authorization",
                        fault,
                        text,
                    )));
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    let text = "a session that was just created is unknown: several instances \
                        answer that do not share a store";
                    let mend = Some("REDIS_URL, the same at every instance".to_owned());
                    let found = finding(Severity::Error, "instances", text);
                    return Err(Unusable(super::Diagnosis { mend, ..found }));
                }
                status => {
                    let text = format!("cannot be read: {status}");
                    return Err(Unusable(finding(Severity::Error, "session", text)));
                }
            }
        }
        Ok(())
    }

    /// What arrives of the first page of the dialog.
    pub(super) async fn dialog(&mut self, created: &CreateResponse) {
        let check = "dialog";
        let below = |url: &Url| {
            let path = url.path().strip_prefix(self.base.path())?;
            Some(format!("/{path}?{}", url.query().unwrap_or_default()))
        };
        let Some(path) = Url::parse(&created.transit_url).ok().as_ref().and_then(below) else {
            return;
        };
        let answer = match self.get(&path).await {
            Ok(answer) => answer,
            Err(error) => return self.found.push(finding(Severity::Error, check, error)),
        };
        if answer.status().is_redirection() {
            return self.note(check, "not looked at: it begins at the provider");
        }
        if answer.status() != StatusCode::OK {
            let text = format!("its first page is answered {}", answer.status());
            let fault = Fault::AnswerHeaders;
            return self.fault(Severity::Error, check, fault, &text);
        }
        let headers = answer.headers();
        let mut wrong = Vec::new();
        let opener = values(headers, &HeaderName::from_static("cross-origin-opener-policy"));
        if opener.iter().any(|value| !value.starts_with("unsafe-none")) {
            wrong.push(format!(
                "it has Cross-Origin-Opener-Policy: {}, so that it cannot ask the add-in for its \
                 proof",
                opener.join(", ")
            ));
        }
        // Of several values browsers take the last that they know.
        let referrer = values(headers, &header::REFERRER_POLICY).join(",");
        if referrer.rsplit(',').next().is_none_or(|last| last.trim() != "same-origin") {
            wrong.push(format!(
                "it has Referrer-Policy: {referrer} in place of same-origin, so that browsers send \
                 its forms with Origin: null, which the relay refuses"
            ));
        }
        let policies = values(headers, &header::CONTENT_SECURITY_POLICY);
        let is_ours = |policy: &String| policy.starts_with("default-src 'none'");
        if policies.len() != 1 || !policies.iter().all(is_ours) {
            wrong.push(format!(
                "it has {} Content-Security-Policy in place of the relay's one",
                policies.len()
            ));
        }
        let cookies = headers.contains_key(header::SET_COOKIE);
        let caching = values(headers, &header::CACHE_CONTROL).join(", ");
        for text in &wrong {
            let text = format!("the dialog's page was changed on its way: {text}");
            self.fault(Severity::Error, check, Fault::PageHeaders, &text);
        }
        if !cookies {
            let text = "the cookie of the dialog does not arrive";
            self.fault(Severity::Error, "cookies", Fault::Cookies, text);
        }
        self.caching(&caching);
        let query = "x".repeat(LONG_QUERY);
        let refused = match self.get(&format!("{path}&code={query}")).await {
            Ok(answer) if answer.status() == StatusCode::OK => None,
            Ok(answer) => Some(format!("is answered {}", answer.status())),
            Err(error) => Some(format!("is not answered: {error}")),
        };
        match refused {
            None if wrong.is_empty() => {
                self.note(check, "its page arrives with the relay's headers; a long query passes");
            }
            None => {}
            Some(how) => {
                let text = format!(
                    "a query of {LONG_QUERY} characters {how}; providers send codes of that length"
                );
                self.fault(Severity::Error, "query", Fault::Query, &text);
            }
        }
    }

    fn caching(&mut self, value: &str) {
        if !value.contains("no-store") || value.contains("max-age") {
            let text = format!(
                "answers may be stored on their way: Cache-Control is {value:?} in place of no-store"
            );
            self.fault(Severity::Warning, "cache", Fault::Cache, &text);
        }
    }
}
