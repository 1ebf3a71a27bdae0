//! The proofs that a dialog accepts, and the request as it is displayed to the person.

use std::net::IpAddr;

use crate::{
    http::{App, pages::RequestView},
    session::{ClientId, SessionDetails},
    util::{clock::UnixTime, network::Network},
};

/// What the operator allows for the dialogs of one client.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Its registered name.
    pub name: Option<String>,
    /// Origins that its openers may have, without the relay's own.
    pub origins: Vec<String>,
    /// Whether the browser that created the session is a proof.
    pub browser: bool,
    /// Whether the opener's message is a proof.
    pub opener: bool,
    /// Whether the typed code is a proof.
    pub code: bool,
    /// The setting that decides which proofs are accepted.
    pub setting: String,
    /// Whether nothing is asked for.
    pub never: bool,
}

impl Policy {
    /// The policy for the client `client_id`.
    pub(crate) fn of(app: &App, client_id: Option<&ClientId>) -> Self {
        let never = app.settings.dialog.confirmation == crate::settings::Confirmation::Never;
        let clients = app.clients.load();
        let Ok(client) = clients.find(client_id.map(ClientId::as_str)) else {
            // Removed from the registry since the session was created.
            return Self {
                name: None,
                origins: Vec::new(),
                browser: false,
                opener: false,
                code: false,
                setting: "clients".to_owned(),
                never: false,
            };
        };
        use crate::settings::{ClientSetting, Proof};
        Self {
            name: client.name.clone(),
            origins: client.origins.clone(),
            browser: client.accepts(Proof::Browser),
            opener: client.accepts(Proof::Opener),
            code: client.accepts(Proof::Code),
            setting: client.setting(ClientSetting::Proofs),
            never,
        }
    }

    /// Whether an opener of this origin may give a proof.
    pub(crate) fn accepts_opener(&self, app: &App, origin: &str) -> bool {
        self.opener && (origin == app.origin() || self.origins.iter().any(|own| own == origin))
    }
}

/// What the person is shown of the request.
pub(super) fn view<'a>(
    details: &'a SessionDetails,
    policy: &'a Policy,
    address: IpAddr,
) -> RequestView<'a> {
    let created = UnixTime::from_secs(details.created_at.unwrap_or_default());
    let age = match details.created_at {
        Some(_) => UnixTime::now().saturating_since(created).as_secs() / 60,
        None => 0,
    };
    let network = details.network.as_deref();
    RequestView {
        client: policy.name.as_deref().or(details.client_name.as_deref()),
        verified: policy.name.is_some() && details.client_authenticated,
        origin: details.origin.as_deref(),
        network,
        other_network: network.is_some_and(|network| network != Network::of(address).to_string()),
        minutes: age,
    }
}
