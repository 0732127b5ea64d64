//! A lifetime that is accepted is within bounds and reads back as itself.
#![no_main]

use ca_core::Ttl;
use ca_core_fuzz::check_error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    match Ttl::parse(input) {
        Ok(ttl) => {
            assert!(ttl >= Ttl::MIN && ttl <= Ttl::MAX);
            assert_eq!(Ttl::parse(&ttl.to_string()).unwrap(), ttl);
        }
        Err(error) => check_error(&error),
    }
});
