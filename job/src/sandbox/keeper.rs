//! The keeper: a small process that holds the app's namespaces, starts the app,
//! hands out sockets of its network, and is the end of everything when it ends.
//!
//! It is a copy of the supervisor from before that read any key, and talks to
//! it over two sockets. When the supervisor is gone, however it went, the
//! control socket says so: signals for the parent's death would not do, as they
//! are sent when the *thread* that made the child ends.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group,
    set_dumpable_behavior,
};

use super::kernel::{self, Fork};
use super::outbound::{self, Waiting};
use super::wire::{self, Event, Failure, Order};
use super::{Network, Plan, RETRY, dns, loopback, userns};
use crate::{processes, terminal};

/// How long there may be one process too many.
const PATIENCE: Duration = Duration::from_millis(200);

/// The keeper's end of the world: builds, serves, ends. Never returns to code
/// that thinks it is the supervisor.
pub(super) fn run(plan: Plan, control: OwnedFd, sockets: OwnedFd) -> ! {
    let keep = [&control, &sockets].map(AsRawFd::as_raw_fd);
    let keep = keep
        .into_iter()
        .chain(plan.terminal.as_ref().map(AsRawFd::as_raw_fd))
        .chain(plan.held.as_ref().map(AsRawFd::as_raw_fd));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let inherited = Inherited::now();
        let signals = prepare(&keep.collect::<Vec<_>>())
            .map_err(|e| failure("prepare the app's surroundings", &e, String::new()));
        let built = signals.and_then(|signals| {
            let built = build(&plan, &control)?;
            Ok((signals, built))
        });
        match built {
            Ok((signals, built)) => Keeper {
                plan,
                control,
                sockets: Some(sockets),
                owed: false,
                signals,
                inherited,
                outbound: built.outbound,
                app: None,
            }
            .serve(built.notices),
            Err(failure) => {
                // If nobody hears it any more, nobody needs to.
                let _ = wire::send(&control, &Event::Failed(failure));
            }
        }
    }));
    kernel::exit_now(i32::from(ended.is_err()))
}

/// What signals do that this process was started with: nohup and the like mean
/// them for the app.
struct Inherited {
    blocked: SigSet,
    /// Bit `n - 1` stands for signal `n`.
    ignored: u64,
}

impl Inherited {
    fn now() -> Self {
        let pipe = bit(NixSignal::SIGPIPE);
        let ignored = terminal::ignored_signals();
        Inherited {
            blocked: SigSet::thread_get_mask().unwrap_or(SigSet::empty()),
            // Rust's own start has ignored that one.
            ignored: if kernel::pipe_was_ignored() {
                ignored | pipe
            } else {
                ignored & !pipe
            },
        }
    }

    /// Makes it so again. All others nobody has touched.
    fn restore(&self) {
        for signal in [NixSignal::SIGPIPE, NixSignal::SIGCHLD] {
            kernel::set_ignored(signal, self.ignored & bit(signal) != 0);
        }
        let _ = self.blocked.thread_set_mask();
    }
}

fn bit(signal: NixSignal) -> u64 {
    1 << (signal as i32 - 1)
}

fn prepare(keep: &[i32]) -> io::Result<SignalFd> {
    kernel::close_parents_files(keep)?;
    kernel::want_child_ends();
    // Not of the supervisor's group: who kills that one, terminal or shell,
    // leaves us to clean up.
    rustix::process::setpgid(None, None)?;
    let all = SigSet::all();
    all.thread_block()?;
    let mut children = SigSet::empty();
    children.add(NixSignal::SIGCHLD);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&children, flags)?)
}

struct Built {
    outbound: Option<outbound::Running>,
    notices: Vec<String>,
}

/// Makes the namespaces and everything in them, and ends up inside.
fn build(plan: &Plan, control: &OwnedFd) -> Result<Built, Failure> {
    let Network::Private {
        pid_namespace,
        outbound: wanted,
    } = plan.network
    else {
        adopt_orphans()?;
        return Ok(Built {
            outbound: None,
            notices: Vec::new(),
        });
    };
    let tools = outbound::tools(wanted)?;
    let own = userns::Ids::current();
    // Else /proc/self is root's, and no map can be written. No key is in this
    // process, and the app is not there yet.
    set_dumpable(true);
    if pid_namespace {
        enter_pid_namespace(own)?;
    } else {
        adopt_orphans()?;
    }
    let mut last = None;
    // The program stays outside the network, so it must be there before us.
    let mut waiting = Vec::new();
    for (tool, program) in &tools {
        let ready = Waiting::prepare(*tool, program);
        waiting.push(ready.map_err(|e| failure("prepare the way out", &e, String::new()))?);
    }
    let new = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    userns::enter(new, own, "create a network namespace")?;
    loopback::up().map_err(|e| failure("bring up the app's loopback", &e, String::new()))?;
    let mut running = None;
    let mut notices = Vec::new();
    for one in waiting {
        match one.begin(control) {
            Ok(it) => {
                running = Some(it);
                break;
            }
            Err(failure) => last = Some(failure),
        }
    }
    if let (None, Some(failure)) = (&running, last) {
        return Err(failure);
    }
    if let Some(running) = &running
        && let Err(error) = dns::point_at(running.tool.dns())
    {
        notices.push(format!(
            "the app keeps the node's /etc/resolv.conf, which may name a server out of its reach: {error}"
        ));
    }
    // From here on nobody may look into this process, the app least of all.
    set_dumpable(false);
    Ok(Built {
        outbound: running,
        notices,
    })
}

fn set_dumpable(yes: bool) {
    let behavior = if yes {
        DumpableBehavior::Dumpable
    } else {
        DumpableBehavior::NotDumpable
    };
    // Where a container forbids it, what needs it will say so.
    let _ = set_dumpable_behavior(behavior);
}

/// Processes whose parent has ended become our children, so that they can be
/// found and ended.
fn adopt_orphans() -> Result<(), Failure> {
    rustix::process::set_child_subreaper(Some(getpid()))
        .map_err(|e| failure("adopt the app's processes", &e.into(), String::new()))
}

/// Becomes process 1 of a namespace of its own, with a `/proc` that shows it.
fn enter_pid_namespace(own: userns::Ids) -> Result<(), Failure> {
    let new = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    userns::enter(new, own, "create a process namespace")?;
    match kernel::fork() {
        // The supervisor adopts the keeper.
        Ok(Fork::Parent(_)) => kernel::exit_now(0),
        Ok(Fork::Child) => {}
        Err(e) => {
            return Err(failure(
                "start process 1 of the namespace",
                &e,
                String::new(),
            ));
        }
    }
    // It has a group of its own already; as process 1 it leads one more.
    let _ = rustix::process::setpgid(None, None);
    use nix::mount::{MsFlags, mount};
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(|e| {
        let hint = "a container or the batch system covers parts of /proc; run with --no-pidns";
        failure("mount a /proc of the app's own", &e.into(), hint.into())
    })
}

pub(super) fn failure(what: &str, error: &io::Error, hint: String) -> Failure {
    Failure {
        what: what.into(),
        why: error.to_string(),
        hint: if hint.is_empty() {
            format!("run on another node, {}", crate::error::OTHER_WAYS)
        } else {
            hint
        },
    }
}

struct Keeper {
    plan: Plan,
    control: OwnedFd,
    /// `None` once nobody asks for sockets any more.
    sockets: Option<OwnedFd>,
    /// Whether somebody waits for an answer that could not be given.
    owed: bool,
    signals: SignalFd,
    /// What we were started with, for the app.
    inherited: Inherited,
    outbound: Option<outbound::Running>,
    app: Option<Pid>,
}

impl Keeper {
    fn serve(mut self, notices: Vec<String>) {
        let outbound = self.outbound.as_ref().map(|o| o.tool.name().to_owned());
        self.tell(&Event::Built { outbound, notices });
        loop {
            let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            let (children, orders, sockets) = {
                let mut fds = vec![
                    PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
                    PollFd::new(&self.control, PollFlags::IN),
                ];
                fds.extend(self.sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)));
                let pause = Timespec::try_from(RETRY).ok();
                match poll(&mut fds, pause.as_ref().filter(|_| self.owed)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return self.end(),
                }
                (
                    ready(&fds[0]),
                    ready(&fds[1]),
                    fds.get(2).is_some_and(ready),
                )
            };
            if children && let Some(code) = self.reap() {
                self.tell(&Event::Exited(code));
                return self.end();
            }
            if orders {
                match wire::receive(&self.control) {
                    Ok(Some(order)) => self.obey(&order),
                    // The supervisor is gone, or makes no sense.
                    Ok(None) | Err(_) => return self.orphaned(),
                }
            }
            if let Some(asked_on) = self.sockets.as_ref().filter(|_| sockets || self.owed) {
                // Said first that there was none, what is asked now gets a new answer.
                let answer = if self.owed {
                    wire::send_no_socket(asked_on)
                } else {
                    hand_out(asked_on)
                };
                match answer {
                    Ok(()) => self.owed = false,
                    Err(error) if wire::is_gone(&error) => {
                        (self.sockets, self.owed) = (None, false)
                    }
                    Err(_) => self.owed = true,
                }
            }
        }
    }

    fn tell(&self, event: &Event) {
        // A supervisor that is gone shows in the next round.
        let _ = wire::send(&self.control, event);
    }

    fn obey(&mut self, order: &Order) {
        match (order, self.app) {
            (Order::Start { foreground }, None) => {
                match start(&self.plan, &self.inherited, *foreground) {
                    Ok(app) => {
                        self.app = Some(app);
                        self.tell(&Event::Started);
                    }
                    Err(error) => self.tell(&Event::NotStarted(error.raw_os_error().unwrap_or(0))),
                }
            }
            (Order::Signal(number), Some(app)) => {
                // It may have ended this moment.
                let _ = kernel::send_signal(app, *number);
            }
            (Order::Continue { foreground }, Some(app)) => {
                if let Some(terminal) = self.plan.terminal.as_ref().filter(|_| *foreground) {
                    let _ = rustix::termios::tcsetpgrp(terminal, app);
                }
                let _ = kill_process_group(app, Signal::CONT);
            }
            _ => {}
        }
    }

    /// Takes leave of the children that have ended; the app's exit code if it
    /// is among them.
    fn reap(&mut self) -> Option<u8> {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut code = None;
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if Some(pid) == self.app {
                if status.stopped() {
                    self.tell(&Event::Stopped);
                } else {
                    code = code_of(status);
                }
            } else if self.outbound.as_ref().is_some_and(|o| o.pid == Some(pid)) {
                self.outbound = None;
                self.tell(&Event::OutboundLost);
            }
        }
        code
    }

    /// The supervisor is gone without a word: everything ends, and what it would
    /// have taken away is taken away here.
    fn orphaned(self) {
        self.end();
        (self.plan.on_orphaned)();
    }

    /// Ends everything that was started from here.
    fn end(&self) {
        let own_namespace = matches!(
            self.plan.network,
            Network::Private {
                pid_namespace: true,
                ..
            }
        );
        if own_namespace && getpid().is_init() {
            // All that this process can see, and it sees its own namespace only.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), NixSignal::SIGKILL);
        } else {
            // By its number: pasta lets nobody look into it, so `/proc` may hide it.
            if let Some(pid) = self.outbound.as_ref().and_then(|o| o.pid) {
                let pid = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
                let _ = nix::sys::signal::kill(pid, NixSignal::SIGKILL);
            }
            processes::kill_descendants(&[]);
        }
    }
}

/// One socket for one byte, or the word that there is none. An error means that no
/// answer could be given.
fn hand_out(asked_on: &OwnedFd) -> io::Result<()> {
    let mut family = [0];
    match rustix::net::recv(asked_on, &mut family[..], RecvFlags::DONTWAIT) {
        Ok((1, _)) => {}
        Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
        Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    let family = if family[0] == b'6' {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    let sent = socket
        .map_err(io::Error::from)
        .and_then(|socket| wire::send_socket(asked_on, &socket));
    // Another program of the user may have too many descriptors under way.
    match sent {
        Err(error) if !wire::is_gone(&error) => wire::send_no_socket(asked_on),
        sent => sent,
    }
}

fn code_of(status: WaitStatus) -> Option<u8> {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (_, Some(signal)) => 128 + signal,
        _ => return None,
    };
    Some(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Starts the app in a process group of its own, so that `kill 0` in it stays in
/// it, and gives it the foreground of the terminal if we had that.
fn start(plan: &Plan, inherited: &Inherited, foreground: bool) -> io::Result<Pid> {
    let (failed, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let app = match fork_for_app()? {
        Fork::Child => {
            drop(failed);
            let error = become_app(plan, inherited, foreground);
            let number = error.raw_os_error().unwrap_or(0);
            let _ = rustix::io::write(&report, &number.to_ne_bytes());
            kernel::exit_now(127)
        }
        Fork::Parent(app) => app,
    };
    drop(report);
    let mut number = [0; 4];
    match rustix::io::read(&failed, &mut number) {
        // Closed by the execution itself.
        Ok(0) => Ok(app),
        Ok(_) => {
            let _ = rustix::process::waitpid(Some(app), WaitOptions::empty());
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(number)))
        }
        Err(e) => Err(e.into()),
    }
}

/// At the process limit a thread of the supervisor's may count for a moment after its
/// end, and then the app has to wait for that.
fn fork_for_app() -> io::Result<Fork> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match kernel::fork() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Becomes the app. Returns only if that fails. Signals that were ignored or
/// blocked when we were started (nohup) stay so.
fn become_app(plan: &Plan, inherited: &Inherited, foreground: bool) -> io::Error {
    let _ = rustix::process::setpgid(None, None);
    if let Some(terminal) = plan.terminal.as_ref().filter(|_| foreground) {
        // Allowed from the background, as SIGTTOU is blocked here.
        let _ = rustix::termios::tcsetpgrp(terminal, getpid());
    }
    // After that, as SIGTTOU must not stop us above.
    inherited.restore();
    match execute(plan) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Not by [`std::process::Command`], which has SIGPIPE end the program also where
/// it was ignored.
fn execute(plan: &Plan) -> io::Result<std::convert::Infallible> {
    let mut env: BTreeMap<_, _> = std::env::vars_os().collect();
    // Where another ood-job, around this one, wants its own app.
    env.retain(|name, _| !name.as_encoded_bytes().starts_with(b"OOD_JOB_APP_"));
    for (name, value) in &plan.env {
        env.insert(name.into(), value.clone());
    }
    let env = env.into_iter().map(|(name, value)| {
        let line = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(line)
    });
    let env: Vec<CString> = env.collect::<Result<_, _>>()?;
    let words = plan.command.iter().cloned();
    let words = words.map(|word| CString::new(word.into_vec()));
    let words: Vec<CString> = words.collect::<Result<_, _>>()?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(nix::unistd::execvpe(program, &words, &env)?)
}
