//! Carries out what the core decides.
use crate::config::Settings;
use crate::error::ServerError;
use crate::service::{Reload, Service};
use crate::telemetry::pages::Telemetry;

pub(crate) fn run<'a>(_: Settings, _: Service<'a>, _: Option<Reload<'a>>, _: Telemetry) -> Result<(), ServerError> {
    unimplemented!()
}

pub fn refuse_upgrade(_: &str) {}
