//! Inspects processes through proc(5).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::PATIENCE;
use crate::program::signal;

/// Children of a process, whichever of its threads has started them.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let lists: Vec<String> = texts.collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// Children, their children, and so on.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut all = children(pid);
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

/// Kills all descendants of this process, including those that lose their parent (`PR_SET_CHILD_SUBREAPER`).
pub fn kill_descendants() {
    let start = Instant::now();
    // A process whose parent ends while the list is made may be missing in it, so the list must be empty twice.
    let mut times_empty = 0;
    while times_empty < 2 && start.elapsed() < PATIENCE {
        let living: Vec<u32> = descendants(std::process::id()).into_iter().filter(|pid| is_alive(*pid)).collect();
        times_empty = if living.is_empty() { times_empty + 1 } else { 0 };
        living.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process runs this program.
pub fn runs(pid: u32, program: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program)
}

/// Whether it lives. A zombie does not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| !fields[0].starts_with('Z'))
}

/// Whether a signal or a tracer has stopped it.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0].eq_ignore_ascii_case("t"))
}

/// User and system time of the process, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let fields = stat(pid).unwrap_or_default();
    fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// When it was started, in ticks since the start of the machine.
///
/// # Panics
/// If there is no such process.
pub fn started_at(pid: u32) -> u64 {
    stat(pid).and_then(|fields| fields.get(19)?.parse().ok()).expect("a process")
}

/// The fields of `/proc/PID/stat` from the third on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may contain anything but ends at the last parenthesis.
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// What a process and its descendants are doing now, a line each: their state, and where in the kernel they sleep. For
/// a person who looks at a test that has timed out.
pub fn describe_tree(pid: u32) -> String {
    let mut lines = String::new();
    for pid in std::iter::once(pid).chain(descendants(pid)) {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let state = stat(pid).and_then(|fields| fields.into_iter().next()).unwrap_or_default();
        let stack: Vec<String> = read("stack").lines().map(str::to_owned).collect();
        let _ =
            writeln!(lines, "{pid} {} {state} system call {} {stack:?}", read("comm").trim(), read("syscall").trim());
    }
    lines
}

/// The targets of a process's descriptors, such as `socket:[4711]`; empty if it is gone.
pub fn open_files(pid: u32) -> Vec<PathBuf> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).collect()
}

/// Number of open descriptors.
pub fn descriptors(pid: u32) -> usize {
    descriptor_numbers(pid).len()
}

/// The limit of open files that leaves room for this many more, whatever numbers are used now.
pub fn descriptor_limit_for(pid: u32, room: usize) -> usize {
    let taken = descriptor_numbers(pid);
    let mut free = (0..).filter(|number| !taken.contains(number));
    free.nth(room).expect("numbers do not end")
}

fn descriptor_numbers(pid: u32) -> Vec<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A line of `/proc/PID/status` or `smaps_rollup` in kilobytes, such as `VmRSS`.
pub fn kilobytes(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}
