//! What the supervisor goes by: how many workers, whether they are replaced, and how long things may take. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const BURST_MAX: u32 = 5;
const BURST_WINDOW: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(30);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const KILL_DELAY: Duration = Duration::from_secs(2);

/// Whether an ended worker is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Respawn {
    /// Whatever its exit.
    Always,
    /// Unless it exited with code 0.
    OnFailure,
    /// Never.
    Never,
}

/// What the supervisor goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How many workers there should be.
    pub worker_count: u32,
    /// Whether an ended worker is replaced.
    pub respawn: Respawn,
    /// It goes on without any worker, until it is asked to stop or gives up; `worker_count` may be 0. Otherwise the end
    /// of the last worker is the end of it all.
    pub outlives_workers: bool,
    /// This many failures of workers that were never ready ...
    pub burst_max: u32,
    /// ... within this time, while nobody is ready, and croupier gives up.
    pub burst_window: Duration,
    /// A worker that is not ready by then is killed.
    pub start_timeout: Duration,
    /// How long listeners and workers may take to finish.
    pub shutdown_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub kill_delay: Duration,
    /// How long a graceful stop goes on as if nothing had happened.
    pub shutdown_delay: Duration,
    /// How many workers a reload replaces at a time, at least 1.
    pub reload_parallel: u32,
}

impl Plan {
    /// The fewest workers that there may be.
    pub const fn worker_count_min(&self) -> u32 {
        if self.outlives_workers { 0 } else { 1 }
    }

    /// So many workers, and the defaults of the README's table.
    pub const fn of(worker_count: u32) -> Self {
        Self {
            worker_count,
            respawn: Respawn::Always,
            outlives_workers: false,
            burst_max: BURST_MAX,
            burst_window: BURST_WINDOW,
            start_timeout: START_TIMEOUT,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            kill_delay: KILL_DELAY,
            shutdown_delay: Duration::ZERO,
            reload_parallel: 1,
        }
    }
}
