//! The claims hook: the operator's own service that decides who gets a token.

use std::path::PathBuf;

use url::Url;

use crate::{
    api::Secret,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        meet::{check_authorities, warn_of_plain_http},
        source::Source,
        value::{path, secret_of, service_url},
    },
    util::http_client::Authorities,
};

/// Minimum length of the secret, in characters.
const MIN_SECRET: usize = 32;

section! {
    /// The claims hook.
    pub struct HookSettings {
        /// URL that is asked before a token is issued: whether the account may have one, with which
        /// claims and scope
        url: Option<Url> = setting("CLAIMS_HOOK_URL").optional("none"), service_url;
        /// Bearer token that is sent there, 32 characters or more
        secret: Option<Secret> = secret("CLAIMS_HOOK_SECRET")
            .optional("none; required with `CLAIMS_HOOK_URL`").reload(Reloadable::ClaimsHookSecret),
            secret_of(MIN_SECRET);
        /// PEM file with the certificate authorities of `CLAIMS_HOOK_URL`
        ca: Option<PathBuf> = setting("CLAIMS_HOOK_CA").optional("the system's"), path;
    }
}

impl HookSettings {
    /// The certificate authorities of `url`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn authorities(&self) -> std::io::Result<Authorities> {
        let Some(path) = &self.ca else { return Ok(Authorities::default()) };
        Ok(Authorities::from_pem(&std::fs::read(path)?).unwrap_or_default())
    }

    pub(crate) fn check(&self, source: &mut Source) {
        match &self.url {
            Some(_) if !source.has("CLAIMS_HOOK_SECRET") => {
                source.missing("CLAIMS_HOOK_SECRET", "with CLAIMS_HOOK_URL");
            }
            Some(url) => {
                warn_of_plain_http(
                    source,
                    "CLAIMS_HOOK_URL",
                    url,
                    "its secret and people's claims",
                );
            }
            None => {}
        }
        check_authorities(source, "CLAIMS_HOOK_CA");
    }
}
