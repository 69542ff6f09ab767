//! The builder: what to listen on, how many workers, which limits; then run.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use crate::config::{Descriptors, InvalidSetting, Limits, Settings, Timeouts};
use crate::master;
use crate::protocol::Protocol;
use crate::sys::shared_memory::Shared;
use crate::telemetry::{Snapshot, WorkerPage};
use crate::worker::{self, Inherited, ListenError, Listeners, Order, Setup, StartError};

/// Why a server did not start, or how it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ServerError {
    #[error("invalid setting {0}")]
    Setting(#[from] InvalidSetting),
    #[error("no address to listen on was given")]
    NoAddress,
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("worker {slot} could not start: {reason}")]
    Worker { slot: usize, reason: String },
    #[error("worker {slot} (pid {pid}) was not ready within {seconds} s")]
    NotReady { slot: usize, pid: i32, seconds: u64 },
    #[error("{0}")]
    Handover(String),
    #[error("{problem}")]
    Reload { problem: String },
    #[error("upgrade: {problem}")]
    Upgrade { problem: String },
    #[error("control socket {path}: {problem}", path = path.display())]
    Control { path: PathBuf, problem: String },
    #[error("{count} of the workers died; see the log")]
    WorkersDied { count: usize },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

/// Collects settings; see [`Server::builder`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    /// Adds an address to listen on. Port 0 lets the kernel choose one, the same for all workers.
    #[must_use]
    pub fn listen(mut self, address: impl Into<SocketAddr>) -> Self {
        self.settings.listen.push(address.into());
        self
    }

    /// Number of worker processes, default 1. Slot by slot they are pinned to the cores this process may use.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.settings.workers = count;
        self
    }

    /// Workers serve as this user and group; see [`Settings::user`].
    #[must_use]
    pub fn identity(mut self, user: Option<&str>, group: Option<&str>) -> Self {
        self.settings.user = user.map(str::to_owned);
        self.settings.group = group.map(str::to_owned);
        self
    }

    /// Bounds of what a worker takes on.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Times after which the engine acts by itself.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.settings.timeouts = timeouts;
        self
    }

    /// How connections' descriptors are kept, default [`Descriptors::Auto`].
    #[must_use]
    pub fn descriptors(mut self, descriptors: Descriptors) -> Self {
        self.settings.descriptors = descriptors;
        self
    }

    /// Replaces all settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first setting that is invalid.
    pub fn build(self) -> Result<Server, ServerError> {
        self.settings.validate()?;
        Ok(Server { settings: self.settings, telemetry: Telemetry::default() })
    }
}

/// A server that is set up and not yet running.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    telemetry: Telemetry,
}

impl Server {
    /// Starts collecting settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The workers' numbers; readable while the server runs and after.
    pub fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// Runs until told to stop: forks the workers, and watches over them. `protocol` makes each worker's protocol, in
    /// the worker's process, from its slot.
    ///
    /// QUIT drains all workers, TERM and INT with less patience ([`Timeouts::stop_ms_max`]); a second one of them stops
    /// them at once. WINCH drains them and leaves the master waiting for HUP. No worker outlives this call.
    ///
    /// # Errors
    /// One clear reason where the server could not start, with nothing left running; or that workers died.
    pub fn run<P: Protocol>(self, protocol: impl Fn(usize) -> P) -> Result<(), ServerError> {
        if self.settings.listen.is_empty() {
            return Err(ServerError::NoAddress);
        }
        master::run(self.settings, Service::new(protocol), None, self.telemetry)
    }

    /// As [`Server::run`]; and on HUP `reload` reads the configuration again. New workers then come up beside the old
    /// ones, take over when all of them are ready, and the old ones leave. Where `reload` gives an error, or the new
    /// workers do not come up, it is logged and nothing has changed.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_with_reload<'a>(
        self,
        service: Service<'a>,
        reload: impl FnMut() -> Result<(Settings, Service<'a>), String> + 'a,
    ) -> Result<(), ServerError> {
        if self.settings.listen.is_empty() {
            return Err(ServerError::NoAddress);
        }
        master::run(self.settings, service, Some(Box::new(reload)), self.telemetry)
    }

    /// Runs one worker on the calling thread: no fork, no signals. For tests and for programs that bring their own
    /// supervision. `ready` gets the handle to stop it. Without an address it only connects out.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_on_this_thread<P: Protocol>(
        self,
        protocol: impl FnOnce() -> P,
        ready: impl FnOnce(Running),
    ) -> Result<(), ServerError> {
        let bound = self.settings.listen.iter().zip(0..).map(|(address, id)| {
            let (socket, address) = worker::bind(*address)?;
            Ok::<_, ListenError>(Inherited { id, socket, address })
        });
        let sockets = bound.collect::<Result<Vec<_>, _>>()?;
        let addresses = sockets.iter().map(|one| one.address).collect();
        let drain_ms = self.settings.timeouts.drain_ms_max;
        let (ours, theirs) = worker::pair().map_err(|source| ServerError::System { what: "socketpair", source })?;
        let setup = Setup {
            slot: 0,
            generation: 1,
            core: None,
            settings: self.settings,
            listeners: Listeners::Inherited(sockets),
            steering: Vec::new(),
            page: self
                .telemetry
                .add_page()
                .map_err(|source| ServerError::System { what: "mapping telemetry", source })?,
            control: theirs,
            identity: None,
            rendezvous: None,
            succeeds: false,
            signals: false,
        };
        let running = Running { addresses, control: ours, drain_ms };
        Ok(worker::run(setup, || {
            let protocol = protocol();
            ready(running);
            protocol
        })?)
    }
}

/// A worker that runs on some thread; see [`Server::run_on_this_thread`]. Dropping it drains the worker.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    control: OwnedFd,
    drain_ms: u64,
}

impl Running {
    /// What it listens on, with the ports it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Lets it finish what it has, then leave.
    pub fn drain(&self) {
        let _ =
            worker::tell(&self.control, &Order::Drain { settle_ms: 0, drain_ms: self.drain_ms, is_succeeded: false });
    }

    /// Gives the handle up without ending the worker, which leaves when its protocol calls
    /// [`Worker::drain`](crate::Worker::drain).
    pub fn detach(self) {
        // The channel must stay open, since its end is an order to drain.
        std::mem::forget(self);
    }

    /// Makes it leave at once.
    pub fn stop(&self) {
        let _ = worker::tell(&self.control, &Order::Stop);
    }
}

/// What reads the configuration again.
pub(crate) type Reload<'a> = Box<dyn FnMut() -> Result<(Settings, Service<'a>), String> + 'a>;

/// What workers run: a protocol whose type is forgotten, so that a reload may choose another one.
#[derive(Clone)]
pub struct Service<'a>(Rc<dyn Fn(Setup) -> Result<(), StartError> + 'a>);

impl<'a> Service<'a> {
    /// `protocol` makes each worker's protocol, in the worker's process, from its slot.
    pub fn new<P: Protocol>(protocol: impl Fn(usize) -> P + 'a) -> Self {
        Self(Rc::new(move |setup: Setup| {
            let slot = setup.slot;
            worker::run(setup, || protocol(slot))
        }))
    }

    pub(crate) fn run(&self, setup: Setup) -> Result<(), StartError> {
        (self.0)(setup)
    }
}

impl fmt::Debug for Service<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Service").finish_non_exhaustive()
    }
}

/// The numbers of a server's workers.
#[derive(Clone, Default)]
pub struct Telemetry {
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    /// In the order of their starts.
    living: Vec<Arc<Shared<WorkerPage>>>,
    /// The sum of those that have ended.
    ended: Snapshot,
}

impl Telemetry {
    /// The numbers of each worker that has not ended, oldest first; after the server has ended those of none.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.pages().living.iter().map(|page| page.snapshot()).collect()
    }

    /// The sum over all workers there ever were.
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

    /// The worker of this page has ended.
    pub(crate) fn retire(&self, page: &Arc<Shared<WorkerPage>>) {
        let mut pages = self.pages();
        if let Some(index) = pages.living.iter().position(|one| Arc::ptr_eq(one, page)) {
            let page = pages.living.remove(index);
            pages.ended.add(&page.snapshot());
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // Every change of it is whole, whoever panicked.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Telemetry").field("workers", &self.pages().living.len()).finish()
    }
}
