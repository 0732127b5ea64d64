//! How a job ends, and what is left of it: nothing.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ood_ca_tests::{ood_job, runnable_by};

use crate::job::{Job, PORT, User};

/// On a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn the_apps_exit_code_is_passed_on() {
    let alice = User::new();
    for code in [0, 7] {
        let shell = format!("start_mtls {PORT} 5000 bash -c 'sleep 0.1; exit {code}'");
        let said = alice.shell(&shell).output();
        assert_eq!(said.code(), Some(code), "{said}");
        alice.assert_nothing_left(AT_ONCE);
    }
    let said = alice.shell(&format!("start_mtls {PORT} 5000 bash -c 'kill -9 $$'"));
    let said = said.output();
    assert_eq!(said.code(), Some(137), "{said}");
    let said = alice
        .shell(&format!("start_mtls {PORT} 5000 /nowhere"))
        .output();
    assert_eq!(said.code(), Some(127), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn when_the_app_ends_so_does_the_job_and_nothing_is_left() {
    let alice = User::new();
    let job = Job::ready(&alice, "");
    let pki = alice.home.pki();
    let (certificate, key) = (pki.join("client.crt"), pki.join("client.key"));
    let url = format!("https://{}:{PORT}/exit?code=3", crate::job::HOST);
    alice.request(Some((&certificate, &key)), &[&url]);
    let said = job.running.wait();
    // What ood_core's template makes of a main script that fails.
    assert_eq!(said.code(), Some(1), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn after_sigkill_of_the_script_nothing_keeps_serving() {
    let alice = User::new();
    // The app has children that go their own way.
    alice.file(
        "script.sh",
        0o755,
        "#!/bin/bash\nsetsid sleep 1000 & (setsid nohup sleep 1001 >/dev/null 2>&1 &)\n\
         exec python3 app.py \"$port\"\n",
    );
    let mut job = Job::ready(&alice, "");
    alice.ask("/", &[]);
    assert!(alice.process("sleep 1001").is_some());
    job.running.kill();
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn after_sigkill_of_the_supervisor_nothing_keeps_serving() {
    let alice = User::new();
    let job = Job::ready(&alice, "");
    alice.ask("/", &[]);
    // Who waits for Caddy and the namespaces.
    let space = alice.process("unshare --map-current-user").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{space}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|l| l.strip_prefix("PPid:"))
        .unwrap();
    kill(
        Pid::from_raw(parent.trim().parse().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let said = job.running.wait();
    assert_eq!(said.code(), Some(1), "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn started_in_the_background_it_ends_when_it_is_killed() {
    let alice = User::new();
    // The app takes its time, or goes at once.
    let slow = "bash -c 'trap \"sleep 1; exit\" TERM; python3 app.py 5000 & wait'";
    for (by, setting) in both(&alice) {
        for app in ["python3 app.py 5000", slow] {
            for how in ["start_mtls", "{ true; start_mtls"] {
                let end = if how.starts_with('{') {
                    "; touch on; }"
                } else {
                    ""
                };
                let code = format!(
                    "{setting} exec {{up}}<> <(:); export MTLS_READY_FD=$up MTLS_OUTBOUND=none; \
                     export MTLS_GRACE=30; {how} {PORT} 5000 {app} {end} & read -u \"$up\"; kill \"$!\"; wait \"$!\"; \
                     [ \"$(mtls_listeners {PORT})\" = 0 ] || exit 6; [ ! -e on ] || exit 7; exit 5"
                );
                let said = alice.shell(&code).output();
                assert_eq!(said.code(), Some(5), "{by}: {said}");
                // Not a little later, but when `wait` says so.
                alice.assert_nothing_left(Duration::ZERO);
            }
        }
    }
}

#[test]
fn a_shell_that_has_a_trap_of_its_own_runs_it() {
    let alice = User::new();
    let modes = ["", "set -o posix;"];
    let settings = both(&alice);
    for ((by, setting), mode) in settings.iter().flat_map(|s| modes.map(|mode| (s, mode))) {
        // As `sh`, which is bash on some systems.
        let code = format!(
            "{mode} {setting} exec {{up}}<> <(:); export MTLS_READY_FD=$up MTLS_OUTBOUND=none; \
             {{ trap 'touch trapped' TERM; start_mtls {PORT} 5000 python3 app.py 5000; \
             echo $? >code; trap -p TERM >after; }} & \
             read -u \"$up\"; kill \"$!\"; wait \"$!\"; [ -e trapped ] || exit 6; rm trapped; \
             grep -q touch after || exit 7; grep -qx 143 code || exit 8; exit 5"
        );
        let said = alice.shell(&code).output();
        assert_eq!(said.code(), Some(5), "{by} {mode}: {said}");
        alice.assert_nothing_left(AT_ONCE);
    }
}

#[test]
fn scripts_that_the_job_starts_have_every_function() {
    let alice = User::new();
    let said = alice.shell("declare -F").output().assert_ok();
    let functions: Vec<&str> = said.stdout.lines().collect();
    assert!(functions.len() > 40, "{said}");
    for function in functions {
        assert!(function.starts_with("declare -fx "), "{function}");
    }
}

/// What the functions assign to, in all the ways that their file has. What is set from
/// outside and what is bash's own is in capitals.
const ASSIGNED: &str = r#"
import re, sys
text = re.sub(r"(?m)^ *#.*", "", sys.stdin.read())
found = set(re.findall(r"(?<![\w$!{./-])([a-z_]+)\+?=", text))
found |= set(re.findall(r"\bfor ([a-z_]+)(?: in|;)", text))
found |= set(re.findall(r"\bexec \{([a-z]+)\}", text))
for words in re.findall(r"\b(?:local|read)((?: [^ \n;|&<)]+)+)", text):
    found |= set(re.findall(r"(?:^| )([a-z][a-z_]*)(?= |$|=)", words))
print(*sorted(found))
"#;

#[test]
fn a_read_only_variable_that_the_functions_need_is_an_error_before_anything_runs() {
    let alice = User::new();
    let functions = std::fs::read_to_string(crate::job::functions()).unwrap();
    let python = ood_ca_tests::Run::new("python3").args(["-c", ASSIGNED]);
    let names = python.input(functions.as_bytes()).output().assert_ok();
    let mut names: Vec<&str> = names.stdout.split_whitespace().collect();
    names.extend([
        "IFS", "LC_ALL", "MTLS_HEADER_COUNT", "MTLS_HEADER_NAMES", "SECONDS",
    ]);
    assert!(names.len() > 50 && names.contains(&"never"), "{names:?}");
    let code = format!(
        "for one in {}; do (readonly \"$one\"; start_mtls {PORT} 5000 sleep 1000; echo \"$one $?\"); done",
        names.join(" ")
    );
    let said = alice.shell(&code).output();
    for name in &names {
        let told = format!("error: the variable {name} of this script is read-only\n");
        assert!(said.stderr.contains(&told), "{name}: {said}");
        assert!(said.stdout.contains(&format!("{name} 2\n")), "{said}");
    }
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn in_the_background_the_exit_code_and_the_input_are_the_apps() {
    let alice = User::new();
    for (by, setting) in both(&alice) {
        let code = format!(
            "{setting} export MTLS_OUTBOUND=none; set -e; \
             start_mtls {PORT} 5000 bash -c 'read -r line; exit \"$line\"' <<<9 & \
             wait \"$!\" || code=$?; exit \"$code\""
        );
        let said = alice.shell(&code).output();
        assert_eq!(said.code(), Some(9), "{by}: {said}");
        alice.assert_nothing_left(Duration::ZERO);
    }
}

#[test]
fn each_part_that_is_killed_takes_the_rest_with_it() {
    for part in [
        "caddy run", "slirp4netns", "unshare --map-current-user", "bash -c mtls_inside",
    ] {
        let alice = User::new();
        let job = Job::ready(&alice, "");
        let process = alice.process(part).unwrap();
        kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        let said = job.running.wait();
        assert_eq!(said.code(), Some(1), "{part}: {said}");
        alice.assert_nothing_left(AT_ONCE);
    }
}

#[test]
fn a_terminated_job_lets_the_app_finish() {
    let alice = User::new();
    let code = format!(
        "start_mtls {PORT} 5000 bash -c 'trap \"echo saved >note; exit 0\" TERM; \
         python3 app.py 5000 & touch trapped; while :; do wait; done'"
    );
    let mut job = alice.shell(&code).start();
    ood_ca_tests::eventually("it listens", Duration::from_secs(30), || {
        let open = std::net::TcpStream::connect(("127.0.0.1", PORT));
        (open.is_ok() && alice.work.join("trapped").exists()).then_some(())
    });
    assert!(!job.has_ended());
    // To all of it, as a scheduler does.
    for line in alice.processes() {
        let number: i32 = line.split(':').next().unwrap().parse().unwrap();
        // It may be gone already.
        let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
    }
    let said = job.wait();
    assert_ne!(said.code(), Some(0), "{said}");
    let note = std::fs::read_to_string(alice.work.join("note"));
    assert_eq!(note.unwrap_or_default(), "saved\n", "{said}");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn an_app_that_never_listens_ends_with_a_message() {
    let alice = User::new();
    let code = format!("MTLS_READY_TIMEOUT=1 start_mtls {PORT} 5000 sleep 100");
    let said = alice.shell(&code).output();
    said.assert_refused(1, "does not listen on 127.0.0.1:5000");
    alice.assert_nothing_left(AT_ONCE);
}

#[test]
fn what_is_missing_is_named() {
    let alice = User::new();
    let start = format!("start_mtls {PORT} 5000 true");
    let said = alice.shell(&format!("MTLS_CADDY=/nowhere/caddy {start}"));
    said.output()
        .assert_refused(1, "/nowhere/caddy is not on this node");
    let said = alice.shell(&format!("MTLS_OUTBOUND=pasta {start}"));
    said.output().assert_refused(1, "MTLS_OUTBOUND is 'pasta'");
    alice.assert_nothing_left(AT_ONCE);
}

/// What lets `start_mtls` find one program, or the other.
pub(crate) fn both(user: &User) -> [(&'static str, String); 2] {
    let ood_job = runnable_by(ood_job(), user.home.uid());
    [
        ("caddy", String::new()),
        (
            "ood-job",
            format!("MTLS_OOD_JOB={} MTLS_CADDY=/none;", ood_job.display()),
        ),
    ]
}

#[test]
fn a_wrong_call_is_told_what_is_wrong_with_it() {
    let alice = User::new();
    for (by, setting) in both(&alice) {
        for (code, call, part) in [
            (2, "", "two ports and a command are needed"),
            (2, "8443", "two ports and a command are needed"),
            (2, "8443 99999 true", "INNER is '99999', which is no port"),
            (2, "'' 5000 true", "OUTER is '', which is no port"),
            (2, "node 5000 true", "OUTER is 'node', which is no port"),
            (2, "8443 5000", "there is no command behind the two ports"),
            (
                127, "8443 5000 /no/where", "there is no program '/no/where'",
            ),
            (127, "8443 5000 serve", "export -f serve"),
            (126, "8443 5000 ./app.py", "'./app.py' cannot be executed"),
        ] {
            let shell = format!("{setting} serve() {{ :; }}; start_mtls {call}");
            let said = alice.shell(&shell).output();
            assert_eq!(said.code(), Some(code), "{by}: {said}");
            assert!(said.stderr.contains(part), "{by}: {said}");
            assert!(said.stderr.contains("hint: "), "{by}: {said}");
        }
        for (more, code, part) in [
            (
                "MTLS_HOSTS=not/a/host", 2, "MTLS_HOSTS has 'not/a/host' in it",
            ),
            (
                "MTLS_HOSTS='n1 fd00::2'", 2, "MTLS_HOSTS has 'fd00::2' in it",
            ),
            ("MTLS_OUTBOUND=nowhere", 1, "MTLS_OUTBOUND is 'nowhere'"),
            (
                "MTLS_OUTBOUND=none MTLS_READY_TIMEOUT=1",
                if by == "caddy" { 1 } else { 125 },
                "does not listen on 127.0.0.1:5000 after 1 seconds\nhint: tell it the port, or give it more time with MTLS_READY_TIMEOUT",
            ),
        ] {
            let shell = format!("{setting} {more}; start_mtls {PORT} 5000 sleep 100");
            let said = alice.shell(&shell).output();
            assert_eq!(said.code(), Some(code), "{by}: {said}");
            assert!(said.stderr.contains(part), "{by}: {said}");
        }
        alice.assert_nothing_left(AT_ONCE);
    }
}
