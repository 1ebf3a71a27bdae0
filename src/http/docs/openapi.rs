//! The description of this service: `GET /openapi.json` (OpenAPI 3.1) and `GET /docs` (the same for
//! people, without JavaScript and without anything from elsewhere).
//!
//! One table of calls is the source of both. Called by the router and by `token-relay openapi`.

use askama::Template;
use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use utoipa::openapi::{
    Components, Content, Info, License, ObjectBuilder, OneOfBuilder, OpenApi, OpenApiBuilder,
    Paths, Ref, RefOr, Required, Schema, ServerBuilder,
    link::{Link, LinkBuilder},
    path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    response::ResponseBuilder,
    schema::{AdditionalProperties, ComponentsBuilder, Type},
    security::{
        ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
    },
    tag::TagBuilder,
};

use crate::http::{
    App, AppState,
    addons::sessions::{CreateRequest, CreateResponse},
    docs::asyncapi::{self, Message},
    error::Problem,
};

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const FORM: &str = "application/x-www-form-urlencoded";
const METRICS: &str = crate::http::operator::OPENMETRICS;
const PROBLEM: &str = "application/problem+json";

/// What is served besides what always is.
#[derive(Clone, Copy, Debug)]
pub struct Optional {
    /// The meet-compatible surface.
    pub meet: bool,
    /// `/metrics` on the main listener.
    pub metrics: bool,
    /// Refresh tokens.
    pub refresh: bool,
}

impl Optional {
    /// All of it.
    pub const ALL: Self = Self { meet: true, metrics: true, refresh: true };

    fn of(app: &App) -> Self {
        Self { meet: app.meet.is_some(), metrics: app.metrics_here, refresh: app.refresh.is_some() }
    }

    fn has(self, call: &Call) -> bool {
        match call.path {
            "/metrics" => self.metrics,
            "/addons/token" => self.refresh,
            _ => self.meet || call.caller != Caller::Meet,
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    AddIn,
    Dialog,
    Api,
    Operator,
    Meet,
}

impl Caller {
    const ALL: [Self; 5] = [Self::AddIn, Self::Dialog, Self::Api, Self::Operator, Self::Meet];

    fn name(self) -> &'static str {
        match self {
            Self::AddIn => "Add-in",
            Self::Dialog => "Dialog",
            Self::Api => "API",
            Self::Operator => "Operator",
            Self::Meet => "Meet-compatible",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::AddIn => "Creates a session, waits for its token, acknowledges it.",
            Self::Dialog => "Where the person's browser goes; the answers are pages and redirects.",
            Self::Api => "Checks and revokes access tokens.",
            Self::Operator => "Health, figures, and this description.",
            Self::Meet => {
                "What the Outlook add-in of La Suite Meet speaks; its errors are `detail`."
            }
        }
    }
}

/// What a caller proves itself with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Credentials {
    None,
    /// Needed for a bound session only.
    SessionToken,
    AccessToken,
    Client,
    /// Taken when it is there.
    ClientIfAny,
    /// Session ID and session token as client credentials.
    SessionAsClient,
    /// The cookie of the meet-compatible surface.
    Cookie,
}

impl Credentials {
    fn requirements(self) -> Vec<SecurityRequirement> {
        let one = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
        match self {
            Self::None => Vec::new(),
            Self::SessionToken => vec![SecurityRequirement::default(), one("session_token")],
            Self::AccessToken => vec![one("access_token")],
            Self::Client => vec![one("client")],
            Self::ClientIfAny => vec![SecurityRequirement::default(), one("client")],
            Self::SessionAsClient => vec![one("session_as_client")],
            Self::Cookie => vec![one("addons_session")],
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SessionToken => "session token, for a bound session",
            Self::AccessToken => "access token as bearer",
            Self::Client => "client credentials (Basic)",
            Self::ClientIfAny => "client credentials (Basic), optional",
            Self::SessionAsClient => "session ID and session token (Basic)",
            Self::Cookie => "session cookie and `X-CSRFToken`",
        }
    }
}

struct Parameter {
    name: &'static str,
    place: ParameterIn,
    description: &'static str,
    schema: fn() -> ObjectBuilder,
}

struct Answer {
    status: &'static str,
    description: &'static str,
    /// Media type and the name of the schema.
    content: Option<(&'static str, &'static str)>,
}

struct Call {
    method: HttpMethod,
    path: &'static str,
    caller: Caller,
    summary: &'static str,
    credentials: Credentials,
    parameters: Vec<Parameter>,
    /// Media type, schema, whether it must be there.
    body: Option<(&'static str, &'static str, bool)>,
    answers: Vec<Answer>,
}

impl Call {
    fn new(method: HttpMethod, path: &'static str, caller: Caller, summary: &'static str) -> Self {
        Self {
            method,
            path,
            caller,
            summary,
            credentials: Credentials::None,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
        }
    }

    fn with(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    fn parameter(
        mut self,
        place: ParameterIn,
        name: &'static str,
        description: &'static str,
        schema: fn() -> ObjectBuilder,
    ) -> Self {
        self.parameters.push(Parameter { name, place, description, schema });
        self
    }

    fn query(self, name: &'static str, description: &'static str) -> Self {
        self.parameter(ParameterIn::Query, name, description, string)
    }

    fn session_id(self) -> Self {
        self.parameter(ParameterIn::Path, "session_id", "The session.", string)
    }

    fn body(mut self, media_type: &'static str, schema: &'static str, required: bool) -> Self {
        self.body = Some((media_type, schema, required));
        self
    }

    fn answer(
        mut self,
        status: &'static str,
        description: &'static str,
        content: Option<(&'static str, &'static str)>,
    ) -> Self {
        self.answers.push(Answer { status, description, content });
        self
    }

    /// Refusals as problem details.
    fn problems(mut self, statuses: &[&'static str]) -> Self {
        for status in statuses {
            self = self.answer(status, reason(status), Some((PROBLEM, "Problem")));
        }
        self
    }

    /// Refusals of the meet-compatible surface.
    fn details(mut self, statuses: &[&'static str]) -> Self {
        for status in statuses {
            self = self.answer(status, reason(status), Some((JSON, "Detail")));
        }
        self
    }

    fn csrf(self) -> Self {
        self.parameter(ParameterIn::Header, "X-CSRFToken", "The session's `csrf_token`.", string)
    }

    /// Refusals as pages.
    fn error_pages(mut self, statuses: &[&'static str]) -> Self {
        for status in statuses {
            self = self.answer(status, reason(status), Some((HTML, "Page")));
        }
        self
    }

    fn name(&self) -> &'static str {
        match self.method {
            HttpMethod::Post => "POST",
            HttpMethod::Delete => "DELETE",
            _ => "GET",
        }
    }
}

fn reason(status: &str) -> &'static str {
    match status {
        "400" => "The request cannot be understood.",
        "401" => "Credentials are missing or wrong.",
        "403" => "Not allowed from this origin, or not without a bound session.",
        "404" => "No such session.",
        "409" => "The session is past this step.",
        "410" => "The session is over.",
        "413" => "The body is too large.",
        "415" => "The body is not of the expected media type.",
        "429" => "Too many; `Retry-After` says when to come again.",
        "502" => "The OpenID provider cannot be used.",
        "503" => "Store or instance is not available; come again.",
        _ => "The service failed.",
    }
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn wait() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(60))
}

/// Every call.
fn calls() -> Vec<Call> {
    use Caller::{AddIn, Api, Dialog, Meet, Operator};
    use HttpMethod::{Delete, Get, Post};
    let json = |schema| Some((JSON, schema));
    let page = Some((HTML, "Page"));
    const SESSION: &str = "/addons/sessions/{session_id}";
    let waiting = ["401", "403", "404", "429", "500", "503"];
    vec![
        Call::new(Post, "/addons/sessions", AddIn, "Creates a session")
            .body(JSON, "CreateRequest", false)
            .answer("201", "The session. Tokens in it are given once.", json("CreateResponse"))
            .problems(&["400", "403", "413", "415", "429", "500", "503"]),
        Call::new(Get, SESSION, AddIn, "Long poll for the token")
            .with(Credentials::SessionToken)
            .session_id()
            .parameter(ParameterIn::Query, "wait", "Longest wait in seconds; 0 by default.", wait)
            .parameter(ParameterIn::Header, "Prefer", "`wait=N` (RFC 7240), instead.", string)
            .answer("200", "The end of the sign-in.", json("Ended"))
            .answer("202", "Nothing yet.", json("Pending"))
            .problems(&["400", "401", "403", "404", "410", "429", "500", "503"]),
        Call::new(Delete, SESSION, AddIn, "Acknowledges the token, or cancels the sign-in")
            .with(Credentials::SessionToken)
            .session_id()
            .answer("204", "The session is over.", None)
            .problems(&["401", "403", "404", "500", "503"]),
        Call::new(
            Get,
            "/addons/sessions/{session_id}/events",
            AddIn,
            "Server-sent events: one of `authenticated`, `failed`, `expired` ends the stream",
        )
        .with(Credentials::SessionToken)
        .session_id()
        .parameter(
            ParameterIn::Header,
            "Last-Event-ID",
            "`1` says that the event has arrived, and acknowledges.",
            string,
        )
        .answer(
            "200",
            "`data` of an event is the JSON of the long poll's answer 200.",
            Some(("text/event-stream", "EventStream")),
        )
        .answer("204", "The token was acknowledged; an `EventSource` stops.", None)
        .problems(&waiting),
        Call::new(
            Get,
            "/addons/sessions/{session_id}/ws",
            AddIn,
            "WebSocket, subprotocol `token-relay.v1`; close codes say why it ends",
        )
        .with(Credentials::SessionToken)
        .session_id()
        .answer(
            "101",
            "Messages are the long poll's answer 200 with `type` added; the client sends \
             `{\"type\":\"ack\"}`. Close codes: 1000 done, 1012 restart, 1013 later, 4401 \
             credentials, 4403 origin, 4404 unknown, 4408 expired, 4429 too many.",
            None,
        )
        .problems(&["400"]),
        Call::new(Get, "/addons/transit/", Dialog, "The dialog enters")
            .query("session_id", "The session, in the legacy profile.")
            .query("transit_token", "The transit token of a bound session; works once.")
            .answer("200", "Asks to compare the user code.", page)
            .answer("302", "To the OpenID provider.", None)
            .error_pages(&["400", "404", "409", "410", "500", "502", "503"]),
        Call::new(Post, "/addons/transit/confirm", Dialog, "The person decides on the user code")
            .body(FORM, "Decision", true)
            .answer("200", "The sign-in was refused.", page)
            .answer("302", "To the OpenID provider.", None)
            .problems(&["413"])
            // The body's time limit answers for programs, the form's check for people.
            .answer("400", reason("400"), page)
            .answer("400", reason("400"), Some((PROBLEM, "Problem")))
            .error_pages(&["500", "502", "503"]),
        Call::new(Get, "/callback", Dialog, "The provider sends the browser back")
            .query("state", "As sent to the provider.")
            .query("code", "The authorization code.")
            .query("iss", "The provider's issuer (RFC 9207).")
            .query("error", "Why the provider gives no code.")
            .query("error_description", "The same for people.")
            .answer("302", "Onwards.", None)
            .error_pages(&["400", "500", "503"]),
        Call::new(Get, "/addons/redirect", Dialog, "Makes the access token and delivers it")
            .query("dialog", "Handle of the dialog.")
            .answer("302", "To the success or the error page.", None)
            .error_pages(&["400", "500", "503"]),
        Call::new(Get, "/addons/success", Dialog, "Says that the person is signed in")
            .query("dialog", "Handle of the dialog.")
            .answer("200", "The page.", page),
        Call::new(Get, "/addons/error", Dialog, "Says why the person is not signed in")
            .query("error", "Which error.")
            .query("reference", "What the operator finds in the log.")
            .answer("200", "The page.", page),
        Call::new(Get, "/addons/me", Api, "The claims behind the access token")
            .with(Credentials::AccessToken)
            .answer("200", "The claims.", json("Claims"))
            .problems(&["401", "500", "503"]),
        Call::new(Get, "/addons/verify", Api, "Forward authentication for a proxy")
            .with(Credentials::AccessToken)
            .answer("200", "The token is good; `X-Auth-*` headers say whose it is.", None)
            .problems(&["401", "500", "503"]),
        Call::new(Post, "/addons/token", AddIn, "A new access token for a refresh token")
            .with(Credentials::SessionAsClient)
            .body(FORM, "RefreshForm", true)
            .answer("200", "The tokens; the refresh token sent is used up.", json("Tokens"))
            .answer("400", reason("400"), json("OAuthError"))
            .answer("401", reason("401"), json("OAuthError"))
            // The body's limits answer before the call is looked at.
            .problems(&["400", "413", "500", "503"]),
        Call::new(Post, "/addons/introspect", Api, "Introspection (RFC 7662)")
            .with(Credentials::Client)
            .body(FORM, "TokenForm", true)
            .answer("200", "Whether the token is active, and its claims.", json("Introspection"))
            .problems(&["400", "401", "413", "500", "503"]),
        Call::new(Post, "/addons/revoke", Api, "Revocation (RFC 7009)")
            .with(Credentials::ClientIfAny)
            .body(FORM, "TokenForm", true)
            .answer("200", "The token is not valid, from now on or as before.", None)
            .problems(&["400", "401", "413", "500", "503"]),
        Call::new(Get, "/.well-known/jwks.json", Api, "The public keys (RFC 7517)").answer(
            "200",
            "The keys; none when tokens are signed with a shared secret.",
            Some(("application/jwk-set+json", "KeySet")),
        ),
        Call::new(Get, "/.well-known/oauth-authorization-server", Api, "Metadata (RFC 8414)")
            .answer("200", "The metadata.", json("Object")),
        Call::new(Get, "/healthz", Operator, "Whether the process answers").answer(
            "200",
            "It does.",
            json("Object"),
        ),
        Call::new(Get, "/readyz", Operator, "Whether this instance should get traffic")
            .answer("200", "It should.", json("Object"))
            .answer("503", "It should not; the body says why.", json("Object")),
        Call::new(Get, "/openapi.json", Operator, "This description").answer(
            "200",
            "OpenAPI 3.1.",
            json("Object"),
        ),
        Call::new(Get, "/asyncapi.json", Operator, "Event streams and WebSockets").answer(
            "200",
            "AsyncAPI 3.0.",
            json("Object"),
        ),
        Call::new(Get, "/metrics", Operator, "Figures for Prometheus").answer(
            "200",
            "OpenMetrics text.",
            Some((METRICS, "Page")),
        ),
        Call::new(Post, "/api/v1.0/addons/sessions/init/", Meet, "Creates a session")
            .answer("201", "The tokens; the session is a cookie.", json("Initialised"))
            .details(&["429", "503"]),
        Call::new(Post, "/api/v1.0/addons/sessions/poll/", Meet, "Whether there is a token yet")
            .with(Credentials::Cookie)
            .csrf()
            .answer("200", "The token, once.", json("Authenticated"))
            .answer("202", "Nothing yet.", json("Pending"))
            .details(&["400", "401", "404", "503"]),
        Call::new(Get, "/api/v1.0/addons/sessions/events/", Meet, "The same as a stream of events")
            .with(Credentials::Cookie)
            .csrf()
            .answer("200", "As on the native surface.", Some(("text/event-stream", "EventStream")))
            .answer("204", "The token was acknowledged.", None)
            .details(&["400", "401", "404", "429", "503"]),
        Call::new(Get, "/api/v1.0/addons/sessions/ws/", Meet, "The same as a WebSocket")
            .with(Credentials::Cookie)
            .answer("101", "As on the native surface; `csrf.<csrf_token>` is a subprotocol.", None)
            .problems(&["400"]),
        Call::new(
            Post,
            "/api/v1.0/addons/sessions/exchange/",
            Meet,
            "The logged-in browser fulfils",
        )
        .csrf()
        .body(JSON, "Exchange", true)
        .answer("200", "The session has its token.", json("Object"))
        .details(&["400", "401", "403", "404", "503"])
        .problems(&["413"]),
        Call::new(Get, "/api/v1.0/authenticate/", Meet, "Logs the browser in")
            .query("returnTo", "Where to go afterwards; must be allowed.")
            .answer("302", "To the OpenID provider.", None)
            .details(&["400", "503"])
            .error_pages(&["502"]),
        Call::new(Get, "/api/v1.0/callback/", Meet, "The provider sends the browser back")
            .query("state", "As sent to the provider.")
            .query("code", "The authorization code.")
            .query("iss", "The provider's issuer (RFC 9207).")
            .query("error", "Why the provider gives no code.")
            .query("error_description", "The same for people.")
            .answer("302", "To `returnTo`, or to the error page.", None)
            .error_pages(&["400"])
            .details(&["503"]),
        Call::new(Get, "/api/v1.0/logout/", Meet, "Ends the browser login")
            .query("returnTo", "Where to go afterwards.")
            .answer("200", "Done.", json("Object"))
            .answer("302", "Onwards.", None)
            .details(&["400"]),
        Call::new(Get, "/docs", Operator, "This description for people").answer(
            "200",
            "The page.",
            page,
        ),
    ]
}

fn object(properties: &[(&str, Type, &str)]) -> ObjectBuilder {
    properties.iter().fold(
        ObjectBuilder::new().schema_type(Type::Object),
        |object, (name, kind, description)| {
            let property =
                ObjectBuilder::new().schema_type(kind.clone()).description(Some(*description));
            object.property(*name, property).required(*name)
        },
    )
}

fn state(value: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("state", string().enum_values(Some([value])))
        .required("state")
}

/// The schemas, which [`asyncapi`](crate::http::docs::asyncapi) shares.
pub(crate) fn components() -> Components {
    let open = || Some(AdditionalProperties::FreeForm(true));
    let authenticated = state("authenticated");
    let authenticated = [
        ("access_token", Type::String, "The access token."),
        ("token_type", Type::String, "`Bearer`."),
        ("expires_in", Type::Integer, "Remaining life in seconds."),
        ("scope", Type::String, "Scopes, separated by spaces."),
        ("authenticated_at", Type::Integer, "End of the login, Unix time in milliseconds."),
    ]
    .into_iter()
    .fold(authenticated, |object, (name, kind, description)| {
        let property = ObjectBuilder::new().schema_type(kind).description(Some(description));
        object.property(name, property).required(name)
    });
    let refresh_token =
        || string().description(Some("For `POST /addons/token`, where refresh tokens are on."));
    let authenticated = authenticated.property("refresh_token", refresh_token());
    let tokens = object(&[
        ("access_token", Type::String, "The access token."),
        ("refresh_token", Type::String, "Takes the place of the one that was sent."),
        ("token_type", Type::String, "`Bearer`."),
        ("expires_in", Type::Integer, "Remaining life in seconds."),
        ("scope", Type::String, "Scopes, separated by spaces."),
        ("authenticated_at", Type::Integer, "End of the login, Unix time in milliseconds."),
    ]);
    let oauth_error = object(&[
        ("error", Type::String, "Code of RFC 6749 section 5.2."),
        ("error_description", Type::String, "The same for people."),
        ("type", Type::String, "Stable name of the problem."),
        ("title", Type::String, "The same for people."),
        ("status", Type::Integer, "The HTTP status."),
        ("detail", Type::String, "As `error_description`."),
    ]);
    let refresh_form = object(&[
        ("grant_type", Type::String, "`refresh_token`."),
        ("refresh_token", Type::String, "The newest refresh token."),
    ])
    .property("client_id", string().description(Some("The session ID, if not by Basic.")))
    .property("client_secret", string().description(Some("The session token, if not by Basic.")));
    let initialised = object(&[
        ("transit_token", Type::String, "Enters the session, once."),
        ("csrf_token", Type::String, "Reads it, together with the cookie."),
    ]);
    let failed = state("failed")
        .property("error", string().description(Some("A code, such as `access_denied`.")))
        .property("error_description", string().description(Some("The same for people.")))
        .required("error")
        .required("error_description");
    let problem = object(&[
        ("type", Type::String, "Stable name of the problem."),
        ("title", Type::String, "The same for people."),
        ("status", Type::Integer, "The HTTP status."),
    ])
    .property("detail", string().description(Some("More about this one.")))
    .property("error", string().description(Some("Why a session is over: `expired`, …")));
    let claims = object(&[
        ("iss", Type::String, "Issuer."),
        ("sub", Type::String, "Whom the token is about."),
        ("exp", Type::Integer, "Expiry, Unix time in seconds."),
        ("iat", Type::Integer, "Time of issue."),
        ("nbf", Type::Integer, "Not valid before."),
        ("jti", Type::String, "The token's ID."),
        ("scope", Type::String, "Scopes, separated by spaces."),
    ])
    .property("aud", Schema::Object(Default::default()))
    .additional_properties(open());
    let bearer = |description: &str| {
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(description))
                .build(),
        )
    };
    let basic = |description: &str| {
        HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some(description)).build()
    };
    ComponentsBuilder::new()
        .schema_from::<CreateRequest>()
        .schema_from::<CreateResponse>()
        .schema("Authenticated", authenticated)
        .schema("Failed", failed)
        .schema("Pending", state("pending"))
        .schema(
            "Ended",
            OneOfBuilder::new()
                .item(Ref::from_schema_name("Authenticated"))
                .item(Ref::from_schema_name("Failed")),
        )
        .schema("Problem", problem)
        .schema("Claims", claims)
        .schema(
            "Introspection",
            object(&[("active", Type::Boolean, "Whether it is.")]).additional_properties(open()),
        )
        .schema("TokenForm", object(&[("token", Type::String, "The access token.")]))
        .schema("Tokens", tokens)
        .schema("OAuthError", oauth_error)
        .schema("RefreshForm", refresh_form)
        .schema("Initialised", initialised)
        .schema("Exchange", object(&[("transit_token", Type::String, "As given by `init`.")]))
        .schema("Detail", object(&[("detail", Type::String, "What is wrong, for people.")]))
        .schema(
            "Decision",
            object(&[
                ("dialog", Type::String, "Handle of the dialog."),
                ("csrf", Type::String, "As in the page."),
                ("decision", Type::String, "`continue`; anything else refuses."),
            ]),
        )
        .schema(
            "KeySet",
            object(&[("keys", Type::Array, "JSON Web Keys.")]).additional_properties(open()),
        )
        .schema(
            "Object",
            ObjectBuilder::new().schema_type(Type::Object).additional_properties(open()),
        )
        .schema("Page", string())
        .schema("EventStream", string())
        .security_scheme("session_token", bearer("Session token of a bound session."))
        .security_scheme("access_token", bearer("Access token that the relay delivered."))
        .security_scheme("client", SecurityScheme::Http(basic("Introspection or revocation.")))
        .security_scheme(
            "session_as_client",
            SecurityScheme::Http(basic("Session ID as user name, session token as password.")),
        )
        .security_scheme(
            "addons_session",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("addonsSid"))),
        )
        .build()
}

/// The OpenAPI document. `server` is the public URL.
pub fn document(server: &str, optional: Optional) -> OpenApi {
    let mut paths = Paths::new();
    for call in calls().into_iter().filter(|call| optional.has(call)) {
        let mut operation = OperationBuilder::new()
            .operation_id(Some(operation_id(&call)))
            .tag(call.caller.name())
            .summary(Some(call.summary))
            .securities(Some(call.credentials.requirements()));
        for parameter in &call.parameters {
            let required = match parameter.place {
                ParameterIn::Path => Required::True,
                _ => Required::False,
            };
            operation = operation.parameter(
                ParameterBuilder::new()
                    .name(parameter.name)
                    .parameter_in(parameter.place.clone())
                    .required(required)
                    .description(Some(parameter.description))
                    .schema(Some((parameter.schema)())),
            );
        }
        if let Some((media_type, schema, required)) = call.body {
            operation = operation.request_body(Some(
                RequestBodyBuilder::new()
                    .required(Some(if required { Required::True } else { Required::False }))
                    .content(media_type, Content::new(Some(Ref::from_schema_name(schema))))
                    .build(),
            ));
        }
        // One status may come with several media types.
        let mut responses = utoipa::openapi::Responses::new();
        for answer in &call.answers {
            let known = responses.responses.remove(answer.status);
            let mut response = match known {
                Some(RefOr::T(response)) => ResponseBuilder::from(response),
                _ => ResponseBuilder::new().description(answer.description),
            };
            if let Some((media_type, schema)) = answer.content {
                let content = Content::new(Some(Ref::from_schema_name(schema)));
                response = response.content(media_type, content);
            }
            if (call.path, answer.status) == ("/addons/sessions", "201") {
                response = links()
                    .into_iter()
                    .fold(response, |response, (name, link)| response.link(name, link));
            }
            responses.responses.insert(answer.status.to_owned(), response.build().into());
        }
        operation = operation.responses(responses);
        paths.add_path_operation(call.path, vec![call.method], operation.build());
    }
    let mut info = Info::new("token-relay", env!("CARGO_PKG_VERSION"));
    info.description = Some(env!("CARGO_PKG_DESCRIPTION").to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url(server.trim_end_matches('/')).build()]))
        .paths(paths)
        .components(Some(components()))
        .tags(Some(Caller::ALL.map(|caller| {
            TagBuilder::new().name(caller.name()).description(Some(caller.description())).build()
        })))
        .build()
}

/// Where a new session leads.
fn links() -> Vec<(&'static str, Link)> {
    let link = |operation: &str, parameter: &str, expression: &str| {
        LinkBuilder::new().operation_id(operation).parameter(parameter, expression).build()
    };
    let session = "$response.body#/session_id";
    vec![
        ("poll", link("get_addons_sessions_session_id", "session_id", session)),
        ("end", link("delete_addons_sessions_session_id", "session_id", session)),
        ("events", link("get_addons_sessions_session_id_events", "session_id", session)),
        ("websocket", link("get_addons_sessions_session_id_ws", "session_id", session)),
        ("transit", link("get_addons_transit", "transit_token", "$response.body#/transit_token")),
    ]
}

/// `get_addons_sessions_session_id` and so on: stable, and good as a name in generated clients.
fn operation_id(call: &Call) -> String {
    let words = call.path.split(|character: char| !character.is_ascii_alphanumeric());
    std::iter::once(call.name().to_ascii_lowercase())
        .chain(words.filter(|word| !word.is_empty()).map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}

/// `GET /openapi.json`.
pub async fn openapi(State(app): State<AppState>) -> Response {
    let headers = [("cache-control", "public, max-age=300"), ("access-control-allow-origin", "*")];
    (headers, Json(document(app.public_url.as_str(), Optional::of(&app)))).into_response()
}

struct Group {
    name: &'static str,
    description: &'static str,
    calls: Vec<Call>,
}

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs {
    base: String,
    version: &'static str,
    assets: String,
    groups: Vec<Group>,
    messages: &'static [Message],
    errors: &'static [(&'static str, &'static str)],
    close_codes: &'static [(u16, &'static str)],
}

/// `GET /docs`.
pub async fn docs(State(app): State<AppState>) -> Result<Response, Problem> {
    let optional = Optional::of(&app);
    let groups = Caller::ALL
        .map(|caller| Group {
            name: caller.name(),
            description: caller.description(),
            calls: calls()
                .into_iter()
                .filter(|call| call.caller == caller && optional.has(call))
                .collect(),
        })
        .into_iter()
        .filter(|group| !group.calls.is_empty())
        .collect();
    let page = Docs {
        base: app.public_url.path().trim_end_matches('/').to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        assets: crate::http::assets::version(),
        groups,
        messages: &asyncapi::MESSAGES,
        errors: &asyncapi::ERRORS,
        close_codes: &asyncapi::CLOSE_CODES,
    };
    let html = page.render().map_err(|error| {
        tracing::error!(%error, "page not rendered");
        Problem::Internal
    })?;
    const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = (StatusCode::OK, Body::from(html)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{http::addons::streams::StreamMessage, session::Failure};

    fn described() -> Value {
        serde_json::to_value(document("http://127.0.0.1/", Optional::ALL)).unwrap()
    }

    #[test]
    fn the_document_is_openapi_3_1_and_every_reference_leads_somewhere() {
        let document = described();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["servers"][0]["url"], "http://127.0.0.1");
        let text = document.to_string();
        let references =
            text.split("\"$ref\":\"").skip(1).map(|rest| &rest[..rest.find('"').unwrap()]);
        let mut count = 0;
        for reference in references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            count += 1;
        }
        assert!(count > 50, "{count}");
    }

    /// The paths and methods that a source file routes, read from its text: a router does not tell.
    fn routed(source: &str) -> Vec<(String, Vec<&'static str>)> {
        source
            .split(".route(")
            .skip(1)
            .map(|rest| {
                // Up to the parenthesis that closes `.route(`.
                let mut depth = 1;
                let end = rest.char_indices().find_map(|(index, character)| {
                    depth += i32::from(character == '(') - i32::from(character == ')');
                    (depth == 0).then_some(index)
                });
                let call = &rest[..end.unwrap()];
                let name = call.split('"').nth(1).unwrap();
                let path = match call.trim_start().starts_with("&route(") {
                    true => format!("/api/v1.0/addons/sessions/{name}/"),
                    false => name.to_owned(),
                };
                let methods = [("get(", "GET"), ("post(", "POST"), ("delete(", "DELETE")]
                    .into_iter()
                    .filter(|(word, _)| call.contains(word))
                    .map(|(_, method)| method)
                    .collect();
                (path, methods)
            })
            .collect()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let sources = [include_str!("../router.rs"), include_str!("../meet/mod.rs")];
        let mut served = std::collections::BTreeSet::new();
        for (path, methods) in sources.into_iter().flat_map(routed) {
            assert!(!methods.is_empty(), "{path}");
            // Two calls answer with and without the slash at the end; one form is described.
            let path = match path.as_str() {
                "/addons/sessions/" => "/addons/sessions".to_owned(),
                "/addons/transit" => "/addons/transit/".to_owned(),
                _ => path,
            };
            served.extend(methods.into_iter().map(|method| (path.clone(), method)));
        }
        let described: std::collections::BTreeSet<_> =
            calls().iter().map(|call| (call.path.to_owned(), call.name())).collect();
        assert_eq!(served, described);
    }

    #[test]
    fn links_lead_to_operations() {
        let names: Vec<_> = calls().iter().map(operation_id).collect();
        for (name, link) in links() {
            assert!(names.contains(&link.operation_id), "{name}");
        }
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let mut names: Vec<_> = calls().iter().map(operation_id).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_failure_is_written_as_described() {
        let told = StreamMessage::Failed(Failure::new("access_denied", "No.")).to_json(false);
        let told: Value = serde_json::from_str(&told).unwrap();
        let described = &described()["components"]["schemas"]["Failed"]["properties"];
        let names = |value: &Value| {
            value.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&told), names(described));
    }
}
