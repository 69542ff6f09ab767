//! The pages of all workers of a server, and the sum of those that have ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use super::{Snapshot, WorkerPage};
use crate::sys::shared_memory::Shared;

/// The counters of a server's workers. A worker itself only sees its own: what it cannot see it cannot falsify.
///
/// # While the server runs
/// [`Server::run`](crate::Server::run) returns when the server has ended. It forks workers, so its process must have only one thread.
/// To read the counters while the server runs, ask it from another process, through its control socket;
/// [`Settings::metrics`](crate::config::Settings::metrics) also serves them to
/// Prometheus. An exporter for another monitoring system is a small program, which keeps running through reloads and upgrades:
///
/// ```no_run
/// use std::path::Path;
/// use std::time::Duration;
///
/// use baton::control::{Client, Reply, Request};
///
/// # fn main() -> std::io::Result<()> {
/// let reply = Client::ask(Path::new("/run/notes.sock"), &Request::Status, Some(Duration::from_secs(5)))?;
/// if let Reply::Status(status) = reply {
///     println!("requests {}", status.totals.get("requests"));
///     for (name, count) in status.totals.family("named") {
///         println!("{name} {count}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// `batonctl status --json` prints the same. With [`Server::run_on_this_thread`](crate::Server::run_on_this_thread) nothing is
/// forked, and any thread may read the numbers.
#[derive(Clone, Default)]
pub struct Telemetry {
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    /// In the order of their starts.
    living: Vec<Arc<Shared<WorkerPage>>>,
    /// The sum over workers that have ended.
    ended: Snapshot,
}

impl Telemetry {
    /// The counters of each living worker, oldest first: none after the server has ended; in a worker, only its own.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.pages().living.iter().map(|page| page.snapshot()).collect()
    }

    /// The sum over all workers that have ever run.
    pub fn total(&self) -> Snapshot {
        let pages = self.pages();
        let mut total = pages.ended.clone();
        pages.living.iter().for_each(|page| total.add(&page.snapshot()));
        total
    }

    pub(crate) fn add_page(&self) -> io::Result<Arc<Shared<WorkerPage>>> {
        let page = Arc::new(Shared::new()?);
        self.pages().living.push(Arc::clone(&page));
        Ok(page)
    }

    /// In the worker of this page: forgets the other pages, which are not mapped there any more.
    pub(crate) fn forget_others(&self, page: &Arc<Shared<WorkerPage>>) {
        self.pages().living.retain(|one| Arc::ptr_eq(one, page));
    }

    /// The worker of this page has ended.
    pub(crate) fn retire(&self, page: &Arc<Shared<WorkerPage>>) {
        let mut pages = self.pages();
        if let Some(index) = pages.living.iter().position(|one| Arc::ptr_eq(one, page)) {
            let page = pages.living.remove(index);
            pages.ended.add(&page.snapshot());
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // Every change of the pages is complete, even if a thread has panicked.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Telemetry").field("workers", &self.pages().living.len()).finish()
    }
}
