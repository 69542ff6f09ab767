//! The messages of batond, word for word. A message that does not say what is wrong, where, and what to do is a defect.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

fn batond(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_batond")).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("batond runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The message about a file, without its path.
fn told_of_file(text: &[u8], flags: &[&str]) -> String {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("batond.toml");
    fs::write(&path, text).expect("written");
    let path = path.to_str().expect("a name");
    let (code, stdout, stderr) = batond(&[&["--check", "--config", path], flags].concat());
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    stderr.replace(path, "FILE")
}

#[test]
fn refusals_of_a_file() {
    for (text, expected) in [
        ("workers = 1\nworkers = 2\n", "FILE:2:1: duplicate key"),
        ("workers = 1.5\n", "FILE:1:11: invalid type: floating point `1.5`, expected a number of workers, or \"auto\""),
        ("workers = 0\n", "FILE:1:1: workers: must be between 1 and 1024, not 0"),
        (
            "listen = \"::1\"\n",
            "FILE:1:10: invalid type: string \"::1\", expected a list of addresses such as [\"127.0.0.1:8080\"]",
        ),
        (
            "listen = [true]\n",
            "FILE:1:11: invalid type: boolean `true`, expected an address such as \"127.0.0.1:8080\", or a table with an address",
        ),
        ("listen = []\n", "FILE:1:1: listen: the list is empty; add an address, or remove the setting"),
        ("protocol = 3\n", "FILE:1:12: invalid type: integer `3`, expected a name in quotes"),
        ("protocol = \"ftp\"\n", "FILE:1:12: unknown variant `ftp`, expected `http` or `echo`"),
        ("rebalance = \"on\"\n", "FILE:1:13: unknown variant `on`, expected `auto` or `off`"),
        ("limits = 3\n", "FILE:1:10: invalid type: integer `3`, expected a section of settings"),
        (
            "[limits]\nbacklog = -3\n",
            "FILE:2:11: invalid value: integer `-3`, expected a whole number from 0 to 4294967295",
        ),
        ("[limits]\nreceive_buffers = 70000\n", "FILE:2:19: \"70000\" is not a whole number from 0 to 65535"),
        (
            "[timeouts]\nidle_ms = \"5s\"\n",
            "FILE:2:11: invalid type: string \"5s\", expected a whole number from 0 to 604800000 (seven days)",
        ),
        (
            "[timeouts]\nidle_ms = 604800001\n",
            "FILE:2:1: idle_ms: must be at most 604800000 (seven days), not 604800001",
        ),
        ("[http]\nbody_bytes_max = \"2GiB\"\n", "FILE:2:1: body_bytes_max: must be at most 1GiB, not 2GiB"),
        ("[http]\nhead_bytes_max = 64\n", "FILE:2:1: head_bytes_max: must be between 128 and 1MiB, not 64"),
        ("static = 3\n", "FILE:1:10: invalid type: integer `3`, expected tables [[static]], each with path and folder"),
        ("[[static]]\npath = \"/s/\"\n", "FILE:1:1: missing field `folder`"),
        (
            "\n[[static]]\npath = \"s\"\nfolder = \"/tmp\"\n",
            "FILE:2:3: static: the path \"s\" must begin and end with a slash, as /static/ does",
        ),
        (
            "[[static]]\npath = \"/s/\"\nfolder = \"/nowhere\"\n",
            "FILE:1:3: static: cannot read the folder /nowhere: No such file or directory (os error 2); create it, or name another one",
        ),
        (
            "[[static]]\npath = \"/s/\"\nfolder = \"/tmp\"\nindex = \"../a\"\n",
            "FILE:1:3: static: the index \"../a\" must be the name of a file, such as index.html",
        ),
        (
            "[log]\naccess = \"/nowhere/log\"\n",
            "FILE:2:1: access: cannot open /nowhere/log for appending: No such file or directory (os error 2); create its folder, or name another file",
        ),
        (
            "[log]\naccess_sample = 0\n",
            "FILE:2:1: access_sample: must be 1 or more, not 0; 100 logs one answer in a hundred",
        ),
        (
            "unix_owner = \"nobody of this name\"\n",
            "FILE:1:1: unix_owner: there is no user \"nobody of this name\" on this machine",
        ),
        (
            "unix_owner = \":no group of this name\"\n",
            "FILE:1:1: unix_owner: there is no group \"no group of this name\" on this machine",
        ),
        ("unix_owner = \"root:\"\n", "FILE:1:1: unix_owner: \"root:\" is not user, user:group or :group"),
        ("[http]\nserver = 5\n", "FILE:2:10: invalid type: integer `5`, expected a string"),
    ] {
        assert_eq!(told_of_file(text.as_bytes(), &[]), format!("batond: error: {expected}\n"), "{text:?}");
    }
}

#[test]
fn refusals_of_flags() {
    for (flag, value, expected) in [
        ("--workers", "0", "--workers: must be between 1 and 1024, not 0"),
        ("--receive-buffers", "100", "--receive-buffers: must be a power of two between 2 and 32768, not 100"),
        ("--head-bytes-max", "2M", "--head-bytes-max: must be between 128 and 1MiB, not 2MiB"),
        (
            "--target-bytes-max",
            "17k",
            "--target-bytes-max: must be between 1 and head_bytes_max, which is 16KiB, not 17KiB",
        ),
        (
            "--static",
            "/s/=/etc/passwd",
            "--static: cannot read the folder /etc/passwd: Not a directory (os error 20); name the folder, not a file",
        ),
        (
            "--access-log",
            "/tmp",
            "--access-log: cannot open /tmp for appending: Is a directory (os error 21); create its folder, or name another file",
        ),
        ("--server-name", "a\nb", "--server-name: must be at most 256 printable ASCII characters"),
    ] {
        let told = batond(&["--check", flag, value]);
        assert_eq!(told, (Some(2), String::new(), format!("batond: error: {expected}\n")));
    }
    for (flag, value, expected) in [
        ("--idle-ms", "1.5", "\"1.5\" is not a whole number from 0 to 604800000 (seven days)"),
        ("--backlog", "many", "\"many\" is not a whole number from 0 to 4294967295"),
        ("--workers", "many", "\"many\" is neither a number of workers from 1 to 1024 nor auto"),
        ("--message-bytes-max", "1 parsec", "\"1 parsec\" is not a number of bytes such as 16384, 64k or 1MiB"),
        (
            "--listen",
            "example.org:80",
            "\"example.org:80\" is not an address such as 127.0.0.1:8080, [::1]:8080, 8080 or unix:/path",
        ),
        ("--static", "/s/", "\"/s/\" is not PATH=FOLDER, such as /static/=/srv/www"),
        ("--protocol", "ftp", "[possible values: http, echo]"),
    ] {
        let (code, stdout, stderr) = batond(&["--check", flag, value]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        let start = format!("error: invalid value '{value}' for '{flag} <");
        assert!(stderr.starts_with(&start) && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_default_that_contradicts_what_was_given_is_called_a_default() {
    let expected = "--head-bytes-max (at its default): must be at most message_bytes_max, which is 1KiB, not 16KiB\n";
    let (_, _, by_flag) = batond(&["--check", "--message-bytes-max", "1k"]);
    assert_eq!(by_flag, format!("batond: error: {expected}"));
    let by_file = told_of_file(b"[limits]\nmessage_bytes_max = 1024\n", &[]);
    assert_eq!(by_file, format!("batond: error: {expected}"));
}

#[test]
fn a_flag_that_contradicts_the_file_is_told_where_the_file_says_otherwise() {
    let told = told_of_file(b"[http]\ntarget_bytes_max = \"8k\"\n", &["--head-bytes-max", "4k"]);
    let expected = "FILE:2:1: target_bytes_max: must be between 1 and head_bytes_max, which is 4KiB, not 8KiB";
    assert_eq!(told, format!("batond: error: {expected}\n"));
}

#[test]
fn control_characters_reach_no_terminal() {
    let told = told_of_file(b"\"\\u001b[31m\" = 1\n", &[]);
    assert!(
        told.starts_with(
            "batond: error: FILE:1:1: there is no setting `\\u{1b}[31m` at the top of the file; the settings there are "
        ),
        "{told:?}"
    );
    let (code, _, told) = batond(&["--check", "--config", "no\n\u{1b}such"]);
    assert_eq!(code, Some(2));
    assert!(told.starts_with("batond: error: cannot read no\\n\\u{1b}such: "), "{told:?}");
}

#[test]
fn files_that_never_end_or_nest_without_end_are_refused() {
    let (code, _, told) = batond(&["--check", "--config", "/dev/zero"]);
    assert_eq!(code, Some(2));
    assert_eq!(told, "batond: error: cannot read /dev/zero: a configuration file may have at most 1MiB\n");
    let nested = format!("listen = {}", "[".repeat(400_000));
    assert!(told_of_file(nested.as_bytes(), &[]).starts_with("batond: error: FILE:1:"));
    let dotted = format!("{}b = 1", "a.".repeat(200_000));
    assert!(told_of_file(dotted.as_bytes(), &[]).starts_with("batond: error: FILE:1:"));
}

#[test]
fn help_says_what_a_newcomer_needs() {
    let (code, help, _) = batond(&["--help"]);
    assert_eq!(code, Some(0));
    for needed in
        ["Usage: batond [OPTIONS]", "[default: 127.0.0.1:8080]", "Exit codes: 0 ", "Examples:", "TERM and INT"]
    {
        assert!(help.contains(needed), "{needed:?} is missing: {help}");
    }
    let (code, version, _) = batond(&["--version"]);
    assert_eq!((code, version), (Some(0), format!("batond {}\n", env!("CARGO_PKG_VERSION"))));
}
