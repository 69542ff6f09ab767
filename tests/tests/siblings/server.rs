//! The example `mesh`, and clients that know its commands.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_tests::client::connect;
use baton_tests::lineage::Lineage;
use baton_tests::program::{Server, free_port, test_example};
use baton_tests::wait_until;

/// One at a time: a test that ends a lineage ends all processes that this one has started.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A running server.
pub(crate) struct Mesh {
    pub(crate) lineage: Lineage,
    pub(crate) address: SocketAddr,
    _turn: MutexGuard<'static, ()>,
}

impl Mesh {
    pub(crate) fn start(workers: usize, variables: &[(&str, &str)]) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let lineage = Lineage::start(workers, |control, pid_file| {
            let mut command = Command::new(test_example("mesh"));
            command.args([&address.to_string(), &workers.to_string(), control, pid_file]);
            command.envs(variables.iter().copied());
            Server::start_unlogged(command, address)
        });
        wait_until("all workers are there", || lineage.first.workers().len() == workers);
        let mesh = Self { lineage, address, _turn: turn };
        mesh.wait_for_circle(workers);
        mesh
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One client at each worker, in the order of their slots.
    pub(crate) fn one_each(&self, workers: usize) -> Vec<(u32, Client)> {
        let mut clients: Vec<Option<(u32, Client)>> = (0..workers).map(|_| None).collect();
        // They stay open, so that the next one gets another worker, however workers are chosen.
        let mut others = Vec::new();
        wait_until("a client has come to each worker", || {
            let mut client = self.client();
            let (pid, slots) = client.who();
            let place = self.slot_of(&mut client, pid, &slots);
            match &mut clients[place] {
                none @ None => *none = Some((pid, client)),
                Some(_) => others.push(client),
            }
            clients.iter().all(Option::is_some)
        });
        clients.into_iter().flatten().collect()
    }

    /// The slot of a client's worker; the worker adds its own name to what it publishes.
    fn slot_of(&self, client: &mut Client, pid: u32, slots: &[usize]) -> usize {
        client.ask("sub");
        let mark = format!("mark {pid} {slots:?}");
        client.tell(&format!("pub {mark}"));
        loop {
            let line = client.heard.pop_front().unwrap_or_else(|| client.line());
            if let Some((slot, text)) = line.strip_prefix("m ").and_then(|rest| rest.split_once(' '))
                && text == mark
            {
                return slot.parse().expect("a slot");
            }
        }
    }

    /// Waits until every worker knows all slots.
    pub(crate) fn wait_for_circle(&self, workers: usize) {
        let mut complete = std::collections::BTreeSet::new();
        // As above.
        let mut clients = Vec::new();
        wait_until("all workers know each other", || {
            let mut client = self.client();
            let (pid, slots) = client.who();
            clients.push(client);
            if slots.len() == workers {
                complete.insert(pid);
            }
            complete.len() >= workers
        });
    }
}

/// A connection to it.
pub(crate) struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    /// Messages that were published while an answer was awaited.
    heard: VecDeque<String>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = connect(address);
        stream.set_nodelay(true).expect("set");
        let lines = BufReader::new(stream.try_clone().expect("cloned"));
        Self { stream, lines, heard: VecDeque::new() }
    }

    pub(crate) fn tell(&mut self, command: &str) {
        self.stream.write_all(format!("{command}\n").as_bytes()).expect("sent");
    }

    /// The next line, whatever it is.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).expect("read");
        assert!(count > 0, "the connection ended");
        line.trim_end().to_owned()
    }

    /// The answer to a command; messages that are published meanwhile are kept.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        loop {
            let line = self.line();
            if !line.starts_with("m ") {
                return line;
            }
            self.heard.push_back(line);
        }
    }

    /// The next published message.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let line = self.heard.pop_front().unwrap_or_else(|| self.line());
            if let Some(rest) = line.strip_prefix("m ").filter(|rest| !rest.contains(" mark ")) {
                return rest.to_owned();
            }
        }
    }

    /// The process of its worker, and the slots that this worker knows.
    pub(crate) fn who(&mut self) -> (u32, Vec<usize>) {
        let answer = self.ask("who");
        let mut numbers = answer.strip_prefix("who ").expect("an answer").split(' ');
        let pid = numbers.next().and_then(|pid| pid.parse().ok()).expect("a pid");
        (pid, numbers.map(|slot| slot.parse().expect("a slot")).collect())
    }
}
