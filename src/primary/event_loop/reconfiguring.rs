//! A reload that reads the configuration again: a thread reads, since files can hang; the loop adopts what it found and
//! replaces the workers. If the new ones do not come up, the settings before are in force again.
//!
//! ```text
//!   Idle ─ requested ─▶ Reading ─ good ─▶ Proving ─ reload done ─▶ Idle
//!    ▲                     │ bad             │ new workers failed: the settings before
//!    └─────────────────────┴─────────────────┘
//! ```
//! Without a configuration there is only the reload. Requests that come in between are one more, afterwards.

use std::io;

use super::Primary;
use crate::primary::commands::{Command, Scale};
use crate::primary::settings::{Configuration, Settings};
use crate::primary::supervisor::{Event, ReloadEnd};
use crate::protocol::time::Monotonic;
use crate::sys::signals;

/// How reloads and the configuration stand.
#[derive(Debug, Default)]
pub(super) struct Reconfiguration {
    stage: Stage,
    /// What was wrong with the one that was read last and refused.
    pub(super) mistake: String,
    /// Somebody wants another one after it.
    is_queued: bool,
    left_over: Option<LeftOver>,
}

/// What the image before this one had not come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeftOver {
    /// So many workers the settings asked for when that was last followed.
    pub(super) worker_count: u32,
    /// A reload was asked for that has not begun.
    pub(super) is_reload_due: bool,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// A thread reads.
    Reading,
    /// Workers are replaced under new settings; those are the ones before.
    Proving(Box<Settings>),
}

impl Reconfiguration {
    pub(super) fn after(left_over: LeftOver) -> Self {
        Self { left_over: Some(left_over), ..Self::default() }
    }

    fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }
}

impl Primary {
    /// Whoever asks for a reload now has to wait for another one than that under way.
    pub(super) fn is_reloading(&self) -> bool {
        self.supervisor.is_reloading() || !self.reconfiguration.is_idle()
    }

    /// Somebody wants every worker replaced.
    pub(super) fn request_reload(&mut self) {
        match self.settings.configuration.clone() {
            Some(_) if self.is_reloading() => self.reconfiguration.is_queued = true,
            Some(configuration) if self.supervisor.is_running() => self.read(configuration),
            _ => self.decide(Event::ReloadRequested),
        }
    }

    fn read(&mut self, configuration: Configuration) {
        self.reconfiguration.stage = Stage::Reading;
        let remote = self.remote();
        let read = move || {
            let read = signals::block_all_in_this_thread().map_err(|error| error.to_string());
            let read = read.and_then(|()| configuration.read().map(Box::new));
            // The primary has ended: nobody wants it any more.
            let _ = remote.send_in_turn(Command::Reconfigure(read));
        };
        let spawned: io::Result<_> = std::thread::Builder::new().name("croupier-config".into()).spawn(read);
        if let Err(error) = spawned {
            self.reconfigure(Err(format!("start a thread to read the configuration: {error}; try again")));
        }
    }

    /// The configuration was read.
    pub(super) fn reconfigure(&mut self, read: Result<Box<Settings>, String>) {
        if !matches!(self.reconfiguration.stage, Stage::Reading) {
            return;
        }
        self.reconfiguration.stage = Stage::Idle;
        match read {
            Ok(new) => {
                if self.supervisor.is_running() {
                    let before = Box::new(self.settings.clone());
                    self.adopt(*new);
                    self.reconfiguration.stage = Stage::Proving(before);
                }
                self.decide(Event::ReloadRequested);
            }
            Err(why) => {
                self.reconfiguration.mistake = why;
                self.reload_ended(ReloadEnd::Misconfigured);
            }
        }
    }

    fn adopt(&mut self, new: Settings) {
        self.settings.adopt(new);
        self.supervisor.set_plan(self.settings.plan);
        self.next_due_look = (!self.settings.recycle.is_off()).then(Monotonic::now);
    }

    /// A reload is over.
    pub(super) fn conclude_reconfiguration(&mut self, end: ReloadEnd) {
        let stage = std::mem::take(&mut self.reconfiguration.stage);
        match (stage, end) {
            // It began before an upgrade, which has read the file too, and nobody has the settings from before.
            (Stage::Idle, ReloadEnd::NotReady) if self.settings.configuration.is_some() => {
                log::warn!(
                    "the new configuration stays in force: an upgrade came in between [correct it, then reload]"
                );
            }
            // A reload without a configuration.
            (Stage::Idle, _) => {}
            // The end of a stop, while the thread still reads: what it finds is refused then.
            (Stage::Reading, _) => self.reconfiguration.stage = Stage::Reading,
            (Stage::Proving(before), ReloadEnd::Done { .. }) => self.follow_worker_count(before.plan.worker_count),
            (Stage::Proving(before), ReloadEnd::NotReady) => {
                log::warn!("the old configuration is in force again [correct the new one, then reload]");
                self.adopt(*before);
            }
            (Stage::Proving(_), ReloadEnd::Misconfigured | ReloadEnd::Stopping) => {}
        }
        self.request_queued();
    }

    /// So many workers the settings asked for when that was last followed: not before a reload under way has ended.
    pub(super) fn followed_worker_count(&self) -> u32 {
        match &self.reconfiguration.stage {
            Stage::Proving(before) => before.plan.worker_count,
            Stage::Idle | Stage::Reading => self.settings.plan.worker_count,
        }
    }

    /// A reload was asked for that has not begun.
    pub(super) fn is_reload_due(&self) -> bool {
        self.reconfiguration.is_queued || matches!(self.reconfiguration.stage, Stage::Reading)
    }

    /// What the settings say of the number of workers counts when they change: otherwise a reload would undo what
    /// somebody has scaled to.
    fn follow_worker_count(&mut self, before: u32) {
        let worker_count = self.settings.plan.worker_count;
        if worker_count != before
            && let Err(refused) = self.scale_as_told(Scale::To(worker_count))
        {
            log::warn!("configuration: workers={worker_count}: {refused} [as many as before]");
        }
    }

    /// Once this image runs: who wants to hear what comes of it does not listen before.
    pub(super) fn come_to_what_was_left(&mut self) {
        let Some(LeftOver { worker_count, is_reload_due }) = self.reconfiguration.left_over.take() else { return };
        self.follow_worker_count(worker_count);
        if is_reload_due {
            self.request_reload();
        }
    }

    fn request_queued(&mut self) {
        if !self.is_reloading() && std::mem::take(&mut self.reconfiguration.is_queued) {
            self.request_reload();
        }
    }
}
