//! A proxy on the way to the relay that records what passes, and may take keys out of creations.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

/// Accepts connections until it is dropped.
pub struct ManInTheMiddle {
    pub url: String,
    /// Where the relay listens, once it does.
    relay: watch::Sender<Option<SocketAddr>>,
    answers: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ManInTheMiddle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ManInTheMiddle {
    /// Listens; the members of creations that `strips` names are taken out.
    pub async fn start(strips: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (relay, known) = watch::channel(None);
        let answers = Arc::<Mutex<Vec<u8>>>::default();
        let recorded = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut known, recorded) = (known.clone(), Arc::clone(&recorded));
                tokio::spawn(async move {
                    let to = *known.wait_for(Option::is_some).await.unwrap();
                    let relay = TcpStream::connect(to.unwrap()).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_relay, to_relay) = relay.into_split();
                    tokio::join!(
                        ask(from_client, to_relay, strips),
                        answer(from_relay, to_client, &recorded)
                    );
                });
            }
        });
        Self { url, relay, answers, task }
    }

    /// Leads to the relay that listens at `url`.
    pub fn lead_to(&self, url: &str) {
        self.relay.send_replace(Some(url.strip_prefix("http://").unwrap().parse().unwrap()));
    }

    /// Everything that the relay answered.
    pub fn answers(&self) -> String {
        String::from_utf8_lossy(&self.answers.lock().unwrap()).into_owned()
    }
}

async fn answer(mut relay: OwnedReadHalf, mut client: OwnedWriteHalf, recorded: &Mutex<Vec<u8>>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = relay.read(&mut chunk).await {
        recorded.lock().unwrap().extend_from_slice(&chunk[..length]);
        if client.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
    let _ = client.shutdown().await;
}

async fn ask(mut client: OwnedReadHalf, mut relay: OwnedWriteHalf, strips: &[&str]) {
    let (mut held, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(length @ 1..) = client.read(&mut chunk).await {
        held.extend_from_slice(&chunk[..length]);
        if !strips.iter().all(|member| strip(&mut held, member)) {
            continue;
        }
        if relay.write_all(&held).await.is_err() {
            return;
        }
        held.clear();
    }
    let _ = relay.shutdown().await;
}

/// Puts spaces in the place of a member, an object or a text, so that the length stays; false while its end
/// is missing.
fn strip(bytes: &mut [u8], member: &str) -> bool {
    let find = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).position(|at| at == text);
    let name_text = format!("\"{member}\"");
    let Some(name) = find(bytes, name_text.as_bytes()) else { return true };
    let start = bytes[..name].iter().rposition(|byte| *byte == b',').unwrap();
    let value = name + name_text.len();
    let first = bytes[value..].iter().position(|byte| !matches!(byte, b':' | b' '));
    let Some(first) = first.map(|at| value + at) else { return false };
    let end: &[u8] = if bytes[first] == b'{' { b"}" } else { b"\"" };
    let Some(length) = find(&bytes[first + 1..], end) else { return false };
    bytes[start..=first + 1 + length].fill(b' ');
    true
}
