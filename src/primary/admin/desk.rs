//! Questions to the event loop, and how long they may take. Each door has a desk of its own: however many ask at one,
//! the other gets its answers.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::Door;
use super::problem::{Answered, Problem};
use crate::primary::commands::{Answer, Command, Remote, Unsent};
use crate::primary::status::Status;

/// How long the event loop may take to answer, but for a reload, whose answer is its end. Then: 504.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to answer a health check. Then: 504.
pub(super) const ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions of the control socket that wait for the event loop at once; more wait for their turn. Both doors together
/// leave some of `COMMANDS_MAX` to others.
const CONTROL_QUESTIONS_MAX: usize = 32;
/// The same for the monitor. Few: each of them costs the event loop time that it could deal in.
const MONITOR_QUESTIONS_MAX: usize = 4;

/// The way from one door to the event loop.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    remote: Remote,
    turns: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(door: Door, remote: Remote) -> Self {
        let questions_max = match door {
            Door::Control => CONTROL_QUESTIONS_MAX,
            Door::Monitor => MONITOR_QUESTIONS_MAX,
        };
        Self { remote, turns: Arc::new(Semaphore::new(questions_max)) }
    }

    /// Asks, and waits for the answer however long it takes: without a turn, which others wait for.
    pub(super) async fn ask<T: Send + 'static>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Answered<T> {
        let (sender, answer) = oneshot::channel();
        // Nobody waits any more: the client has gone.
        self.remote.send(command(Answer::new(move |it| drop(sender.send(it)))))?;
        answer.await.map_err(|_| Problem::from(Unsent::Ended))
    }

    /// Asks when it is its turn. No answer within `time`: 504.
    pub(super) async fn ask_within<T: Send + 'static>(
        &self,
        time: Duration,
        command: impl FnOnce(Answer<T>) -> Command,
    ) -> Answered<T> {
        let asked = timeout(time, async {
            let _turn = self.turns.acquire().await.map_err(|_| Problem::from(Unsent::Ended))?;
            self.ask(command).await
        });
        let late = |_| Problem::new(StatusCode::GATEWAY_TIMEOUT, format!("the primary did not answer within {time:?}"));
        asked.await.map_err(late)?
    }

    /// Everything that the event loop knows, with what the workers' processes have of the machine.
    pub(super) async fn status(&self) -> Answered<Status> {
        let mut status = self.ask_within(ANSWER_TIMEOUT, Command::Status).await?;
        status.look_at_processes();
        Ok(status)
    }
}
