//! The yardstick of `scripts/bench ffi`: what ring alone takes for a P-256 key and
//! one signature over as many bytes as a leaf's to-be-signed part has.
//!
//! ```sh
//! cargo run --release --example bare -- SECONDS
//! ```
//!
//! Prints `{"per_issue_us": N}`: the median of batches of ten, in microseconds.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

const BATCH: u32 = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: f64 = std::env::args().nth(1).unwrap_or_default().parse()?;
    let random = SystemRandom::new();
    let broken = |_| "ring failed";
    let new_key = || -> Result<EcdsaKeyPair, Box<dyn Error>> {
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(broken)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random);
        Ok(key.map_err(|_| "ring failed")?)
    };
    let signer = new_key()?;
    let mut batches = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        let started = Instant::now();
        for _ in 0..BATCH {
            black_box(new_key()?);
            black_box(signer.sign(&random, &[7; 400]).map_err(broken)?);
        }
        batches.push(started.elapsed() / BATCH);
    }
    batches.sort_unstable();
    let median = batches.get(batches.len() / 2).ok_or("no time to measure")?;
    let median = median.as_secs_f64() * 1e6;
    writeln!(std::io::stdout(), "{{\"per_issue_us\": {median:.3}}}")?;
    Ok(())
}
