//! The PUNs that run on this web host, as the process table and the directory
//! of their process ids show them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::read::text_file;

/// What Open OnDemand calls the file with a PUN's process id.
const PID_FILE: &str = "passenger.pid";
/// What is read of it, in bytes.
const LONGEST_PID: u64 = 32;

/// A PUN that its directory tells of, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pun {
    /// The name of its directory: the user's.
    pub user: String,
    /// Its master process; `None` if the file names no process that is nginx.
    pub master: Option<u32>,
}

/// All PUNs that have a file with a process id below `run_dir`, by name.
///
/// # Errors
/// If the directory cannot be listed. One that does not exist has none.
pub fn list(run_dir: &Path) -> io::Result<Vec<Pun>> {
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut puns: Vec<Pun> = names.filter_map(|user| find(run_dir, &user)).collect();
    puns.sort_by(|a, b| a.user.cmp(&b.user));
    Ok(puns)
}

/// The PUN of a user, if there is a file with its process id.
#[must_use]
pub fn find(run_dir: &Path, user: &str) -> Option<Pun> {
    // The directory is Apache's: it may hold anything by that name.
    let text = text_file(&run_dir.join(user).join(PID_FILE), LONGEST_PID).ok()?;
    let pid = text.trim().parse::<u32>().ok().filter(|pid| *pid > 1);
    Some(Pun {
        user: user.to_owned(),
        master: pid.filter(|pid| is_nginx(*pid)),
    })
}

/// nginx changes its title, not its name.
fn is_nginx(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "nginx")
}

impl Pun {
    /// Whether the system knows no such user any more.
    #[must_use]
    pub fn user_is_gone(&self) -> bool {
        matches!(nix::unistd::User::from_name(&self.user), Ok(None))
    }

    /// The TCP connections to jobs that its workers hold open now. A PUN is
    /// reached through a Unix socket, so each of its TCP connections is one
    /// that it made; those to name servers do not count.
    ///
    /// # Errors
    /// If the process table cannot be read. Processes that end meanwhile are
    /// no error.
    pub fn connections(&self) -> io::Result<Vec<SocketAddr>> {
        let Some(master) = self.master else {
            return Ok(Vec::new());
        };
        // By socket: while others come and go the kernel's table may show one
        // twice.
        let mut found = BTreeMap::new();
        for pid in processes()?.filter(|pid| parent(*pid) == Some(master) && is_nginx(*pid)) {
            let sockets = sockets_of(pid)?;
            for table in ["tcp", "tcp6"] {
                // Each worker's own view: it may live in a network namespace.
                let text = fs::read_to_string(format!("/proc/{pid}/net/{table}"));
                let text = text.unwrap_or_default();
                let open = text.lines().skip(1).filter_map(Row::parse);
                let ours = open.filter(|row| row.is_open() && sockets.contains(&row.inode));
                let to_jobs = ours.filter(|row| row.peer.port() != DNS);
                found.extend(to_jobs.map(|row| (row.inode, row.peer)));
            }
        }
        Ok(found.into_values().collect())
    }
}

/// The port of name servers, which nginx asks by TCP when an answer is long.
const DNS: u16 = 53;

fn processes() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The parent, from `/proc/PID/stat`: the name in brackets may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The sockets that a process has open, by inode.
fn sockets_of(pid: u32) -> io::Result<HashSet<u64>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(e) => return Err(e),
    };
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        inode.parse().ok()
    };
    Ok(entries.flatten().filter_map(inode).collect())
}

/// A line of `/proc/net/tcp` or `tcp6`, see proc_net_tcp(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    peer: SocketAddr,
    state: u8,
    inode: u64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(Row {
            peer: address(words.get(2)?)?,
            state: u8::from_str_radix(words.get(3)?, 16).ok()?,
            inode: words.get(9)?.parse().ok()?,
        })
    }

    /// Being opened, open, or open still in one direction: ESTABLISHED,
    /// SYN_SENT, CLOSE_WAIT.
    fn is_open(self) -> bool {
        matches!(self.state, 1 | 2 | 8)
    }
}

/// `0100007F:1F90`: words of 32 bits in the byte order of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernels_table_is_understood() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let stream = TcpStream::connect(here).unwrap();
        let sockets = sockets_of(std::process::id()).unwrap();
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        let rows = table.lines().skip(1).filter_map(Row::parse);
        let mine: Vec<Row> = rows.filter(|r| r.peer == here && r.is_open()).collect();
        assert_eq!(mine.len(), 1);
        assert!(sockets.contains(&mine[0].inode));
        drop(stream);
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        // As x86 and ARM machines write them.
        if cfg!(target_endian = "little") {
            assert_eq!(
                address("0100007F:1F90").unwrap().to_string(),
                "127.0.0.1:8080"
            );
            let v6 = address(
                "B80D01200000000000000000010000 00:0035"
                    .replace(' ', "")
                    .as_str(),
            );
            assert_eq!(v6.unwrap().to_string(), "[2001:db8::1]:53");
        }
        for bad in [
            "", "0100007F", "0100007F:", "0100007F:12345", "01:02", "é:1",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_that_names_no_nginx_is_a_pun_that_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        for (user, pid) in [
            ("gone", "4194305\n".to_owned()),
            ("other", std::process::id().to_string()),
            ("init", "1".to_owned()),
            ("odd", "x".to_owned()),
        ] {
            fs::create_dir(dir.path().join(user)).unwrap();
            fs::write(dir.path().join(user).join(PID_FILE), pid).unwrap();
        }
        fs::create_dir(dir.path().join("none")).unwrap();
        let puns = list(dir.path()).unwrap();
        let users: Vec<&str> = puns.iter().map(|p| p.user.as_str()).collect();
        assert_eq!(users, ["gone", "init", "odd", "other"]);
        assert!(puns.iter().all(|p| p.master.is_none()));
        assert_eq!(list(&dir.path().join("missing")).unwrap(), []);
    }
}
