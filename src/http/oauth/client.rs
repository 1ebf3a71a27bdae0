//! Which registered client calls an OAuth endpoint (RFC 6749 §2.3, §3.2.1).

use std::sync::Arc;

use http::{HeaderMap, header};

use crate::{
    api::Secret,
    http::{
        App,
        error::Problem,
        extract::ClientBasic,
        guesses::{Attempt, Guessed},
        middleware::ClientAddress,
    },
    settings::{Client, ClientSetting, Grant},
};

/// A client ID and perhaps a secret, as a request presents them.
pub(super) type Presented = (Secret, Option<Secret>);

/// What the client presents: HTTP Basic, or form fields, not both. Basic can be meant in two ways.
pub(super) fn presented(
    headers: &HeaderMap,
    client_id: Option<Secret>,
    client_secret: Option<Secret>,
) -> Result<Vec<Presented>, Problem> {
    match ClientBasic::of(headers).map_err(|_| Problem::InvalidClient)? {
        Some(_) if client_secret.is_some() => {
            Err(Problem::BadRequest("The client authenticates in one way, not two.".to_owned()))
        }
        Some(basic) => Ok(basic
            .readings()
            .map(|(id, secret)| {
                // A public client sends an empty secret with some libraries.
                let secret = (!secret.is_empty()).then(|| Secret::from(&*secret));
                (Secret::from(&*id), secret)
            })
            .collect()),
        None => Ok(client_id.map(|id| (id, client_secret)).into_iter().collect()),
    }
}

/// The client that a request is from.
pub(super) struct Caller {
    pub(super) client: Arc<Client>,
    /// Whether it proved that by its secret.
    pub(super) is_authenticated: bool,
}

impl Caller {
    /// The registered client: a public one by its ID, a confidential one by its secret too. Without
    /// any registered, a request need not name the implied one.
    ///
    /// # Errors
    /// [`Problem::InvalidClient`] and [`Problem::TooManyGuesses`].
    pub(super) async fn new(
        app: &App,
        address: ClientAddress,
        presented: &[Presented],
    ) -> Result<Self, Problem> {
        let clients = app.clients.load_full();
        let named = |presented: Option<&Presented>| {
            clients.find(presented.map(|(id, _)| id.expose())).ok().map(Arc::clone)
        };
        let found = match presented {
            [] => named(None).map(|client| (client, None)),
            all => all.iter().find_map(|one| Some((named(Some(one))?, one.1.as_ref()))),
        };
        let has_secret = presented.iter().any(|(_, secret)| secret.is_some());
        let Some((client, secret)) = found else {
            return Err(if has_secret {
                let attempt = Attempt::of_unknown_client(app, address);
                attempt.admit()?.wrong(Problem::InvalidClient).await
            } else {
                Problem::InvalidClient
            });
        };
        match (client.is_confidential(), secret) {
            (false, None) => return Ok(Self { client, is_authenticated: false }),
            (false, Some(_)) | (true, None) => return Err(Problem::InvalidClient),
            (true, Some(_)) => {}
        }
        let attempt =
            Attempt::new(app, Guessed::ClientSecret, address, Some(&client.id)).admit()?;
        let is_right = presented.iter().any(|(id, secret)| {
            id.expose() == client.id.as_str()
                && secret.as_ref().is_some_and(|secret| client.is_authenticated_by(secret.expose()))
        });
        if !is_right {
            return Err(attempt.wrong(Problem::InvalidClient).await);
        }
        attempt.right().await?;
        Ok(Self { client, is_authenticated: true })
    }

    /// The same, if it may do this.
    ///
    /// # Errors
    /// [`Problem::UnauthorizedClient`], which names the setting.
    pub(super) fn with(self, grant: Grant) -> Result<Self, Problem> {
        if self.client.may(grant) {
            return Ok(self);
        }
        let setting = self.client.setting(ClientSetting::Grants);
        let detail = format!("The client may not use this grant; `{setting}` would allow it.");
        Err(Problem::UnauthorizedClient(detail))
    }

    /// The same, if a page that calls is one of its own. Without registered clients an origin is no
    /// more than what the dialog shows.
    ///
    /// # Errors
    /// [`Problem::OriginRefused`].
    pub(super) fn at_its_origin(self, app: &App, headers: &HeaderMap) -> Result<Self, Problem> {
        if self.client.is_implied() {
            return Ok(self);
        }
        match headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
            Some(origin) if !app.is_own_origin(origin) && !self.client.has_origin(origin) => {
                Err(app.refuse_origin(origin, Some(&self.client)))
            }
            _ => Ok(self),
        }
    }
}
