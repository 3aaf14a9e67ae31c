//! `GET /metrics`: what the event loop has counted, what `/proc` says of the processes, as a text for Prometheus.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};

use super::desk::{ANSWER_TIMEOUT, Desk};
use super::exposition::{Exposition, prometheus_text};
use super::problem::{Answered, Problem};
use crate::primary::commands::Command;
use crate::primary::status::Metrics;
use crate::protocol::ids::Slot;
use crate::sys::limits;
use crate::sys::usage::{self, Usage};

/// For those that name it in `Accept`, as Prometheus does.
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_1: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// For everybody else.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the processes of one slot have of the machine. More than one runs there while the one finishes and the other
/// takes over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SlotUsage {
    /// Together.
    pub(super) rss_bytes: u64,
    /// Of all workers that there ever were. `None`: one has ended since the event loop was asked, so that nobody knows
    /// its time at the moment. No number is better than one that goes back.
    pub(super) cpu: Option<Duration>,
}

/// What the primary's own process has of it. `None`: nobody can tell at the moment, because it takes a descriptor to
/// look and there is none left. A counter that falls to 0 would be taken for a new start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnUsage {
    pub(super) process: Option<Usage>,
    pub(super) open_files: Option<u64>,
    pub(super) open_files_max: Option<u64>,
}

pub(super) async fn metrics(
    State(desk): State<Desk>,
    headers: HeaderMap,
) -> Answered<([(HeaderName, &'static str); 1], String)> {
    let metrics = desk.ask_within(ANSWER_TIMEOUT, Command::Metrics).await?;
    let (slots, own) = (usage_by_slot(&metrics), own_usage());
    let text = Exposition { metrics, slots, own }.open_metrics();
    let text = text.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let accepts = |value: &str| value.contains(OPEN_METRICS);
    if headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(accepts) {
        return Ok(([(CONTENT_TYPE, OPEN_METRICS_1)], text));
    }
    Ok(([(CONTENT_TYPE, PROMETHEUS_TEXT)], prometheus_text(&text)))
}

fn usage_by_slot(metrics: &Metrics) -> BTreeMap<Slot, SlotUsage> {
    let of_ended = |slot| metrics.ledger.slots().get(&slot).map_or(Duration::ZERO, |sums| sums.cpu);
    let slots = metrics.starts.iter().map(|(slot, _)| *slot);
    let mut all: BTreeMap<Slot, SlotUsage> =
        slots.map(|slot| (slot, SlotUsage { rss_bytes: 0, cpu: Some(of_ended(slot)) })).collect();
    for worker in &metrics.status.workers {
        let sum = all.entry(Slot(worker.slot)).or_default();
        let usage = usage::of(worker.pid);
        sum.rss_bytes += usage.map_or(0, |it| it.rss_bytes);
        sum.cpu = sum.cpu.zip(usage).map(|(cpu, it)| cpu + it.cpu);
    }
    all
}

fn own_usage() -> OwnUsage {
    OwnUsage {
        process: usage::of(std::process::id() as i32),
        open_files: usage::open_files().ok(),
        open_files_max: limits::open_files().ok().map(|limit| limit.soft),
    }
}
