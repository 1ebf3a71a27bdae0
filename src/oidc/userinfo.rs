//! The UserInfo endpoint (OpenID Connect Core §5.3), and Apple's `user` parameter, which is a
//! userinfo of its own kind.

use http::{HeaderValue, header};
use openidconnect::HttpRequest;
use serde_json::{Map, Value};
use url::Url;

use crate::oidc::{
    claims::full_name,
    error::{LoginError, Step},
    http_client::{BackChannel, Received, uri},
};

/// Asks the endpoint.
pub(crate) async fn fetch(
    http: &BackChannel,
    endpoint: &Url,
    access_token: &str,
) -> Result<Received, LoginError> {
    let step = Step::Userinfo;
    let unusable = |_| LoginError::failed(step, "the access token cannot be sent in a header");
    let mut bearer = HeaderValue::from_str(&format!("Bearer {access_token}")).map_err(unusable)?;
    bearer.set_sensitive(true);
    let mut request = HttpRequest::new(Vec::new());
    *request.uri_mut() = uri(endpoint);
    let accept = HeaderValue::from_static("application/json, application/jwt");
    request.headers_mut().insert(header::ACCEPT, accept);
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    let received = match http.send(request).await {
        Ok(response) => Received::from(response),
        Err(error) => return Err(LoginError::no_answer(step, &error)),
    };
    if received.status.is_success() {
        Ok(received)
    } else {
        Err(LoginError::bad_answer(step, &received, "the provider refused the access token"))
    }
}

/// The signed token in an answer, if it is one: by its media type, or by its form where the
/// provider leaves that open.
pub(crate) fn signed(received: &Received) -> Option<&str> {
    let text = std::str::from_utf8(&received.body).ok()?.trim();
    let is_token = received.media_type().as_deref() == Some("application/jwt");
    (is_token || text.starts_with("eyJ")).then_some(text)
}

/// Logs that a sign-in continues without userinfo.
pub(crate) fn log(error: &LoginError) {
    let provider = error.provider.as_ref();
    tracing::warn!(
        status = error.status,
        content_type = error.content_type.as_deref(),
        error = provider.map(|error| error.code.as_str()),
        error_description = provider.and_then(|error| error.description.as_deref()),
        field = error.field.as_deref(),
        reason = %error.reason,
        "userinfo is left out; the sign-in continues without it",
    );
}

/// Adds the name in Apple's `user` parameter. It comes through the browser and unsigned, so only
/// what the person may call themselves is taken, never the address.
pub(crate) fn add_user_parameter(user: &str, claims: &mut Map<String, Value>) {
    let Ok(Value::Object(user)) = serde_json::from_str::<Value>(user) else { return };
    let Some(Value::Object(name)) = user.get("name") else { return };
    let mut parts = Map::new();
    for (from, to) in [("firstName", "given_name"), ("lastName", "family_name")] {
        if let Some(Value::String(text)) = name.get(from) {
            parts.insert(to.to_owned(), Value::String(crate::oidc::provider_error::clean(text)));
        }
    }
    if let Some(name) = full_name(&parts) {
        claims.entry("name").or_insert(Value::String(name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_taken_from_the_user_parameter_and_nothing_else() {
        let user = json!({
            "name": {"firstName": "Ada", "lastName": "Lovelace\u{202e}"},
            "email": "victim@example.com",
        });
        let mut claims = Map::new();
        add_user_parameter(&user.to_string(), &mut claims);
        assert_eq!(Value::Object(claims), json!({"name": "Ada Lovelace"}));
        let Value::Object(mut claims) = json!({"name": "Signed"}) else { panic!() };
        add_user_parameter(&user.to_string(), &mut claims);
        assert_eq!(claims["name"], "Signed");
        for user in ["", "[]", "{}", "{\"name\":1}", "{\"name\":{\"firstName\":1}}"] {
            let mut claims = Map::new();
            add_user_parameter(user, &mut claims);
            assert!(claims.is_empty(), "{user}");
        }
    }
}
