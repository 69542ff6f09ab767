//! Commands on the connection and on the server itself.

use std::time::{Duration, UNIX_EPOCH};

use super::client::ClientRecord;
use super::commands::{COMMANDS, Call, Command, SHOWN_BYTES_MAX, cut, find};
use super::{BULK_BYTES_MAX, REPLY_BYTES_MAX, glob};

/// The version that clients see. They choose their commands by it.
const REDIS_VERSION: &str = "7.4.0";

pub(super) fn ping(call: &mut Call<'_, '_>) {
    match call.arguments.count() {
        1 => call.reply.encoded(b"+PONG\r\n"),
        2 => call.reply.bulk(call.arguments.get(1)),
        _ => call.wrong_number_of_arguments(),
    }
}

pub(super) fn echo(call: &mut Call<'_, '_>) {
    call.reply.bulk(call.arguments.get(1));
}

pub(super) fn quit(call: &mut Call<'_, '_>) {
    call.client.is_closing = true;
    call.reply.ok();
}

pub(super) fn reset(call: &mut Call<'_, '_>) {
    call.client.is_resp3 = false;
    if let Some(record) = call.state.clients.get_mut(&call.client.id) {
        *record = ClientRecord::new(record.opened);
        call.reply.io.set_held_bytes(0);
    }
    call.reply.encoded(b"+RESET\r\n");
}

pub(super) fn time(call: &mut Call<'_, '_>) {
    let time = call.reply.io.wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    call.reply.array(2);
    call.reply.bulk(time.as_secs().to_string().as_bytes());
    call.reply.bulk(time.subsec_micros().to_string().as_bytes());
}

pub(super) fn auth(call: &mut Call<'_, '_>) {
    match call.arguments.count() {
        2 => call.reply.encoded(
            b"-ERR AUTH <password> called without any password configured for the default user. \
              Are you sure your configuration is correct?\r\n",
        ),
        3 if call.argument(1) == b"default" => call.reply.ok(),
        3 => wrong_password(call),
        _ => call.syntax_error(),
    }
}

fn wrong_password(call: &mut Call<'_, '_>) {
    call.reply.encoded(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n");
}

pub(super) fn hello(call: &mut Call<'_, '_>) {
    let mut is_resp3 = call.client.is_resp3;
    if call.arguments.count() > 1 {
        is_resp3 = match super::number::parse(call.argument(1)) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return call.reply.encoded(b"-NOPROTO unsupported protocol version\r\n"),
            None => {
                return call.reply.encoded(b"-ERR Protocol version is not an integer or out of range\r\n");
            }
        };
    }
    let mut name = None;
    let mut options = call.arguments.from(2);
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"auth") && options.len() >= 2 {
            let user = options.next();
            options.next();
            // The only user needs no password, so any password will do.
            if user != Some(b"default") {
                return wrong_password(call);
            }
        } else if option.eq_ignore_ascii_case(b"setname") && options.len() >= 1 {
            name = options.next();
            if !name.is_some_and(is_valid_name) {
                return invalid_name(call);
            }
        } else {
            return call.reply.error(&[b"ERR Syntax error in HELLO option '", cut(option, usize::MAX), b"'"]);
        }
    }
    call.client.is_resp3 = is_resp3;
    call.reply.is_resp3 = is_resp3;
    if let Some(record) = call.state.clients.get_mut(&call.client.id) {
        record.is_resp3 = is_resp3;
    }
    if let Some(name) = name {
        set_name(call, name);
    }
    let id = call.client.id as i64;
    let reply = &mut call.reply;
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(if is_resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(id);
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

fn is_valid_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn set_name(call: &mut Call<'_, '_>, name: &[u8]) {
    if let Some(record) = call.state.clients.get_mut(&call.client.id) {
        record.name = name.to_vec();
        call.reply.io.set_held_bytes(name.len());
    }
}

fn invalid_name(call: &mut Call<'_, '_>) {
    call.reply.encoded(b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n");
}

/// The subcommand in lower case, if it is short enough to be one.
fn subcommand(call: &Call<'_, '_>) -> String {
    let given = call.argument(1);
    String::from_utf8_lossy(&given[..given.len().min(SHOWN_BYTES_MAX)]).to_ascii_lowercase()
}

fn unknown_subcommand(call: &mut Call<'_, '_>) {
    let given = cut(call.argument(1), SHOWN_BYTES_MAX);
    let command = call.command.name.to_ascii_uppercase();
    call.reply.error(&[b"ERR unknown subcommand '", given, b"'. Try ", command.as_bytes(), b" HELP."]);
}

fn wrong_number_for(call: &mut Call<'_, '_>, subcommand: &str) {
    let command = call.command.name.as_bytes();
    call.reply.error(&[b"ERR wrong number of arguments for '", command, b"|", subcommand.as_bytes(), b"' command"]);
}

pub(super) fn client(call: &mut Call<'_, '_>) {
    let (subcommand, count) = (subcommand(call), call.arguments.count());
    match (subcommand.as_str(), count) {
        ("id", 2) => call.reply.integer(call.client.id as i64),
        ("getname", 2) => match call.state.clients.get(&call.client.id).filter(|record| !record.name.is_empty()) {
            Some(record) => call.reply.bulk(&record.name),
            None => call.reply.null(),
        },
        ("setname", 3) if !is_valid_name(call.argument(2)) => invalid_name(call),
        ("setname", 3) => {
            set_name(call, call.argument(2));
            call.reply.ok();
        }
        ("setinfo", 4) => match call.argument(2).to_ascii_lowercase().as_slice() {
            b"lib-name" | b"lib-ver" => call.reply.ok(),
            _ => call.reply.error(&[b"ERR Unrecognized option '", cut(call.argument(2), SHOWN_BYTES_MAX), b"'"]),
        },
        ("no-evict" | "no-touch", 3) => match call.argument(2).to_ascii_lowercase().as_slice() {
            b"on" | b"off" => call.reply.ok(),
            _ => call.syntax_error(),
        },
        ("info", 2) => {
            let line = client_line(call, call.client.id);
            call.reply.verbatim(line.as_bytes());
        }
        ("list", 2) => {
            let names_bytes: usize = call.state.clients.values().map(|record| record.name.len()).sum();
            if names_bytes > REPLY_BYTES_MAX {
                return call.reply.error(&[b"ERR the answer would be longer than 64 MiB; give clients shorter names"]);
            }
            let lines: String = call.state.clients.keys().map(|id| client_line(call, *id)).collect();
            call.reply.verbatim(lines.as_bytes());
        }
        ("list", _) => call.syntax_error(),
        ("id" | "getname" | "setname" | "setinfo" | "no-evict" | "no-touch" | "info", _) => {
            wrong_number_for(call, &subcommand);
        }
        _ => unknown_subcommand(call),
    }
}

fn client_line(call: &Call<'_, '_>, id: u64) -> String {
    let Some(record) = call.state.clients.get(&id) else { return String::new() };
    let age = call.now().saturating_sub(record.opened).as_secs();
    let name = String::from_utf8_lossy(&record.name);
    let version = if record.is_resp3 { 3 } else { 2 };
    format!("id={id} name={name} age={age} flags=N db=0 user=default resp={version}\n")
}

pub(super) fn config(call: &mut Call<'_, '_>) {
    let (subcommand, count) = (subcommand(call), call.arguments.count());
    match subcommand.as_str() {
        "get" if count >= 3 => {
            let (bulk_bytes_max, maxmemory) = (BULK_BYTES_MAX.to_string(), call.maxmemory.to_string());
            let parameters = [
                ("appendonly", "no"),
                ("databases", "1"),
                ("maxmemory", &maxmemory),
                ("maxmemory-policy", "noeviction"),
                ("proto-max-bulk-len", &bulk_bytes_max),
                ("save", ""),
                ("timeout", "0"),
            ];
            // If the client gave a name and not a pattern, the answer has its spelling.
            let shown = |name: &'static str| {
                let pattern = call.arguments.from(2).find(|pattern| glob::matches(pattern, name.as_bytes()))?;
                Some(if glob::is_pattern(pattern) { name.as_bytes() } else { pattern })
            };
            let wanted: Vec<_> =
                parameters.into_iter().filter_map(|(name, value)| Some((shown(name)?, value))).collect();
            call.reply.map(wanted.len());
            for (name, value) in wanted {
                call.reply.bulk(name);
                call.reply.bulk(value.as_bytes());
            }
        }
        "set" if count >= 4 => {
            let name = cut(call.argument(2), SHOWN_BYTES_MAX);
            call.reply.error(&[b"ERR Unknown option or number of arguments for CONFIG SET - '", name, b"'"]);
        }
        "resetstat" if count == 2 => {
            call.state.commands_processed = 0;
            call.reply.ok();
        }
        "get" | "set" | "resetstat" => wrong_number_for(call, &subcommand),
        _ => unknown_subcommand(call),
    }
}

pub(super) fn command(call: &mut Call<'_, '_>) {
    if call.arguments.count() == 1 {
        call.reply.array(COMMANDS.len());
        return COMMANDS.iter().for_each(|command| describe(call, command));
    }
    let (subcommand, count) = (subcommand(call), call.arguments.count());
    match subcommand.as_str() {
        "count" if count == 2 => call.reply.count(COMMANDS.len()),
        "docs" => call.reply.map(0),
        "info" if count == 2 => {
            call.reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| describe(call, command));
        }
        "info" => {
            call.reply.array(count - 2);
            for name in call.arguments.from(2) {
                match find(name) {
                    Some(command) => describe(call, command),
                    None => call.reply.null(),
                }
            }
        }
        "list" if count == 2 => {
            call.reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| call.reply.bulk(command.name.as_bytes()));
        }
        "list" => call.syntax_error(),
        "count" => wrong_number_for(call, &subcommand),
        _ => unknown_subcommand(call),
    }
}

/// Name, arity, flags, keys, categories, tips, key specifications, subcommands.
fn describe(call: &mut Call<'_, '_>, command: &Command) {
    let reply = &mut call.reply;
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.set(0);
    let (first, last, step) = command.keys;
    for number in [first, last, step] {
        reply.integer(number.into());
    }
    reply.set(0);
    for _ in 0..3 {
        reply.array(0);
    }
}

pub(super) fn info(call: &mut Call<'_, '_>) {
    let sections = ["server", "clients", "memory", "stats", "keyspace"];
    let is_wanted = |section: &str| {
        let mut names = call.arguments.from(1);
        names.len() == 0
            || names.any(|name| {
                [section, "default", "all", "everything"].iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
            })
    };
    let mut text = String::new();
    for section in sections.into_iter().filter(|section| is_wanted(section)) {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        for line in section_lines(call, section) {
            text.push_str(&line);
            text.push_str("\r\n");
        }
    }
    call.reply.verbatim(text.as_bytes());
}

fn section_lines(call: &Call<'_, '_>, section: &str) -> Vec<String> {
    let state = &*call.state;
    match section {
        "server" => {
            let uptime: Duration = call.now().saturating_sub(state.started);
            vec![
                "# Server".into(),
                format!("redis_version:{REDIS_VERSION}"),
                "redis_mode:standalone".into(),
                "baton_example:1".into(),
                "multiplexing_api:io_uring".into(),
                format!("process_id:{}", std::process::id()),
                format!("uptime_in_seconds:{}", uptime.as_secs()),
                format!("uptime_in_days:{}", uptime.as_secs() / 86_400),
            ]
        }
        "clients" => vec!["# Clients".into(), format!("connected_clients:{}", state.clients.len())],
        "memory" => vec![
            "# Memory".into(),
            format!("used_memory:{}", state.store.memory()),
            format!("maxmemory:{}", call.maxmemory),
            "maxmemory_policy:noeviction".into(),
        ],
        "stats" => vec![
            "# Stats".into(),
            format!("total_connections_received:{}", state.connections_received),
            format!("total_commands_processed:{}", state.commands_processed),
        ],
        _ => {
            let mut lines = vec!["# Keyspace".into()];
            if state.store.count() > 0 {
                let (keys, expires) = (state.store.count(), state.store.expiring_count());
                lines.push(format!("db0:keys={keys},expires={expires},avg_ttl=0"));
            }
            lines
        }
    }
}
