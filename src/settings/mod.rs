//! The settings: where they come from (environment, file, `<NAME>_FILE`), their defaults and
//! checks. The module `declaration` explains how one is added.

mod client;
mod clients;
mod declaration;
mod dialog;
mod formats;
mod hook;
mod limits;
mod meet;
mod oidc;
mod server;
mod session;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod traces;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use url::Url;

pub(crate) use crate::settings::declaration::Reloadable;
pub use crate::settings::{
    client::{ClientSettings, Grant, Proof},
    clients::{Client, ClientSetting, Clients, InvalidScope, OPAQUE_ORIGIN, UnknownClient},
    dialog::{Confirmation, DialogSettings},
    formats::{ListFormat, list},
    hook::HookSettings,
    limits::Limits,
    meet::{MeetProof, MeetSettings, MeetSwitch, TrustedOrigin},
    oidc::OidcSettings,
    server::{LogFormat, ServerSettings},
    session::SessionSettings,
    source::{SettingsError, SettingsErrors, SettingsWarning, environment},
    store::StoreSettings,
    token::TokenSettings,
    traces::TraceSettings,
};

use crate::{
    api::{Secret, paths},
    session::{ClientId, Digest},
    settings::{declaration::Declaration, source::Source},
    util::{
        clock::UnixTime,
        tls::{TlsIdentity, trust_anchors},
    },
};

/// Every section with its title, in the order of the documentation.
const SECTIONS: [(&str, &[Declaration]); 11] = [
    ("The listeners, the proxies in front of them, and the log", ServerSettings::DECLARATIONS),
    ("The OpenID provider", OidcSettings::DECLARATIONS),
    ("The session store", StoreSettings::DECLARATIONS),
    ("Access tokens, refresh tokens and the keys of this service", TokenSettings::DECLARATIONS),
    ("Sessions and who may create them", SessionSettings::DECLARATIONS),
    ("The claims hook", HookSettings::DECLARATIONS),
    ("Limits of one instance and of one client", Limits::DECLARATIONS),
    ("The dialog pages", DialogSettings::DECLARATIONS),
    ("Traces", TraceSettings::DECLARATIONS),
    ("Whether the Meet-compatible surface is on", MeetSwitch::DECLARATIONS),
    ("The Meet-compatible surface", MeetSettings::DECLARATIONS),
];

/// Every global setting.
fn declarations() -> impl Iterator<Item = &'static Declaration> {
    SECTIONS.into_iter().flat_map(|(_, section)| section)
}

/// Every setting of one client.
fn client_declarations() -> &'static [Declaration] {
    ClientSettings::DECLARATIONS
}

/// All settings, valid and with defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The listeners, the proxies in front of them, and the log.
    pub server: ServerSettings,
    /// Certificate and key of `TLS_CERTIFICATE` and `TLS_KEY`; plain HTTP without.
    pub tls: Option<TlsIdentity>,
    /// The OpenID provider.
    pub oidc: OidcSettings,
    /// The session store.
    pub store: StoreSettings,
    /// Access tokens, refresh tokens and the keys of this service.
    pub token: TokenSettings,
    /// Where the keys of this service come from.
    pub keys: Vec<KeySource>,
    /// Sessions and who may create them.
    pub session: SessionSettings,
    /// Limits of one instance and of one client.
    pub limits: Limits,
    /// Registered clients; [`Clients`] fills in what they inherit.
    pub clients: BTreeMap<ClientId, ClientSettings>,
    /// The claims hook.
    pub hook: HookSettings,
    /// The dialog pages.
    pub dialog: DialogSettings,
    /// Traces, where they are on.
    pub traces: Option<TraceSettings>,
    /// The Meet-compatible surface, where it is on.
    pub meet: Option<MeetSettings>,
}

/// Where a key comes from, and since when it is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// A file of its own that was last changed then.
    File(UnixTime),
    /// The environment or the settings file, which have no date of a key.
    Given,
    /// Random, made when the process started.
    Random,
}

/// The keys of one setting.
#[derive(Clone, Copy, Debug)]
pub struct KeySource {
    /// The setting.
    pub setting: &'static str,
    /// Where its value comes from.
    pub origin: KeyOrigin,
    /// What a reload exchanges for it.
    pub(crate) reload: Reloadable,
}

/// Settings that hold the keys of this service.
const KEYS: [(&str, Reloadable); 3] = [
    ("SIGNING_KEY", Reloadable::SigningKeys),
    ("SEALING_KEYS", Reloadable::SealingKeys),
    ("COOKIE_KEYS", Reloadable::CookieKeys),
];

/// One line of `check-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// Name as the documentation writes it: without the prefix, or `clients.<client_id>.<name>`.
    pub name: String,
    /// The value, or words in its place where it is secret.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
    /// Whether the value means something else than what holds when it is not set.
    pub is_changed: bool,
}

/// Reads every registered client; `None` when one of them is incomplete.
fn read_clients(source: &mut Source) -> Option<BTreeMap<ClientId, ClientSettings>> {
    let read = source.clients().into_iter().map(|id| {
        let settings = source.within(&id, ClientSettings::read);
        (id, settings)
    });
    // Every one is read before any is missed, so that all errors are found.
    let read: Vec<_> = read.collect();
    read.into_iter().map(|(id, settings)| Some((id, settings?))).collect()
}

impl Settings {
    /// Reads the settings from `environment` and the optional TOML `file`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsErrors> {
        Snapshot::load(environment, file).map(|snapshot| snapshot.settings)
    }

    fn read(source: &mut Source) -> Option<Self> {
        // Every section is read before any is missed, so that all errors are found.
        let server = ServerSettings::read(source);
        let tls = ServerSettings::identity(source);
        let oidc = OidcSettings::read(source);
        let store = StoreSettings::read(source);
        let token = TokenSettings::read(source);
        let session = SessionSettings::read(source);
        let limits = Limits::read(source);
        let clients = read_clients(source);
        let hook = HookSettings::read(source);
        let dialog = DialogSettings::read(source);
        let traces = TraceSettings::read_if_on(source);
        let meet = MeetSettings::read_if_on(source);
        if let Some(server) = &server {
            server.check(source);
        }
        if let Some(store) = &store {
            store.check(source);
        }
        if let Some(token) = &token {
            token.check(source);
        }
        if let Some(oidc) = &oidc {
            oidc.check(source);
        }
        if let Err(error) = trust_anchors() {
            source.foreign(error.variable, error.problem);
        }
        if let Some(session) = &session {
            session.check(source);
        }
        if let Some(hook) = &hook {
            hook.check(source);
        }
        if let Some(dialog) = &dialog {
            dialog.check(source);
        }
        if let Some(meet) = &meet {
            meet.check(source);
        }
        if let (Some(clients), Some(token)) = (&clients, &token) {
            client::check_all(clients, token, source);
        }
        if source.has("REDIS_URL") {
            for (name, _) in KEYS {
                if !source.has(name) {
                    source.missing(name, "with REDIS_URL, because all instances must share it");
                }
            }
        }
        Some(Self {
            server: server?,
            tls,
            oidc: oidc?,
            store: store?,
            token: token?,
            keys: KEYS
                .map(|(setting, reload)| KeySource {
                    setting,
                    origin: source.key_origin(setting),
                    reload,
                })
                .to_vec(),
            session: session?,
            limits: limits?,
            clients: clients?,
            hook: hook?,
            dialog: dialog?,
            traces,
            meet,
        })
    }

    /// URL by which clients reach a service that is bound to `bound`. One that listens on every
    /// address and has no configured name is reached on this machine.
    pub fn public_url_for(&self, bound: SocketAddr) -> Url {
        let bound = reachable(bound);
        // An address always makes a URL; the issuer is one that exists in any case.
        self.server
            .public_url
            .clone()
            .or_else(|| Url::parse(&format!("{}://{bound}", self.scheme())).ok())
            .unwrap_or_else(|| self.oidc.issuer.clone())
    }

    /// The address at which `path` of this service is reached from outside, as far as the settings
    /// say: of `PUBLIC_URL`, or made of `LISTEN`.
    pub fn public_address(&self, path: &str) -> String {
        let public_url = self.public_url_for(self.server.listen);
        format!("{}/{}", without_slash(&public_url), path.trim_start_matches('/'))
    }

    /// Redirect URIs to be registered at the provider.
    pub fn redirect_uris(&self) -> Vec<String> {
        let meet = self.meet.iter().filter(|meet| meet.has_login()).map(|_| paths::MEET_CALLBACK);
        let paths = std::iter::once(paths::CALLBACK).chain(meet);
        paths.map(|path| self.public_address(path)).collect()
    }

    /// The scheme that `LISTEN` speaks.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// `iss` of access tokens: the public URL unless configured.
    pub fn token_issuer_for(&self, public_url: &Url) -> String {
        self.token.issuer.clone().unwrap_or_else(|| without_slash(public_url))
    }

    /// `aud` of access tokens: the public URL unless configured.
    pub fn token_audience_for(&self, public_url: &Url) -> Vec<String> {
        match self.token.audience.as_slice() {
            [] => vec![without_slash(public_url)],
            audience => audience.to_vec(),
        }
    }
}

/// Settings as they were read at one moment, to be compared with those of another.
pub struct Snapshot {
    /// The settings.
    pub settings: Settings,
    effective: Vec<EffectiveSetting>,
    warnings: Vec<SettingsWarning>,
    digests: BTreeMap<String, Digest>,
    files: Vec<PathBuf>,
}

/// The embedded platform of `token-relay demo`.
#[derive(Clone, Debug)]
pub struct DemoPlatform {
    /// Its origin.
    pub origin: String,
    /// Secret of its claims hook.
    pub hook_secret: Secret,
    /// Key of the CSRF tokens.
    pub csrf_secret: Secret,
    /// Key of the access tokens that its API takes.
    pub token_secret: Secret,
}

/// A setting whose value differs between two snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) name: String,
    /// What a reload exchanges for it; `None` waits for a restart.
    pub(crate) reload: Option<Reloadable>,
}

impl Snapshot {
    /// Reads the settings from `environment` and the optional TOML `file`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsErrors> {
        Self::new(Source::read(environment, file))
    }

    /// Settings of `token-relay demo`: the embedded provider, the claims hook and the accounts of the
    /// embedded platform if there is one, and the environment for the rest.
    ///
    /// # Errors
    /// Everything that is wrong with the environment.
    pub fn demo(
        listen: SocketAddr,
        issuer: &str,
        client_id: &str,
        client_secret: &str,
        platform: Option<&DemoPlatform>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsErrors> {
        // These belong to the demo; those of another provider do not fit.
        let is_foreign = |variable: &str| {
            let key = source::key_of_global(variable).unwrap_or_default();
            key.starts_with("OIDC_") || key == "LISTEN"
        };
        let environment = environment.into_iter().filter(|(variable, _)| !is_foreign(variable));
        let mut source = Source::read(environment, None);
        source.preset("LISTEN", &listen.to_string());
        source.preset("OIDC_ISSUER", issuer);
        source.preset("OIDC_CLIENT_ID", client_id);
        source.preset("OIDC_CLIENT_SECRET", client_secret);
        if let Some(DemoPlatform { origin, hook_secret, csrf_secret, token_secret }) = platform {
            source.preset("CLAIMS_HOOK_URL", &format!("{origin}/hook"));
            source.preset("CLAIMS_HOOK_SECRET", hook_secret.expose());
            source.preset("MEET_COMPATIBLE", "true");
            source.preset("MEET_ACCOUNT_URL", &format!("{origin}/api/v1.0/users/me/"));
            source.preset("MEET_PROOF", "address");
            source.preset("ADDONS_CSRF_SECRET", csrf_secret.expose());
            source.preset("ADDONS_TOKEN_SECRET_KEY", token_secret.expose());
            // Its add-in is on another port than the relay. The pane at the relay proves what it
            // does without that.
            if !source.has("ALLOWED_ORIGINS") {
                source.preset("PROOFS", "browser opener code");
            }
            source.add("ALLOWED_ORIGINS", origin);
            source.add("CSRF_TRUSTED_ORIGINS", origin);
        }
        if !source.has("REQUIRE_BOUND_SESSIONS") {
            source.preset("LEGACY_SESSIONS", "true");
        }
        // One person, or one benchmark, behind one address.
        source.preset("SESSIONS_PER_MINUTE", "1000000");
        Self::new(source)
    }

    fn new(mut source: Source) -> Result<Self, SettingsErrors> {
        let settings = Settings::read(&mut source);
        let effective = effective(&mut source);
        let digests = source.digests();
        let files = source.files().to_vec();
        let warnings = source.warnings().to_vec();
        source.finish()?;
        // Without an error there is nothing that could be missing.
        let settings = settings.ok_or(SettingsErrors(Vec::new()))?;
        Ok(Self { settings, effective, warnings, digests, files })
    }

    /// The effective configuration, secrets redacted.
    pub fn effective(&self) -> &[EffectiveSetting] {
        &self.effective
    }

    /// Settings that are valid and harmful.
    pub fn warnings(&self) -> &[SettingsWarning] {
        &self.warnings
    }

    /// Logs every warning.
    pub fn log_warnings(&self) {
        for SettingsWarning { setting, text } in &self.warnings {
            tracing::warn!(%setting, "{text}");
        }
    }

    /// Every file that holds a part of the settings.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The settings whose values differ from those in `other`.
    pub(crate) fn changed_from(&self, other: &Self) -> Vec<Changed> {
        let keys: BTreeSet<_> = self.digests.keys().chain(other.digests.keys()).collect();
        keys.into_iter()
            .filter(|key| self.digests.get(*key) != other.digests.get(*key))
            .filter_map(|key| {
                let reload = source::find(key)?.reload;
                Some(Changed { name: key.clone(), reload })
            })
            .collect()
    }
}

fn effective(source: &mut Source) -> Vec<EffectiveSetting> {
    let line = |source: &Source, scope: &str, declaration: &Declaration| {
        let name = format!("{scope}{}", declaration.name);
        match source.shown(declaration) {
            Some((value, origin)) => {
                let is_changed = !declaration.is_default(&value);
                EffectiveSetting { name, value, origin, is_changed }
            }
            None => EffectiveSetting {
                name,
                value: declaration.unset_in_words().replace('`', ""),
                origin: "default".to_owned(),
                is_changed: false,
            },
        }
    };
    let mut lines: Vec<_> = declarations().map(|global| line(source, "", global)).collect();
    for client in source.clients() {
        let scope = format!("clients.{client}.");
        lines.extend(source.within(&client, |source| {
            let settings = client_declarations().iter();
            settings.map(|setting| line(source, &scope, setting)).collect::<Vec<_>>()
        }));
    }
    lines
}

/// `address`, or the loopback address in the place of the unspecified one.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn without_slash(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}
