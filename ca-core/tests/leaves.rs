//! Leaves as the library makes them, and the PUN's client leaf over its life.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::net::IpAddr;
use std::path::PathBuf;

use ca_core::{
    Authority, Certificate, ClientLeaf, Error, HostName, IssuedRecord, KeyType, LeafRequest,
    Notice, PeerName, PkiLocation, PrivateKey, Purpose, RenewalDue, Rotation, SiteConfig, Ttl, now,
};
use proptest::prelude::*;
use tempfile::TempDir;
use time::Duration;

struct Home {
    dir: TempDir,
    location: PkiLocation,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = PkiLocation::at(dir.path().join(".ood/pki")).unwrap();
        Home { dir, location }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(".ood/pki").join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    fn authority(&self) -> Authority {
        Authority::ensure(&self.location, &SiteConfig::default(), now()).unwrap()
    }

    fn pair_matches(&self) -> bool {
        ClientLeaf::examine(&self.location, now())
            .unwrap()
            .key_matches
    }
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn site(text: &str) -> SiteConfig {
    SiteConfig::parse(text, "ood_ca.yml".as_ref()).unwrap()
}

#[test]
fn what_is_said_of_a_new_leaf_is_what_its_bytes_say() {
    let authority = Home::new().authority();
    let requests = [
        LeafRequest::server([host("b.example"), host("a.example")])
            .with_ip("10.0.0.5".parse().unwrap())
            .unwrap()
            .with_ip("fd00::5".parse().unwrap())
            .unwrap()
            .with_any_host()
            .unwrap(),
        LeafRequest::client("alice".parse().unwrap()),
    ];
    for request in requests {
        let made = authority.mint(&request, now()).unwrap().certificate;
        assert_eq!(made, Certificate::from_der(made.der()).unwrap());
        assert_eq!(
            made,
            Certificate::from_pem(made.to_pem().as_bytes()).unwrap()
        );
    }
}

#[test]
fn an_ipv4_address_brings_its_derived_name_and_ipv6_does_not() {
    let request = LeafRequest::server([]);
    let request = request.with_ip("10.0.0.5".parse().unwrap()).unwrap();
    let request = request.with_ip("fd00::5".parse().unwrap()).unwrap();
    let leaf = Home::new()
        .authority()
        .mint(&request, now())
        .unwrap()
        .certificate;
    assert_eq!(leaf.dns_names(), ["10-0-0-5.ip.ood.internal"]);
    assert_eq!(leaf.ip_addresses().len(), 2);
}

#[test]
fn the_name_for_any_host_is_there_only_when_asked_for() {
    let authority = Home::new().authority();
    let names = |request: LeafRequest| {
        authority
            .mint(&request, now())
            .unwrap()
            .certificate
            .dns_names()
            .to_vec()
    };
    assert_eq!(names(LeafRequest::server([host("n001")])), ["n001"]);
    assert_eq!(names(LeafRequest::any_host()), ["server.ood.internal"]);
}

#[test]
fn a_reserved_name_gets_into_a_leaf_by_no_way_around() {
    let PeerName::Host(reserved) = PeerName::parse("server.ood.internal").unwrap() else {
        panic!("not a host name");
    };
    let error = Home::new()
        .authority()
        .issue(&LeafRequest::server([reserved]), now())
        .unwrap_err();
    assert_eq!(error.code(), "bad-request");
}

#[test]
fn a_server_leaf_without_any_name_and_one_with_too_many_are_refused() {
    let authority = Home::new().authority();
    let many = (0..65).map(|n| host(&format!("n{n}")));
    for request in [LeafRequest::server([]), LeafRequest::server(many)] {
        assert_eq!(
            authority.issue(&request, now()).unwrap_err().code(),
            "bad-request"
        );
    }
}

#[test]
fn a_client_leaf_takes_neither_addresses_nor_the_name_for_any_host() {
    let client = LeafRequest::client("alice".parse().unwrap());
    assert!(client.clone().with_ip("10.0.0.5".parse().unwrap()).is_err());
    assert!(client.with_any_host().is_err());
}

#[test]
fn wildcards_need_the_sites_leave() {
    let request =
        LeafRequest::server([HostName::parse_with_wildcard("*.cluster.example").unwrap()]);
    let home = Home::new();
    assert!(home.authority().issue(&request, now()).is_err());
    let site = site("allow_wildcards: true");
    let authority = Authority::open(&home.location, &site, now()).unwrap();
    let leaf = authority.issue(&request, now()).unwrap().certificate;
    let peer = |name| PeerName::parse(name).unwrap();
    let verify = |name| {
        authority
            .trust()
            .verify(&leaf, Purpose::Server, Some(&peer(name)), now())
    };
    assert!(verify("n001.cluster.example").is_ok());
    assert!(verify("a.n001.cluster.example").is_err());
    assert!(verify("cluster.example").is_err());
}

#[test]
fn serial_numbers_have_sixteen_octets_and_never_repeat() {
    let authority = Home::new().authority();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..500 {
        let leaf = authority
            .mint(&LeafRequest::any_host(), now())
            .unwrap()
            .certificate;
        assert_eq!(leaf.serial().as_bytes().len(), 16);
        assert!(seen.insert(leaf.serial().clone()));
    }
}

#[test]
fn a_clock_ten_minutes_behind_still_accepts_a_new_leaf_and_eleven_do_not() {
    let authority = Home::new().authority();
    let here = now() + Duration::hours(1);
    let leaf = authority
        .mint(&LeafRequest::any_host(), here)
        .unwrap()
        .certificate;
    let verify_at = |time| authority.trust().verify(&leaf, Purpose::Server, None, time);
    assert!(verify_at(here - Duration::minutes(10)).is_ok());
    assert!(verify_at(here - Duration::minutes(11)).is_err());
}

#[test]
fn an_authority_is_refused_before_and_after_its_time() {
    let home = Home::new();
    let site = SiteConfig::default();
    let end = home.authority().certificate().not_after();
    let open = |time| Authority::open(&home.location, &site, time).map(drop);
    assert!(open(end).is_ok());
    assert!(matches!(
        open(end + Duration::seconds(1)),
        Err(Error::AuthorityExpired { .. })
    ));
    let too_early = now() - Duration::minutes(12);
    assert!(matches!(
        open(too_early),
        Err(Error::AuthorityNotYetValid { .. })
    ));
}

#[test]
fn an_expired_authority_can_be_looked_at_and_replaced() {
    let home = Home::new();
    let site = SiteConfig::default();
    let later = home.authority().certificate().not_after() + Duration::days(1);
    assert!(
        ca_core::Overview::read(&home.location, later)
            .unwrap()
            .authority
            .is_expired(later)
    );
    Rotation::new(&home.location, &site)
        .emergency(later)
        .unwrap();
    assert!(Authority::open(&home.location, &site, later).is_ok());
}

#[test]
fn every_way_to_renew_keeps_the_client_key() {
    let home = Home::new();
    let site = SiteConfig::default();
    let authority = home.authority();
    let key = home.read("client.key");
    let rotation = Rotation::new(&home.location, &site);
    let kept = |what: &str| {
        assert_eq!(home.read("client.key"), key, "{what} replaced the key");
        assert!(
            home.pair_matches(),
            "{what} left a pair that does not match"
        );
    };

    authority.renew_client(now()).unwrap();
    kept("a renewal");
    authority.renew_client(now() + Duration::days(40)).unwrap();
    kept("a renewal after expiry");
    std::fs::remove_file(home.file("client.crt")).unwrap();
    authority.renew_client(now()).unwrap();
    kept("a renewal without a certificate");
    std::fs::write(home.file("client.crt"), "garbage").unwrap();
    authority.renew_client(now()).unwrap();
    kept("a renewal of a damaged certificate");
    rotation.prepare(now()).unwrap();
    rotation.activate(false, now()).unwrap();
    Authority::open(&home.location, &site, now())
        .unwrap()
        .renew_client(now())
        .unwrap();
    kept("a renewal during a rotation");
    rotation.retire(true, now()).unwrap();
    kept("the retirement of the old authority");
}

#[test]
fn an_emergency_replaces_the_client_key_too() {
    let home = Home::new();
    home.authority();
    let (key, trust) = (home.read("client.key"), home.read("trust.crt"));
    Rotation::new(&home.location, &SiteConfig::default())
        .emergency(now())
        .unwrap();
    assert_ne!(home.read("client.key"), key);
    assert_ne!(home.read("trust.crt"), trust);
    assert!(home.pair_matches());
}

#[test]
fn activation_leaves_the_client_leaf_to_jobs_that_know_only_the_old_authority() {
    let home = Home::new();
    home.authority();
    let leaf = home.read("client.crt");
    let site = SiteConfig::default();
    let rotation = Rotation::new(&home.location, &site);
    rotation.prepare(now()).unwrap();
    rotation.activate(false, now()).unwrap();
    assert_eq!(home.read("client.crt"), leaf);
    rotation.retire(false, now()).unwrap();
    assert_ne!(home.read("client.crt"), leaf);
    assert!(
        !ClientLeaf::examine(&home.location, now())
            .unwrap()
            .due
            .is_due()
    );
}

#[test]
fn retirement_waits_for_the_last_leaf_of_the_old_authority() {
    let home = Home::new();
    let site = SiteConfig::default();
    let request = LeafRequest::any_host().with_ttl(Ttl::parse("1d").unwrap());
    home.authority().issue(&request, now()).unwrap();
    let rotation = Rotation::new(&home.location, &site);
    rotation.prepare(now()).unwrap();
    rotation.activate(false, now()).unwrap();
    assert!(rotation.retire(false, now()).is_err());
    assert!(rotation.retire(false, now() + Duration::days(2)).is_ok());
}

#[test]
fn a_leaf_is_due_when_a_quarter_to_a_fifth_of_its_life_is_left() {
    let home = Home::new();
    let authority = home.authority();
    let mut times = std::collections::HashSet::new();
    for _ in 0..50 {
        let leaf = authority
            .mint(&LeafRequest::any_host(), now())
            .unwrap()
            .certificate;
        // It starts ten minutes in the past, which are no part of its life.
        let life = leaf.not_after() - leaf.not_before() - Duration::minutes(10);
        let due_at = |time| RenewalDue::of(&leaf, authority.trust(), time).is_due();
        assert!(!due_at(leaf.not_after() - life / 4 - Duration::minutes(1)));
        assert!(due_at(leaf.not_after() - life / 5));
        let RenewalDue::NotBefore(at) = RenewalDue::of(&leaf, authority.trust(), now()) else {
            panic!("due at once");
        };
        times.insert(at);
    }
    assert!(times.len() > 40, "all fall due at once");
}

#[test]
fn a_renewed_leaf_has_the_same_key_names_and_lifetime() {
    let authority = Home::new().authority();
    let request = LeafRequest::server([host("n001"), host("n001.cluster.example")])
        .with_ip("10.0.0.5".parse().unwrap())
        .unwrap()
        .with_any_host()
        .unwrap()
        .with_ttl(Ttl::parse("12h").unwrap());
    let first = authority.mint(&request, now()).unwrap();
    let again = LeafRequest::renewal_of(&first.certificate).unwrap();
    let second = authority.mint(&again, now()).unwrap().certificate;
    assert!(second.belongs_to(&first.key.unwrap()));
    assert_eq!(
        second.dns_names().len(),
        first.certificate.dns_names().len()
    );
    assert!(
        first
            .certificate
            .dns_names()
            .iter()
            .all(|n| second.dns_names().contains(n))
    );
    assert_eq!(second.ip_addresses(), first.certificate.ip_addresses());
    let life = |c: &Certificate| c.not_after() - c.not_before();
    assert_eq!(life(&second), life(&first.certificate));
    assert_ne!(second.serial(), first.certificate.serial());
}

#[test]
fn the_record_is_kept_for_400_days_past_expiry() {
    let home = Home::new();
    let request = LeafRequest::any_host().with_ttl(Ttl::parse("1d").unwrap());
    let leaf = home.authority().issue(&request, now()).unwrap().certificate;
    let recorded = || {
        let record = IssuedRecord::read(&home.location).unwrap();
        record.entries.iter().any(|entry| entry.certificate == leaf)
    };
    let prune = |time| {
        IssuedRecord::prune(&home.location, time)
            .unwrap()
            .certificates
    };
    assert_eq!(prune(leaf.not_after() + Duration::days(399)), 0);
    assert!(recorded());
    assert_eq!(prune(leaf.not_after() + Duration::days(401)), 1);
    assert!(!recorded());
}

#[test]
fn an_open_authority_notices_that_it_was_replaced() {
    let home = Home::new();
    let authority = home.authority();
    assert!(authority.is_current().unwrap());
    Rotation::new(&home.location, &SiteConfig::default())
        .prepare(now())
        .unwrap();
    assert!(!authority.is_current().unwrap());
}

#[test]
fn an_open_authority_notices_a_change_in_place_under_old_times() {
    let home = Home::new();
    let authority = home.authority();
    let path = home.file("trust.crt");
    let content = std::fs::read(&path).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, content).unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert!(!authority.is_current().unwrap());
}

#[test]
fn an_open_authority_notices_that_it_is_being_ended() {
    let home = Home::new();
    let authority = home.authority();
    let mark = format!("ca.{}.ended", authority.certificate().serial());
    std::fs::write(home.file(&mark), "emergency x\n").unwrap();
    assert!(!authority.is_current().unwrap());
}

#[test]
fn both_kinds_of_key_sign_and_are_signed() {
    for (text, expected) in [
        ("key_type: ed25519", KeyType::Ed25519),
        ("", KeyType::EcdsaP256),
    ] {
        let home = Home::new();
        let authority = Authority::ensure(&home.location, &site(text), now()).unwrap();
        assert_eq!(authority.certificate().key_type(), Some(expected));
        let own = authority.issue(&LeafRequest::any_host(), now()).unwrap();
        assert_eq!(own.certificate.key_type(), Some(expected));
        for other in [KeyType::Ed25519, KeyType::EcdsaP256] {
            let key = PrivateKey::generate(other).unwrap();
            let request = LeafRequest::any_host().for_key((&key).into());
            let leaf = authority.issue(&request, now()).unwrap();
            assert!(leaf.key.is_none() && leaf.certificate.belongs_to(&key));
            authority
                .trust()
                .verify(&leaf.certificate, Purpose::Server, None, now())
                .unwrap();
        }
    }
}

#[test]
fn debug_output_shows_nothing_of_any_key() {
    let home = Home::new();
    let authority = home.authority();
    let issued = authority.issue(&LeafRequest::any_host(), now()).unwrap();
    let shown = format!("{authority:?} {issued:?}");
    for pem in [
        issued.key.unwrap().to_pem().to_string(),
        String::from_utf8(home.read("ca.key")).unwrap(),
    ] {
        for line in pem.lines().filter(|line| !line.starts_with("---")) {
            assert!(!shown.contains(line));
        }
    }
    assert!(shown.contains("PrivateKey(ecdsa-p256, [redacted])"));
    // Nor as a list of numbers: PKCS#8 starts with SEQUENCE, length.
    assert!(!shown.contains("[48, 129") && !shown.contains("48,\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_leaf_outlives_the_site_s_limit_or_its_authority(
        asked in Ttl::MIN.as_secs()..=Ttl::MAX.as_secs(),
        after_days in 0i64..3649,
        most in 1u32..=400,
    ) {
        let home = Home::new();
        let site = site(&format!("max_leaf_lifetime: {most}d\nleaf_lifetime: 1d\n"));
        let authority = Authority::ensure(&home.location, &site, now()).unwrap();
        let time = now() + Duration::days(after_days);
        let request = LeafRequest::any_host().with_ttl(Ttl::from_secs(asked));
        let issued = authority.mint(&request, time).unwrap();
        let leaf = issued.certificate;
        let given = (leaf.not_after() - time).whole_seconds();
        let limit = asked.min(u64::from(most) * 86_400);
        prop_assert!(given <= i64::try_from(limit).unwrap());
        prop_assert!(leaf.not_after() <= authority.certificate().not_after());
        prop_assert!(leaf.not_before() >= authority.certificate().not_before());
        // A word about it exactly when it is shorter than asked for.
        let shorter = given + 1 < i64::try_from(asked).unwrap();
        let said = issued.notices.iter().any(|n| matches!(
            n, Notice::ShortenedBySite { .. } | Notice::ShortenedByAuthority { .. }
        ));
        prop_assert_eq!(shorter, said);
        authority.trust().verify(&leaf, Purpose::Server, None, time).unwrap();
    }

    #[test]
    fn a_leaf_is_good_for_its_addresses_and_no_other(address: IpAddr, other: IpAddr) {
        let home = Home::new();
        let authority = home.authority();
        if let Ok(request) = LeafRequest::server([]).with_ip(address) {
            let leaf = authority.mint(&request, now()).unwrap().certificate;
            let verify = |ip: IpAddr| {
                let peer = PeerName::Ip(ip.to_canonical());
                authority.trust().verify(&leaf, Purpose::Server, Some(&peer), now()).is_ok()
            };
            prop_assert!(verify(address));
            prop_assert_eq!(verify(other), other.to_canonical() == address.to_canonical());
        }
    }
}
