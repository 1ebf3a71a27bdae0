//! The dialog's side: logs in through the embedded provider, up to the last request.

use std::collections::HashMap;

use crate::{
    link::{Target, trusted},
    wire::{Wire, request},
};

/// The person's browser: a connection to the relay and one to the provider.
pub struct Browser {
    client: reqwest::Client,
}

impl Browser {
    pub fn new() -> Self {
        let mut client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        if let Some(certificate) = trusted() {
            let certificate = reqwest::Certificate::from_der(certificate).expect("a certificate");
            client = client.tls_certs_only([certificate]);
        }
        Self { client: client.build().expect("a client") }
    }

    /// Follows redirects from `url` until `last` says so; gives that address and the cookies.
    async fn follow(
        &self,
        mut url: String,
        first: Option<&str>,
        last: impl Fn(&str) -> bool,
    ) -> (String, String) {
        let mut cookies: HashMap<String, String> = HashMap::new();
        if let Some((name, value)) = first.and_then(|pair| pair.split_once('=')) {
            cookies.insert(name.to_owned(), value.to_owned());
        }
        loop {
            let header = cookies.iter().map(|(name, value)| format!("{name}={value}"));
            let header = header.collect::<Vec<_>>().join("; ");
            if last(&url) {
                return (url, header);
            }
            let answer =
                self.client.get(&url).header("cookie", header).send().await.expect("an answer");
            for cookie in answer.headers().get_all("set-cookie") {
                let pair = cookie.to_str().expect("text").split(';').next().expect("a pair");
                let (name, value) = pair.split_once('=').expect("a value");
                cookies.insert(name.to_owned(), value.to_owned());
            }
            let Some(location) = answer.headers().get("location") else {
                let status = answer.status();
                panic!("{url}: {status} {}", answer.text().await.unwrap_or_default());
            };
            let location = location.to_str().expect("text");
            url = reqwest::Url::parse(&url).expect("a URL").join(location).expect("a URL").into();
        }
    }

    /// Goes through the dialog of a session, in a browser with this cookie; gives the request that ends the login.
    pub async fn prepare(
        &self,
        origin: Target,
        transit_url: &str,
        cookie: Option<&str>,
    ) -> Vec<u8> {
        let url = format!("{}{}", origin.origin(), crate::place::path(transit_url));
        let (url, cookies) = self.follow(url, cookie, |url| url.contains("/addons/redirect")).await;
        let fields = [format!("cookie: {cookies}")];
        request("GET", Target::of(&url), &crate::place::path(&url), &fields, "")
    }

    /// Logs the browser in on the meet-compatible surface; gives the cookies.
    pub async fn log_in(&self, origin: Target) -> String {
        let end = format!("{}/healthz", origin.origin());
        let url = format!("{}/api/v1.0/authenticate/?returnTo={end}", origin.origin());
        self.follow(url, None, |url| url == end).await.1
    }
}

/// The request by which a logged-in browser ends a meet session.
pub fn exchange(origin: Target, cookies: &str, transit_token: &str) -> Vec<u8> {
    let csrf = cookies.split("; ").find_map(|pair| pair.strip_prefix("csrftoken="));
    let fields = [
        format!("cookie: {cookies}"),
        format!("x-csrftoken: {}", csrf.expect("a CSRF cookie")),
        format!("origin: {}", origin.origin()),
        "content-type: application/json".to_owned(),
    ];
    let body = format!(r#"{{"transit_token":"{transit_token}"}}"#);
    request("POST", origin, "/api/v1.0/addons/sessions/exchange/", &fields, &body)
}

/// Sends a prepared request; whether it ended the login.
pub async fn finish(wire: &mut Wire, request: &[u8]) {
    let answer = wire.ask(request).await.expect("an answer");
    let text = String::from_utf8_lossy(&answer.body);
    assert!((200..400).contains(&answer.status), "{} {text}", answer.status);
}
