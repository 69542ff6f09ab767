//! What workers run, and how it is made anew at a reload.

use std::fmt;
use std::rc::Rc;

use crate::config::Settings;
use crate::protocol::Protocol;
use crate::worker::{self, Setup, StartError};

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
