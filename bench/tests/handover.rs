//! `baton-bench handover` on batond, as a person would run it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_baton-bench");

fn handover(more: &[&str]) -> Output {
    Command::new(PROGRAM).arg("handover").args(more).output().expect("it runs")
}

#[test]
fn batond_loses_nothing_and_the_report_says_so() {
    let batond = Path::new(PROGRAM).with_file_name("batond");
    if !batond.exists() {
        eprintln!("SKIPPED: {} is not built; cargo test --workspace builds it", batond.display());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [json, plot, picture] = ["h.json", "h.svg", "p.svg"].map(|name| folder.path().join(name));
    let output = handover(&[
        "--action=reload",
        "--action=upgrade",
        "--repeat=2",
        "--steady=0.5",
        "--every=0.2",
        "--window=0.2",
        "--json",
        json.to_str().expect("a name"),
        "--plot",
        plot.to_str().expect("a name"),
        "--picture",
        picture.to_str().expect("a name"),
    ]);
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&said));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    let told: Vec<_> = rows.iter().map(|row| (row["name"].as_str(), row["times"].as_u64())).collect();
    assert_eq!(told, [(Some("steady"), Some(0)), (Some("reload"), Some(2)), (Some("upgrade"), Some(2))]);
    for row in rows {
        assert!(row["churn"]["answered"].as_u64() > Some(0) && row["kept"]["answered"].as_u64() > Some(0), "{row}");
    }
    for drawn in [plot, picture] {
        assert!(std::fs::read_to_string(&drawn).expect("drawn").contains("<svg"));
    }
}

#[test]
fn wrong_usage_is_refused() {
    for (arguments, says) in [
        (vec!["--server=haproxy", "--action=kill-all"], "only has"),
        (vec!["--attach=/nonexistent"], "--target"),
        (vec!["--every=-1"], "--every"),
        (vec!["--plot=x.png"], ".svg"),
        (vec!["--picture=x.svg", "--server=nginx"], "--picture"),
    ] {
        let output = handover(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("not installed") {
            eprintln!("SKIPPED {arguments:?}: {said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
