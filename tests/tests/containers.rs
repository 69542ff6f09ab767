//! batond under the system call filters of its container (`worker/package/seccomp.json`) and its unit
//! (`batond.service`), built from these files as a container runtime and systemd do, and as the first process of a
//! container.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use baton::control::{EventKind, Failure};
use baton_tests::client::{ask, assert_served, connect};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::children;
use baton_tests::program::{Server, batond, is_missing, run_ok, signal};
use baton_tests::{control, skip, wait_until};
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde_json::Value;
use syscalls::Sysno;

const RINGS: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

fn profile() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/package/seccomp.json");
    serde_json::from_str(&fs::read_to_string(path).expect("the profile")).expect("JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a rule applies to this machine and a container with these capabilities.
fn applies(rule: &Value, capabilities: &[&str]) -> bool {
    let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
    let is_here = |arches: &Value| texts(arches).contains(&"amd64");
    let has = |names: &Value| texts(names).iter().any(|name| capabilities.contains(name));
    (includes["arches"].is_null() || is_here(&includes["arches"]))
        && (includes["caps"].is_null() || has(&includes["caps"]))
        && !is_here(&excludes["arches"])
        && !has(&excludes["caps"])
}

fn condition(argument: &Value) -> SeccompCondition {
    let number = |name: &str| argument[name].as_u64().unwrap_or(0);
    let (value, second) = (number("value"), number("valueTwo"));
    let (operator, value) = match argument["op"].as_str() {
        Some("SCMP_CMP_EQ") => (SeccompCmpOp::Eq, value),
        Some("SCMP_CMP_LT") => (SeccompCmpOp::Lt, value),
        Some("SCMP_CMP_GT") => (SeccompCmpOp::Gt, value),
        Some("SCMP_CMP_MASKED_EQ") => (SeccompCmpOp::MaskedEq(value), second),
        other => panic!("{other:?}"),
    };
    SeccompCondition::new(number("index") as u8, SeccompCmpArgLen::Qword, operator, value).expect("a condition")
}

/// The filters of a container with these capabilities: the allowed calls, then calls that fail with an error of their
/// own.
fn filters(profile: &Value, capabilities: &[&str]) -> Vec<BpfProgram> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    let mut refused: BTreeMap<u32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
    let rules = profile["syscalls"].as_array().expect("rules");
    for rule in rules.iter().filter(|rule| applies(rule, capabilities)) {
        // Calls of other machines have no number here.
        let calls = texts(&rule["names"]).into_iter().filter_map(|name| name.parse::<Sysno>().ok());
        let calls = calls.map(|call| i64::from(call.id()));
        if rule["action"] == "SCMP_ACT_ERRNO" {
            let errno = rule["errnoRet"].as_u64().expect("an error") as u32;
            refused.entry(errno).or_default().extend(calls.map(|call| (call, Vec::new())));
            continue;
        }
        assert_eq!(rule["action"], "SCMP_ACT_ALLOW");
        let conditions: Vec<_> = rule["args"].as_array().into_iter().flatten().map(condition).collect();
        for call in calls {
            if conditions.is_empty() {
                always.push(call);
            } else {
                let rule = SeccompRule::new(conditions.clone()).expect("conditions");
                allowed.entry(call).or_default().push(rule);
            }
        }
    }
    allowed.extend(always.into_iter().map(|call| (call, Vec::new())));
    let first = filter(allowed, SeccompAction::Errno(1), SeccompAction::Allow);
    let others =
        refused.into_iter().map(|(value, calls)| filter(calls, SeccompAction::Allow, SeccompAction::Errno(value)));
    std::iter::once(first).chain(others).collect()
}

fn filter(calls: BTreeMap<i64, Vec<SeccompRule>>, otherwise: SeccompAction, then: SeccompAction) -> BpfProgram {
    let architecture = std::env::consts::ARCH.try_into().expect("a machine that has filters");
    let filter = SeccompFilter::new(calls, otherwise, then, architecture).expect("a filter");
    filter.try_into().expect("a program")
}

/// Runs `act` in a thread of its own that has the filters, as does everything that it starts.
fn under<T: Send>(filters: &[BpfProgram], act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            filters.iter().for_each(|filter| seccompiler::apply_filter(filter).expect("applied"));
            act()
        });
        filtered.join().expect("no panic")
    })
}

fn has_filters() -> bool {
    cfg!(target_arch = "x86_64") || !skip("filters are tested on x86-64 alone")
}

#[test]
fn batond_serves_and_is_upgraded_under_the_profile_of_its_container() {
    if !has_filters() {
        return;
    }
    batond();
    run("batond_serves_and_is_upgraded_under_the_profile_of_its_container", || {
        for (capabilities, tier) in [(&[][..], "adopt"), (&["CAP_BPF", "CAP_NET_ADMIN"], "ebpf")] {
            serve_and_change(&filters(&profile(), capabilities), tier);
        }
    });
}

/// The contents of a unit's `SystemCallFilter=`; groups are names for [`calls_of`].
fn filter_of_unit() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/package/batond.service");
    let unit = fs::read_to_string(path).expect("a unit");
    let list = unit.lines().find_map(|line| line.strip_prefix("SystemCallFilter=")).expect("a filter");
    list.split(' ').map(str::to_owned).collect()
}

/// The calls of a group, including those of groups in it.
fn calls_of(name: &str) -> Vec<i64> {
    if !name.starts_with('@') {
        return name.parse::<Sysno>().map(|call| i64::from(call.id())).into_iter().collect();
    }
    let listed = run_ok(Command::new("systemd-analyze").args(["syscall-filter", name]).env("NO_COLOR", "1"));
    // The output has the group's name, its purpose, and a line for each member.
    let lines = listed.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.flat_map(calls_of).collect()
}

#[test]
fn batond_serves_and_is_upgraded_under_the_filter_of_its_unit() {
    if !has_filters() || is_missing("systemd-analyze") {
        return;
    }
    batond();
    run("batond_serves_and_is_upgraded_under_the_filter_of_its_unit", || {
        let calls = filter_of_unit().iter().flat_map(|name| calls_of(name)).map(|call| (call, Vec::new())).collect();
        serve_and_change(&[filter(calls, SeccompAction::Errno(1), SeccompAction::Allow)], "ebpf");
    });
}

fn serve_and_change(filters: &[BpfProgram], tier: &str) {
    let lineage = under(filters, || {
        Lineage::start(2, |control, pid_file| {
            Server::start(&["--workers", "2", "--settle-ms", "50", "--control", control, "--pid-file", pid_file])
        })
    });
    let status = lineage.status();
    if status.handover != tier {
        assert_eq!(tier, "ebpf", "{}", status.handover_reason);
        skip(&format!("nothing steers here: {}", status.handover_reason));
        return;
    }
    let mut kept = connect(lineage.first.address());
    for change in [&["reload"][..], &["scale", "1"], &["scale", "2"], &["upgrade"]] {
        lineage.done(change);
        ask(&mut kept).expect("it is served on");
        assert_served(lineage.first.address());
    }
}

#[test]
fn under_the_default_profile_of_a_runtime_the_error_says_what_to_allow() {
    if !has_filters() {
        return;
    }
    let mut profile = profile();
    let rules = profile["syscalls"].as_array_mut().expect("rules");
    let all = rules.len();
    rules.retain(|rule| texts(&rule["names"]) != RINGS);
    assert_eq!(rules.len() + 1, all, "one rule is more than the default");
    let mut command = Command::new(batond());
    command.args(["--listen", "127.0.0.1:0"]);
    let mut server = under(&filters(&profile, &[]), || Server::spawn(command));
    assert_eq!(server.wait().code(), Some(1));
    let complaints: Vec<String> = server.log().into_iter().filter(|line| line.starts_with("batond: error: ")).collect();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(RINGS.iter().all(|call| complaints[0].contains(call)), "{complaints:?}");
}

#[test]
fn the_first_process_of_a_container_refuses_an_upgrade_and_serves_on() {
    run("the_first_process_of_a_container_refuses_an_upgrade_and_serves_on", || {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(batond());
        command.args(["--listen", "127.0.0.1:0", "--workers", "2", "--control"]).arg(&path);
        let mut server = Server::start_command(command);
        assert_eq!(control::status(&path).expect("a status").pid, 1);
        let mut kept = connect(server.address());
        ask(&mut kept).expect("an answer");

        let upgrade = control::ask(&path, &["upgrade"]);
        assert!(upgrade.stderr.contains("start a new container"), "{}", upgrade.stderr);
        assert_eq!(upgrade.failed(), Failure::FirstProcess);
        let refused = EventKind::UpgradeFailed { why: Failure::FirstProcess };
        signal(children(server.pid())[0], Signal::SIGUSR2);
        wait_until("USR2 is refused, too", || control::events(&path).contains(&refused));

        control::ask(&path, &["reload"]).done();
        ask(&mut kept).expect("it is served on");
        drop(kept);
        control::ask(&path, &["stop"]).done();
        assert_eq!(server.wait().code(), Some(0));
    });
}
