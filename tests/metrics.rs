//! `GET /metrics`: every number is what clients have seen, none goes back whatever happens to workers, listeners and
//! the primary, and the texts are what strict parsers take. Needs `prlimit` (util-linux).

#![cfg(feature = "cli")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::signal::Signal;
use openmetrics_parser::{openmetrics, prometheus};

use support::http::{self, Client};
use support::load::Load;
use support::roles::{self, Orders};
use support::script::{self, Scripted};
use support::{Croupier, Directory, processes, wait_until};

/// How it is said in `Accept` by Prometheus.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TABLE: &str = include_str!("../docs/metrics.md");

/// The numbers of one scrape, by name and labels as they are written.
struct Scrape {
    series: BTreeMap<String, f64>,
    text: String,
}

impl Scrape {
    fn of(croupier: &Croupier) -> Self {
        Self::at(&croupier.control()).unwrap()
    }

    /// Both formats are what their parsers take.
    fn at(control: &str) -> std::io::Result<Self> {
        let response = scrape(control, OPEN_METRICS)?;
        openmetrics::parse_openmetrics(&response.body).unwrap_or_else(|error| panic!("{error}:\n{}", response.body));
        Ok(Self::read(response.body))
    }

    fn read(text: String) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let series = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self { series: series.collect(), text }
    }

    /// The sum over all series of this name that have all of these labels, written as `name="value"`.
    fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let is_meant = |series: &str| {
            let (its_name, its_labels) = series.split_once('{').unwrap_or((series, ""));
            its_name == name && labels.iter().all(|label| its_labels.contains(label))
        };
        self.series.iter().filter(|(series, _)| is_meant(series)).map(|(_, value)| *value as u64).sum()
    }

    /// Nothing that counts is less than it was before, or missing.
    fn assert_follows(&self, before: &Scrape) {
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap();
            ["_total", "_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix))
        };
        for (series, old) in before.series.iter().filter(|(series, _)| counts(series)) {
            match self.series.get(series) {
                Some(new) => assert!(new >= old, "{series} went back from {old} to {new}"),
                // Nobody knows it while a worker ends.
                None => assert!(series.starts_with("croupier_worker_cpu_seconds_total"), "{series} is gone"),
            }
        }
    }
}

fn scrape(control: &str, accept: &str) -> std::io::Result<http::Response> {
    let mut client = Client::connect_unix(control)?;
    client.send(&format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n"))?;
    client.response()
}

/// Scrapes without a pause until it is ended, and compares each with the one before.
struct Watcher {
    done: Arc<AtomicBool>,
    looks: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<()>,
}

impl Watcher {
    fn start(croupier: &Croupier) -> Self {
        let (done, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (control, is_done, count) = (croupier.control(), Arc::clone(&done), Arc::clone(&looks));
        let thread = std::thread::spawn(move || {
            let mut last = Scrape::at(&control).unwrap();
            while !is_done.load(Ordering::Relaxed) {
                // An image that is replaced answers nobody any more.
                let Ok(scrape) = Scrape::at(&control) else { continue };
                scrape.assert_follows(&last);
                last = scrape;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { done, looks, thread }
    }

    /// Waits until it has seen what there is now, unless something has gone back.
    #[track_caller]
    fn wait_for_a_look(&self) {
        // The one that is under way may have begun before.
        let seen = self.looks.load(Ordering::Relaxed) + 2;
        wait_until("a scrape", || self.looks.load(Ordering::Relaxed) >= seen || self.thread.is_finished());
    }

    fn end(self) {
        self.wait_for_a_look();
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("it says itself what went back");
    }
}

#[track_caller]
fn wait_for(croupier: &Croupier, name: &str, labels: &[&str], value: u64) {
    let mut last = 0;
    let is_so = support::until(|| {
        last = Scrape::of(croupier).sum(name, labels);
        (last == value).then_some(())
    });
    assert!(is_so.is_some(), "{name}{labels:?} is {last}, not {value}");
}

#[test]
fn the_sums_are_what_clients_counted_and_nothing_goes_back_whatever_happens() {
    let mut croupier = Croupier::demo(&["--workers", "3", "--stall-after", "1h"]);
    let address = croupier.wait_ready(3);
    let watcher = Watcher::start(&croupier);
    let mut connections = load(&address);

    // Two connections are open at each worker when one of them is killed.
    let mut kept: Vec<Client> = (0..6).map(|_| Client::connect(&address).unwrap()).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    connections += 6;
    wait_for(&croupier, "croupier_open_connections", &[], 6);
    processes::send(croupier.wait_started(2).pid, Signal::SIGKILL);
    croupier.wait_ready(4);
    wait_for(&croupier, "croupier_cut_total", &["slot=\"1\""], 2);
    wait_for(&croupier, "croupier_open_connections", &[], 4);
    wait_for(&croupier, "croupier_worker_restarts_total", &["slot=\"1\"", "reason=\"failed\""], 1);
    watcher.wait_for_a_look();
    drop(kept);
    connections += load(&address);

    croupier.signal(Signal::SIGHUP);
    croupier.log().wait_for("reload done generation=1");
    connections += load(&address);
    watcher.wait_for_a_look();
    croupier.client(&["scale", "1"]).assert_ok();
    connections += load(&address);
    watcher.wait_for_a_look();
    croupier.client(&["upgrade"]).assert_ok();
    watcher.wait_for_a_look();
    croupier.client(&["scale", "3"]).assert_ok();
    croupier.wait_ready(9);
    connections += load(&address);
    watcher.end();

    wait_for(&croupier, "croupier_open_connections", &[], 0);
    let end = Scrape::of(&croupier);
    let connections = connections as u64;
    let came_back = end.sum("croupier_redealt_total", &[]);
    assert_eq!(end.sum("croupier_accepted_total", &[]), connections);
    assert_eq!(end.sum("croupier_dealt_total", &[]), connections + came_back);
    assert_eq!(end.sum("croupier_closed_total", &[]) + end.sum("croupier_cut_total", &[]), {
        end.sum("croupier_taken_total", &[])
    });
    // A connection that was given back is taken twice.
    let given_back = end.sum("croupier_redealt_total", &["reason=\"given_back\""]);
    assert_eq!(end.sum("croupier_taken_total", &[]), connections + given_back);
    assert_eq!(end.sum("croupier_accept_to_take_seconds_count", &[]), connections);
    assert_eq!(end.sum("croupier_cut_total", &[]), 2);
    for (slot, starts) in [("slot=\"0\"", 2), ("slot=\"1\"", 4), ("slot=\"2\"", 3)] {
        assert_eq!(end.sum("croupier_worker_starts_total", &[slot]), starts, "{slot}");
        assert_eq!(end.sum("croupier_worker_restarts_total", &[slot, "reason=\"reload\""]), 1, "{slot}");
        assert!(end.sum("croupier_taken_total", &[slot]) >= connections / 6, "{slot}:\n{}", end.text);
    }
    assert_eq!(end.sum("croupier_worker_starts_total", &[]) - end.sum("croupier_worker_ends_total", &[]), 3);
    assert_eq!((end.sum("croupier_upgrades_total", &[]), end.sum("croupier_generation", &[])), (1, 1));
    assert_eq!(croupier.terminate(), Some(0));
}

/// Some clients, each with a connection for each request. How many connections that were.
fn load(address: &str) -> usize {
    let load = Load::start(address, 4, 0);
    load.wait_for(100);
    load.end()
}

#[test]
fn connections_that_come_back_are_counted_by_the_reason() {
    let orders = Orders::new();
    let options = ["--workers", "2", "--stall-after", "1h", &orders.option()];
    let croupier = Croupier::of_role(&options, "worker_on_command");
    let address = croupier.wait_ready(2);
    let mut clients = clients_with_requests(&address, 6);
    wait_for(&croupier, "croupier_untaken_connections", &["slot=\"1\""], 3);
    orders.give(&croupier, 2, "pause");
    wait_for(&croupier, "croupier_redealt_total", &["reason=\"refused\""], 3);
    wait_for(&croupier, "croupier_untaken_connections", &["slot=\"0\""], 6);
    orders.give(&croupier, 2, "take");
    orders.give(&croupier, 2, "resume");
    orders.give(&croupier, 1, "return");
    orders.give(&croupier, 1, "take");
    for client in &mut clients {
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    wait_for(&croupier, "croupier_redealt_total", &["reason=\"given_back\""], 6);
    wait_for(&croupier, "croupier_redealt_total", &[], 9);

    let stopped_worker = |options: &[&str]| {
        let croupier = Croupier::demo(&[&["--workers", "2"], options].concat());
        let address = croupier.wait_ready(2);
        let stopped = croupier.wait_started(1).pid;
        processes::stop(stopped);
        let clients = clients_with_requests(&address, 4);
        (croupier, stopped, clients)
    };
    let (croupier, _, mut clients) = stopped_worker(&[]);
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().worker(), 2));
    wait_for(&croupier, "croupier_redealt_total", &["reason=\"reclaimed\""], 2);
    wait_for(&croupier, "croupier_redealt_total", &[], 2);

    let (croupier, stopped, mut clients) = stopped_worker(&["--stall-after", "1h"]);
    wait_for(&croupier, "croupier_untaken_connections", &["slot=\"0\""], 2);
    processes::send(stopped, Signal::SIGKILL);
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().status, 200));
    wait_for(&croupier, "croupier_redealt_total", &["reason=\"died\""], 2);
    wait_for(&croupier, "croupier_redealt_total", &[], 2);

    let (croupier, stopped, mut clients) = stopped_worker(&["--stall-after", "1h"]);
    wait_for(&croupier, "croupier_untaken_connections", &["slot=\"0\""], 2);
    croupier.client(&["reload"]).assert_ok();
    clients.iter_mut().for_each(|client| assert_eq!(client.response().unwrap().status, 200));
    wait_for(&croupier, "croupier_redealt_total", &["reason=\"drained\""], 2);
    wait_for(&croupier, "croupier_redealt_total", &[], 2);
    processes::send(stopped, Signal::SIGCONT);
}

#[test]
fn restarts_are_counted_by_the_reason() {
    let place = Directory::new();
    let script = "hold a 127.0.0.1:0\nonly 2 wait leave\nonly 2 exit 0";
    let mut run = support::undeclared(&["--workers", "2", "--recycle-after", "1"]);
    run = script::scripted(run, &place, script);
    let scripted = Scripted { croupier: Croupier::spawn(run), place };
    let address = scripted.dealt_address("a", 2);
    let croupier = &scripted.croupier;
    let count = |slot: u32, reason: &str, value| {
        let (slot, reason) = (format!("slot=\"{slot}\""), format!("reason=\"{reason}\""));
        wait_for(croupier, "croupier_worker_restarts_total", &[&slot, &reason], value);
    };
    scripted.go_on("leave");
    count(1, "exited", 1);
    croupier.wait_ready(3);
    control(croupier, "POST /workers/1/disconnect");
    count(0, "disconnected", 1);
    croupier.wait_ready(4);
    processes::send(croupier.wait_started(3).pid, Signal::SIGKILL);
    count(1, "failed", 1);
    croupier.wait_ready(5);
    assert_eq!(http::get(&address).unwrap().status, 200);
    wait_until("one of them is recycled", || {
        Scrape::of(croupier).sum("croupier_worker_restarts_total", &["reason=\"recycle\""]) == 1
    });
    assert_eq!(Scrape::of(croupier).sum("croupier_worker_restarts_total", &[]), 4);
}

#[test]
fn pauses_of_accepting_are_counted_by_the_reason() {
    let croupier = Croupier::demo(&["--workers", "1", "--connections-max", "2"]);
    let address = croupier.wait_ready(1);
    let mut holders: Vec<Client> = (0..2).map(|_| Client::connect(&address).unwrap()).collect();
    holders.iter_mut().for_each(|client| assert_eq!(client.get().unwrap().status, 200));
    let waiting = clients_with_requests(&address, 2);
    wait_for(&croupier, "croupier_accept_pauses_total", &["reason=\"no_room\""], 1);
    drop((holders, waiting));

    // Numbers 0 to 2 are taken, and the kernel gives out none from the limit on.
    let croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    let (soft, hard) = processes::open_files_limits(croupier.pid()).unwrap();
    processes::limit_open_files(croupier.pid(), 3, hard);
    let mut clients = clients_with_requests(&address, 1);
    croupier.log().wait_for("cannot accept");
    processes::limit_open_files(croupier.pid(), soft, hard);
    assert_eq!(clients[0].response().unwrap().status, 200);
    croupier.log().wait_for("dealing again");
    wait_for(&croupier, "croupier_accept_pauses_total", &["reason=\"descriptors\""], 1);
    wait_for(&croupier, "croupier_accept_pauses_total", &[], 1);
    wait_for(&croupier, "croupier_accept_paused", &[], 0);
}

#[test]
fn a_listener_on_demand_that_comes_back_goes_on_counting() {
    let port = script::free_port();
    let script = format!(
        "listen a 127.0.0.1:{port}\nserved a 5\nclose a\nwait again\nlisten b 127.0.0.1:{port}\nserved b 4\nclose b"
    );
    let scripted = Scripted::start(&["--workers", "1"], &script);
    let address = scripted.dealt_address("a", 1);
    let watcher = Watcher::start(&scripted.croupier);
    (0..5).for_each(|_| drop(script::ask(&address)));
    scripted.croupier.log().wait_for("closed: no worker listens there");
    watcher.wait_for_a_look();
    scripted.go_on("again");
    assert_eq!(scripted.address("b", 1), address);
    (0..4).for_each(|_| drop(script::ask(&address)));
    let listener = format!("listener=\"{address}\"");
    for name in ["accepted", "dealt", "taken", "closed"] {
        wait_for(&scripted.croupier, &format!("croupier_{name}_total"), &[&listener], 9);
    }
    watcher.end();
    scripted.end();
}

#[test]
fn a_worker_that_asks_for_ever_more_addresses_does_not_make_ever_more_rows() {
    let script: String = (0..80).map(|_| "listen a 127.0.0.1:0\nclose a\n").collect();
    // The kernel may choose a port again: of another address it is surely new.
    let scripted = Scripted::start(&["--workers", "1"], &(script + "listen last 127.0.0.2:0"));
    let last = scripted.address("last", 1);
    script::ask(&last);
    wait_for(&scripted.croupier, "croupier_taken_total", &["listener=\"other\""], 1);
    let scrape = Scrape::of(&scripted.croupier);
    let rows = scrape.series.keys().filter(|series| series.starts_with("croupier_accepted_total"));
    assert_eq!(rows.count(), croupier::primary::ledger::OWN_ACCOUNTS_MAX + 1);
    scripted.end();
}

#[test]
fn both_formats_are_valid_whatever_an_address_is_made_of() {
    let directory = Directory::new();
    let strange = directory.file("a \"b\" \\ c é {d=\"e\"} # f");
    let croupier = Croupier::demo(&["--workers", "1", "--listen", &format!("unix:{strange}")]);
    croupier.wait_ready(1);
    let response = scrape(&croupier.control(), "text/plain").unwrap();
    assert!(response.head.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    let parsed = prometheus::parse_prometheus(&response.body).unwrap_or_else(|error| panic!("{error}"));
    assert!(parsed.families["croupier_accepted_total"].iter_samples().count() == 2);
    let response = scrape(&croupier.control(), OPEN_METRICS).unwrap();
    assert!(response.head.contains(&format!("\r\ncontent-type: {OPEN_METRICS}\r\n")), "{}", response.head);
    assert!(response.body.ends_with("# EOF\n"));
    openmetrics::parse_openmetrics(&response.body).unwrap();
    let escaped = strange.replace('\\', "\\\\").replace('"', "\\\"");
    assert!(response.body.contains(&format!("listener=\"unix:{escaped}\"")), "{}", response.body);
}

/// Names, types and labels; what a metric means only people can check.
#[test]
fn every_metric_is_in_the_table_of_the_documentation_and_the_other_way_round() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    let address = croupier.wait_ready(1);
    assert_eq!(http::get(&address).unwrap().status, 200);
    let text = scrape(&croupier.control(), "text/plain").unwrap().body;
    let mut live = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let sample_name = if kind == "histogram" { format!("{name}_bucket") } else { name.to_owned() };
        let sample = text.lines().find(|line| line.split(['{', ' ']).next() == Some(&sample_name));
        let sample = sample.unwrap_or_else(|| panic!("{name} has no sample"));
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        let mut labels: Vec<&str> =
            labels.split(',').filter_map(|label| label.split_once('=')).map(|(label, _)| label).collect();
        labels.sort_unstable();
        live.insert((name.to_owned(), kind.to_owned(), labels.join(", ")));
    }
    let documented = TABLE.lines().filter(|line| line.starts_with("| `croupier_")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 7, "{line}");
        let mut labels: Vec<&str> = cells[3].split(", ").collect();
        labels.sort_unstable();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned(), labels.join(", "))
    });
    assert_eq!(documented.collect::<BTreeSet<_>>(), live);
}

#[test]
fn the_machine_s_share_of_every_process_is_told() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let slots = ["slot=\"0\"", "slot=\"1\""];
    let workers = [1, 2].map(|id| croupier.wait_started(id));
    while workers.iter().any(|worker| processes::stat(worker.pid).unwrap().cpu_ticks < 5) {
        (0..100).for_each(|_| assert_eq!(http::get(&address).unwrap().status, 200));
    }
    let scrape = Scrape::of(&croupier);
    assert!(scrape.series["croupier_worker_cpu_seconds_total{slot=\"0\"}"] >= 0.05, "{}", scrape.text);
    assert!(slots.iter().all(|slot| scrape.sum("croupier_worker_resident_memory_bytes", &[slot]) > 100_000));
    assert!(scrape.sum("croupier_primary_resident_memory_bytes", &[]) > 100_000);
    assert!(scrape.series["croupier_primary_cpu_seconds_total"] > 0.0, "{}", scrape.text);
    let open = scrape.sum("croupier_primary_open_fds", &[]);
    assert!((8..100).contains(&open) && open < scrape.sum("croupier_primary_max_fds", &[]), "{open}");

    let status = croupier.status();
    let first = &status["workers"][0];
    assert!(first["rss_bytes"].as_u64().unwrap() > 100_000 && first["cpu_seconds"].as_f64().unwrap() >= 0.05);
    assert!(status["command"].as_str().unwrap().ends_with(" demo"), "{status}");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(status["kernel"], kernel.trim());

    // What the dead have used is not forgotten, also if there was no descriptor to look when they died.
    let (soft, hard) = processes::open_files_limits(croupier.pid()).unwrap();
    for (slot, limit) in [(0, soft), (1, 3)] {
        let series = format!("croupier_worker_cpu_seconds_total{{slot=\"{slot}\"}}");
        let before = Scrape::of(&croupier).series[&series];
        assert!(before >= 0.05, "{before}");
        processes::limit_open_files(croupier.pid(), limit, hard);
        let worker = workers[slot];
        processes::send(worker.pid, Signal::SIGKILL);
        croupier.log().wait_for(&format!("worker={} pid={} exited", worker.id, worker.pid));
        processes::limit_open_files(croupier.pid(), soft, hard);
        let after = Scrape::of(&croupier);
        assert!(after.series[&series] >= before, "{before} before {}", after.text);
    }
}

/// It takes one to look into /proc.
#[test]
fn without_a_descriptor_left_nothing_that_counts_falls_to_0() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    let mut client = Client::connect_unix(&croupier.control()).unwrap();
    let mut scrape = || {
        client.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        Scrape::read(client.response().unwrap().body)
    };
    let of_processes = |scrape: &Scrape| {
        let names = ["croupier_primary_", "croupier_worker_cpu_"];
        scrape.series.keys().filter(|series| names.iter().any(|name| series.starts_with(name))).count()
    };
    assert_eq!(of_processes(&scrape()), 5);
    let (soft, hard) = processes::open_files_limits(croupier.pid()).unwrap();
    processes::limit_open_files(croupier.pid(), 3, hard);
    let without = scrape();
    processes::limit_open_files(croupier.pid(), soft, hard);
    assert_eq!((of_processes(&without), without.sum("croupier_primary_max_fds", &[])), (1, 3), "{}", without.text);
}

#[test]
fn the_monitor_tells_the_same() {
    let croupier = Croupier::demo(&["--workers", "1", "--monitor", "127.0.0.1:0"]);
    croupier.wait_ready(1);
    let monitor = croupier.monitor();
    let mut client = Client::connect(&monitor).unwrap();
    client.send(&format!("GET /metrics HTTP/1.1\r\nhost: {monitor}\r\n\r\n")).unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').next().unwrap().into()).collect()
    };
    let response = client.response().unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(names(&response.body), names(&scrape(&croupier.control(), "*/*").unwrap().body));
}

fn control(croupier: &Croupier, request: &str) {
    let mut client = Client::connect_unix(&croupier.control()).unwrap();
    client.send(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n")).unwrap();
    assert_eq!(client.response().unwrap().status, 200, "{request}");
}

/// Clients that have sent a request after which they expect the end.
fn clients_with_requests(address: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(http::LAST_REQUEST).unwrap());
    clients
}

#[test]
fn worker_on_command() {
    if roles::plays("worker_on_command") {
        roles::obey_files();
    }
}

#[test]
fn worker_with_script() {
    script::play();
}
