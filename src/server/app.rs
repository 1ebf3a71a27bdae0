//! Builds the state that all handlers share from the settings.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use ::http::HeaderValue;
use arc_swap::ArcSwap;
use governor::{Quota, RateLimiter};

use crate::{
    http::{
        self, App, AppState, CreationQuota,
        meet::{Accounts, CsrfKeys, Meet},
        operator::{metrics::Metrics, recent::Recent},
        pages::Pages,
    },
    oidc::{self, ProviderOptions},
    relay::{Registry, Relay, Timing},
    server::{
        error::AppError,
        secrets::{MeetSecrets, Secrets},
    },
    session::{ClientId, Surface},
    settings::{Clients, DialogSettings, HookSettings, MeetSettings, Settings, TraceSettings},
    signin::ClaimsHook,
    store,
    telemetry::Tracing,
    token::{Issuer, Logouts, Refresh, Revocations, RollingUpgrade, Verifier},
};

/// Retry window for storing a finished sign-in while the store is unavailable; then the person is
/// asked to try again.
const FULFIL_TIMEOUT: Duration = Duration::from_secs(8);

/// The claims of access tokens: an e-mail address comes with what the provider says of it.
fn token_claims(settings: &Settings) -> Vec<String> {
    let mut claims = settings.token.claims.clone();
    if claims.iter().any(|name| name == "email") {
        claims.push("email_verified".to_owned());
    }
    claims
}

/// The maximum lifetime of what a person is granted.
fn max_ttl(settings: &Settings, clients: &Clients) -> Duration {
    let refresh = settings.token.refresh_token_ttl.map(|_| settings.token.refresh_grant_ttl);
    let login = settings.meet.as_ref().map(|meet| meet.login_ttl);
    let ttls = [Some(clients.max_token_ttl()), refresh, login];
    ttls.into_iter().flatten().max().unwrap_or_default()
}

/// What the provider is set up with.
pub(crate) fn provider_options(settings: &Settings, redirect_uri: String) -> ProviderOptions {
    let mut claims = token_claims(settings);
    if let Some(meet) = &settings.meet {
        claims.push(meet.user_id_claim.clone());
    }
    settings.oidc.options(redirect_uri, claims)
}

fn meet(
    settings: &MeetSettings,
    MeetSecrets { csrf_key, issuer }: MeetSecrets,
    public_url: &url::Url,
) -> Result<Meet, AppError> {
    let unreadable = |source| AppError::Authorities { setting: "MEET_ACCOUNT_CA", source };
    let accounts = match &settings.account_url {
        None => None,
        Some(url) => Some(Accounts::new(
            url.clone(),
            settings.account_authorities().map_err(unreadable)?,
            public_url,
            settings.user_id_field.clone(),
            settings.session_id_cookie.clone(),
        )?),
    };
    Ok(Meet {
        session_ttl: settings.session_ttl,
        transit_token_ttl: settings.transit_token_ttl,
        csrf_keys: ArcSwap::from_pointee(CsrfKeys::new(csrf_key)),
        issuer: ArcSwap::from_pointee(issuer),
        random_bytes: settings.random_token_byte_length,
        session_id_cookie: settings.session_id_cookie.clone(),
        user_id_claim: settings.user_id_claim.clone(),
        return_to: settings.return_to.clone(),
        login_ttl: settings.login_ttl,
        partitioned: settings.partitioned,
        csrf_cookie: settings.csrf_cookie.clone(),
        accounts,
        provider_logout: settings.provider_logout,
        exchanges: Default::default(),
    })
}

/// The claims hook, where one is configured.
fn hook(settings: &HookSettings) -> Result<Option<ClaimsHook>, AppError> {
    let unreadable = |source| AppError::Authorities { setting: "CLAIMS_HOOK_CA", source };
    let Some((url, secret)) = settings.url.clone().zip(settings.secret.clone()) else {
        return Ok(None);
    };
    let authorities = settings.authorities().map_err(unreadable)?;
    Ok(Some(ClaimsHook::new(url, secret, authorities)?))
}

/// How long a logout at the provider is remembered: as long as what it ends could last.
fn logout_memory(settings: &Settings) -> Duration {
    let login = settings.meet.as_ref().map(|meet| meet.login_ttl);
    let grant = settings.token.refresh_token_ttl.map(|_| settings.token.refresh_grant_ttl);
    login.max(grant).unwrap_or_default().max(settings.session.ttl)
}

/// The dialog pages. In the demo the last one loads the stand-in for Office.js, so that the sample
/// Outlook add-in gets the messages that Outlook would deliver.
fn dialog(settings: &Settings, public_url: &url::Url, demo_pane: bool) -> DialogSettings {
    let mut dialog = settings.dialog.clone();
    if demo_pane && dialog.office_js_url.is_none() {
        dialog.office_js_url = public_url.join(http::assets::OFFICE_STUB).ok();
    }
    dialog
}

/// Builds the state of a relay that listens on `address`.
///
/// # Errors
/// When a key or a setting is unusable or the store cannot be reached.
pub(crate) async fn build(
    settings: Arc<Settings>,
    address: SocketAddr,
    demo_pane: bool,
) -> Result<AppState, AppError> {
    let mut public_url = settings.public_url_for(address);
    if !public_url.path().ends_with('/') {
        public_url.set_path(&format!("{}/", public_url.path()));
    }
    let limits = &settings.limits;
    let registry = Registry::new(limits.max_streams, limits.max_streams_per_session);
    let options = settings.store.options();
    let metrics = Arc::new(Metrics::new(Arc::clone(&registry), !options.is_shared()));
    let store = store::open(&options, registry.clone(), metrics.clone()).await?;
    let secrets = Secrets::new(&settings)?;
    let sealing_keys = Arc::new(secrets.sealing_keys);
    let cookie_keys = secrets.cookie_keys;
    let upgrade =
        RollingUpgrade::new(Arc::clone(&store), options.is_shared(), settings.token.format);
    for ring in [&*sealing_keys, &cookie_keys] {
        ring.seal_in(upgrade.initial_format());
    }
    if let Err(error) = upgrade.check(&[&sealing_keys, &cookie_keys], false).await {
        tracing::debug!(%error, "the store was not asked about version 0.1");
    }
    let timing =
        Timing { delivery_grace: settings.session.delivery_grace, fulfil_timeout: FULFIL_TIMEOUT };
    let relay = Relay::new(Arc::clone(&store), registry, Arc::clone(&sealing_keys), timing);
    let signing_keys = Arc::new(secrets.signing_keys);
    let issuer = settings.token_issuer_for(&public_url);
    let clients = Clients::new(&settings, &settings, &public_url);
    metrics.begin_clients(Surface::Native, &clients.labels(), &http::TRANSPORTS);
    if settings.meet.is_some() {
        let meet = [clients.label(Surface::Meet, None)];
        metrics.begin_clients(Surface::Meet, &meet, &http::TRANSPORTS);
    }
    let token_issuer = Issuer {
        issuer: issuer.clone(),
        audience: settings.token_audience_for(&public_url),
        client_id: ClientId::implied(),
        scope: settings.token.scope.clone(),
        ttl: settings.token.ttl,
        claims: token_claims(&settings),
    };
    let redirect_uri = format!("{public_url}callback");
    let max_ttl = max_ttl(&settings, &clients);
    Ok(Arc::new(App {
        login: oidc::Provider::new(provider_options(&settings, redirect_uri))?,
        sealing_keys,
        cookie_keys,
        upgrade,
        verifier: Verifier::new(Arc::clone(&signing_keys), issuer.clone(), clients.audiences()),
        refresh: settings.token.refresh_token_ttl.map(|token_ttl| {
            let grant_ttl = settings.token.refresh_grant_ttl;
            Refresh::new(
                store.clone(),
                issuer.clone(),
                token_ttl,
                grant_ttl,
                clients.max_token_ttl(),
            )
        }),
        logouts: Logouts::new(Arc::clone(&store), logout_memory(&settings)),
        hook: hook(&settings.hook)?,
        revocations: Revocations::new(store, issuer.clone(), max_ttl),
        clients: ArcSwap::from_pointee(clients),
        exchanges: http::CodeExchanges::default(),
        prepared: http::PreparedSignIns::default(),
        pages: Arc::new(Pages::new(
            &dialog(&settings, &public_url, demo_pane),
            &public_url,
            &settings.dialog.frame_ancestors,
        )?),
        metrics,
        recent: Recent::new(&settings.keys),
        tracing: settings
            .traces
            .as_ref()
            .and_then(TraceSettings::options)
            .map(|options| Tracing::start(&options))
            .transpose()?,
        guesses: Arc::default(),
        refused_origins: RateLimiter::dashmap(Quota::per_minute(NonZeroU32::MIN)),
        creations: CreationQuota::new(limits.sessions_per_minute),
        hsts: settings.server.hsts.and_then(|max_age| {
            let subdomains = settings.server.hsts_include_subdomains;
            let scope = if subdomains { "; includeSubDomains" } else { "" };
            HeaderValue::from_str(&format!("max-age={}{scope}", max_age.as_secs())).ok()
        }),
        meet: settings
            .meet
            .as_ref()
            .zip(secrets.meet)
            .map(|(settings, keys)| meet(settings, keys, &public_url))
            .transpose()?,
        demo_pane,
        relay,
        signing_keys,
        issuer: token_issuer,
        public_url,
        settings,
    }))
}
