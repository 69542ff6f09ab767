//! The changes of a server, and their required results.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{CannotRebalance, Failure, Outcome, Reply, Request};
use nix::sys::signal::Signal;

use super::ledger::{Death, Ledger};
use super::loads::Gauges;
use super::plan::{Broken, Change, WORKERS, WORKERS_MAX};
use super::server::Server;
use crate::handover::{is_alive, process_state, signal, wait_until};

/// The time limit for a binary that fails to start.
const LATE_MS: u64 = 300;

/// A worker is stopped while its connections are counted. It may have accepted some since its last count.
const UNCOUNTED_MAX: u64 = 16;

/// Clients need a core to notice that their connection is gone.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// The kernel closes the connections of a killed process only later: after 40 ms, and hardly ever after a fifth of a
/// second.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// The interval at which that is checked.
const CLOSED_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A longer delay is printed, since clients wait that long.
const CLOSED_LATE: Duration = Duration::from_millis(500);

/// Connections that the kernel has and no worker counts, since they wait to be accepted.
const WAITING_MAX: u64 = 24;

/// The same if this many clients always wait, on a machine that is too slow for them.
const WAITING_LATE_MAX: u64 = 80;

/// Makes a change.
///
/// # Errors
/// If the result is not the required one, or clients have lost more than allowed.
pub(super) fn perform(server: &mut Server, change: Change, ledger: &Ledger, gauges: &Gauges) -> Result<(), String> {
    match change {
        Change::Reload => {
            let reply = server.request(&Request::Reload)?;
            let Reply::Done(Outcome::Reloaded { .. }) = reply else { return Err(unexpected(&reply)) };
            server.workers = WORKERS;
        }
        Change::ReloadBroken => {
            server.break_settings()?;
            let reply = server.request(&Request::Reload);
            server.mend_settings()?;
            let reply = reply?;
            let Reply::Failed(Failure::Configuration { .. }) = reply else { return Err(unexpected(&reply)) };
        }
        Change::Scale { workers } => {
            let workers = if workers == server.workers { workers % WORKERS_MAX as usize + 1 } else { workers };
            scale(server, workers)?;
        }
        Change::Upgrade => {
            let reply = server.request(&upgrade(None, None, false))?;
            let Reply::Done(Outcome::Upgraded { .. }) = reply else { return Err(unexpected(&reply)) };
            server.workers = WORKERS;
        }
        Change::UpgradeCommitted { held_for } => {
            let (_, new) = hold(server, held_for)?;
            let reply = server.request(&Request::Commit)?;
            let Reply::Done(Outcome::Committed { pid }) = reply else { return Err(unexpected(&reply)) };
            same("the master that stays", pid, new)?;
            server.workers = WORKERS;
        }
        Change::UpgradeReverted { held_for } => {
            let (old, _) = hold(server, held_for)?;
            let reply = server.request(&Request::Revert)?;
            let Reply::Done(Outcome::Reverted { pid }) = reply else { return Err(unexpected(&reply)) };
            same("the master that serves", pid, old)?;
        }
        Change::UpgradeBroken(how) => {
            let old = server.status()?.pid;
            let reply = server.request(&broken(server, how))?;
            let Reply::Failed(_) = reply else { return Err(unexpected(&reply)) };
            same("the master that serves", server.status()?.pid, old)?;
        }
        Change::Rebalance => match server.request(&Request::Rebalance { dry_run: false })? {
            Reply::Done(Outcome::Rebalanced { .. } | Outcome::Balanced { .. }) => {}
            Reply::Failed(Failure::CannotRebalance { why: CannotRebalance::OneWorker }) if server.workers == 1 => {}
            reply => return Err(unexpected(&reply)),
        },
        Change::PauseWorker { pick, stands_for } => {
            let (pid, _) = pick_worker(server, pick)?;
            signal(pid, Signal::SIGSTOP);
            thread::sleep(stands_for);
            signal(pid, Signal::SIGCONT);
        }
        Change::KillWorker { pick } => kill_worker(server, pick, Death::Killed, ledger, gauges)?,
        Change::HangWorker { pick } => kill_worker(server, pick, Death::Hung, ledger, gauges)?,
        Change::KillMaster => {
            let master = server.status()?.pid;
            signal(master, Signal::SIGKILL);
            wait_until("the master is gone", || !is_alive(master))?;
            server.start_again()?;
            wait_until("the next master serves", || {
                server.serves() && server.status().is_ok_and(|status| status.pid != master)
            })?;
        }
    }
    server.wait_served()
}

/// Scales the server to this number of workers, if it has another one.
pub(super) fn scale(server: &mut Server, workers: usize) -> Result<(), String> {
    let reply = server.request(&Request::Scale { workers })?;
    match reply {
        Reply::Done(Outcome::Scaled { workers: now, .. } | Outcome::AlreadyScaled { workers: now })
            if now == workers =>
        {
            server.workers = workers;
            Ok(())
        }
        _ => Err(unexpected(&reply)),
    }
}

fn unexpected(reply: &Reply) -> String {
    match reply {
        Reply::Done(outcome) => format!("unexpectedly done: {outcome}"),
        Reply::Failed(failure) => format!("unexpectedly failed: {failure}"),
        other => format!("the server answered {other:?}"),
    }
}

fn same(what: &str, is: u32, should_be: u32) -> Result<(), String> {
    if is == should_be { Ok(()) } else { Err(format!("{what} is {is}, not {should_be}")) }
}

fn upgrade(binary: Option<&Path>, arguments: Option<&[&str]>, hold: bool) -> Request {
    Request::Upgrade {
        binary: binary.map(|path| path.display().to_string()),
        arguments: arguments.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
        hold,
        probation_ms: None,
        timeout_ms: None,
        allow: Vec::new(),
        keep_connections: true,
    }
}

fn broken(server: &Server, how: Broken) -> Request {
    let of = |name: &str| upgrade(Some(&server.file(name)), None, false);
    let mut request = match how {
        Broken::Missing => of("missing"),
        Broken::NoProgram => of("no_program"),
        Broken::Ends => of("ends"),
        Broken::Hangs => of("hangs"),
        // An address for documentation (RFC 5737): this machine does not have it.
        Broken::Arguments => upgrade(None, Some(&["--listen", "192.0.2.1:1", "--workers", "0"]), false),
    };
    if let (Broken::Hangs, Request::Upgrade { timeout_ms, .. }) = (how, &mut request) {
        *timeout_ms = Some(LATE_MS);
    }
    request
}

/// Both masters serve for this long. Returns the old one and the new one.
fn hold(server: &Server, held_for: Duration) -> Result<(u32, u32), String> {
    let old = server.status()?.pid;
    let reply = server.request(&upgrade(None, None, true))?;
    let Reply::Done(Outcome::Held { pid: new }) = reply else { return Err(unexpected(&reply)) };
    thread::sleep(held_for);
    Ok((old, new))
}

/// The process of a serving worker, and its number of connections.
fn pick_worker(server: &Server, pick: u64) -> Result<(u32, u64), String> {
    let workers = server.serving()?;
    let index = pick % workers.len().max(1) as u64;
    let worker = workers.get(index as usize).ok_or("no worker serves")?;
    Ok((worker.pid.unwrap_or_default(), worker.open))
}

/// A worker is stopped, killed by this program or by its master, and replaced.
fn kill_worker(server: &Server, pick: u64, how: Death, ledger: &Ledger, gauges: &Gauges) -> Result<(), String> {
    // Connections that are moving to a worker belong to none.
    server.settle()?;
    let (pid, open) = pick_worker(server, pick)?;
    let side = server.side();
    gauges.check(side)?;
    ledger.begin_kill(side, how);
    gauges.enter_phase(side, PHASE_KILL);
    signal(pid, Signal::SIGSTOP);
    wait_until("a worker is stopped", || matches!(process_state(pid).as_str(), "T" | "t" | "" | "Z"))?;
    let stopped = Instant::now();
    let still = server.serving()?.into_iter().find(|worker| worker.pid == Some(pid)).map_or(0, |worker| worker.open);
    let had = open.max(still) + UNCOUNTED_MAX;
    if how == Death::Killed {
        signal(pid, Signal::SIGKILL);
    }
    wait_until("a worker is dead", || !is_alive(pid))?;
    let dead = Instant::now();
    ledger.end_kill(side, stopped, had);
    wait_until("a killed worker is replaced", || {
        server.serves() && server.serving().is_ok_and(|all| all.iter().all(|worker| worker.pid != Some(pid)))
    })?;
    wait_closed(server, pid, dead)?;
    thread::sleep(NOTICED_WITHIN);
    let lost = gauges.excuse(side);
    gauges.enter_phase(side, PHASE_ORDERLY);
    match ledger.charge_last(side, lost) {
        0 => Ok(()),
        more => Err(format!("clients lost {more} connections more than the {had} that the killed worker can have had")),
    }
}

/// Waits until the kernel has no more connections than the living workers.
fn wait_closed(server: &Server, pid: u32, dead: Instant) -> Result<(), String> {
    loop {
        let (established, open) = (server.established()?, server.open()?);
        let (waited, more) = (dead.elapsed(), established.saturating_sub(open));
        let is_late = waited > CLOSED_WITHIN;
        if is_late && more > WAITING_LATE_MAX {
            return Err(format!(
                "{} s after worker {pid} was killed the kernel has {established} connections, and all workers {open}: \
                 those of the killed one stay open",
                waited.as_secs()
            ));
        }
        if is_late || more <= WAITING_MAX {
            if waited > CLOSED_LATE {
                let ms = waited.as_millis();
                super::say(&format!(
                    "connections that no worker has were open for {ms} ms after worker {pid} was killed"
                ));
            }
            return Ok(());
        }
        thread::sleep(CLOSED_LOOK_INTERVAL);
    }
}

/// The phases of a load: answers while no worker is being killed, and while one is.
pub(super) const PHASE_ORDERLY: usize = 0;
pub(super) const PHASE_KILL: usize = 1;
