//! Six first requests at once run six hooks, side by side.

use std::collections::HashSet;

use ood_ca_tests::{Snapshot, State};

use crate::setup::{User, WebHost, assert_roots_own};

#[test]
fn six_first_hooks_make_one_authority_and_all_are_content() {
    for _ in 0..3 {
        let host = WebHost::new();
        let user = User::new(&host);
        let running: Vec<_> = (0..6).map(|_| user.hook_run().start()).collect();
        for hook in running {
            let report = hook.wait().json();
            assert_eq!(report["outcome"], "ready", "{report}");
        }
        assert!(State::of(&user.home.pki()).trusts_only_signer());
        assert!(user.is_served());
        user.assert_pun_starts();
        assert_roots_own(&host.roots_own());
        let files: Vec<_> = Snapshot::of(&host.roots_own())
            .files()
            .map(|(p, _)| p.clone())
            .collect();
        assert_eq!(files.len(), 4, "something was left lying about: {files:?}");
    }
}

#[test]
fn hooks_beside_a_rotation_never_put_an_older_bundle_in_place() {
    let host = WebHost::new();
    let user = User::new(&host);
    user.expect("ready");
    let old = user.trust();
    let running: Vec<_> = (0..3).map(|_| user.hook_run().start()).collect();
    user.home.ood_ca("rotate --emergency").assert_ok();
    let after: Vec<_> = (0..3).map(|_| user.hook_run().start()).collect();
    for hook in running.into_iter().chain(after) {
        assert_eq!(hook.wait().json()["outcome"], "ready");
    }
    assert_ne!(user.trust(), old);
    assert_eq!(user.trust().matches("BEGIN").count(), 1);
}

#[test]
fn hooks_of_several_users_do_not_meet() {
    let host = WebHost::new();
    let users: Vec<_> = (0..4).map(|_| User::new(&host)).collect();
    let running: Vec<_> = users.iter().map(|user| user.hook_run().start()).collect();
    for hook in running {
        assert_eq!(hook.wait().json()["outcome"], "ready");
    }
    let bundles: HashSet<String> = users.iter().map(User::trust).collect();
    assert_eq!(bundles.len(), 4);
    for user in &users {
        assert!(
            user.snippet()
                .contains(&format!("mtls-trust/{}/trust.crt", user.name))
        );
    }
}
