//! A cluster as a library: what an embedder sets, changes and asks for, with workers that are this program itself.

#![cfg(feature = "cli")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use croupier::primary::commands::{Refused, Scale, Signal, Unsent};
use croupier::primary::events::Event;
use croupier::primary::output::{self, Destination, LineSink};
use croupier::primary::policy::{Choice, Policy, PolicyKind};
use croupier::primary::settings::{Command, Settings};
use croupier::primary::supervisor::{GaveUp, Outcome, Respawn};
use croupier::primary::{Cluster, Crash, NotDone, RunningCluster, StartError};
use croupier::protocol::ids::{Slot, WorkerId};

use support::embedded::{command, word};
use support::http::{self, Client};
use support::{DEADLINE, Directory, PROGRAM, processes, roles};

/// Variables that [`worker_that_tells`] tells.
const GROUP: &str = "CROUPIER_TEST_GROUP";
const MODE: &str = "CROUPIER_TEST_MODE";

/// Workers that serve, on a port of the kernel's choice.
fn serving(worker_count: u32) -> Cluster {
    Cluster::of(command("worker_that_serves")).listen("127.0.0.1:0").workers(worker_count)
}

fn telling(group: &str) -> Command {
    command("worker_that_tells").variable(GROUP, group)
}

fn address(cluster: &RunningCluster) -> String {
    cluster.addresses()[0].to_string()
}

#[track_caller]
fn event(cluster: &RunningCluster) -> Event {
    cluster.events().recv_timeout(DEADLINE).expect("the next event comes in time")
}

/// Waits for the event that is this [`word`].
#[track_caller]
fn wait_for(cluster: &RunningCluster, expected: &str) {
    while word(&event(cluster)) != expected {}
}

#[track_caller]
fn wait_listening(cluster: &RunningCluster, count: usize) {
    for _ in 0..count {
        while !matches!(event(cluster), Event::Listening { .. }) {}
    }
}

/// What the next worker tells of itself: its id, its group, its mode and its directory.
#[track_caller]
fn told(cluster: &RunningCluster) -> (u32, String, String, String) {
    loop {
        if let Event::Message { worker, body, .. } = event(cluster) {
            let (group, mode, directory) = body.parse().expect("it tells three things");
            return (worker.0, group, mode, directory);
        }
    }
}

/// What so many workers tell, by their ids.
#[track_caller]
fn told_by(cluster: &RunningCluster, count: usize) -> Vec<(u32, String, String)> {
    let told = std::iter::repeat_with(|| told(cluster)).map(|(id, group, mode, _)| (id, group, mode));
    let mut told: Vec<_> = told.take(count).collect();
    told.sort();
    told
}

fn triple(id: u32, group: &str, mode: &str) -> (u32, String, String) {
    (id, group.into(), mode.into())
}

#[test]
fn the_defaults_are_those_of_the_command_line() {
    let mut check = support::plain(PROGRAM);
    check.args(["check", "--", "sh"]);
    let printed = support::Outcome::of(check).assert_ok().stdout.clone();
    let Settings { queue_max, bind, policy, plan, .. } = Settings::of(Command::new("sh"));
    let seconds = |time: std::time::Duration| format!("\"{}s\"", time.as_secs());
    for line in [
        "listen = []".into(),
        format!("workers = {}", plan.worker_count),
        format!("policy = \"{policy}\""),
        format!("backlog = {}", bind.backlog),
        format!("queue-max = {queue_max}"),
        "respawn = \"always\"".into(),
        format!("start-timeout = {}", seconds(plan.start_timeout)),
        format!("shutdown-timeout = {}", seconds(plan.shutdown_timeout)),
        format!("kill-delay = {}", seconds(plan.kill_delay)),
    ] {
        assert!(printed.lines().any(|printed| printed == line), "no {line:?} in\n{printed}");
    }
    assert_eq!(plan.respawn, Respawn::Always);
}

#[test]
fn groups_have_commands_of_their_own_which_replacements_inherit() {
    let cluster = Cluster::of(telling("rest")).workers(1).group(telling("first"), 2).group(telling("second"), 1);
    let cluster = cluster.listen("127.0.0.1:0").start().unwrap();
    let groups = [triple(1, "first", ""), triple(2, "first", ""), triple(3, "second", ""), triple(4, "rest", "")];
    assert_eq!(told_by(&cluster, 4), groups);
    cluster.kill(WorkerId(3), Signal::SIGKILL).unwrap();
    assert_eq!(told_by(&cluster, 1), [triple(5, "second", "")]);
    assert_eq!(cluster.scale(Scale::By(1)).unwrap().workers, 5);
    assert_eq!(told_by(&cluster, 1), [triple(6, "rest", "")]);
    assert_eq!(cluster.shutdown().unwrap().outcome, Outcome::Stopped);
}

#[test]
fn a_forked_worker_has_its_variables_alone_and_its_replacement_has_them_too() {
    let cluster = Cluster::of(telling("rest").variable(MODE, "common")).workers(1).listen("127.0.0.1:0");
    let cluster = cluster.start().unwrap();
    assert_eq!(told_by(&cluster, 1), [triple(1, "rest", "common")]);
    let forked = cluster.fork(&[(MODE, "special")]).unwrap();
    assert_eq!(told_by(&cluster, 1), [triple(forked.0, "rest", "special")]);
    assert_eq!(cluster.status().unwrap().workers_wanted, 2);
    cluster.kill(forked, Signal::SIGKILL).unwrap();
    assert_eq!(told_by(&cluster, 1), [triple(3, "rest", "special")]);

    cluster.scale(Scale::To(1)).unwrap();
    cluster.scale(Scale::To(2)).unwrap();
    assert_eq!(told_by(&cluster, 1), [triple(4, "rest", "common")], "its slot is not the forked one's any more");
}

#[test]
fn a_change_is_for_workers_that_are_started_later_and_what_it_leaves_alone_stays() {
    let directory = Directory::new();
    let path = std::fs::canonicalize(directory.path()).unwrap().display().to_string();
    let cluster = Cluster::of(telling("rest")).workers(1).listen("127.0.0.1:0").start().unwrap();
    let (_, _, _, before) = told(&cluster);
    assert_eq!(before, std::env::current_dir().unwrap().display().to_string());

    let new = path.clone();
    cluster.change(move |command| command.directory = Some(new.clone().into())).unwrap();
    cluster.change(|command| command.variables.push((MODE.into(), "later".into()))).unwrap();
    cluster.fork(&[]).unwrap();
    assert_eq!(told(&cluster), (2, "rest".into(), "later".into(), path.clone()));
    let first = cluster.status().unwrap().workers[0].pid;
    assert!(!processes::environment(first).contains_key(MODE), "the first one is as it was");
    cluster.reload().unwrap();
    let mut both = [told(&cluster), told(&cluster)];
    both.sort();
    assert_eq!(both, [3, 4].map(|id| (id, "rest".into(), "later".into(), path.clone())));
}

#[test]
fn all_can_finish_and_others_come_while_clients_wait() {
    let cluster = serving(2).start().unwrap();
    wait_listening(&cluster, 2);
    // From two threads at the same time, and again when nobody is there.
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.disconnect_all().unwrap());
        cluster.disconnect_all().unwrap();
        assert_eq!(cluster.status().unwrap().workers, []);
    });
    cluster.disconnect_all().unwrap();
    let mut waiting = Client::connect(&address(&cluster)).expect("the listener is there");
    waiting.send(http::REQUEST).unwrap();
    assert_eq!(cluster.scale(Scale::To(1)).unwrap().workers_before, 0);
    assert_eq!(waiting.response().unwrap().worker(), 3);
    assert_eq!(cluster.scale(Scale::To(0)).unwrap().workers, 0);
    wait_for(&cluster, "exit 3 code=0 voluntary=true");
    let refused = cluster.scale(Scale::By(-1));
    assert!(matches!(refused, Err(NotDone::Refused(Refused::OutOfRange { wanted: -1, least: 0 }))), "{refused:?}");
    assert_eq!(cluster.shutdown().unwrap().outcome, Outcome::Stopped);
}

#[test]
fn all_finish_also_those_that_have_just_been_started() {
    let cluster = serving(4).start().unwrap();
    cluster.disconnect_all().unwrap();
    assert_eq!(cluster.status().unwrap().workers, []);
    assert_eq!(cluster.stop().unwrap().outcome, Outcome::Stopped);
}

#[test]
fn a_cluster_may_begin_without_workers_and_outlives_those_that_it_gets() {
    let cluster = serving(0).respawn(Respawn::Never).start().unwrap();
    cluster.disconnect_all().unwrap();
    for id in [1, 2] {
        assert_eq!(cluster.fork(&[]).unwrap(), WorkerId(id));
        wait_listening(&cluster, 1);
        assert_eq!(http::get(&address(&cluster)).unwrap().worker(), id);
        cluster.kill(WorkerId(id), Signal::SIGUSR1).unwrap();
        wait_for(&cluster, &format!("exit {id} signal=10 voluntary=true"));
    }
    let status = cluster.status().unwrap();
    assert_eq!((status.workers, status.workers_wanted), (vec![], 1), "the second one had the first one's slot");
    assert_eq!(cluster.shutdown().unwrap().outcome, Outcome::Stopped, "not by force: nobody was waited for");
}

#[test]
fn everything_is_harmless_twice_and_late_and_from_many_threads() {
    let cluster = serving(2).start().unwrap();
    wait_listening(&cluster, 2);
    let endings: Vec<_> = std::thread::scope(|scope| {
        let stops: Vec<_> = (0..4).map(|_| scope.spawn(|| cluster.shutdown().unwrap())).collect();
        stops.into_iter().map(|stop| stop.join().unwrap()).collect()
    });
    assert!(endings.iter().all(|ending| *ending == endings[0]) && endings[0].outcome == Outcome::Stopped);
    assert_eq!(cluster.stop().unwrap(), endings[0]);
    let late = [
        cluster.send(WorkerId(1), "late", None).unwrap_err(),
        cluster.broadcast("late").unwrap_err(),
        cluster.fork(&[]).unwrap_err(),
        cluster.change(|_| {}).unwrap_err(),
        cluster.disconnect(WorkerId(1)).unwrap_err(),
        cluster.disconnect_all().unwrap_err(),
        cluster.kill(WorkerId(1), Signal::SIGTERM).unwrap_err(),
        cluster.scale(Scale::To(1)).unwrap_err(),
        cluster.reload().unwrap_err(),
        cluster.status().unwrap_err(),
    ];
    for error in late {
        assert!(matches!(error, NotDone::Unsent(Unsent::Ended)), "{error}");
    }
    assert_eq!(cluster.events().iter().filter(|event| matches!(event, Event::Exit { .. })).count(), 2);
}

#[test]
fn what_cannot_be_is_said_at_the_start_or_to_whoever_asked() {
    let nobody = || Cluster::of(Command::new("/no/such/program")).workers(0);
    let error = nobody().listen("127.0.0.1:0,policy=fair").listen("nonsense").start().unwrap_err();
    assert!(matches!(error, StartError::Listener(_)) && error.to_string().contains("fair"), "{error}");
    let error = nobody().workers(4000).group(Command::new("sh"), 97).start().unwrap_err();
    assert_eq!(error.to_string(), "workers: 4097 is not possible: give 0 to 4096");
    let error = nobody().settings(|settings| settings.queue_max = 0).start().unwrap_err();
    assert_eq!(error.to_string(), "queue_max: 0 is not possible: give 1 to 256");
    let error = nobody().settings(|settings| settings.node.depth = 257).start().unwrap_err();
    assert_eq!(error.to_string(), "node.depth: 257 is not possible: give 1 to 256");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = nobody().listen(&taken.local_addr().unwrap().to_string()).start().unwrap_err();
    assert!(matches!(error, StartError::Bind(_)), "{error}");

    let cluster = nobody().start().unwrap();
    let error = cluster.fork(&[]).unwrap_err();
    assert!(matches!(&error, NotDone::Refused(Refused::NotStarted(_))), "{error}");
    assert_eq!(cluster.status().unwrap().workers_wanted, 0, "nobody tries again");
    let program = command("worker_that_serves");
    cluster.change(move |command| *command = program.clone()).unwrap();
    cluster.fork(&[]).unwrap();
    drop(cluster);

    let ending = nobody().workers(1).start().unwrap().wait().unwrap();
    assert_eq!(ending.outcome, Outcome::GaveUp(GaveUp::NoCommand));
    assert!(ending.last_failure.is_some_and(|why| why.contains("No such file")));
}

#[test]
fn clusters_of_one_process_know_nothing_of_each_other() {
    let [one, other] = std::thread::scope(|scope| {
        [1, 2].map(|count| scope.spawn(move || serving(count).start().unwrap())).map(|it| it.join().unwrap())
    });
    wait_listening(&one, 1);
    wait_listening(&other, 2);
    assert_eq!([1, 2, 3, 4].map(|_| http::get(&address(&one)).unwrap().worker()), [1; 4]);
    let mut turns = [1, 2, 3, 4].map(|_| http::get(&address(&other)).unwrap().worker());
    turns.sort_unstable();
    assert_eq!(turns, [1, 1, 2, 2]);
    assert_eq!(one.stop().unwrap().outcome, Outcome::Stopped);
    assert_eq!(other.status().unwrap().workers.len(), 2);
    http::get(&address(&other)).expect("the other one serves");
}

#[test]
fn a_panic_of_the_programs_own_code_ends_the_cluster_and_its_workers_and_is_told() {
    let cluster = serving(1).start().unwrap();
    wait_listening(&cluster, 1);
    let worker = cluster.status().unwrap().workers[0].pid;
    let told = cluster.change(|_| panic!("a mistake in a change"));
    assert!(matches!(told, Err(NotDone::Unsent(Unsent::Ended))), "{told:?}");
    assert!(matches!(cluster.wait(), Err(Crash::Panicked)) && matches!(cluster.stop(), Err(Crash::Panicked)));
    processes::wait_gone(worker);
}

/// Hands on what it gets.
#[derive(Debug)]
struct Lines(crossbeam_channel::Sender<String>);

impl LineSink for Lines {
    fn take(&self, lines: &output::Lines<'_>) {
        for (line, _) in lines.iter() {
            let line = String::from_utf8_lossy(line);
            // The test may have ended.
            let _ = self.0.send(format!("{} of {}: {line}", lines.stream, lines.worker));
        }
    }
}

#[test]
fn workers_are_whose_they_are_to_be_and_their_output_goes_where_it_is_to_go() {
    let (sender, lines) = crossbeam_channel::unbounded();
    let says = Command::new("sh").argument("-c").argument("echo $(id -u) $(id -g) \"$0\"; exec sleep 1000");
    let cluster = Cluster::of(says.argument("two  words")).workers(1).stderr(Destination::Null);
    let cluster = cluster.stdout(Destination::Lines(Arc::new(Lines(sender))));
    let cluster = cluster.user("4711").unwrap().user_group("4712").unwrap().start().unwrap();
    assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "stdout of 1: 4711 4712 two  words");
    drop(cluster);
    assert!(Cluster::of(Command::new("sh")).user("no-such-user").is_err());
}

/// Everything to the slot with the highest number.
#[derive(Debug)]
struct Highest;

impl Policy for Highest {
    fn choose(&mut self, _client: Option<SocketAddr>, choices: &[Choice]) -> usize {
        let highest = choices.iter().enumerate().max_by_key(|(_, choice)| choice.slot);
        highest.map_or(0, |(index, _)| index)
    }
}

#[test]
fn a_policy_of_the_programs_own_deals_on_the_listeners_that_it_is_for() {
    let policy = PolicyKind::custom("highest", || Highest);
    let cluster = Cluster::of(command("worker_that_serves")).workers(3).listen_with("127.0.0.1:0", policy);
    let cluster = cluster.start().unwrap();
    wait_listening(&cluster, 3);
    let status = cluster.status().unwrap();
    let highest = status.workers.iter().find(|worker| Slot(worker.slot) == Slot(2)).unwrap().id;
    assert_eq!(status.listeners[0].policy, "highest");
    assert_eq!([0; 6].map(|_| http::get(&address(&cluster)).unwrap().worker()), [highest; 6]);
}

#[test]
fn messages_go_to_one_or_to_all() {
    let cluster = Cluster::of(command("worker_that_echoes")).workers(2).listen("127.0.0.1:0").start().unwrap();
    wait_listening(&cluster, 2);
    cluster.send(WorkerId(2), &["to", "one"], None).unwrap();
    wait_for(&cluster, "message 2 [\"to\",\"one\"]");
    assert_eq!(cluster.broadcast("to all").unwrap(), []);
    let mut echoes = [word(&event(&cluster)), word(&event(&cluster))];
    echoes.sort();
    assert_eq!(echoes, ["message 1 \"to all\"", "message 2 \"to all\""]);
    let unknown = cluster.send(WorkerId(9), "nobody", None);
    assert!(matches!(unknown, Err(NotDone::Undelivered(_))), "{unknown:?}");
}

// The workers.

#[test]
fn worker_that_serves() {
    if roles::plays("worker_that_serves") {
        roles::serve_well();
    }
}

#[test]
fn worker_that_tells() {
    if roles::plays("worker_that_tells") {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let directory = std::env::current_dir().unwrap().display().to_string();
        roles::join().send(&(variable(GROUP), variable(MODE), directory), None).unwrap();
        roles::serve_well();
    }
}

#[test]
fn worker_that_echoes() {
    if roles::plays("worker_that_echoes") {
        let worker = roles::join();
        let _listener = worker.listen_on_first(&Default::default()).unwrap();
        while let Some(message) = worker.messages().receive().unwrap() {
            worker.send(&message.body, None).unwrap();
        }
        std::process::exit(0);
    }
}
