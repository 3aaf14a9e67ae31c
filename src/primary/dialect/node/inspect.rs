//! A port of its own for the inspector of every worker, as Node's cluster has it: the port that `--inspect` and its
//! like ask for, plus the worker's id. So a replacement does not meet the port of its predecessor, which may still be
//! there. Pure.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::primary::settings::{Command, Variable};
use crate::protocol::ids::WorkerId;

/// Arguments from the environment: they come before those of the command line.
pub const NODE_OPTIONS: &str = "NODE_OPTIONS";

/// Where Node's inspector listens if nobody says where.
const PORT_DEFAULT: u16 = 9229;
/// Ports above the last one begin anew here, as in Node's cluster.
const PORT_MIN: u32 = 1024;

/// Options of Node whose value may be the next word. All others have theirs behind `=`, or none. Source: the options of
/// Node 14 to 25.
const WITH_VALUE: &str = "-r -C -e -p --require --import --loader --experimental-loader --conditions --eval --print \
    --env-file --env-file-if-exists --title --run --input-type --experimental-default-type --disable-proto \
    --disable-warning --unhandled-rejections --dns-result-order --redirect-warnings --max-http-header-size \
    --icu-data-dir --openssl-config --tls-cipher-list --tls-keylog --secure-heap --secure-heap-min --security-revert \
    --use-largepages --v8-pool-size --snapshot-blob --diagnostic-dir --report-dir --report-directory \
    --report-filename --report-signal --cpu-prof-dir --cpu-prof-interval --cpu-prof-name --heap-prof-dir \
    --heap-prof-interval --heap-prof-name --heapsnapshot-near-heap-limit --heapsnapshot-signal \
    --trace-event-categories --trace-event-file-pattern --trace-require-module --inspect-publish-uid --watch-path \
    --localstorage-file";

/// What its command asks of the inspector.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The last port that was named.
    port: Option<u16>,
    /// Behind which argument the worker's port has to stand.
    last: Option<usize>,
}

/// The arguments of `worker`: with a port of its own behind the flags that ask for an inspector in those of `command`.
/// If they are only in `NODE_OPTIONS`, of `variables` or as inherited, it is added there. The last port that is named
/// counts, and a host stays. Without such flags, or with port 0 (any port will do), nothing changes.
pub fn with_own_port(
    command: &Command,
    variables: &mut Vec<Variable>,
    inherited: Option<OsString>,
    worker: WorkerId,
) -> Vec<OsString> {
    let mut arguments = command.arguments.clone();
    let given = variables.iter().rev().find(|(name, _)| name == NODE_OPTIONS).map(|(_, value)| value.clone());
    let options = given.or(inherited).and_then(|options| options.into_string().ok()).unwrap_or_default();
    let of_node = arguments_of_node(command);
    let (by_variable, by_arguments) = (asked_in(options.split_whitespace()), asked_in(words(&arguments[of_node..])));
    let port = by_arguments.port.or(by_variable.port).unwrap_or(PORT_DEFAULT);
    let flag = format!("--inspect-port={}", port_of(port, worker));
    match (by_arguments.last, by_variable.last) {
        _ if port == 0 => {}
        (Some(last), _) => arguments.insert(of_node + last + 1, flag.into()),
        (None, Some(_)) => variables.push((NODE_OPTIONS.into(), format!("{options} {flag}").into())),
        (None, None) => {}
    }
    arguments
}

fn port_of(base: u16, worker: WorkerId) -> u32 {
    let last = u32::from(u16::MAX);
    match u32::from(base).saturating_add(worker.0) {
        port if port <= last => port,
        port => PORT_MIN + (port - last - 1) % (last + 1 - PORT_MIN),
    }
}

/// Where Node's own arguments begin: behind its name, which is the program, unless something else executes it (`env
/// node`).
fn arguments_of_node(command: &Command) -> usize {
    let is_node =
        |word: &OsString| matches!(Path::new(word).file_name().and_then(OsStr::to_str), Some("node" | "nodejs"));
    std::iter::once(&command.program).chain(&command.arguments).position(is_node).unwrap_or(0)
}

fn words(arguments: &[OsString]) -> impl Iterator<Item = &str> {
    // No option is of another kind; a script may be.
    arguments.iter().map(|word| word.to_str().unwrap_or_default())
}

/// What these words ask for, up to the script. Words behind it are the script's.
fn asked_in<'a>(words: impl Iterator<Item = &'a str>) -> Asked {
    let mut asked = Asked { port: None, last: None };
    let mut words = words.enumerate();
    while let Some((at, word)) = words.next() {
        if !word.starts_with('-') || word == "--" {
            break;
        }
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let name = name.replace('_', "-");
        match (name.as_str(), value) {
            ("--inspect" | "--inspect-brk" | "--inspect-wait", value) => {
                (asked.port, asked.last) = (value.and_then(port_in).or(asked.port), Some(at));
            }
            ("--inspect-port" | "--debug-port", Some(value)) => {
                (asked.port, asked.last) = (port_in(value).or(asked.port), Some(at));
            }
            ("--inspect-port" | "--debug-port", None) => {
                let Some((at, value)) = words.next() else { break };
                (asked.port, asked.last) = (port_in(value).or(asked.port), Some(at));
            }
            (option, None) if WITH_VALUE.split(' ').any(|it| it == option) => drop(words.next()),
            _ => {}
        }
    }
    asked
}

/// `PORT`, `HOST:PORT`, `[HOST]:PORT`; a host alone has none.
fn port_in(value: &str) -> Option<u16> {
    let port = value.rsplit_once(':').map_or(value, |(_, port)| port);
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments of worker 3, and `NODE_OPTIONS` if that has changed.
    fn own(arguments: &str, node_options: &str) -> (String, Option<OsString>) {
        own_of("/usr/bin/node", arguments, node_options)
    }

    /// The same of this program.
    fn own_of(program: &str, arguments: &str, node_options: &str) -> (String, Option<OsString>) {
        let mut variables = vec![("A".into(), "b".into())];
        let command = arguments.split(' ').fold(Command::new(program), |command, word| command.argument(word));
        let own = with_own_port(&command, &mut variables, Some(node_options.into()), WorkerId(3));
        let arguments: Vec<&str> = words(&own).collect();
        (arguments.join(" "), variables.get(1).map(|(_, value)| value.clone()))
    }

    #[test]
    fn every_worker_has_the_port_that_was_asked_for_plus_its_id() {
        let cases = [
            ("--inspect app.js", "--inspect --inspect-port=9232 app.js"),
            ("--inspect=9400 app.js", "--inspect=9400 --inspect-port=9403 app.js"),
            ("--inspect=0.0.0.0:9400 app.js", "--inspect=0.0.0.0:9400 --inspect-port=9403 app.js"),
            ("--inspect=[::1]:9400 app.js", "--inspect=[::1]:9400 --inspect-port=9403 app.js"),
            ("--inspect=localhost app.js", "--inspect=localhost --inspect-port=9232 app.js"),
            (
                "--inspect-brk --inspect_port=9400 app.js",
                "--inspect-brk --inspect_port=9400 --inspect-port=9403 app.js",
            ),
            ("--debug-port 9400 --inspect app.js", "--debug-port 9400 --inspect --inspect-port=9403 app.js"),
            (
                "--inspect-wait=1 --inspect-port 9400 a.js",
                "--inspect-wait=1 --inspect-port 9400 --inspect-port=9403 a.js",
            ),
            (
                "-r x --import y --title z --inspect a.js",
                "-r x --import y --title z --inspect --inspect-port=9232 a.js",
            ),
            ("--import=y --inspect -- a.js", "--import=y --inspect --inspect-port=9232 -- a.js"),
            ("--inspect a.js node --inspect", "--inspect --inspect-port=9232 a.js node --inspect"),
        ];
        for (arguments, with_port) in cases {
            assert_eq!(own(arguments, ""), (with_port.to_owned(), None), "{arguments}");
        }
    }

    #[test]
    fn node_may_be_executed_by_something_else() {
        let by_env = own_of("env", "-i A=1 /usr/bin/node --inspect a.js", "");
        assert_eq!(by_env.0, "-i A=1 /usr/bin/node --inspect --inspect-port=9232 a.js");
        assert_eq!(own_of("web", "--inspect a.js", "").0, "--inspect --inspect-port=9232 a.js", "a link to it");
    }

    #[test]
    fn flags_of_the_script_and_what_is_no_such_flag_are_left_alone() {
        for arguments in ["app.js --inspect", "-- app.js --inspect", "-r --inspect app.js", "--inspector app.js", ""] {
            assert_eq!(own(arguments, "--max-old-space-size=100"), (arguments.to_owned(), None));
        }
        assert_eq!(with_own_port(&Command::new("node"), &mut Vec::new(), None, WorkerId(1)), [""; 0]);
    }

    #[test]
    fn node_options_are_added_to_unless_an_argument_is_stronger() {
        let options = "-r x --inspect=9400 --inspect-port=9403";
        assert_eq!(own("app.js", "-r x --inspect=9400"), ("app.js".to_owned(), Some(options.into())));
        let with_port = "--inspect --inspect-port=9403 app.js".to_owned();
        assert_eq!(own("--inspect app.js", "--inspect=9400"), (with_port, None));
        let mut variables = vec![(NODE_OPTIONS.into(), "--inspect".into())];
        with_own_port(
            &Command::new("node").argument("app.js"),
            &mut variables,
            Some("--inspect=9400".into()),
            WorkerId(1),
        );
        assert_eq!(variables[1].1, "--inspect --inspect-port=9230", "its own variable is stronger");
    }

    #[test]
    fn port_0_stays_and_ports_above_the_last_begin_anew() {
        for arguments in ["--inspect=0 app.js", "--inspect=127.0.0.1:0 app.js"] {
            assert_eq!(own(arguments, "--inspect=9400"), (arguments.to_owned(), None));
        }
        assert_eq!((port_of(65_535, WorkerId(1)), port_of(65_534, WorkerId(1))), (1024, 65_535));
        assert!((1024..=65_535).contains(&port_of(65_535, WorkerId(u32::MAX))));
    }
}
