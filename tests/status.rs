//! `croupier status` where nobody sees colours: the table, the JSON, and both again and again.

#![cfg(feature = "cli")]

mod support;

use std::process::{Child, Command, Stdio};

use support::http::{self, Client};
use support::log::Log;
use support::{Croupier, Directory, Outcome, until, wait_until};

/// `croupier status --watch`, and what it says.
struct Watch {
    child: Child,
    lines: Log,
    errors: Log,
}

impl Watch {
    fn start(croupier: &Croupier, options: &[&str]) -> Self {
        let mut command = status(croupier, &["--watch", "--interval", "20ms"]);
        let mut child = command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Log::collect(child.stdout.take().unwrap());
        let errors = Log::collect(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    fn end(&mut self) -> Option<i32> {
        until(|| self.child.try_wait().unwrap()).expect("it ends").code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(croupier: &Croupier, options: &[&str]) -> Command {
    let mut command = support::plain(support::PROGRAM);
    command.args(["status", "--control", &croupier.control()]).args(options);
    command
}

#[test]
fn the_table_is_aligned_and_says_what_runs() {
    let croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let mut client = Client::connect(&address).unwrap();
    assert_eq!(client.get().unwrap().worker(), 1);
    let table = croupier.client(&["status"]).assert_ok().stdout.clone();
    let blocks: Vec<Vec<&str>> = table.split("\n\n").map(|block| block.lines().collect()).collect();
    let [head, listeners, workers] = &blocks[..] else { panic!("not three parts:\n{table}") };
    assert!(head[0].contains(&format!(": running, pid {}, up ", croupier.pid())), "{table}");
    assert!(head[1].starts_with("croupier ") && head[1].ends_with(" demo`"), "{table}");
    assert!(head[2].starts_with("accepted 1, dealt 1, of these again 0; workers wanted 2"), "{table}");
    assert!(listeners[0].starts_with("LISTENER ") && listeners[1].starts_with(&address), "{table}");
    assert_eq!(workers.len(), 3, "{table}");
    // The rows of the first worker and of the second one differ by the connection that is open.
    let at = |line: &str, title: &str| {
        let end = workers[0].find(title).unwrap() + title.len();
        line[..end].rsplit(' ').next().unwrap().to_owned()
    };
    for (title, first, second) in [("WORKER", "1", "2"), ("SLOT", "0", "1"), ("OPEN", "1", "0"), (" TAKEN", "1", "0")] {
        assert_eq!((at(workers[1], title).as_str(), at(workers[2], title).as_str()), (first, second), "{table}");
    }
    assert!(workers[1].contains(" MiB ") && !workers[0].contains("SHARE"), "rates need two looks:\n{table}");
    assert!(!table.contains('\u{1b}'), "a pipe shows no colours");
}

#[test]
fn watching_shows_rates_and_shares_until_the_primary_ends() {
    let mut croupier = Croupier::demo(&["--workers", "2"]);
    let address = croupier.wait_ready(2);
    let mut watch = Watch::start(&croupier, &[]);
    watch.lines.wait_for("accepted 0 (0.0/s)");
    let shares = |lines: &[String]| lines.iter().rfind(|line| line.contains(" 50.0 %")).cloned();
    let asks = until(|| {
        (0..10).for_each(|_| assert_eq!(http::get(&address).unwrap().status, 200));
        shares(&watch.lines.lines())
    });
    assert!(asks.is_some(), "{}", watch.lines);
    assert!(watch.lines.count("TAKES/S") > 0 && watch.lines.count("ACCEPTS/S") > 0);
    // The one image goes, the next one answers.
    let before = watch.lines.count("upgrades 1");
    croupier.client(&["upgrade"]).assert_ok();
    watch.lines.wait_for_count("upgrades 1", before + 3);
    assert_eq!(croupier.terminate(), Some(0));
    assert_eq!(watch.end(), Some(1));
    // It found nobody, or heard the last word of the one that was ending.
    let errors = watch.errors.wait_end();
    assert!(matches!(&errors[..], [line] if line.starts_with("croupier: ") && line.contains("primary")), "{errors:?}");
}

#[test]
fn watching_in_json_is_one_line_each_time_and_ends_with_its_reader() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    let watch = Watch::start(&croupier, &["--json"]);
    for line in watch.lines.wait_for_count("", 3) {
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["pid"], croupier.pid());
    }
    let mut command = support::plain("sh");
    let script = "\"$0\" status --control \"$1\" --watch --json --interval 5ms | head -n 2";
    command.args(["-c", script, support::PROGRAM, &croupier.control()]);
    let outcome = Outcome::of(command);
    assert_eq!((outcome.assert_ok().stdout.lines().count(), outcome.stderr.as_str()), (2, ""));
}

#[test]
fn an_interval_without_watching_and_one_of_nothing_are_refused() {
    let croupier = Croupier::demo(&["--workers", "1"]);
    croupier.wait_ready(1);
    croupier.client(&["status", "--interval", "2s"]).assert_failed(2, "--watch");
    croupier.client(&["status", "--watch", "--interval", "0s"]).assert_failed(2, "--interval");
}

/// What turns the rest of a line around is no control character, and a path may have it.
#[test]
fn a_path_cannot_disguise_itself() {
    let directory = Directory::new();
    let path = directory.file("a\u{202e}b");
    let croupier = Croupier::demo(&["--workers", "1", "--listen", &format!("unix:{path}")]);
    croupier.wait_ready(1);
    let table = croupier.client(&["status"]).assert_ok().stdout.clone();
    assert!(table.contains("a\\u{202e}b") && !table.contains('\u{202e}'), "{table}");
    let json = croupier.client(&["status", "--json"]).assert_ok().stdout.clone();
    assert!(!json.contains('\u{202e}'), "{json}");
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["listeners"][1]["address"], format!("unix:{path}"));
    wait_until("the same is asked again", || croupier.status()["pid"] == croupier.pid());
}
