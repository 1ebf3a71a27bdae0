//! The pages that a person sees in the dialog: success, error, confirmation.
//!
//! Called by the dialog's handlers in `http`. Renders what it is given and sets the headers of a
//! page; knows nothing of sessions, logins and stores. Texts are in `static/locales/`, one file a
//! language: a new language is a new file.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use url::Url;

use crate::{http::assets, settings::DialogSettings};

static LOCALES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/static/locales");

/// The language for a browser that asks for none of ours.
const DEFAULT_LANGUAGE: &str = "en";

/// How much of a name from outside is shown, in characters.
const MAX_NAME_LENGTH: usize = 80;

/// The pages could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// A file in `static/locales/` is no JSON, or lacks a text.
    #[error("locale {0} is not valid: {1}")]
    Locale(String, #[source] serde_json::Error),
    /// `static/locales/en.json` is missing.
    #[error("the default locale is missing")]
    NoDefault,
}

/// Which error page to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPage {
    /// The session or its transit token is unknown or too old.
    Expired,
    /// The transit token was used before.
    Replayed,
    /// `state` or the cookie of the dialog does not match.
    WrongBrowser,
    /// The person or the provider said no (`access_denied`).
    Denied,
    /// "This is not me" was pressed.
    NotMe,
    /// The provider is down or too slow.
    LoginUnavailable,
    /// The provider answered with an error, or with something that cannot be accepted.
    LoginFailed,
    /// The login worked, but policy refuses this account.
    Refused,
    /// The relay or its store has a problem.
    Unavailable,
    /// A limit is reached.
    TooManyRequests,
    /// The request of the dialog is malformed.
    BadRequest,
}

impl ErrorPage {
    /// The HTTP status that fits.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Expired => StatusCode::NOT_FOUND,
            Self::Replayed => StatusCode::GONE,
            Self::WrongBrowser | Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Denied | Self::NotMe | Self::Refused => StatusCode::FORBIDDEN,
            Self::LoginUnavailable | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::LoginFailed => StatusCode::BAD_GATEWAY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Its name in URLs, the same as in the locale files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::WrongBrowser => "wrong_browser",
            Self::Denied => "denied",
            Self::NotMe => "not_me",
            Self::LoginUnavailable => "login_unavailable",
            Self::LoginFailed => "login_failed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::TooManyRequests => "too_many_requests",
            Self::BadRequest => "bad_request",
        }
    }

    /// Every page.
    pub const ALL: [Self; 11] = [
        Self::Expired,
        Self::Replayed,
        Self::WrongBrowser,
        Self::Denied,
        Self::NotMe,
        Self::LoginUnavailable,
        Self::LoginFailed,
        Self::Refused,
        Self::Unavailable,
        Self::TooManyRequests,
        Self::BadRequest,
    ];

    /// The page of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.as_str() == name)
    }
}

/// What the confirmation page shows and sends back.
#[derive(Clone, Copy, Debug)]
pub struct ConfirmPage<'a> {
    /// The code that the add-in shows, too (RFC 8628 §5.4).
    pub user_code: &'a str,
    /// The add-in's name by its own account.
    pub client_name: Option<&'a str>,
    /// The origin from which the session was created.
    pub origin: Option<&'a str>,
    /// Handle of the dialog; no secret.
    pub dialog: &'a str,
    /// Must come back with the form.
    pub csrf: &'a str,
    /// The provider's authorization endpoint: browsers apply `form-action` to the redirect that
    /// follows the form as well.
    pub provider: &'a Url,
}

/// A language that [`Pages`] speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(usize);

/// The pages, ready to render.
#[derive(Debug)]
pub struct Pages {
    look: Look,
    locales: Vec<Messages>,
    default_language: Language,
    policy: Policy,
    brand_css: String,
}

/// What all pages have in common.
#[derive(Debug)]
struct Look {
    name: String,
    /// Path of `PUBLIC_URL` without its trailing slash.
    base: String,
    /// Version of the static files, for their addresses.
    version: String,
    logo_url: Option<Url>,
    office_js_url: Option<Url>,
}

/// The varying parts of the content security policy.
#[derive(Debug)]
struct Policy {
    images: String,
    scripts: String,
    frame_ancestors: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Messages {
    language: String,
    success: SuccessMessages,
    confirm: ConfirmMessages,
    error: ErrorMessages,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SuccessMessages {
    title: String,
    account: String,
    client: String,
    close: String,
    close_button: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmMessages {
    title: String,
    compare: String,
    client: String,
    origin: String,
    warning: String,
    continue_button: String,
    deny_button: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorMessages {
    next: String,
    reference: String,
    expired: ErrorText,
    replayed: ErrorText,
    wrong_browser: ErrorText,
    denied: ErrorText,
    not_me: ErrorText,
    login_unavailable: ErrorText,
    login_failed: ErrorText,
    refused: ErrorText,
    unavailable: ErrorText,
    too_many_requests: ErrorText,
    bad_request: ErrorText,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorText {
    title: String,
    what: String,
    next: String,
}

impl ErrorMessages {
    fn text(&self, page: ErrorPage) -> &ErrorText {
        match page {
            ErrorPage::Expired => &self.expired,
            ErrorPage::Replayed => &self.replayed,
            ErrorPage::WrongBrowser => &self.wrong_browser,
            ErrorPage::Denied => &self.denied,
            ErrorPage::NotMe => &self.not_me,
            ErrorPage::LoginUnavailable => &self.login_unavailable,
            ErrorPage::LoginFailed => &self.login_failed,
            ErrorPage::Refused => &self.refused,
            ErrorPage::Unavailable => &self.unavailable,
            ErrorPage::TooManyRequests => &self.too_many_requests,
            ErrorPage::BadRequest => &self.bad_request,
        }
    }
}

#[derive(Template)]
#[template(path = "success.html")]
struct SuccessTemplate<'a> {
    look: &'a Look,
    messages: &'a Messages,
    status: &'static str,
    account: Option<String>,
    client_name: Option<String>,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorTemplate<'a> {
    look: &'a Look,
    messages: &'a Messages,
    status: &'static str,
    text: &'a ErrorText,
    reference: &'a str,
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmTemplate<'a> {
    look: &'a Look,
    messages: &'a Messages,
    status: &'static str,
    page: ConfirmPage<'a>,
    client_name: Option<String>,
    origin: Option<String>,
}

impl Pages {
    /// Prepares the pages. `public_url` is `PUBLIC_URL`, `frame_ancestors` the hosts that may
    /// frame the dialog (`FRAME_ANCESTORS`), none by default.
    ///
    /// # Errors
    /// A locale file is broken; the embedded ones are covered by a test.
    pub fn new(
        brand: &DialogSettings,
        public_url: &Url,
        frame_ancestors: &[String],
    ) -> Result<Self, PagesError> {
        let mut locales = LOCALES
            .files()
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "json"))
            .map(|file| {
                serde_json::from_slice(file.contents())
                    .map_err(|error| PagesError::Locale(file.path().display().to_string(), error))
            })
            .collect::<Result<Vec<Messages>, _>>()?;
        locales.sort_by(|left, right| left.language.cmp(&right.language));
        let default_language = locales
            .iter()
            .position(|messages| messages.language == DEFAULT_LANGUAGE)
            .map(Language)
            .ok_or(PagesError::NoDefault)?;
        let with_origin = |url: &Option<Url>| match url {
            Some(url) => format!("'self' {}", url.origin().ascii_serialization()),
            None => "'self'".to_owned(),
        };
        let ancestors: Vec<&str> =
            frame_ancestors.iter().map(String::as_str).filter(|host| is_source(host)).collect();
        Ok(Self {
            policy: Policy {
                images: with_origin(&brand.logo_url),
                scripts: with_origin(&brand.office_js_url),
                frame_ancestors: if ancestors.is_empty() {
                    "'none'".to_owned()
                } else {
                    ancestors.join(" ")
                },
            },
            look: Look {
                name: if brand.name.is_empty() {
                    "token-relay".to_owned()
                } else {
                    brand.name.clone()
                },
                base: public_url.path().trim_end_matches('/').to_owned(),
                version: assets::version(),
                logo_url: brand.logo_url.clone(),
                office_js_url: brand.office_js_url.clone(),
            },
            brand_css: brand_css(brand.color.as_deref()),
            locales,
            default_language,
        })
    }

    /// The route of the stylesheet that carries the brand's colour.
    pub fn router<S: Clone + Send + Sync + 'static>(self: &Arc<Self>) -> Router<S> {
        let pages = Arc::clone(self);
        Router::new().route(
            "/addons/static/brand.css",
            get(move || async move {
                let mut response = Response::new(Body::from(pages.brand_css.clone()));
                let headers = response.headers_mut();
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("text/css; charset=utf-8"),
                );
                headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                headers
                    .insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
                response
            }),
        )
    }

    /// The language that fits `Accept-Language` best (RFC 9110 §12.5.4), by primary subtag.
    pub fn language(&self, headers: &HeaderMap) -> Language {
        let mut wanted: Vec<(&str, f32)> = headers
            .get_all(header::ACCEPT_LANGUAGE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').take(32))
            .filter_map(|item| {
                let (range, parameters) = item.split_once(';').unwrap_or((item, ""));
                let weight = match parameters.trim().strip_prefix("q=") {
                    Some(weight) => weight.parse().ok()?,
                    None => 1.0,
                };
                (weight > 0.0).then_some((range.trim(), weight))
            })
            .collect();
        // Stable: of equal weights the first wins.
        wanted.sort_by(|left, right| right.1.total_cmp(&left.1));
        wanted
            .into_iter()
            .find_map(|(range, _)| {
                let primary = range.split('-').next().unwrap_or(range);
                self.locales
                    .iter()
                    .position(|messages| messages.language.eq_ignore_ascii_case(primary))
                    .map(Language)
            })
            .unwrap_or(self.default_language)
    }

    /// The login worked. Names the account and the add-in where they are known.
    pub fn success(
        &self,
        language: Language,
        account: Option<&str>,
        client_name: Option<&str>,
    ) -> Response {
        let template = SuccessTemplate {
            look: &self.look,
            messages: self.messages(language),
            status: "done",
            account: account.and_then(plain),
            client_name: client_name.and_then(plain),
        };
        self.respond(StatusCode::OK, &template, "'none'")
    }

    /// Something went wrong: what, what to do next, and the reference that is in the log.
    /// `status` is usually [`ErrorPage::status`]; 200 for `/addons/error` after a redirect.
    pub fn error(
        &self,
        status: StatusCode,
        language: Language,
        page: ErrorPage,
        reference: &str,
    ) -> Response {
        let messages = self.messages(language);
        let template = ErrorTemplate {
            look: &self.look,
            messages,
            status: "error",
            text: messages.error.text(page),
            reference,
        };
        self.respond(status, &template, "'none'")
    }

    /// Asks whether the code is the one in the add-in, before the login starts.
    pub fn confirm(&self, language: Language, page: ConfirmPage<'_>) -> Response {
        let template = ConfirmTemplate {
            look: &self.look,
            messages: self.messages(language),
            status: "confirm",
            client_name: page.client_name.and_then(plain),
            origin: page.origin.and_then(plain),
            page,
        };
        let form_action = format!("'self' {}", page.provider.origin().ascii_serialization());
        self.respond(StatusCode::OK, &template, &form_action)
    }

    fn messages(&self, language: Language) -> &Messages {
        // A language comes only from `Pages::language`, of this or another value with the same
        // embedded locales.
        &self.locales[language.0]
    }

    fn respond(&self, status: StatusCode, template: &impl Template, form_action: &str) -> Response {
        let Policy { images, scripts, frame_ancestors } = &self.policy;
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src {scripts}; img-src {images}; \
             form-action {form_action}; base-uri 'none'; frame-ancestors {frame_ancestors}"
        );
        let (status, body, policy) = match (template.render(), HeaderValue::try_from(policy)) {
            (Ok(body), Ok(policy)) => (status, body, policy),
            _ => {
                tracing::error!("a dialog page could not be rendered");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    String::new(),
                    HeaderValue::from_static("default-src 'none'"),
                )
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::VARY, "Accept-Language"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if frame_ancestors == "'none'" {
            headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        }
        response
    }
}

/// A name from outside as it may be shown: no control characters, none that reorder or hide text
/// (a name must not be able to dress up as another one), cut to [`MAX_NAME_LENGTH`] characters.
/// `None` when nothing is left.
fn plain(name: &str) -> Option<String> {
    let mut shown: String = name
        .chars()
        .filter(|character| {
            !character.is_control()
                && !matches!(character,
                    '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
                    | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
                    | '\u{E0000}'..='\u{E007F}')
        })
        .take(MAX_NAME_LENGTH + 1)
        .collect();
    if shown.chars().count() > MAX_NAME_LENGTH {
        shown.pop();
        shown.push('\u{2026}');
    }
    let shown = shown.trim();
    (!shown.is_empty()).then(|| shown.to_owned())
}

/// Whether a host may stand in a policy without ending the directive.
fn is_source(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b";,".contains(&byte))
}

/// The stylesheet with the brand's colour; empty without one, or when it is no `#rrggbb`.
fn brand_css(color: Option<&str>) -> String {
    let channels = color
        .and_then(|color| color.strip_prefix('#'))
        .filter(|digits| digits.len() == 6)
        .and_then(|digits| hex::decode(digits).ok());
    let Some([red, green, blue]) = channels.as_deref() else {
        return String::new();
    };
    // WCAG 2: of white and black one always has a contrast of at least 4.5 with any colour.
    let linear = |channel: u8| {
        let value = f32::from(channel) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(*red) + 0.7152 * linear(*green) + 0.0722 * linear(*blue);
    let on_accent = if luminance > 0.179 { "#000" } else { "#fff" };
    format!(":root {{ --accent: #{red:02x}{green:02x}{blue:02x}; --on-accent: {on_accent}; }}\n")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    const HOSTILE: &str = "</dd><script>alert(1)</script>\"'>&{{7*7}}";

    fn unset() -> DialogSettings {
        DialogSettings::unset().unwrap()
    }

    fn pages(brand: &DialogSettings) -> Pages {
        Pages::new(brand, &Url::parse("https://relay.example/base").unwrap(), &[]).unwrap()
    }

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(value))])
    }

    fn provider() -> Url {
        Url::parse("https://login.example:8443/authorize?x=1").unwrap()
    }

    fn hostile_confirm(provider: &Url) -> ConfirmPage<'_> {
        ConfirmPage {
            user_code: HOSTILE,
            client_name: Some(HOSTILE),
            origin: Some(HOSTILE),
            dialog: HOSTILE,
            csrf: HOSTILE,
            provider,
        }
    }

    async fn body(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn nothing_is_reflected_unescaped() {
        let pages = pages(&DialogSettings { name: HOSTILE.to_owned(), ..unset() });
        let language = pages.default_language;
        let provider = provider();
        for response in [
            pages.success(language, Some(HOSTILE), Some(HOSTILE)),
            pages.error(StatusCode::OK, language, ErrorPage::Denied, HOSTILE),
            pages.confirm(language, hostile_confirm(&provider)),
        ] {
            let html = body(response).await;
            assert!(html.contains("alert(1)"), "the value is on the page at all");
            assert!(!html.contains("<script>"), "{html}");
            assert!(!html.contains("\"'>"), "{html}");
            assert!(!html.contains("'>&{"), "{html}");
        }
    }

    #[tokio::test]
    async fn every_error_page_in_every_language_says_what_and_what_next() {
        let pages = pages(&unset());
        for index in 0..pages.locales.len() {
            for page in ErrorPage::ALL {
                let response = pages.error(page.status(), Language(index), page, "ref-0815");
                assert_eq!(response.status(), page.status());
                let html = body(response).await;
                assert!(html.contains("ref-0815"));
                let text = pages.locales[index].error.text(page);
                assert!([&text.title, &text.what, &text.next].iter().all(|text| text.len() > 8));
                assert!(html.contains(&format!("lang=\"{}\"", pages.locales[index].language)));
                assert!(html.contains("data-status=\"error\""));
                assert_eq!(ErrorPage::from_name(page.as_str()), Some(page));
            }
        }
    }

    #[test]
    fn the_language_follows_the_browser() {
        let pages = pages(&unset());
        for (accept, expected) in [
            ("fr", "fr"),
            ("fr-CA, en;q=0.8", "fr"),
            ("en;q=0.5, FR;q=0.9", "fr"),
            ("de, fr;q=0.2", "fr"),
            ("de", "en"),
            ("fr;q=0, en", "en"),
            ("fr;q=x", "en"),
            ("*", "en"),
            ("", "en"),
        ] {
            let language = pages.language(&accepting(accept));
            assert_eq!(pages.messages(language).language, expected, "{accept}");
        }
        assert_eq!(pages.language(&HeaderMap::new()), pages.default_language);
    }

    #[tokio::test]
    async fn headers_of_a_page() {
        let response = pages(&unset()).success(Language(0), None, None);
        let headers = response.headers();
        assert_eq!(
            headers["content-security-policy"],
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
             form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        );
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let html = body(response).await;
        assert!(html.contains("href=\"/base/addons/static/dialog.css?v="), "{html}");
        for forbidden in ["<style", " style=", " onclick=", "<script>"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn the_policy_names_what_the_settings_add() {
        let brand = DialogSettings {
            logo_url: Url::parse("https://cdn.example/logo.png").ok(),
            office_js_url: Url::parse("https://office.example/lib/office.js").ok(),
            ..unset()
        };
        let hosts = ["https://outlook.office.com".to_owned(), "x; script-src *".to_owned()];
        let public_url = Url::parse("https://relay.example").unwrap();
        let pages = Pages::new(&brand, &public_url, &hosts).unwrap();
        let provider = provider();
        let response = pages.confirm(Language(0), hostile_confirm(&provider));
        assert_eq!(
            response.headers()["content-security-policy"],
            "default-src 'none'; style-src 'self'; script-src 'self' https://office.example; \
             img-src 'self' https://cdn.example; form-action 'self' https://login.example:8443; \
             base-uri 'none'; frame-ancestors https://outlook.office.com"
        );
        assert!(!response.headers().contains_key("x-frame-options"));
    }

    #[tokio::test]
    async fn the_form_of_the_confirmation() {
        let provider = provider();
        let page = ConfirmPage {
            user_code: "BCDF-GHJK",
            client_name: None,
            origin: Some("https://addin.example"),
            dialog: "handle",
            csrf: "seal",
            provider: &provider,
        };
        let html = body(pages(&unset()).confirm(Language(0), page)).await;
        for part in [
            "<form method=\"post\" action=\"/base/addons/transit/confirm\"",
            "name=\"dialog\" value=\"handle\"",
            "name=\"csrf\" value=\"seal\"",
            "name=\"decision\" value=\"continue\"",
            "name=\"decision\" value=\"deny\"",
            "BCDF-GHJK",
            "https://addin.example",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(!html.contains("id=\"client\""));
    }

    #[test]
    fn a_name_cannot_dress_up() {
        assert_eq!(plain("  Notes\r\n"), Some("Notes".to_owned()));
        assert_eq!(plain("No\u{202E}tes\u{200B}"), Some("Notes".to_owned()));
        assert_eq!(plain("\u{200B} \n"), None);
        let long = plain(&"x".repeat(1000)).unwrap();
        assert_eq!(long.chars().count(), MAX_NAME_LENGTH + 1);
        assert!(long.ends_with('\u{2026}'));
    }

    #[tokio::test]
    async fn the_brand_colour_gets_a_readable_text_colour() {
        let css = |color| brand_css(Some(color));
        assert_eq!(css("#ffd400"), ":root { --accent: #ffd400; --on-accent: #000; }\n");
        assert_eq!(css("#102A83"), ":root { --accent: #102a83; --on-accent: #fff; }\n");
        for invalid in ["red", "#fff", "#ffffff;}", "#gggggg", "", "#\u{20AC}\u{20AC}"] {
            assert_eq!(css(invalid), "", "{invalid}");
        }
        let pages = Arc::new(pages(&DialogSettings { color: Some("#ffd400".into()), ..unset() }));
        let request = Request::get("/addons/static/brand.css").body(Body::empty()).unwrap();
        let router = pages.router::<()>().merge(assets::router());
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/css; charset=utf-8");
        assert!(body(response).await.contains("#ffd400"));
    }
}
