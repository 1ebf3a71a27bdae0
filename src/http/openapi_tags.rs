//! Tags of the OpenAPI document: the groups of endpoints, by caller.

/// The add-in.
pub const ADD_IN: &str = "Add-in";
/// The browser of the person who signs in.
pub const DIALOG: &str = "Dialog";
/// APIs and OAuth clients.
pub const API: &str = "API";
/// The operator.
pub const OPERATOR: &str = "Operator";
/// The add-in of La Suite Meet.
pub const MEET: &str = "Meet-compatible";

/// Every group with its description, in the order of the documentation.
pub const ALL: [(&str, &str); 5] = [
    (ADD_IN, "Creates a session, waits for its token, acknowledges it."),
    (DIALOG, "Pages and redirects for the browser of the person who signs in."),
    (API, "Verifies, introspects and revokes access tokens."),
    (OPERATOR, "Health, metrics, and this documentation."),
    (MEET, "Endpoints for the Outlook add-in of La Suite Meet; errors have the member `detail`."),
];
