//! The files in `deploy/`: each is accepted by the program that it is for, and what it has croupier do is done by a
//! real one.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use support::http::{self, Client};
use support::{Croupier, Directory, Outcome, PROGRAM, plain, wait_until};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// With programs that are there.
fn installed(text: &str) -> String {
    text.replace("/usr/local/bin/croupier", PROGRAM).replace("/usr/local/bin/web", &format!("{PROGRAM} demo"))
}

/// What it says of places of a machine, said of places of this test.
fn adapted(text: &str, directory: &Directory) -> String {
    let folder = directory.path().to_str().unwrap();
    installed(text)
        .replace("%t/croupier-web", folder)
        .replace("/run/croupier", folder)
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("0.0.0.0:3001", "127.0.0.1:0")
        .replace("127.0.0.1:3001", "127.0.0.1:0")
}

/// A program and its arguments, of which `croupier` is the one under test.
fn command(words: &[String]) -> Command {
    let words: Vec<&str> = words.iter().map(|word| if word == "croupier" { PROGRAM } else { word }).collect();
    let mut command = plain(words[0]);
    command.args(&words[1..]);
    command
}

fn get(address: &str, path: &str) -> u16 {
    let mut client = Client::connect(address).unwrap();
    client.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).unwrap();
    client.response().unwrap().status
}

/// What `croupier check` makes of the arguments of `croupier run`.
#[track_caller]
fn check(words: &[String]) -> String {
    let words: Vec<String> =
        words.iter().map(|word| if word == "run" { "check".into() } else { word.clone() }).collect();
    Outcome::of(command(&words)).assert_ok().stdout.clone()
}

/// A time in such an output.
#[track_caller]
fn time_in(checked: &str, name: &str) -> Duration {
    let value = checked.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let value = value.unwrap_or_else(|| panic!("no {name} in {checked}"));
    humantime::parse_duration(value.trim_matches('"')).unwrap()
}

/// How long an end may take.
fn longest_end(checked: &str) -> Duration {
    ["shutdown-delay", "shutdown-timeout", "kill-delay"].iter().map(|name| time_in(checked, name)).sum()
}

// systemd.

const SERVICE: &str = "systemd/croupier-web.service";
const SOCKET: &str = "systemd/croupier-web.socket";
const DROP_IN: &str = "systemd/croupier-web.service.d/socket.conf";

/// The values of a setting in a unit, in their order.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let unit = unit.replace("\\\n", "");
    let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The words of the last command of a unit.
fn exec_start(unit: &str) -> Vec<String> {
    settings(unit, "ExecStart").last().unwrap().split(' ').map(str::to_owned).collect()
}

/// What `systemd-analyze verify` finds in these units.
fn verify(directory: &Directory, units: &[(&str, &str)]) -> Vec<String> {
    for (name, text) in units {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, installed(text)).unwrap();
    }
    let mut analyze = plain("systemd-analyze");
    analyze.args(["verify", "--man=no"]);
    let units = units.iter().filter(|(name, _)| !name.ends_with(".conf"));
    analyze.args(units.map(|(name, _)| directory.path().join(name)));
    let outcome = Outcome::of(analyze);
    // Type=notify-reload came with systemd 253; the unit says what to do before.
    let too_old = "Failed to parse service type, ignoring: notify-reload";
    let findings = outcome.stderr.lines().filter(|line| !line.trim_end().ends_with(too_old));
    let code = outcome.code.filter(|code| *code != 0).map(|code| format!("exit code {code}"));
    findings.map(str::to_owned).chain(code).collect()
}

#[test]
fn systemd_accepts_the_units() {
    let (service, socket, drop_in) = (read(SERVICE), read(SOCKET), read(DROP_IN));
    let directory = Directory::new();
    assert_eq!(verify(&directory, &[("croupier-web.service", &service)]), [""; 0]);
    let before_253 = service.replace("Type=notify-reload", "Type=notify\nExecReload=/bin/kill -HUP $MAINPID");
    let units = [
        ("croupier-web.service", before_253.as_str()),
        ("croupier-web.service.d/socket.conf", &drop_in),
        ("croupier-web.socket", &socket),
    ];
    assert_eq!(verify(&Directory::new(), &units), [""; 0]);
    let wrong = service.replace("KillMode=mixed", "KillMode=gently");
    assert!(!verify(&Directory::new(), &[("croupier-web.service", &wrong)]).is_empty(), "it finds what is wrong");
}

#[test]
fn the_units_run_croupier_with_time_to_finish() {
    let directory = Directory::new();
    let service = adapted(&read(SERVICE), &directory);
    let checked = check(&exec_start(&service));
    assert!(checked.contains("monitor = \"127.0.0.1:0\"") && checked.contains("control.sock"), "{checked}");
    let seconds = |name: &str| Duration::from_secs(settings(&service, name)[0].parse().unwrap());
    assert!(seconds("TimeoutStopSec") > longest_end(&checked), "{checked}");
    assert!(seconds("TimeoutStartSec") > time_in(&checked, "start-timeout"), "{checked}");
    let activated = adapted(&read(DROP_IN), &directory);
    assert_eq!(settings(&activated, "ExecStart").len(), 2, "the first one is taken away");
    let name = settings(&read(SOCKET), "FileDescriptorName").remove(0);
    let mut words = exec_start(&activated);
    assert!(words.contains(&format!("systemd:{name}")), "{words:?}");
    // The rest of the words are those of the unit alone.
    words.iter_mut().filter(|word| word.starts_with("systemd:")).for_each(|word| *word = "127.0.0.1:0".into());
    assert_eq!(words, exec_start(&service));
}

// HAProxy.

#[test]
fn haproxy_accepts_its_configuration() {
    let directory = Directory::new();
    let check = |text: &str| {
        let path = directory.file("haproxy.cfg");
        std::fs::write(&path, text).unwrap();
        let mut haproxy = plain("haproxy");
        haproxy.args(["-c", "-f", &path]);
        Outcome::of(haproxy)
    };
    let text = read("haproxy.cfg");
    let outcome = check(&text);
    assert!(!outcome.assert_ok().stderr.contains("WARNING"), "{outcome:?}");
    assert_ne!(check(&text.replace("balance roundrobin", "balance fairly")).code, Some(0), "it finds what is wrong");
}

// Containers.

/// The instructions of a Dockerfile and their arguments, the last of each name.
fn instructions(dockerfile: &str) -> BTreeMap<String, String> {
    let dockerfile = dockerfile.replace("\\\n", "");
    let lines = dockerfile.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, rest)| (name.into(), rest.trim().into())).collect()
}

fn words_of(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

#[test]
fn the_image_runs_croupier_knows_its_health_and_ends_it_well() {
    let directory = Directory::new();
    let instructions = instructions(&adapted(&read("Dockerfile"), &directory));
    assert!(instructions["USER"].split(':').all(|id| id.parse::<u32>().unwrap() > 0), "not root");
    let words = [words_of(&instructions["ENTRYPOINT"]), words_of(&instructions["CMD"])].concat();
    let health = instructions["HEALTHCHECK"].split_once("CMD ").unwrap().1;
    let is_healthy = || Outcome::of(command(&words_of(health))).code == Some(0);
    assert!(!is_healthy(), "it does not run yet");
    let mut croupier = Croupier::spawn(command(&words));
    let address = croupier.wait_ready(1);
    assert_eq!(http::get(&address).unwrap().status, 200);
    assert!(is_healthy());
    wait_until("every worker is ready", || get(&croupier.monitor(), "/readyz") == 200);
    croupier.signal(instructions["STOPSIGNAL"].parse().unwrap());
    assert_eq!(croupier.wait_exit(), Some(0));
    assert!(!is_healthy());
}

/// The objects of the manifest, by kind.
fn manifest() -> BTreeMap<String, Value> {
    let text = read("kubernetes.yaml");
    let objects = serde_yaml_ng::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap());
    objects.map(|object| (object["kind"].as_str().unwrap().to_owned(), object)).collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|it| it.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_names_in_the_manifest_fit_together() {
    let objects = manifest();
    let (deployment, service) = (&objects["Deployment"]["spec"], &objects["Service"]["spec"]);
    let pod = &deployment["template"];
    for selector in [&deployment["selector"]["matchLabels"], &service["selector"]] {
        assert_eq!(*selector, pod["metadata"]["labels"]);
    }
    let container = &pod["spec"]["containers"][0];
    let ports: BTreeMap<&str, u64> = container["ports"].as_array().unwrap().iter().map(port).collect();
    let arguments = strings(&container["args"]);
    assert!(arguments.contains(&format!("--listen=0.0.0.0:{}", ports["http"])), "{arguments:?}");
    assert!(arguments.contains(&format!("--monitor=0.0.0.0:{}", ports["monitor"])), "{arguments:?}");
    assert_eq!(service["ports"][0]["targetPort"], "http");
    assert_eq!(container["volumeMounts"][0]["name"], pod["spec"]["volumes"][0]["name"]);
}

fn port(port: &Value) -> (&str, u64) {
    (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap())
}

#[test]
fn a_pod_is_ready_leaves_the_endpoints_and_finishes_in_its_grace_period() {
    let pod = &manifest()["Deployment"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let directory = Directory::new();
    let words: Vec<String> = ["command", "args"]
        .iter()
        .flat_map(|list| strings(&container[list]))
        .map(|word| adapted(&word, &directory))
        .collect();
    let checked = check(&words);
    let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap());
    assert!(seconds(&pod["terminationGracePeriodSeconds"]) > longest_end(&checked), "{checked}");
    let readiness = &container["readinessProbe"];
    let unnoticed = seconds(&readiness["periodSeconds"]) * readiness["failureThreshold"].as_u64().unwrap() as u32;
    assert!(time_in(&checked, "shutdown-delay") > unnoticed, "{checked}");

    let mut croupier = Croupier::spawn(command(&words));
    let address = croupier.wait_ready(1);
    let probe = |name: &str| {
        let get_what = &container[name]["httpGet"];
        assert_eq!(get_what["port"], "monitor");
        get(&croupier.monitor(), get_what["path"].as_str().unwrap())
    };
    wait_until("the startup probe succeeds", || probe("startupProbe") == 200);
    assert_eq!(["livenessProbe", "readinessProbe"].map(probe), [200, 200]);
    croupier.signal(Signal::SIGTERM);
    wait_until("the readiness probe fails", || probe("readinessProbe") == 503);
    assert_eq!(probe("livenessProbe"), 200);
    assert_eq!(http::get(&address).unwrap().status, 200, "it goes on serving until the endpoints know");
    croupier.client(&["stop"]).assert_ok();
    assert_eq!(croupier.wait_exit(), Some(0));
}
