//! Events as lines of JSON, one object each: `docs/events.md` has the table. Pure: numbers and the time are given.
//!
//! Every line stands alone: it has `time` (RFC 3339, UTC, milliseconds), `event` and `id`, and those about a worker its
//! number `worker`, its `slot`, its `pid` and its `generation`.

use std::time::{Duration, UNIX_EPOCH};

use serde::ser::{Error, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::{Event, Exit, Line, Signal, Who};
use crate::primary::supervisor::ReloadEnd;
use crate::protocol::body::Body;

/// The body of a message is part of its line up to this size. Of a larger one the line has `body_bytes`, its size.
pub const BODY_MAX_BYTES: usize = 1024;

/// The event with this number, which happened at a time `since_epoch`.
pub(super) fn line(id: u64, since_epoch: Duration, who: Option<Who>, event: &Event) -> Line {
    let signal = match event {
        Event::Signal { signal } => Some(*signal),
        _ => None,
    };
    Line { id, json: text(&Form { id, since_epoch, who, event }).into(), signal }
}

/// What stands for events that did not reach whoever reads the lines: between them, or in a stream of them.
pub fn lost(since_epoch: Duration, count: u64) -> String {
    #[derive(serde::Serialize)]
    struct Lost {
        time: String,
        event: &'static str,
        count: u64,
    }
    text(&Lost { time: time(since_epoch), event: "lost", count })
}

fn text(form: &impl Serialize) -> String {
    serde_json::to_string(form).expect("texts and numbers, and bodies that were JSON")
}

fn time(since_epoch: Duration) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// One line.
struct Form<'a> {
    id: u64,
    since_epoch: Duration,
    who: Option<Who>,
    event: &'a Event,
}

impl Serialize for Form<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &time(self.since_epoch))?;
        map.serialize_entry("event", self.event.name())?;
        map.serialize_entry("id", &self.id)?;
        if let Some(Who { worker, slot, pid, generation }) = self.who {
            map.serialize_entry("worker", &worker)?;
            map.serialize_entry("slot", &slot)?;
            map.serialize_entry("pid", &pid)?;
            map.serialize_entry("generation", &generation)?;
        }
        self.event.serialize_own(&mut map)?;
        map.end()
    }
}

impl Event {
    /// The word that stands for it in lines.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Fork { .. } => "fork",
            Event::Online { .. } => "online",
            Event::Listening { .. } => "listening",
            Event::Message { .. } => "message",
            Event::Disconnect { .. } => "disconnect",
            Event::Exit { .. } => "exit",
            Event::Respawn { .. } => "respawn",
            Event::Recycle { .. } => "recycle",
            Event::Reload { .. } => "reload",
            Event::Scale { .. } => "scale",
            Event::Enable => "enable",
            Event::Disable => "disable",
            Event::Signal { .. } => "signal",
            Event::AcceptPaused { .. } => "accept_paused",
            Event::AcceptResumed { .. } => "accept_resumed",
            Event::Reclaimed { .. } => "reclaimed",
            Event::Upgrade { .. } => "upgrade",
            Event::Lost { .. } => "lost",
        }
    }

    /// What it has beside what every event has.
    fn serialize_own<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match self {
            Event::Fork { .. } | Event::Online { .. } | Event::Recycle { .. } | Event::Enable | Event::Disable => {
                Ok(())
            }
            Event::Listening { address, .. } | Event::AcceptResumed { address } => {
                map.serialize_entry("address", address)
            }
            Event::Message { body, .. } => serialize_body(body, map),
            Event::Disconnect { voluntary, .. } => map.serialize_entry("voluntary", voluntary),
            Event::Exit { exit, voluntary, .. } => {
                match exit {
                    Exit::Code(code) => map.serialize_entry("code", code)?,
                    Exit::Signal(signal) => map.serialize_entry("signal", &signal_name(*signal))?,
                }
                map.serialize_entry("voluntary", voluntary)
            }
            Event::Respawn { after, .. } => map.serialize_entry("after_ms", &(after.as_millis() as u64)),
            Event::Reload { end } => serialize_reload(*end, map),
            Event::Scale { workers } => map.serialize_entry("workers", workers),
            Event::Signal { signal } => map.serialize_entry("signal", signal.as_str()),
            Event::AcceptPaused { address, why } => {
                map.serialize_entry("address", address)?;
                map.serialize_entry("why", why)
            }
            Event::Reclaimed { address, count, .. } => {
                map.serialize_entry("address", address)?;
                map.serialize_entry("count", count)
            }
            Event::Upgrade { upgrades } => map.serialize_entry("upgrades", upgrades),
            Event::Lost { count } => map.serialize_entry("count", count),
        }
    }
}

/// A signal without a name has a number.
fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

fn serialize_reload<M: SerializeMap>(end: ReloadEnd, map: &mut M) -> Result<(), M::Error> {
    let (outcome, generation) = match end {
        ReloadEnd::Done { generation } => ("done", Some(generation)),
        ReloadEnd::NotReady => ("not_ready", None),
        ReloadEnd::Misconfigured => ("misconfigured", None),
        ReloadEnd::Stopping => ("stopping", None),
    };
    map.serialize_entry("outcome", outcome)?;
    generation.map_or(Ok(()), |generation| map.serialize_entry("generation", &generation))
}

/// A worker may have written its JSON on several lines: outside of texts, where a blank means the same. Source: RFC
/// 8259, 2 and 7.
fn serialize_body<M: SerializeMap>(body: &Body, map: &mut M) -> Result<(), M::Error> {
    let text = body.as_str();
    if text.len() > BODY_MAX_BYTES {
        return map.serialize_entry("body_bytes", &text.len());
    }
    let raw = RawValue::from_string(text.replace(['\n', '\r'], " ")).map_err(M::Error::custom)?;
    map.serialize_entry("body", &raw)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::ids::{Slot, WorkerId};

    const WORKER: WorkerId = WorkerId(3);
    const WHO: Who = Who { worker: WORKER, slot: Slot(2), pid: 4711, generation: 1 };
    /// What every line about [`WHO`] has.
    const PLACE: &str = r#""worker":3,"slot":2,"pid":4711,"generation":1"#;

    /// Every event in every form, whether it is about a worker, and the fields of its own.
    fn samples() -> Vec<(Event, bool, &'static str)> {
        let address = || "127.0.0.1:8000".to_owned();
        let message = |json: &str| {
            let body = Body::from(RawValue::from_string(json.to_owned()).unwrap());
            Event::Message { worker: WORKER, body, fd: None }
        };
        let exit = |exit, voluntary| Event::Exit { worker: WORKER, exit, voluntary };
        let large = format!("{:?}", "x".repeat(BODY_MAX_BYTES - 1));
        let why = "cannot accept: \"no\" descriptors".to_owned();
        vec![
            (Event::Fork { worker: WORKER, slot: Slot(2), pid: 4711, generation: 1 }, true, ""),
            (Event::Online { worker: WORKER }, true, ""),
            (Event::Listening { worker: WORKER, address: address() }, true, r#""address":"127.0.0.1:8000""#),
            (message("{\"b\":\r\n1.0,\"a\":\"\\n\"}"), true, r#""body":{"b":  1.0,"a":"\n"}"#),
            (message(&large), true, r#""body_bytes":1025"#),
            (Event::Disconnect { worker: WORKER, voluntary: true }, true, r#""voluntary":true"#),
            (exit(Exit::Code(7), false), true, r#""code":7,"voluntary":false"#),
            (exit(Exit::Signal(9), true), true, r#""signal":"SIGKILL","voluntary":true"#),
            (exit(Exit::Signal(34), false), true, r#""signal":"34","voluntary":false"#),
            (Event::Respawn { slot: Slot(2), after: Duration::from_millis(800) }, true, r#""after_ms":800"#),
            (Event::Recycle { worker: WORKER }, true, ""),
            (Event::Reload { end: ReloadEnd::Done { generation: 2 } }, false, r#""outcome":"done","generation":2"#),
            (Event::Reload { end: ReloadEnd::NotReady }, false, r#""outcome":"not_ready""#),
            (Event::Reload { end: ReloadEnd::Misconfigured }, false, r#""outcome":"misconfigured""#),
            (Event::Reload { end: ReloadEnd::Stopping }, false, r#""outcome":"stopping""#),
            (Event::Scale { workers: 4 }, false, r#""workers":4"#),
            (Event::Enable, false, ""),
            (Event::Disable, false, ""),
            (Event::Signal { signal: Signal::SIGHUP }, false, r#""signal":"SIGHUP""#),
            (
                Event::AcceptPaused { address: address(), why },
                false,
                r#""address":"127.0.0.1:8000","why":"cannot accept: \"no\" descriptors""#,
            ),
            (Event::AcceptResumed { address: address() }, false, r#""address":"127.0.0.1:8000""#),
            (
                Event::Reclaimed { worker: WORKER, address: address(), count: 5 },
                true,
                r#""address":"127.0.0.1:8000","count":5"#,
            ),
            (Event::Upgrade { upgrades: 1 }, false, r#""upgrades":1"#),
        ]
    }

    fn json(event: &Event, is_of_worker: bool) -> String {
        let since_epoch = Duration::from_millis(1_795_188_031_042);
        line(17, since_epoch, is_of_worker.then_some(WHO), event).json.to_string()
    }

    #[test]
    fn every_event_has_its_line() {
        for (event, is_of_worker, own) in samples() {
            let head = format!(r#""time":"2026-11-20T15:20:31.042Z","event":"{}","id":17"#, event.name());
            let parts = [head.as_str(), if is_of_worker { PLACE } else { "" }, own];
            let expected = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
            assert_eq!(json(&event, is_of_worker), format!("{{{expected}}}"));
        }
        assert_eq!(lost(Duration::ZERO, 3), r#"{"time":"1970-01-01T00:00:00.000Z","event":"lost","count":3}"#);
    }

    #[test]
    fn a_body_is_shown_up_to_its_limit() {
        let body = |len: usize| Body::of(&"x".repeat(len)).unwrap();
        let shown = |len| json(&Event::Message { worker: WORKER, body: body(len), fd: None }, true);
        assert!(
            shown(BODY_MAX_BYTES - 2).contains("\"body\":\"xxx"),
            "with its quotation marks it is as long as it may"
        );
        assert!(shown(BODY_MAX_BYTES - 1).contains("\"body_bytes\":1025"));
    }

    #[test]
    fn the_order_to_open_files_anew_is_recognized() {
        let order = line(1, Duration::ZERO, None, &Event::Signal { signal: Signal::SIGUSR1 });
        assert_eq!(order.signal, Some(Signal::SIGUSR1));
        assert_eq!(line(1, Duration::ZERO, None, &Event::Scale { workers: 1 }).signal, None);
    }

    #[test]
    fn the_table_in_the_documentation_has_every_event_and_every_field_and_no_others() {
        let (events, _stream) = include_str!("../../../docs/events.md").split_once("## The stream").unwrap();
        let ticked =
            |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let rows: Vec<Vec<&str>> =
            events.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').collect()).collect();
        let documented: BTreeSet<String> = rows.iter().flat_map(|row| ticked(row[1])).collect();
        let told: BTreeSet<String> = samples().iter().map(|(event, ..)| event.name().to_owned()).collect();
        assert_eq!(documented, told.union(&BTreeSet::from(["lost".to_owned()])).cloned().collect());
        for row in rows {
            let name = ticked(row[1]).pop_first().unwrap();
            let fields = |(event, _, own): (Event, bool, &str)| {
                let own: serde_json::Value = serde_json::from_str(&format!("{{{own}}}")).unwrap();
                let keys = own.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                if event.name() == name { keys } else { vec![] }
            };
            let told: BTreeSet<String> = samples().into_iter().flat_map(fields).collect();
            let told = if name == "lost" { BTreeSet::from(["count".to_owned()]) } else { told };
            assert_eq!(ticked(row[2]), told, "{name}");
        }
    }
}
