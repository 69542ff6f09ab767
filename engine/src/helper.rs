//! Helper threads of a worker.

use std::io;
use std::sync::OnceLock;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The cores on which this process may run, before its worker is pinned to one.
static PROCESS_CORES: OnceLock<CpuSet> = OnceLock::new();

/// Call this before the worker is pinned.
pub(crate) fn remember_cores() {
    if let Ok(cores) = sched_getaffinity(THIS_THREAD) {
        let _ = PROCESS_CORES.set(cores);
    }
}

/// Starts a thread for a protocol, which may run on every core that the server may use. A thread that [`std::thread::spawn`]
/// starts from a callback could only use the worker's core, and would take time from it. The thread sends its results through a
/// [`Mailbox`](crate::Mailbox). It ends with the worker, whatever it is doing.
///
/// If the [sandbox](crate::SystemCalls) is [`ServeOnly`](crate::SystemCalls::ServeOnly), threads cannot be started.
///
/// # Errors
/// As [`std::thread::Builder::spawn`].
pub fn spawn_helper(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(cores) = PROCESS_CORES.get() {
            // If this is refused, the thread still works, on the worker's core.
            let _ = sched_setaffinity(THIS_THREAD, cores);
        }
        work();
    });
    started.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_helper_may_run_where_the_process_may() {
        let all = sched_getaffinity(THIS_THREAD).expect("known");
        let first = (0..CpuSet::count()).find(|core| all.is_set(*core).unwrap_or(false)).expect("a core");
        let (sender, receiver) = mpsc::channel();
        let pinned = thread::spawn(move || {
            remember_cores();
            let mut own = CpuSet::new();
            own.set(first).expect("a core");
            sched_setaffinity(THIS_THREAD, &own).expect("pinned");
            let tell = move || sender.send(sched_getaffinity(THIS_THREAD).expect("known")).expect("heard");
            spawn_helper("helper", tell).expect("started");
            assert_eq!(sched_getaffinity(THIS_THREAD), Ok(own));
        });
        pinned.join().expect("no panic");
        assert_eq!(receiver.recv(), Ok(all));
    }
}
