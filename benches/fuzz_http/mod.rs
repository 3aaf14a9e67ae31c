//! Malformed HTTP at both doors of a real croupier, which must not notice: it lives, deals, and does not grow.
//!
//! ```text
//!   requests   good requests, and what becomes of them by seeded chance
//!   attack     sends them, and looks at the primary before and after
//! ```
//! `benches/fuzz_http.rs` sends many (`scripts/fuzz-http`), `tests/fuzz_http.rs` a few.

#![allow(dead_code)] // Each of the two uses another part.

pub mod attack;
#[path = "../torture/chance.rs"]
pub mod chance;
pub mod requests;
