//! A protocol's handle on the access log of its worker.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::sys;

/// Appends to the [access log](crate::config::Settings::access_log); given by [`Worker::access_log`](crate::Worker::access_log).
/// After USR1 it appends to the file that the master has reopened.
#[derive(Clone)]
pub struct AccessLog(Rc<RefCell<sys::access_log::AccessLog>>);

impl AccessLog {
    pub(crate) fn new(log: sys::access_log::AccessLog) -> Self {
        Self(Rc::new(RefCell::new(log)))
    }

    /// Appends complete lines, in one system call if they go to a file. Never waits. Returns how many lines were lost because
    /// a disk is full or nobody reads a pipe.
    pub fn append(&self, lines: &[u8]) -> u64 {
        self.0.borrow_mut().append(lines)
    }

    /// Continues in another file.
    pub(crate) fn replace(&self, descriptor: OwnedFd) {
        match sys::access_log::AccessLog::new(descriptor) {
            Ok(log) => *self.0.borrow_mut() = log,
            Err(error) => {
                tracing::warn!(%error, "cannot use the new access log, this worker keeps appending to the old one")
            }
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("AccessLog").finish_non_exhaustive()
    }
}
