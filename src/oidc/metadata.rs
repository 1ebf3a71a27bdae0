//! The provider's metadata (OpenID Connect Discovery §3): read leniently, with a warning for
//! whatever is not as the specification has it and could be read all the same.

use serde_json::{Map, Value};
use url::Url;

use crate::oidc::{
    error::{LoginError, Step},
    options::lists,
};

/// Where an issuer that serves many tenants names the tenant (Microsoft Entra).
const TENANT: &str = "{tenantid}";

/// The metadata's issuer: one, or a template for those of many tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProviderIssuer(String);

impl ProviderIssuer {
    /// The issuer as text; a template where it is one.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it serves many tenants.
    pub(crate) fn is_template(&self) -> bool {
        self.0.contains(TENANT)
    }

    /// The issuer of a tenant.
    pub(crate) fn of_tenant(&self, tenant: &str) -> String {
        self.0.replace(TENANT, tenant)
    }

    /// The one path segment that makes this template `text`.
    fn tenant_in<'t>(&self, text: &'t str) -> Option<&'t str> {
        let (before, after) = self.0.split_once(TENANT)?;
        let tenant = text.strip_prefix(before)?.strip_suffix(after)?;
        (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
    }

    /// Whether an `iss` parameter (RFC 9207) names this issuer.
    pub(crate) fn is_named_by(&self, text: &str) -> bool {
        self.0 == text || self.tenant_in(text).is_some()
    }

    /// Whether the configured issuer is this one: exactly, save for a slash at the end,
    /// which is lost in both directions in practice. Both are at the same place, so that nobody
    /// else can be meant.
    fn fits(&self, configured: &str) -> bool {
        let plain = |text: &str| text.trim_end_matches('/').to_owned();
        plain(&self.0) == plain(configured) || self.tenant_in(configured).is_some()
    }
}

/// What the relay uses of the metadata.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) issuer: ProviderIssuer,
    pub(crate) authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) jwks_uri: Option<Url>,
    pub(crate) userinfo_endpoint: Option<Url>,
    pub(crate) end_session_endpoint: Option<Url>,
    /// RFC 9126 §5.
    pub(crate) par_endpoint: Option<Url>,
    pub(crate) requires_par: bool,
    /// RFC 9207 §3.
    pub(crate) promises_iss: bool,
    pub(crate) signing_algorithms: Option<Vec<String>>,
    pub(crate) token_auth_methods: Option<Vec<String>>,
    pub(crate) token_auth_algorithms: Option<Vec<String>>,
    pub(crate) ui_locales: Option<Vec<String>>,
    pub(crate) prompt_values: Option<Vec<String>>,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) claims: Option<Vec<String>>,
    pub(crate) response_modes: Option<Vec<String>>,
    pub(crate) challenge_methods: Option<Vec<String>>,
    /// What is not as the specification has it, each in a sentence that names the member.
    pub(crate) warnings: Vec<String>,
}

impl Metadata {
    /// Reads what the provider at `configured` says of itself.
    pub(crate) fn parse(json: &Map<String, Value>, configured: &Url) -> Result<Self, LoginError> {
        let mut reader = Reader { json, warnings: Vec::new() };
        let issuer = match json.get("issuer") {
            Some(Value::String(issuer)) => ProviderIssuer(issuer.clone()),
            _ => {
                return Err(
                    LoginError::failed(Step::Discovery, "the metadata name no issuer").at("issuer")
                );
            }
        };
        if !issuer.fits(configured.as_str()) {
            let reason = format!(
                "the metadata are those of the issuer {}, not of OIDC_ISSUER {configured}",
                crate::oidc::provider_error::clean(issuer.as_str()),
            );
            return Err(LoginError::failed(Step::Discovery, reason).at("issuer"));
        }
        let metadata = Self {
            authorization_endpoint: reader.required_url("authorization_endpoint")?,
            token_endpoint: reader.required_url("token_endpoint")?,
            jwks_uri: reader.url("jwks_uri"),
            userinfo_endpoint: reader.url("userinfo_endpoint"),
            end_session_endpoint: reader.url("end_session_endpoint"),
            par_endpoint: reader.url("pushed_authorization_request_endpoint"),
            requires_par: reader.flag("require_pushed_authorization_requests"),
            promises_iss: reader.flag("authorization_response_iss_parameter_supported"),
            signing_algorithms: reader.list("id_token_signing_alg_values_supported"),
            token_auth_methods: reader.list("token_endpoint_auth_methods_supported"),
            token_auth_algorithms: reader.list("token_endpoint_auth_signing_alg_values_supported"),
            ui_locales: reader.list("ui_locales_supported"),
            prompt_values: reader.list("prompt_values_supported"),
            scopes: reader.list("scopes_supported"),
            claims: reader.list("claims_supported"),
            response_modes: reader.list("response_modes_supported"),
            challenge_methods: reader.list("code_challenge_methods_supported"),
            warnings: Vec::new(),
            issuer,
        };
        reader.look_at_the_rest();
        for (name, endpoint) in [
            ("authorization_endpoint", Some(&metadata.authorization_endpoint)),
            ("token_endpoint", Some(&metadata.token_endpoint)),
            ("jwks_uri", metadata.jwks_uri.as_ref()),
            ("userinfo_endpoint", metadata.userinfo_endpoint.as_ref()),
        ] {
            let is_plain = endpoint.is_some_and(|endpoint| endpoint.scheme() != "https");
            if is_plain && configured.scheme() == "https" {
                reader.warn(name, "is not https, though the issuer is");
            }
        }
        Ok(Self { warnings: reader.warnings, ..metadata })
    }

    /// Whether the provider takes a value of `prompt`, as far as it says.
    pub(crate) fn may_prompt(&self, value: &str) -> bool {
        lists(self.prompt_values.as_deref(), value).unwrap_or(true)
    }
}

/// Reads single members and remembers what is wrong with them.
struct Reader<'j> {
    json: &'j Map<String, Value>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn warn(&mut self, name: &str, problem: &str) {
        self.warnings.push(format!("{name} {problem}"));
    }

    /// A URL; one that is none counts as absent.
    fn url(&mut self, name: &str) -> Option<Url> {
        match self.json.get(name)? {
            Value::Null => None,
            Value::String(text) if text.is_empty() => {
                self.warn(name, "is empty and counts as absent");
                None
            }
            Value::String(text) => match Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => Some(url),
                _ => {
                    self.warn(name, "is not an https URL and counts as absent");
                    None
                }
            },
            _ => {
                self.warn(name, "is not text and counts as absent");
                None
            }
        }
    }

    fn required_url(&mut self, name: &'static str) -> Result<Url, LoginError> {
        self.url(name).ok_or_else(|| {
            LoginError::failed(Step::Discovery, "the metadata lack a usable URL").at(name)
        })
    }

    /// A boolean; one that is written as text counts as what it says.
    fn flag(&mut self, name: &str) -> bool {
        match self.json.get(name) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) => {
                self.warn(name, "is a boolean written as text");
                text.eq_ignore_ascii_case("true")
            }
            Some(Value::Null) | None => false,
            Some(_) => {
                self.warn(name, "is not a boolean and counts as false");
                false
            }
        }
    }

    /// A list of texts; one that is written as a text counts as its words. An empty one counts as
    /// absent: the specification has empty lists left out.
    fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let list = match self.json.get(name)? {
            Value::Array(entries) => {
                entries.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
            }
            Value::String(text) => {
                self.warn(name, "is a list written as text");
                text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
            }
            Value::Null => Vec::new(),
            _ => {
                self.warn(name, "is not a list and counts as absent");
                return None;
            }
        };
        (!list.is_empty()).then_some(list)
    }

    /// Members that the relay does without, so that their faults are named too.
    fn look_at_the_rest(&mut self) {
        const REQUIRED: [&str; 4] = [
            "response_types_supported",
            "subject_types_supported",
            "id_token_signing_alg_values_supported",
            "jwks_uri",
        ];
        for name in REQUIRED {
            if self.json.get(name).is_none_or(Value::is_null) {
                self.warn(name, "is missing");
            }
        }
        const URLS: [&str; 5] = [
            "op_policy_uri",
            "op_tos_uri",
            "service_documentation",
            "registration_endpoint",
            "check_session_iframe",
        ];
        for name in URLS {
            self.url(name);
        }
        const FLAGS: [&str; 6] = [
            "claims_parameter_supported",
            "request_parameter_supported",
            "request_uri_parameter_supported",
            "require_request_uri_registration",
            "backchannel_logout_supported",
            "backchannel_logout_session_supported",
        ];
        for name in FLAGS {
            self.flag(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(change: Value) -> Result<Metadata, LoginError> {
        let mut json = json!({
            "issuer": "https://login.example",
            "authorization_endpoint": "https://login.example/authorize",
            "token_endpoint": "https://login.example/token",
            "jwks_uri": "https://login.example/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        });
        json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Metadata::parse(json.as_object().unwrap(), &Url::parse("https://login.example").unwrap())
    }

    #[test]
    fn what_can_be_read_all_the_same_is_read_with_a_warning() {
        assert_eq!(read(json!({})).unwrap().warnings, Vec::<String>::new());
        for (change, warning) in [
            (json!({"subject_types_supported": null}), "subject_types_supported is missing"),
            (json!({"op_policy_uri": ""}), "op_policy_uri is empty and counts as absent"),
            (
                json!({"claims_parameter_supported": "true"}),
                "claims_parameter_supported is a boolean written as text",
            ),
            (
                json!({"token_endpoint_auth_methods_supported": "client_secret_post"}),
                "token_endpoint_auth_methods_supported is a list written as text",
            ),
            (
                json!({"userinfo_endpoint": "/userinfo"}),
                "userinfo_endpoint is not an https URL and counts as absent",
            ),
            (
                json!({"token_endpoint": "http://login.example/token"}),
                "token_endpoint is not https, though the issuer is",
            ),
        ] {
            assert_eq!(read(change.clone()).unwrap().warnings, [warning], "{change}");
        }
        let metadata = read(json!({"require_pushed_authorization_requests": "true"})).unwrap();
        assert!(metadata.requires_par);
    }

    #[test]
    fn what_is_indispensable_is_named() {
        for (change, field) in [
            (json!({"issuer": 1}), "issuer"),
            (json!({"issuer": "https://evil.example"}), "issuer"),
            (json!({"issuer": "https://login.example/{tenantid}"}), "issuer"),
            (json!({"token_endpoint": null}), "token_endpoint"),
            (json!({"authorization_endpoint": "javascript:x"}), "authorization_endpoint"),
        ] {
            let error = read(change.clone()).err().unwrap();
            assert_eq!(error.field.as_deref(), Some(field), "{change}");
            assert_eq!(error.failure().error, "server_error", "{change}");
        }
    }

    #[test]
    fn an_issuer_of_many_tenants_fits_the_place_of_one() {
        let issuer = ProviderIssuer("https://login.example/{tenantid}/v2.0".to_owned());
        assert!(issuer.is_template());
        for configured in ["common", "organizations", "8d0c1f9e-1111-2222-3333-444455556666"] {
            assert!(issuer.fits(&format!("https://login.example/{configured}/v2.0")));
        }
        for configured in [
            "https://login.example/v2.0",
            "https://login.example//v2.0",
            "https://login.example/a/b/v2.0",
            "https://evil.example/common/v2.0",
        ] {
            assert!(!issuer.fits(configured), "{configured}");
        }
        assert_eq!(issuer.of_tenant("a"), "https://login.example/a/v2.0");
        assert!(!ProviderIssuer("https://login.example/v2.0".to_owned()).is_template());
    }

    #[test]
    fn a_slash_at_the_end_does_not_matter() {
        for (issuer, configured) in [
            ("https://login.example", "https://login.example/"),
            ("https://login.example/", "https://login.example/"),
            ("https://login.example/o/app/", "https://login.example/o/app"),
            ("https://login.example/o/app", "https://login.example/o/app/"),
        ] {
            assert!(ProviderIssuer(issuer.to_owned()).fits(configured), "{issuer} {configured}");
        }
    }
}
