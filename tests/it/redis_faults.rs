//! How the Redis store fails and recovers, and what it costs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use token_relay::{
    session::{
        DialogId, Digest, GoneReason, GrantId, SessionKey, SessionRef, State, SubscriptionId,
    },
    store::{
        ChangeFeed as _, DeliveryNote, Ended, Entered, Entry, GrantStore as _, MarkStore as _,
        NewSession, ReadRequest, ReadResult, Rotated, SessionStore as _, StoreError,
        StoreHealth as _, Stored, TOMBSTONE, redis::RedisStore,
    },
};

use crate::support::{
    redis::{Cluster, Directory, Sentinels, Server, command, eventually, tls_server, within},
    store::*,
};

fn name(key: SessionKey) -> String {
    format!("test:{{{}}}", key.to_base64url())
}

fn native() -> SessionRef {
    SessionRef::native(key())
}

/// The store sees a login pass: everything works.
pub async fn works(store: &Arc<RedisStore>, notices: &Recorder) {
    let session = native();
    // At once, so that the second and third go together.
    let create = |key| store.create(key, legacy());
    let (first, second, third) = tokio::join!(create(key()), create(session.key), create(key()));
    first.and(second).and(third).expect("created");
    store.subscribe(session.key).await.expect("subscribed");
    assert_eq!(store.fulfil(session, sealed()).await.expect("stored"), Stored::Done);
    assert_eq!(notices.heard(session, 1).await, [Some(sealed())]);
    assert!(is_token(&store.read(session, poll(None)).await.expect("read")));
    store.unsubscribe(session.key);
    assert!(store.mark(digest(), LIFE).await.expect("marked"));
    let grant = GrantId::generate();
    store.begin_grant(grant, LIFE).await.expect("begun");
    assert_eq!(store.rotate_grant(grant, 1, LIFE, LIFE).await.expect("taken"), Rotated::Done);
    assert!(!store.is_grant_ended(grant).await.expect("an answer"));
}

async fn works_at(url: &str) {
    let (store, notices) = redis_at(url).await;
    store.check().await.expect("redis answers");
    works(&store, &notices).await;
}

/// Waits until the store works again and every subscription stands.
pub async fn recovered(store: &Arc<RedisStore>, limit: Duration) {
    within(limit, "the store is back", || async { store.check().await.is_ok() }).await;
}

#[tokio::test]
async fn the_key_outlives_the_session_by_the_tombstone_and_nothing_prolongs_it() {
    let server = Server::start(&[]).await;
    let (store, _notices) = redis_at(&server.url()).await;
    let hand = server.client().await;
    let (session, transit) = (native(), digest());
    store.create(session.key, bound(digest(), transit)).await.unwrap();
    let expiry =
        async || command(&hand, &["PEXPIRETIME", &name(session.key)]).await.as_i64().unwrap();
    let created = expiry().await;
    let left = command(&hand, &["PTTL", &name(session.key)]).await.as_i64().unwrap();
    let full = i64::try_from((LIFE + TOMBSTONE).as_millis()).unwrap();
    assert!(left <= full && left > full - 5000, "{left}");
    store.enter(session, Entry::TransitToken(transit), DialogId::generate()).await.unwrap();
    assert_eq!(expiry().await, created);
    store.fulfil(session, sealed()).await.unwrap();
    assert_eq!(expiry().await, created);
    store.evict(session, GoneReason::Replayed).await.unwrap();
    assert_eq!(expiry().await, created);
    let mut left: Vec<String> = hand_fields(&hand, session).await;
    left.sort();
    // No payload, no name, no address: only what a late caller is recognised by.
    assert_eq!(left, ["k", "m", "s", "t", "tu", "tx", "w", "x"]);
}

async fn hand_fields(hand: &fred::clients::Client, session: SessionRef) -> Vec<String> {
    command(hand, &["HKEYS", &name(session.key)]).await.convert().expect("names")
}

/// How often the server has run each command.
async fn calls(hand: &fred::clients::Client) -> impl Fn(&str) -> usize {
    let stats = command(hand, &["INFO", "commandstats"]).await.as_string().unwrap();
    move |command| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }
}

#[tokio::test]
async fn a_sign_in_costs_a_fixed_number_of_commands() {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    works(&store, &notices).await;
    let hand = server.client().await;
    command(&hand, &["CONFIG", "RESETSTAT"]).await;
    let sign_ins = 50;
    for _ in 0..sign_ins {
        let (session, session_token, transit) = (native(), Some(digest()), digest());
        store.create(session.key, bound(session_token.unwrap(), transit)).await.unwrap();
        store.subscribe(session.key).await.unwrap();
        let subscription = SubscriptionId::generate();
        let read = ReadRequest { session_token, ..attach(subscription) };
        assert!(is_pending(&store.read(session, read).await.unwrap()));
        store.enter(session, Entry::TransitToken(transit), DialogId::generate()).await.unwrap();
        store.fulfil(session, sealed()).await.unwrap();
        notices.heard(session, 1).await;
        let read = ReadRequest { session_token, ..claim(subscription) };
        assert!(is_token(&store.read(session, read).await.unwrap()));
        store.end(session, session_token).await.unwrap();
        store.unsubscribe(session.key);
    }
    let calls = calls(&hand).await;
    let (scripts, subscribes, pings) = (calls("evalsha"), calls("subscribe"), calls("ping"));
    let unsubscribes = calls("unsubscribe");
    let sent = scripts + calls("eval") + subscribes + unsubscribes + pings;
    println!(
        "{sign_ins} sign-ins: {scripts} scripts, {subscribes} subscribe, {unsubscribes} \
         unsubscribe, {pings} ping; {:.2} commands each",
        sent as f64 / f64::from(sign_ins)
    );
    let sign_ins = usize::try_from(sign_ins).unwrap();
    assert_eq!(scripts, 6 * sign_ins);
    // In full only once each.
    assert!(calls("eval") <= 6, "scripts are sent by their digest");
    assert!(subscribes == sign_ins && unsubscribes <= sign_ins);
    // One behind each subscription, and a heartbeat now and then.
    assert!(pings <= sign_ins + 10, "{pings}");
}

#[tokio::test]
async fn subscriptions_end_together_and_none_that_is_wanted_again() {
    const SESSIONS: usize = 300;
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    let hand = server.client().await;
    let sessions: Vec<_> = (0..SESSIONS).map(|_| native()).collect();
    for session in &sessions {
        store.create(session.key, legacy()).await.unwrap();
        store.subscribe(session.key).await.unwrap();
    }
    command(&hand, &["CONFIG", "RESETSTAT"]).await;
    // A few at a time, as clients leave.
    for few in sessions.chunks(4) {
        few.iter().for_each(|session| store.unsubscribe(session.key));
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    // Left and wanted again before its subscription is ended, and just so afterwards.
    let (again, later) = (sessions[SESSIONS - 1], sessions[0]);
    store.subscribe(again.key).await.unwrap();
    let channels = async || {
        let pattern = ["PUBSUB", "CHANNELS", "test:*"];
        command(&hand, &pattern).await.into_array().len()
    };
    eventually("one channel is left", || async { channels().await == 1 }).await;
    let unsubscribes = calls(&hand).await("unsubscribe");
    println!("{SESSIONS} subscriptions ended by {unsubscribes} commands");
    assert!(unsubscribes * 8 < SESSIONS, "{unsubscribes} commands");
    store.subscribe(later.key).await.unwrap();
    for session in [again, later] {
        assert_eq!(store.fulfil(session, sealed()).await.unwrap(), Stored::Done);
        assert_eq!(notices.heard(session, 1).await, [Some(sealed())]);
    }
}

/// A server writes first to whom it had something to write for last. The instance that stores a token has a
/// short answer to get before, so that the message is written first; were it in another packet, it would be
/// written at once, and nothing gained.
#[tokio::test]
async fn the_command_before_a_delivery_is_in_its_packet() {
    const TOKENS: usize = 100;
    let server = Server::start(&[]).await;
    let (store, _notices) = redis_at(&server.url()).await;
    let hand = server.client().await;
    let reads = async || {
        let text = command(&hand, &["INFO", "stats"]).await.into_string().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.unwrap().trim().parse::<usize>().unwrap()
    };
    let sessions: Vec<_> = (0..=TOKENS).map(|_| native()).collect();
    for session in &sessions {
        store.create(session.key, legacy()).await.unwrap();
    }
    // The script is known from the first on.
    assert_eq!(store.fulfil(sessions[TOKENS], sealed()).await.unwrap(), Stored::Done);
    command(&hand, &["CONFIG", "RESETSTAT"]).await;
    let before = reads().await;
    for session in &sessions[..TOKENS] {
        assert_eq!(store.fulfil(*session, sealed()).await.unwrap(), Stored::Done);
    }
    let read = reads().await - before;
    let (earlier, scripts) = (calls(&hand).await("exists"), calls(&hand).await("evalsha"));
    println!("{earlier} + {scripts} commands in {read} reads");
    assert_eq!((earlier, scripts), (TOKENS, TOKENS));
    // Those of the subscriber's connection and this one's come on top.
    assert!(read < TOKENS * 3 / 2, "{read} reads");
}

/// Sessions that are created at once; every fifth is given up while it waits to be sent.
async fn created_at_once(
    store: &Arc<RedisStore>,
    count: usize,
) -> Vec<(SessionRef, Digest, Result<(), StoreError>)> {
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let (store, transit) = (Arc::clone(store), digest());
            let (session, new) = match number % 3 {
                0 => (native(), bound(digest(), transit)),
                1 => (SessionRef::meet(key()), meet(transit)),
                _ => (native(), NewSession { transit: Some((transit, LIFE / 2)), ..legacy() }),
            };
            let task = tokio::spawn(async move { store.create(session.key, new).await });
            (session, transit, task)
        })
        .collect();
    tokio::task::yield_now().await;
    tasks.iter().step_by(5).for_each(|(_, _, task)| task.abort());
    let mut created = Vec::new();
    for (session, transit, task) in tasks {
        if let Ok(result) = task.await {
            created.push((session, transit, result));
        }
    }
    created
}

#[tokio::test]
async fn sessions_that_are_created_at_once_go_together_and_stay_apart() {
    const SESSIONS: usize = 600;
    let server = Server::start(&[]).await;
    let (store, _notices) = redis_at(&server.url()).await;
    let hand = server.client().await;
    command(&hand, &["CONFIG", "RESETSTAT"]).await;
    let created = created_at_once(&store, SESSIONS).await;
    let calls = calls(&hand).await;
    let scripts = calls("evalsha") + calls("eval");
    println!("{} of {SESSIONS} sessions created by {scripts} scripts", created.len());
    assert!(created.len() >= SESSIONS * 4 / 5, "who gives up harms nobody else");
    assert!(scripts * 4 < SESSIONS, "{scripts} scripts");
    let mut other = digest();
    for (session, transit, result) in created {
        result.expect("created");
        let enter = async |transit| {
            store.enter(session, Entry::TransitToken(transit), DialogId::generate()).await.unwrap()
        };
        assert!(matches!(enter(other).await, Entered::Unknown), "another's transit token");
        assert!(matches!(enter(transit).await, Entered::Admitted(_)));
        let left = command(&hand, &["PTTL", &name(session.key)]).await.as_i64().unwrap();
        let full = i64::try_from((LIFE + TOMBSTONE).as_millis()).unwrap();
        assert!(left <= full && left > full - 30_000, "{left}");
        other = transit;
    }
}

/// As some managed services are: a cluster of one server, reached by a URL without `cluster`.
#[tokio::test]
async fn a_cluster_of_one_server_needs_no_url_of_a_cluster() {
    let server = Server::start(&["--cluster-enabled", "yes"]).await;
    let hand = server.client().await;
    command(&hand, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    within(Duration::from_secs(10), "the cluster is formed", || async {
        let info = command(&hand, &["CLUSTER", "INFO"]).await.as_string().unwrap();
        info.contains("cluster_state:ok")
    })
    .await;
    let (store, notices) = redis_at(&server.url()).await;
    works(&store, &notices).await;
    for _ in 0..2 {
        for (_, _, result) in created_at_once(&store, 100).await {
            result.expect("created");
        }
    }
    // One that has not been told so yet, of deliveries.
    let (store, _notices) = redis_at(&server.url()).await;
    let mut notes = Vec::new();
    for _ in 0..20 {
        let (session, token, subscription) = (native(), digest(), SubscriptionId::generate());
        store.create(session.key, bound(token, digest())).await.unwrap();
        let read = ReadRequest { session_token: Some(token), ..attach(subscription) };
        assert!(is_pending(&store.read(session, read).await.unwrap()));
        assert_eq!(store.fulfil(session, sealed()).await.unwrap(), Stored::Done);
        let grace = Duration::from_secs(30);
        notes.push(DeliveryNote { session, session_token: Some(token), subscription, grace });
    }
    store.note_deliveries(&notes).await.expect("noted");
    for note in notes {
        let stored = store.fulfil(note.session, sealed()).await.unwrap();
        assert_eq!(stored, Stored::NotPending(State::Delivered));
    }
}

#[tokio::test]
async fn sessions_that_a_full_server_refuses_together_are_all_told_so() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let (store, notices) = redis_at(&server.url()).await;
    works(&store, &notices).await;
    let hand = server.client().await;
    command(&hand, &["CONFIG", "SET", "maxmemory", "1"]).await;
    for (_, _, result) in created_at_once(&store, 100).await {
        assert!(matches!(result, Err(StoreError::Unavailable(text)) if text.contains("OOM")));
    }
    command(&hand, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(created_at_once(&store, 100).await.iter().all(|(_, _, result)| result.is_ok()));
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    works(&store, &notices).await;
    command(&server.client().await, &["SCRIPT", "FLUSH"]).await;
    works(&store, &notices).await;
}

#[tokio::test]
async fn a_killed_subscription_stands_again_and_subscriptions_look() {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    let hand = server.client().await;
    let sessions: Vec<SessionRef> = (0..200).map(|_| native()).collect();
    for session in &sessions {
        store.create(session.key, legacy()).await.unwrap();
        store.subscribe(session.key).await.unwrap();
    }
    for round in 0..3 {
        let before = notices.resyncs();
        let killed = command(&hand, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed.as_i64(), Some(1), "one connection, however many sessions");
        eventually("subscriptions are told to look", || async { notices.resyncs() > before }).await;
        for session in sessions.iter().skip(round).step_by(3) {
            store.fulfil(*session, sealed()).await.unwrap();
        }
        for session in sessions.iter().skip(round).step_by(3) {
            assert_eq!(notices.heard(*session, 1).await, [Some(sealed())]);
        }
    }
}

#[tokio::test]
async fn many_thousands_of_subscriptions_stand_again_quickly() {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    let sessions: Vec<SessionRef> = (0..20_000).map(|_| native()).collect();
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for sessions in sessions.chunks(200) {
        let (store, sessions) = (store.clone(), sessions.to_vec());
        tasks.spawn(async move {
            for session in sessions {
                store.subscribe(session.key).await.expect("subscribed");
            }
        });
    }
    tasks.join_all().await;
    println!("20 000 subscriptions in {:?}", start.elapsed());
    let hand = server.client().await;
    let before = notices.resyncs();
    let start = Instant::now();
    command(&hand, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("subscriptions are told to look", || async { notices.resyncs() > before }).await;
    println!("20 000 subscriptions again in {:?}", start.elapsed());
    let channels = command(&hand, &["PUBSUB", "CHANNELS", "test:*"]).await;
    let fred::types::Value::Array(channels) = channels else { panic!("{channels:?}") };
    assert_eq!(channels.len(), sessions.len());
    for session in &sessions {
        store.unsubscribe(session.key);
    }
    eventually("none is left", || async {
        let left = command(&hand, &["PUBSUB", "CHANNELS", "test:*"]).await;
        matches!(left, fred::types::Value::Array(left) if left.is_empty())
    })
    .await;
}

#[tokio::test]
async fn a_killed_and_restarted_server_is_taken_up_again() {
    let mut server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    let waiting = native();
    store.create(waiting.key, legacy()).await.unwrap();
    store.subscribe(waiting.key).await.unwrap();
    let before = notices.resyncs();
    server.kill();
    within(TIMEOUT, "the loss is noticed", || async { store.check().await.is_err() }).await;
    let start = Instant::now();
    for _ in 0..20 {
        let error = store.create(key(), legacy()).await.expect_err("Redis is unreachable");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    store.subscribe(key()).await.expect_err("Redis is unreachable");
    // At most the first call waits, for a connection that was just lost; the others hear at once.
    let limit = TIMEOUT + Duration::from_millis(500);
    assert!(start.elapsed() < limit, "calls queue up: {:?}", start.elapsed());
    server.restart();
    recovered(&store, Duration::from_secs(10)).await;
    assert!(notices.resyncs() > before);
    // The server was empty after its restart, but the subscription stands.
    store.create(waiting.key, legacy()).await.unwrap();
    assert_eq!(store.fulfil(waiting, sealed()).await.unwrap(), Stored::Done);
    assert_eq!(notices.heard(waiting, 1).await, [Some(sealed())]);
    works(&store, &notices).await;
}

#[tokio::test]
async fn the_store_comes_up_before_redis() {
    let mut server = Server::start(&[]).await;
    server.kill();
    let start = Instant::now();
    let (store, notices) = redis_at(&server.url()).await;
    assert!(start.elapsed() < TIMEOUT * 2, "{:?}", start.elapsed());
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
    server.restart();
    recovered(&store, Duration::from_secs(10)).await;
    works(&store, &notices).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unavailable_in_time() {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    works(&store, &notices).await;
    command(&server.client().await, &["CLIENT", "PAUSE", "3000", "ALL"]).await;
    let start = Instant::now();
    let error = store.create(key(), legacy()).await.expect_err("the server is paused");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(start.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", start.elapsed());
    recovered(&store, Duration::from_secs(15)).await;
    works(&store, &notices).await;
}

#[tokio::test]
async fn a_full_server_still_hands_out_and_ends() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let (store, notices) = redis_at(&server.url()).await;
    let (ready, pending) = (native(), native());
    for session in [ready, pending] {
        store.create(session.key, legacy()).await.unwrap();
        store.subscribe(session.key).await.unwrap();
    }
    store.fulfil(ready, sealed()).await.unwrap();
    notices.heard(ready, 1).await;
    command(&server.client().await, &["CONFIG", "SET", "maxmemory", "1"]).await;
    for result in [
        store.create(key(), legacy()).await.map(drop),
        store.fulfil(pending, sealed()).await.map(drop),
        store.mark(digest(), LIFE).await.map(drop),
    ] {
        let error = result.expect_err("the server is full");
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("OOM")), "{error}");
    }
    assert!(is_token(&store.read(ready, poll(GRACE)).await.unwrap()));
    assert_eq!(store.end(ready, None).await.unwrap(), Ended::Acknowledged);
    // Nothing was half done: the session is pending and nobody heard anything.
    assert!(is_pending(&store.read(pending, poll(None)).await.unwrap()));
    assert!(notices.of(pending).is_empty());
    assert_eq!(store.end(pending, None).await.unwrap(), Ended::Cancelled);
}

#[tokio::test]
async fn a_demoted_server_is_unavailable() {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    works(&store, &notices).await;
    let hand = server.client().await;
    command(&hand, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = store.create(key(), legacy()).await.expect_err("it only reads");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    command(&hand, &["REPLICAOF", "NO", "ONE"]).await;
    recovered(&store, Duration::from_secs(10)).await;
    works(&store, &notices).await;
}

/// Whether the health check says what creation says: both fine, or both refused.
async fn health_and_creation(url: &str) -> (bool, bool) {
    let (store, _notices) = redis_at(url).await;
    (store.check().await.is_ok(), store.create(native().key, legacy()).await.is_ok())
}

#[tokio::test]
async fn the_health_check_refuses_a_server_that_sessions_cannot_use() {
    // A replica, which only reads.
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    assert_eq!(health_and_creation(&replica.url()).await, (true, true));
    let hand = replica.client().await;
    command(&hand, &["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    assert_eq!(health_and_creation(&replica.url()).await, (false, false));

    // A command under another name.
    let renamed = Server::start(&["--rename-command", "EVALSHA", "OTHER"]).await;
    assert_eq!(health_and_creation(&renamed.url()).await, (false, false));

    // A user who may not run scripts, write hashes, or publish.
    let server = Server::start(&[]).await;
    let hand = server.client().await;
    for missing in ["-@scripting", "-hset", "-publish", "-pexpireat", "resetchannels"] {
        let name = format!("without{}", missing.trim_start_matches(['-', '@']));
        command(&hand, &["ACL", "SETUSER", &name, "on", ">word", "~*", "&*", "+@all", missing])
            .await;
        let url = format!("redis://{name}:word@127.0.0.1:{}", server.port);
        let (store, _notices) = redis_at(&url).await;
        assert!(store.check().await.is_err(), "{missing}");
    }

    // No memory left.
    let full = Server::start(&["--maxmemory", "1mb"]).await;
    assert_eq!(health_and_creation(&full.url()).await, (false, false));
}

#[tokio::test]
async fn databases_and_prefixes_keep_stores_apart() {
    let server = Server::start(&[]).await;
    works_at(&format!("{}/3", server.url())).await;
    let (store, _notices) = redis_at(&format!("{}/3", server.url())).await;
    let (here, _notices) = redis_at(&server.url()).await;
    let session = native();
    store.create(session.key, legacy()).await.unwrap();
    assert!(is_pending(&store.read(session, poll(None)).await.unwrap()));
    assert_eq!(here.read(session, poll(None)).await.unwrap(), ReadResult::Unknown);
}

#[tokio::test]
async fn a_unix_socket_works() {
    let directory = Directory::new();
    let socket = directory.file("redis.sock");
    let _server = Server::start(&["--unixsocket", &socket]).await;
    works_at(&format!("redis+unix://{socket}?db=2")).await;
}

#[tokio::test]
async fn tls_works_and_is_checked() {
    let (server, authority) = tls_server().await;
    let url = |host: &str| format!("rediss://{host}:{}", server.port);
    works_at(&format!("{}?ca={authority}", url("localhost"))).await;
    works_at(&format!("{}?ca={authority}", url("127.0.0.1"))).await;
    // Signed by nobody whom the system knows.
    let (store, _notices) = redis_at(&url("localhost")).await;
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn two_stores_hear_each_other() {
    let server = Server::start(&[]).await;
    let (one, one_hears) = redis_at(&server.url()).await;
    let (two, _two_hears) = redis_at(&server.url()).await;
    let session = native();
    one.create(session.key, legacy()).await.unwrap();
    one.subscribe(session.key).await.unwrap();
    two.fulfil(session, sealed()).await.unwrap();
    assert_eq!(one_hears.heard(session, 1).await, [Some(sealed())]);
}

#[tokio::test]
async fn a_moved_slot_takes_its_sessions_along() {
    let cluster = Cluster::start().await;
    let (store, notices) = redis_at(&cluster.url()).await;
    works(&store, &notices).await;
    let session = native();
    store.create(session.key, legacy()).await.unwrap();
    store.subscribe(session.key).await.unwrap();
    let slot = fred::util::redis_keyslot(name(session.key).as_bytes());
    let from = cluster.owner(slot).await;
    let before = notices.resyncs();
    cluster.move_slot(slot, from, (from + 1) % 3).await;
    eventually("subscriptions are told to look", || async { notices.resyncs() > before }).await;
    recovered(&store, Duration::from_secs(10)).await;
    assert_eq!(store.fulfil(session, sealed()).await.unwrap(), Stored::Done);
    assert_eq!(notices.heard(session, 1).await, [Some(sealed())]);
    works(&store, &notices).await;
}

#[tokio::test]
async fn a_cluster_node_that_was_killed_comes_back() {
    let mut cluster = Cluster::start().await;
    let (store, notices) = redis_at(&cluster.url()).await;
    let sessions: Vec<SessionRef> = (0..30).map(|_| native()).collect();
    for session in &sessions {
        store.subscribe(session.key).await.unwrap();
    }
    let before = notices.resyncs();
    cluster.servers[1].restart();
    within(Duration::from_secs(20), "subscriptions are told to look", || async {
        notices.resyncs() > before && store.check().await.is_ok()
    })
    .await;
    for session in &sessions {
        within(Duration::from_secs(20), "each slot is served", || async {
            store.create(session.key, legacy()).await.is_ok()
        })
        .await;
        assert_eq!(store.fulfil(*session, sealed()).await.unwrap(), Stored::Done);
        notices.heard(*session, 1).await;
    }
}

#[tokio::test]
async fn a_failover_by_sentinels_is_followed() {
    let mut it = Sentinels::start().await;
    let (store, notices) = redis_at(&it.url()).await;
    works(&store, &notices).await;
    let waiting = native();
    store.create(waiting.key, legacy()).await.unwrap();
    store.subscribe(waiting.key).await.unwrap();
    let follower = it.replica.client().await;
    eventually("the session is replicated", || async {
        command(&follower, &["EXISTS", &name(waiting.key)]).await.as_i64() == Some(1)
    })
    .await;
    let before = notices.resyncs();
    it.primary.kill();
    within(TIMEOUT, "the loss is noticed", || async { store.check().await.is_err() }).await;
    recovered(&store, Duration::from_secs(40)).await;
    assert!(notices.resyncs() > before);
    assert_eq!(store.fulfil(waiting, sealed()).await.unwrap(), Stored::Done);
    assert_eq!(notices.heard(waiting, 1).await, [Some(sealed())]);
    works(&store, &notices).await;
}
