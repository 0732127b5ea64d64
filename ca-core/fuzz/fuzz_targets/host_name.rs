//! A name that is accepted holds nothing but what it may hold, reads back as
//! itself, and makes a leaf that a peer accepts for that name.
#![no_main]

use ca_core::{HostName, LeafRequest, PeerName, Purpose, UserName, now};
use ca_core_fuzz::{check_error, mint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    match HostName::parse(input) {
        Ok(host) => check_host(&host),
        Err(error) => check_error(&error),
    }
    if let Ok(pattern) = HostName::parse_with_wildcard(input) {
        check_letters(pattern.as_str().trim_start_matches("*."));
        assert_eq!(
            HostName::parse_with_wildcard(pattern.as_str()).unwrap(),
            pattern
        );
    }
    match PeerName::parse(input) {
        Ok(peer) => assert_eq!(PeerName::parse(&peer.to_string()).unwrap(), peer),
        Err(error) => check_error(&error),
    }
    match UserName::parse(input) {
        Ok(user) => check_user(&user),
        Err(error) => check_error(&error),
    }
});

fn check_host(host: &HostName) {
    check_letters(host.as_str());
    assert_eq!(&HostName::parse(host.as_str()).unwrap(), host);
    let issued = mint(&LeafRequest::server([host.clone()])).unwrap();
    let peer = PeerName::Host(host.clone());
    issued
        .trust
        .verify(&issued.certificate, Purpose::Server, Some(&peer), now())
        .unwrap();
}

/// Letters, digits, hyphens (RFC 1123 §2.1) and lengths (RFC 1035 §2.3.4).
fn check_letters(name: &str) {
    assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
    for label in name.split('.') {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(!label.is_empty() && label.len() <= 63, "{name:?}");
        assert!(label.bytes().all(plain), "{name:?}");
        assert!(!label.starts_with('-') && !label.ends_with('-'), "{name:?}");
    }
}

fn check_user(user: &UserName) {
    assert!(user.as_str().len() <= 64);
    assert_eq!(&UserName::parse(user.as_str()).unwrap(), user);
    let issued = mint(&LeafRequest::client(user.clone())).unwrap();
    assert_eq!(issued.certificate.subject(), user.as_str());
}
