//! Everything that is done with root's power, and nothing else. Read this file on
//! its own: what is not here runs as the user, or only computes.
//!
//! The rules it keeps:
//!
//! - Root opens no path that a user controls. Everything in a home directory is
//!   done by a child that has become the user ([`as_user`], then
//!   `user.rs`). Its words come through a pipe, bounded in length and
//!   time, and the certificates among them are parsed and written anew by
//!   `ca_core` before nginx's root process shows them to OpenSSL.
//! - Root writes into two directories only, `<snippet_dir>/<user>` and
//!   `<trust_dir>/<user>`, reached from `/` without following a link and
//!   through nobody's hands but root's; by temporary file and rename.
//! - Nothing of the caller's reaches a child: no descriptor, no environment
//!   (but for `also_run`, which the caller would have run itself).
//! - Nothing is waited for without a limit, not even the end of a process that
//!   was killed: one that is stuck in a file system is left to the kernel.
//! - nginx gets to read nothing that it has not accepted before, when asked by
//!   a process that is neither root nor the user.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ca_core::store::{Access, Dir, Durability, TEMPORARY_PREFIX};
use ca_core::{ConfigPath, HostName, SiteConfig, TrustBundle, UserName};
use nix::unistd::{Gid, Uid, User, initgroups, setgid, setuid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, SealFlags, Timespec, fcntl_add_seals, memfd_create};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, geteuid, getppid, kill_process,
    kill_process_group, set_dumpable_behavior, set_parent_process_death_signal, setrlimit, setsid,
    umask,
};
use rustix::thread::set_no_new_privs;

use crate::error::Error;
use crate::facts::{SNIPPET, TRUST};
use crate::names::NginxVersion;
use crate::nginx::{self, Memory};
use crate::pun;
use crate::report::Problem;
use crate::user::{self, Task};
use crate::wire::{self, Answer, Ask, Failure, Finding, LENGTH_DIGITS};

/// The first argument by which this program starts itself as the user's part.
pub const AS_USER: &str = "as-user";

/// Nobody: who asks nginx whether it accepts a snippet.
const NOBODY: u32 = 65_534;
/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_millis(100);
/// A hook that ended this short a time ago may belong to a PUN that has not
/// started yet.
const JUST_NOW: Duration = Duration::from_secs(10);
/// What is kept of what a program says on stderr, in bytes.
const MAX_COMPLAINT: usize = 4096;
/// Largest file of ours that is read back.
pub(crate) const MAX_OWN_FILE: usize = 4 * 1024 * 1024;

const LOCK: &str = ".lock";
const MEMORY: &str = "state";

// ---- first of all -------------------------------------------------------------

/// Leaves behind what the caller has open and how it masks modes. Returns
/// whether this process is root.
pub(crate) fn enter() -> bool {
    close_inherited();
    umask(Mode::WGRP | Mode::WOTH);
    geteuid().is_root()
}

/// From here on no child gains rights by running a set-uid program.
pub(crate) fn no_new_privileges() {
    let _ = set_no_new_privs(true);
}

// ---- whose it is ------------------------------------------------------------

/// The home directory of a user, from the passwd database.
///
/// # Errors
/// If there is no such user, or it is root.
pub fn home_of(user: &UserName) -> crate::Result<PathBuf> {
    match Account::find(user) {
        Ok(account) => Ok(account.home),
        Err(_) => Err(Error::io(
            "find the user",
            Path::new(user.as_str()),
            io::ErrorKind::NotFound,
        )),
    }
}

/// A user as the passwd database knows them. Never from the environment.
pub(crate) struct Account {
    pub(crate) name: UserName,
    uid: Uid,
    gid: Gid,
    pub(crate) home: PathBuf,
}

impl Account {
    pub(crate) fn find(name: &UserName) -> Result<Self, Problem> {
        let unknown = |message: String| Problem::new("no-such-user", message, None);
        let user = User::from_name(name.as_str())
            .map_err(|e| unknown(format!("user {name} cannot be looked up: {e}")))?
            .ok_or_else(|| unknown(format!("there is no user {name}")))?;
        if user.uid.is_root() {
            return Err(Problem::new("root", "root has no PUN", None));
        }
        Ok(Account {
            name: name.clone(),
            uid: user.uid,
            gid: user.gid,
            home: user.dir,
        })
    }
}

// ---- where root writes ------------------------------------------------------

/// The two directories of a user that root writes into, locked, with what is in
/// them.
pub(crate) struct Desk {
    pub(crate) snippets: Dir,
    trusts: Dir,
    lock: File,
    uid: u32,
    /// Whether another hook for this user has just ended.
    pub(crate) crowded: bool,
    pub(crate) snippet: Option<String>,
    pub(crate) trust: Option<TrustBundle>,
    pub(crate) memory: Memory,
    stored: Memory,
    pub(crate) pun_runs: bool,
}

impl Desk {
    pub(crate) fn open(site: &SiteConfig, account: &Account) -> Result<Self, Problem> {
        let trusts = place(&site.trust_dir, &account.name)?;
        let snippets = place(&site.snippet_dir, &account.name)?;
        let lock = locked(&trusts, site.hook_timeout.as_duration())?;
        let ended = lock.metadata().and_then(|m| m.modified()).ok();
        let ago = ended.and_then(|at| SystemTime::now().duration_since(at).ok());
        // What a killed hook left; nobody else is writing now.
        for dir in [&trusts, &snippets] {
            for name in dir.names()? {
                if let Some(name) = name.to_str().filter(|n| n.starts_with(TEMPORARY_PREFIX)) {
                    let _ = dir.remove(name);
                }
            }
        }
        let read = |dir: &Dir, name: &str, access| {
            let bytes = dir.read(name, access, MAX_OWN_FILE).ok().flatten()?;
            String::from_utf8(bytes).ok()
        };
        let memory = read(&trusts, MEMORY, Access::Private);
        let memory = Memory::parse(&memory.unwrap_or_default());
        let trust = read(&trusts, TRUST, Access::Public);
        // Compared as bytes below, so one that is not as we write it is none.
        let trust = trust.and_then(|pem| {
            let bundle = TrustBundle::from_pem(pem.as_bytes()).ok()?;
            (bundle.to_pem() == pem).then_some(bundle)
        });
        let run_dir = Path::new(site.pun_run_dir.as_str());
        Ok(Desk {
            snippet: read(&snippets, SNIPPET, Access::Public),
            trust,
            snippets,
            trusts,
            uid: account.uid.as_raw(),
            // A new lock file is no hook that has ended.
            crowded: memory.uid.is_some() && ago.is_some_and(|ago| ago < JUST_NOW),
            lock,
            stored: memory.clone(),
            memory,
            pun_runs: pun::find(run_dir, account.name.as_str()).is_some_and(|p| p.master.is_some()),
        })
    }

    pub(crate) fn is_this_users(&self) -> bool {
        self.memory.uid == Some(self.uid)
    }

    pub(crate) fn write_trust(&mut self, bundle: &TrustBundle) -> Result<(), Problem> {
        // Whose it is stands there first: a bundle nobody knows the owner of is
        // not used again.
        self.memory.uid = Some(self.uid);
        self.remember()?;
        let pem = bundle.to_pem();
        self.trusts
            .replace(TRUST, pem.as_bytes(), Access::Public, Durability::Synced)?;
        self.trust = Some(bundle.clone());
        Ok(())
    }

    pub(crate) fn write_snippet(&mut self, text: &str) -> Result<(), Problem> {
        self.snippets
            .replace(SNIPPET, text.as_bytes(), Access::Public, Durability::Synced)?;
        self.snippet = Some(text.to_owned());
        Ok(())
    }

    fn remember(&mut self) -> Result<(), Problem> {
        if self.memory != self.stored {
            let text = self.memory.to_text();
            self.trusts.replace(
                MEMORY,
                text.as_bytes(),
                Access::Private,
                Durability::Relaxed,
            )?;
            self.stored = self.memory.clone();
        }
        Ok(())
    }

    /// Leaves word of when this hook ended, and lets the next one in.
    pub(crate) fn close(mut self) {
        let _ = self.remember();
        let _ = self.lock.set_modified(SystemTime::now());
    }
}

/// A user's directory below one of the site's.
fn place(base: &ConfigPath, user: &UserName) -> Result<Dir, Problem> {
    let base = Path::new(base.as_str());
    let base = match Dir::open_guarded(base)? {
        Some(dir) => dir,
        None => {
            let missing = || Error::io("create", base, io::ErrorKind::NotFound);
            let (above, name) = base.parent().zip(base.file_name()).ok_or_else(missing)?;
            let above = Dir::open_guarded(above)?.ok_or_else(|| {
                let hint = "is Open OnDemand installed here? see snippet_dir and trust_dir";
                let message = format!("{} does not exist", above.display());
                Problem::new("no-directory", message, Some(hint))
            })?;
            above.create_shared(name)?
        }
    };
    Ok(base.create_shared(OsStr::new(user.as_str()))?)
}

fn locked(dir: &Dir, limit: Duration) -> Result<File, Problem> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(lock) = dir.try_lock(LOCK)? {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            let message = "another hook for this user holds the lock";
            return Err(Problem::new("busy", message, None));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A text in memory that a child can read by [`path_of`] and nobody can change.
fn in_memory(text: &str) -> io::Result<File> {
    // Inherited by the one child that is started while it is open.
    let mut file = File::from(memfd_create(c"ood-ca", MemfdFlags::ALLOW_SEALING)?);
    file.write_all(text.as_bytes())?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

// ---- other processes --------------------------------------------------------

/// Runs the site's previous hook: as root and with the environment that the
/// caller gave us, as it was run before. What becomes of it is not our failure:
/// returns what is worth a word.
pub(crate) fn run_previous_hook(
    path: &ConfigPath,
    user: &UserName,
    limit: Duration,
) -> Option<String> {
    let path = Path::new(path.as_str());
    let what = match roots_program(path) {
        Err(why) => why,
        Ok(real) => {
            let mut command = Command::new(real);
            // Some programs go by their name.
            command.arg0(path);
            command.args(["--user", user.as_str()]);
            match Ran::bounded(&mut command, limit) {
                Err(error) => error.to_string(),
                Ok(ran) => match ran.status {
                    None => "took too long".into(),
                    Some(status) if status.success() => return None,
                    Some(status) => format!("{status}: {}", ran.complaint.trim()),
                },
            }
        }
    };
    Some(format!("also_run: {}: {what}", path.display()))
}

/// A program that root may run: a file of root's that nobody else may change, in
/// a directory that leads to it through nobody's hands but root's. Returns where
/// it is without links.
fn roots_program(path: &Path) -> Result<PathBuf, String> {
    let real = fs::canonicalize(path).map_err(|e| e.to_string())?;
    let dir = real.parent().unwrap_or(Path::new("/"));
    Dir::open_guarded(dir).map_err(|e| format!("is not run: {e}"))?;
    let meta = fs::metadata(&real).map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err("is not run: it must be a file of root's that nobody else may write".into());
    }
    Ok(real)
}

/// The version that an nginx says it has.
pub(crate) fn version_of(binary: &Path, limit: Duration) -> Result<NginxVersion, Problem> {
    let ran = Ran::bounded(unprivileged(binary).arg("-v"), limit)
        .map_err(|e| Error::io("run", binary, e))?;
    Ok(NginxVersion::from_binary_output(&ran.complaint)?)
}

/// Asks nginx, as nobody, whether it accepts a snippet. It reads the texts from
/// memory that it cannot change, and can write nowhere. Where the snippet names
/// a trust bundle, that is read from memory too: `(path, bundle)`.
pub(crate) fn nginx_accepts(
    binary: &Path,
    text: &str,
    trust: Option<(&ConfigPath, &TrustBundle)>,
    limit: Duration,
) -> Result<(), Problem> {
    let fail = |e: io::Error| Problem::from(Error::io("test the snippet with", binary, e));
    let mut text = text.to_owned();
    let mut held = Vec::new();
    if let Some((path, bundle)) = trust {
        let trust = in_memory(&bundle.to_pem()).map_err(fail)?;
        text = text.replace(path.as_str(), &path_of(&trust));
        held.push(trust);
    }
    let snippet = in_memory(&text).map_err(fail)?;
    let main = in_memory(&nginx::wrapper(&path_of(&snippet))).map_err(fail)?;
    let mut command = unprivileged(binary);
    command.args(["-t", "-q", "-p", "/proc/", "-c", &path_of(&main)]);
    let ran = Ran::bounded(&mut command, limit).map_err(fail)?;
    drop(held);
    match ran.status {
        Some(status) if status.success() => Ok(()),
        Some(_) => {
            let emerg = ran.complaint.lines().find(|line| line.contains("[emerg]"));
            let said = emerg.unwrap_or_else(|| ran.complaint.trim());
            let message = format!("nginx refuses the snippet: {said}");
            let hint = "see what is rendered: pun-helper render --user USER";
            Err(Problem::new("nginx-refuses", message, Some(hint)))
        }
        None => Err(Problem::new(
            "timeout", "nginx -t did not end in time", None,
        )),
    }
}

/// A command that runs as nobody, with no groups and an empty environment.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).env_clear().current_dir("/");
    command
}

/// Runs Open OnDemand's nginx_stage, for so long at most, and returns what it
/// said on stdout and stderr.
pub(crate) fn run_nginx_stage(
    program: &Path,
    arguments: &[String],
    limit: Duration,
) -> io::Result<(String, String)> {
    let real = roots_program(program).map_err(io::Error::other)?;
    let mut command = Command::new(real);
    let ran = Ran::bounded(command.arg0(program).args(arguments), limit)?;
    match ran.status {
        Some(_) => Ok((ran.said, ran.complaint)),
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What became of a command.
struct Ran {
    /// `None`: it took too long.
    status: Option<ExitStatus>,
    /// The beginning of what it said on stdout.
    said: String,
    /// The beginning of what it said on stderr.
    complaint: String,
}

impl Ran {
    /// Runs a command in a process group of its own, for so long at most.
    /// Returns when the command has ended: what it left in the background is
    /// not waited for, and has nothing of the caller's open.
    fn bounded(command: &mut Command, limit: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + limit;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let mut pause = Duration::from_micros(200);
        let status = loop {
            // Asked before the pipe is emptied: what it said last is in there.
            let status = child.try_wait()?;
            let wait = if status.is_some() {
                Duration::ZERO
            } else {
                pause
            };
            drain(&mut stdout, &mut said, Duration::ZERO);
            drain(&mut stderr, &mut complaint, wait);
            if status.is_some() {
                break status;
            }
            if Instant::now() >= deadline {
                end(&mut child);
                break None;
            }
            pause = (pause * 2).min(Duration::from_millis(5));
        };
        Ok(Ran {
            status,
            said: String::from_utf8_lossy(&said).into_owned(),
            complaint: String::from_utf8_lossy(&complaint).into_owned(),
        })
    }
}

/// Takes what a pipe holds; waits up to `wait` if that is nothing.
fn drain(pipe: &mut Option<impl Read + AsFd>, into: &mut Vec<u8>, wait: Duration) {
    let Some(reader) = pipe else {
        return std::thread::sleep(wait);
    };
    let mut wait = wait;
    while readable(reader, wait) {
        let mut chunk = [0; 4096];
        match reader.read(&mut chunk) {
            Ok(0) => {
                *pipe = None;
                return;
            }
            Ok(n) => {
                let room = MAX_COMPLAINT.saturating_sub(into.len());
                into.extend_from_slice(&chunk[..n.min(room)]);
            }
            Err(_) => return,
        }
        wait = Duration::ZERO;
    }
}

fn readable(pipe: &impl AsFd, wait: Duration) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let wait = Timespec::try_from(wait).unwrap_or_default();
    matches!(poll(&mut fds, Some(&wait)), Ok(n) if n > 0)
}

/// Ends a child and all that it has started and that stayed in its group, but
/// does not wait for one that cannot die.
fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    if matches!(child.try_wait(), Ok(Some(_))) {
        // The number may be somebody else's by now, that of the group not.
        return;
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = kill_process(pid, Signal::KILL);
    let deadline = Instant::now() + DYING;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Closes what the caller left open beyond stdin, stdout and stderr. Only at
/// the very start: nothing of ours is open yet.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(number)
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // One of them was the listing itself and is closed already.
        let _ = nix::unistd::close(fd);
    }
}

// ---- the user's part, from outside ------------------------------------------

/// Why the user's part did not give what it was asked for.
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    /// It may work the next time; nothing was found to be wrong.
    pub(crate) passing: bool,
}

impl Refusal {
    fn unexpected(answer: Answer) -> Self {
        match answer {
            Answer::Failed(failure) => failure.into(),
            _ => Refusal {
                problem: Problem::new("protocol", "the user's part spoke out of turn", None),
                passing: false,
            },
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal {
            passing: failure.passing,
            problem: failure.into(),
        }
    }
}

impl From<ca_core::Error> for Refusal {
    fn from(error: ca_core::Error) -> Self {
        Failure::from(&error).into()
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let message = format!("the user's part of the hook failed: {error}");
        Refusal {
            problem: Problem::new("io", message, None),
            passing: true,
        }
    }
}

/// The child that has become the user. Dropped, it is killed.
pub(crate) struct UserPart {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// How long it may still be waited for, all questions taken together.
    patience: Duration,
}

impl UserPart {
    /// Starts it, and waits until it has made or renewed what is in the home
    /// directory. Returns with it what it has noticed.
    pub(crate) fn start(
        account: &Account,
        task: &Task,
        patience: Duration,
    ) -> Result<(Self, Vec<String>), Refusal> {
        let mut part = Self::spawn(account, task, patience)?;
        match part.answer()? {
            Answer::Ready { notices } => Ok((part, notices)),
            other => Err(Refusal::unexpected(other)),
        }
    }

    fn spawn(account: &Account, task: &Task, patience: Duration) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg0("pun-helper")
            .arg(AS_USER)
            .args([
                account.name.as_str(),
                &account.uid.to_string(),
                &account.gid.to_string(),
            ])
            .arg(std::process::id().to_string())
            .arg(&task.pki_dir)
            .arg(task.web_host.as_ref().map_or("", HostName::as_str))
            .args(&task.config)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(to), Some(from)) => Ok(UserPart {
                child,
                to,
                from,
                patience,
            }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// What the examination of the PKI directory found.
    pub(crate) fn examine(&mut self) -> Result<Vec<Finding>, Refusal> {
        match self.ask(&Ask::Examine)? {
            Answer::Examined(findings) => Ok(findings),
            other => Err(Refusal::unexpected(other)),
        }
    }

    pub(crate) fn trust(&mut self) -> Result<TrustBundle, Refusal> {
        match self.ask(&Ask::Trust)? {
            Answer::Trust(pem) => Ok(TrustBundle::from_pem(&pem)?),
            other => Err(Refusal::unexpected(other)),
        }
    }

    /// Has it recorded which authorities the PUN of this web host will trust.
    pub(crate) fn record(&mut self, loaded: &TrustBundle) -> Result<(), Refusal> {
        match self.ask(&Ask::Record(loaded.to_pem().into_bytes()))? {
            Answer::Recorded => Ok(()),
            other => Err(Refusal::unexpected(other)),
        }
    }

    /// Questions are shorter than what a pipe holds, and the one before was
    /// read: writing does not block.
    fn ask(&mut self, ask: &Ask) -> Result<Answer, Refusal> {
        self.to.write_all(&wire::framed(&ask.encode())?)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Refusal> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let prefix = self.read(LENGTH_DIGITS)?;
        let length = wire::length(&prefix).ok_or_else(invalid)?;
        let message = self.read(length)?;
        Ok(Answer::decode(&message).ok_or_else(invalid)?)
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let asked = Instant::now();
            if !readable(&self.from, self.patience) {
                return Err(Refusal {
                    problem: Problem::new(
                        "timeout",
                        "the home directory does not answer",
                        Some(
                            "look whether its file server is up; hook_timeout is how long it may take",
                        ),
                    ),
                    passing: true,
                });
            }
            self.patience = self.patience.saturating_sub(asked.elapsed());
            match self.from.read(&mut bytes[filled..])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                n => filled += n,
            }
        }
        Ok(bytes)
    }
}

impl Drop for UserPart {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

// ---- the user's part, from inside -------------------------------------------

/// What the child does: becomes the user, for good, before anything else.
/// Returns the exit code of the process.
#[must_use]
pub fn as_user(arguments: &[OsString]) -> u8 {
    close_inherited();
    let Some(task) = become_user(arguments) else {
        return 1;
    };
    user::serve(&task, &mut io::stdin().lock(), &mut io::stdout().lock());
    0
}

fn become_user(arguments: &[OsString]) -> Option<Task> {
    let text = |at: usize| arguments.get(at).and_then(|a| a.to_str());
    let name = UserName::parse(text(0)?).ok()?;
    let uid = Uid::from_raw(text(1)?.parse().ok()?);
    let gid = Gid::from_raw(text(2)?.parse().ok()?);
    let parent = Pid::from_raw(text(3)?.parse().ok()?)?;
    let task = Task {
        pki_dir: arguments.get(4)?.into(),
        web_host: HostName::parse(text(5)?).ok(),
        config: arguments.get(6).map(PathBuf::from),
    };
    if uid.is_root() {
        return None;
    }
    // A session, and so a process group, of its own: killed as a whole, and no
    // terminal of the caller's to write to.
    setsid().ok()?;
    umask(Mode::RWXG | Mode::RWXO);
    initgroups(&CString::new(name.as_str()).ok()?, gid).ok()?;
    setgid(gid).ok()?;
    setuid(uid).ok()?;
    // Dropped for good, or not at all.
    let ids = nix::unistd::getresuid().ok()?;
    let groups = nix::unistd::getresgid().ok()?;
    let all_uids = [ids.real, ids.effective, ids.saved];
    let all_gids = [groups.real, groups.effective, groups.saved];
    if all_uids != [uid; 3] || all_gids != [gid; 3] || setuid(Uid::from_raw(0)).is_ok() {
        return None;
    }
    set_no_new_privs(true).ok()?;
    // Another process of this user can neither look into this one nor drive it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok()?;
    // Only now: a change of rights takes it back.
    set_parent_process_death_signal(Some(Signal::KILL)).ok()?;
    if getppid() != Some(parent) {
        return None;
    }
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::Nofile, 64),
        (Resource::Cpu, 20),
        (Resource::Fsize, 1024 * 1024),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit).ok()?;
    }
    Some(task)
}
