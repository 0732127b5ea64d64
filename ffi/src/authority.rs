//! The authority: opened once, used from any thread, never out of date.

use std::path::Path;
use std::sync::{Arc, RwLock, TryLockError};

use ca_core::{Authority as CoreAuthority, PkiLocation, SiteConfig, now};

use crate::buffer::{Buffer, BufferBody};
use crate::error::{Error, Result};
use crate::handle::{Opaque, boundary, tag};
use crate::input::{self, MAX_PATH, Versioned};
use crate::macros::{handle, options, place};
use crate::status::Status;
use crate::text::{Str, Text};

/// A user's certificate authority. Any number of threads may use one at once,
/// and processes that were forked while it was open too. It belongs to the
/// caller, who frees it with `ood_ca_authority_free`.
pub struct Authority(());

/// Where the authority is and which settings count. NULL in place of it, or
/// zeros behind `size`, mean what the command `ood-ca` does without options.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpenOptions {
    /// `sizeof(ood_ca_open_options)`.
    pub size: usize,
    /// The PKI directory. Empty: what the site's settings say, or `~/.ood/pki`.
    pub pki_dir: Str,
    /// The site's settings, a file. Empty: `$OOD_CA_CONFIG` (never for root), or
    /// `/etc/ood/config/ood_ca.yml`, which may be missing. They are read when the
    /// authority is opened and not again.
    pub config: Str,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for OpenOptions {
    const FIRST: usize = 40;
}

impl Opaque for Authority {
    type Body = Held;
    const TAG: u64 = tag(b"oodcaAUT");
}

/// Where to look and by which settings.
pub(crate) struct Where {
    pub(crate) location: PkiLocation,
    pub(crate) site: SiteConfig,
}

impl Where {
    /// # Safety
    /// The texts in `options` can be read.
    pub(crate) unsafe fn new(options: &OpenOptions) -> Result<Self> {
        // SAFETY: the caller's promise.
        let config = unsafe { input::text(options.config, "config", MAX_PATH) }?;
        // SAFETY: the caller's promise.
        let pki_dir = unsafe { input::text(options.pki_dir, "pki_dir", MAX_PATH) }?;
        let site = SiteConfig::load((!config.is_empty()).then(|| Path::new(config)))?;
        let location = match pki_dir {
            "" => PkiLocation::for_user(&site)?,
            dir => PkiLocation::at(dir)?,
        };
        Ok(Where { location, site })
    }
}

/// The authority as its files said when they were last read.
pub(crate) struct Current {
    pub(crate) authority: CoreAuthority,
    /// What its leaves' bearers should trust, as text: once, not for each leaf.
    pub(crate) trust: Arc<Text>,
}

impl Current {
    fn new(authority: CoreAuthority) -> Arc<Self> {
        let trust = Arc::new(Text::of(&authority.trust().to_pem()));
        Arc::new(Current { authority, trust })
    }
}

/// What an open handle keeps.
pub(crate) struct Held {
    pub(crate) location: PkiLocation,
    pub(crate) site: SiteConfig,
    /// Nobody ever waits for this lock, because a thread that held it may be
    /// missing from a forked process: who finds it taken does without the cache.
    current: RwLock<Arc<Current>>,
}

impl Held {
    fn new(place: Where, authority: CoreAuthority) -> Self {
        Held {
            location: place.location,
            site: place.site,
            current: RwLock::new(Current::new(authority)),
        }
    }

    /// The authority as its files are now: the one in memory, or, if another
    /// process has rotated or replaced it, a new one.
    pub(crate) fn current(&self) -> Result<Arc<Current>> {
        if let Some(cached) = self.cached()
            && cached.authority.is_current()?
        {
            return Ok(cached);
        }
        let fresh = CoreAuthority::open(&self.location, &self.site, now())?;
        let fresh = Current::new(fresh);
        match self.current.try_write() {
            Ok(mut slot) => *slot = Arc::clone(&fresh),
            // A whole value is swapped, so a panic leaves the old or the new one.
            Err(TryLockError::Poisoned(slot)) => *slot.into_inner() = Arc::clone(&fresh),
            // Somebody reads or writes it; the next call will find it out of
            // date again, or not.
            Err(TryLockError::WouldBlock) => {}
        }
        Ok(fresh)
    }

    fn cached(&self) -> Option<Arc<Current>> {
        match self.current.try_read() {
            Ok(slot) => Some(Arc::clone(&slot)),
            Err(TryLockError::Poisoned(slot)) => Some(Arc::clone(&slot.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Opens the authority and creates nothing. `OOD_CA_STATUS_NO_AUTHORITY` if there
/// is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_authority_open(
    options: *const OpenOptions,
    authority: *mut *mut Authority,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let authority = place!(authority);
        let options = options!(options or default);
        // SAFETY: the caller's promise.
        let place = unsafe { Where::new(&options) }?;
        let opened = CoreAuthority::open(&place.location, &place.site, now())?;
        authority.fill(Held::new(place, opened));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Opens the authority, and creates it first if there is none. Any number of
/// processes on any number of hosts may do so at once: one authority comes of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_authority_ensure(
    options: *const OpenOptions,
    authority: *mut *mut Authority,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let authority = place!(authority);
        let options = options!(options or default);
        // SAFETY: the caller's promise.
        let place = unsafe { Where::new(&options) }?;
        let opened = CoreAuthority::ensure(&place.location, &place.site, now())?;
        authority.fill(Held::new(place, opened));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Every authority to be trusted now, in PEM, the one that signs first. Free it
/// with `ood_ca_buffer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_authority_trust(
    authority: *const Authority,
    trust: *mut *mut Buffer,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let trust = place!(trust);
        let held = handle!(authority);
        let current = held.current()?;
        trust.fill(BufferBody::shared(Arc::clone(&current.trust)));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

/// Frees an authority that no thread uses any more. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_authority_free(authority: *mut Authority) {
    // SAFETY: the caller's promise.
    unsafe { crate::handle::free(authority) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use ca_core::Rotation;

    fn held(dir: &Path) -> Held {
        let site = SiteConfig::default();
        let location = PkiLocation::at(dir.join("pki")).unwrap();
        let authority = CoreAuthority::ensure(&location, &site, now()).unwrap();
        Held::new(Where { location, site }, authority)
    }

    #[test]
    fn the_cache_serves_until_the_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(dir.path());
        let first = held.current().unwrap();
        assert!(Arc::ptr_eq(&first, &held.current().unwrap()));
        Rotation::new(&held.location, &held.site)
            .prepare(now())
            .unwrap();
        let second = held.current().unwrap();
        assert_eq!(second.authority.trust().authorities().len(), 2);
        assert!(Arc::ptr_eq(&second, &held.current().unwrap()));
    }

    #[test]
    fn a_lock_that_nobody_will_release_is_not_waited_for() {
        // As in a forked process, where the thread that held it is missing.
        let dir = tempfile::tempdir().unwrap();
        let held = held(dir.path());
        let cached = held.current().unwrap();
        std::mem::forget(held.current.write());
        let fresh = held.current().unwrap();
        assert!(!Arc::ptr_eq(&cached, &fresh));
        assert_eq!(
            fresh.authority.certificate(),
            cached.authority.certificate()
        );
    }

    #[test]
    fn a_panic_while_the_cache_was_locked_leaves_it_usable() {
        let dir = tempfile::tempdir().unwrap();
        let held = held(dir.path());
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _lock = held.current.write().unwrap();
            panic!("in the middle");
        }));
        assert!(held.current.is_poisoned());
        let cached = held.current().unwrap();
        assert!(Arc::ptr_eq(&cached, &held.current().unwrap()));
        Rotation::new(&held.location, &held.site)
            .prepare(now())
            .unwrap();
        assert!(!Arc::ptr_eq(&cached, &held.current().unwrap()));
    }
}
