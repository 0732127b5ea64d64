//! The verify matrix: every kind of leaf in every verifier, accepted where it
//! should be and refused, for the right reason, where it should not.
//!
//! A row is a [`Case`]; a column is a [`Verifier`]. Where a verifier is known
//! to answer otherwise, an [`Exception`] says so with its reason, and fails
//! when it no longer holds.

mod cases;
mod certificates;
pub(crate) mod handshakes;
mod verifiers;

use cases::{Case, Expect, Reason, all_cases};
use certificates::Setting;

/// What a verifier made of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accepts,
    /// With all that it said.
    Refuses(String),
    /// It did not get as far as judging: a missing file, a crash.
    Broken(String),
}

/// One column of the matrix.
trait Verifier {
    fn judge(&self, case: &Case) -> Verdict;

    /// How this verifier words a reason: one of these stands in what it says.
    fn words(&self, reason: Reason) -> &'static [&'static str];
}

/// A cell that is known to differ.
struct Exception {
    /// The end of the case's name, so that it counts in every setting.
    case: &'static str,
    instead: Expect,
    /// Why that is so and why it can stay.
    why: &'static str,
}

const ALL_REASONS: [Reason; 9] = [
    Reason::Purpose,
    Reason::UnknownIssuer,
    Reason::Forged,
    Reason::Expired,
    Reason::NotYetValid,
    Reason::WrongHost,
    Reason::WrongAddress,
    Reason::NotAnAuthority,
    Reason::OutsideConstraints,
];

fn meets(verifier: &dyn Verifier, verdict: &Verdict, expected: Expect) -> Result<(), String> {
    match (verdict, expected) {
        (Verdict::Accepts, Expect::Accept) => Ok(()),
        (Verdict::Accepts, Expect::Refuse(reason)) => {
            Err(format!("accepted, though it should be refused: {reason:?}"))
        }
        (Verdict::Refuses(said), Expect::Accept) => {
            Err(format!("refused, though it is fine:\n{said}"))
        }
        (Verdict::Refuses(said), Expect::Refuse(reason)) => {
            let named = |r: &Reason| verifier.words(*r).iter().any(|w| said.contains(w));
            let given: Vec<_> = ALL_REASONS.into_iter().filter(named).collect();
            if given.contains(&reason) {
                Ok(())
            } else {
                Err(format!(
                    "refused for {given:?} and not for {reason:?}:\n{said}"
                ))
            }
        }
        (Verdict::Broken(said), _) => Err(format!("came to no verdict:\n{said}")),
    }
}

/// Compares every verdict with the table; what differs, in words.
fn differences(verifier: &dyn Verifier, cases: &[Case], exceptions: &[Exception]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut met = vec![0; exceptions.len()];
    for case in cases {
        let verdict = verifier.judge(case);
        let exception = exceptions.iter().position(|e| case.name.ends_with(e.case));
        let expected = match exception {
            Some(index) => {
                met[index] += 1;
                exceptions[index].instead
            }
            None => case.expect,
        };
        if let Err(problem) = meets(verifier, &verdict, expected) {
            let known = exception.map_or(String::new(), |i| {
                format!(" (expected otherwise because {})", exceptions[i].why)
            });
            wrong.push(format!("{}{known}: {problem}", case.name));
        }
    }
    for (exception, times) in exceptions.iter().zip(met) {
        if times == 0 {
            wrong.push(format!(
                "the exception for {:?} matches no case",
                exception.case
            ));
        }
    }
    wrong
}

#[track_caller]
fn hold_to_the_table(verifier: &dyn Verifier, exceptions: &[Exception]) {
    let setting = Setting::new();
    let cases = all_cases(&setting);
    let accepted = cases.iter().filter(|c| c.expect == Expect::Accept).count();
    assert!(
        accepted > 20 && cases.len() - accepted > 20,
        "the table lost its rows"
    );
    let wrong = differences(verifier, &cases, exceptions);
    assert!(
        wrong.is_empty(),
        "{} of {} cases differ:\n\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n\n")
    );
}

#[test]
fn a_constrained_authority_refuses_to_sign_what_no_verifier_would_accept() {
    let setting = Setting::new();
    for world in &setting.worlds {
        for (hosts, addresses) in [
            (["n001.elsewhere.example"].as_slice(), [].as_slice()),
            (&["n001"], &[]),
            (&["cluster.example.org"], &[]),
            (&["xcluster.example"], &[]),
            (&[certificates::HOST, "n001.elsewhere.example"], &[]),
            (&[certificates::HOST], &["192.0.2.1"]),
            (&[certificates::HOST], &["2001:db8::1"]),
        ] {
            let request = certificates::server_request(hosts, addresses);
            let refusal = world.refusal(&request, setting.now());
            assert_eq!(
                refusal.is_some(),
                world.constrained,
                "{}: {hosts:?} {addresses:?}: {refusal:?}",
                world.name
            );
        }
    }
}

#[test]
fn webpki_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&verifiers::Webpki, &[]);
}

#[test]
fn openssl_verify_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&verifiers::OpensslVerify::new(), &[]);
}

#[test]
fn gnutls_certtool_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&verifiers::Certtool::new(), &[]);
}

#[test]
fn ood_ca_verify_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&verifiers::OodCaVerify::new(), &[]);
}

#[test]
fn a_rustls_handshake_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        hold_to_the_table(&handshakes::Rustls(version), &[]);
    }
}

#[test]
fn an_openssl_handshake_in_tls_1_3_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&handshakes::Openssl::new("-tls1_3"), &[]);
}

#[test]
fn an_openssl_handshake_in_tls_1_2_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&handshakes::Openssl::new("-tls1_2"), &[]);
}

/// The command line server hands no purpose to the library's verification; a
/// server that does (certtool above does) refuses.
const GNUTLS_SERV_IGNORES_PURPOSE: &[Exception] = &[Exception {
    case: "a server leaf is no client",
    instead: Expect::Accept,
    why: "gnutls-serv asks its library for no purpose",
}];

#[test]
fn a_gnutls_handshake_in_tls_1_3_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&handshakes::Gnutls::new("1.3"), GNUTLS_SERV_IGNORES_PURPOSE);
}

#[test]
fn a_gnutls_handshake_in_tls_1_2_accepts_every_kind_of_leaf_and_refuses_every_misuse() {
    hold_to_the_table(&handshakes::Gnutls::new("1.2"), GNUTLS_SERV_IGNORES_PURPOSE);
}

#[test]
fn the_matrix_notices_a_wrong_verdict_a_wrong_reason_and_a_stale_exception() {
    struct Always(Verdict);
    impl Verifier for Always {
        fn judge(&self, _: &Case) -> Verdict {
            self.0.clone()
        }
        fn words(&self, reason: Reason) -> &'static [&'static str] {
            match reason {
                Reason::Expired => &["too old"],
                _ => &["other"],
            }
        }
    }
    let case = |expect| Case::for_the_table_itself("p256: a leaf", expect);
    let count = |verdict, expect, exceptions: &[Exception]| {
        differences(&Always(verdict), &[case(expect)], exceptions).len()
    };
    let refuses = |said: &str| Verdict::Refuses(said.into());
    let expired = Expect::Refuse(Reason::Expired);

    assert_eq!(count(Verdict::Accepts, Expect::Accept, &[]), 0);
    assert_eq!(count(refuses("too old"), expired, &[]), 0);
    assert_eq!(
        count(Verdict::Accepts, expired, &[]),
        1,
        "an unexpected success"
    );
    assert_eq!(
        count(refuses("too old"), Expect::Accept, &[]),
        1,
        "an unexpected failure"
    );
    assert_eq!(count(refuses("other"), expired, &[]), 1, "the wrong reason");
    assert_eq!(count(refuses("no such file"), expired, &[]), 1, "no reason");
    assert_eq!(
        count(Verdict::Broken("too old".into()), expired, &[]),
        1,
        "no verdict"
    );

    let exception = |case| {
        [Exception {
            case,
            instead: Expect::Accept,
            why: "of this test",
        }]
    };
    assert_eq!(count(Verdict::Accepts, expired, &exception("a leaf")), 0);
    assert_eq!(
        count(refuses("too old"), expired, &exception("a leaf")),
        1,
        "it no longer holds"
    );
    assert_eq!(
        count(refuses("too old"), expired, &exception("another leaf")),
        1,
        "it matches nothing"
    );
}
