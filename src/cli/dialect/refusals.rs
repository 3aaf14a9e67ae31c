//! What cannot be asked for together with the dialect of workers. Pure: one line for the first such option.

use crate::cli::arguments::RunOptions;
use crate::primary::listener_spec::{ListenerSpec, ProxyProtocol};
use crate::primary::policy::PolicyKind;
use crate::primary::settings::{Command, DialectKind};

const PROXY_HEADERS: &str = "Node workers cannot read PROXY headers";
const FORWARDED_FOR: &str = "leave it out and have the proxy send X-Forwarded-For";
const OPEN_CONNECTIONS: &str = "nobody is told how many connections Node workers have open";
const IDLE_CONNECTIONS: &str = "Node programs end idle connections themselves";
const OWN_MEASURE: &str = "Node workers have a measure of their own";
const NOTHING_BACK: &str = "from a Node worker that lives nothing can be taken back";

/// What is wrong with these options for workers of this command: it begins with the flag and ends with the remedy.
pub(super) fn refused(options: &RunOptions, listeners: &[ListenerSpec], command: &Command) -> Option<String> {
    match command.dialect {
        DialectKind::Native => refused_to_native(options, command),
        DialectKind::Node => refused_to_node(options).or_else(|| listeners.iter().find_map(refused_listener)),
    }
}

fn refused_to_native(options: &RunOptions, command: &Command) -> Option<String> {
    let asked = [
        ("node-depth", options.node_depth.is_some()),
        ("wait-ready", options.wait_ready),
        ("shutdown-message", options.shutdown_message),
    ];
    let (option, _) = asked.into_iter().find(|(_, is_asked)| *is_asked)?;
    let command = command.display();
    Some(format!("--{option}: only Node has this, and `{command}` is not Node; leave it out, or write --dialect node"))
}

fn refused_to_node(options: &RunOptions) -> Option<String> {
    let is_by_open = options.policy.as_ref().is_some_and(goes_by_open_connections);
    let asked = [
        (options.proxy_protocol.is_some(), "--proxy-protocol", PROXY_HEADERS, FORWARDED_FOR),
        (is_by_open, "--policy least-connections", OPEN_CONNECTIONS, "choose another policy"),
        (options.connections_max.is_some(), "--connections-max", OPEN_CONNECTIONS, "set server.maxConnections instead"),
        (options.idle_timeout.is_some(), "--idle-timeout", IDLE_CONNECTIONS, "set server.keepAliveTimeout instead"),
        (options.queue_max.is_some(), "--queue-max", OWN_MEASURE, "write --node-depth instead"),
        (options.stall_after.is_some(), "--stall-after", NOTHING_BACK, "write --hang-timeout to have it killed"),
    ];
    let (_, option, why, instead) = asked.into_iter().find(|(is_asked, ..)| *is_asked)?;
    Some(format!("{option}: {why}; {instead}"))
}

fn refused_listener(spec: &ListenerSpec) -> Option<String> {
    if let Some(ProxyProtocol::Of(_)) = spec.proxy_protocol {
        return Some(format!("--listen {spec}: {PROXY_HEADERS}; {FORWARDED_FOR}"));
    }
    let is_refused = spec.policy.as_ref().is_some_and(goes_by_open_connections);
    is_refused.then(|| format!("--listen {spec}: {OPEN_CONNECTIONS}; choose another policy"))
}

fn goes_by_open_connections(policy: &PolicyKind) -> bool {
    match policy {
        PolicyKind::LeastConnections => true,
        PolicyKind::RoundRobin | PolicyKind::SourceHash | PolicyKind::Shared | PolicyKind::Custom(_) => false,
    }
}
