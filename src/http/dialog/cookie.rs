//! The state of a dialog between its steps: one sealed cookie per dialog, named by a handle that is
//! no secret, so that several dialogs in one browser stay apart.

use std::{fmt, sync::Arc, time::Duration};

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{
    http::{
        App, cookies,
        dialog::earlier::{
            AddIn, EarlierDialog, EarlierStage, ForBoth, LoggingIn, LoggingInForEarlier,
        },
        pages::{Fields, Window},
    },
    oidc::LoginAttempt,
    session::{
        ClientId, DialogId, Digest, GrantId, Identity, InvalidIdentifier, SessionDetails,
        SessionKey, SessionRef, SessionToken,
    },
    settings::Confirmation,
    signin::{Completed, Recipient},
    store::{Entry, StoreError},
    telemetry::{Trace, TraceContext},
    token::{Holder, OpenError, Purpose},
    util::{clock::UnixTime, wiped::WipedBytes},
};

/// Dialogs of one browser that may be open at once; more would overflow the request head.
pub(crate) const MAX_DIALOGS: usize = 8;

/// Names a dialog's cookie: the beginning of a digest of what opens it, so that the browser finds
/// its dialog again when it opens the same link again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Handle(String);

impl Handle {
    const LENGTH: usize = 16;

    /// The handle of a dialog that is recognised by `secret`.
    pub(crate) fn of(secret: &str) -> Self {
        let mut text = Digest::of(secret.as_bytes()).to_base64url();
        text.truncate(Self::LENGTH);
        Self(text)
    }

    /// The handle as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads what [`Self::as_str`] gives.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == Self::LENGTH && text.bytes().all(alphabet)).then(|| Self(text.to_owned()))
    }
}

/// What shows that the browser belongs to the reader of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Proven {
    /// The browser created the session.
    Browser,
    /// The window that opened the dialog holds the session token.
    Opener,
    /// The person typed the user code.
    Code,
    /// A button; for sessions without a session token.
    Button,
    /// Nothing was asked for (`CONFIRMATION=never`).
    Nothing,
    /// The dialog began at an instance of version 0.1, which asks for none.
    Earlier,
}

impl Proven {
    /// Whether a person who was tricked into giving it must be asked once more, by name.
    pub(super) fn needs_account_page(self) -> bool {
        matches!(self, Self::Code | Self::Button | Self::Earlier)
    }
}

impl Proven {
    /// Whether it shows at which origin the sign-in was begun.
    pub(super) fn shows_origin(self) -> bool {
        matches!(self, Self::Browser | Self::Opener)
    }
}

/// With what the session is entered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum EntryKey {
    SessionId,
    TransitToken(Digest),
}

/// Maximum size of the fields of a response with the copy for 0.1, in bytes: what fits into the 4 KiB
/// that proxies take by default, with the fields that are added on the way.
const MAX_HEAD: usize = 3700;

/// Size of header fields, as HTTP/1.1 writes them.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| size_of(name, value)).sum()
}

fn size_of(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + 4
}

/// A dialog, as its cookie holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dialog {
    pub(super) id: DialogId,
    session: SessionKey,
    key: EntryKey,
    /// SHA-256 of the session token of a bound session; what a refresh token is bound to.
    session_token: Option<Digest>,
    /// Whether the session is one of the device authorization grant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    device: bool,
    /// Without the secrets of the proofs.
    pub(super) details: SessionDetails,
    trace: Option<TraceContext>,
    /// Milliseconds since the Unix epoch.
    pub(super) began_at: u64,
    csrf: String,
    /// Whether the dialog is one of Office.
    pub(super) office: bool,
    /// Whether version 0.1 created the session, without secrets for proofs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_of_0_1: bool,
    /// Whether version 0.1 entered the session for this dialog.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) entered_by_0_1: bool,
    pub(super) stage: Stage,
}

/// How far a dialog is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Stage {
    /// The first page is shown.
    Proving { challenge: Digest },
    /// The page that compares codes is shown.
    Confirming { proven: Proven },
    /// The browser is at the provider.
    LoggingIn { attempt: LoginAttempt, proven: Proven },
    /// The person is known.
    LoggedIn {
        /// As version 0.1 calls it.
        #[serde(rename = "identity")]
        account: Account,
        proven: Proven,
    },
    /// The token was issued and stored.
    Finished(Finished),
}

/// The account that signed in.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Account {
    /// In the cookie.
    InCookie(Arc<Identity>),
    /// In the store under this name, sealed: its claims are too large for a cookie.
    InStore(Digest),
}

/// Without the copy of the whole value by which serde finds out what an untagged one is.
impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AccountVisitor;

        impl<'de> Visitor<'de> for AccountVisitor {
            type Value = Account;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an account or its name in the store")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Account, A::Error> {
                Identity::deserialize(MapAccessDeserializer::new(map))
                    .map(|identity| Account::InCookie(Arc::new(identity)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Account, E> {
                Digest::from_base64url(name)
                    .map(Account::InStore)
                    .map_err(|InvalidIdentifier| E::custom("malformed name"))
            }
        }

        deserializer.deserialize_any(AccountVisitor)
    }
}

/// What undoes a finished sign-in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) account: String,
    /// The person's `sub`.
    #[serde(default)]
    pub(super) subject: String,
    pub(super) token_id: Option<String>,
    pub(super) expires_at: u64,
    pub(super) grant: Option<GrantId>,
    pub(super) autoclose: bool,
}

impl Finished {
    /// The end of a dialog that was `completed` for `identity`.
    pub(super) fn new(identity: &Identity, completed: &Completed, autoclose: bool) -> Self {
        Self {
            account: identity.display_name().to_owned(),
            subject: identity.subject.clone(),
            token_id: completed.token_id.clone(),
            expires_at: completed.expires_at.as_secs(),
            grant: completed.grant,
            autoclose,
        }
    }
}

impl AddIn {
    fn of(dialog: &Dialog) -> Self {
        Self {
            session: dialog.session,
            session_token: dialog.session_token,
            name: dialog.details.client_name.clone(),
            trace: dialog.trace,
        }
    }
}

/// Which session a `state` or a CSRF token belongs to.
#[derive(Serialize, Deserialize)]
pub(super) struct Bearing {
    session: SessionKey,
    handle: String,
    /// Makes each of them another one.
    nonce: String,
    /// Whether the dialog is one of Office; what is known when the browser has lost its cookie.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    office: bool,
}

impl Bearing {
    pub(super) fn session(&self) -> SessionRef {
        SessionRef::native(self.session)
    }

    pub(super) fn handle(&self) -> Option<Handle> {
        Handle::parse(&self.handle)
    }

    pub(super) fn window(&self) -> Window {
        window(self.office)
    }
}

/// The window of a page after the first one.
fn window(office: bool) -> Window {
    if office { Window::Office } else { Window::Later }
}

impl Dialog {
    /// A new one.
    pub(super) fn new(
        session: SessionRef,
        key: EntryKey,
        session_token: Option<Digest>,
        details: SessionDetails,
        trace: Option<TraceContext>,
        office: bool,
    ) -> Self {
        Self {
            id: DialogId::generate(),
            session: session.key,
            key,
            session_token,
            device: false,
            details: SessionDetails { proof_key: None, ..details },
            trace,
            began_at: UnixTime::now().as_millis(),
            csrf: String::new(),
            office,
            is_of_0_1: false,
            entered_by_0_1: false,
            stage: Stage::Proving { challenge: Digest::random() },
        }
    }

    /// One of the device authorization grant, whose user code was typed. It enters as a dialog that
    /// was opened with the transit token of this digest.
    pub(super) fn of_device(
        session: SessionRef,
        transit_token: Digest,
        session_token: Option<Digest>,
        details: SessionDetails,
        trace: Option<TraceContext>,
    ) -> Self {
        let key = EntryKey::TransitToken(transit_token);
        Self { device: true, ..Self::new(session, key, session_token, details, trace, false) }
    }

    /// Who receives its token.
    pub(super) fn recipient(&self) -> Recipient {
        let holder = |session_token| Holder { session_token, client: self.device };
        Recipient { holder: self.session_token.map(holder), binding: self.details.binding.clone() }
    }

    pub(super) fn session(&self) -> SessionRef {
        SessionRef::native(self.session)
    }

    /// What it presents to enter the session: it was opened in time.
    pub(super) fn entry(&self) -> Entry {
        match self.key {
            EntryKey::SessionId => Entry::SessionId,
            EntryKey::TransitToken(digest) => Entry::OpenedDialog(digest),
        }
    }

    /// Whether the session has no secret that a proof could show: the person is asked by a button.
    pub(super) fn is_legacy(&self) -> bool {
        matches!(self.key, EntryKey::SessionId) || self.is_of_0_1
    }

    /// The CSRF token of its forms, made with the first page.
    pub(super) fn make_csrf(&mut self, app: &App, handle: &Handle) {
        if self.csrf.is_empty() {
            self.csrf = app.bear(self, handle);
        }
    }

    /// Whether its forms have a CSRF token; those of version 0.1 have none after the first page.
    pub(super) fn has_forms(&self) -> bool {
        !self.csrf.is_empty()
    }

    /// Hidden fields of its forms.
    pub(super) fn fields<'a>(&'a self, handle: &'a Handle) -> Fields<'a> {
        Fields { dialog: handle.as_str(), csrf: &self.csrf }
    }

    pub(super) fn has_csrf(&self, presented: &str) -> bool {
        let (own, presented) = (self.csrf.as_bytes(), presented.as_bytes());
        !self.csrf.is_empty() && Digest::of(own).matches(&Digest::of(presented))
    }

    /// Continues the trace of the last step, and the next step that of this one.
    pub(super) fn resumed(self, trace: &Trace) -> Self {
        trace.adopt(self.session, self.trace);
        Self { trace: trace.context().or(self.trace), ..self }
    }

    pub(super) fn window(&self) -> Window {
        window(self.office)
    }
}

impl App {
    /// A `state` or a CSRF token that names the session and the dialog, sealed.
    pub(super) fn bear(&self, dialog: &Dialog, handle: &Handle) -> String {
        let bearing = Bearing {
            session: dialog.session,
            handle: handle.as_str().to_owned(),
            nonce: SessionToken::generate().expose()[..8].to_owned(),
            office: dialog.office,
        };
        // Strings always serialise.
        self.cookie_keys
            .seal_text(Purpose::DialogState, b"", &bearing, self.session_ttl(dialog))
            .unwrap_or_default()
    }

    /// Reads what [`Self::bear`] wrote.
    pub(super) fn bearing(&self, text: &str) -> Result<Bearing, OpenError> {
        self.cookie_keys.open_text(Purpose::DialogState, b"", text)
    }

    /// The session that an expired [`Self::bear`] names.
    pub(super) fn expired_bearing(&self, text: &str) -> Option<Bearing> {
        self.cookie_keys.open_expired_text(Purpose::DialogState, b"", text).ok()
    }

    /// Lifetime of the session of a dialog, and so of the dialog.
    pub(super) fn session_ttl(&self, dialog: &Dialog) -> Duration {
        let clients = self.clients.load();
        let client = clients.find(dialog.details.client_id.as_ref().map(ClientId::as_str));
        client.map_or(self.settings.session.ttl, |client| client.session_ttl)
    }

    /// What is left of it.
    fn remaining(&self, dialog: &Dialog) -> Duration {
        let age = UnixTime::now().saturating_since(UnixTime::from_millis(dialog.began_at));
        self.session_ttl(dialog).saturating_sub(age)
    }

    /// Moves the account of a dialog out of its cookie into the store, sealed.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub(super) async fn move_account_to_store(
        &self,
        trace: &Trace,
        dialog: &mut Dialog,
    ) -> Result<(), StoreError> {
        let ttl = self.remaining(dialog);
        let Stage::LoggedIn { account, .. } = &mut dialog.stage else { return Ok(()) };
        let Account::InCookie(identity) = &*account else { return Ok(()) };
        let name = Digest::random();
        // Strings and JSON always serialise.
        let plaintext = WipedBytes::from(serde_json::to_vec(identity).unwrap_or_default());
        let sealed = self.cookie_keys.seal(Purpose::DialogAccount, name.as_bytes(), &plaintext);
        self.relay.in_trace(trace).store().put_value(name, sealed.into(), ttl).await?;
        *account = Account::InStore(name);
        Ok(())
    }

    /// The identity of an account; `None` where the store has it no more.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub(super) async fn identity(
        &self,
        trace: &Trace,
        account: Account,
    ) -> Result<Option<Arc<Identity>>, StoreError> {
        let name = match account {
            Account::InCookie(identity) => return Ok(Some(identity)),
            Account::InStore(name) => name,
        };
        let sealed = self.relay.in_trace(trace).store().value(name).await?;
        Ok(sealed.and_then(|sealed| {
            let keys = &self.cookie_keys;
            let opened = keys.open(Purpose::DialogAccount, name.as_bytes(), &sealed).ok()?;
            serde_json::from_slice(&opened).ok()
        }))
    }

    /// Removes an account from the store. One that stays there expires with its session.
    pub(super) async fn remove_account(&self, trace: &Trace, account: &Account) {
        if let Account::InStore(name) = account
            && let Err(error) = self.relay.in_trace(trace).store().remove_value(*name).await
        {
            tracing::debug!(%error, "the account of a finished dialog stays in the store");
        }
    }

    /// The dialog of a browser.
    pub(super) fn dialog(
        &self,
        trace: &Trace,
        headers: &HeaderMap,
        handle: &Handle,
    ) -> Option<Dialog> {
        Some(self.peek_dialog(headers, handle)?.resumed(trace))
    }

    pub(super) fn peek_dialog(&self, headers: &HeaderMap, handle: &Handle) -> Option<Dialog> {
        let sealed = cookies::get(headers, &cookies::dialog_name(self, &handle.0))?;
        let (keys, context) = (&self.cookie_keys, handle.0.as_bytes());
        match keys.open_text(Purpose::Dialog, context, &sealed) {
            Err(OpenError::Invalid) => {
                let earlier = keys.open_text(Purpose::Dialog, context, &sealed).ok()?;
                Some(self.continue_earlier(earlier))
            }
            current => current.ok(),
        }
    }

    /// A dialog of version 0.1 as this version continues it. 0.1 asks for no proof, so the person is
    /// asked about the account before the sign-in is completed.
    fn continue_earlier(&self, earlier: EarlierDialog) -> Dialog {
        let EarlierDialog { add_in, stage, is_copy } = earlier;
        if !is_copy {
            self.relay.notice_0_1();
        }
        let proven = match self.settings.dialog.confirmation {
            Confirmation::Never => Proven::Nothing,
            _ => Proven::Earlier,
        };
        let mut csrf = String::new();
        let stage = match stage {
            EarlierStage::Confirming { csrf: of_form } => {
                csrf = of_form;
                Stage::Confirming { proven }
            }
            EarlierStage::LoggingIn { attempt } => Stage::LoggingIn { attempt, proven },
            EarlierStage::LoggedIn { identity } => {
                Stage::LoggedIn { account: Account::InCookie(identity.into()), proven }
            }
            EarlierStage::Finished { account } => Stage::Finished(Finished {
                account,
                subject: String::new(),
                token_id: None,
                expires_at: 0,
                grant: None,
                autoclose: false,
            }),
        };
        let AddIn { session, session_token, name, trace } = add_in;
        let details = SessionDetails { client_name: name, ..SessionDetails::default() };
        let session = SessionRef::native(session);
        let office = self.pages.load_office();
        let dialog =
            Dialog::new(session, EntryKey::SessionId, session_token, details, trace, office);
        Dialog { stage, csrf, entered_by_0_1: true, ..dialog }
    }

    /// The dialog at the provider that version 0.1 began with `state`.
    pub(super) fn dialog_of_0_1(
        &self,
        trace: &Trace,
        headers: &HeaderMap,
        state: &str,
    ) -> Option<(Handle, Dialog)> {
        let handle = Handle::of(state);
        let mut dialog = self.dialog(trace, headers, &handle)?;
        dialog.make_csrf(self, &handle);
        dialog.entered_by_0_1.then_some((handle, dialog))
    }

    /// Whether a form is one of version 0.1, whose pages send no referrer, so that browsers send
    /// `Origin: null`. Its CSRF token remains to be compared.
    pub(super) fn is_form_of_0_1(&self, headers: &HeaderMap, handle: &Handle) -> bool {
        headers.get(header::ORIGIN).is_some_and(|origin| origin == "null")
            && self.peek_dialog(headers, handle).is_some_and(|dialog| {
                dialog.entered_by_0_1 && matches!(dialog.stage, Stage::Confirming { .. })
            })
    }

    /// Sets the dialog's cookie; false when it is too large. It lives as long as its session.
    pub(super) fn store_dialog(
        &self,
        response: &mut Response,
        headers: &HeaderMap,
        handle: &Handle,
        dialog: &Dialog,
    ) -> bool {
        let Some(cookie) = self.dialog_cookie(handle, dialog) else { return false };
        self.append_dialog(response, headers, handle, cookie);
        // Version 0.1 finds a dialog that is at the provider by its `state`.
        if let Stage::LoggingIn { attempt, .. } = &dialog.stage
            && self.is_for_0_1(dialog)
        {
            let copy = LoggingInForEarlier {
                add_in: AddIn::of(dialog),
                stage: LoggingIn::LoggingIn { attempt },
                is_copy: true,
            };
            let handle = Handle::of(attempt.state());
            let copy = self.sealed_cookie(&handle, &copy, self.remaining(dialog));
            if let Some(copy) = copy
                && size(response.headers()) + size_of(&header::SET_COOKIE, &copy) <= MAX_HEAD
            {
                response.headers_mut().append(header::SET_COOKIE, copy);
            }
        }
        true
    }

    /// Sets the dialog's cookie that [`Self::dialog_cookie`] made.
    pub(super) fn append_dialog(
        &self,
        response: &mut Response,
        headers: &HeaderMap,
        handle: &Handle,
        cookie: HeaderValue,
    ) {
        self.make_room(response, headers, handle);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }

    /// Whether an instance of version 0.1 may take the next step of a dialog. It has no device grant.
    fn is_for_0_1(&self, dialog: &Dialog) -> bool {
        self.serves_beside_0_1() && !dialog.device
    }

    /// The cookie of a dialog, which lives as long as its session; `None` when it is too large.
    pub(super) fn dialog_cookie(&self, handle: &Handle, dialog: &Dialog) -> Option<HeaderValue> {
        let ttl = self.remaining(dialog);
        // 0.1 finds a dialog that is at the provider by another cookie.
        if self.is_for_0_1(dialog) && !matches!(dialog.stage, Stage::LoggingIn { .. }) {
            let both = ForBoth { dialog, add_in: AddIn::of(dialog) };
            if let Some(cookie) = self.sealed_cookie(handle, &both, ttl) {
                return Some(cookie);
            }
        }
        self.sealed_cookie(handle, dialog, ttl)
    }

    /// A cookie of a dialog; `None` when it is too large.
    fn sealed_cookie(
        &self,
        handle: &Handle,
        dialog: &impl Serialize,
        ttl: Duration,
    ) -> Option<HeaderValue> {
        let sealed = self.cookie_keys.seal_text(Purpose::Dialog, handle.0.as_bytes(), dialog, ttl);
        let sealed = sealed.ok().filter(|sealed| sealed.len() <= cookies::MAX_COOKIE)?;
        let name = cookies::dialog_name(self, &handle.0);
        Some(cookies::set(self, name, sealed, ttl, cookies::Reach::Dialog))
    }

    /// Deletes the dialog's cookie.
    pub(super) fn forget_dialog(&self, response: &mut Response, handle: &Handle) {
        let name = cookies::dialog_name(self, &handle.0);
        let cookie = cookies::delete(self, name, cookies::Reach::Dialog);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }

    /// Deletes the oldest dialog of a browser that has too many besides `this` one. Its `state`
    /// still names its session, which learns of it when the browser comes back.
    fn make_room(&self, response: &mut Response, headers: &HeaderMap, this: &Handle) {
        let prefix = cookies::dialog_name(self, "");
        let mut others: Vec<Handle> =
            cookies::names(headers, &prefix).filter_map(|name| Handle::parse(&name)).collect();
        others.retain(|handle| handle != this);
        if others.len() < MAX_DIALOGS {
            return;
        }
        // One that cannot be opened any more is the oldest of all.
        others.sort_by_key(|handle| {
            self.peek_dialog(headers, handle).map_or(0, |dialog| dialog.began_at)
        });
        let surplus = others.len() + 1 - MAX_DIALOGS;
        for handle in &others[..surplus] {
            self.forget_dialog(response, handle);
        }
    }
}
