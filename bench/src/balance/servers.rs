//! Servers whose requests take time: how each is started and observed.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;

use super::watch::{Source, descriptors, status};
use crate::cpu::tree;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Server {
    /// baton, connections spread by hash.
    Hash,
    /// baton, each new connection goes to the worker that has the fewest.
    Least,
    /// baton, each new connection goes to the one of two workers that has fewer.
    TwoChoices,
    /// baton, as hash, and connections move from busy workers to idle ones.
    Rebalance,
    /// baton, as least, and connections move from busy workers to idle ones.
    LeastRebalance,
    /// One queue for all workers: what sharing nothing costs is what others have more.
    Shared,
    /// nginx with a listener for each worker, whose perl blocks.
    Nginx,
    /// HAProxy with threads, whose Lua blocks.
    Haproxy,
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Server {
    /// A shell's command.
    pub(super) fn command(self, workers: usize, port: u16, control: &Path, peers: &Path) -> Result<String, String> {
        let script = |name: &str| format!("'{}' {port} {workers}", peers.join(name).display());
        let more = match self {
            Self::Nginx => return Ok(script("nginx_perl.sh")),
            Self::Haproxy => return Ok(script("haproxy_lua.sh")),
            Self::Hash => "--steering hash --rebalance off",
            Self::Least => "--steering least --rebalance off",
            Self::TwoChoices => "--steering two-choices --rebalance off",
            Self::Rebalance => "--steering hash --rebalance auto",
            Self::LeastRebalance => "--steering least --rebalance auto",
            Self::Shared => "--shared-queue",
        };
        let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
        let (program, control) = (program.display(), control.display());
        Ok(format!("'{program}' serve --listen 127.0.0.1:{port} --workers {workers} --control '{control}' {more}"))
    }

    /// How to observe this running server, which has no connections yet.
    pub(super) fn source(self, pid: u32, control: &Path) -> Result<Source, String> {
        match self {
            Self::Nginx => {
                let workers = tree(pid).into_iter().filter(|worker| *worker != pid);
                Ok(Source::Descriptors(workers.map(|worker| (worker, descriptors(worker))).collect()))
            }
            // These have threads of one process; with one queue, the distribution would mean nothing.
            Self::Haproxy | Self::Shared => Ok(Source::None),
            _ => status(control).map(|_| Source::Control(control.to_owned())),
        }
    }
}
