//! The token endpoint's answer (RFC 6749 §5.1), typed as far as the protocol needs it.

use openidconnect::{
    AccessToken, EmptyAdditionalClaims, IdToken, OAuth2TokenResponse, RefreshToken, Scope,
    TokenResponse as OpenIdTokenResponse,
    core::{
        CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreTokenType,
    },
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Access token, its type and the ID token. Every other field may have any shape.
#[derive(Serialize)]
pub(crate) struct TokenAnswer {
    access_token: AccessToken,
    token_type: CoreTokenType,
    /// As it came: the relay verifies it itself.
    pub(crate) id_token: Option<String>,
    /// The field that is wrong.
    pub(crate) wrong: Option<&'static str>,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TokenAnswer(redacted)")
    }
}

impl<'de> Deserialize<'de> for TokenAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Map::<String, Value>::deserialize(deserializer)?;
        let text = |name: &str| match json.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(()),
        };
        let mut wrong = None;
        let mut read = |name: &'static str| {
            text(name).unwrap_or_else(|()| {
                wrong = wrong.or(Some(name));
                None
            })
        };
        let (access_token, id_token) = (read("access_token"), read("id_token"));
        let token_type = read("token_type");
        if wrong.is_none() && access_token.as_ref().is_none_or(String::is_empty) {
            wrong = Some("access_token");
        }
        // A missing type is taken for the usual one; another would be a token that the relay does
        // not know how to use (§7.1).
        let is_bearer = |text: &String| text.eq_ignore_ascii_case("bearer");
        if wrong.is_none() && token_type.as_ref().is_some_and(|text| !is_bearer(text)) {
            wrong = Some("token_type");
        }
        Ok(Self {
            access_token: AccessToken::new(access_token.unwrap_or_default()),
            token_type: CoreTokenType::Bearer,
            id_token,
            wrong,
        })
    }
}

impl OAuth2TokenResponse for TokenAnswer {
    type TokenType = CoreTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &CoreTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<std::time::Duration> {
        None
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        None
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

impl
    OpenIdTokenResponse<
        EmptyAdditionalClaims,
        CoreGenderClaim,
        CoreJweContentEncryptionAlgorithm,
        CoreJwsSigningAlgorithm,
    > for TokenAnswer
{
    /// None: the library would type claims that may have any shape.
    fn id_token(
        &self,
    ) -> Option<
        &IdToken<
            EmptyAdditionalClaims,
            CoreGenderClaim,
            CoreJweContentEncryptionAlgorithm,
            CoreJwsSigningAlgorithm,
        >,
    > {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: Value) -> TokenAnswer {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn fields_that_are_not_used_may_have_any_shape() {
        let answer = read(json!({
            "access_token": "a", "id_token": "i", "token_type": "bearer",
            "scope": ["openid"], "expires_in": "3599", "refresh_token": null, "x": {"y": []},
        }));
        assert_eq!(answer.wrong, None);
        assert_eq!(
            (answer.access_token.secret().as_str(), answer.id_token.as_deref()),
            ("a", Some("i"))
        );
        assert_eq!(read(json!({"access_token": "a"})).wrong, None);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (json, field) in [
            (json!({"access_token": 1}), "access_token"),
            (json!({}), "access_token"),
            (json!({"access_token": "a", "id_token": {}}), "id_token"),
            (json!({"access_token": "a", "token_type": "DPoP"}), "token_type"),
        ] {
            assert_eq!(read(json.clone()).wrong, Some(field), "{json}");
        }
    }
}
