//! Removing variables from this process's environment.

/// Removes `name` from the environment of this process, so that programs it starts do not see it.
///
/// Call it before other threads read the environment through C's `getenv`: Rust's own `std::env` takes a lock,
/// C code does not.
pub fn remove(name: &str) {
    // SAFETY: std's accesses are serialised by its own lock. That no foreign C code reads the environment at the
    // same time is the documented duty of the caller: the worker library calls this once, at start-up.
    unsafe { std::env::remove_var(name) }
}
