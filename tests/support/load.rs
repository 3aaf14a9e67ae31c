//! A steady load of clients that expect every request to be answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::{self, Client};
use super::until;

/// Between two requests of one client, so that a load leaves the machine to those whom it is put on.
const PACE: Duration = Duration::from_millis(1);

/// Clients that ask again and again. Dropping it ends them.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    done: AtomicBool,
    answered: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

impl Load {
    /// `short` clients with a connection per request, and `kept` that keep theirs until a worker says that it ends.
    pub fn start(address: &str, short: usize, kept: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..short + kept).map(|number| {
            let (shared, address) = (Arc::clone(&shared), address.to_owned());
            std::thread::spawn(move || shared.ask_on_and_on(&address, number >= short))
        });
        let load = Self { clients: clients.collect(), shared };
        load.wait_for(20);
        load
    }

    /// Waits for that many more answers.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let before = self.shared.answered.load(Ordering::Relaxed);
        let more = || {
            let is_over = self.shared.done.load(Ordering::Relaxed);
            let now = self.shared.answered.load(Ordering::Relaxed);
            (is_over || now >= before + count).then_some(())
        };
        assert!(until(more).is_some(), "the service has stopped after {before} answers");
    }

    /// Ends it. Returns how many requests were answered.
    #[track_caller]
    pub fn end(mut self) -> usize {
        self.shared.done.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("clients report their failures");
        }
        let failed = std::mem::take(&mut *self.shared.failed.lock().unwrap());
        let answered = self.shared.answered.load(Ordering::Relaxed);
        assert!(failed.is_empty(), "{} failures, {answered} answers: {failed:?}", failed.len());
        answered
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// The first failure of anybody ends the whole load.
    fn ask_on_and_on(&self, address: &str, keeps: bool) {
        let mut kept = None;
        while !self.done.load(Ordering::Relaxed) {
            match if keeps { ask_on_kept(&mut kept, address) } else { http::get(address).map(drop) } {
                Ok(()) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    let what = if keeps { "kept" } else { "short" };
                    self.failed.lock().unwrap().push(format!("{what}: {error}"));
                    self.done.store(true, Ordering::Relaxed);
                }
            }
            std::thread::sleep(PACE);
        }
    }
}

fn ask_on_kept(kept: &mut Option<Client>, address: &str) -> std::io::Result<()> {
    let mut client = match kept.take() {
        Some(client) => client,
        None => Client::connect(address)?,
    };
    let response = client.get()?;
    if !response.head.contains("connection: close") {
        *kept = Some(client);
    }
    Ok(())
}
