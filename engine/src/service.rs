//! What workers run, and how a reload replaces it.

use std::fmt;
use std::rc::Rc;

use crate::config::Settings;
use crate::handover::{Format, StateFormats};
use crate::protocol::Protocol;
use crate::worker::{self, Setup, StartError};

/// Reads the configuration again.
pub(crate) type Reload<'a> = Box<dyn FnMut() -> Result<(Settings, Service<'a>), String> + 'a>;

/// What workers run: a protocol whose type is erased, so that a reload may choose another one.
#[derive(Clone)]
pub struct Service<'a> {
    run: Rc<dyn Fn(Setup) -> Result<(), StartError> + 'a>,
    formats: StateFormats,
}

impl<'a> Service<'a> {
    /// `protocol` makes each worker's protocol, in the worker's process, from its slot.
    pub fn new<P: Protocol>(protocol: impl Fn(usize) -> P + 'a) -> Self {
        let run = Rc::new(move |setup: Setup| {
            let slot = setup.slot;
            worker::run(setup, || protocol(slot))
        });
        Self { run, formats: formats_of::<P>() }
    }

    pub(crate) fn run(&self, setup: Setup) -> Result<(), StartError> {
        (self.run)(setup)
    }

    /// The formats of state that its connections and workers write and read.
    pub(crate) fn formats(&self) -> &StateFormats {
        &self.formats
    }
}

fn formats_of<P: Protocol>() -> StateFormats {
    StateFormats {
        connections: P::STATE.map(|format| Format::new(format, P::STATE_READS)),
        worker: P::WORKER_STATE.map(|format| Format::new(format, P::WORKER_STATE_READS)),
        messages: Some(P::MESSAGES.map(|format| Format::new(format, P::MESSAGES_READS)).into_iter().collect()),
    }
}

impl fmt::Debug for Service<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Service").finish_non_exhaustive()
    }
}
