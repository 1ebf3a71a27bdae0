//! Against the clients of rustls and OpenSSL.

use std::{process::Stdio, sync::LazyLock, task::Waker, time::Duration};

use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream},
    net::TcpListener,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::util::tls::{Identities, TlsIdentity};

type Server = Box<TlsStream<DuplexStream>>;
type Client = tokio_rustls::client::TlsStream<DuplexStream>;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// More than the socket buffer of any test and than all that may be held.
const LARGE: usize = 1 << 20;

/// A certificate of localhost and its key, in PEM.
static IDENTITY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let made = std::process::Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args(["-subj", "/CN=test", "-keyout", "/dev/stdout"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .output()
        .expect("install openssl, which makes the certificate");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
});

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    Identities::new(TlsIdentity::from_pem(&IDENTITY, &IDENTITY).unwrap()).config().unwrap()
});

fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&IDENTITY).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

async fn connect(config: &Arc<ClientConfig>, socket: DuplexStream) -> io::Result<Client> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, socket).await
}

/// Both ends of a connection with `room` bytes on the way in each direction.
async fn pair_with(config: &Arc<ClientConfig>, room: usize) -> (Server, Client) {
    let (server, client) = tokio::io::duplex(room);
    let accepted = TlsStream::accept(Arc::clone(&SERVER), server);
    let (server, client) = tokio::join!(accepted, connect(config, client));
    (server.unwrap(), client.unwrap())
}

async fn pair(version: &'static SupportedProtocolVersion, room: usize) -> (Server, Client) {
    pair_with(&Arc::new(client_config(version)), room).await
}

fn held(server: &Server) -> usize {
    server.pending.as_ref().map_or(0, |pending| {
        pending.incomplete.capacity() + pending.plaintext.capacity() + pending.outgoing.capacity()
    })
}

/// Returns what is read, until the client's `close_notify`.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<u64> {
    let (mut read, mut write) = tokio::io::split(stream);
    let length = tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await?;
    Ok(length)
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_arrive_however_records_are_cut() {
    for version in VERSIONS {
        // The whole handshake in single bytes as well.
        for (room, length) in [(1, 40_000), (1_000, LARGE), (256 * 1024, LARGE)] {
            let (socket, client) = tokio::io::duplex(room);
            let served = async {
                let mut server = TlsStream::accept(Arc::clone(&SERVER), socket).await?;
                assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
                let echoed = echo(&mut server).await?;
                assert!(server.pending.is_none());
                io::Result::Ok(echoed)
            };
            let sent = text(length);
            let exchange = async {
                let client = connect(&Arc::new(client_config(version)), client).await?;
                let (mut read, mut write) = tokio::io::split(client);
                let mut received = Vec::new();
                let sending = async {
                    write.write_all(&sent).await?;
                    write.shutdown().await
                };
                tokio::try_join!(sending, read.read_to_end(&mut received))?;
                io::Result::Ok(received)
            };
            let (echoed, received) = tokio::try_join!(served, exchange).unwrap();
            assert_eq!(echoed, length as u64);
            assert!(received == sent, "{version:?} {room}");
        }
    }
}

#[tokio::test]
async fn a_waiting_connection_holds_no_buffers() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version, 1 << 16).await;
        assert!(server.pending.is_none(), "after the handshake");
        client.write_all(b"request").await.unwrap();
        let mut bytes = [0; 3];
        assert_eq!(server.read(&mut bytes).await.unwrap(), 3);
        assert!(held(&server) > 0, "four bytes are not read yet");
        assert_eq!(server.read(&mut bytes).await.unwrap(), 3);
        assert_eq!(server.read(&mut bytes).await.unwrap(), 1);
        server.write_all(b"response").await.unwrap();
        server.flush().await.unwrap();
        assert!(server.pending.is_none(), "after an exchange");
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut server).poll_read(&mut context, &mut ReadBuf::new(&mut bytes));
        assert!(read.is_pending() && server.pending.is_none(), "while waiting");
        // A part of a record, and the rest of it.
        let (stream, session) = client.get_mut();
        io::Write::write_all(&mut session.writer(), b"more").unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        stream.write_all(&record[..10]).await.unwrap();
        let read = Pin::new(&mut server).poll_read(&mut context, &mut ReadBuf::new(&mut bytes));
        assert!(read.is_pending() && held(&server) == 10, "{}", held(&server));
        stream.write_all(&record[10..]).await.unwrap();
        let mut more = [0; 9];
        assert_eq!(server.read(&mut more).await.unwrap(), 4);
        assert!(&more[..4] == b"more" && server.pending.is_none());
    }
}

#[tokio::test]
async fn many_records_in_one_read_keep_their_order() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version, 1 << 16).await;
        let sent = text(700);
        for record in sent.chunks(7) {
            client.write_all(record).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let mut received = Vec::new();
        loop {
            let mut bytes = [0; 10];
            match server.read(&mut bytes).await.unwrap() {
                0 => break,
                length => received.extend_from_slice(&bytes[..length]),
            }
        }
        assert_eq!(received, sent);
    }
}

#[tokio::test]
async fn slices_make_one_record() {
    let (mut server, mut client) = pair(&TLS13, 1 << 16).await;
    let parts: [&[u8]; 4] = [b"", b"head", b"body", &[7; 2 * MAX_FRAGMENT]];
    let slices = parts.map(io::IoSlice::new);
    assert_eq!(server.write_vectored(&slices[..3]).await.unwrap(), 8);
    assert_eq!(server.write_vectored(&slices[..1]).await.unwrap(), 0);
    assert_eq!(server.write_vectored(&slices[..2]).await.unwrap(), 4);
    assert_eq!(server.write_vectored(&slices).await.unwrap(), MAX_FRAGMENT);
    server.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert!(received.starts_with(b"headbodyheadheadbody\x07"));
    assert_eq!(received.len(), 8 + 4 + MAX_FRAGMENT);
}

#[tokio::test]
async fn either_side_may_close_its_half_first() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version, 1 << 16).await;
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"last");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        received.clear();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"answer");
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(server.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);

        let (mut server, mut client) = pair(version, 1 << 16).await;
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        client.write_all(b"still here").await.unwrap();
        client.shutdown().await.unwrap();
        received.clear();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"still here");
        server.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error() {
    for version in VERSIONS {
        for cut in [0, 10] {
            let (mut server, mut client) = pair(version, 1 << 16).await;
            client.write_all(b"begun").await.unwrap();
            client
                .get_mut()
                .0
                .write_all(&[0x17, 3, 3, 0, 100, 1, 2, 3, 4, 5][..cut])
                .await
                .unwrap();
            drop(client);
            let mut bytes = [0; 5];
            server.read_exact(&mut bytes).await.unwrap();
            for _ in 0..2 {
                let error = server.read(&mut bytes).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            }
        }
    }
    let (server, client) = tokio::io::duplex(1 << 16);
    drop(client);
    let error = TlsStream::accept(Arc::clone(&SERVER), server).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
}

#[tokio::test]
async fn a_broken_record_is_answered_with_an_alert() {
    for version in VERSIONS {
        for (garbage, alert) in [
            (&[0x17, 3, 3, 0, 30][..], "BadRecordMac"),
            (&[0x17, 3, 3, 0xff, 0xff], "DecodeError"),
            (b"GET / HTTP/1.1\r\n", "DecodeError"),
        ] {
            let (mut server, mut client) = pair(version, 1 << 16).await;
            client.write_all(b"before").await.unwrap();
            let garbage = [garbage, &[0; 30]].concat();
            client.get_mut().0.write_all(&garbage).await.unwrap();
            let mut bytes = [0; 20];
            assert_eq!(server.read(&mut bytes).await.unwrap(), 6, "what came before it counts");
            for _ in 0..2 {
                let error = server.read(&mut bytes).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            }
            assert!(server.write(b"more").await.is_err());
            server.shutdown().await.unwrap();
            assert!(server.pending.is_none());
            let error = client.read(&mut bytes).await.unwrap_err().to_string();
            assert!(error.contains(alert), "{error}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_answered_with_an_alert() {
    let (server, mut client) = tokio::io::duplex(1 << 16);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = TlsStream::accept(Arc::clone(&SERVER), server).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    // A fatal alert: decode_error (RFC 8446 §6.2).
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);

    for version in VERSIONS {
        let mut config = client_config(version);
        config.alpn_protocols = vec![b"other".to_vec()];
        let (server, client) = tokio::io::duplex(1 << 16);
        let accepted = TlsStream::accept(Arc::clone(&SERVER), server);
        let config = Arc::new(config);
        let (accepted, connected) = tokio::join!(accepted, connect(&config, client));
        assert!(accepted.is_err());
        let error = connected.unwrap_err().to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
}

#[tokio::test]
async fn a_handshake_message_without_end_is_refused() {
    let (server, mut client) = tokio::io::duplex(1 << 12);
    let accepted = tokio::spawn(TlsStream::accept(Arc::clone(&SERVER), server));
    // A ClientHello of 65 535 bytes, of which each record brings one.
    let mut sent = 0;
    for byte in [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0)) {
        if client.write_all(&[22, 3, 1, 0, 1, byte]).await.is_err() {
            break;
        }
        sent += 6;
    }
    let error = accepted.await.unwrap().err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(sent < MAX_INCOMPLETE + READ_SIZE + (1 << 12) + 6, "{sent}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_makes_the_server_hold_one_record() {
    for version in VERSIONS {
        let (mut server, client) = pair(version, 4096).await;
        let (bytes, mut accepted) = (text(LARGE), 0);
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(written) =
            Pin::new(&mut server).poll_write(&mut context, &bytes[accepted..])
        {
            accepted += written.unwrap();
        }
        assert!(accepted <= 4096 + MAX_FRAGMENT, "{accepted}");
        assert!(held(&server) <= MAX_FRAGMENT + 2 * MAX_EXPANSION, "{}", held(&server));
        assert!(Pin::new(&mut server).poll_flush(&mut context).is_pending());
        assert!(Pin::new(&mut server).poll_shutdown(&mut context).is_pending());
        drop(client);
        assert!(server.flush().await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_sends_much_makes_the_server_hold_one_read() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version, 1 << 16).await;
        let sending = tokio::spawn(async move {
            let sent = client.write_all(&text(LARGE)).await;
            sent.and(client.shutdown().await)
        });
        let (mut byte, mut received) = ([0], Vec::new());
        for _ in 0..3 * MAX_FRAGMENT {
            server.read_exact(&mut byte).await.unwrap();
            received.push(byte[0]);
            assert!(held(&server) <= 4 * READ_SIZE, "{}", held(&server));
        }
        server.read_to_end(&mut received).await.unwrap();
        assert!(received == text(LARGE));
        sending.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn keys_are_updated_while_data_flows() {
    let (mut server, mut client) = pair(&TLS13, 1 << 16).await;
    let served = tokio::spawn(async move { echo(&mut server).await });
    // More often than is allowed without data in between.
    for round in 0..100_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round; 100]).await.unwrap();
        let mut bytes = [0; 100];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [round; 100]);
    }
    // Without data they are refused after a while, and the connection with them.
    for _ in 0..100 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
    }
    client.flush().await.unwrap();
    assert!(client.read(&mut [0]).await.is_err());
    assert!(served.await.unwrap().is_err());
}

#[tokio::test]
async fn sessions_are_resumed_by_their_tickets() {
    for version in VERSIONS {
        let config = Arc::new(client_config(version));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (mut server, mut client) = pair_with(&config, 1 << 16).await;
            assert_eq!(client.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
            // With it come the tickets of TLS 1.3.
            server.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn openssl_exchanges_data_and_updates_keys() {
    for arguments in [
        "-tls1_2",
        "-tls1_3",
        // Small records, and handshake messages in several.
        "-tls1_2 -max_send_frag 512",
        "-tls1_3 -max_send_frag 512",
        // The first group is none of ours: a HelloRetryRequest.
        "-tls1_3 -groups P-521:P-256",
        "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305",
        "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256 -alpn h2",
    ] {
        tokio::time::timeout(Duration::from_secs(60), openssl(arguments)).await.expect(arguments);
    }
}

async fn openssl(arguments: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &listener.local_addr().unwrap().to_string()])
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut to = client.stdin.take().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut log = BufReader::new(client.stderr.take().unwrap()).lines();
    let (socket, _) = listener.accept().await.unwrap();
    let mut server = TlsStream::accept(Arc::clone(&SERVER), socket).await.expect(arguments);
    let server = tokio::spawn(async move { echo(&mut server).await });
    for round in 0..2 {
        for line in 0..1_000 {
            to.write_all(format!("{round} {line:0>100}\n").as_bytes()).await.unwrap();
        }
        let last = format!("{round} {:0>100}", 999);
        while lines.next_line().await.unwrap().expect(arguments) != last {}
        // s_client updates its keys and asks for ours.
        if arguments.starts_with("-tls1_3") && round == 0 {
            to.write_all(b"K\n").await.unwrap();
            while log.next_line().await.unwrap().expect(arguments) != "KEYUPDATE" {}
        }
    }
    // It sends close_notify and ends.
    to.write_all(b"Q\n").await.unwrap();
    assert_eq!(server.await.unwrap().expect(arguments), 2_000 * 103, "{arguments}");
    assert!(client.wait().await.unwrap().success(), "{arguments}");
}
