//! Configurations: read, checked, and kept as long as the core may refer to them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::unistd::geteuid;

use crate::config::{InvalidSetting, LogTarget, Settings, metrics};
use crate::error::ServerError;
use crate::ipc::control::Failure;
use crate::master::core::{ConfigurationId, Plan};
use crate::service::{Reload, Service};
use crate::sys::identity::Identity;

/// What workers get at their start.
pub(super) struct Configuration<'a> {
    pub(super) settings: Settings,
    pub(super) service: Service<'a>,
    pub(super) identity: Option<Identity>,
    pub(super) access_log: Option<OwnedFd>,
    /// The listener for metrics, if configured.
    pub(super) metrics: Option<Rc<TcpListener>>,
}

impl Configuration<'_> {
    /// The number of the user as which workers serve.
    pub(super) fn user(&self) -> u32 {
        self.identity.as_ref().and_then(Identity::user).unwrap_or_else(geteuid).as_raw()
    }
}

/// The configurations of this master.
pub(super) struct Configurations<'a> {
    reload: Option<Reload<'a>>,
    /// In the order in which they were read.
    all: Vec<(ConfigurationId, Configuration<'a>)>,
    next_id: u32,
    /// The listener for metrics of the old master of an upgrade.
    inherited: Option<Rc<TcpListener>>,
}

/// Settings that differ and that a reload does not change.
fn kept(before: &Settings, now: &Settings) -> impl Iterator<Item = &'static str> {
    let changed = [
        ("control", before.control != now.control),
        ("pid_file", before.pid_file != now.pid_file),
        ("handover", before.handover != now.handover),
    ];
    changed.into_iter().filter(|(_, has_changed)| *has_changed).map(|(setting, _)| setting)
}

impl<'a> Configurations<'a> {
    pub(super) fn new(reload: Option<Reload<'a>>) -> Self {
        Self { reload, all: Vec::new(), next_id: 0, inherited: None }
    }

    /// Stores a configuration, and returns what the core has to know of it.
    pub(super) fn add(&mut self, settings: Settings, service: Service<'a>) -> Result<Plan, InvalidSetting> {
        let identity = settings.identity()?;
        let socket_file = settings.socket_file()?;
        settings.check_readable()?;
        let access_log = settings.access_log.open()?;
        let metrics = settings.metrics.map(|address| self.metrics_at(address)).transpose()?;
        let id = ConfigurationId(self.next_id);
        self.next_id += 1;
        let formats = service.formats();
        let plan = Plan::new(id, &settings, socket_file, formats.connections.is_some(), formats.worker.is_some());
        self.all.push((id, Configuration { settings, service, identity, access_log, metrics }));
        Ok(plan)
    }

    /// The listener for metrics at an address. An existing one of this server or of the old master is used again, so
    /// that no waiting client is lost.
    fn metrics_at(&self, address: SocketAddr) -> Result<Rc<TcpListener>, InvalidSetting> {
        let all = self.all.iter().filter_map(|(_, one)| one.settings.metrics.zip(one.metrics.as_ref()));
        let known = all.filter(|(asked, _)| *asked == address).map(|(_, listener)| listener).next_back();
        let is_there = |listener: &&Rc<TcpListener>| listener.local_addr().is_ok_and(|bound| bound == address);
        let known = known.or_else(|| self.inherited.as_ref().filter(is_there));
        known.map_or_else(|| metrics::listen(address).map(Rc::new), |listener| Ok(Rc::clone(listener)))
    }

    /// Takes the listener for metrics of the old master of an upgrade.
    pub(super) fn inherit_metrics(&mut self, listener: TcpListener) {
        self.inherited = Some(Rc::new(listener));
    }

    pub(super) fn read(&mut self) -> Result<Plan, Failure> {
        let Some(reload) = &mut self.reload else { return Err(Failure::NoConfiguration) };
        let (settings, service) = reload().map_err(|problem| Failure::Configuration { problem })?;
        let invalid = |error: ServerError| Failure::Configuration { problem: error.to_string() };
        settings.validate().map_err(|error| invalid(error.into()))?;
        if settings.listen.is_empty() {
            return Err(invalid(ServerError::NoAddress));
        }
        if let Some(before) = self.newest() {
            for setting in kept(&before.settings, &settings) {
                tracing::warn!(
                    "{setting} has changed, but a reload cannot change it, because it belongs to the master: restart the server, or \
                     run `batonctl upgrade`"
                );
            }
        }
        self.add(settings, service).map_err(|error| invalid(error.into()))
    }

    pub(super) fn get(&self, id: ConfigurationId) -> Result<&Configuration<'a>, Failure> {
        let found = self.all.iter().find(|(one, _)| *one == id);
        let problem = || Failure::System { problem: "the server no longer has this configuration".to_owned() };
        found.map(|(_, configuration)| configuration).ok_or_else(problem)
    }

    /// Reopens the access logs that are files. Returns those that could be opened, and their configurations.
    pub(super) fn reopen_logs(&mut self) -> Vec<(ConfigurationId, &OwnedFd)> {
        let files = self.all.iter_mut().filter(|(_, one)| matches!(one.settings.access_log, LogTarget::File(_)));
        let reopened = files.filter_map(|(id, one)| match one.settings.access_log.open() {
            Ok(log) => {
                one.access_log = log;
                Some((*id, one.access_log.as_ref()?))
            }
            Err(error) => {
                tracing::error!("USR1: cannot reopen the access log, workers keep appending to the old file: {error}");
                None
            }
        });
        reopened.collect()
    }

    /// In a new worker: closes logs. Files that do not belong to the worker must not stay open after they were renamed
    /// and removed.
    pub(super) fn close_logs(&mut self) {
        self.all.iter_mut().for_each(|(_, one)| one.access_log = None);
        self.all.iter_mut().for_each(|(_, one)| one.metrics = None);
        self.inherited = None;
    }

    /// The configuration that was read last.
    pub(super) fn newest(&self) -> Option<&Configuration<'a>> {
        self.all.last().map(|(_, configuration)| configuration)
    }

    /// Drops the configurations that are not wanted, except the one that was read last.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(ConfigurationId) -> bool) {
        let newest = self.all.last().map(|(id, _)| *id);
        self.all.retain(|(id, _)| Some(*id) == newest || is_wanted(*id));
    }
}
