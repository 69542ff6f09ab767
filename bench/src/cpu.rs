//! CPU time of processes: from their clocks, and from proc(5).

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Clock ticks per second of the values in /proc: 100 on every architecture Linux runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process and all its living descendants.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(pid) = pids.get(next) {
        pids.extend(children(*pid));
        next += 1;
    }
    pids
}

/// CPU time of a process and of all its descendants, in seconds: exact to the nanosecond for those that live
/// (clock_getcpuclockid(3)), and in clock ticks for those that were reaped.
pub(crate) fn tree_seconds(pid: u32) -> f64 {
    let reaped = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).map_or(0.0, |text| reaped_seconds(&text));
    tree(pid).into_iter().map(|pid| clock_seconds(pid) + reaped(pid)).sum()
}

/// User and system time of all threads of a process, including those that have ended; 0 if the process has ended.
fn clock_seconds(pid: u32) -> f64 {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.cast_signed()));
    clock.and_then(clock_gettime).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}

/// Fields 16 and 17 of /proc/PID/stat: utime and stime of reaped children.
fn reaped_seconds(text: &str) -> f64 {
    // The second field, the name, may contain anything but ends at the last parenthesis.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split(' ').skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Time that all cores have worked, in seconds.
pub(crate) fn machine_busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        text.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (fields.iter().take(8).sum::<u64>() - idle) as f64 / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 25 25 20 0 1 0 100 1000 10";
        assert!((reaped_seconds(text) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn our_own_time_grows() {
        let before = tree_seconds(std::process::id());
        // Much less than a clock tick.
        while tree_seconds(std::process::id()) < before + 0.001 {}
        assert!(tree_seconds(std::process::id()) < before + 10.0);
        assert!(machine_busy_seconds() > 0.0);
    }
}
