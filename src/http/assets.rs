//! Embedded static files: the client module, what the dialog pages need, and the demo task pane.
//!
//! Files are compiled in, and carry an `ETag` and a version that changes with their content.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::RawQuery,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sha2::{Digest, Sha256, Sha384};

use crate::{api::paths, http::responses::JSON};

/// An embedded file.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    audience: Audience,
}

impl Asset {
    /// The last segment of its path.
    fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Who may load a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Any site: add-ins import the client from another origin.
    Anyone,
    /// Pages of the relay itself.
    Relay,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
#[cfg(feature = "demo")]
const HTML: &str = "text/html; charset=utf-8";
const TYPESCRIPT: &str = "text/plain; charset=utf-8";
const SVG: &str = "image/svg+xml";
#[cfg(feature = "demo")]
const PNG: &str = "image/png";
#[cfg(feature = "demo")]
const XML: &str = "application/xml; charset=utf-8";

/// Shorthand for an entry of the tables below.
macro_rules! asset {
    ($path:literal, $file:literal, $content_type:expr, $audience:ident) => {
        Asset {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../static/", $file)),
            audience: Audience::$audience,
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!("/addons/static/token-relay.js", "client/token-relay.js", JAVASCRIPT, Anyone),
    asset!(
        "/addons/static/token-relay.global.js",
        "client/token-relay.global.js",
        JAVASCRIPT,
        Anyone
    ),
    asset!("/addons/static/token-relay.d.ts", "client/token-relay.d.ts", TYPESCRIPT, Anyone),
    asset!("/addons/static/office.js", "client/office.js", JAVASCRIPT, Anyone),
    asset!("/addons/static/office.d.ts", "client/office.d.ts", TYPESCRIPT, Anyone),
    Asset {
        path: "/addons/static/dialog.css",
        content_type: CSS,
        bytes: concat!(
            include_str!("../../static/pages/colours.css"),
            include_str!("../../static/pages/dialog.css")
        )
        .as_bytes(),
        audience: Audience::Relay,
    },
    asset!("/addons/static/noscript.css", "pages/noscript.css", CSS, Relay),
    asset!("/addons/static/docs.css", "pages/docs.css", CSS, Relay),
    asset!("/addons/static/dialog.js", "pages/dialog.js", JAVASCRIPT, Relay),
    asset!("/addons/static/proof.js", "pages/proof.js", JAVASCRIPT, Relay),
    asset!("/addons/static/icon.svg", "icon.svg", SVG, Relay),
];

#[cfg(feature = "demo")]
const DEMO: &[Asset] = &[
    asset!("/", "demo/index.html", HTML, Relay),
    asset!("/demo.css", "demo/demo.css", CSS, Relay),
    asset!("/demo.js", "demo/demo.js", JAVASCRIPT, Relay),
    asset!("/compare.js", "demo/compare.js", JAVASCRIPT, Relay),
];

/// The sample Outlook add-in.
#[cfg(feature = "demo")]
const OUTLOOK: &[Asset] = &[
    asset!("/outlook/", "outlook/taskpane.html", HTML, Relay),
    asset!("/outlook/taskpane.css", "outlook/taskpane.css", CSS, Relay),
    asset!("/outlook/taskpane.js", "outlook/taskpane.js", JAVASCRIPT, Relay),
    asset!("/outlook/load-office.js", "outlook/load-office.js", JAVASCRIPT, Relay),
    asset!("/outlook/office-stub.js", "outlook/office-stub.js", JAVASCRIPT, Relay),
    asset!("/outlook/manifest.xml", "outlook/manifest.xml", XML, Relay),
    // Outlook shows the icons in pages of its own.
    asset!("/outlook/icon-16.png", "outlook/icon-16.png", PNG, Anyone),
    asset!("/outlook/icon-32.png", "outlook/icon-32.png", PNG, Anyone),
    asset!("/outlook/icon-64.png", "outlook/icon-64.png", PNG, Anyone),
    asset!("/outlook/icon-80.png", "outlook/icon-80.png", PNG, Anyone),
    asset!("/outlook/icon-128.png", "outlook/icon-128.png", PNG, Anyone),
];

/// Content security policy of the demo task pane.
#[cfg(feature = "demo")]
const DEMO_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for the sample add-in: Outlook on the web frames it, and Office.js is Microsoft's.
#[cfg(feature = "demo")]
const OUTLOOK_POLICY: &str = "default-src 'none'; script-src 'self' https://appsforoffice.microsoft.com; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors https://outlook.office.com https://outlook.office365.com https://outlook.live.com https://outlook.cloud.microsoft";

/// Where the sample add-in's stand-in for Office.js is, below the public URL, in the demo.
pub const OFFICE_STUB: &str = "outlook/office-stub.js";

/// The version of the client's interface. A client with another interface gets another folder, and
/// this one stays.
const CLIENT_VERSION: &str = "v1";

/// The files under `/addons/static/`. The client's are also in a folder of its version, beside the
/// file `integrity.json` with the hash of each.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let client = || ASSETS.iter().filter(|asset| asset.audience == Audience::Anyone);
    let folder = format!("{}/{CLIENT_VERSION}", paths::STATIC);
    let hashes: serde_json::Map<String, serde_json::Value> =
        client().map(|asset| (asset.name().to_owned(), integrity(asset.bytes).into())).collect();
    let manifest = Bytes::from(serde_json::Value::Object(hashes).to_string());
    let integrity = async move || {
        let headers = [
            (header::CONTENT_TYPE, JSON),
            (header::CACHE_CONTROL, "public, no-cache"),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        ];
        (headers, manifest)
    };
    serve_all(ASSETS.iter().map(|asset| (asset.path.to_owned(), asset)), None)
        .merge(serve_all(client().map(|asset| (format!("{folder}/{}", asset.name()), asset)), None))
        .route(&format!("{folder}/integrity.json"), get(integrity))
}

/// The value of an `integrity` attribute (Subresource Integrity §3.1).
fn integrity(bytes: &[u8]) -> String {
    format!("sha384-{}", STANDARD.encode(Sha384::digest(bytes)))
}

/// The client's files below the path of the meet-compatible surface, for a platform that routes
/// nothing else to the relay.
pub fn meet_router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let folder = "/api/v1.0/addons/sessions/static";
    let client = ASSETS.iter().filter(|asset| asset.audience == Audience::Anyone);
    serve_all(client.map(|asset| (format!("{folder}/{}", asset.name()), asset)), None)
}

/// The demo task pane at `/` and the sample Outlook add-in at `/outlook/`.
#[cfg(feature = "demo")]
pub fn demo_router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let all = |assets: &'static [Asset]| assets.iter().map(|asset| (asset.path.to_owned(), asset));
    serve_all(all(DEMO), Some(DEMO_POLICY)).merge(serve_all(all(OUTLOOK), Some(OUTLOOK_POLICY)))
}

/// Changes with the content of any file under `/addons/static/`: a file asked for with
/// `?v=<version>` may be cached forever.
pub fn version() -> String {
    let mut hash = Sha256::new();
    for asset in ASSETS {
        hash.update(asset.path);
        hash.update(asset.bytes);
    }
    hex::encode(&hash.finalize()[..8])
}

/// Serves each file at its path.
fn serve_all<S: Clone + Send + Sync + 'static>(
    assets: impl Iterator<Item = (String, &'static Asset)>,
    policy: Option<&'static str>,
) -> Router<S> {
    let version: Arc<str> = format!("v={}", version()).into();
    assets.fold(Router::new(), |router, (path, asset)| {
        let etag: Arc<str> =
            format!("\"{}\"", hex::encode(&Sha256::digest(asset.bytes)[..16])).into();
        let version = version.clone();
        router.route(
            &path,
            get(move |RawQuery(query): RawQuery, headers: HeaderMap| async move {
                let forever = query.as_deref() == Some(&*version);
                respond(asset, &etag, forever, policy, &headers)
            }),
        )
    })
}

fn respond(
    asset: &'static Asset,
    etag: &str,
    forever: bool,
    policy: Option<&'static str>,
    request: &HeaderMap,
) -> Response {
    let known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| matches!(tag.trim().trim_start_matches("W/"), tag if tag == etag || tag == "*"));
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Body::from(Bytes::from_static(asset.bytes)))
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Without the version in the address a new release must be seen soon, because the client and
    // the relay belong together.
    let caching = if forever { "public, max-age=31536000, immutable" } else { "public, no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    let sharing = match asset.audience {
        Audience::Anyone => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            "cross-origin"
        }
        Audience::Relay => "same-origin",
    };
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static(sharing),
    );
    if let Some(policy) = policy {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn get_asset(path: &str, etag: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        router::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn the_client_module_may_be_imported_by_any_site() {
        let response = get_asset("/addons/static/token-relay.js", None).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["content-type"], "text/javascript; charset=utf-8");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("export function signIn"));
    }

    #[tokio::test]
    async fn the_client_has_a_versioned_path_with_integrity_hashes() {
        let manifest = get_asset("/addons/static/v1/integrity.json", None).await;
        assert_eq!(manifest.headers()["access-control-allow-origin"], "*");
        let manifest = manifest.into_body().collect().await.unwrap().to_bytes();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let hashes = manifest.as_object().unwrap();
        assert!(hashes.contains_key("token-relay.global.js") && !hashes.contains_key("dialog.js"));
        for (name, hash) in hashes {
            let path = format!("/addons/static/v1/{name}");
            let versioned = get_asset(&path, None).await;
            assert_eq!(versioned.headers()["access-control-allow-origin"], "*");
            let versioned = versioned.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(integrity(&versioned), hash.as_str().unwrap());
            let plain = get_asset(&path.replace("/v1/", "/"), None).await;
            assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), versioned);
        }
        let page = get_asset("/addons/static/v1/dialog.js", None).await;
        assert_eq!(page.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn files_of_the_pages_stay_with_the_relay() {
        let response = get_asset("/addons/static/dialog.css", None).await;
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        assert_eq!(response.headers()["cross-origin-resource-policy"], "same-origin");
    }

    #[tokio::test]
    async fn only_the_versioned_address_is_immutable() {
        let path = "/addons/static/dialog.css";
        let plain = get_asset(path, None).await;
        assert_eq!(plain.headers()["cache-control"], "public, no-cache");
        let versioned = get_asset(&format!("{path}?v={}", version()), None).await;
        assert_eq!(versioned.headers()["cache-control"], "public, max-age=31536000, immutable");
        let other = get_asset(&format!("{path}?v=0"), None).await;
        assert_eq!(other.headers()["cache-control"], "public, no-cache");
    }

    #[tokio::test]
    async fn a_known_entity_tag_saves_the_body() {
        let path = "/addons/static/icon.svg";
        let etag = get_asset(path, None).await.headers()["etag"].to_str().unwrap().to_owned();
        for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let response = get_asset(path, Some(&known)).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
        assert_eq!(get_asset(path, Some("\"x\"")).await.status(), StatusCode::OK);
    }

    #[cfg(feature = "demo")]
    #[tokio::test]
    async fn the_task_panes_need_nothing_from_elsewhere_and_nothing_inline() {
        for (path, policy) in [("/", DEMO_POLICY), ("/outlook/", OUTLOOK_POLICY)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = demo_router::<()>().oneshot(request).await.unwrap();
            assert_eq!(response.headers()["content-security-policy"], policy);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let html = String::from_utf8_lossy(&body);
            for forbidden in ["http://", "https://", "<style", " style=", " onclick=", "<script>"] {
                assert!(!html.contains(forbidden), "{path} {forbidden}");
            }
        }
    }
}
