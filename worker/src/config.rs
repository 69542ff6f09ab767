//! The settings of `batond`: flags take precedence over the file, and the file over the defaults.
//!
//! One table ([`Choices`]) holds every setting, given or not. Flags fill one and the file fills another, and the first
//! is laid over the second. Errors name file, line and column, or the flag.

mod file;
mod names;

use std::fmt;
use std::io;
use std::path::PathBuf;

use baton::config::{
    Connections, Control, Handover, InvalidSetting, Limits, Listener, LogTarget, Rebalance, Sandbox, Settings,
    Steering, TIMEOUT_MS_LARGEST, Timeouts,
};
use serde::Deserialize;

pub use self::file::ConfigFile;
use crate::access_log::{AccessFormat, AccessLogConfig};
use crate::http::SiteConfig;
use crate::listen::{self, Listen, PORT_DEFAULT, UnixMode};
use crate::statics::{self, StaticChoice};
use crate::tls::{self, TlsChoices};
use crate::units::{self, Bytes, MetricsAddress, Number, Workers};
use baton_http::{FilesConfig, HttpConfig};
use baton_tls::certificate::Warning;

/// Which protocol is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolChoice {
    /// HTTP/1.1: / /plaintext /json /echo /health
    Http,
    /// Sends back what it receives
    Echo,
}

impl fmt::Display for ProtocolChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Http => "http",
            Self::Echo => "echo",
        })
    }
}

/// How listeners are replaced without losing a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HandoverChoice {
    /// ebpf if the kernel lets batond load a program, else adopt
    Auto,
    /// A program in the kernel steers new connections to the new workers; needs CAP_BPF and CAP_NET_ADMIN
    Ebpf,
    /// The new workers get the open listen sockets
    Adopt,
}

/// Which worker gets a new connection; where listeners are handed over by ebpf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SteeringChoice {
    /// The worker with the fewest connections
    Least,
    /// Of two workers, one picked by hash and one at random, the one with fewer connections
    TwoChoices,
    /// A worker picked by a hash of addresses and ports
    Hash,
    /// The worker pinned to the processor that received the connection
    Cpu,
}

/// What happens to established connections when their worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionsChoice {
    /// They move to another worker and continue; those that cannot move are closed at the end of a message
    Handover,
    /// They are closed at the end of a message
    Goodbye,
    /// They stay until they end, for at most drain_ms_max
    Wait,
}

/// Whether connections move between workers that serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RebalanceChoice {
    /// They move when a worker is clearly busier than the mean or has clearly more connections
    Auto,
    /// They stay where they are
    Off,
    /// Some move each second: for trials
    #[value(skip)]
    Always,
}

impl<'de> Deserialize<'de> for RebalanceChoice {
    /// The error for an unknown value lists only the values for operators.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "always" => Ok(Self::Always),
            other => Err(serde::de::Error::unknown_variant(other, &["auto", "off"])),
        }
    }
}

/// Whether workers give up what they do not need to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SandboxChoice {
    /// They give up what this kernel lets them give up
    Auto,
    /// They give up everything, or batond does not start
    On,
    /// They give up nothing but what `user` takes from them
    Off,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

macro_rules! choices {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a section of settings")]
        pub struct $name {
            $($(#[$field_meta])* #[serde(default)] pub $field: Option<$type>,)*
        }

        impl $name {
            /// The names of its settings.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($field)),*];

            /// Fills settings that are not given from `below`.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self { $($field: self.$field.or(below.$field),)* }
            }

            /// Whether a setting of this name is given here.
            pub(crate) fn has(&self, setting: &str) -> bool {
                match setting {
                    $(stringify!($field) => self.$field.is_some(),)*
                    _ => false,
                }
            }
        }
    };
}

pub(crate) use choices;

choices! {
    /// Section `[limits]`; see [`Limits`].
    #[expect(missing_docs, reason = "documented in Limits")]
    LimitChoices {
        connections_max: Number<u32>,
        backlog: Number<u32>,
        message_bytes_max: Bytes,
        outbound_bytes_high: Bytes,
        outbound_bytes_low: Bytes,
        memory_bytes_max: Bytes,
        receive_buffer_bytes: Bytes,
        receive_buffers: Number<u16>,
    }
}

choices! {
    /// Section `[timeouts]`; see [`Timeouts`].
    #[expect(missing_docs, reason = "documented in Timeouts")]
    TimeoutChoices {
        idle_ms: Number<u64>,
        idle_at_limit_ms: Number<u64>,
        message_ms: Number<u64>,
        write_ms: Number<u64>,
        handshake_ms: Number<u64>,
        linger_ms: Number<u64>,
        drain_ms_max: Number<u64>,
        settle_ms: Number<u64>,
        stop_ms_max: Number<u64>,
        hang_ms: Number<u64>,
    }
}

choices! {
    /// Section `[http]`; see [`HttpConfig`] and [`FilesConfig`].
    #[expect(missing_docs, reason = "documented there")]
    HttpChoices {
        server: String,
        head_bytes_max: Bytes,
        target_bytes_max: Bytes,
        body_bytes_max: Bytes,
        body_ms: Number<u64>,
        requests_max: Number<u32>,
        cache_bytes_max: Bytes,
    }
}

choices! {
    /// Section `[log]`.
    #[expect(missing_docs, reason = "documented at their types")]
    LogChoices {
        #[serde(deserialize_with = "units::name")]
        level: LogLevel,
        #[serde(deserialize_with = "units::name")]
        format: LogFormat,
        access: String,
        #[serde(deserialize_with = "units::name")]
        access_format: AccessFormat,
        access_sample: Number<u32>,
    }
}

choices! {
    /// The top level of the file.
    #[expect(missing_docs, reason = "documented in the engine's Settings")]
    TopChoices {
        #[serde(deserialize_with = "listen::list")]
        listen: Vec<Listen>,
        unix_mode: UnixMode,
        unix_owner: String,
        workers: Workers,
        #[serde(deserialize_with = "units::name")]
        protocol: ProtocolChoice,
        #[serde(deserialize_with = "units::name")]
        handover: HandoverChoice,
        #[serde(deserialize_with = "units::name")]
        steering: SteeringChoice,
        #[serde(deserialize_with = "units::name")]
        connections: ConnectionsChoice,
        #[serde(deserialize_with = "units::name")]
        rebalance: RebalanceChoice,
        control: String,
        metrics: MetricsAddress,
        pid_file: String,
        user: String,
        group: String,
        #[serde(deserialize_with = "units::name")]
        sandbox: SandboxChoice,
        #[serde(rename = "static", deserialize_with = "statics::tables")]
        statics: Vec<StaticChoice>,
        limits: LimitChoices,
        timeouts: TimeoutChoices,
        http: HttpChoices,
        log: LogChoices,
        tls: TlsChoices,
    }
}

/// Every setting, given or not.
pub type Choices = TopChoices;

impl Choices {
    /// Lays these over `below`, section by section.
    #[must_use]
    pub fn lay_over(mut self, mut below: Self) -> Self {
        let limits = self.limits.take().unwrap_or_default().over(below.limits.take().unwrap_or_default());
        let timeouts = self.timeouts.take().unwrap_or_default().over(below.timeouts.take().unwrap_or_default());
        let http = self.http.take().unwrap_or_default().over(below.http.take().unwrap_or_default());
        let log = self.log.take().unwrap_or_default().over(below.log.take().unwrap_or_default());
        let tls = self.tls.take().unwrap_or_default().over(below.tls.take().unwrap_or_default());
        let sections = Self {
            limits: Some(limits),
            timeouts: Some(timeouts),
            http: Some(http),
            log: Some(log),
            tls: Some(tls),
            ..Self::default()
        };
        sections.over(self.over(below))
    }
}

/// The whole configuration of `batond`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The engine's part.
    pub settings: Settings,
    /// The protocol.
    pub protocol: ProtocolChoice,
    /// The HTTP protocol's part.
    pub site: SiteConfig,
    /// Certificates, and the TLS settings that go with them.
    pub tls: baton_tls::settings::Settings,
    /// For each listener: whether it uses TLS.
    is_secured: Vec<bool>,
    /// For each listener: the port to which its requests are redirected.
    redirects: Vec<Option<u16>>,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Warnings about certificates for the operator.
    pub warnings: Vec<Warning>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}:{column}: {problem}", path = path.display())]
    File { path: PathBuf, line: usize, column: usize, problem: String },
    #[error("{setting}: {problem}")]
    Setting { setting: String, problem: String },
}

impl Config {
    /// Lays flags over the file over the defaults, and checks the result.
    ///
    /// # Errors
    /// Names the first setting that is out of range: by its position if it is in the file, by its flag otherwise.
    pub fn resolve(flags: &Choices, file: Option<&ConfigFile>) -> Result<Self, ConfigError> {
        let below = file.map(|file| file.choices.clone()).unwrap_or_default();
        let mut config = Self::from_choices(flags.clone().lay_over(below));
        config.validate().and_then(|()| config.redirect()).and_then(|()| config.secure()).map_err(|invalid| {
            let in_file = file.filter(|_| !is_given(flags, invalid.setting));
            let placed = in_file.and_then(|file| file.error_at(invalid.setting, &invalid.problem));
            let default = if is_given(flags, invalid.setting) { "" } else { " (at its default)" };
            let setting = format!("--{}{default}", flag_name(invalid.setting));
            placed.unwrap_or(ConfigError::Setting { setting, problem: invalid.problem })
        })?;
        Ok(config)
    }

    fn from_choices(choices: Choices) -> Self {
        let limits = choices.limits.unwrap_or_default();
        let times = choices.timeouts.unwrap_or_default();
        let http = choices.http.unwrap_or_default();
        let log = choices.log.unwrap_or_default();
        let size = |choice: Option<Bytes>, default: usize| {
            choice.map_or(default, |bytes| usize::try_from(bytes.0).unwrap_or(usize::MAX))
        };
        let (limit, time, page) = (Limits::default(), Timeouts::default(), HttpConfig::default());
        let mounts: Vec<_> = choices.statics.unwrap_or_default().into_iter().map(StaticChoice::mount).collect();
        let files = FilesConfig::default();
        let listen = choices.listen.unwrap_or_else(|| vec![Listener::new(([127, 0, 0, 1], PORT_DEFAULT)).into()]);
        let is_secured = listen.iter().map(|listen| listen.is_secured).collect();
        let redirects = listen.iter().map(|listen| listen.redirect).collect();
        let listen = listen.into_iter().map(|listen| listen.listener).collect();
        Self {
            tls: choices.tls.unwrap_or_default().settings(),
            is_secured,
            redirects,
            warnings: Vec::new(),
            settings: Settings {
                listen,
                unix_mode: choices.unix_mode.map_or(Settings::default().unix_mode, |mode| mode.0),
                unix_owner: choices.unix_owner,
                workers: choices.workers.unwrap_or(Workers::Count(1)).count(),
                limits: Limits {
                    connections_max: number(limits.connections_max, limit.connections_max),
                    backlog: number(limits.backlog, limit.backlog),
                    message_bytes_max: size(limits.message_bytes_max, limit.message_bytes_max),
                    outbound_bytes_high: size(limits.outbound_bytes_high, limit.outbound_bytes_high),
                    outbound_bytes_low: size(limits.outbound_bytes_low, limit.outbound_bytes_low),
                    memory_bytes_max: limits.memory_bytes_max.map_or(limit.memory_bytes_max, |bytes| bytes.0),
                    receive_buffer_bytes: limits
                        .receive_buffer_bytes
                        .map_or(limit.receive_buffer_bytes, |bytes| u32::try_from(bytes.0).unwrap_or(u32::MAX)),
                    receive_buffers: number(limits.receive_buffers, limit.receive_buffers),
                    // The workers of batond's protocols send each other no messages.
                    ..limit
                },
                timeouts: Timeouts {
                    idle_ms: number(times.idle_ms, time.idle_ms),
                    idle_at_limit_ms: number(times.idle_at_limit_ms, time.idle_at_limit_ms),
                    message_ms: number(times.message_ms, time.message_ms),
                    write_ms: number(times.write_ms, time.write_ms),
                    handshake_ms: number(times.handshake_ms, time.handshake_ms),
                    connect_ms: time.connect_ms,
                    linger_ms: number(times.linger_ms, time.linger_ms),
                    drain_ms_max: number(times.drain_ms_max, time.drain_ms_max),
                    settle_ms: number(times.settle_ms, time.settle_ms),
                    stop_ms_max: number(times.stop_ms_max, time.stop_ms_max),
                    hang_ms: number(times.hang_ms, time.hang_ms),
                },
                handover: match choices.handover.unwrap_or(HandoverChoice::Auto) {
                    HandoverChoice::Auto => Handover::Auto,
                    HandoverChoice::Ebpf => Handover::Ebpf,
                    HandoverChoice::Adopt => Handover::Adopt,
                },
                steering: choices.steering.map_or_else(Steering::default, |choice| match choice {
                    SteeringChoice::Least => Steering::Least,
                    SteeringChoice::TwoChoices => Steering::TwoChoices,
                    SteeringChoice::Hash => Steering::Hash,
                    SteeringChoice::Cpu => Steering::Cpu,
                }),
                connections: match choices.connections.unwrap_or(ConnectionsChoice::Handover) {
                    ConnectionsChoice::Handover => Connections::Handover,
                    ConnectionsChoice::Goodbye => Connections::Goodbye,
                    ConnectionsChoice::Wait => Connections::Wait,
                },
                rebalance: match choices.rebalance.unwrap_or(RebalanceChoice::Auto) {
                    RebalanceChoice::Auto => Rebalance::Auto,
                    RebalanceChoice::Off => Rebalance::Off,
                    RebalanceChoice::Always => Rebalance::Always,
                },
                control: match choices.control.as_deref() {
                    None | Some("auto") => Control::IfFree(baton::control::default_path()),
                    Some("off") => Control::Off,
                    Some(path) => Control::At(PathBuf::from(path)),
                },
                metrics: choices.metrics.and_then(|address| address.0),
                pid_file: choices.pid_file.map(PathBuf::from),
                user: choices.user,
                group: choices.group,
                sandbox: match choices.sandbox.unwrap_or(SandboxChoice::Auto) {
                    SandboxChoice::Auto => Sandbox::Auto,
                    SandboxChoice::On => Sandbox::On,
                    SandboxChoice::Off => Sandbox::Off,
                },
                readable: mounts.iter().map(|mount| mount.folder.clone()).collect(),
                access_log: match log.access.as_deref() {
                    None | Some("off") => LogTarget::Off,
                    Some("stderr") => LogTarget::StandardError,
                    Some(path) => LogTarget::File(std::path::absolute(path).unwrap_or_else(|_| path.into())),
                },
                // The workers of these protocols have no state of their own.
                ..Settings::default()
            },
            protocol: choices.protocol.unwrap_or(ProtocolChoice::Http),
            site: SiteConfig {
                http: HttpConfig {
                    server: http.server.unwrap_or_else(|| page.server.clone()),
                    head_bytes_max: size(http.head_bytes_max, page.head_bytes_max),
                    target_bytes_max: size(http.target_bytes_max, page.target_bytes_max),
                    body_bytes_max: size(http.body_bytes_max, page.body_bytes_max),
                    body_ms: number(http.body_ms, page.body_ms),
                    requests_max: number(http.requests_max, page.requests_max),
                    ..page
                },
                redirects: Vec::new(),
                mounts,
                files: FilesConfig { cache_bytes_max: size(http.cache_bytes_max, files.cache_bytes_max), ..files },
                access_log: AccessLogConfig {
                    format: log.access_format.unwrap_or(AccessFormat::Combined),
                    sample: number(log.access_sample, 1),
                },
            },
            log_level: log.level.unwrap_or(LogLevel::Info),
            log_format: log.format.unwrap_or(LogFormat::Text),
        }
    }

    /// Labels the listeners that redirect requests, one label for each port.
    fn redirect(&mut self) -> Result<(), InvalidSetting> {
        let invalid = |problem: &str| InvalidSetting { setting: "listen", problem: problem.to_owned() };
        let listeners = self.settings.listen.iter_mut().zip(&self.redirects);
        for (listener, port) in listeners.filter_map(|(listener, port)| Some((listener, (*port)?))) {
            if self.protocol != ProtocolChoice::Http {
                return Err(invalid("redirect needs protocol = \"http\""));
            }
            let ports = &mut self.site.redirects;
            let place = ports.iter().position(|other| *other == port).unwrap_or(ports.len());
            listener.label =
                u8::try_from(place + 1).map_err(|_| invalid("redirects may have at most 255 different ports"))?;
            if place == ports.len() {
                ports.push(port);
            }
        }
        Ok(())
    }

    /// Reads certificates and keys if a listener needs them.
    fn secure(&mut self) -> Result<(), InvalidSetting> {
        if self.is_secured.contains(&true) {
            // A client that only speaks HTTP/1.0 offers only that, and is refused if no offer matches.
            let alpn: &[&str] = if self.protocol == ProtocolChoice::Http { &["http/1.1", "http/1.0"] } else { &[] };
            let (layers, warnings) = tls::load(&self.tls, alpn)?;
            self.warnings = warnings;
            let listeners =
                self.settings.listen.iter_mut().zip(&self.is_secured).filter(|(_, is_secured)| **is_secured);
            listeners.for_each(|(listener, _)| listener.layer = Some(layers.clone()));
        }
        Ok(())
    }

    /// The most memory of a worker that files may take.
    pub fn cache_bytes_most(&self) -> u64 {
        if self.site.mounts.is_empty() { 0 } else { self.site.files.cache_bytes_max as u64 }
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        let invalid = |setting, problem: String| Err(InvalidSetting { setting, problem });
        let size = |bytes: usize| Bytes(bytes as u64);
        if self.settings.listen.is_empty() {
            return invalid("listen", "the list is empty; add an address, or remove the setting".to_owned());
        }
        self.settings.validate()?;
        self.settings.check_identity()?;
        self.settings.check_unix_owner()?;
        self.settings.check_sandbox()?;
        if let Some(problem) = statics::problem(&self.site.mounts) {
            return invalid("static", problem);
        }
        let renamed = |setting| move |error: InvalidSetting| InvalidSetting { setting, ..error };
        self.settings.check_readable().map_err(renamed("static"))?;
        self.settings.check_metrics()?;
        self.settings.check_access_log().map_err(renamed("access"))?;
        if self.site.access_log.sample == 0 {
            return invalid("access_sample", "must be 1 or more, not 0; 100 logs one answer in a hundred".to_owned());
        }
        if self.site.files.cache_bytes_max > 1 << 40 {
            let given = size(self.site.files.cache_bytes_max);
            return invalid("cache_bytes_max", format!("must be at most 1024GiB, not {given}"));
        }
        let http = &self.site.http;
        let message_bytes_max = self.settings.limits.message_bytes_max;
        if !http.server.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || http.server.len() > 256 {
            return invalid("server", "must be at most 256 printable ASCII characters".to_owned());
        }
        if !(128..=1 << 20).contains(&http.head_bytes_max) {
            return invalid(
                "head_bytes_max",
                format!("must be between 128 and 1MiB, not {}", size(http.head_bytes_max)),
            );
        }
        if http.target_bytes_max == 0 || http.target_bytes_max > http.head_bytes_max {
            let (given, largest) = (size(http.target_bytes_max), size(http.head_bytes_max));
            let range = format!("between 1 and head_bytes_max, which is {largest}");
            return invalid("target_bytes_max", format!("must be {range}, not {given}"));
        }
        if http.body_bytes_max > 1 << 30 {
            return invalid("body_bytes_max", format!("must be at most 1GiB, not {}", size(http.body_bytes_max)));
        }
        if http.body_ms > TIMEOUT_MS_LARGEST {
            let given = http.body_ms;
            return invalid("body_ms", format!("must be at most {TIMEOUT_MS_LARGEST} (seven days), not {given}"));
        }
        if http.head_bytes_max > message_bytes_max {
            let (given, largest) = (size(http.head_bytes_max), size(message_bytes_max));
            let bound = format!("at most message_bytes_max, which is {largest}");
            return invalid("head_bytes_max", format!("must be {bound}, not {given}"));
        }
        Ok(())
    }
}

fn number<T>(choice: Option<Number<T>>, default: T) -> T {
    choice.map_or(default, |number| number.0)
}

/// The flag of a setting.
fn flag_name(setting: &str) -> String {
    match setting {
        "server" => "server-name".to_owned(),
        "level" | "format" => format!("log-{setting}"),
        "access" => "access-log".to_owned(),
        "certificates" => "tls-cert".to_owned(),
        other => other.replace('_', "-"),
    }
}

/// Whether flags give a setting, by its name in the file.
fn is_given(flags: &Choices, setting: &str) -> bool {
    flags.has(if setting == "static" { "statics" } else { setting })
        || flags.limits.as_ref().is_some_and(|limits| limits.has(setting))
        || flags.timeouts.as_ref().is_some_and(|timeouts| timeouts.has(setting))
        || flags.http.as_ref().is_some_and(|http| http.has(setting))
        || flags.log.as_ref().is_some_and(|log| log.has(setting))
        || flags.tls.as_ref().is_some_and(|tls| tls.has(setting))
}

#[cfg(test)]
mod tests;
