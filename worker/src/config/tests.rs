use std::fs;
use std::path::Path;

use baton::config::ConnectionTimeouts;

use super::*;

fn file(text: &str) -> Result<ConfigFile, ConfigError> {
    let path = tempfile::NamedTempFile::new().expect("a file");
    fs::write(path.path(), text).expect("written");
    ConfigFile::read(path.path())
}

fn refusal(text: &str) -> String {
    let error = match file(text) {
        Ok(file) => Config::resolve(&Choices::default(), Some(&file)).expect_err("refused"),
        Err(error) => error,
    };
    let text = error.to_string();
    text.split_once(':').map(|(_, rest)| rest.to_owned()).unwrap_or(text)
}

#[test]
fn the_annotated_example_says_the_defaults() {
    let example = ConfigFile::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/batond.toml"))).expect("valid");
    let resolved = Config::resolve(&Choices::default(), Some(&example)).expect("valid");
    assert_eq!(resolved, Config::resolve(&Choices::default(), None).expect("valid"));
    // Nothing is missing: every setting is given, except those without a default.
    let mut choices = example.choices;
    let given = || Some(String::new());
    (choices.user, choices.group, choices.pid_file) = (given(), given(), given());
    choices.unix_owner = given();
    choices.tls.as_mut().expect("a section").client_ca = Some(PathBuf::new());
    choices.statics = Some(Vec::new());
    choices.listen = choices.listen.map(|_| Vec::new());
    // The default is none.
    assert_eq!(choices.metrics.take(), Some(MetricsAddress(None)));
    choices.metrics = Some(MetricsAddress(Some(([127, 0, 0, 1], 1).into())));
    let shown = format!("{choices:?}");
    assert!(!shown.contains("None"), "{shown}");
}

#[test]
fn flags_win_over_the_file_setting_by_setting() {
    let file = file("workers = 3\nprotocol = \"echo\"\n[timeouts]\nidle_ms = 5\nwrite_ms = 6\n").expect("valid");
    let mut flags = Choices { workers: Some(Workers::Count(2)), ..Choices::default() };
    flags.timeouts = Some(TimeoutChoices { idle_ms: Some(Number(7)), ..TimeoutChoices::default() });
    let config = Config::resolve(&flags, Some(&file)).expect("valid");
    assert_eq!((config.settings.workers, config.protocol), (2, ProtocolChoice::Echo));
    assert_eq!((config.settings.timeouts.idle_ms, config.settings.timeouts.write_ms), (7, 6));
}

#[test]
fn every_refusal_names_its_place() {
    for (text, expected) in [
        ("workers = 1\nworker = 2\n", "2:1: there is no setting `worker`; did you mean `workers`?"),
        (
            "[limits]\n  conections_max = 1\n",
            "2:3: there is no setting `conections_max`; did you mean `connections_max`?",
        ),
        ("idle_ms = 1\n[limits]\nworkers = 2\n", "1:1: `idle_ms` belongs in [timeouts]"),
        ("[limits]\nworkers = 2\n", "2:1: `workers` belongs at the top of the file, above the first [section]"),
        ("[limit]\nbacklog = 2\n", "1:2: there is no setting `limit`; did you mean `limits`?"),
        (
            "[log]\nidel_ms = 2\n",
            "2:1: there is no setting `idel_ms`; did you mean `idle_ms`, which belongs in [timeouts]?",
        ),
        (
            "[log]\ncolour = 2\n",
            "2:1: there is no setting `colour` in [log]; the settings there are level, format, access",
        ),
        ("workers = -1\n", "1:11: invalid value: integer `-1`, expected a number of workers, or \"auto\""),
        ("workers = 0\n", "1:1: workers: must be between 1 and 1024, not 0"),
        (
            "[limits]\nbacklog = \"x\"\n",
            "2:11: invalid type: string \"x\", expected a whole number from 0 to 4294967295",
        ),
        (
            "[limits]\nreceive_buffers = 100\n",
            "2:1: receive_buffers: must be a power of two between 2 and 32768, not 100",
        ),
        ("[http]\n\nserver = \"a\\u0007\"\n", "3:1: server: must be"),
        ("listen = \"[::]\"\n", "1:10: invalid type: string \"[::]\", expected a list of addresses such as"),
        ("protocol = 3\n", "1:12: invalid type: integer `3`, expected a name in quotes"),
        ("protocol = \"resp\"\n", "1:12: unknown variant `resp`, expected `http` or `echo`"),
        ("listen = [\"nowhere\"]\n", "1:11: \"nowhere\" is not an address"),
        ("listen = [{ port = 80 }]\n", "1:13: unknown field `port`, expected one of `address`"),
        ("listen = [\"80\", { idle_ms = 1 }]\n", "1:17: missing field `address`"),
        (
            "listen = [{ address = \"80\", proxy_protocol = true }]\n",
            "1:11: proxy_protocol needs trusted, the networks",
        ),
        ("listen = [{ address = 80, trusted = [\"::1\"] }]\n", "1:11: trusted needs proxy_protocol = true"),
        (
            "listen = [{ address = 80, proxy_protocol = true, trusted = [\"10.0.0.0/33\"] }]\n",
            "1:11: \"10.0.0.0/33\" is not a network such as 10.0.0.0/8, or an address",
        ),
        (
            "listen = [{ address = 80, idle_ms = 604800001 }]\n",
            "1:1: listen: idle_ms of 127.0.0.1:80 must be at most 604800000",
        ),
        ("[timeouts\n", "1:10: "),
        ("a = \"ä\" b\n", "1:9: "),
        ("\nuser = \"no user of this name\"\n", "2:1: user: there is no user \"no user of this name\""),
        ("group = \"\"\n", "1:1: group: must be a name or a number"),
        ("[tls]\nversion_min = \"1.1\"\n", "2:15: must be 1.2 or 1.3, not \"1.1\""),
        ("listen = [\"tls://443\"]\n", "1:1: listen: tls:// needs a certificate"),
        (
            "listen = [\"tls://443\"]\n[tls]\ncertificates = [{ certificate = \"/no\", key = \"/no\" }]\n",
            "3:1: certificates: cannot read /no: ",
        ),
        ("listen = [\"tls://443\"]\n[tls]\nversion_min = \"1.2\"\n", "1:1: listen: tls:// needs a certificate"),
        ("[limits]\nmessage_bytes_max = \"1 parsec\"\n", "2:21: \"1 parsec\" is not a number of bytes"),
    ] {
        let told = refusal(text);
        assert!(told.starts_with(expected), "{text:?}: {told}");
    }
}

#[test]
fn listeners_may_differ() {
    let text = "listen = [\"80\", { address = 81, write_ms = 5, proxy_protocol = true, trusted = [\"10.0.0.0/8\", \"::1\"] }]\n";
    let config = Config::resolve(&Choices::default(), Some(&file(text).expect("valid"))).expect("valid");
    let trusted_proxies = ["10.0.0.0/8", "::1"].map(|network| network.parse().expect("a network")).to_vec();
    let timeouts = ConnectionTimeouts { write_ms: Some(5), ..ConnectionTimeouts::default() };
    let second = Listener { timeouts, trusted_proxies, ..Listener::new(([127, 0, 0, 1], 81)) };
    assert_eq!(config.settings.listen, [Listener::new(([127, 0, 0, 1], 80)), second]);
}

#[test]
fn a_flag_out_of_range_is_named_as_a_flag() {
    let flags = Choices { workers: Some(Workers::Count(0)), ..Choices::default() };
    let error = Config::resolve(&flags, None).expect_err("refused");
    assert_eq!(error.to_string(), "--workers: must be between 1 and 1024, not 0");
}

#[test]
fn what_is_not_utf8_is_refused_where_it_begins() {
    let path = tempfile::NamedTempFile::new().expect("a file");
    fs::write(path.path(), b"workers = 1\n# \xff\n").expect("written");
    let error = ConfigFile::read(path.path()).expect_err("refused").to_string();
    assert!(error.ends_with(":2:3: the file is not UTF-8 from here on"), "{error}");
}

#[test]
fn listeners_that_send_requests_on_have_a_label_for_each_port() {
    let entry = |port: u16, redirect: &str| format!("{{ address = {port}, redirect = {redirect:?} }}");
    let listen = [entry(1, "https"), entry(2, "https:8443"), entry(3, "https"), "4".to_owned()].join(", ");
    let file = file(&format!("listen = [{listen}]")).expect("valid");
    let config = Config::resolve(&Choices::default(), Some(&file)).expect("valid");
    let labels: Vec<u8> = config.settings.listen.iter().map(|listener| listener.label).collect();
    assert_eq!((labels, config.site.redirects), (vec![1, 2, 1, 0], vec![443, 8443]));
    for wrong in ["", "http", "https:", "https:0", "https:+1", "https:65536", "https:8443/", "https://a", "HTTPS"] {
        let refused = refusal(&format!("listen = [{}]", entry(1, wrong)));
        assert!(refused.contains("is neither \"https\" nor \"https\" with a port, such as"), "{wrong}: {refused}");
    }
    let refused = refusal("listen = [{ address = \"tls://127.0.0.1:1\", redirect = \"https\" }]");
    assert!(refused.contains("an address with tls:// cannot have a redirect"), "{refused}");
    let refused = refusal(&format!("protocol = \"echo\"\nlisten = [{}]", entry(1, "https")));
    assert!(refused.starts_with("2:1: ") && refused.ends_with("redirect needs protocol = \"http\""), "{refused}");
    let many: Vec<String> = (1..=256).map(|port| entry(port, &format!("https:{port}"))).collect();
    let refused = refusal(&format!("listen = [{}]", many.join(", ")));
    assert!(refused.ends_with("redirects may have at most 255 different ports"), "{refused}");
}
