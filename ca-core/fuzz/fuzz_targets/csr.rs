//! The key of a request that is accepted can be signed, and nothing else of
//! the request reaches the leaf.
#![no_main]

use ca_core::{LeafRequest, SubjectKey, UserName};
use ca_core_fuzz::{check_error, mint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|csr: &[u8]| {
    match SubjectKey::from_csr(csr) {
        Ok(key) => {
            let user = UserName::parse("alice").unwrap();
            let issued = mint(&LeafRequest::client(user).for_key(key)).unwrap();
            assert!(issued.key.is_none());
            assert!(issued.certificate.key_type().is_some());
            assert_eq!(issued.certificate.subject(), "alice");
            assert!(issued.certificate.dns_names().is_empty());
        }
        Err(error) => check_error(&error),
    }
});
