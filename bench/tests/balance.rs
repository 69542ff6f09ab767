//! `baton-bench balance` on its own servers, as a person would run it.

use std::process::{Command, Output};

use serde_json::Value;

fn balance(more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_baton-bench")).arg("balance").args(more).output().expect("it runs")
}

#[test]
fn two_workers_are_measured_and_the_report_says_how_even_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let [json, chart] = ["b.json", "b.svg"].map(|name| folder.path().join(name));
    let scenario = "open:16:load=0.2:workers=2:churn=20";
    let output = balance(&[
        "--scenario",
        scenario,
        "--server=hash",
        "--server=shared",
        "--seconds=2",
        "--warm-up=0.5",
        "--json",
        json.to_str().expect("a name"),
        "--chart",
        chart.to_str().expect("a name"),
    ]);
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&said));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    let table = &report["tables"][0];
    let rows = table["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| row["server"].as_str()).collect::<Vec<_>>(), [Some("hash"), Some("shared")]);
    for row in rows {
        // 400 per second are due; a busy machine makes far fewer.
        let rate = row["requests_per_second"].as_f64().expect("a rate");
        assert!(0.0 < rate && rate < 600.0, "{row}");
        // A request takes at least a millisecond.
        assert!(row["latency_ms"]["p50"].as_f64() >= Some(0.99), "{row}");
        assert!(row["connections_opened"].as_u64() > Some(16), "{row}");
    }
    assert!(rows[0]["connections"].as_f64() >= Some(1.0) && rows[0]["busy_last"].as_f64() >= Some(1.0), "{}", rows[0]);
    assert!(rows[1]["connections"].is_null());
    let ideal = |name: &str| table["ideal"][name]["p99"].as_f64().expect("a latency");
    assert!(1.0 <= ideal("shared") && ideal("shared") < ideal("parts"), "{}", table["ideal"]);
    assert!(std::fs::read_to_string(&chart).expect("drawn").contains("<svg"));
}

#[test]
fn wrong_usage_is_refused() {
    for (arguments, says) in [
        (vec!["--scenario=open:0"], "between 1 and 20000"),
        (vec!["--scenario=open:64", "--quick"], "--quick"),
        (vec!["--server=apache"], "--server"),
        (vec!["--seconds=0"], "--seconds"),
        (vec!["--chart=x.png"], ".svg"),
    ] {
        let output = balance(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
