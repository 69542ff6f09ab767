//! From the settings to a running loop: checks everything before it binds or forks anything.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::Master;
use super::certificates::Reminder;
use super::configurations::Configurations;
use super::masters::{Old, Passed};
use super::names::{ControlName, PidFile};
use super::notify::Watchdog;
use super::sockets::Sockets;
use super::workers::Workers;
use super::world::Driver;
use crate::config::{Control, Handover, Settings};
use crate::error::ServerError;
use crate::handover::Tier;
use crate::ipc::relay::ToOld;
use crate::ipc::rendezvous;
use crate::master::core::{Core, Event, Plan, ProcessId, Time};
use crate::service::{Reload, Service};
use crate::steering;
use crate::sys::clock::monotonic_ns;
use crate::sys::features::Features;
use crate::sys::socket_file::Occupied;
use crate::telemetry::pages::Telemetry;
use crate::worker::StartError;

pub(crate) fn run<'a>(
    settings: Settings,
    service: Service<'a>,
    reload: Option<Reload<'a>>,
    telemetry: Telemetry,
) -> Result<(), ServerError> {
    let (mut old, passed) = Old::meet()?.unzip();
    let program = (settings.name.clone(), settings.version.clone());
    let prepared = Prepared::new(&settings, old.as_ref()).and_then(|prepared| {
        let mut configurations = Configurations::new(reload);
        let pid_file = PidFile::at(settings.pid_file.clone());
        if let Some(listener) = old.as_mut().and_then(|old| old.metrics.take()) {
            configurations.inherit_metrics(listener);
        }
        let plan = configurations.add(settings, service)?;
        Ok((prepared, configurations, pid_file, plan))
    });
    let (prepared, configurations, pid_file, plan) = prepared.inspect_err(|error| {
        old.iter().for_each(|old| old.tell(&ToOld::Failed { reason: error.to_string(), why: None }, &[]));
    })?;
    let mut master = prepared.master(old.take().zip(passed), configurations, pid_file, telemetry);
    (master.name, master.version) = program;
    master.run(plan)
}

impl Master<'_> {
    fn run(&mut self, plan: Plan) -> Result<(), ServerError> {
        self.step(Event::Start(plan));
        if let Err(error) = self.drive() {
            self.kill_all();
            return Err(error);
        }
        let verdict = self.core.verdict().cloned().unwrap_or(Ok(()));
        self.finish(&verdict);
        verdict.map_err(ServerError::from)
    }
}

/// What is determined and opened before the first step.
struct Prepared {
    tier: Tier,
    tier_reason: String,
    signals: SignalFd,
    control: Option<ControlName>,
    executable: PathBuf,
}

impl Prepared {
    fn new(settings: &Settings, old: Option<&Old>) -> Result<Self, ServerError> {
        // Checked here as well as in the workers, so that the result is known before anything is bound or forked.
        Features::probe().map_err(StartError::from)?;
        settings.check_identity()?;
        settings.check_unix_owner()?;
        settings.check_sandbox()?;
        let steering::Chosen { tier, reason: tier_reason } = choose_tier(settings.handover, old)?;
        tracing::info!(%tier, reason = %tier_reason, "handover of listeners");
        if tier == Tier::Adopt {
            tracing::info!("the kernel picks workers for new connections by hash; steering needs the tier ebpf");
        }
        let signals = watch_signals().map_err(|source| ServerError::System { what: "signalfd", source })?;
        let control = open_control(&settings.control, old.is_some())?;
        let executable = std::env::current_exe()
            .map_err(|source| ServerError::System { what: "the path of this program", source })?;
        Ok(Self { tier, tier_reason, signals, control, executable })
    }

    fn master<'a>(
        self,
        old: Option<(Old, Passed)>,
        configurations: Configurations<'a>,
        pid_file: PidFile,
        telemetry: Telemetry,
    ) -> Master<'a> {
        let Self { tier, tier_reason, signals, control, executable } = self;
        let now = Time(monotonic_ns());
        let mut sockets = Sockets::default();
        let (old, inheritance) = old
            .map(|(old, passed)| {
                let inheritance = passed.inheritance(&old, tier == Tier::Adopt, &mut sockets);
                (old, inheritance)
            })
            .unzip();
        let driver = Driver {
            tier,
            executable,
            configurations,
            workers: Workers::new(telemetry),
            sockets,
            old,
            new: None,
            orphans: Default::default(),
            doors_elsewhere: Default::default(),
            clients: Default::default(),
            rendezvous: control.as_ref().and_then(prepare_rendezvous),
            control,
            pid_file,
            journal: Default::default(),
            pauses: Default::default(),
            ledger: Default::default(),
            exporter: Default::default(),
            has_names: inheritance.is_none(),
            serving: None,
            has_served: false,
            is_undecided: inheritance.is_some(),
            is_relaying: false,
        };
        Master {
            core: Core::new(ProcessId(std::process::id()), tier, inheritance),
            driver,
            signals,
            watchdog: Watchdog::from_environment(now),
            reminder: Reminder::new(now),
            tier_reason,
            name: None,
            version: None,
            began: now,
            tick_at: None,
            totals_at: None,
        }
    }
}

/// A new binary continues with the old one's tier unless the configuration names another, so that nothing is lost.
fn choose_tier(wanted: Handover, old: Option<&Old>) -> Result<steering::Chosen, ServerError> {
    let before = old.filter(|_| wanted == Handover::Auto).and_then(|old| Tier::wanted(&old.tier));
    if let Some(Ok(steering::Chosen { tier, .. })) = before.map(steering::choose) {
        return Ok(steering::Chosen { tier, reason: "as before the upgrade".to_owned() });
    }
    steering::choose(wanted).map_err(ServerError::Handover)
}

fn open_control(control: &Control, is_upgrade: bool) -> Result<Option<ControlName>, ServerError> {
    let (path, is_required) = match control {
        Control::Off => return Ok(None),
        Control::IfFree(path) => (path, false),
        Control::At(path) => (path, true),
    };
    let opened = match ControlName::open(path) {
        // The old master has the name. This one takes it over when it serves.
        Err(Occupied::InUse) if is_upgrade => ControlName::open_beside(path).map_err(Occupied::from),
        opened => opened,
    };
    let error = match opened {
        Ok(control) => {
            tracing::info!(path = %control.name().display(), "control socket");
            if let Some(why) = control.exposure() {
                tracing::warn!(path = %path.display(), "other users can replace the control socket: {why}");
            }
            return Ok(Some(control));
        }
        Err(error) => error,
    };
    if is_required {
        return Err(occupied_control(path, &error));
    }
    tracing::warn!(path = %path.display(), "there is no control socket, so batonctl cannot reach this server: {error}");
    Ok(None)
}

/// Why the configured control socket is not available.
pub(super) fn occupied_control(path: &Path, occupied: &Occupied) -> ServerError {
    let (path, problem) = (path.to_owned(), occupied.to_string());
    match occupied {
        Occupied::Other(_) | Occupied::OfUser(_) => ServerError::ControlPath { path, problem },
        Occupied::InUse | Occupied::System(_) => ServerError::Control { path, problem },
    }
}

/// Creates the folder in which a later master finds workers. A server can run without it.
fn prepare_rendezvous(control: &ControlName) -> Option<PathBuf> {
    let folder = rendezvous::folder_of(control.name());
    let prepared = rendezvous::prepare(&folder).inspect_err(|error| {
        let folder = folder.display();
        tracing::warn!(%folder, "if this master is killed, its workers leave, because a new master could not find them: {error}");
    });
    prepared.is_ok().then_some(folder)
}

fn watch_signals() -> io::Result<SignalFd> {
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGWINCH,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ];
    let signals: SigSet = signals.into_iter().collect();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
