//! batond's HTTP server, which ends itself or its master at a step of the handover of connections that a test names:
//! see `reach` in the engine. The test that needs it builds it, with the feature `faults`.

use baton::config::Sandbox;
use baton::{Server, ServerError, Service};
use batond::cli::Arguments;
use batond::config::Config;
use batond::http;
use batond::logging;
use clap::Parser;

fn main() -> Result<(), ServerError> {
    let mut config = Config::resolve(&Arguments::parse().choices(), None).expect("flags that make sense");
    // Steps read a file and send signals, which a worker that only serves cannot do.
    config.settings.sandbox = Sandbox::Off;
    logging::start(config.log_level, config.log_format);
    let service = || {
        let settings = config.site.http.clone();
        Service::new(move |_slot| http::server(&settings))
    };
    let reload = || Ok((config.settings.clone(), service()));
    Server::builder().settings(config.settings.clone()).build()?.run_with_reload(service(), reload)
}
