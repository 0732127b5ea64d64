//! The same jobs where `ood-job` is on the node.

use std::time::Duration;

use ood_ca_tests::{ood_job, runnable_by};

use crate::headers::header;
use crate::job::{Job, PORT, User};

#[test]
fn ood_job_runs_the_app_where_it_is_there() {
    let alice = User::new();
    let program = runnable_by(ood_job(), alice.home.uid());
    alice.file(
        "before.sh",
        0o644,
        &format!("port={PORT}\nadd_caddy_header X-Token 'a secret'\n"),
    );
    // Caddy is not there, so it cannot be Caddy.
    let options = format!("mtls_ood_job: {program:?}, mtls_caddy: '/none', mtls_outbound: 'none'");
    let job = Job::ready(&alice, &options);
    assert_eq!(job.port, PORT);
    let answer = alice.ask("/", &["-H", "X_Token: forged", "-H", "X-Token: forged"]);
    assert_eq!(answer["uid"], alice.home.uid());
    assert_eq!(header(&answer, "X-Token"), ["a secret"]);
    assert!(header(&answer, "X_Token").is_empty());
    let environment = answer["environment"].to_string();
    assert!(!environment.contains("a secret"), "{environment}");
    // Nobody else, and nothing of it is left at its end.
    let said = alice.request(None, &[&format!("https://{}:{PORT}/", crate::job::HOST)]);
    assert!(!said.status.success(), "{said}");
    drop(job);
    alice.assert_nothing_left(Duration::from_secs(10));
}
