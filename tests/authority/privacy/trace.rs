//! System calls as strace writes them, and what they did to the files.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// One finished system call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) args: Vec<Arg>,
    /// What it returned; -1 for every failure.
    pub(super) result: i64,
}

/// An argument: a string, or a text that strace made of something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    Bytes(Vec<u8>),
    Other(String),
}

impl Call {
    /// Its name and the arguments that are no data, for messages.
    pub(super) fn summary(&self) -> String {
        let show = |arg: &Arg| match arg {
            Arg::Bytes(bytes)
                if bytes.len() <= 128 && bytes.iter().all(|b| b.is_ascii_graphic()) =>
            {
                String::from_utf8_lossy(bytes).into_owned()
            }
            Arg::Bytes(bytes) => format!("<{} bytes>", bytes.len()),
            Arg::Other(text) if text.contains('"') => "<data>".into(),
            Arg::Other(text) => text.clone(),
        };
        let args: Vec<_> = self.args.iter().map(show).collect();
        format!("{}({}) = {}", self.name, args.join(", "), self.result)
    }

    pub(super) fn text(&self, index: usize) -> &str {
        match self.args.get(index) {
            Some(Arg::Other(text)) => text,
            _ => panic!("argument {index} of {} is no plain text", self.summary()),
        }
    }

    fn number(&self, index: usize) -> i64 {
        self.text(index)
            .parse()
            .unwrap_or_else(|_| panic!("argument {index} of {} is no number", self.summary()))
    }

    fn mode(&self, index: usize) -> u32 {
        let text = self.text(index);
        u32::from_str_radix(text, 8)
            .unwrap_or_else(|_| panic!("argument {index} of {} is no mode", self.summary()))
    }

    fn bytes(&self, index: usize) -> &[u8] {
        match self.args.get(index) {
            Some(Arg::Bytes(bytes)) => bytes,
            _ => panic!("argument {index} of {} could not be read", self.summary()),
        }
    }

    /// All strings in it, also those inside structures.
    pub(super) fn strings(&self) -> Vec<Vec<u8>> {
        let mut strings = Vec::new();
        for arg in &self.args {
            match arg {
                Arg::Bytes(bytes) => strings.push(bytes.clone()),
                Arg::Other(text) => strings.extend(strings_in(text)),
            }
        }
        strings
    }
}

/// Decodes every `"\x41\x42"` in a text.
fn strings_in(text: &str) -> Vec<Vec<u8>> {
    text.split('"').skip(1).step_by(2).map(decode).collect()
}

fn decode(escaped: &str) -> Vec<u8> {
    let codes = escaped.split("\\x").filter(|code| !code.is_empty());
    codes
        .map(|code| {
            u8::from_str_radix(code, 16)
                .unwrap_or_else(|_| panic!("strace wrote {code:?}, which is no byte"))
        })
        .collect()
}

/// The calls of the program of this name, from its `execve` on.
pub(super) fn calls_of(trace: &str, program: &str) -> Vec<Call> {
    let mut waiting: BTreeMap<&str, String> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (pid, rest) = line
            .split_once(char::is_whitespace)
            .unwrap_or_else(|| panic!("not a line of strace: {line}"));
        let rest = rest.trim_start();
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            waiting.insert(pid, begun.to_owned());
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (_, end) = resumed
                    .split_once(" resumed>")
                    .unwrap_or_else(|| panic!("not understood: {rest}"));
                waiting.remove(pid).unwrap_or_default() + end
            }
            None => rest.to_owned(),
        };
        calls.push(parse(&whole));
    }
    // exit_group never returns.
    waiting.retain(|_, begun| !begun.starts_with("exit"));
    assert!(
        waiting.is_empty(),
        "calls that did not finish: {:?}",
        waiting.keys()
    );
    let begin = calls.iter().rposition(|call| {
        call.name == "execve" && call.result == 0 && call.bytes(0).ends_with(program.as_bytes())
    });
    calls.split_off(begin.unwrap_or_else(|| panic!("{program} was not started")))
}

fn parse(whole: &str) -> Call {
    // Bounded: the line holds data.
    let bad = || -> ! { panic!("not understood: {}", &whole[..whole.len().min(60)]) };
    let (name, rest) = whole.split_once('(').unwrap_or_else(|| bad());
    // The result may hold parentheses (`-1 ENOENT (No such file …)`), data cannot.
    let (args, result) = rest.rsplit_once(" = ").unwrap_or_else(|| bad());
    let args = args.trim_end().strip_suffix(')').unwrap_or_else(|| bad());
    let number = result.split_whitespace().next().unwrap_or("?");
    let result = match number.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).unwrap_or(-1),
        None => number.parse().unwrap_or(-1),
    };
    Call {
        name: name.to_owned(),
        args: split(args).into_iter().map(arg).collect(),
        result,
    }
}

fn arg(text: &str) -> Arg {
    match text.strip_prefix('"').and_then(|t| t.split_once('"')) {
        Some((inside, "")) => Arg::Bytes(decode(inside)),
        Some((_, rest)) => panic!("strace cut a string short: {rest}"),
        None => Arg::Other(text.to_owned()),
    }
}

/// Splits arguments at their commas, and not at those inside of one.
fn split(args: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth, mut quoted) = (Vec::new(), 0, 0, false);
    for (at, c) in args.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' | '(' if !quoted => depth += 1,
            ']' | '}' | ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(args[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !args.trim().is_empty() {
        parts.push(args[from..].trim());
    }
    parts
}

/// Something that happened to files, with the modes of the time.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A file was opened for writing by this path.
    OpenedToWrite { path: PathBuf },
    /// A directory was made.
    MadeDirectory { path: PathBuf, mode: u32 },
    /// Bytes went into a file.
    Wrote {
        file: usize,
        mode: u32,
        bytes: Vec<u8>,
    },
    /// Bytes went elsewhere: a terminal, a pipe, a socket.
    Sent { to: String, bytes: Vec<u8> },
    /// Bytes came from somewhere.
    Read { bytes: Vec<u8> },
    /// A file's mode is now this.
    ModeSet { file: usize, mode: u32 },
    /// A file is safe on disk.
    Synced { file: usize },
    /// A directory's entries are.
    SyncedDirectory { path: PathBuf },
    /// A file came to have this path, complete or not.
    Appeared { file: usize, path: PathBuf },
    /// The process can no longer be dumped.
    NotDumpable,
    /// It leaves no core file.
    NoCore,
}

#[derive(Clone, Debug)]
enum Open {
    File(usize),
    Directory(PathBuf),
    Else(String),
}

/// Follows a process through its calls.
#[derive(Debug)]
struct Follower {
    cwd: PathBuf,
    umask: u32,
    fds: BTreeMap<i64, Open>,
    /// Files by number: their mode now.
    modes: Vec<u32>,
    names: BTreeMap<PathBuf, usize>,
    events: Vec<Event>,
}

/// What the calls did. `existing` are the files (with modes) that were there.
pub(super) fn follow(
    calls: &[Call],
    cwd: &Path,
    umask: u32,
    existing: &[(PathBuf, u32)],
) -> Vec<Event> {
    let mut follower = Follower {
        cwd: cwd.to_owned(),
        umask,
        fds: (0..3)
            .map(|fd| (fd, Open::Else(format!("descriptor {fd}"))))
            .collect(),
        modes: existing.iter().map(|(_, mode)| mode & 0o7777).collect(),
        names: existing
            .iter()
            .enumerate()
            .map(|(n, (path, _))| (path.clone(), n))
            .collect(),
        events: Vec::new(),
    };
    for call in calls {
        if call.result >= 0 {
            follower.take(call);
        }
    }
    follower.events
}

impl Follower {
    fn take(&mut self, call: &Call) {
        match call.name.as_str() {
            "openat" => {
                let mode = if call.args.len() > 3 { call.mode(3) } else { 0 };
                self.open(call, self.at(call, 0, 1), call.text(2), mode);
            }
            "open" => {
                let mode = if call.args.len() > 2 { call.mode(2) } else { 0 };
                self.open(call, self.path(call.bytes(0)), call.text(1), mode);
            }
            "close" => drop(self.fds.remove(&call.number(0))),
            "dup" | "dup2" | "dup3" => self.duplicate(call),
            "fcntl" if call.text(1).starts_with("F_DUPFD") => self.duplicate(call),
            "mkdirat" => self.made(self.at(call, 0, 1), call.mode(2)),
            "mkdir" => self.made(self.path(call.bytes(0)), call.mode(1)),
            "write" | "pwrite64" | "sendto" => self.wrote(call.number(0), call.bytes(1).to_vec()),
            "writev" | "pwritev" | "pwritev2" | "sendmsg" => {
                self.wrote(call.number(0), strings_in(call.text(1)).concat());
            }
            "read" | "pread64" if call.result > 0 => {
                self.events.push(Event::Read {
                    bytes: call.bytes(1).to_vec(),
                });
            }
            "readv" | "preadv" => {
                self.events.push(Event::Read {
                    bytes: strings_in(call.text(1)).concat(),
                });
            }
            "fchmod" => {
                if let Some(Open::File(file)) = self.fds.get(&call.number(0)) {
                    self.set_mode(*file, call.mode(1));
                }
            }
            "fchmodat" | "fchmodat2" => self.chmod(&self.at(call, 0, 1), call.mode(2)),
            "chmod" => self.chmod(&self.path(call.bytes(0)), call.mode(1)),
            "fsync" | "fdatasync" => match self.fds.get(&call.number(0)) {
                Some(Open::File(file)) => self.events.push(Event::Synced { file: *file }),
                Some(Open::Directory(path)) => self
                    .events
                    .push(Event::SyncedDirectory { path: path.clone() }),
                _ => {}
            },
            "renameat" | "renameat2" => self.renamed(&self.at(call, 0, 1), &self.at(call, 2, 3)),
            "rename" => self.renamed(&self.path(call.bytes(0)), &self.path(call.bytes(1))),
            "linkat" => self.linked(&self.at(call, 0, 1), self.at(call, 2, 3)),
            "link" => self.linked(&self.path(call.bytes(0)), self.path(call.bytes(1))),
            "unlinkat" => drop(self.names.remove(&self.at(call, 0, 1))),
            "unlink" => drop(self.names.remove(&self.path(call.bytes(0)))),
            "umask" => self.umask = call.mode(0),
            "chdir" => self.cwd = self.path(call.bytes(0)),
            "prctl" if call.text(0) == "PR_SET_DUMPABLE" => {
                let off = ["SUID_DUMP_DISABLE", "0"].contains(&call.text(1));
                assert!(off, "{}", call.summary());
                self.events.push(Event::NotDumpable);
            }
            "prlimit64" if call.text(1) == "RLIMIT_CORE" => self.core_limit(call, 2),
            "setrlimit" if call.text(0) == "RLIMIT_CORE" => self.core_limit(call, 1),
            "mmap" => {
                let shared =
                    call.text(3).contains("MAP_SHARED") && call.text(2).contains("PROT_WRITE");
                assert!(
                    !shared || call.text(3).contains("MAP_ANONYMOUS"),
                    "unseen writes: {}",
                    call.summary()
                );
            }
            // Ways to write, make or expose a file that nobody here looks at.
            "openat2" | "creat" | "symlink" | "symlinkat" | "mknod" | "mknodat" | "truncate"
            | "copy_file_range" | "sendfile" | "splice" | "sendmmsg" | "io_uring_setup"
            | "memfd_create" | "fork" | "vfork" => {
                panic!("a call that this test does not follow: {}", call.summary())
            }
            _ => {}
        }
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        plain(&self.cwd.join(Path::new(std::ffi::OsStr::from_bytes(name))))
    }

    fn at(&self, call: &Call, dir: usize, name: usize) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(call.bytes(name)));
        let base = match call.text(dir) {
            "AT_FDCWD" => &self.cwd,
            _ => match self.fds.get(&call.number(dir)) {
                Some(Open::Directory(path)) => path,
                _ if name.is_absolute() => &self.cwd,
                _ => panic!(
                    "a directory that was not seen to be opened: {}",
                    call.summary()
                ),
            },
        };
        plain(&base.join(name))
    }

    fn open(&mut self, call: &Call, path: PathBuf, flags: &str, mode: u32) {
        let has = |flag: &str| flags.split('|').any(|f| f == flag);
        let writes = has("O_WRONLY") || has("O_RDWR");
        assert!(
            !flags.contains("O_TMPFILE"),
            "a call that this test does not follow: {}",
            call.summary()
        );
        // An O_PATH handle shows nothing of a file but where it is.
        let open = if has("O_DIRECTORY") || has("O_PATH") {
            Open::Directory(path)
        } else if path.starts_with("/dev") || path.starts_with("/proc") {
            Open::Else(path.display().to_string())
        } else {
            if writes || has("O_TRUNC") || has("O_CREAT") {
                self.events
                    .push(Event::OpenedToWrite { path: path.clone() });
            }
            let file = match self.names.get(&path) {
                Some(file) => *file,
                None => {
                    self.modes.push(mode & !self.umask);
                    self.names.insert(path, self.modes.len() - 1);
                    self.modes.len() - 1
                }
            };
            Open::File(file)
        };
        self.fds.insert(call.result, open);
    }

    fn duplicate(&mut self, call: &Call) {
        if let Some(open) = self.fds.get(&call.number(0)).cloned() {
            self.fds.insert(call.result, open);
        }
    }

    fn made(&mut self, path: PathBuf, mode: u32) {
        self.events.push(Event::MadeDirectory {
            path,
            mode: mode & !self.umask,
        });
    }

    fn wrote(&mut self, fd: i64, bytes: Vec<u8>) {
        let event = match self.fds.get(&fd) {
            Some(Open::File(file)) => Event::Wrote {
                file: *file,
                mode: self.modes[*file],
                bytes,
            },
            Some(Open::Else(to)) => Event::Sent {
                to: to.clone(),
                bytes,
            },
            Some(Open::Directory(_)) => return,
            None => Event::Sent {
                to: format!("descriptor {fd}"),
                bytes,
            },
        };
        self.events.push(event);
    }

    fn set_mode(&mut self, file: usize, mode: u32) {
        self.modes[file] = mode;
        self.events.push(Event::ModeSet { file, mode });
    }

    fn chmod(&mut self, path: &Path, mode: u32) {
        if let Some(file) = self.names.get(path) {
            self.set_mode(*file, mode);
        }
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        let below: Vec<PathBuf> = self
            .names
            .keys()
            .filter(|path| path.starts_with(from))
            .cloned()
            .collect();
        for path in below {
            let file = self.names.remove(&path).expect("the name was just there");
            let rest = path.strip_prefix(from).expect("it lies below");
            let new = if rest.as_os_str().is_empty() {
                to.to_owned()
            } else {
                to.join(rest)
            };
            self.linked_as(file, new);
        }
        for open in self.fds.values_mut() {
            if let Open::Directory(path) = open
                && let Ok(rest) = path.strip_prefix(from)
            {
                *path = plain(&to.join(rest));
            }
        }
    }

    fn linked(&mut self, from: &Path, to: PathBuf) {
        let file = *self
            .names
            .get(from)
            .unwrap_or_else(|| panic!("{} was linked, whose making was not seen", from.display()));
        self.linked_as(file, to);
    }

    fn linked_as(&mut self, file: usize, path: PathBuf) {
        self.names.insert(path.clone(), file);
        self.events.push(Event::Appeared { file, path });
    }

    fn core_limit(&mut self, call: &Call, index: usize) {
        let limit = call.text(index);
        if limit.contains("rlim_cur=0,") {
            self.events.push(Event::NoCore);
        } else {
            assert_eq!(limit, "NULL", "{}", call.summary());
        }
    }
}

/// Without `.` and doubled or trailing slashes.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|c| *c != Component::CurDir)
        .collect()
}
