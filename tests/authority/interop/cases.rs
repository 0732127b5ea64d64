//! The rows of the matrix.

use std::path::{Path, PathBuf};

use ca_core::LeafRequest;
use time::Duration;

use super::certificates::{HOST, Leaf, Rotated, Setting, World, server_request};

/// What should come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Accept,
    Refuse(Reason),
}

/// Why a leaf is to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its extended key usage is for the other end of a connection.
    Purpose,
    /// Nobody trusted signed it.
    UnknownIssuer,
    /// It says that somebody trusted signed it, who has not.
    Forged,
    Expired,
    NotYetValid,
    WrongHost,
    WrongAddress,
    /// What signed it is no authority.
    NotAnAuthority,
    /// Its authority may not sign for that name or address.
    OutsideConstraints,
}

/// Which end of the connection shows the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// Whom the verifying end wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Host(String),
    Address(String),
}

impl Peer {
    pub(super) fn of(text: &str) -> Self {
        match text.parse::<std::net::IpAddr>() {
            Ok(_) => Peer::Address(text.into()),
            Err(_) => Peer::Host(text.into()),
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Peer::Host(text) | Peer::Address(text) => text,
        }
    }
}

/// One row: a leaf, who is asked to trust it, as what.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) leaf: Leaf,
    /// What the leaf's certificate file holds behind the leaf, if anything.
    pub(super) intermediate: Option<PathBuf>,
    pub(super) role: Role,
    /// The trust bundle of the end that verifies.
    pub(super) trust: PathBuf,
    /// Whom a verifying client wants to reach.
    pub(super) peer: Peer,
    pub(super) expect: Expect,
    /// The other end of a handshake, with which nothing is wrong.
    pub(super) other: Other,
}

/// The end that verifies, as the end that is verified sees it.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) leaf: Leaf,
    pub(super) trust: PathBuf,
    pub(super) peer: Peer,
}

impl Case {
    /// A case without certificates, to test the table with.
    pub(super) fn for_the_table_itself(name: &str, expect: Expect) -> Self {
        let leaf = Leaf {
            cert: PathBuf::new(),
            key: PathBuf::new(),
        };
        let peer = Peer::of(HOST);
        let other = Other {
            leaf: leaf.clone(),
            trust: PathBuf::new(),
            peer: peer.clone(),
        };
        Case {
            name: name.into(),
            leaf,
            intermediate: None,
            role: Role::Server,
            trust: PathBuf::new(),
            peer,
            expect,
            other,
        }
    }
}

/// Collects the rows about one authority.
struct Rows<'a> {
    about: &'a str,
    trust: &'a Path,
    server: Leaf,
    client: Leaf,
    /// What trusts `server` and `client`.
    counter_trust: &'a Path,
    rows: Vec<Case>,
}

impl Rows<'_> {
    fn add(
        &mut self,
        name: &str,
        leaf: &Leaf,
        role: Role,
        peer: &str,
        expect: Expect,
    ) -> &mut Case {
        let other = match role {
            Role::Server => self.client.clone(),
            Role::Client => self.server.clone(),
        };
        self.rows.push(Case {
            name: format!("{}: {name}", self.about),
            leaf: leaf.clone(),
            intermediate: None,
            role,
            trust: self.trust.to_owned(),
            peer: Peer::of(peer),
            expect,
            other: Other {
                leaf: other,
                trust: self.counter_trust.to_owned(),
                peer: Peer::of(HOST),
            },
        });
        self.rows.last_mut().expect("just pushed")
    }

    fn server(&mut self, name: &str, leaf: &Leaf, peer: &str, expect: Expect) -> &mut Case {
        self.add(name, leaf, Role::Server, peer, expect)
    }

    fn client(&mut self, name: &str, leaf: &Leaf, expect: Expect) -> &mut Case {
        self.add(name, leaf, Role::Client, HOST, expect)
    }
}

use Expect::{Accept, Refuse};

pub(super) fn all_cases(setting: &Setting) -> Vec<Case> {
    let mut cases = Vec::new();
    for world in &setting.worlds {
        cases.extend(cases_of(setting, world));
    }
    cases.extend(rotation_cases(
        "rotated",
        &setting.rotation(&["--retire", "--force"]),
    ));
    cases.extend(rotation_cases(
        "rotated in an emergency",
        &setting.rotation(&["--emergency"]),
    ));
    cases
}

fn cases_of(setting: &Setting, world: &World) -> Vec<Case> {
    let now = setting.now();
    let server = world.server("server", now);
    let client = world.client("client", "alice", now);
    let mut rows = Rows {
        about: world.name,
        trust: &world.trust,
        server: server.clone(),
        client: client.clone(),
        counter_trust: &world.trust,
        rows: Vec::new(),
    };

    // The kinds of leaf, as what they are.
    rows.server("a server leaf by its name", &server, HOST, Accept);
    rows.server(
        "a server leaf by its IPv4 address", &server, "10.0.0.5", Accept,
    );
    rows.server(
        "a server leaf by the name of its IPv4 address",
        &server,
        "10-0-0-5.ip.ood.internal",
        Accept,
    );
    rows.server(
        "a server leaf by its IPv6 address", &server, "fd00::5", Accept,
    );
    rows.client("a client leaf", &client, Accept);
    for user in [
        "alice.smith",
        "a_b.c-d",
        "alice@uni.example",
        "uid-4242",
        &"a".repeat(64),
    ] {
        let leaf = world.client(
            &format!("client-{}", user.replace(['@', '.'], "-")),
            user,
            now,
        );
        rows.client(&format!("a client leaf of {user}"), &leaf, Accept);
    }

    // By other hosts.
    rows.server(
        "a server leaf by another name",
        &server,
        "n002.cluster.example",
        Refuse(Reason::WrongHost),
    );
    rows.server(
        "a server leaf by its short name",
        &server,
        "n001",
        Refuse(Reason::WrongHost),
    );
    rows.server(
        "a server leaf by the name for any host",
        &server,
        "server.ood.internal",
        Refuse(Reason::WrongHost),
    );
    rows.server(
        "a server leaf by the name of another address",
        &server,
        "10-0-0-6.ip.ood.internal",
        Refuse(Reason::WrongHost),
    );
    rows.server(
        "a server leaf by another IPv4 address",
        &server,
        "10.0.0.6",
        Refuse(Reason::WrongAddress),
    );
    rows.server(
        "a server leaf by another IPv6 address",
        &server,
        "fd00::6",
        Refuse(Reason::WrongAddress),
    );

    let any = world.issue("any-host", &LeafRequest::any_host(), now);
    rows.server(
        "an any-host leaf by the name for any host",
        &any,
        "server.ood.internal",
        Accept,
    );
    rows.server(
        "an any-host leaf by a host's name",
        &any,
        HOST,
        Refuse(Reason::WrongHost),
    );

    let address = world.issue("v6-only", &server_request(&[], &["fd00::7"]), now);
    rows.server(
        "a leaf for an IPv6 address only", &address, "fd00::7", Accept,
    );
    rows.server(
        "a leaf for an IPv6 address only by another",
        &address,
        "fd00::8",
        Refuse(Reason::WrongAddress),
    );

    let wildcard = world.issue(
        "wildcard",
        &server_request(&["*.cluster.example"], &[]),
        now,
    );
    rows.server(
        "a wildcard leaf by a name below it", &wildcard, "n007.cluster.example", Accept,
    );
    rows.server(
        "a wildcard leaf by its domain",
        &wildcard,
        "cluster.example",
        Refuse(Reason::WrongHost),
    );
    rows.server(
        "a wildcard leaf two labels below it",
        &wildcard,
        "a.b.cluster.example",
        Refuse(Reason::WrongHost),
    );

    for key_type in ["p256", "ed25519"] {
        let leaf = setting.certified(world, key_type);
        rows.server(
            &format!("a leaf for OpenSSL's {key_type} key"),
            &leaf,
            HOST,
            Accept,
        );
        rows.server(
            &format!("a leaf for OpenSSL's {key_type} key by the name its request asked for"),
            &leaf,
            "evil.cluster.example",
            Refuse(Reason::WrongHost),
        );
        rows.client(
            &format!("a leaf for OpenSSL's {key_type} key: a server leaf is no client"),
            &leaf,
            Refuse(Reason::Purpose),
        );
    }

    // As what they are not.
    rows.client(
        "a server leaf is no client",
        &server,
        Refuse(Reason::Purpose),
    );
    rows.server(
        "a client leaf is no server",
        &client,
        HOST,
        Refuse(Reason::Purpose),
    );

    // At other times.
    let (past, future) = (now - Duration::days(40), now + Duration::days(20));
    rows.server(
        "an expired server leaf",
        &world.server("expired", past),
        HOST,
        Refuse(Reason::Expired),
    );
    rows.client(
        "an expired client leaf",
        &world.client("expired-client", "alice", past),
        Refuse(Reason::Expired),
    );
    rows.server(
        "a server leaf not yet valid",
        &world.server("early", future),
        HOST,
        Refuse(Reason::NotYetValid),
    );
    rows.client(
        "a client leaf not yet valid",
        &world.client("early-client", "alice", future),
        Refuse(Reason::NotYetValid),
    );

    // By others.
    let stranger = setting.another_user();
    let unknown = Refuse(Reason::UnknownIssuer);
    rows.server(
        "another user's server leaf",
        &stranger.server("server", now),
        HOST,
        unknown,
    );
    rows.client(
        "another user's client leaf",
        &stranger.client("client", "alice", now),
        unknown,
    );
    let forged = world.signed_by_an_impostor("forged");
    rows.server(
        "a leaf by somebody of the authority's name",
        &forged,
        HOST,
        Refuse(Reason::Forged),
    );
    let below = world.signed_by_a_leaf("below", &server);
    rows.server(
        "a leaf that a leaf signed",
        &below,
        HOST,
        Refuse(Reason::NotAnAuthority),
    )
    .intermediate = Some(server.cert.clone());

    if world.constrained {
        let outside = world.signed_with_the_stolen_key("outside", "www.elsewhere.example");
        rows.server(
            "a leaf outside its authority's constraints",
            &outside,
            "www.elsewhere.example",
            Refuse(Reason::OutsideConstraints),
        );
    } else {
        let odd = world.signed_with_the_stolen_key("anywhere", "www.elsewhere.example");
        rows.server(
            "a leaf of an authority without constraints",
            &odd,
            "www.elsewhere.example",
            Accept,
        );
    }
    rows.rows
}

fn rotation_cases(about: &str, rotated: &Rotated) -> Vec<Case> {
    let mut all = Vec::new();
    let during = rotated
        .phases
        .iter()
        .map(|(phase, trust)| (*phase, trust, Accept));
    let after = ("over", &rotated.over, Refuse(Reason::UnknownIssuer));
    for (phase, trust, old) in during.chain([after]) {
        // New leaves stand on both sides of a verdict on an old one.
        let mut rows = Rows {
            about,
            trust,
            server: rotated.new_server.clone(),
            client: rotated.new_client.clone(),
            counter_trust: &rotated.over,
            rows: Vec::new(),
        };
        rows.server(
            &format!("{phase}: the old server leaf"),
            &rotated.old_server,
            HOST,
            old,
        );
        rows.client(
            &format!("{phase}: the old client leaf"),
            &rotated.old_client,
            old,
        );
        rows.server(
            &format!("{phase}: the new server leaf"),
            &rotated.new_server,
            HOST,
            Accept,
        );
        rows.client(
            &format!("{phase}: the new client leaf"),
            &rotated.new_client,
            Accept,
        );
        all.append(&mut rows.rows);
    }
    all
}
