//! `batond`: a ready server on the engine.
#![deny(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use baton::config::{Listener, Settings};
use baton::{Server, ServerError, Service, Telemetry};
use batond::cli::Arguments;
use batond::config::{Config, ConfigError, ConfigFile, ProtocolChoice};
use batond::echo::Echo;
use batond::http;
use batond::logging;
use batond::tls::SCHEME;
use batond::units::Bytes;
use clap::CommandFactory;

/// Also shown by `batonctl status`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Wrong flags or configuration.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::read();
    if arguments.manual {
        return match clap_mangen::Man::new(Arguments::command()).render(&mut io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format_args!("cannot write to standard output: {error}"));
                ExitCode::FAILURE
            }
        };
    }
    let config = match read_config(&arguments) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            baton::refuse_upgrade(&error.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if arguments.check {
        return check(&config);
    }
    logging::start(config.log_level, config.log_format);
    match serve(&arguments, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            exit_code(&error)
        }
    }
}

fn exit_code(error: &ServerError) -> ExitCode {
    match error {
        ServerError::ControlPath { .. } | ServerError::Setting(_) => ExitCode::from(EXIT_USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Reports what a start with this configuration would find here.
fn check(config: &Config) -> ExitCode {
    let warn = |warning: &dyn Display| {
        let _ = writeln!(io::stderr(), "batond: warning: {}", baton::control::escaped(&warning.to_string()));
    };
    config.warnings.iter().for_each(|warning| warn(warning));
    let found = match Server::builder().settings(config.settings.clone()).build() {
        Ok(server) => server.check(),
        Err(error) => {
            complain(&error);
            return exit_code(&error);
        }
    };
    found.warnings.iter().for_each(|warning| warn(warning));
    found.problems.iter().for_each(|problem| complain(problem));
    if let Some(problem) = found.problems.first() {
        return exit_code(problem);
    }
    let running = found.running.map_or(String::new(), |running| {
        let name = running.name.as_deref().unwrap_or("a server");
        let name = baton::control::escaped(name);
        format!("\n{name} (pid {}) already serves with this control socket: reload or upgrade it instead", running.pid)
    });
    let memory = Bytes(config.settings.memory_bytes_worst() + config.cache_bytes_most());
    let memory = format!("each worker needs at most about {memory} of memory, plus the kernel's socket buffers");
    match writeln!(io::stdout(), "configuration ok: {}\n{memory}{running}", summary(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("the configuration is ok, but batond cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints the error in one line on stderr. If nobody reads that, only the exit code remains.
fn complain(error: &dyn Display) {
    // Keys and paths come from a file or an operator. They must not control a terminal or look like further lines.
    let line = baton::control::escaped(&error.to_string());
    let _ = writeln!(io::stderr(), "batond: error: {line}");
}

fn read_config(arguments: &Arguments) -> Result<Config, ConfigError> {
    let file = arguments.config.as_deref().map(ConfigFile::read).transpose()?;
    Config::resolve(&arguments.choices(), file.as_ref())
}

fn summary(config: &Config) -> String {
    let address = |listener: &Listener| {
        let scheme = if listener.layer.is_some() { SCHEME } else { "" };
        format!("{scheme}{}", listener.address)
    };
    let addresses: Vec<String> = config.settings.listen.iter().map(address).collect();
    let workers = config.settings.workers;
    let plural = if workers == 1 { "" } else { "s" };
    format!("{} on {}, {workers} worker{plural}", config.protocol, addresses.join(", "))
}

fn serve(arguments: &Arguments, config: &Config) -> Result<(), ServerError> {
    tracing::info!(version = VERSION, "batond: {}", summary(config));
    warn(config);
    let server = Server::builder().settings(config.settings.clone()).name("batond").version(VERSION).build()?;
    let telemetry = server.telemetry();
    let result = server.run_with_reload(service(config), || reload(arguments, config));
    log_totals(&telemetry);
    result
}

fn warn(config: &Config) {
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

fn service(config: &Config) -> Service<'static> {
    match config.protocol {
        ProtocolChoice::Http => {
            let config = config.site.clone();
            Service::new(move |_slot| http::site(&config))
        }
        ProtocolChoice::Echo => Service::new(|_slot| Echo),
    }
}

/// Reads the file again. Flags still take precedence.
fn reload(arguments: &Arguments, first: &Config) -> Result<(Settings, Service<'static>), String> {
    let config = read_config(arguments).map_err(|error| error.to_string())?;
    warn(&config);
    if (config.log_level, config.log_format) != (first.log_level, first.log_format) {
        tracing::warn!(
            "[log] level or format has changed, but a reload cannot change them: restart the server, or run `batonctl upgrade`"
        );
    }
    Ok((config.settings.clone(), service(&config)))
}

fn log_totals(telemetry: &Telemetry) {
    let total = telemetry.total();
    if total.turns == 0 {
        // It failed to start.
        return;
    }
    tracing::info!(
        accepted = total.accepted,
        requests = total.requests,
        bytes_received = total.bytes_received,
        bytes_sent = total.bytes_sent,
        accept_errors = total.accept_errors,
        turns = total.turns,
        service_us_p50 = total.service.quantile(0.5) as f64 / 1e3,
        service_us_p99 = total.service.quantile(0.99) as f64 / 1e3,
        "stopped"
    );
}
