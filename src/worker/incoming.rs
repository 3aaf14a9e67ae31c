//! The connections of a blocking listener as an iterator, for `for`.

use std::io;
use std::iter::FusedIterator;

use super::{Connection, Listener};

/// What [`Listener::incoming`] returns. It ends when the listener is closed, for good.
#[derive(Debug)]
#[must_use = "connections are accepted by iterating"]
pub struct Incoming<'a> {
    listener: &'a Listener,
}

impl Listener {
    /// The connections, each as [`accept`](Self::accept) returns it; it blocks. Any number of threads may iterate over
    /// one listener, and every connection comes to one of them.
    ///
    /// The iteration ends when the listener is closed. An error does not end it; a program that does not leave the
    /// loop at an error must not let it spin: what accept(2) lacks today it lacks a moment later too.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<Connection>;

    fn next(&mut self) -> Option<Self::Item> {
        self.listener.accept().transpose()
    }
}

impl FusedIterator for Incoming<'_> {}

/// `for connection in &listener`, as [`Listener::incoming`].
impl<'a> IntoIterator for &'a Listener {
    type Item = io::Result<Connection>;
    type IntoIter = Incoming<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.incoming()
    }
}
