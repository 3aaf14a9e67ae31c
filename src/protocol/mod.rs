//! The contract between a primary and its workers: everything that both sides must agree on, and nothing else.
//!
//! ```text
//!   primary                                                       worker
//!   control channel  ── hello/welcome, listen, messages, disconnect ── one per worker: JSON packets
//!   deal channel     ── one record + one fd per connection ────────▶ one per lane
//!                    ◀─ kick (one byte: "I have room again") ──────
//!   retained end     the primary's duplicate of the worker's end of the deal channel: the kernel's queue is the
//!                    store of what is in flight
//!   scoreboard       ── room wanted ──▶  ◀── taken, closed ──        one shared memfd per worker
//! ```
//!
//! A worker in another language needs: `CROUPIER_CHANNEL` ([`bootstrap`]), the messages of [`control`], the record
//! of [`record`] and the words of [`scoreboard`]. If its lane comes with `proxy_protocol`, it takes PROXY headers off.

pub use crate::sys::fd_passing::Wait;

pub mod allow_list;
pub mod body;
pub mod bootstrap;
pub mod control;
pub mod control_channel;
pub mod deal_channel;
pub mod handshake;
pub mod ids;
pub mod record;
pub mod scoreboard;
pub mod time;

/// The atomics of [`handshake`]: the model checker compiles that file with its own in their place.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}
