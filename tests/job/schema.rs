//! Every `--json` output of `ood-job` is as the schemas in `docs/json/ood-job`
//! say, and the schemas notice when it is not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use nix::mount::{MsFlags, mount, umount};
use ood_ca_tests::require_tool;
use ood_ca_tests::schema::Documents;
use serde_json::{Value, json};

use crate::setup::{APP, Node, User};

/// What the schemas allow and no run here can show, each with the reason.
const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "('doctor.schema.json.mode', 'private-shared-pids')",
        "it needs a container that covers parts of /proc",
    ),
    (
        "('doctor.schema.json.mode', 'private-shared-pids-no-outbound')",
        "the same",
    ),
    (
        "('error.schema.json.error.code', 'authority-expired')",
        "it takes ten years; tests/authority shows it",
    ),
    (
        "('error.schema.json.error.code', 'authority-not-yet-valid')",
        "it takes a wrong clock; tests/authority shows it",
    ),
    (
        "('error.schema.json.error.code', 'crypto')",
        "it takes a system without randomness",
    ),
    (
        "('error.schema.json.error.code', 'no-home')",
        "every user has one, if only by default",
    ),
    (
        "('error.schema.json.error.code', 'system')",
        "it takes a system without processes or files to give",
    ),
    (
        "('error.schema.json.error.code', 'tls')",
        "a leaf that ring has made is one that it can use",
    ),
];

#[test]
fn every_json_output_is_as_its_schema_says() {
    let mut all = Documents::of("ood-job");
    doctors(&mut all);
    let node = Node::new();
    let alice = node.user();
    ports(&mut all, &alice);
    network_card(&node);
    sessions(&mut all, &alice);
    umount("/sys/class/net").unwrap();
    failures(&mut all, &alice);
    all.assert_all_as_said(NOT_SHOWN);
}

fn doctors(all: &mut Documents) {
    for (tun, code) in [(Some(0o666), 0), (Some(0o600), 1)] {
        let node = Node::with_tun(tun);
        let alice = node.user();
        let doctor = || alice.ood_job(["doctor", "--json"]);
        all.take("doctor", code, &doctor().output());
        if code == 0 {
            // A device is no program: pasta is not installed for the moment.
            let pasta = require_tool("pasta");
            let nothing = Some("/dev/null");
            mount(
                nothing,
                &pasta,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
            all.take("doctor", 0, &doctor().output());
            umount(&pasta).unwrap();
        }
    }
    // Elsewhere, as a thread that has changed its root does not come back.
    std::thread::scope(|scope| {
        let forbidden = scope.spawn(|| {
            let node = Node::new();
            let alice = node.user();
            crate::doctor::forbid_user_namespaces(&node);
            alice.ood_job(["doctor", "--json"]).output()
        });
        all.take("doctor", 1, &forbidden.join().unwrap());
    });
}

fn ports(all: &mut Documents, alice: &User<'_>) {
    let mut job = alice.job("--outbound none", APP);
    job.ready();
    let pid = job.pid().to_string();
    all.take(
        "ports",
        0,
        &alice.ood_job(["ports", "--json", "--pid", &pid]).output(),
    );
    let script = "import socket, subprocess, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0', 5000)); subprocess.run([sys.argv[1], 'ports', '--json'], check=True)";
    let run = alice.run("setsid").args(["-w", "python3", "-c", script]);
    all.take("ports", 0, &run.args([alice.program()]).output());
    all.take(
        "sessions",
        0,
        &alice.ood_job(["sessions", "--json"]).output(),
    );
}

/// A network card, by which a node that was restarted is known again: the part of
/// the system that the tests run in need not have one.
fn network_card(node: &Node) {
    let class = node.path().join("net");
    fs::create_dir_all(class.join("eth0/device")).unwrap();
    fs::write(class.join("eth0/type"), "1\n").unwrap();
    fs::write(class.join("eth0/address"), "ac:1f:6b:00:00:01\n").unwrap();
    let bind = MsFlags::MS_BIND;
    mount(
        Some(&class),
        "/sys/class/net",
        None::<&str>,
        bind,
        None::<&str>,
    )
    .unwrap();
}

fn sessions(all: &mut Documents, alice: &User<'_>) {
    for (name, id) in [
        ("SLURM_JOB_ID", "1"),
        ("PBS_JOBID", "2.srv"),
        ("LSB_JOBID", "3"),
    ] {
        let run = alice.ood_job(["register", "5001", "--json"]).env(name, id);
        all.take("session", 0, &run.output());
    }
    let outcome = alice
        .ood_job(["unregister", "10.77.0.1:5001", "--json"])
        .output();
    all.take("session", 0, &outcome);

    // One of each kind that is pruned, made of one that is not.
    let server = alice.run("sleep").args(["600"]).start();
    let pid = alice.process("sleep").to_string();
    let words = ["register", "5002", "--host", "n1", "--pid", &pid];
    let run = alice.ood_job(words).env("SLURM_JOB_ID", "1");
    run.output().assert_ok();
    let place = |name: &str| alice.home.join(".ood/sessions").join(name);
    let text = fs::read_to_string(place("n1:5002")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    for (number, path, value) in [
        (3, "/holder/boot_id", json!("another")),
        (4, "/holder", Value::Null),
        (5, "/holder/node", json!("n2")),
    ] {
        let mut other = record.clone();
        *other.pointer_mut(path).unwrap() = value;
        other["port"] = json!(5000 + number);
        other["session"] = json!(format!("{number:032x}"));
        if number == 4 {
            other["expires"] = json!("2020-01-01T00:00:00Z");
        }
        let file = place(&format!("n1:{}", 5000 + number));
        fs::write(&file, other.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(alice.uid()), Some(alice.uid())).unwrap();
    }
    let garbage = place("n1:5006");
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::File::create(&garbage)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    chown(&garbage, Some(alice.uid()), Some(alice.uid())).unwrap();
    drop(server);
    let squeue = alice.home.dir("tools").join("squeue");
    fs::write(&squeue, "#!/bin/sh\necho COMPLETED\n").unwrap();
    fs::set_permissions(&squeue, fs::Permissions::from_mode(0o755)).unwrap();
    let tools = format!("{}:/usr/bin:/bin", squeue.parent().unwrap().display());
    let run = alice.ood_job(["sessions", "--ask-scheduler", "--json"]);
    let pruned = all.take("sessions", 0, &run.env("PATH", tools).output());
    assert_eq!(pruned["pruned"].as_array().unwrap().len(), 5, "{pruned}");
}

fn failures(all: &mut Documents, alice: &User<'_>) {
    let lines = [
        (1, "unregister n1:1 --json"),
        (1, "ports --pid 99999999 --json"),
        (1, "register 1 --host a_b --json"),
        (125, "run --network host --json -- true"),
        (125, "run --listen 10.9.9.9:1 --json -- true"),
        (127, "run --outbound none --json -- no-such-program"),
        (
            125,
            "run --outbound none --ready-timeout 1s --json -- sleep 600",
        ),
        (125, "run --header X --json -- true"),
        (125, "run --header X_\u{7f}:x --json -- true"),
    ];
    for (code, line) in lines {
        all.take("error", code, &alice.ood_job(line.split(' ')).output());
    }
    more_failures(all, alice);
}

fn more_failures(all: &mut Documents, alice: &User<'_>) {
    let open = alice.home.join("open");
    fs::create_dir(&open).unwrap();
    let socket = format!("unix:{}/s", open.display());
    let mut take = |code, words: &[&str]| {
        let run = alice.ood_job(["--json"]).args(words);
        all.take("error", code, &run.output());
    };
    take(125, &["run", "--to", &socket, "--", "true"]);
    let own = alice.home.dir("own").join("s");
    crate::setup::web_server_at(&own, "not the app");
    chown(&own, Some(alice.uid()), Some(alice.uid())).unwrap();
    let socket = format!("unix:{}", own.display());
    take(125, &["run", "--to", &socket, "--", "true"]);
    take(125, &["run", "--access-log", "/no/such", "--", "true"]);
    take(1, &["register", "1", "--host", "server.ood.internal"]);
    crate::setup::web_server("127.0.0.1:8080".parse().unwrap(), "not the app");
    let shared = [
        "run", "--network", "host", "--allow-unisolated", "--", "sleep", "600",
    ];
    take(125, &shared);
    fs::write(alice.home.join("bad.yml"), "domian: x\n").unwrap();
    let config = alice.home.join("bad.yml").display().to_string();
    take(
        125,
        &[
            "--config", &config, "run", "--outbound", "none", "--", "true",
        ],
    );
    fs::write(
        alice.home.join("bad.yml"),
        "name_constraints: {dns: [elsewhere.example], ip: [203.0.113.0/24]}\n",
    )
    .unwrap();
    let elsewhere = alice.home.dir("elsewhere").display().to_string();
    take(
        125,
        &[
            "--config", &config, "--pki-dir", &elsewhere, "run", "--outbound", "none", "--", "true",
        ],
    );
    // Its keeper kills itself with everything that it keeps.
    let suicide = "import os; os.kill(os.getppid(), 9)";
    let words = [
        "run", "--outbound", "none", "--no-pidns", "--", "python3", "-c", suicide,
    ];
    take(125, &words);
    alice.home.ood_ca("init").assert_ok();
    let pki = alice.home.pki();
    let run = ["run", "--outbound", "none", "--", "true"];
    for (file, content) in [
        ("ca.key", fs::read(pki.join("client.key")).unwrap()),
        ("ca.key", b"garbage".to_vec()),
        ("ca.crt", fs::read(pki.join("client.crt")).unwrap()),
        ("trust.crt", b"garbage".to_vec()),
    ] {
        let before = fs::read(pki.join(file)).unwrap();
        fs::write(pki.join(file), content).unwrap();
        take(125, &run);
        fs::write(pki.join(file), before).unwrap();
    }
    forbidden_network(all);
}

fn forbidden_network(all: &mut Documents) {
    let node = Node::with_tun(None);
    let alice = node.user();
    all.take(
        "error",
        125,
        &alice.ood_job(["run", "--json", "--", "true"]).output(),
    );
}
