//! The primary: it owns the listening sockets, accepts, deals, and keeps the workers.
//!
//! ```text
//!   readiness ─▶ event_loop ─▶ pure decision ─▶ effect ─▶ event_loop ─▶ I/O
//!                              scheduler   whose turn it is
//!                              policy      who gets it, of those with room
//!                              room        who has room
//!                              stall       who does not take
//!                              hearing     who has talked enough
//!                              lifecycle   where a worker stands
//!                              supervisor  which workers there should be
//! ```
//! One thread, one loop, one register of workers. The pure files know no socket and no clock.

pub mod address;
#[cfg(feature = "admin")]
pub mod admin;
pub mod chooser;
mod cluster;
pub mod commands;
mod dealing;
mod dialect;
mod event_loop;
pub mod events;
mod hearing;
mod lanes;
mod lifecycle;
pub mod listener_spec;
mod listeners;
pub mod output;
pub mod policy;
pub mod recycle;
pub mod reexec;
mod returned;
pub mod room;
pub mod scheduler;
pub mod settings;
mod socket;
pub mod stall;
pub mod status;
pub mod supervisor;
mod workers;

pub use cluster::{Cluster, Crash, EVENTS_MAX_DEFAULT, NotDone, RunningCluster};
pub use event_loop::{Ending, Primary, StartError};
pub use listeners::BindError;
