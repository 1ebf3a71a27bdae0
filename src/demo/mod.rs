//! The embedded OpenID provider and task pane behind `token-relay demo`.
