//! How croupier finds out that a command is Node, and what it says about options and commands that do not go together.
#![cfg(feature = "cli")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use support::script::free_port;
use support::{Croupier, Directory, Outcome, http, wait_until};

/// `croupier check` with these options and this command.
fn check(options: &[&str], command: &[&str]) -> Command {
    let mut check = support::plain(support::PROGRAM);
    check.arg("check").args(options).arg("--").args(command);
    check
}

/// The dialect that would be in force.
#[track_caller]
fn dialect(options: &[&str], command: &[&str]) -> String {
    let outcome = Outcome::of(check(options, command));
    let line = outcome.assert_ok().stdout.lines().find_map(|line| line.strip_prefix("dialect = "));
    line.expect("there is always one").trim_matches('"').to_owned()
}

/// A file that may be executed.
fn script(directory: &Directory, name: &str, text: &str) -> String {
    let path = directory.file(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The path of the Node of this machine, without links.
fn node() -> String {
    let path = std::env::var_os("PATH").expect("there is a PATH");
    let found = std::env::split_paths(&path).map(|folder| folder.join("node")).find(|file| file.is_file());
    let real = found.expect("node is installed").canonicalize().unwrap();
    real.to_str().expect("it is text").to_owned()
}

#[test]
fn node_is_known_however_it_is_called() {
    let directory = Directory::new();
    let web = directory.file("web");
    symlink(node(), &web).unwrap();
    let by_env = script(&directory, "by-env.js", "#!/usr/bin/env node\n");
    let by_split = script(&directory, "by-split", "#! /usr/bin/env -S A=1 node --no-warnings\nrest");
    let by_path = script(&directory, "by-path", &format!("#!{} --no-warnings", node()));
    let by_script = script(&directory, "by-script", &format!("#!{by_path}\n"));
    let linked = directory.file("linked");
    symlink("by-env.js", &linked).unwrap();
    let commands: &[&[&str]] = &[
        &["node", "app.js"],
        &[&node(), "app.js"],
        &[&web, "app.js"],
        &["env", "MODE=fast", "node", "app.js"],
        &["/usr/bin/env", "-S", "node app.js"],
        &["env", "-C", directory.path().to_str().unwrap(), "./linked"],
        &[&by_env],
        &[&by_split],
        &[&by_path],
        &[&by_script],
        &[&linked],
    ];
    for command in commands {
        assert_eq!(dialect(&[], command), "node", "{command:?}");
        assert_eq!(dialect(&["--dialect", "native"], command), "native", "{command:?}");
    }
}

#[test]
fn it_is_looked_for_where_workers_find_it() {
    let directory = Directory::new();
    script(&directory, "app", "#!/usr/bin/env node\n");
    let folder = directory.path().to_str().unwrap();
    assert_eq!(dialect(&["--chdir", folder], &["./app"]), "node");
    assert_eq!(dialect(&["--env", &format!("PATH={folder}:/usr/bin:/bin")], &["app"]), "node");
    assert_eq!(dialect(&["--chdir", folder, "--env", "PATH=."], &["app"]), "node");
    assert_eq!(dialect(&[], &["env", &format!("PATH={folder}"), "app"]), "node");
}

#[test]
fn everything_else_is_native() {
    let directory = Directory::new();
    let shell = script(&directory, "shell", "#!/bin/sh\nexec node app.js\n");
    let other = script(&directory, "bun.js", "#!/usr/bin/env bun\n");
    let endless = script(&directory, "endless", &format!("#!{}\n", directory.file("endless")));
    let empty = script(&directory, "empty", "");
    let only = script(&directory, "only", "#!\n");
    for command in [&["sh", "-c", "node app.js"][..], &[&shell], &[&other], &[&endless], &[&empty], &[&only], &["env"]]
    {
        assert_eq!(dialect(&[], command), "native", "{command:?}");
        assert_eq!(dialect(&["--dialect", "node"], command), "node", "{command:?}");
    }
    let mut demo = support::plain(support::PROGRAM);
    demo.arg("check");
    assert!(Outcome::of(demo).assert_ok().stdout.contains("dialect = \"native\"\n"));
}

#[test]
fn what_is_special_about_node_workers_is_in_force_as_it_is_given() {
    let outcome = Outcome::of(check(&["--node-depth", "3", "--wait-ready", "--shutdown-message"], &["node", "app.js"]));
    for line in ["node-depth = 3", "wait-ready = true", "shutdown-message = true"] {
        assert!(outcome.assert_ok().stdout.lines().any(|it| it == line), "{line}: {outcome:?}");
    }
    let outcome = Outcome::of(check(&[], &["node", "app.js"]));
    for line in ["node-depth = 16", "wait-ready = false", "shutdown-message = false"] {
        assert!(outcome.assert_ok().stdout.lines().any(|it| it == line), "{line}: {outcome:?}");
    }
}

#[test]
fn what_node_workers_cannot_do_and_what_only_they_can_is_refused_with_the_remedy() {
    let (node, other) = (["node", "app.js"], ["cat"]);
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&["--proxy-protocol", "::1"], &node, "--proxy-protocol: Node workers cannot read PROXY headers; leave it out"),
        (&["-l", "[::1]:0,proxy-protocol=::1"], &node, "--listen [::1]:0,proxy-protocol=::1/128: Node workers"),
        (&["--policy", "least-connections"], &node, "--policy least-connections: nobody is told how many connections"),
        (&["-l", "[::1]:0,policy=least-connections"], &node, "--listen [::1]:0,policy=least-connections: nobody"),
        (&["--idle-timeout", "5s"], &node, "--idle-timeout: Node programs end idle connections themselves; set"),
        (&["--connections-max", "9"], &node, "Node workers have open; set server.maxConnections instead"),
        (
            &["--queue-max", "9"],
            &node,
            "--queue-max: Node workers have a measure of their own; write --node-depth instead",
        ),
        (&["--stall-after", "1s"], &node, "--stall-after: from a Node worker that lives nothing can be taken back"),
        (&["--connections-max", "9", "--dialect", "node"], &other, "--connections-max: nobody is told"),
        (&["--node-depth", "4"], &other, "--node-depth: only Node has this, and `cat` is not Node; leave it out"),
        (&["--wait-ready"], &other, "--wait-ready: only Node has this"),
        (&["--shutdown-message", "--dialect", "native"], &node, "`node app.js` is not Node; leave it out, or write"),
    ];
    for (options, command, line) in cases {
        Outcome::of(check(options, command)).assert_failed(2, line);
        let mut run = support::run(options);
        run.arg("--").args(*command);
        Outcome::of(run).assert_failed(2, line);
    }
    for options in [&["--policy", "source-hash"][..], &["-l", "[::1]:0,policy=shared,proxy-protocol=off"]] {
        Outcome::of(check(options, &node)).assert_ok();
    }
}

#[test]
fn workers_that_do_not_start_are_given_the_remedy_for_their_kind() {
    let directory = Directory::new();
    fs::write(directory.file("server.js"), "process.exit(3)").unwrap();
    script(&directory, "npm", NPM);
    fs::write(directory.file("package.json"), r#"{"scripts": {"start": "node server.js"}}"#).unwrap();
    let folder = directory.path().to_str().unwrap();
    let soon = "--start-timeout=1s";
    let cases: &[(&[&str], &[&str], &str)] = &[
        (&[], &["node", "server.js"], "it exited before it listened (code=3); run it by hand to see what it says; if"),
        (&[], &["./npm", "start"], "it becomes the worker itself, and what it starts is none: write -- node server.js"),
        (
            &[],
            &["node", "-e", "require('http').createServer().listen(0, '127.0.0.1')"],
            "its program must be in a file: Node makes no whole worker of `node -e`",
        ),
        (&[soon, "--dialect=node"], &["sleep", "99"], "it never said hello within 1s; it must be Node with a program"),
        (&[soon, "--wait-ready"], &["node", "-e", "setInterval(() => {}, 99)"], "has to say process.send('ready')"),
        (&[], &["sh", "-c", "node server.js"], "see what it says (if it starts Node, write --dialect node)"),
        (&[soon], &["sleep", "99"], "it must use croupier's worker library (if it starts Node, write --dialect node)"),
    ];
    for (options, command, line) in cases {
        let limits = ["--chdir", folder, "--workers=1", "--respawn-burst=2/60"];
        let mut run = support::run(&[&limits, *options].concat());
        run.arg("--").args(*command);
        Outcome::of(run).assert_failed(5, line);
    }
}

#[test]
fn programs_that_are_node_in_one_way_or_another_are_workers() {
    let directory = Directory::new();
    let text = "require('http').createServer((_, answer) => answer.end()).listen(0, '127.0.0.1')";
    let server = script(&directory, "server.js", &format!("#!/usr/bin/env node\n{text}"));
    let split = script(&directory, "split.js", &format!("#!/usr/bin/env -S MODE=fast node --no-warnings\n{text}"));
    let web = directory.file("web");
    symlink(node(), &web).unwrap();
    let commands: &[&[&str]] = &[&[&server], &[&split], &[&web, &server], &["env", "MODE=fast", "node", &server]];
    for command in commands {
        let mut run = support::undeclared(&["--workers", "1"]);
        run.arg("--").args(*command);
        let croupier = Croupier::spawn(run);
        croupier.log().wait_for(" dialect=node");
        croupier.log().wait_for(" listening on 127.0.0.1:");
        assert_eq!(croupier.status()["workers"][0]["dialect"], "node");
    }
}

#[test]
fn a_reload_can_bring_node_and_take_it_away_again() {
    let directory = Directory::new();
    let (file, server, port) = (directory.file("croupier.toml"), directory.file("server.js"), free_port());
    let answer = "(_, answer) => answer.setHeader('x-worker', process.env.CROUPIER_WORKER_ID).end('hello')";
    fs::write(&server, format!("require('http').createServer({answer}).listen({port})")).unwrap();
    let write = |command: &[&str], more: &str| {
        fs::write(&file, format!("listen = '127.0.0.1:{port}'\nworkers = 1\ncommand = {command:?}\n{more}")).unwrap();
    };
    let demo = [support::PROGRAM, "demo"];
    write(&demo, "");
    let croupier = Croupier::spawn(support::undeclared(&["--config", &file]));
    let address = croupier.wait_ready(1);
    let dialect = || croupier.status()["workers"][0]["dialect"].clone();
    assert_eq!((http::next_workers(&address, 1), dialect()), (vec![1], "native".into()));

    write(&["node", &server], "node-depth = 2");
    croupier.client(&["reload"]).assert_ok();
    wait_until("the old worker has gone", || croupier.status()["workers"].as_array().map(Vec::len) == Some(1));
    assert_eq!((http::next_workers(&address, 1), dialect()), (vec![2], "node".into()));

    write(&demo, "node-depth = 2");
    croupier.client(&["reload"]).assert_failed(1, "croupier.toml:4: node-depth: only Node has this");
    write(&demo, "");
    croupier.client(&["reload"]).assert_ok();
    wait_until("the old worker has gone", || croupier.status()["workers"].as_array().map(Vec::len) == Some(1));
    assert_eq!((http::next_workers(&address, 1), dialect()), (vec![3], "native".into()));
}

#[test]
fn the_file_is_named_if_the_option_is_from_there() {
    let directory = Directory::new();
    let file = directory.file("croupier.toml");
    fs::write(&file, "workers = 1\nwait-ready = true\ncommand = ['cat']\n").unwrap();
    let mut check = support::plain(support::PROGRAM);
    check.args(["check", "--config", &file]);
    Outcome::of(check).assert_failed(2, "croupier.toml:2: wait-ready: only Node has this, and `cat` is not Node");
}

/// Does what npm does in this respect, without being installed.
const NPM: &str = "#!/usr/bin/env node
    const { status } = require('child_process').spawnSync('node', ['server.js'], { stdio: 'inherit' });
    process.exit(status);
";

#[test]
fn a_wrapper_is_warned_of_with_what_to_write_instead() {
    let directory = Directory::new();
    let folder = directory.path().to_str().unwrap();
    let options = ["--chdir", folder, "--dialect", "node"];
    let warning = |command: &[&str]| Outcome::of(check(&options, command)).assert_ok().stderr.clone();
    script(&directory, "npm", NPM);
    script(&directory, "npx", NPM);
    let what = "becomes the worker itself, and what it starts would listen beside croupier; write";
    assert_eq!(
        warning(&["./npm", "start"]),
        format!("croupier: `./npm start` {what} what it runs, like -- node server.js\n")
    );
    fs::write(directory.file("package.json"), r#"{"scripts": {"start": "node 'my server.js'"}}"#).unwrap();
    assert_eq!(warning(&["./npm", "start"]), format!("croupier: `./npm start` {what} -- node 'my server.js'\n"));
    assert_eq!(
        warning(&["./npx", "tsx", "a.ts"]),
        format!("croupier: `./npx tsx a.ts` {what} -- node --import tsx a.ts\n")
    );
    assert_eq!(warning(&["node", "app.js"]), "");
    fs::write(directory.file("package.json"), "no JSON").unwrap();
    assert!(warning(&["./npm", "start"]).contains("like -- node server.js"));
}
