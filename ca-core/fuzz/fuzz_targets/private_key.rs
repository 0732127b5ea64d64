//! A key that is accepted reads back as itself and shows nothing in `Debug`;
//! one that is refused is not quoted.
#![no_main]

use ca_core::{Error, PrivateKey};
use ca_core_fuzz::check_error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pem: &[u8]| {
    match PrivateKey::from_pem(pem) {
        Ok(key) => {
            let again = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
            assert_eq!(again.pkcs8_der(), key.pkcs8_der());
            assert_eq!(again.key_type(), key.key_type());
            assert_eq!(
                format!("{key:?}"),
                format!("PrivateKey({}, [redacted])", key.key_type())
            );
        }
        Err(error) => {
            check_error(&error);
            // Nothing else in it varies: `why` is a constant text by its type.
            assert!(matches!(error, Error::BadKey { what, .. } if what == "the private key"));
        }
    }
});
