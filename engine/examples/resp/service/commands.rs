//! The commands: how one is found and run.

use std::time::{Duration, UNIX_EPOCH};

use baton::Io;

use super::State;
use super::arguments::Arguments;
use super::client::Client;
use super::reply::Reply;
use super::store::milliseconds;
use super::{introspection, keys, number, strings};

/// A command as Redis describes its own.
pub(super) struct Command {
    pub(super) name: &'static str,
    packed: u64,
    /// Number of arguments, including the name; negative: at least this many.
    pub(super) arity: i8,
    /// First key, last key (negative: from the end), step; zeros if there are no keys.
    pub(super) keys: (i8, i8, i8),
    run: fn(&mut Call<'_, '_>),
    /// It is refused when memory is used up.
    adds: bool,
}

impl Command {
    const fn new(name: &'static str, arity: i8, keys: (i8, i8, i8), run: fn(&mut Call<'_, '_>)) -> Self {
        Self { name, packed: pack(name.as_bytes()), arity, keys, run, adds: false }
    }

    /// Marks a command that can store more than before.
    const fn adding(self) -> Self {
        Self { adds: true, ..self }
    }

    #[inline]
    fn takes(&self, count: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= arity } else { count == arity }
    }
}

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 8;

/// A name of letters as a number, the same in either case. Setting the bit never turns another byte into a letter.
#[inline]
const fn pack(name: &[u8]) -> u64 {
    assert!(name.len() <= NAME_BYTES_MAX);
    let mut packed = 0;
    let mut index = 0;
    while index < name.len() {
        packed = packed << 8 | (name[index] | 0x20) as u64;
        index += 1;
    }
    packed
}

const NONE: (i8, i8, i8) = (0, 0, 0);
const ONE: (i8, i8, i8) = (1, 1, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);

/// Searched from the start: the most used ones are first.
pub(super) static COMMANDS: &[Command] = &[
    Command::new("get", 2, ONE, strings::get),
    Command::new("set", -3, ONE, strings::set).adding(),
    Command::new("incr", 2, ONE, strings::increment).adding(),
    Command::new("ping", -1, NONE, introspection::ping),
    Command::new("mset", -3, (1, -1, 2), strings::set_many).adding(),
    Command::new("mget", -2, ALL, strings::get_many),
    Command::new("del", -2, ALL, keys::delete),
    Command::new("exists", -2, ALL, keys::exists),
    Command::new("expire", -3, ONE, keys::expire_seconds),
    Command::new("ttl", 2, ONE, keys::ttl_seconds),
    Command::new("incrby", 3, ONE, strings::increment_by).adding(),
    Command::new("decr", 2, ONE, strings::decrement).adding(),
    Command::new("decrby", 3, ONE, strings::decrement_by).adding(),
    Command::new("setex", 4, ONE, strings::set_seconds).adding(),
    Command::new("psetex", 4, ONE, strings::set_milliseconds).adding(),
    Command::new("setnx", 3, ONE, strings::set_new).adding(),
    Command::new("getset", 3, ONE, strings::exchange).adding(),
    Command::new("getdel", 2, ONE, strings::take),
    Command::new("append", 3, ONE, strings::append).adding(),
    Command::new("strlen", 2, ONE, strings::length),
    Command::new("unlink", -2, ALL, keys::delete),
    Command::new("pexpire", -3, ONE, keys::expire_milliseconds),
    Command::new("pttl", 2, ONE, keys::ttl_milliseconds),
    Command::new("persist", 2, ONE, keys::persist),
    Command::new("type", 2, ONE, keys::kind),
    Command::new("dbsize", 1, NONE, keys::count),
    Command::new("flushall", -1, NONE, keys::flush),
    Command::new("flushdb", -1, NONE, keys::flush),
    Command::new("select", 2, NONE, keys::select),
    Command::new("echo", 2, NONE, introspection::echo),
    Command::new("hello", -1, NONE, introspection::hello),
    Command::new("auth", -2, NONE, introspection::auth),
    Command::new("client", -2, NONE, introspection::client),
    Command::new("config", -2, NONE, introspection::config),
    Command::new("command", -1, NONE, introspection::command),
    Command::new("info", -1, NONE, introspection::info),
    Command::new("time", 1, NONE, introspection::time),
    Command::new("reset", 1, NONE, introspection::reset),
    Command::new("quit", -1, NONE, introspection::quit),
];

/// The command with this name, in either case.
#[inline]
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let packed = pack(name);
    COMMANDS.iter().find(|command| command.packed == packed)
}

/// A command that is being run.
pub(super) struct Call<'a, 'io> {
    pub(super) state: &'a mut State,
    pub(super) client: &'a mut Client,
    pub(super) arguments: Arguments<'a>,
    pub(super) reply: Reply<'a, 'io>,
    pub(super) command: &'static Command,
    /// See [`super::Service::maxmemory`].
    pub(super) maxmemory: u64,
}

/// Runs one request; its answer goes to `io`.
#[inline]
pub(super) fn execute(
    state: &mut State,
    client: &mut Client,
    arguments: Arguments<'_>,
    maxmemory: u64,
    io: &mut Io<'_>,
) {
    let mut reply = Reply { io, is_resp3: client.is_resp3 };
    let Some(command) = find(arguments.get(0)) else { return unknown(client, arguments, &mut reply) };
    let mut call = Call { state, client, arguments, reply, command, maxmemory };
    if command.takes(arguments.count()) {
        if command.adds && maxmemory > 0 && call.state.store.memory() > maxmemory {
            return call.reply.encoded(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        }
        (command.run)(&mut call);
        // After the command, as in Redis: INFO does not count itself, and refused commands are not counted.
        call.state.commands_processed = call.state.commands_processed.saturating_add(1);
    } else {
        call.wrong_number_of_arguments();
    }
}

/// Redis shows this many bytes of the name, and of the arguments together.
pub(super) const SHOWN_BYTES_MAX: usize = 128;

#[cold]
fn unknown(client: &mut Client, arguments: Arguments<'_>, reply: &mut Reply<'_, '_>) {
    // An attacker may make a browser send HTTP here. It must not get as far as the body, whose lines would be commands.
    if [&b"post"[..], b"host:"].iter().any(|name| arguments.get(0).eq_ignore_ascii_case(name)) {
        client.is_closing = true;
        return;
    }
    let mut shown = Vec::new();
    for argument in arguments.from(1) {
        if shown.len() >= SHOWN_BYTES_MAX {
            break;
        }
        shown.push(b'\'');
        shown.extend_from_slice(cut(argument, SHOWN_BYTES_MAX - (shown.len() - 1)));
        shown.extend_from_slice(b"' ");
    }
    let name = cut(arguments.get(0), SHOWN_BYTES_MAX);
    reply.error(&[b"ERR unknown command '", name, b"', with args beginning with: ", &shown]);
}

/// At most this many bytes, and none from a zero byte on, since C sees the end there.
pub(super) fn cut(text: &[u8], bytes_max: usize) -> &[u8] {
    let text = &text[..text.len().min(bytes_max)];
    &text[..text.iter().position(|byte| *byte == 0).unwrap_or(text.len())]
}

impl<'a> Call<'a, '_> {
    #[inline]
    pub(super) fn argument(&self, index: usize) -> &'a [u8] {
        self.arguments.get(index)
    }

    #[inline]
    pub(super) fn now(&self) -> Duration {
        self.reply.io.now()
    }

    /// The wall clock, in milliseconds since 1970.
    pub(super) fn wall_ms(&self) -> i64 {
        milliseconds(self.reply.io.wall_time().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The time of the loop's clock after this many milliseconds. `None` if Redis, which adds to the wall clock, could
    /// not represent it.
    pub(super) fn deadline_after_ms(&self, after_ms: i64) -> Option<i64> {
        let now_ms = milliseconds(self.now());
        after_ms.checked_add(self.wall_ms().max(now_ms)).map(|_| after_ms + now_ms)
    }

    /// The integer in an argument. `None` if it is not one; the client has got the error.
    pub(super) fn integer(&mut self, index: usize) -> Option<i64> {
        let number = number::parse(self.argument(index));
        if number.is_none() {
            self.not_an_integer();
        }
        number
    }

    #[cold]
    pub(super) fn not_an_integer(&mut self) {
        self.reply.encoded(b"-ERR value is not an integer or out of range\r\n");
    }

    #[cold]
    pub(super) fn syntax_error(&mut self) {
        self.reply.encoded(b"-ERR syntax error\r\n");
    }

    #[cold]
    pub(super) fn wrong_number_of_arguments(&mut self) {
        let name = self.command.name;
        self.reply.error(&[b"ERR wrong number of arguments for '", name.as_bytes(), b"' command"]);
    }

    #[cold]
    pub(super) fn invalid_expire_time(&mut self) {
        let name = self.command.name;
        self.reply.error(&[b"ERR invalid expire time in '", name.as_bytes(), b"' command"]);
    }
}
