//! Servers side by side: interleaved rounds, server on one core, load on the other, requests per second of server CPU
//! time as the figure of merit, since the load generator is the limit of plain rates here.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{machine_busy_seconds, tree_seconds};
use crate::echo;

/// A cell is measured anew when processes other than server and load used more of the machine than this.
const FOREIGN_SHARE_MAX: f64 = 0.06;

/// How often a spoiled cell is measured at most.
const TRIES_MAX: usize = 3;

const START_PATIENCE: Duration = Duration::from_secs(5);

/// What is done to each server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// wrk: keep-alive connections, requests in flight on each.
    Http { connections: u32, depth: u32 },
    /// wrk: one request per connection.
    Close { connections: u32 },
    /// Our own client: connections, bytes of each message.
    Echo { connections: u32, bytes: u32 },
    /// redis-benchmark: requests in flight, which of its tests.
    Redis { depth: u32, test: String },
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let number = |index: usize, default: Option<u32>| match rest.get(index) {
            Some(text) => text.parse().ok().filter(|number| *number > 0).ok_or(format!("{text:?} is not a count")),
            None => default.ok_or_else(|| "a count is missing".to_owned()),
        };
        match kind {
            "http" => Ok(Self::Http { connections: number(0, None)?, depth: number(1, Some(1))? }),
            "close" => Ok(Self::Close { connections: number(0, None)? }),
            "echo" => Ok(Self::Echo { connections: number(0, None)?, bytes: number(1, None)? }),
            "redis" => {
                let test = rest.get(1).ok_or("the name of a test is missing")?;
                Ok(Self::Redis { depth: number(0, None)?, test: (*test).to_owned() })
            }
            _ => Err(format!("{kind:?} is not http, close, echo or redis")),
        }
    }
}

impl Workload {
    fn title(&self) -> String {
        match self {
            Self::Http { connections, depth: 1 } => format!("HTTP keep-alive, {connections} connections"),
            Self::Http { connections, depth } => format!("HTTP pipelined {depth}, {connections} connections"),
            Self::Close { connections } => format!("HTTP, one request per connection, {connections} at a time"),
            Self::Echo { connections, bytes } => format!("echo {bytes} B, {connections} connections"),
            Self::Redis { depth, test } => format!("RESP {test}, pipelined {depth}"),
        }
    }
}

/// A server under test: a name and the command that starts it on `{port}`.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) command: String,
}

impl FromStr for Contestant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("expected NAME=COMMAND")?;
        if !command.contains("{port}") {
            return Err("the command must contain {port}, where the port to listen on goes".to_owned());
        }
        Ok(Self { name: name.to_owned(), command: command.to_owned() })
    }
}

/// What `compare` is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) servers: Vec<Contestant>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
    pub(crate) server_core: usize,
    pub(crate) load_core: usize,
}

struct Sample {
    per_cpu_second: f64,
    rate: f64,
    errors: String,
    is_spoiled: bool,
}

/// Runs everything and prints one table per workload.
pub(crate) fn run(plan: &Plan) -> io::Result<()> {
    let mut port = 21_000;
    for workload in &plan.workloads {
        let mut samples: Vec<Vec<Sample>> = plan.servers.iter().map(|_| Vec::new()).collect();
        for round in 0..plan.rounds {
            let mut order: Vec<usize> = (0..plan.servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let mut sample = None;
                for _ in 0..TRIES_MAX {
                    port += 1;
                    let measured = measure(plan, &plan.servers[index], workload, port)?;
                    let is_spoiled = measured.is_spoiled;
                    sample = Some(measured);
                    if !is_spoiled {
                        break;
                    }
                }
                samples[index].extend(sample);
            }
        }
        writeln!(io::stdout(), "{}", table(workload, &plan.servers, &samples))?;
    }
    Ok(())
}

fn table(workload: &Workload, servers: &[Contestant], samples: &[Vec<Sample>]) -> String {
    let mut text = format!("{}\n", workload.title());
    let _ = writeln!(text, "  {:<14}{:>26}{:>10}{:>12}", "", "1,000/CPU s [min–max]", "ratio", "1,000/s");
    let medians: Vec<f64> =
        samples.iter().map(|list| median(list.iter().map(|sample| sample.per_cpu_second))).collect();
    for ((server, list), middle) in servers.iter().zip(samples).zip(&medians) {
        let least = list.iter().map(|sample| sample.per_cpu_second).fold(f64::INFINITY, f64::min);
        let most = list.iter().map(|sample| sample.per_cpu_second).fold(0.0, f64::max);
        let figures = format!("{:.1} [{:.1}–{:.1}]", middle / 1e3, least / 1e3, most / 1e3);
        let rate = median(list.iter().map(|sample| sample.rate)) / 1e3;
        let _ = write!(text, "  {:<14}{figures:>26}{:>10.3}{rate:>12.1}", server.name, middle / medians[0]);
        let spoiled = list.iter().filter(|sample| sample.is_spoiled).count();
        if spoiled > 0 {
            let _ = write!(text, "  ({spoiled} of {} cells disturbed)", list.len());
        }
        text.push('\n');
        for errors in list.iter().map(|sample| &sample.errors).filter(|errors| !errors.is_empty()) {
            let _ = writeln!(text, "    ! {errors}");
        }
    }
    text
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

/// Ends the server when dropped, by its pid.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(plan: &Plan, server: &Contestant, workload: &Workload, port: u16) -> io::Result<Sample> {
    let command = server.command.replace("{port}", &port.to_string());
    let child = Command::new("taskset")
        .args(["-c", &plan.server_core.to_string(), "sh", "-c", &format!("exec {command}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut running = Running(child);
    await_listening(&mut running.0, server, port)?;
    load(plan, workload, port, 1)?;
    let pid = running.0.id();
    let (cpu_before, busy_before, start) = (tree_seconds(pid), machine_busy_seconds(), Instant::now());
    let own_before = tree_seconds(std::process::id());
    let (requests, errors) = load(plan, workload, port, plan.seconds)?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = tree_seconds(pid) - cpu_before;
    // Server and load are our children, so their times are part of our own.
    let own = tree_seconds(std::process::id()) - own_before;
    let foreign = machine_busy_seconds() - busy_before - own;
    Ok(Sample {
        per_cpu_second: if cpu > 0.0 { requests as f64 / cpu } else { 0.0 },
        rate: requests as f64 / elapsed,
        errors,
        is_spoiled: foreign / elapsed > FOREIGN_SHARE_MAX,
    })
}

fn await_listening(child: &mut Child, server: &Contestant, port: u16) -> io::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("{} ended at once ({status}): {}", server.name, server.command)));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{} does not listen on port {port}", server.name)));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Gives the requests answered, and what went wrong.
fn load(plan: &Plan, workload: &Workload, port: u16, seconds: u32) -> io::Result<(u64, String)> {
    let core = plan.load_core.to_string();
    match workload {
        Workload::Http { connections, depth } => {
            let url = format!("http://127.0.0.1:{port}/plaintext");
            let mut wrk = Command::new("taskset");
            wrk.args(["-c", &core, "wrk", "-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), &url]);
            let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
            if *depth > 1 {
                fs::write(script.path(), pipeline_script(*depth))?;
                wrk.arg("-s").arg(script.path());
            }
            read_wrk(&output_of(&mut wrk)?)
        }
        Workload::Close { connections } => {
            let url = format!("http://127.0.0.1:{port}/plaintext");
            let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
            let mut wrk = Command::new("taskset");
            wrk.args(["-c", &core, "wrk", "-t1", &connections, &duration, "-H", "Connection: close", &url]);
            read_wrk(&output_of(&mut wrk)?)
        }
        Workload::Echo { connections, bytes } => {
            let mut client = Command::new("taskset");
            client.args(["-c", &core]).arg(std::env::current_exe()?).args(["echo", &format!("127.0.0.1:{port}")]);
            client.args(["--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
            client.args(["--seconds", &seconds.to_string(), "--json"]);
            echo::read_json(&output_of(&mut client)?)
        }
        Workload::Redis { depth, test } => {
            // redis-benchmark takes a number of requests, not a time: enough for about the seconds wanted.
            let count = u64::from(seconds) * if *depth > 1 { 700_000 } else { 100_000 };
            let mut client = Command::new("taskset");
            client.args(["-c", &core, "redis-benchmark", "-p", &port.to_string(), "-c", "50", "-q"]);
            client.args(["-P", &depth.to_string(), "-t", test, "-n", &count.to_string()]);
            let text = output_of(&mut client)?;
            let errors = if text.contains("requests per second") { String::new() } else { text };
            Ok((count, errors))
        }
    }
}

fn pipeline_script(depth: u32) -> String {
    format!(
        "init = function() local r = {{}} for i = 1, {depth} do r[i] = wrk.format() end req = table.concat(r) end\n\
         request = function() return req end\n"
    )
}

fn output_of(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot run {:?}: {error}; is it installed?", command.get_program()))
    })?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|one| one.to_string_lossy()).collect();
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{} failed: {}", arguments.join(" "), told.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read_wrk(text: &str) -> io::Result<(u64, String)> {
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let count = count.ok_or_else(|| io::Error::other(format!("wrk said something unexpected: {text}")))?;
    let is_error = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
    Ok((count, text.lines().filter(is_error).map(str::trim).collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_read_and_wrong_ones_refused() {
        assert_eq!("http:64".parse(), Ok(Workload::Http { connections: 64, depth: 1 }));
        assert_eq!("http:64:16".parse(), Ok(Workload::Http { connections: 64, depth: 16 }));
        assert_eq!("echo:8:16384".parse(), Ok(Workload::Echo { connections: 8, bytes: 16_384 }));
        assert_eq!("redis:16:get".parse(), Ok(Workload::Redis { depth: 16, test: "get".to_owned() }));
        for wrong in ["", "http", "http:0", "http:x", "echo:5", "redis:1", "ftp:1"] {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 3s test\n  1 threads\n  339998 requests in 3.00s, 40.86MB read\n  Socket errors: connect 0, read 5, write 0, timeout 0\n";
        let (count, errors) = read_wrk(text).expect("read");
        assert_eq!(count, 339_998);
        assert!(errors.contains("read 5"));
        assert!(read_wrk("unable to connect").is_err());
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < f64::EPSILON);
    }
}
