//! Parsers of single values. The error of each follows the word "expected" and never repeats the
//! value, which may be a secret in the wrong place.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use token_relay_client::is_secure;
use url::Url;

use crate::api::Secret;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// More than any machine needs: a larger number is a slip.
pub(crate) const MAX: usize = 1_000_000_000;

/// How a field of a section holds what a parser gives.
pub(crate) trait Field<T>: Sized {
    fn new(value: T) -> Self;

    /// What an optional setting that is not set becomes; `None` where an empty text is parsed for it.
    fn unset() -> Option<Self> {
        None
    }
}

impl<T> Field<T> for T {
    fn new(value: T) -> Self {
        value
    }
}

impl<T> Field<T> for Option<T> {
    fn new(value: T) -> Self {
        Some(value)
    }

    fn unset() -> Option<Self> {
        Some(None)
    }
}

/// Any text.
pub(crate) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Any secret.
pub(crate) fn any_secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::from(text))
}

/// A secret of `min` characters or more.
pub(crate) fn secret_of(min: usize) -> impl Fn(&str) -> Result<Secret, String> {
    move |text| match text.chars().count() {
        length if length < min => Err(format!("{min} characters or more")),
        _ => Ok(Secret::from(text)),
    }
}

/// Secrets of `min` characters or more each, separated by commas or lines.
pub(crate) fn secrets_of(min: usize) -> impl Fn(&str) -> Result<Vec<Secret>, String> {
    move |text| {
        let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
        let secrets: Vec<_> = parts.map(Secret::from).collect();
        let short = |secret: &Secret| secret.expose().chars().count() < min;
        // Separators alone must not pass for keys.
        if secrets.iter().any(short) || (secrets.is_empty() && !text.is_empty()) {
            return Err(format!("secrets of {min} characters or more each"));
        }
        Ok(secrets)
    }
}

/// A boolean.
pub(crate) fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "false" | "0" | "no" | "off" => Ok(false),
        "true" | "1" | "yes" | "on" => Ok(true),
        _ => Err("true or false".to_owned()),
    }
}

/// A whole number within `bounds`.
pub(crate) fn number<T>(bounds: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| match text.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(format!("a whole number from {} to {}", bounds.start(), bounds.end())),
    }
}

/// A duration with its unit, from `min` to `max`.
pub(crate) fn duration(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if (min..=max).contains(&duration) => Ok(duration),
        _ => {
            let [min, max] = [min, max].map(humantime::format_duration);
            Err(format!("a duration such as 30s or 15m, from {min} to {max}"))
        }
    }
}

/// A duration, where a plain number stands for seconds as in Django's settings.
pub(crate) fn duration_or_seconds(
    min: Duration,
    max: Duration,
) -> impl Fn(&str) -> Result<Duration, String> {
    let parse = duration(min, max);
    move |text| match text.parse::<u64>() {
        Ok(seconds) => parse(&format!("{seconds}s")),
        Err(_) => parse(text),
    }
}

/// An address and port.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address such as 127.0.0.1:8080".to_owned())
}

/// The path of a file.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// One of some words, each with its meaning.
pub(crate) fn choice<T: Clone>(words: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| match words.iter().find(|(word, _)| *word == text) {
        Some((_, meaning)) => Ok(meaning.clone()),
        None => {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let (last, others) = words.split_last().unwrap_or((&"", &[]));
            let others = others.join(", ");
            Err(if others.is_empty() { (*last).to_owned() } else { format!("{others} or {last}") })
        }
    }
}

/// Words separated by spaces or commas, each of which `parse` takes, in any order; one or more.
pub(crate) fn words_of<T: Ord>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    expected: &str,
) -> Result<BTreeSet<T>, String> {
    let words = text.split([' ', ',']).filter(|word| !word.is_empty());
    let words: BTreeSet<_> =
        words.map(parse).collect::<Result<_, _>>().map_err(|_| expected.to_owned())?;
    if words.is_empty() { Err(expected.to_owned()) } else { Ok(words) }
}

/// Texts separated by commas.
pub(crate) fn list(text: &str) -> Result<Vec<String>, String> {
    list_of(self::text)(text)
}

/// Values separated by commas, each of which `parse` takes.
pub(crate) fn list_of<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |text| text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(&parse).collect()
}

/// An `https` URL, or an `http` one of this machine, with nothing in it but host, port and path.
pub(crate) fn secure_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "a URL".to_owned())?;
    if is_secure(&url) && url.query().is_none() && url.fragment().is_none() {
        return Ok(url);
    }
    Err("an https URL without user or query (http only for loopback hosts)".to_owned())
}

/// The URL of a service of the operator's, with or without TLS.
pub(crate) fn service_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "a URL".to_owned())?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let has_user = !url.username().is_empty() || url.password().is_some();
    if is_web && !has_user && url.fragment().is_none() {
        return Ok(url);
    }
    Err("an http or https URL without user or fragment".to_owned())
}

/// A network, or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "networks such as 10.0.0.0/8, or addresses".to_owned())
}

/// The URL of an exact http(s) origin (RFC 6454 §6.2); `None` for anything else, such as `null`, a
/// wildcard or a URL with a path.
pub(crate) fn exact_origin(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_web = matches!(url.scheme(), "http" | "https") && !text.contains('*');
    (is_web && url.origin().ascii_serialization() == text).then_some(url)
}

/// An exact origin.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    let expected = "exact origins such as https://addin.example (no path, no `*`)";
    exact_origin(text).map(|_| text.to_owned()).ok_or_else(|| expected.to_owned())
}
