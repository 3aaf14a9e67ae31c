//! Node programs as workers, as they are: who serves what, in which turn, and what a program sees of the world.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use croupier::primary::settings::NODE_DEPTH_DEFAULT;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

use support::http::{self, Client};
use support::node;
use support::script::Scripted;
use support::{Croupier, Directory, processes, wait_until};

// Who serves.

#[test]
fn connections_go_round_the_workers_of_a_program_that_only_listens() {
    let mut croupier = node::start(&["--workers=3"], "http.js", &[]);
    let address = croupier.wait_ready(3);
    let answers = http::next_workers(&address, 12);
    assert!(http::is_rotation(&answers, 3), "{answers:?}");
    let mut kept = Client::connect(&address).unwrap();
    let served: BTreeSet<u32> = (0..5).map(|_| kept.get().unwrap().worker()).collect();
    assert_eq!(served.len(), 1, "whoever has a connection keeps it");
    drop(kept);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_module_that_listens_late_is_dealt_to_when_it_does() {
    let mut croupier = node::start(&["--workers=2"], "module.mjs", &[]);
    let address = croupier.wait_ready(2);
    assert!(http::is_rotation(&http::next_workers(&address, 6), 2));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn the_same_client_has_the_same_worker_if_the_policy_says_so() {
    let mut croupier = node::start(&["--workers=3", "--policy=source-hash"], "http.js", &[]);
    let address = croupier.wait_ready(3);
    let served: BTreeSet<u32> = http::next_workers(&address, 9).into_iter().collect();
    assert_eq!(served.len(), 1, "{served:?}");
    // Also of more at once than may otherwise wait for one worker: they belong to sessions.
    let count = 3 * NODE_DEPTH_DEFAULT;
    let mut kept: Vec<Client> = (0..count).map(|_| Client::connect(&address).unwrap()).collect();
    assert!(kept.iter_mut().all(|client| served.contains(&client.get().unwrap().worker())));
    drop(kept);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn workers_accept_themselves_if_the_policy_says_so() {
    let mut croupier = node::start(&["--workers=2", "--policy=shared"], "http.js", &[]);
    let address = croupier.wait_ready(2);
    for worker in croupier.started() {
        let other = croupier.started().into_iter().find(|it| it.id != worker.id).unwrap();
        processes::stop(other.pid);
        assert_eq!(http::next_workers(&address, 3), [worker.id; 3]);
        processes::send(other.pid, Signal::SIGCONT);
    }
    assert_eq!(croupier.terminate(), Some(0));
}

// What it sees.

#[test]
fn a_program_is_told_that_it_is_a_worker_and_what_it_starts_is_none() {
    let options = ["--workers=2", "--env=MODE=fast", "--chdir=/"];
    let mut croupier = node::start(&options, "http.js", &["an argument", "--another"]);
    let address = croupier.wait_ready(2);
    let mut worlds = [node::world(&address), node::world(&address)];
    worlds.sort_by_key(|world| world["id"].as_u64());
    for (world, worker) in worlds.iter().zip(croupier.started()) {
        assert_eq!((&world["isWorker"], &world["isMaster"]), (&true.into(), &false.into()));
        assert_eq!((&world["id"], &world["connected"]), (&worker.id.into(), &true.into()));
        assert_eq!(world["instance"], worker.slot.to_string());
        assert_eq!(world["argv"], serde_json::json!(["an argument", "--another"]));
        assert_eq!((&world["cwd"], &world["mode"]), (&"/".into(), &"fast".into()));
        let child = &world["child"];
        assert_eq!((&child["isWorker"], &child["isMaster"]), (&false.into(), &true.into()));
        for variables in [&world["variables"], &child["variables"]] {
            let taken = ["NODE_CHANNEL_FD", "NODE_UNIQUE_ID", "NODE_CHANNEL_SERIALIZATION_MODE", "CROUPIER_CHANNEL"];
            let text = variables.to_string();
            assert!(taken.iter().all(|name| !text.contains(name)), "{text}");
        }
    }
    assert_eq!(croupier.terminate(), Some(0));
}

/// As the number of a variable says, and nothing else is open at the start: Node opens the rest.
#[test]
fn the_channel_is_a_descriptor_of_any_number() {
    let mut croupier = node::start(&["--workers=1"], "http.js", &[]);
    croupier.wait_ready(1);
    let environment = processes::environment(croupier.wait_started(1).pid);
    let channel: i32 = environment["NODE_CHANNEL_FD"].parse().unwrap();
    assert!(channel > 2, "{environment:?}");
    assert_eq!(environment["NODE_UNIQUE_ID"], "1");
    assert_eq!(environment["NODE_CHANNEL_SERIALIZATION_MODE"], "json");
    assert!(!environment.contains_key("CROUPIER_CHANNEL"));
    assert_eq!(croupier.terminate(), Some(0));
}

/// Not by those of the other kind either, of which it would make something that they are not.
#[test]
fn an_embedders_or_parents_channel_is_not_inherited() {
    let of_node = ["NODE_CHANNEL_FD", "NODE_UNIQUE_ID", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_APP_INSTANCE"];
    let of_croupier = ["CROUPIER_CHANNEL"];
    let with_both = |mut command: Command| {
        command.envs(of_node.iter().chain(&of_croupier).map(|name| (name, "77")));
        Croupier::spawn(command)
    };
    let variables = |croupier: &Croupier| processes::environment(croupier.wait_started(1).pid);

    let mut croupier = with_both(node::served(support::PROGRAM, &["--workers=1"], &[&node::path("http.js")]));
    assert_eq!(node::world(&croupier.wait_ready(1))["id"], 1);
    assert!(of_croupier.iter().all(|name| !variables(&croupier).contains_key(*name)));
    assert_eq!(croupier.terminate(), Some(0));

    let mut croupier = with_both(support::run(&["--workers=1"]));
    croupier.wait_ready(1);
    assert!(of_node.iter().all(|name| !variables(&croupier).contains_key(*name)));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn what_is_preloaded_knows_its_worker() {
    let words = ["-r", &node::path("preload.js"), &node::path("http.js")];
    let mut croupier = node::start_words(&["--workers=2"], &words);
    let address = croupier.wait_ready(2);
    let world = node::world(&address);
    assert_eq!(world["preloadedIn"], world["id"]);
    assert_eq!(world["execArgv"][0], "-r");
    assert_eq!(croupier.terminate(), Some(0));
}

/// What `listen(PORT)` means: the declared listener of that port. What it is told of it is true.
#[test]
fn an_address_without_a_host_means_the_declared_one_with_that_port() {
    let mut croupier = node::start(&["--workers=1", "--declared-only"], "http.js", &[]);
    let address = croupier.wait_ready(1);
    let world = node::world(&address);
    let (host, port) = address.rsplit_once(':').unwrap();
    assert_eq!(
        (&world["listensOn"]["address"], &world["listensOn"]["port"]),
        (&host.into(), &port.parse::<u16>().unwrap().into())
    );
    assert_eq!(world["peer"], "127.0.0.1");
    assert_eq!(croupier.log().count("bound for worker"), 0);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn http_over_a_unix_path_has_no_addresses_and_the_path_goes_with_it() {
    let place = Directory::new();
    let path = place.file("app.sock");
    let run = support::undeclared(&["--workers=2", &format!("--env=PORT={path}")]);
    let mut croupier = Croupier::spawn(node::run(run, &[&node::path("http.js")]));
    croupier.wait_ready(2);
    let mut client = Client::connect_unix(&path).unwrap();
    client.send(&node::request("/json")).unwrap();
    let world: serde_json::Value = serde_json::from_str(&client.response().unwrap().body).unwrap();
    assert_eq!((&world["listensOn"], &world["peer"]), (&path.as_str().into(), &serde_json::Value::Null));
    assert_eq!(croupier.terminate(), Some(0));
    assert!(!std::path::Path::new(&path).exists());
}

/// Whatever the kernel hands out, what Node gets does not block: it would sleep in the middle of that answer.
#[test]
fn a_client_that_does_not_read_stops_nobody_else() {
    for policy in ["--policy=round-robin", "--policy=shared"] {
        let mut croupier = node::start(&["--workers=1", policy], "http.js", &[]);
        let address = croupier.wait_ready(1);
        let mut slow = Client::connect(&address).unwrap();
        slow.send(&node::request("/big")).unwrap();
        wait_until("the answer begins", || slow.hears());
        assert_eq!(http::next_workers(&address, 3), [1, 1, 1]);
        assert_eq!(slow.response().unwrap().body.len(), 64 << 20);
        assert_eq!(croupier.terminate(), Some(0));
    }
}

// Limits of a worker's own.

/// A worker without a descriptor for it loses what it is sent; the primary has a copy.
#[test]
fn more_clients_than_a_worker_has_descriptors_for_are_all_served() {
    const CLIENTS: usize = 60;
    let mut croupier = node::start(&["--workers=1"], "http.js", &[]);
    let address = croupier.wait_ready(1);
    assert_eq!(http::get(&address).unwrap().worker(), 1);
    let worker = croupier.wait_started(1).pid;
    let limit = processes::descriptors(worker).last().unwrap() + 20;
    processes::limit_open_files(worker, limit as u64, limit as u64);
    // Their requests lack the last byte, so that all those that it has taken stay open.
    let head = "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 1\r\n\r\n";
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(&address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(head).unwrap());
    wait_until("it has no descriptor left", || processes::descriptors(worker).len() as i32 >= limit - 1);
    clients.iter_mut().for_each(|client| client.send("x").unwrap());
    assert!(clients.iter_mut().all(|client| client.response().unwrap().worker() == 1));
    assert_eq!(croupier.started().len(), 1);
    assert_eq!(croupier.terminate(), Some(0));
}

/// One worker has room for one connection, the other for nine. Who comes then waits in the primary, which asks again,
/// but not as fast as it can: Node's own burns half a core here.
#[test]
fn who_comes_when_every_worker_has_as_many_as_it_wants_waits_without_cost() {
    let script = "only 1 listen a 127.0.0.1:0 maxConnections=1\nonly 2 listen a 127.0.0.1:0 maxConnections=9";
    let scripted = Scripted::start_node(&["--workers=2"], script);
    let address = scripted.dealt_address("a", 2);
    let mut holders: Vec<Client> = (0..10).map(|_| Client::connect(&address).unwrap()).collect();
    let mut served: Vec<u32> = holders.iter_mut().map(|client| client.get().unwrap().worker()).collect();
    served.sort_unstable();
    assert_eq!(served, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    let mut next = Client::connect(&address).unwrap();
    next.send(http::LAST_REQUEST).unwrap();
    assert!(next.stays_silent());

    let used = || -> Vec<u64> {
        let workers = scripted.croupier.started().into_iter().map(|worker| worker.pid);
        workers.chain([scripted.croupier.pid()]).map(|pid| processes::stat(pid).unwrap().cpu_ticks).collect()
    };
    let before = used();
    std::thread::sleep(Duration::from_secs(1)); // the window of the measurement, not a wait for anything
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    for (after, before) in used().into_iter().zip(before) {
        assert!(after - before < ticks_per_second / 5, "it spins: {} of {ticks_per_second} ticks", after - before);
    }

    let made_room = holders.pop().unwrap().get().unwrap().worker();
    assert_eq!(next.response().unwrap().worker(), made_room);
    drop(holders);
    scripted.end();
}

/// New in Node 22; before, such a worker refuses, and somebody else gets the connection.
#[test]
fn a_worker_that_would_rather_drop_than_refuse_does() {
    let script = "only 1 listen a 127.0.0.1:0 maxConnections=1 dropMaxConnection\nonly 2 listen a 127.0.0.1:0";
    let scripted = Scripted::start_node(&["--workers=2"], script);
    let address = scripted.dealt_address("a", 2);
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(&address).unwrap()).collect();
    let served: Vec<Option<u32>> = clients.iter_mut().map(|client| Some(client.get().ok()?.worker())).collect();
    let count = |who: Option<u32>| served.iter().filter(|it| **it == who).count();
    let expected = if node::version() >= 22 { [1, 4, 3] } else { [1, 7, 0] };
    assert_eq!([count(Some(1)), count(Some(2)), count(None)], expected);
    drop(clients);
    scripted.end();
}

#[test]
fn a_program_may_end_what_it_takes_at_once_and_nobody_else_gets_it() {
    let scripted = Scripted::start_node(&["--workers=2"], "drop a 127.0.0.1:0");
    let address = scripted.dealt_address("a", 2);
    for _ in 0..20 {
        assert_eq!(Client::connect(&address).unwrap().rest().unwrap(), b"", "the primary keeps no copy");
    }
    scripted.end();
}

// https.

#[test]
fn sessions_resume_also_in_workers_that_accept_themselves() {
    let place = Directory::new();
    let (key, certificate) = (place.file("key.pem"), place.file("certificate.pem"));
    make_certificate(&key, &certificate);
    let mut croupier = node::start(&["--workers=2", "--policy=shared"], "https.js", &[&key, &certificate]);
    let address = croupier.wait_ready(2);
    let mut client = HttpsClient::start(&address);
    assert_eq!(client.ask().1, "new");
    for worker in croupier.started() {
        let other = croupier.started().into_iter().find(|it| it.id != worker.id).unwrap();
        processes::stop(other.pid);
        assert_eq!(client.ask(), (worker.id, "resumed".to_owned()));
        processes::send(other.pid, Signal::SIGCONT);
    }
    drop(client);
    assert_eq!(croupier.terminate(), Some(0));
}

/// The primary keeps what the first worker of a listener says of its tickets, and tells everybody who comes.
#[test]
fn sessions_resume_in_other_workers_and_over_a_reload() {
    let place = Directory::new();
    let (key, certificate) = (place.file("key.pem"), place.file("certificate.pem"));
    make_certificate(&key, &certificate);
    let mut croupier = node::start(&["--workers=4"], "https.js", &[&key, &certificate]);
    let address = croupier.wait_ready(4);
    let mut client = HttpsClient::start(&address);
    assert_eq!(client.ask().1, "new");
    let answers: Vec<(u32, String)> = (0..11).map(|_| client.ask()).collect();
    assert!(answers.iter().all(|(_, session)| session == "resumed"), "{answers:?}");
    assert!(http::is_rotation(&answers.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), 4), "{answers:?}");
    croupier.client(&["reload"]).assert_ok();
    for _ in 0..4 {
        let (worker, session) = client.ask();
        assert!(worker > 4 && session == "resumed", "{worker} {session}");
    }
    drop(client);
    assert_eq!(croupier.terminate(), Some(0));
}

fn make_certificate(key: &str, certificate: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", certificate]);
    support::Outcome::of(openssl).assert_ok();
}

/// A client that resumes its first session.
struct HttpsClient {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl HttpsClient {
    fn start(address: &str) -> Self {
        let port = address.rsplit(':').next().unwrap();
        let mut command = Command::new(node::program());
        command.args([&node::path("https_client.js"), port]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, stdin, stdout: BufReader::new(stdout) }
    }

    /// The worker that has answered, and whether the session was a new one.
    #[track_caller]
    fn ask(&mut self) -> (u32, String) {
        self.stdin.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let (worker, session) = line.trim().split_once(' ').unwrap_or_else(|| panic!("it says {line:?}"));
        (worker.parse().unwrap(), session.to_owned())
    }
}

impl Drop for HttpsClient {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
