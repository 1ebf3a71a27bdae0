//! Authentication of the relay as a client of the provider (OpenID Connect Core §9).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

use crate::oidc::{
    client_key::ClientKeys,
    error::{LoginError, Step},
    metadata::Metadata,
    options::{ClientAuth, ProviderOptions},
};

/// `client_assertion_type` of RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The method in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Basic,
    BasicRaw,
    Post,
    PrivateKeyJwt,
    None,
}

impl Method {
    /// The method that follows from the configuration and the provider's metadata.
    pub(crate) fn choose(
        configured: ClientAuth,
        has_secret: bool,
        has_key: bool,
        metadata: &Metadata,
    ) -> Result<Self, LoginError> {
        let needs = |has: bool, method: Self, setting: &str| {
            if has {
                Ok(method)
            } else {
                let reason = format!("{} needs {setting}", method.as_str());
                Err(LoginError::failed(Step::Configuration, reason))
            }
        };
        match configured {
            ClientAuth::Basic => needs(has_secret, Self::Basic, "OIDC_CLIENT_SECRET"),
            ClientAuth::BasicRaw => needs(has_secret, Self::BasicRaw, "OIDC_CLIENT_SECRET"),
            ClientAuth::Post => needs(has_secret, Self::Post, "OIDC_CLIENT_SECRET"),
            ClientAuth::PrivateKeyJwt => needs(has_key, Self::PrivateKeyJwt, "OIDC_CLIENT_KEY"),
            ClientAuth::None => Ok(Self::None),
            ClientAuth::Auto if has_key => Ok(Self::PrivateKeyJwt),
            ClientAuth::Auto if !has_secret => Ok(Self::None),
            ClientAuth::Auto => {
                let offered = metadata.token_auth_methods.as_deref();
                let offers = |method: Self| {
                    offered.is_none_or(|offered| offered.iter().any(|name| name == method.as_str()))
                };
                let known = [Self::Basic, Self::Post, Self::None];
                let chosen = known.into_iter().find(|method| offers(*method));
                chosen.ok_or_else(|| {
                    let reason = format!(
                        "the provider takes a client secret by none of the methods that the relay \
                         knows; it offers {}",
                        crate::oidc::provider_error::clean(&offered.unwrap_or_default().join(", ")),
                    );
                    LoginError::failed(Step::Discovery, reason)
                        .at("token_endpoint_auth_methods_supported")
                })
            }
        }
    }

    /// Its registered name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Basic | Self::BasicRaw => "client_secret_basic",
            Self::Post => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::None => "none",
        }
    }

    /// Its name with what distinguishes it in the log.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Basic => "client_secret_basic, form-encoded (OIDC_CLIENT_AUTH=basic)",
            Self::BasicRaw => "client_secret_basic, not encoded (OIDC_CLIENT_AUTH=basic_raw)",
            Self::Post => "client_secret_post (OIDC_CLIENT_AUTH=post)",
            Self::PrivateKeyJwt => "private_key_jwt (OIDC_CLIENT_AUTH=private_key_jwt)",
            Self::None => "none: no credential (OIDC_CLIENT_AUTH=none)",
        }
    }

    /// Whether it sends a signed assertion.
    pub(crate) fn sends_assertion(self) -> bool {
        self == Self::PrivateKeyJwt
    }

    /// Whether it sends a client secret.
    pub(crate) fn sends_secret(self) -> bool {
        matches!(self, Self::Basic | Self::BasicRaw | Self::Post)
    }
}

/// What goes into a request: a header or fields of the form.
#[derive(Default)]
pub(crate) struct ClientCredentials {
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl ClientCredentials {
    /// What `method` sends, `client_id` included where the form must name it.
    pub(crate) fn new(
        method: Method,
        options: &ProviderOptions,
        secret: Option<&str>,
        keys: &ClientKeys,
        metadata: &Metadata,
    ) -> Result<Self, LoginError> {
        let id = options.client_id.as_str();
        let secret = secret.unwrap_or_default();
        let header = |id: &str, secret: &str| {
            let value = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
            HeaderValue::from_str(&value).ok().map(|mut value| {
                value.set_sensitive(true);
                value
            })
        };
        Ok(match method {
            Method::Basic => {
                Self { authorization: header(&encoded(id), &encoded(secret)), ..Self::default() }
            }
            Method::BasicRaw => Self { authorization: header(id, secret), ..Self::default() },
            Method::Post => Self {
                fields: vec![("client_id", id.to_owned()), ("client_secret", secret.to_owned())],
                ..Self::default()
            },
            Method::PrivateKeyJwt => {
                let issuer = metadata.issuer.as_str();
                let audience = options.assertion_audience.as_deref().unwrap_or(issuer);
                let offered = metadata.token_auth_algorithms.as_deref();
                let assertion = keys.assertion(id, audience, offered).ok_or_else(|| {
                    LoginError::failed(Step::Configuration, "OIDC_CLIENT_KEY does not sign")
                })?;
                Self {
                    fields: vec![
                        ("client_id", id.to_owned()),
                        ("client_assertion_type", ASSERTION_TYPE.to_owned()),
                        ("client_assertion", assertion),
                    ],
                    ..Self::default()
                }
            }
            Method::None => Self { fields: vec![("client_id", id.to_owned())], ..Self::default() },
        })
    }
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
