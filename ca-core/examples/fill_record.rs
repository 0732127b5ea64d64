//! Issues many server leaves, so that their record has a known length:
//!
//! ```sh
//! cargo run --release --example fill_record -- /tmp/pki 10000
//! ```
//!
//! `scripts/bench` uses it to see how `ood-ca` bears a long record.

use std::error::Error;

use ca_core::{Authority, HostName, LeafRequest, PkiLocation, SiteConfig, now};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(count), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("give a PKI directory and a number of leaves".into());
    };
    let authority = Authority::ensure(&PkiLocation::at(dir)?, &SiteConfig::default(), now())?;
    for number in 0..count.parse::<u32>()? {
        let host = HostName::parse(&format!("n{number:05}.cluster.example"))?;
        let issued = authority.issue(&LeafRequest::server([host]), now())?;
        // A notice could mean that the leaf is missing from the record.
        if let Some(notice) = issued.notices.into_iter().next() {
            return Err(notice.to_string().into());
        }
    }
    Ok(())
}
