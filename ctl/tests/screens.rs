//! What batonctl prints, and its exit codes, with a stand-in for the server that answers what each test says.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use baton::control::{
    Allowed, CannotClose, CannotMove, CannotRebalance, Cause, ConnectionFacts, ConnectionList, ConnectionName,
    ConnectionOrder, ConnectionPeer, ConnectionState, ConnectionStatus, Evenness, Event, EventKind, Failure, Imbalance,
    Interruption, Loss, Moves, Outcome, PeerHost, PeerStatus, Reply, Request, SilentWorker, Transfer, WorkerSilence,
};

/// The result of a run of batonctl.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
    request: Option<Request>,
}

fn batonctl(control: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batonctl"));
    let output = command.arg("--control").arg(control).args(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// Runs it against a server that gives this answer.
fn run(arguments: &[&str], answer: Vec<u8>) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).expect("bound");
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a request");
        (&stream).write_all(&answer).expect("sent");
        serde_json::from_str(&line).ok()
    });
    let (code, stdout, stderr) = batonctl(&path, arguments);
    Run { code, stdout, stderr, request: server.join().expect("no panic") }
}

/// The line that people read of a failure.
fn error(failure: &Failure) -> String {
    format!("batonctl: error: {failure}\n")
}

fn lines(replies: &[Reply]) -> Vec<u8> {
    let lines = replies.iter().map(|reply| serde_json::to_string(reply).expect("JSON") + "\n");
    lines.collect::<String>().into_bytes()
}

fn event(generation: Option<u32>, kind: EventKind) -> Reply {
    Reply::Event(Event { at_us: 1_000_000, generation, kind })
}

fn reloaded() -> Vec<Reply> {
    let moves = Moves { moved: 1, bytes: 90, took_us: 200, ..Moves::default() };
    vec![
        event(Some(2), EventKind::Starting { workers: 1 }),
        event(Some(2), EventKind::Serves { took_ms: 7 }),
        Reply::Done(Outcome::Reloaded { generation: 2, took_ms: 7, moves }),
    ]
}

/// Removes the times, which differ.
fn without_times(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split_once(" ms  ").map_or(line, |(_, said)| said)).collect()
}

#[test]
fn people_see_each_step_and_the_outcome() {
    let run = run(&["reload"], lines(&reloaded()));
    assert_eq!((run.code, run.stderr.as_str(), run.request), (0, "", Some(Request::Reload)));
    let outcome = "generation 2 serves (7 ms); 1 connection moved in 0.2 ms (90 bytes)";
    let expected = ["generation 2: starting 1 worker", "generation 2: serves (7 ms)", outcome];
    assert_eq!(without_times(&run.stdout), expected);
}

const NAME: ConnectionName = ConnectionName { pid: 4711, slot: 12, generation: 0 };

/// Two connections of a server with one silent worker.
fn connections(order: ConnectionOrder) -> ConnectionList {
    let facts = ConnectionFacts {
        peer: ConnectionPeer::Tcp { address: ([127, 0, 0, 1], 99).into() },
        local: Some("unix:/run/a".parse().expect("a path")),
        state: ConnectionState::Open,
        is_layered: true,
        age_ms: 61_000,
        idle_ms: 5,
        held_bytes: 90,
        events_per_second: Some(7),
    };
    let unix = ConnectionFacts { peer: ConnectionPeer::Unix { pid: 9, user: 5 }, is_layered: false, ..facts };
    let one = |id, facts| ConnectionStatus { id, generation: 2, worker: 1, facts };
    let other = ConnectionName { slot: 3, ..NAME };
    let silent = vec![SilentWorker { pid: 4710, generation: 2, worker: 0, why: WorkerSilence::Late }];
    let connections = vec![one(NAME, facts), one(other, unix)];
    ConnectionList { pid: 1, order, connections, peers: Vec::new(), total: 4_312, workers: 1, silent }
}

#[test]
fn people_see_connections_as_a_table_and_who_is_missing() {
    let list = connections(ConnectionOrder::Busiest);
    let run = run(&["connections", "--busiest", "--limit", "2"], lines(&[Reply::Done(Outcome::Connections(list))]));
    let request = Request::Connections { order: ConnectionOrder::Busiest, limit: 2, worker: None };
    assert_eq!((run.code, run.stderr.as_str(), run.request), (0, "", Some(request)));
    let expected =
        "         id  worker                peer        local  state  layer        age  idle  held B  events/s
  4711-12-0     2.1        127.0.0.1:99  unix:/run/a   open    yes  1 min 1 s  5 ms      90         7
   4711-3-0     2.1  unix:pid 9, user 5  unix:/run/a   open      -  1 min 1 s  5 ms      90         7
2 of 4312 connections of 1 worker, the busiest first; worker 2.0 (pid 4710) has not answered in time
";
    assert_eq!(run.stdout, expected);
}

#[test]
fn people_see_how_many_connections_a_peer_has_at_most() {
    let one = |last, connections, connections_max| PeerStatus {
        peer: PeerHost::Tcp { address: [192, 0, 2, last].into() },
        connections,
        connections_max,
    };
    let (peers, connections) = (vec![one(1, 12, 15), one(2, 7, 7)], Vec::new());
    let list = ConnectionList { peers, connections, ..self::connections(ConnectionOrder::ByPeer) };
    let run = run(&["connections", "--by-peer"], lines(&[Reply::Done(Outcome::Connections(list))]));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let table: Vec<&str> = run.stdout.lines().take(3).collect();
    assert_eq!(table, ["       peer  connections", "  192.0.2.1     12 to 15", "  192.0.2.2            7"]);
}

#[test]
fn whoever_closes_a_connection_reads_what_has_become_of_it() {
    let closed = run(&["close", "4711-12-0", "--now"], lines(&[Reply::Done(Outcome::Closed { id: NAME })]));
    assert_eq!(closed.request, Some(Request::Close { id: NAME, now: true }));
    assert_eq!((closed.code, closed.stdout.as_str()), (0, "connection 4711-12-0 is closed\n"));
    let refused = Failure::NotClosed { id: NAME, why: CannotClose::NoWorker };
    let refused = run(&["close", "4711-12-0"], lines(&[Reply::Failed(refused)]));
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.starts_with("batonctl: error: connection 4711-12-0 was not closed: "), "{}", refused.stderr);
    let wrong = run(&["connections"], lines(&[Reply::Done(Outcome::Stopped)]));
    assert_eq!((wrong.code, wrong.stderr.as_str()), (1, "batonctl: error: the server answered: stopped\n"));
}

#[test]
fn people_see_what_would_be_rebalanced_line_by_line() {
    let because = Imbalance::Busy { busy_percent: 90, share_percent: 20 };
    let one = |to| Transfer { from: 0, to, because, connections_max: 400, busy_percent: 18 };
    let evenness = Evenness { busy_percent: Some(150), open_percent: Some(100) };
    let would = Reply::Done(Outcome::WouldRebalance { transfers: vec![one(1), one(2)], evenness });
    let run_dry = run(&["rebalance", "--dry-run"], lines(&[would]));
    assert_eq!((run_dry.code, run_dry.request), (0, Some(Request::Rebalance { dry_run: true })));
    let expected = [
        "worker 0 would move up to 400 connections to worker 1, 18 % of a core: it is 90 % busy",
        "worker 0 would move up to 400 connections to worker 2, 18 % of a core: it is 90 % busy",
        "2 transfers would be made; imbalance (max / mean): busy 1.50, connections 1.00",
    ];
    assert_eq!(run_dry.stdout.lines().collect::<Vec<_>>(), expected);
    let failure = Failure::CannotRebalance { why: CannotRebalance::WorkerState };
    let refused = run(&["rebalance"], lines(&[Reply::Failed(failure.clone())]));
    assert_eq!((refused.code, refused.request), (1, Some(Request::Rebalance { dry_run: false })));
    assert_eq!(refused.stderr, error(&failure));
}

#[test]
fn programs_read_what_the_server_sent() {
    for arguments in [&["reload", "--json"][..], &["scale", "3", "--json"], &["stop", "--json"], &["commit", "--json"]]
    {
        let run = run(arguments, lines(&reloaded()));
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}");
        let read: Vec<Reply> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("a reply")).collect();
        assert_eq!(read, reloaded(), "{arguments:?}");
    }
}

#[test]
fn a_refusal_is_exit_code_1() {
    let losses = vec![Loss::ConnectionState { format: "resp".to_owned(), version: 3 }];
    let failure = Failure::WouldLose { losses };
    let failed = Reply::Failed(failure.clone());
    for json in [false, true] {
        let arguments = ["upgrade", "--keep-connections", "--allow", "tier", "--json"];
        let run = run(&arguments[..if json { 5 } else { 4 }], lines(std::slice::from_ref(&failed)));
        assert_eq!((run.code, run.stderr.as_str()), (1, error(&failure).as_str()));
        assert_eq!(run.stdout.is_empty(), !json);
        assert!(!json || serde_json::from_str::<Reply>(&run.stdout).expect("a reply") == failed);
        let Some(Request::Upgrade { allow, keep_connections, .. }) = run.request else { panic!("{:?}", run.request) };
        assert_eq!((allow, keep_connections), (vec![Allowed::Tier], true));
    }
}

#[test]
fn what_was_cut_off_is_exit_code_1() {
    let stopping = event(None, EventKind::Stopping { by: Cause::Term, at_once: false });
    let failure = Failure::CutOff { by: Interruption::Stop };
    let run = run(&["reload"], lines(&[stopping, Reply::Failed(failure.clone())]));
    assert_eq!((run.code, without_times(&run.stdout)), (1, vec!["stopping (TERM)"]));
    assert_eq!(run.stderr, error(&failure));
}

/// What is printed as the error is not printed as a step before it.
#[test]
fn a_failure_is_read_once() {
    let why = Failure::SuccessorLate { pid: 7, waited_ms: 300 };
    let steps = [
        event(None, EventKind::UpgradeStarted { binary: "/x".to_owned(), pid: 7 }),
        event(None, EventKind::UpgradeFailed { why: why.clone() }),
    ];
    let (late, failed) = (error(&why), EventKind::UpgradeFailed { why: why.clone() }.to_string());
    let run_with = |end: Failure| run(&["upgrade"], lines(&[&steps[..], &[Reply::Failed(end)]].concat()));
    let once = run_with(why);
    assert_eq!(
        (once.code, without_times(&once.stdout), once.stderr.as_str()),
        (1, vec!["/x started (pid 7)"], late.as_str())
    );
    let both = run_with(Failure::Stopping);
    assert_eq!(without_times(&both.stdout), ["/x started (pid 7)", &failed]);
    assert_eq!(both.stderr, error(&Failure::Stopping));
}

/// The outcome is what the server sends; the end of the connection is not an outcome.
#[test]
fn a_server_that_ends_without_an_outcome_is_exit_code_3() {
    for arguments in [&["stop"][..], &["revert"], &["reload"], &["upgrade"], &["status"]] {
        let run = run(arguments, Vec::new());
        assert_eq!((run.code, run.stdout.as_str()), (3, ""), "{arguments:?}");
        assert!(run.stderr.starts_with("batonctl: error: "), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn an_answer_of_another_version_is_exit_code_3() {
    let run = run(&["reload"], br#"{"reply":"done","message":"generation 2 serves"}"#.to_vec());
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("version"), "{}", run.stderr);
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let mut answer = br#"{"reply":"applause"}
{"reply":"event","at_us":1,"generation":null,"event":"sing","song":"of joy"}
"#
    .to_vec();
    answer.extend(lines(&[Reply::Done(Outcome::Stopped)]));
    let run = run(&["stop"], answer);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let unknown = EventKind::Unknown.to_string();
    assert_eq!(without_times(&run.stdout), [unknown.as_str(), "stopped"]);
}

#[test]
fn nothing_that_the_server_sends_steers_the_terminal() {
    let kind = EventKind::UpgradeStarted { binary: "/tmp/\x1b[31mred\u{9b}2J".to_owned(), pid: 7 };
    let closing = EventKind::WillClose { connections: 1, because: CannotMove::Protocol };
    let problem = "\x1b]0;title\x07".to_owned();
    let replies = [event(None, kind), event(None, closing), Reply::Failed(Failure::Request { problem })];
    for arguments in [&["upgrade"][..], &["upgrade", "--json"], &["events"], &["events", "--json"]] {
        let run = run(arguments, lines(&replies));
        assert_eq!(run.code, 1);
        let controls = |text: &str| text.chars().any(|one| one.is_control() && one != '\n');
        assert!(!controls(&run.stdout) && !controls(&run.stderr), "{:?} {:?}", run.stdout, run.stderr);
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_no_server_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("none");
    for wrong in [&[][..], &["dance"], &["scale", "many"], &["status", "--loud"], &["upgrade", "--allow", "all"]] {
        let (code, stdout, _) = batonctl(&nowhere, wrong);
        assert_eq!((code, stdout.as_str()), (2, ""), "{wrong:?}");
    }
    for command in ["status", "reload", "stop", "events"] {
        let (code, stdout, stderr) = batonctl(&nowhere, &[command]);
        assert_eq!((code, stdout.as_str()), (3, ""), "{command}");
        assert!(stderr.contains(nowhere.to_str().expect("UTF-8")), "{command}: {stderr}");
    }
}
