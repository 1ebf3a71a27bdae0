//! Whole logins without keys of the add-in, with encrypted delivery, with DPoP (RFC 9449), and with both, in
//! turn: what each step takes and costs.

use std::time::{Duration, Instant};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};
use token_relay_client::{
    DecryptionKey, Proof, ProofKey,
    api::{Secret, TokenResponse},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

use crate::{
    dialog::{self, Browser},
    link::Target,
    machine::processor_time,
    percentiles,
    place::path,
    wire::{Wire, request},
};

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    target: String,
    /// Logins of each kind
    #[arg(long, default_value_t = 1_000)]
    logins: usize,
    /// Logins of one kind in a row
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// Server processes whose time is counted
    #[arg(long, value_delimiter = ',')]
    processes: Vec<u32>,
    /// The store's processes, counted apart
    #[arg(long, value_delimiter = ',')]
    store: Vec<u32>,
}

/// The keys that an add-in sends at creation.
struct Keys {
    name: &'static str,
    encrypts: bool,
    proves: bool,
}

const KINDS: [Keys; 4] = [
    Keys { name: "neither", encrypts: false, proves: false },
    Keys { name: "encryption", encrypts: true, proves: false },
    Keys { name: "DPoP", encrypts: false, proves: true },
    Keys { name: "both", encrypts: true, proves: true },
];

/// The steps of a login, in their order.
const STEPS: [&str; 7] = ["create", "open", "dialog", "token", "first use", "use", "refresh"];

/// Of these the time counts as well: the others depend on the browser and the provider.
const TIMED: [&str; 5] = ["create", "token", "first use", "use", "refresh"];

/// What the servers used in one step.
#[derive(Clone, Copy, Default)]
struct Cost {
    relay: Duration,
    store: Duration,
}

/// A login in progress.
struct Login {
    session_id: Secret,
    session_token: String,
    events: String,
    transit_url: String,
    decryption_key: Option<DecryptionKey>,
    proof_key: Option<ProofKey>,
    stream: Option<TcpStream>,
    last_request: Vec<u8>,
    token: TokenResponse,
}

/// An add-in with one connection to the relay, besides that of its stream.
struct AddIn {
    target: Target,
    wire: Wire,
    /// The person's, kept open from one login to the next.
    dialog: Wire,
    browser: Browser,
}

const FORM: &str = "content-type: application/x-www-form-urlencoded";

impl AddIn {
    fn url(&self, path: &str) -> Url {
        format!("{}{path}", self.target.origin()).parse().expect("a URL")
    }

    async fn create(&mut self, keys: &Keys) -> Login {
        let decryption_key = keys.encrypts.then(|| DecryptionKey::generate().expect("a key"));
        let proof_key = keys.proves.then(|| ProofKey::generate().expect("a key"));
        let mut body = json!({"bind": true});
        if let Some(key) = &decryption_key {
            body["encryption_key"] = json!(key.public());
        }
        if let Some(key) = &proof_key {
            body["dpop_jkt"] = json!(key.thumbprint());
        }
        let fields = ["content-type: application/json".to_owned()];
        let creation = request("POST", self.target, "/addons/sessions", &fields, &body.to_string());
        let answer = self.wire.ask(&creation).await.expect("the relay answers");
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        let session = answer.json();
        let text = |name: &str| session[name].as_str().expect("a member").to_owned();
        Login {
            session_id: text("session_id").into(),
            session_token: text("session_token"),
            events: path(&text("events_url")),
            transit_url: text("transit_url"),
            decryption_key,
            proof_key,
            stream: None,
            last_request: Vec::new(),
            token: TokenResponse::default(),
        }
    }

    /// Opens the stream of a login, to its first bytes.
    async fn open(&self, login: &mut Login) {
        let mut stream = TcpStream::connect(self.target.address).await.expect("a connection");
        let fields = [
            format!("authorization: Bearer {}", login.session_token),
            "accept: text/event-stream".to_owned(),
        ];
        let opening = request("GET", self.target, &login.events, &fields, "");
        stream.write_all(&opening).await.expect("sent");
        until(&mut stream, b"retry: ").await;
        login.stream = Some(stream);
    }

    /// Sends the dialog's last request, and takes the token from the stream.
    async fn finish(&mut self, login: &mut Login) {
        dialog::finish(&mut self.dialog, &login.last_request).await;
        let mut stream = login.stream.take().expect("a stream");
        let bytes = until(&mut stream, b"\n\n").await;
        let text = std::str::from_utf8(&bytes).expect("text");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("a token");
        login.token = login.opened(serde_json::from_str(data).expect("a token"));
    }

    /// Calls `/addons/me`, twice where the first answer names the nonce that proofs must have.
    async fn me(&mut self, login: &Login) {
        let (place, token) = ("/addons/me", &login.token.access_token);
        let proof = login.proof_key.as_ref();
        let proof = proof.map(|key| key.prove(Method::GET, &self.url(place), token));
        let fields = match &proof {
            Some(_) => Vec::new(),
            None => vec![format!("authorization: Bearer {}", token.expose())],
        };
        let body = self.ask("GET", place, &fields, "", proof).await;
        assert!(body.get("sub").is_some(), "{body}");
    }

    async fn refresh(&mut self, login: &mut Login) {
        let place = "/addons/token";
        let refresh_token = login.token.refresh_token.take().expect("a refresh token");
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh_token.expose())
            .append_pair("client_id", login.session_id.expose())
            .append_pair("client_secret", &login.session_token)
            .finish();
        let key = login.proof_key.as_ref();
        let proof = key.map(|key| key.prove_without_token(Method::POST, &self.url(place)));
        let answer = self.ask("POST", place, &[FORM.to_owned()], &form, proof).await;
        login.token = login.opened(serde_json::from_value(answer).expect("a token"));
    }

    async fn ask(
        &mut self,
        method: &str,
        place: &str,
        fields: &[String],
        body: &str,
        mut proof: Option<Proof>,
    ) -> Value {
        loop {
            let mut fields = fields.to_vec();
            for (name, value) in proof.iter_mut().flat_map(|it| it.headers().expect("a proof")) {
                let name = name.expect("one value each");
                fields.push(format!("{name}: {}", value.to_str().expect("text")));
            }
            let question = request(method, self.target, place, &fields, body);
            let answer = self.wire.ask(&question).await.expect("an answer");
            let mut headers = HeaderMap::new();
            if let Some(nonce) = answer.field("dpop-nonce") {
                let nonce = HeaderValue::from_str(nonce).expect("a nonce");
                headers.insert(HeaderName::from_static("dpop-nonce"), nonce);
            }
            let status = StatusCode::from_u16(answer.status).expect("a status");
            if proof.as_mut().is_some_and(|proof| proof.renew(status, &headers)) {
                continue;
            }
            assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
            return answer.json();
        }
    }

    /// One step of a login.
    async fn step(&mut self, step: &str, login: &mut Login) {
        match step {
            "open" => self.open(login).await,
            "dialog" => {
                login.last_request =
                    self.browser.prepare(self.target, &login.transit_url, None).await;
                self.dialog.connect().await.expect("a connection");
            }
            "token" => self.finish(login).await,
            "first use" | "use" => self.me(login).await,
            "refresh" => self.refresh(login).await,
            step => panic!("no step is called {step}"),
        }
    }

    /// Acknowledges the token, so that its session leaves the store.
    async fn end(&mut self, login: &Login) {
        let place = login.events.trim_end_matches("/events");
        let fields = [format!("authorization: Bearer {}", login.session_token)];
        let end = request("DELETE", self.target, place, &fields, "");
        let answer = self.wire.ask(&end).await.expect("an answer");
        assert_eq!(answer.status, 204);
    }
}

impl Login {
    /// The token in an answer, decrypted where it must be encrypted, and bound where it must be.
    fn opened(&self, answer: TokenResponse) -> TokenResponse {
        let token = match &self.decryption_key {
            Some(key) => key.open(&self.session_id, &answer).expect("encrypted for the key"),
            None => answer,
        };
        assert_eq!(token.token_type == "DPoP", self.proof_key.is_some());
        assert!(!token.access_token.is_empty());
        token
    }
}

/// Reads until `end` has arrived.
async fn until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    while !bytes.windows(end.len()).any(|part| part == end) {
        assert!(stream.read_buf(&mut bytes).await.expect("bytes") > 0, "the stream ended");
    }
    bytes
}

/// What was measured of one kind of login.
#[derive(Default)]
struct Measured {
    /// By step, then by login, in milliseconds.
    times: Vec<Vec<f64>>,
    costs: Vec<Cost>,
}

pub async fn run(arguments: Arguments) -> Value {
    let target = Target::of(&arguments.target);
    let mut add_in = AddIn {
        target,
        wire: Wire::new(target),
        dialog: Wire::new(target),
        browser: Browser::new(),
    };
    let times = || Cost {
        relay: processor_time(&arguments.processes),
        store: processor_time(&arguments.store),
    };
    let mut all: Vec<Measured> = KINDS
        .iter()
        .map(|_| Measured {
            times: vec![Vec::new(); STEPS.len()],
            costs: vec![Cost::default(); STEPS.len()],
        })
        .collect();
    // The first round initialises what the others find.
    let rounds = arguments.logins.div_ceil(arguments.batch) + 1;
    for round in 0..rounds {
        for (keys, measured) in KINDS.iter().zip(&mut all) {
            let mut logins: Vec<Login> = Vec::with_capacity(arguments.batch);
            for (index, step) in STEPS.iter().enumerate() {
                let before = times();
                let mut taken = Vec::with_capacity(arguments.batch);
                for number in 0..arguments.batch {
                    let begun = Instant::now();
                    match logins.get_mut(number) {
                        Some(login) => add_in.step(step, login).await,
                        None => logins.push(add_in.create(keys).await),
                    }
                    taken.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                let after = times();
                if round > 0 {
                    measured.times[index].extend(taken);
                    measured.costs[index].relay += after.relay - before.relay;
                    measured.costs[index].store += after.store - before.store;
                }
            }
            for login in &logins {
                add_in.end(login).await;
            }
        }
    }
    let rows = KINDS.iter().zip(all).map(|(keys, measured)| row(keys.name, measured));
    json!({ "rows": rows.collect::<Vec<_>>() })
}

fn row(name: &str, measured: Measured) -> Value {
    let logins = measured.times[0].len();
    let each = |time: Duration| (time.as_secs_f64() * 1e7 / logins.max(1) as f64).round() / 10.0;
    let (mut steps, mut whole, mut sum) = (Map::new(), vec![0.0; logins], Cost::default());
    for ((step, times), cost) in STEPS.iter().zip(measured.times).zip(&measured.costs) {
        let mut figures = json!({
            "processor_us": each(cost.relay), "store_us": each(cost.store),
        });
        if TIMED.contains(step) {
            sum.relay += cost.relay;
            sum.store += cost.store;
            whole.iter_mut().zip(&times).for_each(|(sum, time)| *sum += time);
            figures["times"] = percentiles(times);
        }
        steps.insert((*step).to_owned(), figures);
    }
    json!({
        "what": name, "logins": logins, "steps": steps,
        "whole": {
            "processor_us": each(sum.relay), "store_us": each(sum.store),
            "times": percentiles(whole),
        },
    })
}
