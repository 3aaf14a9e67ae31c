//! The operating system as the rest of croupier wants to see it, and the only place with `unsafe`.
//!
//! Everything that leaves this folder is an owned or borrowed file descriptor, a number or a reference with a
//! lifetime. Nothing here knows what a worker, a listener or a connection is.
#![allow(unsafe_code)]
// A part of the features needs a part of this.
#![cfg_attr(not(feature = "cli"), allow(dead_code))]

pub mod clock;
pub mod environment;
pub mod fd_passing;
#[cfg(feature = "primary")]
pub mod identity;
#[cfg(feature = "cli")]
pub mod inherited;
pub mod limits;
#[cfg(feature = "primary")]
pub mod listening;
#[cfg(feature = "primary")]
pub mod process;
#[cfg(feature = "tokio")]
pub mod reactor;
pub mod shared_memory;
pub mod signals;
pub mod socket_path;
#[cfg(feature = "primary")]
pub mod tcp;
#[cfg(feature = "primary")]
pub mod usage;
