//! The dialog pages.

use url::Url;

use crate::settings::{
    declaration::{section, setting},
    source::Source,
    value::{choice, list_of, secure_url, text},
};

section! {
    /// The dialog pages.
    pub struct DialogSettings {
        /// What a dialog needs before the provider is asked: `auto` for one of the client's proofs, `never` for none
        confirmation: Confirmation = setting("CONFIRMATION").default("auto"),
            choice(&[("auto", Confirmation::Auto), ("never", Confirmation::Never)]);
        /// Name on the dialog pages
        name: String = setting("BRAND_NAME").default("token-relay"), text;
        /// Logo on the dialog pages, `https`
        logo_url: Option<Url> = setting("BRAND_LOGO_URL").optional("none"), secure_url;
        /// Accent colour of the dialog pages, `#rrggbb`
        color: Option<String> = setting("BRAND_COLOR").optional("built in"), color;
        /// URL from which dialog pages load Office.js, for `messageParent`
        office_js_url: Option<Url> = setting("OFFICE_JS_URL").optional("none"), secure_url;
        /// Hosts that may frame the dialog pages (CSP `frame-ancestors`)
        frame_ancestors: Vec<String> =
            setting("FRAME_ANCESTORS").optional("none"), list_of(host_source);
    }
}

/// What a dialog needs before the provider is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// One of the client's proofs.
    Auto,
    /// Nothing: the browser goes straight to the provider, and any website can obtain the token of
    /// a visitor who is signed in there.
    Never,
}

impl DialogSettings {
    pub(crate) fn check(&self, source: &mut Source) {
        if self.confirmation == Confirmation::Never {
            source.warn(
                "CONFIRMATION",
                "`never` lets any website obtain the token of a visitor who is signed in at the \
                 provider",
            );
        }
        if self.frame_ancestors.iter().any(|host| host == "*") {
            source.warn("FRAME_ANCESTORS", "`*` lets any website frame the dialog pages");
        }
    }
}

fn color(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6);
    match digits {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(text.to_owned()),
        _ => Err("a colour such as #2447c5".to_owned()),
    }
}

/// A source expression of a Content Security Policy (CSP Level 3 §2.3.1), without other keywords
/// than `'self'`.
fn host_source(text: &str) -> Result<String, String> {
    let graphic = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    if graphic && (!text.contains('\'') || text == "'self'") {
        return Ok(text.to_owned());
    }
    Err("hosts such as https://*.office.com, by commas".to_owned())
}
