//! Samples of a call for curl and JavaScript, derived from the OpenAPI document. A parameter is in them
//! where it is required or has an example, a body as its examples have it; `<name>` in an example stands
//! for a value of the reader's.

use serde_json::{Map, Value};

use crate::http::{
    addons::streams::credentials::SUBPROTOCOL,
    openapi_tags,
    responses::{EVENT_STREAM, FORM, HTML, JSON},
};

/// One call.
pub struct Sample {
    /// Which of several; empty for the only one.
    pub title: String,
    /// Command line for a POSIX shell, with variables of it.
    pub curl: String,
    /// Body of an async function, with the same variables in camel case.
    pub javascript: String,
}

/// The samples of the operation that `document` has for `method` and `path`.
pub fn samples(document: &Value, method: &str, path: &str) -> Vec<Sample> {
    let operation = &document["paths"][path][method.to_ascii_lowercase()];
    let content = &operation["requestBody"]["content"];
    let bodies = content.as_object().into_iter().flatten().flat_map(|(media_type, content)| {
        let named = content["examples"].as_object().into_iter().flatten();
        let named = named.map(|(_, example)| (string(&example["summary"]), &example["value"]));
        let only = content.get("example").map(|example| (String::new(), example));
        only.into_iter()
            .chain(named)
            .map(move |(title, example)| (title, media_type.as_str(), example))
    });
    let mut bodies: Vec<_> =
        bodies.map(|(title, kind, body)| (title, Some((kind, body)))).collect();
    if bodies.is_empty() {
        bodies.push((String::new(), None));
    }
    let call = |(title, body)| {
        let call = Call::new(document, method, path, operation, body);
        Sample { title, curl: call.curl(), javascript: call.javascript() }
    };
    bodies.into_iter().map(call).collect()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Program,
    /// A page of the relay, or a window that shows one.
    Browser {
        own_page: bool,
    },
}

/// What the answer is read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Json,
    Text,
    Stream,
    WebSocket,
    /// A browser goes there.
    Page,
}

struct Call<'a> {
    method: &'a str,
    /// Scheme and authority of the relay.
    origin: &'a str,
    url: String,
    query: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    basic: bool,
    body: Option<(&'a str, &'a Value)>,
    caller: Caller,
    answer: Answer,
}

impl<'a> Call<'a> {
    fn new(
        document: &'a Value,
        method: &'a str,
        path: &str,
        operation: &Value,
        body: Option<(&'a str, &'a Value)>,
    ) -> Self {
        let server = document["servers"][0]["url"].as_str().unwrap_or_default();
        let authority = server.find("://").map_or(0, |scheme| scheme + 3);
        let end = server[authority..].find('/').map_or(server.len(), |slash| authority + slash);
        let tag = operation["tags"][0].as_str();
        let caller = match tag == Some(openapi_tags::DIALOG) || tag == Some(openapi_tags::MEET) {
            true => Caller::Browser { own_page: tag == Some(openapi_tags::DIALOG) },
            false => Caller::Program,
        };
        let (mut query, mut headers) = (Vec::new(), Vec::new());
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = string(&parameter["name"]);
            let Some(example) = parameter.get("example").map(text) else { continue };
            match parameter["in"].as_str() {
                Some("query") => query.push((name, example)),
                Some("header") if name == "X-CSRFToken" => headers.push(("X-CSRFToken", example)),
                _ => {}
            }
        }
        let answer = answer_of(method, operation, caller);
        let schemes: Vec<_> = operation["security"].as_array().into_iter().flatten().collect();
        let optional = schemes.iter().any(|scheme| scheme.as_object().is_some_and(Map::is_empty));
        let scheme = schemes.iter().find_map(|scheme| scheme.as_object()?.keys().next());
        let kind = scheme.map(|name| &document["components"]["securitySchemes"][name]["scheme"]);
        let (mut basic, mut subprotocol) = (false, "csrf.<csrf_token>".to_owned());
        match (kind.and_then(Value::as_str), scheme) {
            (Some("bearer"), Some(name)) if answer == Answer::WebSocket => {
                subprotocol = format!("bearer.<{name}>");
            }
            (Some("bearer"), Some(name)) => {
                headers.push(("Authorization", format!("Bearer <{name}>")));
            }
            (Some("basic"), _) => basic = !optional,
            _ => {}
        }
        if answer == Answer::WebSocket {
            headers.push(("Sec-WebSocket-Protocol", format!("{SUBPROTOCOL}, {subprotocol}")));
        }
        let url = format!("{server}{}", path.replace('{', "<").replace('}', ">"));
        Self { method, origin: &server[..end], url, query, headers, basic, body, caller, answer }
    }

    fn curl(&self) -> String {
        let mut words = vec!["curl -i".to_owned()];
        if matches!(self.answer, Answer::Stream | Answer::WebSocket) {
            words[0].push('N');
        }
        if self.answer == Answer::WebSocket {
            words[0].push_str(" --http1.1");
        }
        if self.method != "GET" && (self.method != "POST" || self.body.is_none()) {
            words[0].push_str(&format!(" -X {}", self.method));
        }
        let by_variable = self.query.iter().any(|(_, value)| value.contains('<'));
        let query: Vec<_> =
            self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if by_variable {
            words[0].push_str(" -G");
        }
        let literal = if by_variable || query.is_empty() {
            String::new()
        } else {
            format!("?{}", query.join("&"))
        };
        words[0].push_str(&format!(" {}", shell(&format!("{}{literal}", self.url))));
        if let Caller::Browser { .. } = self.caller {
            words.push("-b cookies.txt -c cookies.txt".to_owned());
            if self.method == "POST" {
                words.push(format!("-H {}", shell(&format!("Origin: {}", self.origin))));
            }
        }
        if self.basic {
            words.push(format!("-u {}", shell("<client_id>:<client_secret>")));
        }
        if self.answer == Answer::WebSocket {
            for header in [
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dG9rZW4tcmVsYXkta2V5IQ==",
            ] {
                words.push(format!("-H {}", shell(header)));
            }
        }
        words.extend(
            self.headers
                .iter()
                .map(|(name, value)| format!("-H {}", shell(&format!("{name}: {value}")))),
        );
        if by_variable {
            words.extend(query.iter().map(|pair| format!("--data-urlencode {}", shell(pair))));
        }
        let mut here = String::new();
        match self.body {
            Some((FORM, Value::Object(fields))) => {
                words.extend(fields.iter().map(|(name, value)| {
                    format!("--data-urlencode {}", shell(&format!("{name}={}", text(value))))
                }))
            }
            Some((FORM, form)) => words.push(format!("-d {}", shell(&text(form)))),
            Some((media_type, body)) => {
                words.push(format!("-H {}", shell(&format!("Content-Type: {media_type}"))));
                words.push("-d @- <<END".to_owned());
                here = format!(
                    "\n{}\nEND",
                    expanded(&body.to_string(), |name| format!("${}", name.to_ascii_uppercase()))
                );
            }
            None => {}
        }
        words.join(" \\\n  ") + &here
    }

    fn javascript(&self) -> String {
        let query = match self.query.as_slice() {
            [] => String::new(),
            pairs if pairs.iter().all(|(_, value)| !value.contains('<')) => {
                format!(
                    "?{}",
                    pairs
                        .iter()
                        .map(|(name, value)| format!("{name}={value}"))
                        .collect::<Vec<_>>()
                        .join("&")
                )
            }
            pairs => {
                let fields: Vec<_> =
                    pairs.iter().map(|(name, value)| member(name, &literal(value))).collect();
                format!("?${{new URLSearchParams({{ {} }})}}", fields.join(", "))
            }
        };
        let address = |url: &str| {
            let quoted = literal(&format!("{url}{query}"));
            // The query is an expression as well.
            if query.contains("${") {
                format!("`{}`", &quoted[1..quoted.len() - 1])
            } else {
                quoted
            }
        };
        if self.answer == Answer::Page {
            return format!("window.open({});", address(&self.url));
        }
        if self.answer == Answer::WebSocket {
            let protocols = self.headers.iter().find(|(name, _)| *name == "Sec-WebSocket-Protocol");
            let protocols =
                protocols.into_iter().flat_map(|(_, value)| value.split(", ")).map(literal);
            return format!(
                "const socket = new WebSocket({}, [{}]);\nsocket.onmessage = ({{ data }}) => {{\n  \
                 console.log(JSON.parse(data));\n  socket.send(JSON.stringify({{ type: 'ack' }}));\n}};",
                address(&self.url.replacen("http", "ws", 1)),
                protocols.collect::<Vec<_>>().join(", "),
            );
        }
        let mut options = Vec::new();
        if self.method != "GET" {
            options.push(format!("method: '{}'", self.method));
        }
        if self.caller == (Caller::Browser { own_page: false }) {
            options.push("credentials: 'include'".to_owned());
        }
        let mut headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| member(&name.to_ascii_lowercase(), &literal(value)))
            .collect();
        if self.basic {
            headers
                .push("authorization: `Basic ${btoa(`${clientId}:${clientSecret}`)}`".to_owned());
        }
        let body = match self.body {
            Some((FORM, Value::Object(fields))) => {
                Some(format!("new URLSearchParams({})", object(fields)))
            }
            Some((FORM, form)) => Some(format!("new URLSearchParams({})", literal(&text(form)))),
            Some((media_type, body)) => {
                headers.push(member("content-type", &literal(media_type)));
                Some(format!("JSON.stringify({})", script(body)))
            }
            None => None,
        };
        if !headers.is_empty() {
            options.push(format!("headers: {{ {} }}", headers.join(", ")));
        }
        options.extend(body.map(|body| format!("body: {body}")));
        let options = match options.as_slice() {
            [] => String::new(),
            options => format!(", {{\n  {},\n}}", options.join(",\n  ")),
        };
        let read = match self.answer {
            Answer::Stream => {
                "for await (const text of response.body.pipeThrough(new TextDecoderStream())) console.log(text);"
            }
            Answer::Json => "console.log(response.status, await response.json());",
            _ => "console.log(response.status, await response.text());",
        };
        format!("const response = await fetch({}{options});\n{read}", address(&self.url))
    }
}

fn answer_of(method: &str, operation: &Value, caller: Caller) -> Answer {
    let answers = operation["responses"].as_object();
    let success =
        answers.into_iter().flatten().find(|(status, _)| status.starts_with(['1', '2', '3']));
    let Some((status, success)) = success else { return Answer::Text };
    let has = |media_type| success["content"].get(media_type).is_some();
    let redirects = answers.into_iter().flatten().any(|(status, _)| status.starts_with('3'));
    match status.as_str() {
        "101" => Answer::WebSocket,
        _ if has(EVENT_STREAM) => Answer::Stream,
        _ if method == "GET" && caller != Caller::Program && (has(HTML) || redirects) => {
            Answer::Page
        }
        _ if has(JSON) => Answer::Json,
        _ => Answer::Text,
    }
}

/// An example as text.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `text` with each `<name>` replaced.
fn expanded(text: &str, replace: impl Fn(&str) -> String) -> String {
    let mut pieces = text.split('<');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once('>') {
            Some((name, rest)) => out.extend([&replace(name), rest]),
            None => out.extend(["<", piece]),
        }
    }
    out
}

/// `text` as a word of a POSIX shell.
fn shell(text: &str) -> String {
    format!("\"{}\"", expanded(text, |name| format!("${}", name.to_ascii_uppercase())))
}

/// The variable of JavaScript for `name`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}

/// `text` as an expression of JavaScript.
fn literal(text: &str) -> String {
    let whole = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    match whole {
        Some(name) if !name.contains('<') => camel_case(name),
        _ if text.contains('<') => {
            format!("`{}`", expanded(text, |name| format!("${{{}}}", camel_case(name))))
        }
        _ => format!("'{text}'"),
    }
}

/// A member of an object literal.
fn member(name: &str, value: &str) -> String {
    let is_identifier = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match (is_identifier, name == value) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{name}: {value}"),
        (false, _) => format!("'{name}': {value}"),
    }
}

fn object(members: &Map<String, Value>) -> String {
    let members: Vec<_> =
        members.iter().map(|(name, value)| member(name, &script(value))).collect();
    format!("{{ {} }}", members.join(", "))
}

/// A value as an expression of JavaScript.
fn script(value: &Value) -> String {
    match value {
        Value::String(text) => literal(text),
        Value::Object(members) => object(members),
        other => other.to_string(),
    }
}
