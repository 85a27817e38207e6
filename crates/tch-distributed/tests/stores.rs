//! Stores: what every kind does, and what a client is told when the server is not there.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use support::{Rank, start};
use tch_distributed::{Error, Store};

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

#[test]
fn rank() {
    support::rank_process(&[("host_dies", host_dies), ("listening", listening)]);
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// Two views of one store.
fn stores(dir: &Path) -> Vec<(&'static str, Store, Store)> {
    let (listener, port) = listener();
    let server = Store::tcp_server(listener, SHORT).expect("a server");
    let client = Store::tcp_client("127.0.0.1", port, SHORT).expect("a client");
    let file = |_| Store::file(&dir.join("store"), Some(2), SHORT).expect("a file store");
    let (file_a, file_b) = (file(0), file(1));
    let prefixed = |store: &Store| store.prefix("outer").and_then(|store| store.prefix("inner")).expect("a prefix");
    let (prefix_a, prefix_b) = (prefixed(&server), prefixed(&client));
    vec![("tcp", server, client), ("file", file_a, file_b), ("prefix", prefix_a, prefix_b)]
}

#[test]
fn every_store_keeps_values() {
    let dir = tempfile::tempdir().expect("a folder");
    for (kind, a, b) in stores(dir.path()) {
        a.set("key", b"value \0 of bytes").expect("set");
        assert_eq!(b.get("key").expect("get"), b"value \0 of bytes", "{kind}");
        a.set("empty", b"").expect("set");
        assert_eq!(b.get("empty").expect("get"), b"", "{kind}");
        assert_eq!(a.add("count", 5).expect("add"), 5, "{kind}");
        assert_eq!(b.add("count", -7).expect("add"), -2, "{kind}");
        assert_eq!(a.get("count").expect("get"), b"-2", "{kind}");
        assert!(b.check(&["key", "count"]).expect("check"), "{kind}");
        assert!(!b.check(&["key", "nothing"]).expect("check"), "{kind}");
        assert_eq!(a.compare_set("lock", b"", b"a").expect("compare"), b"a", "{kind}: absent");
        assert_eq!(b.compare_set("lock", b"b", b"c").expect("compare"), b"a", "{kind}: held by another");
        assert_eq!(b.compare_set("lock", b"a", b"b").expect("compare"), b"b", "{kind}: handed over");
        assert!(b.delete("key").expect("delete"), "{kind}");
        // A file store does not look whether there was something to delete.
        assert_eq!(a.delete("key").expect("delete"), kind == "file", "{kind}");
        assert!(!a.check(&["key"]).expect("check"), "{kind}");
        let before = a.num_keys().expect("number");
        b.set("one more", b"1").expect("set");
        b.get("one more").expect("set has arrived");
        assert_eq!(a.num_keys().expect("number"), before + 1, "{kind}");
    }
}

#[test]
fn a_wait_ends_when_the_key_is_set_or_the_time_is_up() {
    let dir = tempfile::tempdir().expect("a folder");
    for (kind, a, b) in stores(dir.path()) {
        let start = Instant::now();
        let error = a.wait(&["never"], Duration::from_millis(300)).expect_err("nobody sets it");
        assert!(matches!(error, Error::Timeout(_)) && error.to_string().contains("`never`"), "{kind}: {error:?}");
        assert!(start.elapsed() >= Duration::from_millis(300), "{kind}");
        // A file store looks at whole seconds only.
        let limit = Duration::from_millis(if kind == "file" { 1800 } else { 800 });
        assert!(start.elapsed() < limit, "{kind}: {:?}", start.elapsed());
        let error = a.get("never").expect_err("nobody sets it");
        assert!(matches!(error, Error::Timeout(_)), "{kind}: {error:?}");
        // The connection is sound after a timeout.
        thread::scope(|scope| {
            let waiter = scope.spawn(|| a.wait(&["soon"], LONG));
            b.set("soon", b"1").expect("set");
            waiter.join().expect("no panic").expect("it was set");
        });
    }
}

#[test]
fn prefixes_keep_keys_apart() {
    let (listener, _) = listener();
    let store = Store::tcp_server(listener, SHORT).expect("a server");
    let (a, b) = (store.prefix("a").expect("prefix"), store.prefix("b").expect("prefix"));
    a.set("key", b"of a").expect("set");
    b.set("key", b"of b").expect("set");
    assert_eq!(a.get("key").expect("get"), b"of a");
    assert_eq!(store.get("b/key").expect("get"), b"of b");
    drop(store);
    assert_eq!(b.get("key").expect("the prefix holds the server"), b"of b");
}

#[test]
fn one_store_serves_many_threads() {
    let dir = tempfile::tempdir().expect("a folder");
    for (kind, store, _other) in stores(dir.path()) {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| assert!(store.add("sum", 1).expect("add") > 0)));
            }
        });
        assert_eq!(store.get("sum").expect("get"), b"200", "{kind}");
    }
}

#[test]
fn the_port_is_free_again_when_the_server_is_dropped() {
    let (listener, port) = listener();
    let server = Store::tcp_server(listener, SHORT).expect("a server");
    let client = Store::tcp_client("127.0.0.1", port, SHORT).expect("a client");
    client.set("key", b"1").expect("set");
    drop(server);
    let error = client.get("key").expect_err("the server has gone");
    assert!(matches!(error, Error::Network(_) | Error::PeerLost(_)), "{error:?}");
    let again = TcpListener::bind(("127.0.0.1", port)).expect("the port is free at once");
    Store::tcp_server(again, SHORT).expect("another server");
}

#[test]
fn nobody_at_the_address_is_told_in_time() {
    let (listener, port) = listener();
    drop(listener);
    let start = Instant::now();
    let error = Store::tcp_client("127.0.0.1", port, SHORT).expect_err("nobody serves");
    assert!(matches!(error, Error::Timeout(_) | Error::Network(_)), "{error:?}");
    assert!(start.elapsed() < SHORT * 3, "{:?}", start.elapsed());
}

#[test]
fn the_last_file_store_removes_the_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store");
    let (a, b) = (Store::file(&path, Some(2), SHORT), Store::file(&path, Some(2), SHORT));
    a.as_ref().expect("a store").set("key", b"1").expect("set");
    drop(a);
    assert!(path.exists());
    drop(b);
    assert!(!path.exists());
}

#[test]
fn a_dead_host_of_the_store_is_told_within_a_second() {
    let mut ranks = start("host_dies", 2);
    ranks.await_point(1, "waiting");
    ranks.kill(0);
    ranks.outcomes()[1].assert_passed(1);
}

#[test]
fn ranks_meet_at_a_port_that_nobody_chose() {
    start("listening", 3).pass();
}

/// The port of a store that rank 0 serves, told through the shared folder.
fn meet(rank: &Rank) -> Store {
    let path = rank.dir.join("port");
    if rank.rank == 0 {
        let (listener, port) = listener();
        let store = Store::tcp_server(listener, LONG).expect("a server");
        std::fs::write(path, port.to_string()).expect("writable");
        rank.reach("listening");
        return store;
    }
    rank.await_peer(0, "listening");
    let port = std::fs::read_to_string(path).expect("written").parse().expect("a port");
    Store::tcp_client("127.0.0.1", port, LONG).expect("rank 0 serves")
}

fn host_dies(rank: &Rank) {
    let store = meet(rank);
    if rank.rank == 0 {
        // Ends by SIGKILL: nobody reaches this point.
        rank.await_peer(9, "never");
        return;
    }
    rank.reach("waiting");
    let error = store.wait(&["never"], LONG).expect_err("the server dies");
    let told = rank.since_kill();
    assert!(matches!(error, Error::Network(_) | Error::PeerLost(_)), "{error:?}");
    assert!(told < SHORT, "{told:?}");
}

fn listening(rank: &Rank) {
    let store = meet(rank);
    assert!(store.add("here", 1).expect("add") <= 3);
    while store.get("here").expect("get") != b"3" {
        thread::yield_now();
    }
    store.set(&format!("done/{}", rank.rank), b"1").expect("set");
    if rank.rank == 0 {
        store.wait(&["done/0", "done/1", "done/2"], LONG).expect("all are done");
    }
}
