//! What issuing costs, beside the bare cryptography it cannot do without.
//! `scripts/bench` prints the ratios.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use ca_core::{
    Authority, HostName, LeafRequest, PkiLocation, PrivateKey, SiteConfig, SubjectKey, now,
};
use criterion::{Criterion, criterion_group, criterion_main};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

fn issue(c: &mut Criterion) {
    let mut group = c.benchmark_group("issue");
    let home = tempfile::tempdir().unwrap();
    let location = PkiLocation::at(home.path().join(".ood/pki")).unwrap();
    let site = SiteConfig::default();
    let authority = Authority::ensure(&location, &site, now()).unwrap();
    let request = LeafRequest::server([HostName::parse("n001.cluster.example").unwrap()])
        .with_ip("10.0.0.5".parse().unwrap())
        .unwrap();

    // The yardstick: a key of its own and one signature over as many bytes as
    // a leaf's to-be-signed part has, with nothing around it.
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let signer =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, signer.as_ref(), &random)
            .unwrap();
    group.bench_function("ring_keygen_and_sign", |b| {
        b.iter(|| {
            let pkcs8 =
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
            let key =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
                    .unwrap();
            black_box(&key);
            black_box(signer.sign(&random, &[7; 400]).unwrap());
        });
    });
    group.bench_function("in_memory", |b| {
        b.iter(|| {
            let issued = authority.mint(&request, now()).unwrap();
            black_box((issued.certificate.to_pem(), issued.key.unwrap().to_pem()));
        });
    });
    group.bench_function("with_record", |b| {
        b.iter(|| {
            let issued = authority.issue(&request, now()).unwrap();
            black_box((issued.certificate.to_pem(), issued.key.unwrap().to_pem()));
        });
    });
    let key = SubjectKey::from(&PrivateKey::generate(site.key_type).unwrap());
    let for_key = request.clone().for_key(key);
    group.bench_function("in_memory_for_a_given_key", |b| {
        b.iter(|| black_box(authority.mint(&for_key, now()).unwrap()));
    });
    group.bench_function("open_the_authority", |b| {
        b.iter(|| black_box(Authority::open(&location, &site, now()).unwrap()));
    });
    group.bench_function("see_that_nothing_changed", |b| {
        b.iter(|| assert!(authority.is_current().unwrap()));
    });
    group.finish();
}

criterion_group!(benches, issue);
criterion_main!(benches);
