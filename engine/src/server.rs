//! The builder collects addresses, number of workers and limits; then the server runs.

use std::os::fd::OwnedFd;

use crate::config::{Limits, Listener, Settings, Timeouts};
use crate::endpoint::Endpoint;
use crate::error::ServerError;
use crate::ipc::channel::{self};
use crate::ipc::orders::Order;
use crate::layer::{Layers, SharedLayers};
use crate::master::{self, Check};
use crate::protocol::Protocol;
use crate::service::Service;
use crate::sys::listener::ListenError;
use crate::sys::socket_file::{Paths, bind_free};
use crate::telemetry::pages::Telemetry;
use crate::worker::{self, Inherited, Listeners, Setup};

/// Collects settings; see [`Server::builder`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    /// Adds an address to listen on. Port 0 lets the kernel choose one, the same for all workers.
    #[must_use]
    pub fn listen(self, address: impl Into<Endpoint>) -> Self {
        self.listen_on(Listener::new(address))
    }

    /// Adds an address to listen on that has settings of its own.
    #[must_use]
    pub fn listen_on(mut self, listener: Listener) -> Self {
        self.settings.listen.push(listener);
        self
    }

    /// Adds a layer that outbound connections may go through, by its name; see [`Settings::outbound_layers`].
    #[must_use]
    pub fn outbound_layer(mut self, name: impl Into<String>, layers: impl Layers + 'static) -> Self {
        self.settings.outbound_layers.insert(name.into(), SharedLayers::new(layers));
        self
    }

    /// Number of worker processes, 1 to [`WORKERS_MAX`](crate::config::WORKERS_MAX), default 1. Each is pinned to one of the cores that
    /// this process may use, in the order of slots.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.settings.workers = count;
        self
    }

    /// The program's name, as `batonctl status` shows it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// The program's own version, shown after its name.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.settings.version = Some(version.into());
        self
    }

    /// Runs workers as this user and group; see [`Settings::user`].
    #[must_use]
    pub fn identity(mut self, user: Option<&str>, group: Option<&str>) -> Self {
        self.settings.user = user.map(str::to_owned);
        self.settings.group = group.map(str::to_owned);
        self
    }

    /// Limits of each worker.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Time-outs and other times.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.settings.timeouts = timeouts;
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

/// A server that is set up but not yet running.
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

    /// Looks for problems that would keep the server from starting on this machine now: io_uring and the permission to use it, users,
    /// addresses that another process has, the paths of the control socket and the pid file, limits of open files and memory, and
    /// time-outs that contradict each other. It opens and closes what a start opens, leaves nothing behind, and does not disturb a
    /// running server.
    pub fn check(&self) -> Check {
        let mut check = master::check(&self.settings);
        if self.settings.listen.is_empty() {
            check.problems.push(ServerError::NoAddress);
        }
        check
    }

    /// The workers' counters, to read after the server has ended; [`Telemetry`] says how to read them while it runs.
    pub fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// Forks the workers, watches them, and returns when the server was stopped. `protocol` makes a worker's protocol from its slot,
    /// in the worker's process.
    ///
    /// QUIT drains all workers for at most [`Timeouts::drain_ms_max`], TERM and INT for at most [`Timeouts::stop_ms_max`]; a second
    /// signal of these stops them immediately. WINCH drains them, and the master waits for HUP. No worker outlives this call.
    ///
    /// # Errors
    /// Why the server could not start, with nothing left running; or that workers died.
    pub fn run<P: Protocol>(self, protocol: impl Fn(usize) -> P) -> Result<(), ServerError> {
        if self.settings.listen.is_empty() {
            return Err(ServerError::NoAddress);
        }
        master::run(self.settings, Service::new(protocol), None, self.telemetry)
    }

    /// Like [`Server::run`], but on HUP `reload` reads the configuration again. New workers then come up beside the old
    /// ones and take over when all of them are ready; the old ones leave. If `reload` returns an error, or the new
    /// workers do not come up, the log says so and nothing changes.
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

    /// Runs one worker on the calling thread, without fork and signals. It is for tests, and for programs that supervise
    /// themselves. `ready` gets the handle to stop it. Without an address, the worker only makes outbound connections.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_on_this_thread<P: Protocol>(
        self,
        protocol: impl FnOnce() -> P,
        ready: impl FnOnce(Running),
    ) -> Result<(), ServerError> {
        let mut paths = Paths::default();
        let result = self.run_with(protocol, ready, &mut paths);
        paths.remove_all();
        result
    }

    fn run_with<P: Protocol>(
        mut self,
        protocol: impl FnOnce() -> P,
        ready: impl FnOnce(Running),
        paths: &mut Paths,
    ) -> Result<(), ServerError> {
        let file = self.settings.socket_file()?;
        let bound = self.settings.listen.iter_mut().zip(0..).map(|(listener, id)| {
            let (socket, address) = bind_free(listener.address, file)?;
            paths.add(address);
            listener.address = address;
            Ok::<_, ListenError>(Inherited { id, socket, address })
        });
        let sockets = bound.collect::<Result<Vec<_>, _>>()?;
        let addresses = sockets.iter().map(|one| one.address).collect();
        let drain_ms = self.settings.timeouts.drain_ms_max;
        let access_log = self.settings.access_log.open()?;
        let (ours, theirs) = channel::pair().map_err(|source| ServerError::System { what: "socketpair", source })?;
        let setup = Setup {
            slot: 0,
            generation: 1,
            core: None,
            settings: self.settings,
            listeners: Listeners { copies: sockets, ..Listeners::default() },
            steering: Vec::new(),
            loads: Default::default(),
            page: self
                .telemetry
                .add_page()
                .map_err(|source| ServerError::System { what: "mapping telemetry", source })?,
            control: theirs,
            identity: None,
            access_log,
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
    addresses: Vec<Endpoint>,
    control: OwnedFd,
    drain_ms: u64,
}

impl Running {
    /// The addresses that it listens on, with the ports that it got.
    pub fn addresses(&self) -> &[Endpoint] {
        &self.addresses
    }

    /// Lets connections finish, then ends the worker.
    pub fn drain(&self) {
        let _ =
            channel::tell(&self.control, &Order::Drain { settle_ms: 0, drain_ms: self.drain_ms, is_succeeded: false });
    }

    /// Drops the handle without ending the worker, which ends when its protocol calls
    /// [`Worker::drain`](crate::Worker::drain).
    pub fn detach(self) {
        // The channel must stay open, since its end is an order to drain.
        std::mem::forget(self);
    }

    /// Ends the worker immediately.
    pub fn stop(&self) {
        let _ = channel::tell(&self.control, &Order::Stop);
    }
}
