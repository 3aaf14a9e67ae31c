//! Connections of one lane that its worker has been sent and has not acknowledged: the primary keeps its copy of each.
//!
//! This is how it is in the dialects whose channel the primary cannot receive from: nothing can be taken back while the
//! worker lives, for then two would have it. When the worker is dead, its kernel still knows whether it had begun.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use super::reexec::baggage::{self, Baggage};
use crate::protocol::record::Record;
use crate::sys::tcp;

/// In the order in which they were dealt.
#[derive(Debug, Default)]
pub struct Kept {
    connections: VecDeque<(Record, OwnedFd)>,
}

/// As it goes over an exec.
pub type Saved = Vec<(Record, RawFd)>;

/// What a dead worker had not acknowledged.
#[derive(Debug, Default)]
pub struct Remains {
    /// It had not read from these: others can serve them.
    pub untouched: Vec<(Record, OwnedFd)>,
    /// It had. They end with it.
    pub begun: Vec<Record>,
}

impl Kept {
    /// What the next image needs to go on with it.
    pub fn save(&self, baggage: &mut Baggage) -> Saved {
        self.connections.iter().map(|(record, fd)| (*record, baggage.pack(fd.as_fd()))).collect()
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// As [`baggage::unpack`].
    pub fn restore(saved: Saved) -> io::Result<Self> {
        let connections = saved.into_iter().map(|(record, fd)| Ok((record, baggage::unpack(fd)?)));
        Ok(Self { connections: connections.collect::<io::Result<_>>()? })
    }

    /// Keeps a connection that has been sent.
    pub fn keep(&mut self, record: Record, connection: OwnedFd) {
        self.connections.push_back((record, connection));
    }

    /// The worker has answered for the connection of this number. `None`: it was never sent that, or has answered.
    pub fn take(&mut self, sequence: u64) -> Option<(Record, OwnedFd)> {
        // Workers answer in order, but for what they refuse.
        let index = self.connections.iter().position(|(record, _)| record.sequence == sequence)?;
        self.connections.remove(index)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// The worker is dead, or has closed its channel: what becomes of them.
    pub fn take_remains(&mut self) -> Remains {
        let mut remains = Remains::default();
        for (record, connection) in self.connections.drain(..) {
            // A Unix socket does not tell. Node answers before its program hears of a connection.
            match tcp::was_touched(connection.as_fd()).unwrap_or(false) {
                false => remains.untouched.push((record, connection)),
                true => remains.begun.push(record),
            }
        }
        remains
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::protocol::record::Kind;

    fn kept(sequence: u64, kept: &mut Kept) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let connection = listener.accept().unwrap().0;
        let record = Record { kind: Kind::Connection, sequence, ..Record::probe() };
        kept.keep(record, connection.try_clone().unwrap().into());
        (client, connection)
    }

    #[test]
    fn whoever_was_read_from_or_written_to_is_not_given_to_somebody_else() {
        let mut all = Kept::default();
        let (mut waiting, _its) = kept(1, &mut all);
        waiting.write_all(b"GET /").unwrap();
        let (mut read_from, mut reader) = kept(2, &mut all);
        read_from.write_all(b"GET /").unwrap();
        reader.read_exact(&mut [0; 5]).unwrap();
        let (_answered, mut writer) = kept(3, &mut all);
        writer.write_all(b"hello").unwrap();
        let (_silent, _its) = kept(4, &mut all);
        let (mut gone, mut its) = kept(5, &mut all);
        gone.write_all(b"GET /").unwrap();
        gone.shutdown(std::net::Shutdown::Write).unwrap();
        // The end has come when what was before it has: looking does not take it.
        while its.peek(&mut [0; 9]).unwrap() < 5 {}
        let Remains { untouched, begun } = all.take_remains();
        let sequences = |records: &mut dyn Iterator<Item = Record>| records.map(|it| it.sequence).collect::<Vec<_>>();
        assert_eq!(sequences(&mut untouched.iter().map(|(record, _)| *record)), [1, 4, 5]);
        assert_eq!(sequences(&mut begun.into_iter()), [2, 3]);
        its.read_exact(&mut [0; 5]).unwrap();
    }

    #[test]
    fn an_answer_is_found_in_whatever_order_and_once() {
        let mut all = Kept::default();
        let _open = [kept(7, &mut all), kept(8, &mut all)];
        assert_eq!(all.take(8).map(|(record, _)| record.sequence), Some(8));
        assert!(all.take(8).is_none() && all.take(9).is_none());
        assert_eq!(all.len(), 1);
    }
}
