//! A configuration that is accepted keeps its own rules; one that is refused
//! is refused in one line.
#![no_main]

use std::path::Path;

use ca_core::{HostName, SiteConfig, SubnetRule};
use ca_core_fuzz::check_error;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match SiteConfig::parse(text, Path::new("ood_ca.yml")) {
        Ok(site) => check_site(&site),
        Err(error) => {
            assert!(error.to_string().starts_with("ood_ca.yml"));
            check_error(&error);
        }
    }
});

fn check_site(site: &SiteConfig) {
    assert!(site.leaf_lifetime <= site.max_leaf_lifetime);
    assert!(site.max_leaf_lifetime <= site.ca_lifetime);
    if let Some(dir) = &site.pki_dir {
        // It may stand in nginx configuration, which has no escape for these.
        assert!(!dir.contains(['$', '"', '\'', ';', '\\', '\n', ' ', '#']));
        assert!(!dir.split('/').any(|part| part == ".."));
    }
    let constraints = site.name_constraints.iter();
    for host in constraints.clone().flat_map(|c| &c.dns).chain(&site.domain) {
        assert_eq!(&HostName::parse(host.as_str()).unwrap(), host);
    }
    for subnet in constraints.flat_map(|c| &c.ip) {
        assert_eq!(SubnetRule::parse(&subnet.to_string()).unwrap(), *subnet);
    }
}
