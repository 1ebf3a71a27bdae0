//! The descriptions of calls (OpenAPI) and events (AsyncAPI), and the page that shows them.

pub mod asyncapi;
pub mod openapi;
