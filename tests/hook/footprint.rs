//! What root writes, call by call, in good times and bad.

use std::fs;
use std::path::{Path, PathBuf};

use ood_ca_tests::{Run, pun_helper, require_tool};

use crate::setup::{User, WebHost};

const CALLS: &str = "%file,%desc,%creds,execve,?memfd_create";

/// Calls that only look. All others, if they name a path, change it.
const LOOKS: &[&str] = &[
    "access", "chdir", "close", "dup", "dup2", "dup3", "epoll_create1", "execve", "faccessat",
    "faccessat2", "fadvise64", "fchdir", "fcntl", "flock", "fstat", "fstatfs", "fsync", "getcwd",
    "getdents64", "ioctl", "lseek", "memfd_create", "mmap", "newfstatat", "pipe2", "poll", "ppoll",
    "pread64", "read", "readlink", "readlinkat", "readv", "recvfrom", "sendto", "stat", "statfs",
    "statx",
];

struct Call<'a> {
    name: &'a str,
    arguments: &'a str,
}

fn parse(line: &str) -> Option<Call<'_>> {
    let (name, arguments) = line.split_once('(')?;
    Some(Call { name, arguments })
}

/// The calls of one process while it is root: until `setuid` to somebody else
/// has worked.
fn as_root(log: &str) -> impl Iterator<Item = &str> {
    let dropped = |line: &&str| {
        line.starts_with("setuid(") && !line.starts_with("setuid(0)") && line.ends_with("= 0")
    };
    log.lines().take_while(move |line| !dropped(line))
}

/// The path behind a descriptor, as `strace -y` writes it: `3</a/b>`.
fn described(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path)
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

/// What each changing call of a process that is root changes; no path for calls
/// about the process itself.
fn changed_by_root(log: &str) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    for line in as_root(log) {
        let Some(call) = parse(line) else { continue };
        let failed = line
            .rsplit_once("= ")
            .is_some_and(|(_, end)| end.starts_with("-1 "));
        if LOOKS.contains(&call.name) || failed {
            continue;
        }
        let path = match call.name {
            "openat" | "open" => {
                let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"];
                if !writes.iter().any(|flag| call.arguments.contains(flag)) {
                    continue;
                }
                // What came of it, after links.
                described(call.arguments.rsplit_once("= ").unwrap().1)
                    .unwrap()
                    .into()
            }
            "write" | "writev" | "fchmod" | "fchown" | "ftruncate" | "fallocate" => {
                described(call.arguments).unwrap_or("unknown").into()
            }
            "mkdirat" | "unlinkat" | "renameat" | "renameat2" | "linkat" | "symlinkat"
            | "utimensat" => {
                let dir = described(call.arguments).unwrap_or("unknown");
                Path::new(dir).join(quoted(call.arguments).unwrap_or_default())
            }
            _ => quoted(call.arguments).unwrap_or_default().into(),
        };
        all.push((call.name.to_owned(), path));
    }
    all
}

fn audit(user: &User<'_>, what: &str) {
    let host = user.host;
    let logs = tempfile::tempdir().unwrap();
    let ran = Run::new(require_tool("strace"))
        // A log for each process, so that no call is cut in two by another's.
        .args(["-ff", "-y", "-qq", "-s", "4096"])
        .args(["-e", &format!("trace={CALLS}"), "-o"])
        .args([logs.path().join("log")])
        .args([pun_helper()])
        .args(["hook", "--user", &user.name, "--json", "--config"])
        .args([host.config()])
        .output();
    let entries = fs::read_dir(logs.path()).unwrap();
    let logs: Vec<String> = entries
        .map(|entry| {
            String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap()).into_owned()
        })
        .collect();
    assert!(logs.len() >= 2, "{what}: nothing was seen: {ran}");
    for log in &logs {
        audit_process(user, log, what);
    }
    let writes = logs.iter().flat_map(|log| changed_by_root(log));
    assert!(writes.count() > 0, "{what}: nothing was seen: {ran}");
}

/// What one process did while it was root.
fn audit_process(user: &User<'_>, log: &str, what: &str) {
    let host = user.host;
    let own = host.roots_own();
    for (call, path) in changed_by_root(log) {
        let text = path.to_string_lossy();
        let harmless = text.starts_with("pipe:")
            || text.starts_with("/memfd:ood-ca")
            || text.starts_with("socket:")
            || text == "/dev/null"
            // A call about the process itself: its identity.
            || text.is_empty();
        assert!(
            harmless || path.starts_with(&own),
            "{what}: root calls {call} on {text}\n{log}"
        );
    }
    // Root opens nothing at all below the home directory, not even to read.
    let home = user.home.path().to_str().unwrap();
    for line in as_root(log) {
        let Some(call) = parse(line) else { continue };
        // What a file says is no path; what it is opened as is.
        let speaks = ["execve", "read", "write", "pread64", "recvfrom", "sendto"];
        let names_it = if speaks.contains(&call.name) {
            described(call.arguments).is_some_and(|path| path.starts_with(home))
        } else {
            call.arguments.contains(home)
        };
        assert!(!names_it, "{what}: root reaches into the home: {line}");
    }
}

#[test]
fn root_writes_into_its_own_directories_and_nowhere_else() {
    let host = WebHost::new();
    let user = User::new(&host);
    audit(&user, "the first hook");
    audit(&user, "the second hook");
    user.home.ood_ca("rotate --prepare").assert_ok();
    audit(&user, "a hook after a rotation");
    fs::remove_dir_all(user.home.join(".ood")).unwrap();
    std::os::unix::fs::symlink("/etc", user.home.join(".ood")).unwrap();
    audit(&user, "a hook in a home with a link to /etc");
    assert!(!user.is_served());
}
