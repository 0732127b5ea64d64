//! Every `--json` output of `pun-helper` is as the schemas in
//! `docs/json/pun-helper` say, and the schemas notice when it is not.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;

use ood_ca_tests::fuse::{FaultyMount, Op};
use ood_ca_tests::schema::Documents;
use ood_ca_tests::{Home, Run, pun_helper};
use serde_json::Value;

use crate::clean::{Pun, nginx_stage};
use crate::setup::{User, WebHost};

/// What the schemas allow and no run here can show, each with the reason.
const NOT_SHOWN: &[(&str, &str)] = &[(
    "('check.schema.json.verdict', 'ok')",
    "it needs the portal's Apache, whose place is not configurable",
)];

struct Bench {
    all: Documents,
}

impl Bench {
    #[track_caller]
    fn run(&mut self, host: &WebHost, schema: &str, code: i32, line: &str) -> Value {
        let run = Run::new(pun_helper())
            .args(line.split(' '))
            .args(["--json", "--config"])
            .args([host.config()]);
        self.all.take(schema, code, &run.output())
    }

    #[track_caller]
    fn hook(&mut self, user: &User<'_>, code: i32, outcome: &str) {
        let report = self.all.take("hook", code, &user.hook());
        assert_eq!(report["outcome"], outcome, "{report}");
    }
}

#[test]
fn every_json_output_is_as_its_schema_says() {
    let mut bench = Bench {
        all: Documents::of("pun-helper"),
    };
    names(&mut bench);
    hooks(&mut bench);
    puns(&mut bench);
    checks(&mut bench);
    failures(&mut bench);
    bench.all.assert_all_as_said(NOT_SHOWN);
}

fn names(bench: &mut Bench) {
    let host = WebHost::with("host_regex: 'n[0-9]+|10\\.0\\.0\\.[0-9]+'\n");
    let user = User::new(&host);
    let resolv = host.join("resolv.conf");
    let line = format!("resolver --resolv-conf {}", resolv.display());
    fs::write(&resolv, "nameserver 10.0.0.2\nnameserver fe80::1%eth0\n").unwrap();
    let plain = bench.run(&host, "resolver", 1, &format!("{line} n1 10.0.0.5 evil"));
    assert_eq!(plain["domain"], Value::Null);
    assert_ne!(plain["warnings"], serde_json::json!([]));
    fs::write(&resolv, "nameserver fd00::2\nsearch cluster.example\n").unwrap();
    bench.run(&host, "resolver", 0, &format!("{line} n1"));
    let render = format!(
        "render --user {} --resolv-conf {}",
        user.name,
        resolv.display()
    );
    bench.run(&host, "render", 0, &render);
}

fn hooks(bench: &mut Bench) {
    let host = WebHost::new();
    let backing = tempfile::tempdir().unwrap();
    let mount = FaultyMount::over(backing.path());
    let home = Home::at(&mount.path().join("home"), Home::of_somebody().uid());
    let user = User::at(&host, home);
    bench.hook(&user, 0, "ready");
    bench.hook(&user, 0, "ready");
    host.also_configure("hook_timeout: 3s\nalso_run: /nowhere/hook\n");
    mount.hang(Op::Lookup, "");
    bench.hook(&user, 1, "kept");
    drop(mount);

    let host = WebHost::with("");
    bench.hook(&User::new(&host), 1, "unavailable");
    host.configure("host_regexp: x\n");
    bench.hook(&User::new(&host), 1, "untouched");
    // An nginx that accepts nothing.
    let host = WebHost::new();
    let nginx = host.script(
        "nginx",
        "echo nginx version: nginx/1.22.1 >&2\n[ \"$1\" = -v ]",
    );
    host.also_configure(&format!("nginx: {}\n", nginx.display()));
    bench.hook(&User::new(&host), 1, "absent");
}

fn puns(bench: &mut Bench) {
    let host = WebHost::new();
    nginx_stage(&host);
    bench.run(&host, "clean", 0, "clean --dry-run");
    let user = User::new(&host);
    let app = TcpListener::bind("127.0.0.1:0").unwrap();
    let _pun = Pun::start(&user, app.local_addr().unwrap().port());
    bench.run(&host, "clean", 0, "clean");
    let stale = host.join("run").join("-rf");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("passenger.pid"), "4194304\n").unwrap();
    bench.run(&host, "clean", 1, "clean");
}

fn checks(bench: &mut Bench) {
    let host = WebHost::new();
    fs::write(host.join("ood_portal.yml"), "servername: web1.example\n").unwrap();
    let user = User::new(&host);
    let line = format!("check --user {}", user.name);
    bench.run(&host, "check", 1, &line);
    user.expect("ready");
    bench.run(&host, "check", 1, &line);
    all_set_up(&host);
    user.expect("ready");
    let line = format!(
        "{line} --nginx-stage-config {} --cron-dir {}",
        host.join("nginx_stage.yml").display(),
        host.join("cron.d").display()
    );
    let report = bench.run(&host, "check", 0, &line);
    let unwell = report["checks"].as_array().unwrap().iter();
    let unwell = unwell.filter(|check| check["verdict"] != "ok");
    let names: Vec<_> = unwell
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    // A home that lies in memory is warned of.
    let expected = [vec!["apache"], vec!["apache", "user's files"]];
    assert!(expected.contains(&names), "{report}");

    let linked = User::new(&host);
    symlink("/etc", linked.home.path().join(".ood")).unwrap();
    bench.run(&host, "check", 1, &format!("check --user {}", linked.name));
    fs::write(host.join("ood_portal.yml"), ": :\n -\n").unwrap();
    bench.run(&host, "check", 1, "check");
}

/// The edits that the administrator's guide asks for.
fn all_set_up(host: &WebHost) {
    let hook = host.join("ood-ca-hook");
    let portal = format!(
        "servername: web1.example\npun_pre_hook_root_cmd: {}\n",
        hook.display()
    );
    fs::write(host.join("ood_portal.yml"), portal).unwrap();
    let entry = format!(
        "  - {{env: sys, owner: '', name: '../../../../../..{}/%{{user}}/*'}}\n",
        host.join("config/mtls").display()
    );
    let shipped = include_str!("../../nginx/nginx_stage.yml");
    let defaults = shipped.lines().filter(|line| !line.contains("mtls"));
    let defaults: String = defaults.map(|line| format!("{line}\n")).collect();
    fs::write(host.join("nginx_stage.yml"), defaults + &entry).unwrap();
    fs::create_dir(host.join("cron.d")).unwrap();
    let cron = "0 */2 * * * root /usr/sbin/pun-helper clean\n";
    fs::write(host.join("cron.d/ood"), cron).unwrap();
    host.install_pages();
}

fn failures(bench: &mut Bench) {
    let host = WebHost::new();
    let user = User::new(&host);
    bench.run(&host, "error", 1, "render --user nobody-here");
    // There is no hint for a name that no file system can have.
    let too_long = "x".repeat(300);
    let run = Run::new(pun_helper()).args(["clean", "--json", "--config", &too_long]);
    bench.all.take("error", 1, &run.output());
    host.configure("host_regexp: x\n");
    let config = bench.run(&host, "error", 1, &format!("render --user {}", user.name));
    assert_eq!(config["error"]["code"], "config");
}
