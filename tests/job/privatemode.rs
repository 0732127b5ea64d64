//! What works in a network of the app's own: the table of docs/private-mode.md.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use ood_ca_tests::require_tool;

use crate::setup::Node;

#[test]
fn a_group_writable_project_directory() {
    let node = Node::new();
    let alice = node.user();
    let project = tempfile::Builder::new()
        .prefix("ood-job-project-")
        .tempdir()
        .unwrap();
    let group = alice.uid() + 1;
    chown(project.path(), Some(0), Some(group)).unwrap();
    fs::set_permissions(project.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    let script = format!(
        "import os; os.chdir('{0}'); open('result', 'w').write('x'); print(os.getgroups()); print(os.stat('result').st_gid)",
        project.path().display()
    );
    // Alice as a member of the group: `setpriv` here instead of the harness's.
    let run = |program: &[&str]| {
        let output = Command::new(require_tool("setpriv"))
            .arg(format!("--reuid={}", alice.uid()))
            .arg(format!("--regid={}", alice.uid()))
            .arg(format!("--groups={group}"))
            .args(program)
            .env("HOME", alice.home.path())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let job = alice.program();
    let words = [
        job.to_str().unwrap(),
        "run",
        "--outbound",
        "none",
        "--",
        "python3",
        "-c",
        &script,
    ];
    let (code, said) = run(&words);
    assert_eq!(code, Some(0), "{said}");
    let made = fs::metadata(project.path().join("result")).unwrap();
    assert_eq!(
        (made.uid(), made.gid()),
        (alice.uid(), group),
        "the group is inherited"
    );
    // The group has no name inside, and none can be chosen.
    assert!(said.contains("65534"), "{said}");
    let (code, _) = run(&[
        job.to_str().unwrap(),
        "run",
        "--outbound",
        "none",
        "--",
        "chgrp",
        &group.to_string(),
        project.path().join("result").to_str().unwrap(),
    ]);
    assert_ne!(code, Some(0), "chgrp is refused");
}

#[test]
fn workers_of_several_processes_that_talk_over_loopback() {
    let node = Node::new();
    let alice = node.user();
    // What Dask, Ray and Jupyter kernels do: processes of their own, TCP between.
    let script = r#"
import multiprocessing, os, subprocess, sys
from multiprocessing.connection import Client, Listener
if len(sys.argv) > 1:
    with Client(("127.0.0.1", 6000)) as main: main.send(int(sys.argv[1]) ** 2)
else:
    source = open(f"/proc/{os.getpid()}/cmdline").read().split("\0")[2]
    with Listener(("127.0.0.1", 6000)) as main:
        workers = [subprocess.Popen([sys.executable, "-c", source, str(n)]) for n in range(4)]
        print(sorted(main.accept().recv() for _ in workers), flush=True)
"#;
    let mut job = alice.job("--outbound none", script);
    assert_eq!(job.code(), 0, "{}", job.said());
    assert!(job.said().starts_with("[0, 1, 4, 9]"), "{}", job.said());
}

#[test]
fn shared_memory_named_sockets_and_a_user_who_is_who_they_were() {
    let node = Node::new();
    let alice = node.user();
    let script = r#"
import os, socket, multiprocessing.shared_memory as shm
block = shm.SharedMemory(create=True, size=4096); block.unlink()
s = socket.socket(socket.AF_UNIX); s.bind(os.path.expanduser("~/named")); s.listen()
socket.socket(socket.AF_UNIX).connect(os.path.expanduser("~/named"))
print(os.getuid(), os.getgid(), os.stat(os.path.expanduser("~")).st_uid, os.access("/proc/self/mem", os.R_OK))
"#;
    let mut job = alice.job("--outbound none", script);
    assert_eq!(job.code(), 0, "{}", job.said());
    let uid = alice.uid();
    assert!(
        job.said().starts_with(&format!("{uid} {uid} {uid} True")),
        "{}",
        job.said()
    );
}

#[test]
fn limits_and_the_umask_are_as_they_were() {
    let node = Node::new();
    let alice = node.user();
    let script = "umask; ulimit -Hc; ulimit -n; cat /proc/self/coredump_filter";
    let plain = alice
        .run("sh")
        .args(["-c", script])
        .output()
        .assert_ok()
        .stdout;
    let words = ["run", "--outbound", "none", "--", "sh", "-c", script];
    let inside = alice.ood_job(words).output().assert_ok().stdout;
    assert_eq!(inside, plain);
}

#[test]
fn set_user_id_programs_do_not_work() {
    let node = Node::new();
    let alice = node.user();
    let dir = tempfile::Builder::new()
        .prefix("ood-job-suid-")
        .tempdir()
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let suid = dir.path().join("id");
    fs::copy(require_tool("id"), &suid).unwrap();
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o4755)).unwrap();
    let id = suid.to_str().unwrap();
    let plain = alice.run(id).args(["-u"]).output().assert_ok().stdout;
    assert_eq!(plain.trim(), "0", "it can work: /tmp is not mounted nosuid");
    let inside = alice
        .ood_job(["run", "--outbound", "none", "--", id, "-u"])
        .output();
    assert_ne!(inside.stdout.trim(), "0", "{inside}");
}
