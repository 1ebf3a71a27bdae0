//! Asks the operator's own service before a token is issued (`CLAIMS_HOOK_URL`): whether the account
//! may have one, and with which claims and scope.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    api::Secret,
    session::{Failure, Identity},
    telemetry::{Kind, TRACEPARENT, Trace},
    token::{Issuer, MeetSubject, is_registered_claim},
    util::http_client::{Authorities, ServiceClient, ServiceError},
};

/// Timeout of one call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of an answer in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Maximum length of a description that is shown to the person, in characters.
const MAX_DESCRIPTION: usize = 300;

/// Claim of the ID of the account on the platform.
const USER_ID: &str = "user_id";

/// The operator's service.
pub struct ClaimsHook {
    service: ServiceClient,
    url: Url,
    secret: ArcSwap<Secret>,
}

/// An account that is about to get a token, as the service is asked about it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Candidate<'a> {
    /// The provider's `iss`.
    pub iss: &'a str,
    /// The provider's `sub`.
    pub sub: &'a str,
    /// What the provider says of the person.
    pub claims: &'a Map<String, Value>,
    /// The client that the token is for.
    pub client_id: &'a str,
    /// What the client is called, or calls itself.
    pub client_name: Option<&'a str>,
    /// Where the sign-in was begun.
    pub origin: Option<&'a str>,
    /// Whether a proof of the dialog shows that it was begun there.
    pub origin_proved: bool,
    /// The scope of the token.
    pub scope: &'a str,
    /// How the provider authenticated the person.
    pub acr: Option<&'a str>,
    /// When, in seconds since the Unix epoch.
    pub auth_time: Option<u64>,
}

/// What the service decided. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Admission {
    #[serde(default)]
    claims: Option<Map<String, Value>>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
}

/// Why no token is issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// The service refuses the account.
    #[error("the claims hook refuses the account")]
    Denied {
        /// What it says to the person.
        description: Option<String>,
    },
    /// The service gives no answer that can be used; the cause has been logged.
    #[error("the claims hook gives no answer")]
    Unavailable,
}

impl HookError {
    /// What the reader of the session learns.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Denied { description } => {
                let description = description.as_deref();
                Failure::new("access_denied", description.unwrap_or("The account may not sign in."))
            }
            Self::Unavailable => Failure::new(
                "temporarily_unavailable",
                "It cannot be decided now whether the account may sign in.",
            ),
        }
    }
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{}", .0.chain())]
    Service(#[from] ServiceError),
    #[error("status {0}, expected 200 or 403")]
    Status(StatusCode),
    #[error("the answer is not the JSON that is expected (line {0}, column {1})")]
    NotJson(usize, usize),
    #[error("the request cannot be written")]
    Request,
}

/// Body of a refusal.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error_description: Option<String>,
}

impl ClaimsHook {
    /// The service at `url`, which recognises the relay by `secret`.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn new(url: Url, secret: Secret, authorities: Authorities) -> Result<Self, reqwest::Error> {
        Ok(Self {
            service: ServiceClient::new(TIMEOUT, MAX_ANSWER, authorities)?,
            url,
            secret: ArcSwap::from_pointee(secret),
        })
    }

    /// Sends another secret from now on.
    pub fn replace_secret(&self, secret: Secret) {
        self.secret.store(Arc::new(secret));
    }

    /// Asks whether `candidate` may have a token.
    ///
    /// # Errors
    /// [`HookError`]: then it may not.
    pub async fn ask(
        &self,
        candidate: Candidate<'_>,
        trace: &Trace,
    ) -> Result<Admission, HookError> {
        let call = trace.child("claims hook", Kind::Client);
        match self.call(candidate, &call).await {
            Ok(decided) => decided,
            Err(unusable) => {
                call.failed("unavailable");
                tracing::error!(
                    setting = "CLAIMS_HOOK_URL",
                    client_id = candidate.client_id,
                    cause = %unusable,
                    "the claims hook gives no answer; no token is issued"
                );
                Err(HookError::Unavailable)
            }
        }
    }

    async fn call(
        &self,
        candidate: Candidate<'_>,
        call: &Trace,
    ) -> Result<Result<Admission, HookError>, Unusable> {
        let body = serde_json::to_vec(&candidate).map_err(|_| Unusable::Request)?;
        let authorization = format!("Bearer {}", self.secret.load().expose());
        let mut authorization =
            HeaderValue::from_str(&authorization).map_err(|_| Unusable::Request)?;
        authorization.set_sensitive(true);
        let mut request = reqwest::Request::new(Method::POST, self.url.clone());
        *request.body_mut() = Some(body.into());
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json.clone());
        headers.insert(header::ACCEPT, json);
        headers.insert(header::AUTHORIZATION, authorization);
        if let Some(value) = call.context().and_then(|context| context.to_header()) {
            headers.insert(TRACEPARENT, value);
        }
        let answer = self.service.call(request).await?;
        match answer.status() {
            StatusCode::OK => {
                // An array would be taken for the members in their order.
                let members: Map<String, Value> = serde_json::from_slice(answer.body())
                    .map_err(|error| Unusable::NotJson(error.line(), error.column()))?;
                serde_json::from_value(Value::Object(members))
                    .map(Ok)
                    .map_err(|error| Unusable::NotJson(error.line(), error.column()))
            }
            StatusCode::FORBIDDEN => {
                // A refusal is one whatever it says.
                let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
                let description = refusal.error_description.map(|text| {
                    let printable = text.chars().filter(|letter| !letter.is_control());
                    printable.take(MAX_DESCRIPTION).collect::<String>()
                });
                let description = description.filter(|text| !text.trim().is_empty());
                Ok(Err(HookError::Denied { description }))
            }
            status => Err(Unusable::Status(status)),
        }
    }
}

impl Admission {
    /// `granted` without the scopes that the service takes away. It can add none.
    fn narrow(&self, granted: &str) -> String {
        let Some(scope) = &self.scope else { return granted.to_owned() };
        let stays = |granted: &&str| scope.split_whitespace().any(|scope| scope == *granted);
        granted.split_whitespace().filter(stays).collect::<Vec<_>>().join(" ")
    }

    /// What a token of the meet-compatible surface is issued for: the account `user_id` with `scope`,
    /// unless the service decided otherwise.
    pub fn meet_subject(self, user_id: String, scope: &str) -> MeetSubject {
        MeetSubject {
            scope: self.narrow(scope),
            user_id: self.user_id.unwrap_or(user_id),
            claims: self.claims.unwrap_or_default(),
        }
    }

    /// `issuer` and `identity` with what was decided. Registered claims stay as they are; a claim of
    /// the provider that is `null` here is left out.
    pub(super) fn apply(&self, issuer: &mut Issuer, identity: &mut Identity) {
        issuer.scope = self.narrow(&issuer.scope);
        let user_id = self.user_id.clone().map(|id| (USER_ID.to_owned(), Value::String(id)));
        for (name, value) in self.claims.clone().unwrap_or_default().into_iter().chain(user_id) {
            if is_registered_claim(&name) {
                tracing::warn!(claim = name, "the claims hook cannot set a registered claim");
            } else if value.is_null() {
                identity.claims.remove(&name);
            } else {
                if !issuer.claims.contains(&name) {
                    issuer.claims.push(name.clone());
                }
                identity.claims.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::ClientId;

    fn applied(admission: Value) -> (Issuer, Identity) {
        let admission: Admission = serde_json::from_value(admission).unwrap();
        let mut issuer = Issuer {
            issuer: "https://relay.example".to_owned(),
            audience: vec!["api".to_owned()],
            client_id: ClientId::implied(),
            scope: "rooms:read rooms:create".to_owned(),
            ttl: Duration::from_secs(60),
            claims: vec!["email".to_owned()],
        };
        let Value::Object(claims) = json!({"email": "a@example.org", "name": "A"}) else {
            unreachable!()
        };
        let mut identity = Identity::new("alice", claims);
        admission.apply(&mut issuer, &mut identity);
        (issuer, identity)
    }

    #[test]
    fn claims_are_added_and_replaced_and_registered_ones_are_not() {
        let (issuer, identity) = applied(json!({
            "claims": {
                "email": "b@example.org", "tenant": {"id": 7}, "name": null,
                "sub": "root", "iss": "evil", "aud": "other", "exp": 1, "client_id": "x",
                "scope": "admin", "idp": "backend", "cnf": {}, "sid": "s",
            },
            "user_id": "7e0f",
            "unknown": true,
        }));
        assert_eq!(issuer.claims, ["email", "tenant", "user_id"]);
        assert_eq!(
            Value::Object(identity.claims),
            json!({"email": "b@example.org", "tenant": {"id": 7}, "user_id": "7e0f"})
        );
        assert_eq!(
            (identity.subject.as_str(), issuer.scope.as_str()),
            ("alice", "rooms:read rooms:create")
        );
    }

    #[test]
    fn scope_is_only_narrowed() {
        for (scope, expected) in [
            (json!("rooms:create"), "rooms:create"),
            (json!("admin  rooms:create rooms:read"), "rooms:read rooms:create"),
            (json!("admin"), ""),
            (json!(""), ""),
            (json!(null), "rooms:read rooms:create"),
        ] {
            assert_eq!(applied(json!({"scope": scope})).0.scope, expected);
        }
    }
}
