//! An entry for HttpArena (<https://www.http-arena.com/>) that uses only the public interface of `baton-http`.
//!
//! ```text cargo run --release -p baton-http --example arena -- --data FOLDER ```
//!
//! `FOLDER` is what the ranking mounts at `/data`: `dataset.json`, and the folder `static`. With the certificate and
//! the key that it mounts at `/certs`, the same is served with TLS at port 8081. The Dockerfile beside this file builds
//! what the ranking runs.
#![deny(unsafe_code)]

mod service;
mod tls;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use baton::Server;
use baton::config::{InvalidSetting, Listener, Settings};
use clap::Parser;
use tracing::Level;

use self::service::Data;

/// Wrong flags or data.
const EXIT_USAGE: u8 = 2;

/// An entry for HttpArena: baseline, pipelined, limited-conn, json, json-comp, json-tls, upload, static, static-tls and echo-ws.
#[derive(Debug, Parser)]
#[command(name = "arena")]
struct Arguments {
    /// Address to listen on, such as 0.0.0.0:8080 or [::1]:8080; may be given several times.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080", value_parser = address)]
    listen: Vec<SocketAddr>,
    /// Worker processes: a count, or auto for one for each core that this process may use.
    #[arg(long, value_name = "COUNT", default_value = "auto", value_parser = workers)]
    workers: usize,
    /// Folder with dataset.json and static/.
    #[arg(long, value_name = "FOLDER", default_value = "/data")]
    data: PathBuf,
    /// Address to listen on with TLS, where there are a certificate and a key.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081", value_parser = address)]
    listen_tls: SocketAddr,
    /// File with the certificate, in PEM.
    #[arg(long, value_name = "FILE", default_value = "/certs/server.crt")]
    certificate: PathBuf,
    /// File with its private key, in PEM.
    #[arg(long, value_name = "FILE", default_value = "/certs/server.key")]
    key: PathBuf,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give an IP address and a port, such as 0.0.0.0:8080 or [::1]:8080".to_owned())
}

fn workers(text: &str) -> Result<usize, String> {
    if text == "auto" {
        return Ok(std::thread::available_parallelism().map_or(1, usize::from));
    }
    text.parse().map_err(|_| "give a count of workers, or auto".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(Level::WARN).init();
    let data = match Data::load(&arguments.data) {
        Ok(data) => data,
        Err(error) => return complain(&error, ExitCode::from(EXIT_USAGE)),
    };
    let settings = match settings(arguments, &data) {
        Ok(settings) => settings,
        // Each of these settings is a flag.
        Err(error) => return complain(&format_args!("--{error}"), ExitCode::from(EXIT_USAGE)),
    };
    let server = match Server::builder().settings(settings).build() {
        Ok(server) => server,
        Err(error) => return complain(&error, ExitCode::from(EXIT_USAGE)),
    };
    match server.run(|_slot| service::http(&data)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, ExitCode::FAILURE),
    }
}

/// Workers may only read the files.
fn settings(arguments: Arguments, data: &Data) -> Result<Settings, InvalidSetting> {
    let Arguments { listen, workers, listen_tls, certificate, key, .. } = arguments;
    let mut listen: Vec<Listener> = listen.into_iter().map(Listener::new).collect();
    let without =
        format!("neither {} nor {} is there: nothing is served with TLS", certificate.display(), key.display());
    match tls::layer(certificate, key) {
        Ok(Some(tls)) => listen.push(Listener::new(listen_tls).with_layer(tls)),
        Ok(None) => tracing::warn!("{without}"),
        Err(error) => return Err(InvalidSetting { setting: "certificate", problem: error.to_string() }),
    }
    let settings = Settings { listen, workers, readable: vec![data.files().to_owned()], ..Settings::default() };
    settings.validate()?;
    settings.check_readable().map_err(|error| InvalidSetting { setting: "data", ..error })?;
    Ok(settings)
}

/// Prints the error in one line on stderr. If nobody reads that, only the exit code remains.
fn complain(error: &dyn Display, code: ExitCode) -> ExitCode {
    let line = baton::control::escaped(&error.to_string());
    let _ = writeln!(io::stderr(), "arena: error: {line}");
    code
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::error::ErrorKind;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Arguments, ErrorKind> {
        let arguments = ["arena"].iter().chain(flags);
        Arguments::try_parse_from(arguments).map_err(|error| {
            assert_eq!(error.exit_code(), i32::from(EXIT_USAGE));
            error.kind()
        })
    }

    #[test]
    fn the_defaults_are_what_the_ranking_mounts_and_asks() {
        let arguments = parse(&[]).expect("no flag is needed");
        assert_eq!(arguments.listen, [SocketAddr::from(([0, 0, 0, 0], 8080))]);
        assert_eq!(arguments.data, PathBuf::from("/data"));
        assert_eq!(arguments.listen_tls, SocketAddr::from(([0, 0, 0, 0], 8081)));
        let certs = |name: &str| PathBuf::from("/certs").join(name);
        assert_eq!((arguments.certificate, arguments.key), (certs("server.crt"), certs("server.key")));
        assert!(arguments.workers >= 1);
    }

    #[test]
    fn flags_are_taken_or_refused() {
        let arguments = parse(&["--listen", "[::1]:1", "--listen", "127.0.0.1:2", "--workers", "3"]).expect("good");
        assert_eq!((arguments.listen.len(), arguments.workers), (2, 3));
        for flags in [["--listen", "here"], ["--listen", "127.0.0.1"], ["--workers", "-1"], ["--workers", "many"]] {
            let expected = if flags[1] == "-1" { ErrorKind::UnknownArgument } else { ErrorKind::ValueValidation };
            assert_eq!(parse(&flags).err(), Some(expected), "{flags:?}");
        }
    }

    #[test]
    fn settings_beyond_their_range_are_refused_by_the_name_of_their_flag() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("dataset.json"), "[]").expect("a file");
        let data = Data::load(folder.path()).expect("good data");
        for (flags, setting) in [
            (&["--workers", "0"][..], "workers"),
            (&["--workers", "1025"], "workers"),
            (&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:1"], "listen"),
        ] {
            let refused = super::settings(parse(flags).expect("numbers"), &data).expect_err("out of range");
            assert_eq!(refused.setting, setting, "{flags:?}");
        }
    }

    #[test]
    fn a_certificate_that_is_not_right_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("dataset.json"), "[]").expect("a file");
        fs::create_dir(folder.path().join("static")).expect("a folder");
        let data = Data::load(folder.path()).expect("good data");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let (certificate, key) = (path("server.crt"), path("server.key"));
        let settings = || {
            let arguments = parse(&["--certificate", &certificate, "--key", &key]).expect("good");
            super::settings(arguments, &data)
        };
        assert_eq!(settings().map(|settings| settings.listen.len()), Ok(1));
        fs::write(&certificate, "no certificate").expect("a file");
        assert_eq!(settings().map_err(|error| error.setting), Err("certificate"));
    }

    #[test]
    fn workers_may_read_the_files_alone_and_need_them() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("dataset.json"), "[]").expect("a file");
        let data = Data::load(folder.path()).expect("good data");
        let settings = || super::settings(parse(&["--workers", "3"]).expect("good"), &data);
        assert_eq!(settings().map_err(|error| error.setting), Err("data"));
        let files = folder.path().join("static");
        fs::create_dir(&files).expect("a folder");
        let settings = settings().expect("good");
        assert_eq!((settings.readable, settings.workers), (vec![files], 3));
    }
}
