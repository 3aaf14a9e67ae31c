//! The primary side: a program that has workers, and deals connections to them.
//!
//! [`Cluster`] is a primary as a library. It says what the workers are and where they listen; [`Cluster::start`]
//! binds, starts them, and gives a [`RunningCluster`] to talk to. The command line is another user of the same event
//! loop, with the same defaults ([`settings::Settings::of`]).
//!
//! A whole program. Started by hand it is the primary, which starts it again as its workers:
//!
#![cfg_attr(feature = "worker", doc = "```no_run")]
#![cfg_attr(not(feature = "worker"), doc = "```ignore")]
//! use std::error::Error;
//! use std::io::Write;
//! use croupier::primary::Cluster;
//! use croupier::primary::events::Event;
//! use croupier::primary::settings::Command;
//! use croupier::worker::{ListenOptions, Worker};
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     match Worker::from_env()? {
//!         Some(worker) => serve(&worker),
//!         None => run(),
//!     }
//! }
//!
//! fn run() -> Result<(), Box<dyn Error>> {
//!     let cluster = Cluster::of(Command::of_this_program()?).listen("127.0.0.1:8000").workers(4).start()?;
//!     println!("dealing {}", cluster.addresses()[0]);
//!     let mut greeted = 0;
//!     for event in cluster.events() {
//!         match event {
//!             Event::Listening { worker, address } => println!("worker {worker} listens on {address}"),
//!             Event::Message { worker, .. } => {
//!                 greeted += 1;
//!                 if let Err(error) = cluster.send(worker, &("you are number", greeted), None) {
//!                     println!("no answer: {error}"); // it has ended in the meantime
//!                 }
//!             }
//!             Event::Exit { worker, exit, voluntary: false } => println!("worker {worker} failed: {exit}"),
//!             _ => {}
//!         }
//!         if greeted == 1000 {
//!             break;
//!         }
//!     }
//!     let ending = cluster.shutdown()?; // whoever is connected is served to the end
//!     println!("{:?}", ending.outcome);
//!     Ok(())
//! }
//!
//! fn serve(worker: &Worker) -> Result<(), Box<dyn Error>> {
//!     let listener = worker.listen_on_first(&ListenOptions::new())?;
//!     for connection in listener.incoming() {
//!         worker.send("somebody is here", None)?;
//!         let Some(answer) = worker.messages().receive()? else { break };
//!         let _ = writeln!(connection?, "{}", answer.body); // a client that goes away is its own affair
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What it is to be
//! - **Listeners**: [`Cluster::listen`], written as for `--listen`. Workers may ask for others.
//! - **Workers**: a [`settings::Command`] with arguments, variables and a directory, and [how many](Cluster::workers)
//!   of them, also none; [groups](Cluster::group) of other commands beside it.
//! - **Who gets a connection**: [`Cluster::policy`], or a [`policy::Policy`] of the program's own.
//! - **What becomes of their output**: [`Cluster::stdout`], [`Cluster::stderr`]; of those that end:
//!   [`Cluster::respawn`]; of those that take too long: [`Cluster::timeouts`]. The rest: [`Cluster::settings`].
//!
//! # While it runs
//! | to | there is |
//! |---|---|
//! | hear what happens | [`RunningCluster::events`], [`subscribe`](RunningCluster::subscribe): see [`events`] |
//! | send workers JSON, and descriptors | [`send`](RunningCluster::send), [`broadcast`](RunningCluster::broadcast) |
//! | have more or fewer | [`scale`](RunningCluster::scale) |
//! | have one with an environment of its own | [`fork`](RunningCluster::fork) |
//! | replace all, or one | [`reload`](RunningCluster::reload), [`disconnect`](RunningCluster::disconnect) |
//! | have other ones | [`change`](RunningCluster::change): for those that are started later |
//! | have none for a while | [`disconnect_all`](RunningCluster::disconnect_all) |
//! | end one | [`kill`](RunningCluster::kill), with any signal |
//! | see everything | [`status`](RunningCluster::status) |
//!
//! # How it ends
//! [`shutdown`](RunningCluster::shutdown) serves everybody to the end, [`stop`](RunningCluster::stop) ends at once, as
//! does dropping the cluster; all three wait until nothing is left. Its last worker is not its end. But workers that
//! cannot be started are: after so many failures, with nobody ready, it [gives up](supervisor::Outcome::GaveUp), the
//! events end, and [`wait`](RunningCluster::wait) says why. If the process dies, its workers do too.
//!
//! # What it leaves alone
//! Signal handlers, directory, umask and limits of the process, and children that are not its workers. There may be
//! several clusters in one process, and one after the other. Two things are for the command line only: signals that
//! mean something to the primary, and the upgrade in place, because what else a program does cannot go over an exec.
//!
//! `examples/` has whole programs: `count_requests`, `echo_messages`, `fewest_requests`, `hand_over_socket`.
//!
//! # Inside
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
//! One thread, one loop, one register of workers. The pure files know no socket and no clock. Who wants the loop in a
//! thread of its choice has [`Primary`], and [`commands::Remote`] to talk to it.

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
mod kept;
mod lanes;
pub mod ledger;
mod lifecycle;
pub mod listener_spec;
mod listeners;
pub mod output;
mod patience;
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
