//! `pun-helper check`, before and after the hook has run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ood_ca_tests::{Run, pun_helper};
use serde_json::Value;

use crate::setup::{User, WebHost};

fn check(user: &User<'_>) -> Value {
    let host = user.host;
    let run = Run::new(pun_helper())
        .args(["check", "--json", "--user", &user.name, "--config"])
        .args([host.config()])
        .args(["--nginx-stage-config"])
        .args([host.join("nginx_stage.yml")])
        .args(["--cron-dir"])
        .args([host.join("cron.d")]);
    run.output().json()
}

fn verdict<'a>(report: &'a Value, name: &str) -> &'a str {
    let all = report["checks"].as_array().unwrap();
    let found = all.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report}"))["verdict"]
        .as_str()
        .unwrap()
}

#[test]
fn it_names_what_is_missing_and_is_content_when_it_is_there() {
    let host = WebHost::new();
    fs::write(host.join("ood_portal.yml"), "servername: web1.example\n").unwrap();
    let user = User::new(&host);
    let report = check(&user);
    for (name, expected) in [
        ("configuration", "ok"),
        ("hosts", "ok"),
        ("snippets", "ok"),
        ("error pages", "failed"),
        ("nginx", "ok"),
        ("hook", "failed"),
        ("nginx_stage", "failed"),
        ("cron", "warning"),
        ("snippet", "warning"),
        ("trust copy", "warning"),
        ("web server", "ok"),
    ] {
        assert_eq!(verdict(&report, name), expected, "{name}: {report}");
    }
    assert_eq!(report["verdict"], "failed");
    let unfixed = report["checks"].as_array().unwrap().iter();
    let mut unfixed = unfixed.filter(|c| c["verdict"] != "ok" && c["fix"].is_null());
    assert_eq!(unfixed.next(), None);

    // Pages of the site's own, with a script that the locations do not let run.
    host.install_pages();
    let page = host.join("errors/starting.html");
    let changed = fs::read_to_string(&page).unwrap().replace("2000", "100");
    fs::write(&page, changed).unwrap();
    assert_eq!(verdict(&check(&user), "error pages"), "failed");
    // Closed to users, whose part reads it; and open to the whole world.
    let mode = |mode| fs::set_permissions(host.config(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    assert_eq!(verdict(&check(&user), "configuration"), "failed");
    mode(0o644);
    host.configure("host_regex: '.*'\nresolver: [127.0.0.1]\n");
    assert_eq!(verdict(&check(&user), "hosts"), "warning");
    host.configure("host_regex: 'n[0-9]+'\nresolver: [127.0.0.1]\n");

    fs::create_dir(host.join("cron.d")).unwrap();
    fs::write(
        host.join("cron.d/ood"),
        "0 */2 * * * root /usr/sbin/pun-helper clean\n",
    )
    .unwrap();
    host.install_pages();
    user.expect("ready");
    fs::write(
        host.join("ood_portal.yml"),
        format!(
            "servername: web1.example\npun_pre_hook_root_cmd: {}\n",
            host.join("ood-ca-hook").display()
        ),
    )
    .unwrap();
    let report = check(&user);
    for name in [
        "error pages", "hook", "cron", "snippet", "trust copy", "user's files",
    ] {
        assert_eq!(verdict(&report, name), "ok", "{name}: {report}");
    }
}

#[test]
fn it_sees_that_a_pun_must_be_started_anew() {
    let host = WebHost::new();
    fs::write(host.join("ood_portal.yml"), "").unwrap();
    let user = User::new(&host);
    user.expect("ready");
    user.home.ood_ca("rotate --prepare").assert_ok();
    assert_eq!(verdict(&check(&user), "trust copy"), "warning");
    host.also_configure("idle_timeout: 2h\n");
    assert_eq!(verdict(&check(&user), "snippet"), "warning");
}

#[test]
fn it_writes_nothing_of_roots() {
    let host = WebHost::new();
    let user = User::new(&host);
    let before = ood_ca_tests::Snapshot::of(&host.roots_own());
    check(&user);
    before.assert_unchanged(&host.roots_own());
}
