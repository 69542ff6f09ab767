//! The same with a thousand and with ten thousand connections, a hundred times each, with figures. To run it: `cargo
//! test --release -p baton-tests --test connections long -- --ignored --nocapture --test-threads 1`

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use baton::control::{Moves, Outcome, Pause};
use baton_tests::churn::{Churn, Phase};
use baton_tests::client::GET;
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run_for;
use baton_tests::program::{Server, example, free_port};
use baton_tests::stream::Certificate;
use baton_tests::wait_until;

use super::classes::{Counts, Crowd};

const TIME_MAX: Duration = Duration::from_secs(3_600);

/// Bytes streamed by each streaming client.
const STREAM_BYTES: u64 = 100_000_000;

fn counts(all: usize) -> Counts {
    let (cut, pipelining, streaming, slow) = (all / 10, all / 20, 4, 4);
    Counts { idle: all - cut - pipelining - streaming - slow, cut, pipelining, streaming, slow }
}

/// The figures of one handover.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    moved: f64,
    took_ms: f64,
    bytes: f64,
    pause_ms: [f64; 3],
}

impl Figures {
    fn of(outcome: &Outcome) -> Self {
        let (Outcome::Reloaded { moves, .. } | Outcome::Upgraded { moves, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        let Moves { moved, staying: 0, ending: 0, bytes, took_us, pause: Some(pause), .. } = moves else {
            panic!("{outcome:?}")
        };
        assert!(moves.refused.is_empty(), "{outcome:?}");
        let ms = |us: u64| us as f64 / 1e3;
        let Pause { median_us, p99_us, max_us } = *pause;
        let pause_ms = [median_us, p99_us, max_us].map(ms);
        Self { moved: *moved as f64, took_ms: ms(*took_us), bytes: *bytes as f64, pause_ms }
    }
}

fn report(what: &str, mut all: Vec<Figures>) {
    let median = |of: &dyn Fn(&Figures) -> f64, all: &mut Vec<Figures>| {
        all.sort_by(|one, other| of(one).total_cmp(&of(other)));
        (of(&all[all.len() / 2]), of(&all[all.len() - 1]))
    };
    let moved = median(&|one| one.moved, &mut all).0;
    let (took, took_most) = median(&|one| one.took_ms, &mut all);
    let bytes = median(&|one| one.bytes, &mut all).0;
    let pauses: Vec<String> = (0..3)
        .map(|index| {
            let (middle, most) = median(&|one| one.pause_ms[index], &mut all);
            format!("{middle:.1} ({most:.1})")
        })
        .collect();
    eprintln!(
        "| {what} | {} | {moved} | {took:.0} ({took_most:.0}) | {:.1} | {} |",
        all.len(),
        bytes / 1e6,
        pauses.join(" / ")
    );
}

fn trial(protocol: &'static str, all: usize, times: usize) {
    let certificate = Certificate::default();
    let is_example = matches!(protocol, "resp" | "versions");
    let lineage = Lineage::start(if is_example { 1 } else { 2 }, |control, pid_file| {
        if is_example {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let mut command = Command::new(example(protocol));
            command.args(["--listen", &address.to_string(), "--control", control, "--pid-file", pid_file]);
            return Server::start_unlogged(command, address);
        }
        let arguments = ["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file];
        let more = ["--write-ms", "0", "--idle-ms", "0"];
        if protocol == "https" {
            let flags = certificate.flags();
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            return Server::start_secured(&[&arguments[..], &more, &flags].concat());
        }
        Server::start(&[&arguments[..], &more, &["--protocol", protocol]].concat())
    });
    let address = lineage.first.address();
    let mut counts = counts(all);
    if is_example {
        // Short lines at full speed would not measure connections.
        (counts.streaming, counts.slow) = (0, 0);
    }
    let lines =
        |request: &[u8], answer: &[u8]| (Crowd::of_lines(address, counts, request, answer.len()), request.len());
    let (crowd, idle_bytes) = match protocol {
        "http" => (Crowd::http(address, counts), GET.len()),
        "https" => (Crowd::https(address, counts, Some(&certificate.trust)), GET.len()),
        "echo" => (Crowd::echo(address, counts), 10),
        "resp" => lines(b"ECHO hello\r\n", b"$5\r\nhello\r\n"),
        _ => lines(b"7\n-7\n", b"7\n0\n"),
    };
    // Clients that connect meanwhile.
    let churn = (protocol == "http").then(|| Churn::start(address, 2));
    let done = |arguments: &[&str]| {
        if let Some(churn) = &churn {
            churn.begin_phase(Phase::During);
        }
        lineage.done(arguments)
    };
    let settle = || {
        lineage.settle();
        if let Some(churn) = &churn {
            churn.begin_phase(Phase::Steady);
        }
        crowd.round();
    };
    // Two servers cannot share a store.
    let kinds = if protocol == "resp" { &["reload", "upgrade"][..] } else { &["reload", "upgrade", "revert"] };
    for what in kinds.iter().copied() {
        let mut figures = Vec::new();
        for _ in 0..times {
            if what == "revert" {
                done(&["upgrade", "--hold"]);
                done(&["revert"]);
            } else {
                figures.push(Figures::of(&done(&[what])));
            }
            settle();
        }
        if figures.is_empty() {
            eprintln!("| {protocol}, {all}, held and reverted | {times} | | | | |");
        } else {
            report(&format!("{protocol}, {all}, {what}"), figures);
        }
    }
    wait_until("enough is streamed", || {
        crowd.check();
        crowd.streamed() >= counts.streaming as u64 * STREAM_BYTES
    });
    crowd.finish(idle_bytes);
    if let Some(churn) = churn {
        let outcome = churn.finish();
        assert_eq!(outcome.failed(), 0, "{outcome:#?}");
        eprintln!("bystanders, steady: {}; during: {}", outcome.steady, outcome.during);
    }
}

/// A trial without any load.
fn quiet_trial(all: usize, times: usize) {
    let lineage = Lineage::start(2, |control, pid_file| {
        Server::start(&["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file])
    });
    let counts = Counts { idle: all, cut: 0, pipelining: 0, streaming: 0, slow: 0 };
    let crowd = Crowd::http(lineage.first.address(), counts);
    let mut figures = Vec::new();
    for _ in 0..times {
        figures.push(Figures::of(&lineage.done(&["reload"])));
        lineage.settle();
    }
    report(&format!("http, {all} idle, nothing else, reload"), figures);
    crowd.finish(GET.len());
}

fn trials(all: usize, times: usize) {
    eprintln!(
        "| protocol, connections, what | times | moved | took, ms | MB copied | held up: median / 99 % / most, ms |"
    );
    eprintln!("|---|---|---|---|---|---|");
    quiet_trial(all, times);
    ["http", "https", "echo"].into_iter().for_each(|protocol| trial(protocol, all, times));
    // These settle for 1.2 s each time.
    ["versions", "resp"].into_iter().for_each(|protocol| trial(protocol, all, times / 5));
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_connections_a_hundred_times() {
    run_for("long::a_thousand_connections_a_hundred_times", TIME_MAX, || trials(1_000, 100));
}

/// The same with TLS only.
#[test]
#[ignore = "takes minutes"]
fn a_thousand_secured_connections_a_hundred_times() {
    run_for("long::a_thousand_secured_connections_a_hundred_times", TIME_MAX, || trial("https", 1_000, 100));
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_connections_a_hundred_times() {
    run_for("long::ten_thousand_connections_a_hundred_times", TIME_MAX, || trials(10_000, 100));
}
