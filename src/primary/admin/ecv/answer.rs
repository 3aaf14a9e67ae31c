//! What a load balancer is told: pure.

use std::net::{IpAddr, SocketAddr};

use crate::primary::status::{Glance, State};

/// Whether this primary is for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heartbeat {
    /// It is.
    Available,
    /// Somebody has disabled it, or it is stopping: it is well, and to be left out.
    Disabled,
    /// It would be, but nobody serves them.
    Warning,
}

/// Where clients of this primary connect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    ip: Option<IpAddr>,
    port: Option<u16>,
    hostname: &'a str,
}

impl Heartbeat {
    /// `is_served`: what must answer besides does, if anything must.
    pub(super) fn of(glance: &Glance, is_served: bool) -> Self {
        match glance.state {
            State::Stopping => Heartbeat::Disabled,
            State::Running if !glance.enabled.is_enabled => Heartbeat::Disabled,
            State::Running if glance.workers_ready == 0 || !is_served => Heartbeat::Warning,
            State::Running => Heartbeat::Available,
        }
    }

    /// The one line, in the form of a query, as cluster2 writes it. `time` is now.
    pub(super) fn line(self, place: &Place<'_>, time: &str) -> String {
        let (status, is_served) = match self {
            Heartbeat::Available => ("AVAILABLE", true),
            Heartbeat::Disabled => ("DISABLED", false),
            Heartbeat::Warning => ("WARNING", false),
        };
        let Place { ip, port, hostname } = place;
        let (ip, port) = (ip.map_or_else(String::new, |ip| ip.to_string()), port.map_or(0, u16::into).to_string());
        format!("status={status}&ServeTraffic={is_served}&ip={ip}&hostname={hostname}&port={port}&time={time}")
    }
}

impl<'a> Place<'a> {
    /// `address` is that of the first listener. Where it listens on every address, the load balancer knows one: that
    /// which it `asked_at`.
    pub(super) fn of(address: Option<SocketAddr>, asked_at: Option<SocketAddr>, hostname: &'a str) -> Self {
        let ip = address.map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
        let ip = ip.or(asked_at.map(|address| address.ip())).or(address.map(|address| address.ip()));
        Self { ip: ip.map(|ip| ip.to_canonical()), port: address.map(|address| address.port()), hostname }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primary::status::Enabled;

    fn glance(state: State, is_enabled: bool, workers_ready: u32) -> Glance {
        let enabled = Enabled { is_enabled, since_unix_seconds: 0 };
        let (is_reloading, workers, accepted, address) = (false, 2, 0, None);
        Glance { state, is_reloading, workers_ready, workers_wanted: 2, workers, accepted, enabled, address }
    }

    #[test]
    fn it_is_available_while_it_is_enabled_and_somebody_serves() {
        let of = |state, is_enabled, ready| Heartbeat::of(&glance(state, is_enabled, ready), true);
        assert_eq!(of(State::Running, true, 2), Heartbeat::Available);
        assert_eq!(of(State::Running, true, 1), Heartbeat::Available);
        assert_eq!(of(State::Running, true, 0), Heartbeat::Warning);
        assert_eq!(of(State::Running, false, 2), Heartbeat::Disabled);
        assert_eq!(of(State::Running, false, 0), Heartbeat::Disabled);
        assert_eq!(of(State::Stopping, true, 2), Heartbeat::Disabled);
        assert_eq!(Heartbeat::of(&glance(State::Running, true, 2), false), Heartbeat::Warning);
        assert_eq!(Heartbeat::of(&glance(State::Running, false, 2), false), Heartbeat::Disabled);
    }

    #[test]
    fn the_line_says_where_clients_connect() {
        let line = |address: &str, asked_at: Option<&str>| {
            let place = Place::of(address.parse().ok(), asked_at.map(|text| text.parse().unwrap()), "box");
            Heartbeat::Available.line(&place, "TIME")
        };
        let begin = "status=AVAILABLE&ServeTraffic=true";
        assert_eq!(
            line("10.0.0.7:80", Some("127.0.0.1:3001")),
            format!("{begin}&ip=10.0.0.7&hostname=box&port=80&time=TIME")
        );
        assert!(line("0.0.0.0:80", Some("10.0.0.7:3001")).contains("&ip=10.0.0.7&hostname=box&port=80&"));
        assert!(line("[::]:80", Some("[::ffff:10.0.0.7]:3001")).contains("&ip=10.0.0.7&"));
        assert!(line("[::]:80", None).contains("&ip=::&"));
        assert!(line("unix:/run/app", None).contains("&ip=&hostname=box&port=0&"));
        let none = Place { ip: None, port: None, hostname: "" };
        assert!(Heartbeat::Disabled.line(&none, "").starts_with("status=DISABLED&ServeTraffic=false&ip="));
        assert!(Heartbeat::Warning.line(&none, "").starts_with("status=WARNING&ServeTraffic=false&ip="));
    }
}
