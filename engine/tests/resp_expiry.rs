//! Expiry in the example `resp`, in virtual time.

mod resp_harness;
#[path = "../examples/resp/service/mod.rs"]
mod service;

use std::time::Duration;

use self::resp_harness::{ask, store};

#[test]
fn what_has_expired_is_not_seen_and_then_gone() {
    let (mut harness, client) = store();
    assert_eq!(ask(&mut harness, client, "SET k v PX 1500"), "+OK\r\n");
    assert_eq!(ask(&mut harness, client, "SET stays v EX 100"), "+OK\r\n");
    assert_eq!(ask(&mut harness, client, "PTTL k"), ":1500\r\n");
    harness.advance(Duration::from_millis(1499));
    assert_eq!(ask(&mut harness, client, "GET k"), "$1\r\nv\r\n");
    harness.advance(Duration::from_millis(1));
    assert_eq!(ask(&mut harness, client, "GET k"), "$-1\r\n");
    harness.advance(Duration::from_secs(1));
    assert_eq!(ask(&mut harness, client, "DBSIZE"), ":1\r\n");
    assert_eq!(ask(&mut harness, client, "TTL k"), ":-2\r\n");
    assert_eq!(ask(&mut harness, client, "PERSIST stays"), ":1\r\n");
    assert_eq!(ask(&mut harness, client, "TTL stays"), ":-1\r\n");
}

#[test]
fn expiries_out_of_range_are_refused_and_change_nothing() {
    let (mut harness, client) = store();
    ask(&mut harness, client, "SET k v");
    for time in ["0", "-1", "9223372036854775807", "9223372036854775"] {
        let answer = ask(&mut harness, client, &format!("SET k w EX {time}"));
        assert_eq!(answer, "-ERR invalid expire time in 'set' command\r\n", "{time}");
    }
    assert_eq!(ask(&mut harness, client, "EXPIRE k 9223372036854775807").as_bytes()[0], b'-');
    assert_eq!(ask(&mut harness, client, "PEXPIRE k 9223372036854775807").as_bytes()[0], b'-');
    assert_eq!(ask(&mut harness, client, "GET k"), "$1\r\nv\r\n");
    assert_eq!(ask(&mut harness, client, "TTL k"), ":-1\r\n");
    assert_eq!(ask(&mut harness, client, "EXPIRE k -5"), ":1\r\n");
    assert_eq!(ask(&mut harness, client, "GET k"), "$-1\r\n");
}

#[test]
fn an_expired_key_is_a_new_one_to_whoever_writes_it() {
    for (write, answer, read) in [
        ("INCR k", ":1\r\n", "$1\r\n1\r\n"),
        ("APPEND k xyz", ":3\r\n", "$3\r\nxyz\r\n"),
        ("SET k new KEEPTTL", "+OK\r\n", "$3\r\nnew\r\n"),
        ("SET k new NX", "+OK\r\n", "$3\r\nnew\r\n"),
        ("SET k new XX", "$-1\r\n", "$-1\r\n"),
        ("SETNX k new", ":1\r\n", "$3\r\nnew\r\n"),
        ("GETSET k new", "$-1\r\n", "$3\r\nnew\r\n"),
        ("SET k new GET", "$-1\r\n", "$3\r\nnew\r\n"),
        ("GETDEL k", "$-1\r\n", "$-1\r\n"),
        ("DEL k", ":0\r\n", "$-1\r\n"),
        ("EXPIRE k 10", ":0\r\n", "$-1\r\n"),
        ("PERSIST k", ":0\r\n", "$-1\r\n"),
    ] {
        let (mut harness, client) = store();
        // Give the sweeper something to do first, so that it does not interfere: its first look is 100 ms after the
        // key.
        ask(&mut harness, client, "SET k 41 PX 10");
        harness.advance(Duration::from_millis(10));
        assert_eq!(ask(&mut harness, client, write), answer, "{write}");
        assert_eq!(ask(&mut harness, client, "GET k"), read, "{write}");
        // The old expiry must not affect the new value.
        harness.advance(Duration::from_secs(10));
        assert_eq!(ask(&mut harness, client, "GET k"), read, "{write}, later");
        let ttl = if read.starts_with("$-1") { ":-2\r\n" } else { ":-1\r\n" };
        assert_eq!(ask(&mut harness, client, "TTL k"), ttl, "{write}");
    }
}

#[test]
fn which_writes_keep_an_expiry() {
    for (write, ttl) in [
        ("SET k 2", ":-1\r\n"),
        ("SET k 2 KEEPTTL", ":100\r\n"),
        ("SET k 2 EX 7", ":7\r\n"),
        ("SET k 2 NX", ":100\r\n"),
        ("SET k 2 EX 7 NX", ":100\r\n"),
        ("GETSET k 2", ":-1\r\n"),
        ("MSET k 2", ":-1\r\n"),
        ("INCR k", ":100\r\n"),
        ("APPEND k 2", ":100\r\n"),
        ("EXPIRE k 50 GT", ":100\r\n"),
        ("EXPIRE k 50 LT", ":50\r\n"),
        ("EXPIRE k 150 GT", ":150\r\n"),
        ("PEXPIRE k 1499", ":1\r\n"),
        ("PEXPIRE k 1500", ":2\r\n"),
        ("PEXPIRE k 400", ":0\r\n"),
    ] {
        let (mut harness, client) = store();
        ask(&mut harness, client, "SET k 1 EX 100");
        ask(&mut harness, client, write);
        assert_eq!(ask(&mut harness, client, "TTL k"), ttl, "{write}");
    }
}

#[test]
fn absolute_times_are_of_the_wall_clock() {
    let (mut harness, client) = store();
    let time = ask(&mut harness, client, "TIME");
    let seconds: u64 = time.split("\r\n").nth(2).and_then(|text| text.parse().ok()).expect("seconds");
    ask(&mut harness, client, &format!("SET k v EXAT {}", seconds + 20));
    assert_eq!(ask(&mut harness, client, "TTL k"), ":20\r\n");
    harness.advance(Duration::from_millis(19_999));
    assert_eq!(ask(&mut harness, client, "EXISTS k"), ":1\r\n");
    harness.advance(Duration::from_millis(1));
    assert_eq!(ask(&mut harness, client, "EXISTS k"), ":0\r\n");
    assert_eq!(ask(&mut harness, client, "SET k v EXAT 1"), "+OK\r\n");
    assert_eq!(ask(&mut harness, client, "GET k"), "$-1\r\n");
}

/// More entries than one sweep may remove: the rest follow without any request.
#[test]
fn many_that_expire_at_once_are_all_removed() {
    let (mut harness, client) = store();
    let requests: String = (0..3500).map(|index| format!("SET k{index} v PX 1000\r\n")).collect();
    harness.send(client, requests.as_bytes());
    harness.take_output(client);
    assert_eq!(ask(&mut harness, client, "DBSIZE"), ":3500\r\n");
    harness.advance(Duration::from_millis(1200));
    assert_eq!(ask(&mut harness, client, "DBSIZE"), ":0\r\n");
    assert!(!ask(&mut harness, client, "INFO keyspace").contains("db0"));
}
