//! The pages that a person sees: templates, and the headers of a page. Nothing here reads a session
//! or a store. Texts are in `static/locales/`, one file per language.

mod error_page;
mod locale;

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use url::Url;

pub(crate) use crate::http::pages::locale::ui_locales;
pub use crate::http::pages::{error_page::ErrorPage, locale::Language};

use crate::{
    http::{
        assets,
        pages::locale::{ErrorText, Locales, Messages},
    },
    settings::DialogSettings,
};

/// Maximum length of a name from outside, in characters.
const MAX_NAME_LENGTH: usize = 80;

/// The pages could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// A file in `static/locales/` is no JSON, or lacks a text.
    #[error("locale {0} is not valid: {1}")]
    Locale(String, #[source] serde_json::Error),
    /// A file in `static/locales/` lacks an error page.
    #[error("locale {0} lacks the error page {1}")]
    MissingPage(String, &'static str),
    /// `static/locales/en.json` is missing.
    #[error("the default locale is missing")]
    NoDefault,
}

/// The request that the person is asked about.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestView<'a> {
    /// The add-in's name, if it has one.
    pub client: Option<&'a str>,
    /// Whether the name is the operator's and not the add-in's own claim.
    pub verified: bool,
    /// The origin of the page from which it was made.
    pub origin: Option<&'a str>,
    /// The network from which it was made.
    pub network: Option<&'a str>,
    /// Whether the dialog is in another network.
    pub other_network: bool,
    /// Its age in whole minutes.
    pub minutes: u64,
}

/// Hidden fields that every form sends back.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Handle of the dialog; no secret.
    pub dialog: &'a str,
    /// CSRF token.
    pub csrf: &'a str,
}

/// The first page.
#[derive(Clone, Copy, Debug)]
pub struct ProofPage<'a> {
    /// The challenge for the opener, if it may give a proof.
    pub challenge: Option<&'a str>,
    /// Origins that the opener may have, as JSON.
    pub origins: &'a str,
    /// Whether the code may be typed.
    pub code: bool,
    /// Tries left, after a wrong code.
    pub remaining: Option<u32>,
    /// The setting that allows the code.
    pub setting: &'a str,
    /// Whether the dialog is one of Office, whose last page speaks to the opener as well.
    pub office: bool,
}

/// Why the page for a device's user code asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceHint {
    /// What was typed has not the form of a code.
    Malformed,
    /// No device waits with this code.
    Unknown,
}

/// Where a page is shown, which decides about its ties to the window that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The first page of a dialog: it talks to the opener.
    First,
    /// A later page: cut off from the opener.
    Later,
    /// A later page in a dialog of Office, which is closed through the opener.
    Office,
}

/// The pages, ready to render.
#[derive(Debug)]
pub struct Pages {
    look: Look,
    locales: Locales,
    policy: Policy,
    brand_css: String,
}

/// What all pages have in common.
#[derive(Debug)]
pub struct Look {
    /// Name of the service.
    pub name: String,
    /// Path of `PUBLIC_URL` without its trailing slash.
    pub base: String,
    /// Version of the static files, for their addresses.
    pub version: String,
    /// Logo of the service.
    pub logo_url: Option<Url>,
    office_js_url: Option<Url>,
}

/// The varying parts of the content security policy.
#[derive(Debug)]
struct Policy {
    images: String,
    scripts: String,
    frame_ancestors: String,
}

/// What the layout needs.
struct Frame<'a> {
    look: &'a Look,
    messages: &'a Messages,
    status: &'static str,
}

/// [`RequestView`] as the templates show it.
struct ShownRequest {
    client: String,
    verified: bool,
    origin: Option<String>,
    network: Option<String>,
    other_network: bool,
    when: String,
}

impl ShownRequest {
    fn new(request: RequestView<'_>, messages: &Messages) -> Self {
        let texts = &messages.request;
        let client = request.client.and_then(plain);
        Self {
            // Nothing is claimed by a client without a name.
            verified: request.verified || client.is_none(),
            client: client.unwrap_or_else(|| texts.unnamed.clone()),
            origin: request.origin.and_then(plain),
            network: request.network.and_then(plain),
            other_network: request.other_network,
            when: match request.minutes {
                0 => texts.just_now.clone(),
                1 => texts.one_minute.clone(),
                minutes => texts.minutes.replace("{minutes}", &minutes.to_string()),
            },
        }
    }
}

#[derive(Template)]
#[template(path = "proof.html")]
struct ProofTemplate<'a> {
    frame: Frame<'a>,
    fields: Fields<'a>,
    request: ShownRequest,
    challenge: Option<&'a str>,
    origins: &'a str,
    code: bool,
    remaining: Option<String>,
    setting: &'a str,
    office: bool,
}

#[derive(Template)]
#[template(path = "device.html")]
struct DeviceTemplate<'a> {
    frame: Frame<'a>,
    csrf: &'a str,
    hint: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmTemplate<'a> {
    frame: Frame<'a>,
    fields: Fields<'a>,
    request: ShownRequest,
    user_code: &'a str,
}

#[derive(Template)]
#[template(path = "legacy.html")]
struct LegacyTemplate<'a> {
    frame: Frame<'a>,
    fields: Fields<'a>,
    request: ShownRequest,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountTemplate<'a> {
    frame: Frame<'a>,
    fields: Fields<'a>,
    request: ShownRequest,
    /// The question in parts; true for those that are filled in.
    question: Vec<(String, bool)>,
}

#[derive(Template)]
#[template(path = "onward.html")]
struct OnwardTemplate<'a> {
    frame: Frame<'a>,
    location: &'a str,
}

#[derive(Template)]
#[template(path = "success.html")]
struct SuccessTemplate<'a> {
    frame: Frame<'a>,
    account: Option<String>,
    client: Option<String>,
    autoclose: bool,
    fields: Option<Fields<'a>>,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorTemplate<'a> {
    frame: Frame<'a>,
    text: &'a ErrorText,
    /// Whether it is the end that the person asked for.
    ended: bool,
    detail: Option<String>,
    reference: &'a str,
}

/// What a page may load and where its forms may go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// No form.
    Nothing,
    /// A form to the relay.
    Form,
    /// The same, and requests of its script.
    Script,
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
            locales: Locales::load()?,
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

    /// The language of a request.
    pub fn language(&self, headers: &HeaderMap) -> Language {
        self.locales.choose(headers)
    }

    /// Every language, as `Accept-Language` names it.
    pub fn languages(&self) -> Vec<String> {
        self.locales
            .iter()
            .map(|language| self.locales.messages(language).language.clone())
            .collect()
    }

    /// Whether the pages load Office.js.
    pub fn load_office(&self) -> bool {
        self.look.office_js_url.is_some()
    }

    /// What all pages have in common.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Content security policy of a page without scripts and forms.
    pub fn reading_policy(&self) -> HeaderValue {
        let policy = format!(
            "default-src 'none'; style-src 'self'; img-src {}; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            self.policy.images
        );
        HeaderValue::from_str(&policy)
            .unwrap_or(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
    }

    fn frame(&self, language: Language, status: &'static str) -> Frame<'_> {
        Frame { look: &self.look, messages: self.locales.messages(language), status }
    }

    /// Asks the opener for a proof, and the person for the code.
    pub fn proof(
        &self,
        language: Language,
        fields: Fields<'_>,
        request: RequestView<'_>,
        page: ProofPage<'_>,
    ) -> Response {
        let frame = self.frame(language, "proof");
        let texts = &frame.messages.proof;
        let template = ProofTemplate {
            request: ShownRequest::new(request, frame.messages),
            fields,
            challenge: page.challenge,
            origins: page.origins,
            code: page.code,
            remaining: page.remaining.map(|remaining| match remaining {
                1 => texts.one_left.clone(),
                several => texts.left.replace("{count}", &several.to_string()),
            }),
            setting: page.setting,
            office: page.office,
            frame,
        };
        self.respond(StatusCode::OK, &template, Reach::Script, Window::First)
    }

    /// Asks for the user code of a device.
    pub fn device(&self, language: Language, csrf: &str, hint: Option<DeviceHint>) -> Response {
        let frame = self.frame(language, "device");
        let texts = &frame.messages.device;
        let hint = hint.map(|hint| match hint {
            DeviceHint::Malformed => texts.malformed.as_str(),
            DeviceHint::Unknown => texts.unknown.as_str(),
        });
        let template = DeviceTemplate { frame, csrf, hint };
        self.respond(StatusCode::OK, &template, Reach::Form, Window::Later)
    }

    /// Asks whether the code is the one in the add-in.
    pub fn confirm(
        &self,
        language: Language,
        fields: Fields<'_>,
        request: RequestView<'_>,
        user_code: &str,
        window: Window,
    ) -> Response {
        let frame = self.frame(language, "confirm");
        let request = ShownRequest::new(request, frame.messages);
        let template = ConfirmTemplate { frame, fields, request, user_code };
        self.respond(StatusCode::OK, &template, Reach::Form, window)
    }

    /// Asks whether the person began this sign-in, where nothing else can tell.
    pub fn legacy(
        &self,
        language: Language,
        fields: Fields<'_>,
        request: RequestView<'_>,
    ) -> Response {
        let frame = self.frame(language, "confirm");
        let request = ShownRequest::new(request, frame.messages);
        let template = LegacyTemplate { frame, fields, request };
        self.respond(StatusCode::OK, &template, Reach::Form, Window::First)
    }

    /// Asks whether the add-in may have access as this account.
    pub fn account(
        &self,
        language: Language,
        fields: Fields<'_>,
        request: RequestView<'_>,
        account: &str,
        window: Window,
    ) -> Response {
        let frame = self.frame(language, "confirm");
        let request = ShownRequest::new(request, frame.messages);
        let account = plain(account).unwrap_or_default();
        let values = [
            ("{client}", request.client.as_str()),
            ("{network}", request.network.as_deref().unwrap_or("?")),
            ("{account}", account.as_str()),
        ];
        let question = filled(&frame.messages.account.question, &values);
        let template = AccountTemplate { frame, fields, request, question };
        self.respond(StatusCode::OK, &template, Reach::Form, window)
    }

    /// Leads to the provider after a form. A redirect would be subject to `form-action`, which
    /// browsers apply to every further redirect of the provider as well.
    pub fn onward(&self, language: Language, location: &str, window: Window) -> Response {
        let template = OnwardTemplate { frame: self.frame(language, "onward"), location };
        self.respond(StatusCode::OK, &template, Reach::Nothing, window)
    }

    /// The sign-in succeeded. Names the account and the client where they are known; with `fields`
    /// it can be undone.
    pub fn success(
        &self,
        language: Language,
        account: Option<&str>,
        client: Option<&str>,
        autoclose: bool,
        fields: Option<Fields<'_>>,
        window: Window,
    ) -> Response {
        let template = SuccessTemplate {
            frame: self.frame(language, "done"),
            account: account.and_then(plain),
            client: client.and_then(plain),
            autoclose,
            fields,
        };
        let reach = if fields.is_some() { Reach::Form } else { Reach::Nothing };
        self.respond(StatusCode::OK, &template, reach, window)
    }

    /// Something went wrong: what, what to do next, and the reference that is in the log. `detail`
    /// is a text of the provider. `status` is usually [`ErrorPage::status`]; 200 after a redirect.
    pub fn error(
        &self,
        status: StatusCode,
        language: Language,
        page: ErrorPage,
        detail: Option<&str>,
        reference: &str,
        window: Window,
    ) -> Response {
        let status_name = if page == ErrorPage::NoSignIn { "neutral" } else { "error" };
        let frame = self.frame(language, status_name);
        let Some(text) = frame.messages.error.of(page) else {
            return broken();
        };
        let detail = detail.and_then(plain);
        let ended = matches!(page, ErrorPage::Undone | ErrorPage::SignedOut);
        let template = ErrorTemplate { frame, text, ended, detail, reference };
        self.respond(status, &template, Reach::Nothing, window)
    }

    fn respond(
        &self,
        status: StatusCode,
        template: &impl Template,
        reach: Reach,
        window: Window,
    ) -> Response {
        let Policy { images, scripts, frame_ancestors } = &self.policy;
        let form_action = if reach == Reach::Nothing { "'none'" } else { "'self'" };
        let connect = if reach == Reach::Script { " connect-src 'self';" } else { "" };
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src {scripts}; img-src {images};{connect} \
             form-action {form_action}; base-uri 'none'; frame-ancestors {frame_ancestors}"
        );
        let (Ok(body), Ok(policy)) = (template.render(), HeaderValue::try_from(policy)) else {
            return broken();
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            // With `no-referrer` browsers send `Origin: null` with the forms of the page.
            (header::REFERRER_POLICY, "same-origin"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::VARY, "Accept-Language"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if window == Window::Later {
            headers.insert(
                HeaderName::from_static("cross-origin-opener-policy"),
                HeaderValue::from_static("same-origin"),
            );
        }
        if frame_ancestors == "'none'" {
            headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        }
        response
    }
}

/// The answer when a page cannot be rendered, which is a defect.
fn broken() -> Response {
    tracing::error!("a page could not be rendered");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// `text` in parts, with `values` in the place of their names; true for those.
fn filled(text: &str, values: &[(&str, &str)]) -> Vec<(String, bool)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((at, name, value)) = values
        .iter()
        .filter_map(|(name, value)| Some((rest.find(name)?, *name, *value)))
        .min_by_key(|(at, ..)| *at)
    {
        parts.push((rest[..at].to_owned(), false));
        parts.push((value.to_owned(), true));
        rest = &rest[at + name.len()..];
    }
    parts.push((rest.to_owned(), false));
    parts
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
    use strum::IntoEnumIterator as _;
    use tower::ServiceExt;

    use super::*;

    const HOSTILE: &str = "</dd><script>alert(1)</script>\"'>&{{7*7}}";

    const FIELDS: Fields<'_> = Fields { dialog: "handle", csrf: "seal" };

    fn unset() -> DialogSettings {
        DialogSettings::unset().unwrap()
    }

    fn pages(brand: &DialogSettings) -> Pages {
        Pages::new(brand, &Url::parse("https://relay.example/base").unwrap(), &[]).unwrap()
    }

    fn english(pages: &Pages) -> Language {
        pages.language(&HeaderMap::new())
    }

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(value))])
    }

    async fn body(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Every page, with `text` wherever something from outside is shown.
    fn all(pages: &Pages, language: Language, text: &str) -> Vec<(&'static str, Response)> {
        let fields = Fields { dialog: text, csrf: text };
        let request = RequestView {
            client: Some(text),
            verified: false,
            origin: Some(text),
            network: Some(text),
            other_network: true,
            minutes: 3,
        };
        let proof = |code| ProofPage {
            challenge: Some(text),
            origins: text,
            code,
            remaining: code.then_some(2),
            setting: text,
            office: code,
        };
        let window = Window::Later;
        vec![
            ("code", pages.proof(language, fields, request, proof(true))),
            ("stuck", pages.proof(language, fields, request, proof(false))),
            ("device", pages.device(language, text, Some(DeviceHint::Unknown))),
            ("confirm", pages.confirm(language, fields, request, text, window)),
            ("legacy", pages.legacy(language, fields, request)),
            ("account", pages.account(language, fields, request, text, window)),
            ("onward", pages.onward(language, text, window)),
            (
                "success",
                pages.success(language, Some(text), Some(text), true, Some(fields), window),
            ),
            (
                "error",
                pages.error(StatusCode::OK, language, ErrorPage::Denied, Some(text), text, window),
            ),
        ]
    }

    #[tokio::test]
    async fn nothing_is_reflected_unescaped() {
        let pages = pages(&DialogSettings { name: HOSTILE.to_owned(), ..unset() });
        for (name, response) in all(&pages, english(&pages), HOSTILE) {
            let html = body(response).await;
            assert!(html.contains("alert(1)"), "{name}: the value is on the page at all");
            for raw in ["<script>", "\"'>", "'>&{"] {
                assert!(!html.contains(raw), "{name}: {html}");
            }
        }
    }

    #[tokio::test]
    async fn every_page_in_every_language_has_all_its_texts() {
        let pages = pages(&unset());
        for language in pages.locales.iter() {
            let messages = pages.locales.messages(language);
            for (name, response) in all(&pages, language, "shown") {
                let html = body(response).await;
                assert!(html.contains(&format!("lang=\"{}\"", messages.language)), "{name}");
                for place in ["{client}", "{network}", "{account}", "{minutes}", "{count}"] {
                    assert!(!html.contains(place), "{name} in {}: {html}", messages.language);
                }
            }
            for place in ["{client}", "{network}", "{account}"] {
                assert!(messages.account.question.contains(place), "{}", messages.language);
            }
            assert!(messages.request.minutes.contains("{minutes}"), "{}", messages.language);
            assert!(messages.proof.left.contains("{count}"), "{}", messages.language);
        }
    }

    #[tokio::test]
    async fn every_error_page_in_every_language_says_what_and_what_next() {
        let pages = pages(&unset());
        for language in pages.locales.iter() {
            for page in ErrorPage::iter() {
                let response =
                    pages.error(page.status(), language, page, None, "ref-0815", Window::Later);
                assert_eq!(response.status(), page.status());
                assert_ne!(page.status(), StatusCode::INTERNAL_SERVER_ERROR);
                let html = body(response).await;
                let text = pages.locales.messages(language).error.of(page).unwrap();
                assert!([&text.title, &text.what, &text.next].iter().all(|text| text.len() > 8));
                let status = if page == ErrorPage::NoSignIn { "neutral" } else { "error" };
                assert!(html.contains("ref-0815"), "{}", page.as_str());
                assert!(html.contains(&format!("data-status=\"{status}\"")), "{}", page.as_str());
                assert_eq!(page.as_str().parse(), Ok(page));
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
            ("xx, fr;q=0.2", "fr"),
            ("xx", "en"),
            ("de-AT", "de"),
            ("nl-BE, fr;q=0.9", "nl"),
            ("fr;q=0, en", "en"),
            ("fr;q=x", "en"),
            ("*", "en"),
            ("", "en"),
        ] {
            let language = pages.language(&accepting(accept));
            assert_eq!(pages.locales.messages(language).language, expected, "{accept}");
        }
    }

    #[tokio::test]
    async fn headers_of_a_page() {
        let pages = pages(&unset());
        let success = |window| pages.success(english(&pages), None, None, false, None, window);
        let response = success(Window::Later);
        let headers = response.headers();
        assert_eq!(
            headers["content-security-policy"],
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
             form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        );
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "same-origin");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cross-origin-opener-policy"], "same-origin");
        for window in [Window::First, Window::Office] {
            assert!(!success(window).headers().contains_key("cross-origin-opener-policy"));
        }
        let html = body(response).await;
        assert!(html.contains("href=\"/base/addons/static/dialog.css?v="), "{html}");
        for (name, response) in all(&pages, english(&pages), "shown") {
            let html = body(response).await;
            for forbidden in ["<style", " style=", " onclick=", "<script>"] {
                assert!(!html.contains(forbidden), "{name}: {forbidden}");
            }
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
        let page = ProofPage {
            challenge: None,
            origins: "[]",
            code: true,
            remaining: None,
            setting: "",
            office: false,
        };
        let response = pages.proof(english(&pages), FIELDS, RequestView::default(), page);
        assert_eq!(
            response.headers()["content-security-policy"],
            "default-src 'none'; style-src 'self'; script-src 'self' https://office.example; \
             img-src 'self' https://cdn.example; connect-src 'self'; form-action 'self'; \
             base-uri 'none'; frame-ancestors https://outlook.office.com"
        );
        assert!(!response.headers().contains_key("x-frame-options"));
        assert!(!response.headers().contains_key("cross-origin-opener-policy"));
    }

    #[tokio::test]
    async fn the_form_of_the_confirmation() {
        let pages = pages(&unset());
        let request = RequestView { origin: Some("https://addin.example"), ..Default::default() };
        let response = pages.confirm(english(&pages), FIELDS, request, "BCDF-GHJK", Window::Later);
        let html = body(response).await;
        for part in [
            "<form method=\"post\" action=\"/base/addons/transit/confirm\"",
            "name=\"dialog\" value=\"handle\"",
            "name=\"csrf\" value=\"seal\"",
            "name=\"decision\" value=\"continue\"",
            "name=\"decision\" value=\"deny\"",
            "BCDF-GHJK",
            "https://addin.example",
            "an add-in without a name",
            "less than a minute ago",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(!html.contains("not verified"), "there is nothing to verify");
    }

    #[test]
    fn a_question_is_filled_in_any_order() {
        let values = [("{a}", "A"), ("{b}", "{a}")];
        let text: String = filled("x {b} y {a} z", &values)
            .into_iter()
            .map(|(text, value)| if value { format!("[{text}]") } else { text })
            .collect();
        assert_eq!(text, "x [{a}] y [A] z");
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
