//! Programs that stay up and talk TLS, and what they say meanwhile.

use std::ffi::OsStr;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// Long enough for a program to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program in the background whose output can be read while it runs.
/// Dropping it kills it, by its own process id.
#[derive(Debug)]
pub struct Server {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts a program in an environment of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let program = program.as_ref();
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.to_string_lossy()));
        let said = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let readers = vec![follow(stdout, &said), follow(stderr, &said)];
        Server {
            child,
            said,
            readers,
        }
    }

    /// Starts a program that listens, and waits until its output holds what
    /// `find` looks for. If somebody else was faster with its port, tries again
    /// with what `args` gives then.
    ///
    /// # Panics
    /// If it does not come to listen.
    pub fn listening<A: AsRef<OsStr>, T>(
        program: impl AsRef<OsStr>,
        args: impl Fn() -> Vec<A>,
        find: impl Fn(&str) -> Option<T>,
    ) -> (Self, T) {
        const IN_USE: &str = "Address already in use";
        for _ in 0..10 {
            let mut server = Self::start(&program, args());
            let found = server.expect("it listens", |said| {
                said.contains(IN_USE)
                    .then_some(None)
                    .or_else(|| find(said).map(Some))
            });
            if let Some(found) = found {
                return (server, found);
            }
        }
        panic!("{}: {IN_USE}", program.as_ref().to_string_lossy());
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far, both streams as they came.
    #[must_use]
    pub fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Waits until its output holds what `find` looks for. `None` if it ended
    /// first.
    ///
    /// # Panics
    /// If neither happens in time, with what it did say.
    fn listen_for<T>(&mut self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if ended {
                // Nothing it said before its end may be missed.
                self.join();
            }
            match find(&self.said()) {
                Some(found) => return Some(found),
                None if ended => return None,
                None => {}
            }
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}; it said:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// As `listen_for`, and an early end fails the test.
    ///
    /// # Panics
    /// If the program ended first.
    pub fn expect<T>(&mut self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        match self.listen_for(what, find) {
            Some(found) => found,
            None => panic!("the program ended before {what}:\n{}", self.said()),
        }
    }

    /// Waits for its end; its exit code, `None` if a signal ended it.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn code(&mut self) -> Option<i32> {
        let end = self.listen_for("it ends", |_| None::<()>);
        debug_assert!(end.is_none());
        self.child.wait().ok().and_then(|status| status.code())
    }

    /// Asks it to stop (SIGTERM) and waits until it has; all that it said.
    ///
    /// # Panics
    /// If it does not stop in time.
    pub fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let end = self.listen_for("it ends when asked to", |_| None::<()>);
        debug_assert!(end.is_none());
        self.said()
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is just as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn follow(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut part) {
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&part[..n]);
        }
    })
}

/// A TCP port that nobody listened on a moment ago, for a program that cannot
/// let the system choose. It lies below those that the system hands out, so
/// that only another caller of this function can be faster; who uses it must
/// bear that.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Spread, so that test processes that run side by side differ.
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(997).wrapping_add(step) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("ports end at 65535");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// An address that nobody listens at, and that nobody else gets while this lives.
/// It is only bound: who connects is refused. A listener that is bound to it by
/// name gets it all the same.
#[derive(Debug)]
pub struct Silent {
    address: SocketAddr,
    // Held for the port.
    _socket: OwnedFd,
}

impl Silent {
    /// A port that the system chooses at this address.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn at(ip: Ipv4Addr) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        // As listeners of the standard library, with which it is to be shared.
        set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddr::from((ip, 0))).unwrap();
        let address = getsockname(&socket).unwrap().try_into().unwrap();
        Silent {
            address,
            _socket: socket,
        }
    }

    /// Where nobody listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Python of the virtual environment that has the linter and the JSON Schema
/// validator: `$OOD_CA_TEST_VENV`, or `venv` in the target directory.
///
/// # Panics
/// If there is none or it lacks `module`, with what makes one.
#[must_use]
pub fn python_with(module: &str) -> PathBuf {
    let venv = std::env::var_os("OOD_CA_TEST_VENV").map_or_else(venv_in_target, PathBuf::from);
    let python = venv.join("bin/python");
    let has = super::Run::new(&python);
    assert!(
        python.exists()
            && has
                .args(["-c", &format!("import {module}")])
                .output()
                .status
                .success(),
        "this test needs the Python module `{module}` in {venv}; make it with: \
         python3 -m venv {venv} && {venv}/bin/pip install pkilint jsonschema websockets \
         (or name another environment in OOD_CA_TEST_VENV)",
        venv = venv.display(),
    );
    python
}

fn venv_in_target() -> PathBuf {
    // ood-ca is <target>/<profile>/ood-ca.
    let target = super::ood_ca()
        .ancestors()
        .nth(2)
        .expect("the target directory is known");
    target.join("venv")
}
