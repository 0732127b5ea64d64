//! A certificate or trust bundle that is accepted reads back as itself; no
//! certificate counts for two purposes; one that can be renewed can be minted.
#![no_main]

use std::sync::LazyLock;

use ca_core::{Certificate, LeafRequest, Purpose, TrustBundle, now};
use ca_core_fuzz::{check_error, mint};
use libfuzzer_sys::fuzz_target;

/// Signed the leaves among the seeds.
static TRUST: LazyLock<TrustBundle> = LazyLock::new(|| {
    TrustBundle::from_pem(include_bytes!("../seeds/certificate/authority")).unwrap()
});

fuzz_target!(|pem: &[u8]| {
    match Certificate::from_pem(pem) {
        Ok(certificate) => check_certificate(&certificate),
        Err(error) => check_error(&error),
    }
    match TrustBundle::from_pem(pem) {
        Ok(bundle) => {
            assert!((1..=TrustBundle::MAX).contains(&bundle.authorities().len()));
            assert_eq!(
                TrustBundle::from_pem(bundle.to_pem().as_bytes()).unwrap(),
                bundle
            );
        }
        Err(error) => check_error(&error),
    }
});

fn check_certificate(certificate: &Certificate) {
    assert_eq!(
        &Certificate::from_pem(certificate.to_pem().as_bytes()).unwrap(),
        certificate
    );
    let _ = format!("{certificate:?}");

    let accepted = [Purpose::Server, Purpose::Client]
        .map(|purpose| TRUST.verify(certificate, purpose, None, now()));
    assert!(!accepted.iter().all(Result::is_ok));
    accepted
        .iter()
        .flat_map(|a| a.as_ref().err())
        .for_each(check_error);

    match LeafRequest::renewal_of(certificate) {
        Ok(request) => match mint(&request) {
            Ok(renewed) => assert_eq!(renewed.certificate.kind(), certificate.kind()),
            Err(error) => check_error(&error),
        },
        Err(error) => check_error(&error),
    }
}
