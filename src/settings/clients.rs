//! The registry of clients, with everything that they inherit filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use url::Url;

use crate::{
    oidc::{AuthParams, RequiredClaims},
    session::{ClientId, Digest, Surface, Thumbprint},
    settings::{
        Settings,
        client::{ClientSettings, Grant, Proof, proofs_or_default},
    },
};

/// How a browser serialises an origin that is no other page's (WHATWG HTML, "opaque origin").
pub const OPAQUE_ORIGIN: &str = "null";

/// A client (RFC 6749 §2): an add-in or a backend.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its ID; `client_id` of its tokens.
    pub id: ClientId,
    /// Its registered name. The implied client has none and is called what it calls itself.
    pub name: Option<String>,
    /// Origins from which it calls and to which proofs are sent.
    pub origins: Vec<String>,
    /// Whether pages without an origin may call for it. They prove nothing by it.
    pub opaque_origins: bool,
    /// Proofs of which its dialogs need one.
    pub proofs: BTreeSet<Proof>,
    /// Scopes that it may request, and that it gets when it requests none.
    pub scope: Vec<String>,
    /// `aud` of its tokens.
    pub audience: Vec<String>,
    /// Lifetime of its access tokens.
    pub token_ttl: Duration,
    /// Lifetime of its sessions.
    pub session_ttl: Duration,
    /// Claims that an account must have besides those of the provider's settings.
    pub required_claims: RequiredClaims,
    /// Further parameters of its authorization requests; they replace those of the provider's
    /// settings with the same name.
    pub auth_params: AuthParams,
    /// Whether it gets refresh tokens.
    pub refresh: bool,
    /// Whether it may create legacy sessions.
    pub legacy: bool,
    /// Whether its tokens must be bound to a key.
    pub dpop_required: bool,
    /// What it may do.
    pub grants: BTreeSet<Grant>,
    /// Backends that may fulfil its sessions.
    pub fulfilled_by: Vec<ClientId>,
    secrets: Vec<Digest>,
    is_implied: bool,
}

/// A client requests a scope that it may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client may not request this scope")]
pub struct InvalidScope;

impl Client {
    /// Whether it has a secret (RFC 6749 §2.1).
    pub fn is_confidential(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Whether it is the one that is made of the global settings.
    pub fn is_implied(&self) -> bool {
        self.is_implied
    }

    /// Whether it may do this.
    pub fn may(&self, grant: Grant) -> bool {
        self.grants.contains(&grant)
    }

    /// Whether its dialogs accept this proof.
    pub fn accepts(&self, proof: Proof) -> bool {
        self.proofs.contains(&proof)
    }

    /// What its tokens are bound to while it has shown no key: nothing, or, where they must be bound, a
    /// key that nobody has.
    pub fn bound_without_key(&self) -> Option<Thumbprint> {
        self.dpop_required.then(Thumbprint::unknown)
    }

    /// Whether it calls from this origin.
    pub fn has_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|own| own == origin)
            || (self.opaque_origins && origin == OPAQUE_ORIGIN)
    }

    /// Whether `secret` is one of its secrets.
    pub fn is_authenticated_by(&self, secret: &str) -> bool {
        let presented = Digest::of(secret.as_bytes());
        // Every secret is compared, so that the time says nothing about which one fits.
        self.secrets.iter().fold(false, |fits, known| known.matches(&presented) | fits)
    }

    /// The scope of its token when it requests `requested`: a part of its own, in its own order, or
    /// all of it.
    ///
    /// # Errors
    /// When it requests more than its own.
    pub fn scope_for(&self, requested: Option<&str>) -> Result<String, InvalidScope> {
        let Some(requested) = requested else { return Ok(self.scope.join(" ")) };
        let requested: Vec<_> = requested.split(' ').filter(|scope| !scope.is_empty()).collect();
        let is_own = |scope: &&str| self.scope.iter().any(|own| own == scope);
        if !requested.iter().all(is_own) || requested.is_empty() {
            return Err(InvalidScope);
        }
        let granted = self.scope.iter().filter(|own| requested.contains(&own.as_str()));
        Ok(granted.map(String::as_str).collect::<Vec<_>>().join(" "))
    }

    /// The name of the operator's setting that decides `what` about this client, such as
    /// `clients.outlook.proofs`; for the implied client the global one.
    pub fn setting(&self, what: ClientSetting) -> String {
        let (own, global) = match what {
            ClientSetting::Origins => ("origins", "ALLOWED_ORIGINS"),
            ClientSetting::OpaqueOrigins => ("opaque_origins", "OPAQUE_ORIGINS"),
            ClientSetting::Proofs => ("proofs", "PROOFS"),
            ClientSetting::Scope => ("scope", "TOKEN_SCOPE"),
            ClientSetting::Legacy => ("legacy", "LEGACY_SESSIONS"),
            ClientSetting::Grants => ("grants", "PROOFS"),
            ClientSetting::DpopRequired => ("dpop_required", "DPOP_REQUIRED"),
        };
        if self.is_implied { global.to_owned() } else { format!("clients.{}.{own}", self.id) }
    }
}

/// A property of a client that an error message names the setting of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientSetting {
    /// Where it calls from.
    Origins,
    /// Whether pages without an origin may call for it.
    OpaqueOrigins,
    /// Which proofs its dialogs accept.
    Proofs,
    /// What it may request.
    Scope,
    /// Whether it may create legacy sessions.
    Legacy,
    /// What it may do.
    Grants,
    /// Whether its tokens must be bound to a key.
    DpopRequired,
}

/// No such client, or none named where one must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown client")]
pub struct UnknownClient;

/// Every client. Without one that may sign people in, there is an implied client made of the global
/// settings.
#[derive(Clone, Debug)]
pub struct Clients {
    by_id: BTreeMap<ClientId, Arc<Client>>,
    implied: Option<Arc<Client>>,
}

impl Clients {
    /// The clients that `settings` register, in a relay at `public_url`. What they inherit comes from
    /// `global`, the settings with which the service was started: those wait for a restart.
    pub fn new(settings: &Settings, global: &Settings, public_url: &Url) -> Self {
        let implied = implied(global, public_url);
        let introspecting = settings.session.introspection_clients.iter().map(|(id, secret)| {
            let secrets = vec![Digest::of(secret.expose().as_bytes())];
            let (origins, proofs) = (Vec::new(), BTreeSet::new());
            let grants = BTreeSet::from([Grant::Introspect]);
            let (id, is_implied) = (id.clone(), false);
            Client { id, origins, proofs, grants, secrets, is_implied, ..implied.clone() }
        });
        let registered =
            settings.clients.iter().map(|(id, settings)| client(id, settings, &implied));
        let by_id: BTreeMap<_, _> = introspecting
            .chain(registered)
            .map(|client| (client.id.clone(), Arc::new(client)))
            .collect();
        let signs_in =
            |client: &Arc<Client>| client.may(Grant::Session) || client.may(Grant::Device);
        let implied = (!by_id.values().any(signs_in)).then(|| Arc::new(implied));
        Self { by_id, implied }
    }

    /// The client of a request that names `client_id`, or none.
    ///
    /// # Errors
    /// When there is no such client, or clients are registered and none is named.
    pub fn find(&self, client_id: Option<&str>) -> Result<&Arc<Client>, UnknownClient> {
        let implied = self.implied.as_ref();
        let found = match client_id {
            None => implied,
            Some(id) => self.by_id.get(id).or(implied.filter(|client| client.id.as_str() == id)),
        };
        found.ok_or(UnknownClient)
    }

    /// The client as metrics and log name it: a registered one by its ID, the implied one by its
    /// own, and anything else by one name, so that no caller can add names.
    pub fn label(&self, surface: Surface, client_id: Option<&ClientId>) -> ClientId {
        static MEET: LazyLock<ClientId> = LazyLock::new(|| ClientId::named("meet"));
        match (surface, client_id) {
            (Surface::Meet, _) => MEET.clone(),
            (Surface::Native, Some(id)) if self.by_id.contains_key(id) => id.clone(),
            (Surface::Native, id) => self
                .implied()
                .filter(|client| id.is_none_or(|id| *id == client.id))
                .map_or_else(Self::unknown, |client| client.id.clone()),
        }
    }

    /// What [`Self::label`] calls a client that is none of these.
    pub fn unknown() -> ClientId {
        static UNKNOWN: LazyLock<ClientId> = LazyLock::new(|| ClientId::named("unknown"));
        UNKNOWN.clone()
    }

    /// Every name that [`Self::label`] gives, except that of the Meet surface.
    pub fn labels(&self) -> Vec<ClientId> {
        let registered = self.by_id.keys().cloned();
        registered.chain([self.label(Surface::Native, None)]).collect()
    }

    /// The confidential client that these credentials authenticate.
    pub fn authenticate(&self, client_id: &str, secret: &str) -> Option<&Arc<Client>> {
        self.by_id.get(client_id).filter(|client| client.is_authenticated_by(secret))
    }

    /// The client that is made of the global settings; `None` when clients are registered.
    pub fn implied(&self) -> Option<&Arc<Client>> {
        self.implied.as_ref()
    }

    /// Every audience that a token of ours may be for.
    pub fn audiences(&self) -> Vec<String> {
        let all: BTreeSet<_> = self.iter().flat_map(|client| &client.audience).collect();
        all.into_iter().cloned().collect()
    }

    /// The maximum lifetime of an access token.
    pub fn max_token_ttl(&self) -> Duration {
        self.iter().map(|client| client.token_ttl).max().unwrap_or_default()
    }

    /// Every client.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.by_id.values().chain(&self.implied)
    }

    /// Whether any client calls from this origin.
    pub fn have_origin(&self, origin: &str) -> bool {
        self.iter().any(|client| client.has_origin(origin))
    }
}

/// Proofs where none are configured: a code can be passed on by a stranger, so it is accepted only
/// of clients that cannot give another proof from an origin of theirs.
fn implied(global: &Settings, public_url: &Url) -> Client {
    let origins = global.session.allowed_origins.clone();
    let proofs = proofs_or_default(global.session.proofs.as_ref(), &origins);
    // The person who uses the device grant proves nothing but a code.
    let device = proofs.contains(&Proof::Code).then_some(Grant::Device);
    Client {
        id: ClientId::implied(),
        name: None,
        proofs,
        origins,
        opaque_origins: global.session.opaque_origins,
        scope: global.token.scope.split(' ').map(str::to_owned).collect(),
        audience: global.token_audience_for(public_url),
        token_ttl: global.token.ttl,
        session_ttl: global.session.ttl,
        required_claims: RequiredClaims::default(),
        auth_params: AuthParams::default(),
        refresh: global.token.refresh_token_ttl.is_some(),
        legacy: global.session.legacy(),
        dpop_required: global.token.dpop_required,
        grants: [Grant::Session].into_iter().chain(device).collect(),
        fulfilled_by: Vec::new(),
        secrets: Vec::new(),
        is_implied: true,
    }
}

fn client(id: &ClientId, settings: &ClientSettings, global: &Client) -> Client {
    let audience = match settings.audience.as_slice() {
        [] => global.audience.clone(),
        own => own.to_vec(),
    };
    let proofs = proofs_or_default(settings.proofs.as_ref(), &settings.origins);
    let opaque_origins = global.opaque_origins && proofs.contains(&Proof::Code);
    Client {
        id: id.clone(),
        name: Some(settings.name.clone().unwrap_or_else(|| id.as_str().to_owned())),
        origins: settings.origins.clone(),
        opaque_origins: settings.opaque_origins.unwrap_or(opaque_origins),
        proofs,
        scope: settings.scope.clone().unwrap_or_else(|| global.scope.clone()),
        audience,
        token_ttl: settings.token_ttl.unwrap_or(global.token_ttl),
        session_ttl: settings.session_ttl.unwrap_or(global.session_ttl),
        required_claims: settings.required_claims.clone(),
        auth_params: settings.auth_params.clone(),
        refresh: settings.refresh.unwrap_or(global.refresh),
        legacy: settings.legacy.unwrap_or(global.legacy),
        dpop_required: settings.dpop_required.unwrap_or(global.dpop_required),
        grants: settings.grants.clone(),
        fulfilled_by: settings.fulfilled_by.clone(),
        secrets: settings
            .secrets
            .iter()
            .map(|secret| Digest::of(secret.expose().as_bytes()))
            .collect(),
        is_implied: false,
    }
}
