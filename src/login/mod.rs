//! OpenID Connect login: discovery, authorization request, callback.
