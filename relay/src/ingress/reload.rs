//! Looking again at what may have changed: the trust bundle and the leaf.
//!
//! By polling, and by contents: on a network file system neither a
//! notification nor a modification time can be relied on.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ca_core::TrustBundle;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};
use crate::ingress::Shared;
use crate::log::{Event, Reloaded};
use crate::options::TrustSource;
use crate::tls::Tls;

/// A file server that has not answered by then is worth a line in the log.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again, as long as it is polled.
pub(super) async fn watch(shared: &Shared, trust: &TrustSource) {
    let mut complaints = Complaints::default();
    let (location, interval) = match trust {
        TrustSource::PkiDir(location, interval) => (Some(location), *interval),
        TrustSource::Fixed(_) if shared.leaf_files().is_some() => {
            (None, TrustSource::LONGEST_INTERVAL)
        }
        TrustSource::Fixed(_) => return pending().await,
    };
    loop {
        sleep(interval).await;
        if let Some(location) = location {
            let location = location.clone();
            let reading = apart(move || Ok(TrustBundle::read(&location)?));
            let read = in_time(shared, Reloaded::Trust, reading).await;
            let used = read.and_then(|bundle| use_trust(shared, bundle));
            complaints.note(shared, Reloaded::Trust, used);
        }
        if let Some(files) = shared.leaf_files() {
            let reading = apart(move || files.read());
            let read = in_time(shared, Reloaded::Leaf, reading).await;
            let used = read.map(|identity| shared.use_leaf(identity));
            complaints.note(shared, Reloaded::Leaf, used);
        }
    }
}

/// Waits for what is read, and says so if that takes long.
async fn in_time<T>(
    shared: &Shared,
    what: Reloaded,
    reading: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut reading = pin!(reading);
    match timeout(PATIENCE, &mut reading).await {
        Ok(read) => read,
        Err(_) => {
            let why = format!("the file system has not answered for {PATIENCE:?}");
            shared.journal.tell(&Event::NotReloaded { what, why });
            reading.await
        }
    }
}

/// Reads on a thread of its own, as a file system may hang. At the process limit,
/// where the runtime would panic or wait for a thread for ever, it reads here.
async fn apart<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    let read = Arc::new(Mutex::new(Some(read)));
    let take = |read: &Mutex<Option<_>>| {
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        read.take()
    };
    let theirs = Arc::clone(&read);
    let thread = std::thread::Builder::new().spawn(move || {
        if let Some(read) = take(&theirs) {
            // Nobody may wait for it any more.
            let _ = sender.send(read());
        }
    });
    if thread.is_err()
        && let Some(read) = take(&read)
    {
        return read();
    }
    let read = receiver.await;
    read.unwrap_or_else(|e| Err(Error::io("read files", std::io::Error::other(e))))
}

/// Lets another bundle count, if it is another; whether it is.
pub(super) fn use_trust(shared: &Shared, bundle: TrustBundle) -> Result<bool> {
    let before = Arc::clone(&shared.tls.borrow());
    if before.trust == bundle {
        return Ok(false);
    }
    let fresh = Tls::new(bundle, Arc::clone(&shared.answers), shared.terms())?;
    let left = before.trust.authorities().iter();
    for authority in left.filter(|a| !fresh.trust.contains(a)) {
        shared.journal.tell(&Event::AuthorityLeft {
            fingerprint: authority.fingerprint().to_string(),
        });
    }
    // Every connection looks whether its own authority is still there.
    shared.tls.send_replace(Arc::new(fresh));
    Ok(true)
}

/// What was last complained about: each thing is told once.
#[derive(Debug, Default)]
struct Complaints {
    trust: Option<String>,
    leaf: Option<String>,
}

impl Complaints {
    fn note(&mut self, shared: &Shared, what: Reloaded, used: Result<bool>) {
        let last = match what {
            Reloaded::Trust => &mut self.trust,
            Reloaded::Leaf => &mut self.leaf,
        };
        match used {
            Ok(changed) => {
                // That it is well again is news too.
                if changed || last.take().is_some() {
                    shared.journal.tell(&Event::Reloaded { what });
                }
                *last = None;
            }
            Err(error) => {
                let why = error.to_string();
                if last.as_ref() != Some(&why) {
                    *last = Some(why.clone());
                    shared.journal.tell(&Event::NotReloaded { what, why });
                }
            }
        }
    }
}
