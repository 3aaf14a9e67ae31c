//! Metrics as text. `docs/metrics.md` says of each what it means, and a test compares the two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::metrics::{OwnUsage, SlotUsage};
use crate::primary::ledger::{ListenerSums, PauseReason, Tally};
use crate::primary::lifecycle::State;
use crate::primary::returned::Reason;
use crate::primary::status::{self, Metrics};
use crate::primary::supervisor::Restart;
use crate::protocol::ids::Slot;
use crate::protocol::scoreboard::{WAIT_BUCKETS, Waits};

const PREFIX: &str = "croupier";

/// Everything that one scrape tells.
#[derive(Debug)]
pub(super) struct Exposition {
    pub(super) metrics: Metrics,
    pub(super) slots: BTreeMap<Slot, SlotUsage>,
    pub(super) own: OwnUsage,
}

impl Exposition {
    /// As OpenMetrics 1.0.
    ///
    /// # Errors
    /// None: a text takes everything.
    pub(super) fn open_metrics(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, &registry)?;
        Ok(open_metrics)
    }
}

/// The same in the older text format, where the name of a counter ends with `_total` wherever it stands.
pub(super) fn prometheus_text(open_metrics: &str) -> String {
    let counter = |line: &'_ str| Some(line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.to_owned());
    let counters: BTreeSet<String> = open_metrics.lines().filter_map(counter).collect();
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", what, name, rest] if counters.contains(name) => text += &format!("# {what} {name}_total {rest}"),
            _ => text += line,
        }
        text += "\n";
    }
    text
}

const WORKER_STATES: [State; 5] = [State::Starting, State::Online, State::Ready, State::Draining, State::Disconnected];

/// Why a connection came back.
fn name_of(reason: Reason) -> &'static str {
    match reason {
        Reason::Untaken => "drained",
        Reason::Reclaimed => "reclaimed",
        Reason::GivenBack => "given_back",
        Reason::Unsent => "unsent",
        Reason::Died => "died",
        Reason::Refused => "refused",
    }
}

type Labels = Vec<(&'static str, String)>;

fn of_listener(listener: &str) -> Labels {
    vec![("listener", listener.to_owned())]
}

fn of_slot(slot: Slot) -> Labels {
    vec![("slot", slot.to_string())]
}

fn of_lane(listener: &str, slot: Slot) -> Labels {
    [of_listener(listener), of_slot(slot)].concat()
}

fn with_reason(labels: Labels, reason: &str) -> Labels {
    [labels, vec![("reason", reason.to_owned())]].concat()
}

/// Whatever has one value and no label.
fn alone<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

/// The same, if somebody knows it.
fn known<V>(value: Option<V>) -> impl Iterator<Item = (Labels, V)> {
    value.into_iter().flat_map(alone)
}

/// The families of one scrape, one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, |mut sample, value| {
            sample.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, samples, |mut sample, value| sample.encode_gauge(&value))
    }

    fn histogram<'s>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, &'s Waits)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, samples, |mut sample, waits| {
            let bounds = (0..WAIT_BUCKETS).map(|bucket| match bucket {
                ..WAIT_LAST => (1_u64 << bucket) as f64 / 1e6,
                _ => f64::INFINITY,
            });
            let buckets: Vec<(f64, u64)> = bounds.zip(waits.buckets).collect();
            let count = waits.buckets.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
            sample.encode_histogram::<NoLabelSet>(waits.sum_ns as f64 / 1e9, count, &buckets, None)
        })
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, V)>,
        encode: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        // A family without samples, which the formats allow, is not what every parser takes.
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                return encode(family, value);
            }
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

/// The bucket for everything above the others.
const WAIT_LAST: usize = WAIT_BUCKETS - 1;

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.tell_primary(&mut families)?;
        self.tell_workers(&mut families)?;
        self.tell_listeners(&mut families)?;
        self.tell_lanes(&mut families)?;
        self.tell_own_process(&mut families)
    }
}

impl Exposition {
    fn tell_primary(&self, families: &mut Families<'_>) -> fmt::Result {
        let status = &self.metrics.status;
        let version = vec![("version", status.version.clone())];
        families.gauge("build_info", "Always 1; the version is in the label.", [(version, 1_u64)])?;
        families.gauge("uptime_seconds", "Since the primary was started, over upgrades.", alone(status.age_seconds))?;
        families.gauge("generation", "Reloads since the start.", alone(status.generation))?;
        families.counter("upgrades", "Upgrades in place since the start.", alone(status.upgrades))?;
        let enabled = u64::from(status.enabled);
        families.gauge("enabled", "1 while load balancers are told to send clients.", alone(enabled))?;
        let stopping = u64::from(status.state == status::State::Stopping);
        families.gauge("stopping", "1 from the moment a stop was asked for.", alone(stopping))
    }

    fn tell_workers(&self, families: &mut Families<'_>) -> fmt::Result {
        let Metrics { status, ledger, starts, .. } = &self.metrics;
        families.gauge("workers_wanted", "Workers that there should be.", alone(status.workers_wanted))?;
        let in_state = |state: State| {
            let count = status.workers.iter().filter(|worker| worker.state == state.name()).count();
            (vec![("state", state.name().to_owned())], count as u64)
        };
        families.gauge("workers", "Worker processes, by state.", WORKER_STATES.map(in_state))?;
        let started = starts.iter().map(|(slot, count)| (of_slot(*slot), *count));
        families.counter("worker_starts", "Worker processes started.", started)?;
        let running = |slot: Slot| status.workers.iter().filter(|worker| worker.slot == slot.0).count() as u64;
        let ended = starts.iter().map(|(slot, count)| (of_slot(*slot), count.saturating_sub(running(*slot))));
        families.counter("worker_ends", "Worker processes that have ended.", ended)?;
        let restarted = |slot: Slot, reason: Restart| {
            let count = ledger.slots().get(&slot).and_then(|sums| sums.restarts.get(&reason)).copied();
            (with_reason(of_slot(slot), reason.name()), count.unwrap_or(0))
        };
        let restarts = starts.iter().flat_map(|(slot, _)| Restart::ALL.map(|reason| restarted(*slot, reason)));
        families.counter("worker_restarts", "Workers started in the place of another one, by reason.", restarts)?;
        let memory = self.slots.iter().map(|(slot, usage)| (of_slot(*slot), usage.rss_bytes));
        families.gauge("worker_resident_memory_bytes", "Resident memory of the workers of a slot.", memory)?;
        let times = self.slots.iter().filter_map(|(slot, usage)| Some((of_slot(*slot), usage.cpu?.as_secs_f64())));
        families.counter("worker_cpu_seconds", "Processor time of the workers of a slot, ended ones included.", times)
    }

    fn tell_listeners(&self, families: &mut Families<'_>) -> fmt::Result {
        let each = |value: fn(&ListenerSums) -> u64| {
            self.metrics.ledger.listeners().map(move |(listener, sums)| (of_listener(listener), value(sums)))
        };
        families.counter("accepted", "Connections accepted.", each(|sums| sums.counters.accepted))?;
        let redealt = self.metrics.ledger.listeners().flat_map(|(listener, sums)| {
            let count = |reason: Reason| sums.counters.redealt[reason as usize];
            Reason::ALL.map(|reason| (with_reason(of_listener(listener), name_of(reason)), count(reason)))
        });
        families.counter("redealt", "Deals of connections that had come back, by reason.", redealt)?;
        let help = "Connections that came back and were closed because nobody took them in time.";
        families.counter("expired", help, each(|sums| sums.counters.expired))?;
        let pauses = self.metrics.ledger.listeners().flat_map(|(listener, sums)| {
            let count = |reason: PauseReason| sums.counters.pauses[reason as usize];
            PauseReason::ALL.map(|reason| (with_reason(of_listener(listener), reason.name()), count(reason)))
        });
        families.counter("accept_pauses", "How often accepting paused, by reason.", pauses)?;
        let help = "1 while nothing is accepted for want of descriptors or memory.";
        families.gauge("accept_paused", help, self.now(|listener| listener.paused.into()))?;
        let help = "Connections that came back and wait in the primary.";
        families.gauge("returned_connections", help, self.now(|listener| listener.returned))?;
        let waits = self.metrics.ledger.listeners().map(|(listener, sums)| (of_listener(listener), &sums.waits));
        families.histogram("accept_to_take_seconds", "From accept in the primary to take in a worker.", waits)
    }

    /// Of the listeners that there are, by the names of the ledger.
    fn now(&self, value: fn(&status::ListenerStatus) -> u64) -> impl Iterator<Item = (Labels, u64)> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for listener in &self.metrics.status.listeners {
            *sums.entry(self.metrics.ledger.name_of(&listener.address)).or_default() += value(listener);
        }
        sums.into_iter().map(|(listener, value)| (of_listener(listener), value))
    }

    /// By listener and slot.
    fn lanes(&self) -> impl Iterator<Item = (Labels, &Tally)> {
        self.metrics.ledger.listeners().flat_map(|(listener, sums)| {
            sums.by_slot.iter().map(move |(slot, tally)| (of_lane(listener, *slot), tally))
        })
    }

    fn tell_lanes(&self, families: &mut Families<'_>) -> fmt::Result {
        let each = |value: fn(&Tally) -> u64| self.lanes().map(move |(labels, tally)| (labels, value(tally)));
        families.counter("dealt", "Connections dealt, those that had come back included.", each(|it| it.dealt))?;
        families.counter("taken", "Connections taken by workers.", each(|it| it.taken))?;
        // No number is better than a wrong one.
        let ends = |value: fn(&Tally) -> u64| {
            let known = self.lanes().filter(|(_, tally)| !tally.ends_unknown);
            known.map(move |(labels, tally)| (labels, value(tally)))
        };
        families.counter("closed", "Connections closed or given back by workers.", ends(|it| it.closed))?;
        families.counter("cut", "Connections that were open when their worker's process ended.", ends(|it| it.cut))?;
        families.gauge("open_connections", "Connections that workers have.", ends(Tally::open))?;
        let untaken = self.metrics.untaken.iter().map(|((listener, slot), count)| (of_lane(listener, *slot), *count));
        families.gauge("untaken_connections", "Connections dealt that wait for their worker.", untaken)
    }

    fn tell_own_process(&self, families: &mut Families<'_>) -> fmt::Result {
        let OwnUsage { process, open_files, open_files_max } = self.own;
        let memory = process.map(|it| it.rss_bytes);
        families.gauge("primary_resident_memory_bytes", "Resident memory of the primary.", known(memory))?;
        let time = process.map(|it| it.cpu.as_secs_f64());
        families.counter("primary_cpu_seconds", "Processor time of the primary.", known(time))?;
        families.gauge("primary_open_fds", "Descriptors that the primary has open.", known(open_files))?;
        families.gauge("primary_max_fds", "Descriptors that the primary may have open.", known(open_files_max))
    }
}
