//! `--proxy-protocol`: whatever way a worker accepts, it gets the client's address and the client's bytes, and only
//! from proxies that may say so.

#![cfg(feature = "cli")]

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use croupier::worker::event_loop::{EventLoop, Exchange, Next, Server};
use croupier::worker::{ListenOptions, Listener, PROXY_HEADER_TIMEOUT, Worker};
use nix::sys::signal::Signal;

use support::http::{Client, LAST_REQUEST, REQUEST};
use support::roles::{self, Orders};
use support::{Croupier, DEADLINE, Directory, Outcome};

const CLIENT: &str = "192.0.2.7:4711";
const V1: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n";
/// The same of version 2, with a TLV.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\xc0\0\x02\x01\x12\x67\0\x50\x04\0\x01\0";
/// The proxy speaks for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// Allows the tests.
const LOOPBACK: [&str; 4] = ["--workers", "1", "--proxy-protocol", "127.0.0.0/8"];

// The workers: each answers with the address that it knows for the client.

/// On the event loop.
struct Naming;

impl Server for Naming {
    type Session = String;

    fn open(&mut self, peer: Option<SocketAddr>) -> String {
        answer(peer)
    }

    fn receive(&mut self, answer: &mut String, exchange: &mut Exchange<'_>) -> Next {
        if !exchange.input.ends_with(b"\r\n\r\n") {
            return Next::Busy;
        }
        // Pipelined ones are as good.
        for _ in 0..exchange.input.windows(4).filter(|it| it == b"\r\n\r\n").count() {
            exchange.output.extend_from_slice(answer.as_bytes());
        }
        exchange.input.clear();
        Next::Idle
    }
}

fn answer(peer: Option<SocketAddr>) -> String {
    let id = roles::join().id();
    let body = peer.map_or_else(|| "nobody".into(), |peer| peer.to_string());
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-worker: {id}\r\n\r\n{body}", body.len())
}

fn first(worker: &Worker) -> Listener {
    worker.listen_on_first(&ListenOptions::new()).unwrap()
}

#[test]
fn naming_event_loop() {
    if roles::plays("naming_event_loop") {
        let worker = roles::join();
        let mut event_loop = EventLoop::new(Naming).unwrap();
        event_loop.listen(first(&worker)).unwrap();
        event_loop.run().unwrap();
    }
}

/// One thread: whoever keeps it waiting keeps everybody waiting.
#[test]
fn naming_thread() {
    if roles::plays("naming_thread") {
        for connection in first(&roles::join()).incoming() {
            let mut connection = connection.unwrap();
            let peer = connection.peer_addr();
            let _ = serve_one(&mut connection, peer);
        }
    }
}

fn serve_one(stream: &mut (impl Read + Write), peer: Option<SocketAddr>) -> io::Result<()> {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        received.push(byte[0]);
    }
    stream.write_all(answer(peer).as_bytes())
}

#[cfg(feature = "axum")]
#[test]
fn naming_tasks() {
    use croupier::worker::tokio::Listener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn serve() {
        let listener = Listener::new(first(&roles::join())).unwrap();
        let mut serving = tokio::task::JoinSet::new();
        while let Some(mut connection) = listener.accept().await.unwrap() {
            serving.spawn(async move {
                let mut received = Vec::new();
                while !received.ends_with(b"\r\n\r\n") {
                    match connection.read_buf(&mut received).await {
                        Ok(len) if len > 0 => {}
                        _ => return,
                    }
                }
                let _ = connection.write_all(answer(connection.peer_addr()).as_bytes()).await;
            });
        }
        while serving.join_next().await.is_some() {}
    }

    if roles::plays("naming_tasks") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    }
}

#[cfg(feature = "axum")]
#[test]
fn naming_axum() {
    use axum::extract::ConnectInfo;
    use axum::routing::get;
    use croupier::worker::axum::Address;
    use croupier::worker::tokio::Listener;

    async fn serve() {
        let listener = Listener::new(first(&roles::join())).unwrap();
        let ended = listener.ended();
        let name = |ConnectInfo(Address(peer))| async move {
            peer.map_or_else(|| "nobody".into(), |it: SocketAddr| it.to_string())
        };
        let app = axum::Router::new().route("/", get(name)).into_make_service_with_connect_info::<Address>();
        axum::serve(listener, app).with_graceful_shutdown(ended).await.unwrap();
    }

    if roles::plays("naming_axum") {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    }
}

const WAYS: &[&str] = &[
    "naming_event_loop",
    "naming_thread",
    #[cfg(feature = "axum")]
    "naming_tasks",
    #[cfg(feature = "axum")]
    "naming_axum",
];

// The clients.

fn connect(address: &str) -> Client {
    Client::connect(address).unwrap()
}

fn send(client: &Client, bytes: &[u8]) {
    (&mut client.stream()).write_all(bytes).unwrap();
}

/// What the worker says to a client that has sent these bytes.
#[track_caller]
fn name(address: &str, bytes: &[&[u8]]) -> String {
    let mut client = connect(address);
    send(&client, &bytes.concat());
    client.response().unwrap().body
}

/// It ends, by a FIN or a reset, without an answer.
#[track_caller]
fn assert_ended(client: &Client) {
    match client.stream().read(&mut [0; 64]) {
        Ok(len) => assert_eq!(len, 0, "it was answered"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

#[test]
fn every_way_to_accept_knows_the_client_and_has_all_its_bytes() {
    for way in WAYS {
        let mut croupier = Croupier::of_role(&LOOPBACK, way);
        let address = croupier.wait_ready(1);
        assert_eq!(name(&address, &[V1.as_bytes(), LAST_REQUEST.as_bytes()]), CLIENT, "{way}");
        assert_eq!(name(&address, &[V2, LAST_REQUEST.as_bytes()]), CLIENT, "{way}");

        let mut local = connect(&address);
        send(&local, &[LOCAL, LAST_REQUEST.as_bytes()].concat());
        assert_eq!(local.response().unwrap().body, local.own_address().to_string(), "{way}");

        let mut in_bytes = connect(&address);
        in_bytes.stream().set_nodelay(true).unwrap();
        for byte in [V2, LAST_REQUEST.as_bytes()].concat() {
            send(&in_bytes, &[byte]);
        }
        assert_eq!(in_bytes.response().unwrap().body, CLIENT, "{way}");
        assert_eq!(croupier.terminate(), Some(0), "{way}");
    }
}

#[test]
fn pipelined_requests_behind_the_header_are_all_answered() {
    let mut croupier = Croupier::of_role(&LOOPBACK, "naming_event_loop");
    let mut client = connect(&croupier.wait_ready(1));
    send(&client, &[V1.as_bytes(), REQUEST.as_bytes(), REQUEST.as_bytes()].concat());
    for _ in 0..2 {
        assert_eq!(client.response().unwrap().body, CLIENT);
    }
    assert_eq!(client.get().unwrap().body, CLIENT);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_proxy_that_sends_no_header_in_time_is_ended_and_holds_up_nobody() {
    for way in WAYS {
        let mut croupier = Croupier::of_role(&LOOPBACK, way);
        let address = croupier.wait_ready(1);
        let begun = std::time::Instant::now();
        let (silent, slow) = (connect(&address), connect(&address));
        send(&slow, &V2[..20]);
        for _ in 0..20 {
            assert_eq!(name(&address, &[V1.as_bytes(), LAST_REQUEST.as_bytes()]), CLIENT, "{way}");
        }
        assert_ended(&silent);
        assert_ended(&slow);
        assert!(begun.elapsed() >= PROXY_HEADER_TIMEOUT, "{way}: not before its time");
        assert_eq!(name(&address, &[V1.as_bytes(), LAST_REQUEST.as_bytes()]), CLIENT, "{way}");
        assert_eq!(croupier.terminate(), Some(0), "{way}");
    }
}

#[test]
fn a_connection_without_a_header_ends() {
    let mut croupier = Croupier::of_role(&LOOPBACK, "naming_event_loop");
    let address = croupier.wait_ready(1);
    for garbage in [REQUEST.as_bytes(), b"PROXY TCP4 192.0.2.7 ::1 4711 80\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"] {
        let client = connect(&address);
        send(&client, garbage);
        assert_ended(&client);
    }
    assert_eq!(name(&address, &[V2, LAST_REQUEST.as_bytes()]), CLIENT);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_stranger_ends_whatever_it_sends() {
    let options = ["--workers", "1", "--proxy-protocol", "127.0.0.2,10.0.0.0/8"];
    let mut croupier = Croupier::of_role(&options, "naming_event_loop");
    let address = croupier.wait_ready(1);
    let stranger = connect(&address);
    let _ = (&mut stranger.stream()).write_all(V1.as_bytes());
    assert_ended(&stranger);

    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.2:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    let mut listed = Client::on(TcpStream::from(socket));
    listed.stream().set_read_timeout(Some(DEADLINE)).unwrap();
    listed.send(V1).unwrap();
    assert_eq!(listed.get().unwrap().body, CLIENT);
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn without_the_option_a_header_is_the_clients_own_affair() {
    let mut croupier = Croupier::of_role(&["--workers", "1"], "naming_event_loop");
    let mut client = connect(&croupier.wait_ready(1));
    assert_eq!(client.get().unwrap().body, client.own_address().to_string());
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn clients_of_a_unix_listener_have_the_address_that_the_proxy_names() {
    let directory = Directory::new();
    let path = directory.file("listener.sock");
    let mut run = support::undeclared(&["--workers", "1", "--proxy-protocol", "unix"]);
    let role = "naming_event_loop";
    run.args(["--listen", &format!("unix:{path}"), &format!("--env={}={role}", roles::ROLE), "--"]);
    let mut croupier = Croupier::spawn({
        run.args(roles::command(role));
        run
    });
    croupier.wait_ready(1);
    let mut client = Client::connect_unix(&path).unwrap();
    client.send(V1).unwrap();
    assert_eq!(client.get().unwrap().body, CLIENT);
    // On to another worker, which does not look for a header again.
    croupier.signal(Signal::SIGHUP);
    support::wait_until("the second worker", || {
        let response = client.get().unwrap();
        assert_eq!(response.body, CLIENT);
        response.worker() == 2
    });
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn a_connection_that_is_given_back_keeps_its_address_and_its_bytes() {
    let orders = Orders::new();
    let options = ["--workers", "2", "--proxy-protocol", "127.0.0.1", &orders.option()];
    let mut croupier = Croupier::of_role(&options, "worker_that_obeys");
    let address = croupier.wait_ready(2);
    orders.give(&croupier, 1, "return");
    [1, 2].iter().for_each(|id| orders.give(&croupier, *id, "take"));
    let mut clients: Vec<Client> = (0..4).map(|_| connect(&address)).collect();
    for client in &mut clients {
        send(client, &[V2, LAST_REQUEST.as_bytes()].concat());
        assert_eq!(client.response().unwrap().worker(), 2);
    }
    croupier.log().wait_for_count(&format!("worker 2 has a connection of Some({CLIENT})"), 4);
    croupier.log().wait_for(&format!("worker 1 returns a connection of Some({CLIENT})"));
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn worker_that_obeys() {
    if roles::plays("worker_that_obeys") {
        roles::obey_files();
    }
}

#[test]
fn half_a_header_outlives_a_reload_and_an_upgrade_keeps_the_option() {
    let mut croupier = Croupier::of_role(&LOOPBACK, "naming_event_loop");
    let address = croupier.wait_ready(1);
    let mut half = connect(&address);
    half.send(&V1[..20]).unwrap();
    assert_eq!(name(&address, &[V1.as_bytes(), LAST_REQUEST.as_bytes()]), CLIENT, "so the half one was taken");
    croupier.signal(Signal::SIGHUP);
    croupier.wait_ready(2);
    half.send(&V1[20..]).unwrap();
    assert_eq!(half.get().unwrap().body, CLIENT);
    croupier.signal(Signal::SIGUSR2);
    croupier.log().wait_for("took over");
    assert_eq!(name(&address, &[V2, LAST_REQUEST.as_bytes()]), CLIENT);
    croupier.signal(Signal::SIGHUP);
    croupier.wait_ready(3);
    assert_eq!(name(&address, &[V2, LAST_REQUEST.as_bytes()]), CLIENT, "by a worker of the new image");
    assert_eq!(croupier.terminate(), Some(0));
}

#[test]
fn workers_that_share_the_socket_take_headers_off_too() {
    for way in WAYS {
        let options = [&LOOPBACK[..], &["--policy", "shared"]].concat();
        let mut croupier = Croupier::of_role(&options, way);
        let address = croupier.wait_ready(1);
        let mut slow = connect(&address);
        slow.send(&V1[..7]).unwrap();
        assert_eq!(name(&address, &[V1.as_bytes(), LAST_REQUEST.as_bytes()]), CLIENT, "{way}");
        slow.send(&V1[7..]).unwrap();
        slow.send(LAST_REQUEST).unwrap();
        assert_eq!(slow.response().unwrap().body, CLIENT, "{way}");
        assert_eq!(croupier.terminate(), Some(0), "{way}");
    }
}

#[test]
fn a_listener_has_its_own_proxies_or_none() {
    let directory = Directory::new();
    let path = directory.file("own.sock");
    let listen = format!("127.0.0.1:0,proxy-protocol=off,unix:{path},proxy-protocol=unix");
    let run = ["--workers", "1", "--listen", &listen, "--proxy-protocol", "10.0.0.0/8"];
    let mut run = support::undeclared(&run);
    run.args([&format!("--env={}=naming_event_loop", roles::ROLE), "--"]).args(roles::command("naming_event_loop"));
    let mut croupier = Croupier::spawn(run);
    let mut client = connect(&croupier.wait_ready(1));
    assert_eq!(client.get().unwrap().body, client.own_address().to_string());
    assert_eq!(croupier.terminate(), Some(0));

    let check = |options: &[&str]| {
        Outcome::of({
            let mut check = support::plain(support::PROGRAM);
            check.arg("check").args(options);
            check
        })
    };
    let outcome = check(&["--listen", &listen, "--proxy-protocol", "10.0.0.0/8,unix"]);
    let listen = format!(r#"listen = ["127.0.0.1:0,proxy-protocol=off","unix:{path},proxy-protocol=unix"]"#);
    assert!(outcome.assert_ok().stdout.contains(&listen), "{outcome:?}");
    assert!(outcome.stdout.contains(r#"proxy-protocol = "10.0.0.0/8,unix""#), "{outcome:?}");
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let hash = "source-hash goes by the client's address";
    for (options, text) in [
        (&["--proxy-protocol", "10.0.0.0/8", "--policy", "source-hash"][..], hash),
        (&["--proxy-protocol", "10.0.0.0/8", "--listen", "a:1,policy=source-hash"], hash),
        (&["--policy", "source-hash", "--listen", "a:1,proxy-protocol=unix"], hash),
        (&["--proxy-protocol", "proxy.example"], "\"proxy.example\" is no proxy: write networks"),
        (&["--proxy-protocol", ""], "is no proxy"),
        (&["--listen", "127.0.0.1:0,proxy-protocol=10.0.0.0/40"], "\"10.0.0.0/40\" is no proxy"),
    ] {
        for command in ["run", "check"] {
            let mut croupier = support::plain(support::PROGRAM);
            croupier.arg(command).args(options);
            let outcome = Outcome::of(croupier);
            assert!(outcome.code == Some(2) && outcome.stderr.contains(text), "{options:?}: {outcome:?}");
        }
    }
}

#[test]
fn curl_speaks_it_too() {
    let mut croupier = Croupier::of_role(&LOOPBACK, "naming_event_loop");
    let url = format!("http://{}/", croupier.wait_ready(1));
    let curl = |options: &[&str]| {
        let output = Command::new("curl").args(["--silent", "--max-time", "20", &url]).args(options).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (is_answered, name) = curl(&["--haproxy-protocol"]);
    assert!(is_answered && name.starts_with("127.0.0.1:"), "{name}");
    assert!(!curl(&[]).0);
    assert_eq!(croupier.terminate(), Some(0));
}

/// Kills it when it is dropped.
struct Balancer(std::process::Child);

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// HAProxy in front of `server`, which it talks to with these options; and where clients connect to it.
fn haproxy(directory: &Directory, server: &str, options: &str) -> (Balancer, String) {
    let configuration = format!(
        "defaults\n mode tcp\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n\
         listen all\n bind fd@3\n server one {server} {options}\n"
    );
    let file = directory.file(&format!("{options}.cfg"));
    std::fs::write(&file, configuration).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = support::plain("sh");
    command.args(["-c", "exec 3<&0 0</dev/null; exec haproxy -db -q -f \"$0\"", &file]);
    command.stdin(std::os::fd::OwnedFd::from(listener)).stderr(std::process::Stdio::null());
    (Balancer(command.spawn().unwrap()), address)
}

#[test]
fn behind_haproxy_workers_know_the_clients_of_haproxy() {
    let directory = Directory::new();
    for way in WAYS {
        let mut croupier = Croupier::of_role(&LOOPBACK, way);
        let server = croupier.wait_ready(1);
        for options in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id"] {
            let (_balancer, address) = haproxy(&directory, &server, options);
            let mut client = connect(&address);
            client.send(LAST_REQUEST).unwrap();
            assert_eq!(client.response().unwrap().body, client.own_address().to_string(), "{way}, {options}");
        }
        assert_eq!(croupier.terminate(), Some(0), "{way}");
    }
}

#[test]
fn many_at_once_are_all_named() {
    for way in WAYS {
        let mut croupier = Croupier::of_role(&LOOPBACK, way);
        let address = croupier.wait_ready(1);
        // The headers come in the opposite order.
        let mut clients: Vec<Client> = (0..100).map(|_| connect(&address)).collect();
        for (number, client) in clients.iter_mut().enumerate().rev() {
            client.send(&format!("PROXY TCP4 192.0.2.7 192.0.2.1 {number} 80\r\n{LAST_REQUEST}")).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().unwrap().body, format!("192.0.2.7:{number}"), "{way}");
        }
        assert_eq!(croupier.terminate(), Some(0), "{way}");
    }
}
