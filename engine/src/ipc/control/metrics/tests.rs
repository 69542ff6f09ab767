use super::super::{CertificateStatus, Unevenness, UpgradeState};
use super::*;

fn worker(slot: usize, requests: u64) -> WorkerStatus {
    let text = r#"{"slot":0,"pid":5,"state":"ready","age_ms":1500,"open":2,"accepted":20,"requests":0,"bytes_received":1,
        "bytes_sent":2,"service_ns_p50":1250,"service_ns_p99":9990}"#;
    let one: WorkerStatus = serde_json::from_str(text).expect("a worker");
    WorkerStatus { slot, requests, busy_permille: Some(250), counters: vec![("hits".to_owned(), requests)], ..one }
}

fn generation(number: u32, workers: Vec<WorkerStatus>) -> GenerationStatus {
    let text = r#"{"number":1,"phase":"serving","age_ms":5,"addresses":["[::1]:80","[::1]:80"],"workers":[]}"#;
    let one: GenerationStatus = serde_json::from_str(text).expect("a generation");
    GenerationStatus { number, workers, ..one }
}

/// A status with every field set, and some invalid values.
fn everything() -> Status {
    let text = r#"{"version":2,"pid":9,"uptime_ms":62000,"handover":"ebpf","handover_reason":"","is_stopping":false,
        "generations":[],"accepted":0,"requests":0}"#;
    let one: Status = serde_json::from_str(text).expect("a status");
    let certificate = |expires_at_s| CertificateStatus {
        addresses: vec!["[::1]:443".to_owned()],
        names: vec!["a\"\\\n.example".to_owned()],
        expires_at_s,
        expires_in_s: 5,
        warnings: Vec::new(),
    };
    let old = generation(2, vec![worker(0, 1)]);
    let new = GenerationStatus {
        certificates: vec![certificate(1_800_000_000), certificate(1_700_000_000)],
        imbalance: Some(Unevenness { open: Some(1.25), busy: None }),
        ..generation(2, vec![worker(0, 400), worker(1, 500), worker(1, 600)])
    };
    let orphan = WorkerStatus { state: WorkerState::Orphaned, ..worker(0, 0) };
    let orphaned = GenerationStatus { phase: GenerationPhase::Orphaned, ..generation(1, vec![orphan]) };
    let mut totals = Totals::default();
    for (name, count) in
        [("accepted", 7), ("closed:peer", 3), ("named:a\u{1b}b", 1), ("named:a\u{7}b", 2), ("service:1023", 1)]
    {
        totals.count(name.to_owned(), count);
    }
    totals.count("service:4095".to_owned(), 2);
    totals.count("service:nonsense".to_owned(), 2);
    totals.count_value("handover:reload", 17_000_000);
    totals.count("of_a_later_version".to_owned(), 1);
    let name = Some("no\u{202e}tes".to_owned());
    Status { name, generations: vec![orphaned, old, new], totals, upgrade: Some(UpgradeState::Held), ..one }
}

/// The series of a text, with their values. Panics if two lines belong to one series.
fn series(text: &str) -> BTreeMap<&str, &str> {
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert_eq!(all.insert(series, value), None, "{line} is there twice");
    }
    all
}

#[test]
fn a_status_is_metrics() {
    let text = everything().metrics(MetricsFormat::OpenMetrics);
    let all = series(&text);
    for (series, value) in [
        (r#"baton_server_info{name="no�tes",version="",handover="ebpf"}"#, "1"),
        ("baton_uptime_seconds", "62"),
        (r#"baton_upgrade{state="held"}"#, "1"),
        ("baton_connections_accepted_total", "7"),
        (r#"baton_connections_closed_total{reason="peer"}"#, "3"),
        (r#"baton_protocol_counter_total{name="a�b"}"#, "3"),
        (r#"baton_service_seconds_bucket{le="0.000001023"}"#, "1"),
        (r#"baton_service_seconds_bucket{le="0.000002047"}"#, "1"),
        (r#"baton_service_seconds_bucket{le="0.000004095"}"#, "3"),
        (r#"baton_service_seconds_bucket{le="+Inf"}"#, "3"),
        ("baton_service_seconds_count", "3"),
        ("baton_service_seconds_sum", "0.000008925"),
        (r#"baton_handover_seconds_count{operation="reload"}"#, "1"),
        ("baton_connection_pause_seconds_count", "0"),
        (r#"baton_worker_requests_total{generation="2",slot="0"}"#, "400"),
        (r#"baton_worker_requests_total{generation="2",slot="1"}"#, "600"),
        (r#"baton_worker_busy_ratio{generation="2",slot="1"}"#, "0.25"),
        (r#"baton_worker_service_seconds{generation="2",slot="0",quantile="0.99"}"#, "0.00000999"),
        (r#"baton_generation_phase{generation="1",phase="orphaned"}"#, "1"),
        (r#"baton_generation_imbalance_ratio{generation="2",of="connections"}"#, "1.25"),
    ] {
        assert_eq!(all.get(series), Some(&value), "{series}\n{text}");
    }
    let expiry =
        r#"baton_certificate_expires_timestamp_seconds{generation="2",name="a\"\\�.example",listeners="[::1]:443"}"#;
    assert_eq!(all.get(expiry), Some(&"1700000000"));
    assert!(!all.keys().any(|series| series.contains(r#"generation="1",slot"#)), "nobody knows an orphan's numbers");
    assert!(text.ends_with("\n# EOF\n") && text.contains("# TYPE baton_requests counter\n"));
    assert!(text.contains("# TYPE baton_sent_bytes counter\n# UNIT baton_sent_bytes bytes\n"));
}

#[test]
fn both_formats_have_the_same_series() {
    let status = everything();
    let [open, older] = [MetricsFormat::OpenMetrics, MetricsFormat::Prometheus].map(|format| status.metrics(format));
    assert_eq!(series(&open), series(&older));
    assert!(older.contains("# TYPE baton_requests_total counter\n") && !older.contains("# EOF"));
}

/// The buckets of a histogram never decrease, and the last one is the total.
#[test]
fn histograms_are_cumulative() {
    let mut totals = Totals::default();
    (0..60).for_each(|power| totals.count_value("service", 1 << power));
    let mut text = Text::new(MetricsFormat::OpenMetrics);
    text.family(Kind::Histogram, "baton_service_seconds", "A test.");
    histogram(&mut text, &[], &SERVICE_BOUNDS, &buckets(totals.family("service")));
    let text = text.end();
    let counts = text
        .lines()
        .filter(|line| line.contains("_bucket"))
        .map(|line| line.rsplit_once(' ').expect("a value").1.parse::<u64>().expect("a number"));
    let counts: Vec<u64> = counts.collect();
    assert!(counts.is_sorted() && counts.first() == Some(&10) && counts.last() == Some(&60), "{counts:?}");
    assert_eq!([1, 15, 16, 17, 1023, 4095].map(middle), [1, 15, 15, 16, 991, 3967]);
}

/// As many workers as there may be.
#[test]
fn the_text_is_bounded() {
    let workers = (0..crate::config::WORKERS_MAX).map(|slot| worker(slot, u64::MAX)).collect();
    let status = Status { generations: vec![generation(1, workers)], ..everything() };
    assert!(status.metrics(MetricsFormat::OpenMetrics).len() < 4 << 20);
}
