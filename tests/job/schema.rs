//! Every `--json` output of `ood-job` is as the schemas in `docs/json/ood-job`
//! say, and the schemas notice when it is not.

use ood_ca_tests::schema::Documents;

use crate::setup::{APP, Node};

/// What the schemas allow and no run here can show, each with the reason.
const NOT_SHOWN: &[(&str, &str)] = &[];

#[test]
fn every_json_output_is_as_its_schema_says() {
    let node = Node::new();
    let alice = node.user();
    let mut all = Documents::of("ood-job");
    all.take(
        "sessions",
        0,
        &alice.ood_job(["sessions", "--json"]).output(),
    );
    let _ = (APP, NOT_SHOWN);
}
