//! Whether what a record names is still there, as far as this node can tell.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use time::OffsetDateTime;

use super::record::Record;
use crate::processes::{Seen, Stat};

/// Whether what a record names is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may well be: nothing is known against it.
    Live,
    /// Its time is over.
    Expired,
    /// Its process has ended.
    ProcessGone,
    /// Its node was restarted.
    Restarted,
    /// The batch system knows its job no longer.
    JobGone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Live => "live",
            State::Expired => "expired",
            State::ProcessGone => "process-gone",
            State::Restarted => "node-restarted",
            State::JobGone => "job-gone",
        })
    }
}

/// From where records are judged.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) node: String,
    pub(super) boot_id: String,
    pub(super) pid_namespace: String,
    pub(super) cards: Vec<String>,
}

impl Here {
    pub(super) fn look() -> Self {
        let node = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let pids = std::fs::read_link("/proc/self/ns/pid");
        Here {
            node,
            boot_id: boot.unwrap_or_default().trim().to_owned(),
            pid_namespace: pids.unwrap_or_default().to_string_lossy().into_owned(),
            cards: cards(Path::new("/sys/class/net")),
        }
    }
}

/// The addresses that the makers of this node's network cards gave them. No other
/// node has them, which cannot be said of names (`localhost`) nor of the machine-id,
/// which a cluster's image may bring; and they stay when the node is restarted.
fn cards(class: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(class).into_iter().flatten();
    let address = |entry: std::io::Result<std::fs::DirEntry>| {
        let interface = entry.ok()?.path();
        let read = |name| std::fs::read_to_string(interface.join(name)).ok();
        // Ethernet, of a device: what software makes has none.
        if read("type")?.trim() != "1" || !interface.join("device").exists() {
            return None;
        }
        let address = read("address")?.trim().to_owned();
        let first = u8::from_str_radix(address.get(..2)?, 16).ok()?;
        // The second bit: chosen by whoever set it up, and perhaps everywhere the same.
        (first & 2 == 0 && address != "00:00:00:00:00:00").then_some(address)
    };
    let all: BTreeSet<String> = entries.filter_map(address).collect();
    all.into_iter().collect()
}

/// Whether the record's process is seen to run, on this node: what nothing is known
/// against may have ended all the same.
pub(crate) fn runs_here(record: &Record) -> bool {
    let here = Here::look();
    record.holder.as_ref().is_some_and(|holder| {
        let comparable = holder.node == here.node
            && holder.boot_id == here.boot_id
            && holder.pid_namespace == here.pid_namespace;
        let same = |stat: &Stat| stat.start_time == holder.start_time && !stat.is_zombie;
        comparable && matches!(Seen::of(holder.pid), Seen::There(stat) if same(&stat))
    })
}

/// What is known of it, at this time.
pub(super) fn judge(record: &Record, here: &Here, now: OffsetDateTime) -> State {
    if let Some(holder) = record.holder.as_ref().filter(|h| h.node == here.node) {
        if holder.boot_id != here.boot_id {
            // Restarted, or another node of this name, where it may be at work.
            if !here.cards.is_empty() && holder.cards == here.cards {
                return State::Restarted;
            }
        } else if holder.pid_namespace == here.pid_namespace {
            // A process of another namespace, such as a container, has a number
            // that means nothing here.
            let same = |stat: &Stat| stat.start_time == holder.start_time && !stat.is_zombie;
            match Seen::of(holder.pid) {
                Seen::There(stat) if same(&stat) => return State::Live,
                Seen::There(_) | Seen::Gone => return State::ProcessGone,
                // It holds a key, so nobody can look into it, and this node shows
                // nobody what they cannot look into.
                Seen::Hidden => {}
            }
        }
    }
    if record.expires <= now {
        State::Expired
    } else {
        State::Live
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sessions::Holder;
    use crate::sessions::samples::{NOW, record};
    use time::Duration;

    #[test]
    fn a_node_of_the_same_name_is_not_taken_for_this_one_restarted() {
        let here = Here {
            cards: vec!["00:25:90:00:00:01".into(), "00:25:90:00:00:02".into()],
            ..Here::look()
        };
        let judged = |boot: &str, cards: &[&str], at| {
            let mut record = record("a");
            let holder = record.holder.as_mut().unwrap();
            holder.boot_id = boot.into();
            holder.cards = cards.iter().map(ToString::to_string).collect();
            judge(&record, &here, at)
        };
        let ours: Vec<&str> = here.cards.iter().map(String::as_str).collect();
        assert_eq!(judged("before", &ours, NOW), State::Restarted);
        let others: [&[&str]; 3] = [&[], &ours[..1], &["00:25:90:00:00:09"]];
        for cards in others {
            assert_eq!(judged("another", cards, NOW), State::Live, "{cards:?}");
            let later = NOW + Duration::hours(2);
            assert_eq!(judged("another", cards, later), State::Expired);
        }
        // Where nothing tells this node from others, nothing says that it is the one.
        let nameless = Here {
            cards: Vec::new(),
            ..here.clone()
        };
        let mut before = record("a");
        let holder = before.holder.as_mut().unwrap();
        (holder.boot_id, holder.cards) = ("before".into(), Vec::new());
        assert_eq!(judge(&before, &nameless, NOW), State::Live);
        // A record from before there were any.
        let mut value = serde_json::to_value(&before).unwrap();
        value["holder"].as_object_mut().unwrap().remove("cards");
        assert_eq!(serde_json::from_value::<Record>(value).unwrap(), before);
    }

    #[test]
    fn only_what_is_seen_to_run_is_said_to() {
        let running = record("a");
        assert!(runs_here(&running));
        for change in [
            |holder: &mut Holder| holder.node = "n2".into(),
            |holder: &mut Holder| holder.boot_id = "before".into(),
            |holder: &mut Holder| holder.pid_namespace = "another".into(),
            |holder: &mut Holder| holder.start_time += 1,
        ] {
            let mut other = running.clone();
            change(other.holder.as_mut().unwrap());
            assert!(!runs_here(&other), "{other:?}");
        }
    }

    #[test]
    fn only_addresses_that_a_maker_gave_name_the_node() {
        let class = tempfile::tempdir().unwrap();
        for (name, kind, address, device) in [
            ("eth1", "1", "ac:1f:6b:00:00:02", true),
            ("eth0", "1", "ac:1f:6b:00:00:01", true),
            ("lo", "772", "00:00:00:00:00:00", false),
            ("ib0", "32", "80:00:02:08", true),
            ("docker0", "1", "02:42:ac:11:00:02", false),
            ("bond0", "1", "ac:1f:6b:00:00:01", false),
            ("usb0", "1", "be:3a:f2:b6:05:9f", true),
            ("down", "1", "00:00:00:00:00:00", true),
        ] {
            let interface = class.path().join(name);
            std::fs::create_dir(&interface).unwrap();
            std::fs::write(interface.join("type"), format!("{kind}\n")).unwrap();
            std::fs::write(interface.join("address"), format!("{address}\n")).unwrap();
            if device {
                std::fs::create_dir(interface.join("device")).unwrap();
            }
        }
        assert_eq!(
            cards(class.path()),
            ["ac:1f:6b:00:00:01", "ac:1f:6b:00:00:02"]
        );
        assert_eq!(cards(&class.path().join("none")), [""; 0]);
    }
}
