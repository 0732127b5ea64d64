//! Looking again at what may have changed: the trust bundle and the leaf.
//!
//! By polling, and by contents: on a network file system neither a
//! notification nor a modification time can be relied on.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ca_core::{PkiLocation, TrustBundle};
use tokio::time::{sleep, timeout};

use crate::apart::apart;
use crate::error::{Error, Result};
use crate::ingress::Shared;
use crate::log::{Event, Reloaded};
use crate::options::TrustSource;
use crate::tls::Tls;

/// A file server that has not answered by then is worth a line in the log.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again, as long as it is polled: at each by itself, so that no
/// file that cannot be read keeps the other from being looked at.
pub(super) async fn watch(shared: &Shared, trust: &TrustSource) {
    let interval = match trust {
        TrustSource::PkiDir(_, interval) => *interval,
        TrustSource::Fixed(_) => TrustSource::LONGEST_INTERVAL,
    };
    tokio::join!(
        async {
            if let TrustSource::PkiDir(location, _) = trust {
                watch_trust(shared, location, interval).await;
            }
        },
        watch_leaf(shared, interval)
    );
    pending().await
}

async fn watch_trust(shared: &Shared, location: &PkiLocation, interval: Duration) {
    let mut complaint = None;
    loop {
        sleep(interval).await;
        let location = location.clone();
        let read = move || Ok(TrustBundle::read(&location)?);
        let read = in_time(shared, Reloaded::Trust, read).await;
        let used = read.and_then(|bundle| use_trust(shared, bundle));
        note(shared, Reloaded::Trust, used, &mut complaint);
    }
}

async fn watch_leaf(shared: &Shared, interval: Duration) {
    let mut complaint = None;
    loop {
        sleep(interval).await;
        // One that has no files now may be replaced by one that has.
        let Some(files) = shared.leaf_files() else {
            continue;
        };
        let read = in_time(shared, Reloaded::Leaf, move || files.read()).await;
        let used = read.map(|identity| shared.use_leaf(identity));
        note(shared, Reloaded::Leaf, used, &mut complaint);
    }
}

/// Reads, and says so if that takes long.
async fn in_time<T: Send + 'static>(
    shared: &Shared,
    what: Reloaded,
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut reading = pin!(apart(read));
    let read = match timeout(PATIENCE, &mut reading).await {
        Ok(read) => read,
        Err(_) => {
            let why = format!("the file system has not answered for {PATIENCE:?}");
            shared.journal.tell(&Event::NotReloaded { what, why });
            reading.await
        }
    };
    let broken = || Error::io("read files", std::io::Error::other("it panicked"));
    read.unwrap_or_else(|| Err(broken()))
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

/// Tells what came of a look. `complaint` is what was told last of what was wrong:
/// each thing is told once.
fn note(shared: &Shared, what: Reloaded, used: Result<bool>, complaint: &mut Option<String>) {
    match used {
        Ok(changed) => {
            // That it is well again is news too.
            if changed || complaint.is_some() {
                shared.journal.tell(&Event::Reloaded { what });
            }
            *complaint = None;
        }
        Err(error) => {
            let why = error.to_string();
            if complaint.as_ref() != Some(&why) {
                *complaint = Some(why.clone());
                shared.journal.tell(&Event::NotReloaded { what, why });
            }
        }
    }
}
