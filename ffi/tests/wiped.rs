//! No private key stays in memory that is given back.
//!
//! The allocator of this test looks at every block that is freed, while one
//! thread issues leaves through the C ABI. It knows the keys by their first line.
#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::{null, null_mut};

use ood_ca::*;

const NEEDLE: &[u8] = b"-----BEGIN PRIVATE KEY-----";

struct Watchful;

thread_local! {
    static FOUND: Cell<Option<usize>> = const { Cell::new(None) };
}

fn look(block: &[u8]) {
    // Not while this thread ends, when there is no counter any more.
    let _ = FOUND.try_with(|found| {
        if let Some(count) = found.get()
            && block.windows(NEEDLE.len()).any(|bytes| bytes == NEEDLE)
        {
            found.set(Some(count + 1));
        }
    });
}

// SAFETY: all work is the system allocator's. Blocks are read before they are
// freed; that some of their bytes were never written is why this is for tests only.
unsafe impl GlobalAlloc for Watchful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that every byte that `look` reads was written.
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: a live block of this size, by the caller's promise.
        look(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
    // `realloc` is the default one: a new block, a copy, and `dealloc` of the old.
}

#[global_allocator]
static ALLOCATOR: Watchful = Watchful;

fn text(from: &str) -> Str {
    Str {
        data: from.as_ptr().cast(),
        len: from.len(),
    }
}

#[test]
fn the_key_of_a_leaf_is_wiped_when_the_leaf_is_freed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("pki").display().to_string();
    let config = home.path().join("ood_ca.yml");
    std::fs::write(&config, "{}\n").unwrap();
    let config = config.display().to_string();
    let open = OpenOptions {
        size: size_of::<OpenOptions>(),
        pki_dir: text(&dir),
        config: text(&config),
    };
    let host = text("n001");
    let want = IssueOptions {
        size: size_of::<IssueOptions>(),
        purpose: Purpose::Server as u32,
        flags: OOD_CA_ISSUE_IN_MEMORY,
        ttl: 0,
        hosts: &raw const host,
        hosts_len: 1,
        ips: null(),
        ips_len: 0,
    };
    let mut view: IssuedView = {
        // SAFETY: integers and pointers; zero is a value of each.
        unsafe { std::mem::zeroed() }
    };
    view.size = size_of::<IssuedView>();

    FOUND.set(Some(0));
    let (mut authority, mut issued) = (null_mut(), null_mut());
    // SAFETY: every pointer leads to a value of this function, of the right type.
    unsafe {
        let status = ood_ca_authority_ensure(&raw const open, &raw mut authority, null_mut());
        assert_eq!(status, Status::Ok);
        // Opened again, so that a key was read from its file too.
        ood_ca_authority_free(authority);
        let status = ood_ca_authority_open(&raw const open, &raw mut authority, null_mut());
        assert_eq!(status, Status::Ok);
        for _ in 0..3 {
            let status = ood_ca_issue(authority, &raw const want, &raw mut issued, null_mut());
            assert_eq!(status, Status::Ok);
            let status = ood_ca_issued_get(issued, &raw mut view, null_mut());
            assert_eq!(status, Status::Ok);
            let key = std::slice::from_raw_parts(view.key.data.cast::<u8>(), view.key.len);
            assert!(key.starts_with(NEEDLE));
            ood_ca_issued_free(issued);
        }
        ood_ca_authority_free(authority);
    }
    let found = FOUND.replace(None);
    assert_eq!(found, Some(0), "blocks with a key in them were freed");

    // The allocator would have noticed.
    FOUND.set(Some(0));
    drop(std::hint::black_box(NEEDLE.to_vec()));
    assert_eq!(FOUND.replace(None), Some(1));
}
