//! The control path: starts generations of workers, watches over them, replaces them, stops them. [`core`] decides, and is
//! pure; [`driver`] carries out and reports what happened.

pub(crate) mod core;
mod driver;

pub use self::driver::{Check, RunningServer, refuse_upgrade};
pub(crate) use self::driver::{check, run};
