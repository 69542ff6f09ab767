//! The texts that people read for each value, one table per type. Every variant is in it, and survives a round trip
//! through JSON.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::connections::tests::{LIST, NAME, list};
use super::*;

/// The variants of an enum in a source file, by their names in messages, without the one for later versions.
fn declared(source: &str, name: &str) -> BTreeSet<String> {
    let start = source.find(&format!("pub enum {name} {{\n")).expect("the enum");
    let body = &source[start..start + source[start..].find("\n}").expect("its end")];
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    let names = lines.map(|line| line.split(|one: char| !one.is_ascii_alphanumeric()).next().unwrap_or_default());
    names.filter(|name| *name != "Unknown").map(snake_case).collect()
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// The name of a variant in JSON: in the field `tag`, or the value itself, or its only key.
fn tag_of(json: &Value, tag: Option<&str>) -> String {
    let text = match (tag, json) {
        (Some(tag), _) => json[tag].as_str(),
        (None, Value::Object(one)) => one.keys().next().map(String::as_str),
        (None, _) => json.as_str(),
    };
    text.expect("a name").to_owned()
}

/// Checks the texts, that every variant is in the table, and that each survives a round trip through JSON.
pub(super) fn check<T>(source: &str, name: &str, tag: Option<&str>, unknown: &T, table: &[(T, &str)])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug + Display,
{
    let mut tags = BTreeSet::new();
    for (value, text) in table {
        assert_eq!(value.to_string(), *text, "{value:?}");
        let json = serde_json::to_value(value).expect("JSON");
        assert_eq!(&serde_json::from_value::<T>(json.clone()).expect("read again"), value, "{json}");
        tags.insert(tag_of(&json, tag));
    }
    assert_eq!(tags, declared(source, name), "{name}: each variant once at least");
    let later = match tag {
        Some(tag) => format!(r#"{{"{tag}":"sing","song":["of",{{"joy":1}}]}}"#),
        None => r#""sing""#.to_owned(),
    };
    assert_eq!(&serde_json::from_str::<T>(&later).expect("of a later version"), unknown);
}

fn moves() -> Moves {
    let mut moves = Moves {
        moved: 120,
        staying: 13,
        ending: 2,
        bytes: 4_000,
        state_bytes: Some(1),
        took_us: 3_140,
        pause: Some(Pause { median_us: 90, p99_us: 800, max_us: 2_040 }),
        ..Moves::default()
    };
    moves.count_refused(Refusal::State, 12);
    moves.count_refused(Refusal::Limit, 0);
    moves.count_refused(Refusal::State, 1);
    moves
}

const MOVES: &str = "120 connections moved in 3.1 ms (4000 bytes, worker state 1 byte), held up for 0.1 ms (median), \
                     0.8 ms (99 %), 2.0 ms (longest), 13 could not move (the new workers cannot read their state), \
                     13 draining, 2 ending";

fn one_moved() -> Moves {
    Moves { moved: 1, bytes: 90, took_us: 200, ..Moves::default() }
}

#[test]
fn moves_are_counted_and_told() {
    assert_eq!(moves().to_string(), MOVES);
    assert_eq!(one_moved().to_string(), "1 connection moved in 0.2 ms (90 bytes)");
    assert_eq!((moves().refused_for(Refusal::State), moves().refused_for(Refusal::Limit)), (13, 0));
    assert!(Moves::default().is_empty() && !moves().is_empty());
    let json = serde_json::to_string(&moves()).expect("JSON");
    assert_eq!(serde_json::from_str::<Moves>(&json).expect("read again"), moves());
    let later = r#"{"moved":1,"refused":[{"reason":"mood","connections":2}],"colour":"red"}"#;
    let later: Moves = serde_json::from_str(later).expect("of a later version");
    assert_eq!((later.moved, later.refused_for(Refusal::Unknown)), (1, 2));
}

fn transfer(because: Imbalance) -> Transfer {
    Transfer { from: 3, to: 1, because, connections_max: 1_000, busy_percent: 18 }
}

#[test]
fn transfers_that_would_be_made() {
    let busy = Imbalance::Busy { busy_percent: 90, share_percent: 20 };
    for (because, text) in [
        (busy, "worker 3 would move up to 1000 connections to worker 1, 18 % of a core: it is 90 % busy"),
        (
            Imbalance::Connections { connections: 1_000 },
            "worker 3 would move up to 1000 connections to worker 1, the idlest first: it has more than the mean",
        ),
        (
            Imbalance::Unknown,
            "worker 3 would move up to 1000 connections to worker 1: a reason that this version does not know",
        ),
    ] {
        assert_eq!(transfer(because).to_string(), text);
    }
}

#[test]
fn why_nothing_is_rebalanced() {
    let table = [
        (Still::Even, "the workers are about equally loaded"),
        (Still::Noise, "the difference is no larger than the busiest worker's changes from second to second"),
        (Still::NothingFits, "the busiest worker had no connection small enough for another worker a moment ago"),
        (Still::NoRoom, "no other worker has time to spare"),
        (Still::Rests, "the other workers moved connections to the busiest one, or refused some from it, a moment ago"),
    ];
    check(include_str!("../../handover/balance/evenness.rs"), "Still", None, &Still::Unknown, &table);
    let table = [
        (CannotRebalance::OneWorker, "there is only one worker"),
        (CannotRebalance::Setting, "the setting `connections` is not `handover`"),
        (CannotRebalance::Protocol, "connections of this protocol cannot be handed over"),
        (CannotRebalance::WorkerState, "workers have state of their own"),
        (CannotRebalance::Messages, "workers send each other messages"),
        (CannotRebalance::NotReady { slot: 2 }, "worker 2 is not ready; try again when it is"),
        (CannotRebalance::Moving, "connections are already moving; try again when they have moved"),
        (CannotRebalance::UnderWay, "another rebalancing is under way; try again when it is done"),
    ];
    check(include_str!("rebalance.rs"), "CannotRebalance", None, &CannotRebalance::Unknown, &table);
}

#[test]
fn outcomes() {
    let evenness = Evenness { busy_percent: Some(142), open_percent: None };
    let reloaded = |moves: Moves| Outcome::Reloaded { generation: 2, took_ms: 22, moves };
    let told = format!("generation 2 serves (22 ms); {MOVES}");
    let table = [
        (reloaded(Moves::default()), "generation 2 serves (22 ms)"),
        (reloaded(moves()), &told),
        (Outcome::Scaled { workers: 3, leaving: 0, moves: Moves::default() }, "3 workers now"),
        (
            Outcome::Scaled { workers: 1, leaving: 1, moves: one_moved() },
            "1 worker now, 1 leaving; 1 connection moved in 0.2 ms (90 bytes)",
        ),
        (Outcome::AlreadyScaled { workers: 2 }, "2 workers already"),
        (
            Outcome::Upgraded { pid: 7, moves: one_moved() },
            "the upgrade is final: pid 7 serves; 1 connection moved in 0.2 ms (90 bytes)",
        ),
        (Outcome::Held { pid: 7 }, "pid 7 serves beside this server until commit or revert"),
        (Outcome::Committed { pid: 7 }, "the upgrade is final: pid 7 serves"),
        (Outcome::Reverted { pid: 6 }, "reverted: pid 6 serves"),
        (
            Outcome::Rebalanced { transfers: 2, moves: one_moved() },
            "2 transfers; 1 connection moved in 0.2 ms (90 bytes)",
        ),
        (
            Outcome::WouldRebalance { transfers: vec![transfer(Imbalance::Unknown)], evenness },
            "1 transfer would be made; imbalance (max / mean): busy 1.42, connections -",
        ),
        (
            Outcome::Balanced { because: Still::Even, evenness: Evenness { open_percent: Some(100), ..evenness } },
            "nothing to move: the workers are about equally loaded; imbalance (max / mean): busy 1.42, connections 1.00",
        ),
        (Outcome::Connections(list()), LIST),
        (Outcome::Closed { id: NAME }, "connection 7-12-0 is closed"),
        (Outcome::Stopped, "stopped"),
        (Outcome::Listed, ""),
    ];
    check(include_str!("outcome.rs"), "Outcome", Some("done"), &Outcome::Unknown, &table);
}

#[test]
fn failures() {
    let problem = || "no luck".to_owned();
    let ended = || Failure::SuccessorEnded { pid: 7, exit: Exit::Code(3) };
    let state = || Loss::WorkerState { format: "resp".to_owned(), version: 4 };
    let user = || Loss::User { old: 33, new: 0 };
    let address = "[::1]:80".parse().expect("an address");
    let table = [
        (Failure::Stopping, "the server is stopping"),
        (Failure::Leaving { successor: 7 }, "this master is leaving; the master with pid 7 serves"),
        (Failure::UpgradeUnderWay, "an upgrade is under way; wait for it, or commit or revert it"),
        (Failure::NotCommitted, "the upgrade that started this binary is not final; commit or revert it first"),
        (Failure::ChangeUnderWay, "another reload or scale is under way; try again when it is done"),
        (Failure::StartUnderWay, "the server is still starting; try again when it serves"),
        (Failure::NothingServes, "no generation serves; reload first"),
        (Failure::NoConfiguration, "this program cannot reload: it has no way to read its configuration again"),
        (Failure::Configuration { problem: problem() }, "no luck"),
        (Failure::Workers { workers: 0, workers_max: 1024 }, "workers must be between 1 and 1024, not 0"),
        (
            Failure::Limit { limit: 0, limit_max: 1_000 },
            "the number of connections to list must be between 1 and 1000, not 0",
        ),
        (Failure::NoSuchWorker { worker: 9 }, "there is no worker 9; `batonctl workers` lists them"),
        (Failure::TooManyListings { listings_max: 4 }, "4 clients list connections already; try again"),
        (
            Failure::NotClosed { id: NAME, why: CannotClose::TooMany },
            "connection 7-12-0 was not closed: its worker is closing too many others; try again",
        ),
        (
            Failure::HeldState,
            "--hold is not possible: worker state cannot be shared by two servers; upgrade without --hold",
        ),
        (
            Failure::FirstProcess,
            "this master is process 1 of a container, and all other processes of the container end when it leaves; start a \
             new container to upgrade",
        ),
        (
            Failure::StateTooLarge { slot: 1, bytes: 2_000, bytes_max: 1_000 },
            "worker 1 has about 2000 bytes of state, more than `state_bytes_max` (1000) allows; raise that, or set \
             `state_too_large` to `discard`",
        ),
        (
            Failure::WouldLose { losses: vec![state(), user()] },
            "the upgrade is refused: the new binary cannot read the workers' state (resp, version 4), so it would be \
             lost (--allow state to accept that); the new workers would run as user 0 instead of 33, so connections \
             could not move (--allow user to accept that)",
        ),
        (
            Failure::CannotRebalance { why: CannotRebalance::OneWorker },
            "connections cannot be rebalanced: there is only one worker",
        ),
        (Failure::NothingToCommit, "there is no upgrade to commit"),
        (Failure::NothingToRevert, "there is no upgrade to revert"),
        (Failure::CutOff { by: Interruption::Stop }, "interrupted before it was done: the server was told to stop"),
        (
            Failure::Reverted { pid: 7, why: RevertCause::NotCommitted },
            "the upgrade to pid 7 was reverted: nobody committed it in time",
        ),
        (
            Failure::Reverted { pid: 7, why: RevertCause::Failed { why: Box::new(ended()) } },
            "the upgrade to pid 7 was reverted: the new binary (pid 7) exited with code 3; see its log",
        ),
        (
            Failure::NotReverted { why: Box::new(Failure::PredecessorGone) },
            "not reverted, the new binary keeps serving: the old master is gone",
        ),
        (
            Failure::NoAnswer { waited_ms: 15_000 },
            "the old master did not answer within 15 s; stop again to stop without it",
        ),
        (Failure::PredecessorGone, "the old master is gone"),
        (Failure::Worker { slot: 0, problem: problem() }, "worker 0 could not start: no luck"),
        (
            Failure::WorkerEnded { slot: 0, exit: Exit::Signal(9) },
            "worker 0 could not start: it was killed by SIGKILL before it was ready",
        ),
        (Failure::NotReady { slot: 2, pid: 8, waited_ms: 10_000 }, "worker 2 (pid 8) was not ready within 10 s"),
        (Failure::Binary { binary: "/x".to_owned(), problem: problem() }, "/x cannot be started: no luck"),
        (
            Failure::SuccessorFailed { pid: 7, why: Box::new(Failure::Listen { address, problem: problem() }) },
            "the new binary (pid 7) cannot serve: cannot listen on [::1]:80: no luck",
        ),
        (ended(), "the new binary (pid 7) exited with code 3; see its log"),
        (Failure::SuccessorLate { pid: 7, waited_ms: 300 }, "the new binary (pid 7) did not respond within 0.3 s"),
        (Failure::Incompatible { problem: problem() }, "no luck"),
        (Failure::Listen { address, problem: problem() }, "cannot listen on [::1]:80: no luck"),
        (
            Failure::listen("unix:/run/app".parse().expect("a path"), "no luck"),
            "cannot listen on unix:/run/app: no luck",
        ),
        (Failure::System { problem: problem() }, "no luck"),
        (Failure::WorkersDied { count: 1 }, "1 worker died or did not leave in time; see the log"),
        (Failure::TooManyClients { clients_max: 32 }, "32 clients already wait for answers; try again later"),
        (Failure::Request { problem: problem() }, "no luck"),
    ];
    check(include_str!("failure.rs"), "Failure", Some("failed"), &Failure::Unknown, &table);
}

#[test]
fn losses_name_the_flag_that_accepts_them() {
    let setting = CannotMove::Setting;
    let table = [
        (
            Loss::ConnectionState { format: "resp".to_owned(), version: 3 },
            "the new binary cannot read the state of connections (resp, version 3), so all of them would be closed \
             (--allow state to accept that)",
        ),
        (
            Loss::WorkerState { format: "resp".to_owned(), version: 3 },
            "the new binary cannot read the workers' state (resp, version 3), so it would be lost (--allow state to \
             accept that)",
        ),
        (
            Loss::Messages { format: "mesh".to_owned(), version: 1 },
            "the new workers cannot read messages of the running ones (mesh, version 1), so messages would be lost until \
             the running ones have left (--allow messages to accept that)",
        ),
        (
            Loss::Control { old: Some("/run/b.sock".to_owned()), new: None },
            "the new binary uses another control socket (none instead of /run/b.sock), so both would serve, \
             independently of each other (--allow control to accept that)",
        ),
        (
            Loss::User { old: 33, new: 0 },
            "the new workers would run as user 0 instead of 33, so connections could not move (--allow user to accept \
             that)",
        ),
        (
            Loss::Tier { old: "ebpf".to_owned(), new: "adopt".to_owned() },
            "the new binary hands listeners over by `adopt` instead of `ebpf`, so connections that wait to be accepted \
             would be reset (--allow tier to accept that)",
        ),
        (
            Loss::Connections { open: 1, because: setting },
            "1 connection would be closed, because the setting `connections` is not `handover` (upgrade without \
             --keep-connections to accept that)",
        ),
        (
            Loss::Connections { open: 12, because: CannotMove::Protocol },
            "12 connections would be closed, because connections of this protocol cannot be handed over (upgrade \
             without --keep-connections to accept that)",
        ),
    ];
    check(include_str!("loss.rs"), "Loss", Some("loss"), &Loss::Unknown, &table);
    let reasons = [
        (setting, "the setting `connections` is not `handover`"),
        (CannotMove::Protocol, "connections of this protocol cannot be handed over"),
        (CannotMove::Unreadable, "the new workers cannot take them over"),
    ];
    check(include_str!("loss.rs"), "CannotMove", None, &CannotMove::Unknown, &reasons);
    for allowed in Allowed::ALL {
        assert_eq!(serde_json::to_value(allowed).expect("JSON"), allowed.name());
    }
    // A server that does not know which loss is allowed must not guess.
    assert!(serde_json::from_str::<Allowed>(r#""everything""#).is_err());
}

#[test]
fn causes() {
    let source = include_str!("cause.rs");
    let table = [
        (Cause::Term, "TERM"),
        (Cause::Int, "INT"),
        (Cause::Quit, "QUIT"),
        (Cause::Control, "batonctl"),
        (Cause::OtherMaster, "the other master"),
    ];
    check(source, "Cause", None, &Cause::Unknown, &table);
    let table = [
        (Exit::Code(1), "exited with code 1"),
        (Exit::Signal(11), "was killed by SIGSEGV"),
        (Exit::Signal(99), "was killed by signal 99"),
    ];
    check(source, "Exit", None, &Exit::Unknown, &table);
    let table = [
        (Interruption::Stop, "the server was told to stop"),
        (Interruption::End, "the server ended"),
        (Interruption::Leave, "the workers were told to leave"),
        (Interruption::Upgrade, "another master took over for good"),
        (Interruption::Change, "the workers changed"),
    ];
    check(source, "Interruption", None, &Interruption::Unknown, &table);
    let table = [
        (RevertCause::Asked { by: Cause::Control }, "batonctl asked for it"),
        (RevertCause::Stopped { by: Cause::Term }, "the new master was told to stop by TERM"),
        (RevertCause::WorkerEnded { slot: 0, exit: Exit::Unknown }, "on probation, worker 0 is gone"),
        (RevertCause::WorkerHung { slot: 1 }, "on probation, worker 1 stopped responding"),
        (RevertCause::NotCommitted, "nobody committed it in time"),
        (RevertCause::Failed { why: Box::new(Failure::Stopping) }, "the server is stopping"),
    ];
    check(source, "RevertCause", Some("revert"), &RevertCause::Unknown, &table);
}

#[test]
fn events() {
    let (by, exit) = (Cause::Term, Exit::Signal(11));
    let why = || Failure::Worker { slot: 0, problem: "no luck".to_owned() };
    let told = format!("worker 0: {MOVES}");
    let table = [
        (EventKind::Starting { workers: 1 }, "starting 1 worker"),
        (EventKind::Starting { workers: 2 }, "starting 2 workers"),
        (EventKind::WorkerReady { slot: 0, pid: 9 }, "worker 0 is ready (pid 9)"),
        (EventKind::Serves { took_ms: 22 }, "serves (22 ms)"),
        (
            EventKind::NotReloaded { why: Failure::NothingServes },
            "reload failed, the workers keep serving: no generation serves; reload first",
        ),
        (
            EventKind::TakenDown { why: why() },
            "the new workers did not come up, the previous ones keep serving: worker 0 could not start: no luck",
        ),
        (EventKind::Parked, "parked: it gets no new connections, its listeners settle, its connections drain"),
        (EventKind::Draining, "its connections drain"),
        (EventKind::WorkerClosed { slot: 0 }, "worker 0 has closed its listeners"),
        (
            EventKind::Rebalancing { from: 0, to: 1, because: Imbalance::Busy { busy_percent: 80, share_percent: 20 } },
            "worker 0 moves connections to worker 1: it is 80 % busy and gives away 20 % of that",
        ),
        (
            EventKind::Rebalancing { from: 0, to: 1, because: Imbalance::Connections { connections: 1 } },
            "worker 0 moves connections to worker 1: it has more connections than the mean and gives away 1 connection",
        ),
        (
            EventKind::Rebalancing { from: 0, to: 1, because: Imbalance::Unknown },
            "worker 0 moves connections to worker 1: a reason that this version does not know",
        ),
        (
            EventKind::Rebalanced { from: 0, to: 1, moves: one_moved() },
            "worker 0 to worker 1: 1 connection moved in 0.2 ms (90 bytes)",
        ),
        (EventKind::WorkerMoved { slot: 0, moves: moves() }, &told),
        (
            EventKind::ConnectionClosed { slot: 0, id: NAME, at_once: false },
            "worker 0: an operator has closed connection 7-12-0",
        ),
        (
            EventKind::ConnectionClosed { slot: 0, id: NAME, at_once: true },
            "worker 0: an operator has reset connection 7-12-0",
        ),
        (EventKind::WorkerStateMoves { slot: 0, bytes: 7 }, "worker 0 is handing over its state, 7 bytes so far"),
        (
            EventKind::WorkerDied { slot: 0, exit, restart_ms: 100 },
            "worker 0 was killed by SIGSEGV and restarts in 100 ms",
        ),
        (
            EventKind::WorkerKeepsDying { slot: 0, deaths: 5 },
            "worker 0 died 5 times in a row; the other workers keep serving",
        ),
        (EventKind::WorkerDiedLeaving { slot: 0, exit }, "worker 0 was killed by SIGSEGV while it was leaving"),
        (
            EventKind::WorkerHung { slot: 0 },
            "worker 0 does not respond: its accept queue moves to other workers, and it is killed",
        ),
        (EventKind::WorkersLate { workers: 1 }, "1 worker did not leave in time and is killed"),
        (EventKind::WorkersLate { workers: 3 }, "3 workers did not leave in time and are killed"),
        (EventKind::WorkersGone { slots: vec![2] }, "worker 2 has ended"),
        (EventKind::WorkersGone { slots: vec![1, 2] }, "workers 1, 2 have ended"),
        (EventKind::Gone, "all its workers have ended"),
        (EventKind::Scaling { from: 2, to: 1 }, "scaling from 2 to 1 worker"),
        (EventKind::Scaled { workers: 3, leaving: 0 }, "3 workers now"),
        (EventKind::Scaled { workers: 1, leaving: 2 }, "1 worker now, 2 leaving"),
        (
            EventKind::NotScaled { why: why() },
            "the new workers did not come up, the others keep serving: worker 0 could not start: no luck",
        ),
        (
            EventKind::NotSteered { why: Failure::System { problem: "no luck".to_owned() } },
            "cannot steer new connections, they go to the same workers as before: no luck",
        ),
        (EventKind::Idle, "the workers leave, the master stays"),
        (EventKind::Stopping { by, at_once: false }, "stopping (TERM)"),
        (EventKind::Stopping { by: Cause::Control, at_once: true }, "stopping immediately (batonctl)"),
        (EventKind::AwaitingRelief { by }, "told to stop (TERM); the old master takes over first"),
        (EventKind::UpgradeStarted { binary: "/x".to_owned(), pid: 7 }, "/x started (pid 7)"),
        (
            EventKind::WillClose { connections: 12, because: CannotMove::Setting },
            "12 connections cannot move and will be closed, because the setting `connections` is not `handover`",
        ),
        (
            EventKind::UpgradeFailed { why: why() },
            "upgrade failed, the workers keep serving: worker 0 could not start: no luck",
        ),
        (EventKind::SuccessorServes { pid: 7, took_ms: 22 }, "pid 7 serves (22 ms)"),
        (EventKind::Held { probation: false }, "both masters serve until commit or revert"),
        (
            EventKind::Held { probation: true },
            "both masters serve; the upgrade is reverted unless it is committed in time",
        ),
        (EventKind::Probation, "on probation; the previous workers leave"),
        (EventKind::ProbationOver, "the probation is over"),
        (EventKind::Final { pid: 7 }, "the upgrade is final: pid 7 serves"),
        (
            EventKind::Reverting { pid: 7, why: RevertCause::Asked { by: Cause::Control } },
            "reverting the upgrade to pid 7: batonctl asked for it",
        ),
        (
            EventKind::NotReverted { why: Failure::Stopping },
            "not reverted, the new binary keeps serving: the server is stopping",
        ),
        (EventKind::ServesAgain, "the previous workers serve again"),
        (EventKind::SuccessorLeft { pid: 7 }, "the new master (pid 7) has left"),
        (
            EventKind::SuccessorGone { why: Failure::SuccessorEnded { pid: 7, exit } },
            "the new master is gone: the new binary (pid 7) was killed by SIGSEGV; see its log",
        ),
        (EventKind::PredecessorGone, "the old master is gone"),
        (EventKind::OrphansDrain { workers: 1 }, "1 worker of the previous server is draining"),
        (EventKind::OrphansDrain { workers: 2 }, "2 workers of the previous server are draining"),
        (EventKind::OrphanLeft { pid: 8 }, "a worker of the previous server (pid 8) has left"),
    ];
    check(include_str!("event.rs"), "EventKind", Some("event"), &EventKind::Unknown, &table);
    for (kind, _) in table {
        let reply = Reply::Event(Event { at_us: 5, generation: Some(2), kind: kind.clone() });
        let json = serde_json::to_string(&reply).expect("JSON");
        assert_eq!(serde_json::from_str::<Reply>(&json).expect("read again"), reply, "{json}");
        let step = Step { after_us: 5, generation: None, kind };
        let json = serde_json::to_string(&step).expect("JSON");
        assert_eq!(serde_json::from_str::<Step>(&json).expect("read again"), step, "{json}");
    }
}

#[test]
fn states() {
    let source = include_str!("status.rs");
    let table = [
        (TimelineKind::Start, "start"),
        (TimelineKind::Takeover, "takeover"),
        (TimelineKind::Reload, "reload"),
        (TimelineKind::Scale, "scale"),
        (TimelineKind::Replacement, "replacement"),
        (TimelineKind::Upgrade, "upgrade"),
        (TimelineKind::Revert, "revert"),
    ];
    check(source, "TimelineKind", None, &TimelineKind::Unknown, &table);
    let table = [
        (UpgradeState::Starting, "starting"),
        (UpgradeState::Held, "held"),
        (UpgradeState::Probation, "on probation"),
        (UpgradeState::Reverting, "reverting"),
        (UpgradeState::Leaving, "final, leaving"),
        (UpgradeState::NewHeld, "new, held"),
        (UpgradeState::New, "new, may be reverted"),
        (UpgradeState::AwaitingRelief, "new, stops when the old master serves"),
    ];
    check(source, "UpgradeState", None, &UpgradeState::Unknown, &table);
    let table = [
        (GenerationPhase::Starting, "starting"),
        (GenerationPhase::Serving, "serving"),
        (GenerationPhase::Growing, "growing"),
        (GenerationPhase::Leaving, "leaving"),
        (GenerationPhase::Orphaned, "orphaned"),
    ];
    check(source, "GenerationPhase", None, &GenerationPhase::Unknown, &table);
    let table = [
        (WorkerState::Starting, "starting"),
        (WorkerState::Ready, "ready"),
        (WorkerState::Hung, "hung"),
        (WorkerState::Killed, "killed"),
        (WorkerState::Waiting, "waiting"),
        (WorkerState::Gone, "gone"),
        (WorkerState::Orphaned, "orphaned"),
    ];
    check(source, "WorkerState", None, &WorkerState::Unknown, &table);
}

#[test]
fn requests_are_short_and_unknown_ones_are_errors() {
    let text = serde_json::to_string(&Request::Scale { workers: 3 }).expect("JSON");
    assert_eq!(text, r#"{"request":"scale","workers":3}"#);
    let stop = serde_json::from_str::<Request>(r#"{"request":"stop","now":true}"#).expect("a request");
    assert_eq!(stop, Request::Stop { now: true, deadline_ms: None });
    assert!(serde_json::from_str::<Request>(r#"{"request":"dance"}"#).is_err());
    assert!(serde_json::from_str::<Request>(r#"{"request":"stop","now":true,"why":1}"#).is_err());
    let upgrade = r#"{"request":"upgrade","hold":true,"allow":["state","user"]}"#;
    let expected = Request::Upgrade {
        binary: None,
        arguments: None,
        hold: true,
        probation_ms: None,
        timeout_ms: None,
        allow: vec![Allowed::State, Allowed::User],
        keep_connections: false,
    };
    assert_eq!(serde_json::from_str::<Request>(upgrade).expect("a request"), expected);
}

#[test]
fn the_last_reply_is_known() {
    let done = Reply::Done(Outcome::Reloaded { generation: 2, took_ms: 22, moves: moves() });
    let json = serde_json::to_string(&done).expect("JSON");
    assert!(json.starts_with(r#"{"reply":"done","done":"reloaded","generation":2,"took_ms":22,"moves":{"moved":120"#));
    assert_eq!(serde_json::from_str::<Reply>(&json).expect("read again"), done);
    let failed = Reply::Failed(Failure::CutOff { by: Interruption::Stop });
    let json = serde_json::to_string(&failed).expect("JSON");
    assert_eq!(json, r#"{"reply":"failed","failed":"cut_off","by":"stop"}"#);
    assert!(done.is_last() && failed.is_last());
    let later: Reply = serde_json::from_str(r#"{"reply":"applause","from":"everybody"}"#).expect("of a later version");
    assert!(later == Reply::Unknown && !later.is_last());
}
