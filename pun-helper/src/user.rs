//! The part of the hook that has become the user: everything in the home
//! directory is done here, with the user's rights and no others.
//!
//! It is a process of its own ([`crate::root`] starts it and drops its rights
//! before any line of this file runs) and answers what root asks through two
//! pipes. Where the home directory hangs, this process hangs; root goes on.

use std::io::{Read, Write};
use std::path::PathBuf;

use ca_core::{
    Authority, ClientLeaf, Error, HostName, IssuedRecord, PkiLocation, Result, SiteConfig,
    TrustBundle, WebHosts, doctor, now,
};

use crate::wire::{self, Answer, Ask, Failure, Finding};

/// Whose authority it is about.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// The PKI directory.
    pub(crate) pki_dir: PathBuf,
    /// What this web host is called in `webhosts/`, if it has a name at all.
    pub(crate) web_host: Option<HostName>,
    /// The site's configuration, if it is not in the usual place.
    pub(crate) config: Option<PathBuf>,
}

/// Gets authority and client leaf ready, then answers until root has no more
/// questions.
pub(crate) fn serve(task: &Task, from: &mut impl Read, to: &mut impl Write) {
    let opened = Room::open(task);
    let first = match &opened {
        Ok((_, notices)) => Answer::Ready {
            notices: notices.clone(),
        },
        Err(error) => Answer::Failed(Failure::from(error)),
    };
    // Root is gone or does not listen: there is nobody left to tell.
    if wire::send(to, &first.encode()).is_err() {
        return;
    }
    let Ok((room, _)) = opened else { return };
    while let Ok(Some(message)) = wire::receive(from) {
        let answered = match Ask::decode(&message) {
            Some(Ask::Trust) => room.trust(),
            Some(Ask::Examine) => Ok(room.examine()),
            Some(Ask::Record(pem)) => room.record(&pem, task.web_host.as_ref()),
            None => return,
        };
        let answer = answered.unwrap_or_else(|error| Answer::Failed(Failure::from(&error)));
        if wire::send(to, &answer.encode()).is_err() {
            return;
        }
    }
}

/// The PKI directory, ready to be asked about.
struct Room {
    location: PkiLocation,
    site: SiteConfig,
}

impl Room {
    fn open(task: &Task) -> Result<(Self, Vec<String>)> {
        let site = SiteConfig::load(task.config.as_deref())?;
        let location = PkiLocation::at(&task.pki_dir)?;
        let authority = Authority::ensure(&location, &site, now())?;
        let notices = renew(&authority);
        Ok((Room { location, site }, notices))
    }

    /// Read anew: while this process waited for root's lock, a rotation may
    /// have gone on.
    fn trust(&self) -> Result<Answer> {
        let authority = Authority::open(&self.location, &self.site, now())?;
        Ok(Answer::Trust(authority.trust().to_pem().into_bytes()))
    }

    fn examine(&self) -> Answer {
        let findings = doctor::examine(&self.location, now())
            .into_iter()
            .map(|check| Finding {
                verdict: check.verdict.to_string(),
                name: check.name.into(),
                detail: check.detail,
                fix: check.fix.unwrap_or_default(),
            });
        Answer::Examined(findings.collect())
    }

    /// Where it says so already nothing is written: a home directory without
    /// room, or read-only, is then no trouble.
    fn record(&self, pem: &[u8], web_host: Option<&HostName>) -> Result<Answer> {
        let loaded = TrustBundle::from_pem(pem)?;
        let web_host = web_host.ok_or(Error::BadRequest {
            why: "what this PUN loads cannot be recorded: the web host has no name".into(),
            hint: "set web_host in ood_ca.yml",
        })?;
        let known = WebHosts::read(&self.location)?;
        let same = known
            .iter()
            .any(|host| host.name == *web_host && host.authorities == loaded.fingerprints());
        if !same {
            WebHosts::record(&self.location, web_host, &loaded)?;
        }
        Ok(Answer::Recorded)
    }
}

/// Renews the client leaf if it is due. A leaf that could not be renewed may
/// serve for days yet, and one that does not costs a page that says so: no
/// reason to leave the user without a trust bundle.
fn renew(authority: &Authority) -> Vec<String> {
    let location = authority.location();
    let due = match ClientLeaf::examine(location, now()) {
        Ok(leaf) => leaf.due,
        Err(error) => return vec![format!("the client leaf cannot be used: {error}")],
    };
    if !due.is_due() {
        return Vec::new();
    }
    let issued = match authority.renew_client(now()) {
        Ok(issued) => issued,
        Err(error) => return vec![format!("the client leaf was not renewed ({due}): {error}")],
    };
    let mut notices = vec![format!("client leaf renewed ({due})")];
    notices.extend(issued.notices.iter().map(ToString::to_string));
    // Once a month is enough, and it is no failure if it cannot be done.
    if let Err(error) = IssuedRecord::prune(location, now()) {
        notices.push(format!("the record was not cleaned up: {error}"));
    }
    notices
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn converse(task: &Task, asks: &[Ask]) -> Vec<Answer> {
        let questions: Vec<u8> = asks
            .iter()
            .flat_map(|ask| wire::framed(&ask.encode()).unwrap())
            .collect();
        let mut answers = Vec::new();
        serve(task, &mut questions.as_slice(), &mut answers);
        let mut rest = answers.as_slice();
        std::iter::from_fn(|| wire::receive(&mut rest).unwrap())
            .map(|message| Answer::decode(&message).unwrap())
            .collect()
    }

    fn task(home: &std::path::Path) -> Task {
        let config = home.join("ood_ca.yml");
        std::fs::write(&config, "").unwrap();
        Task {
            pki_dir: home.join(".ood/pki"),
            web_host: Some(HostName::parse("web1").unwrap()),
            config: Some(config),
        }
    }

    #[test]
    fn a_first_visit_makes_the_authority_and_records_what_is_loaded() {
        let home = tempfile::tempdir().unwrap();
        let task = task(home.path());
        let answers = converse(&task, &[Ask::Trust]);
        let [Answer::Ready { .. }, Answer::Trust(pem)] = &answers[..] else {
            unreachable!("{answers:?}")
        };
        let bundle = TrustBundle::from_pem(pem).unwrap();
        let answers = converse(&task, &[Ask::Record(pem.clone()), Ask::Record(pem.clone())]);
        assert_eq!(answers[1..], [Answer::Recorded, Answer::Recorded]);
        let location = PkiLocation::at(&task.pki_dir).unwrap();
        let hosts = WebHosts::read(&location).unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].authorities, bundle.fingerprints());
    }

    #[test]
    fn a_link_in_the_way_is_a_lasting_failure() {
        let home = tempfile::tempdir().unwrap();
        let task = task(home.path());
        std::os::unix::fs::symlink("/etc", home.path().join(".ood")).unwrap();
        let answers = converse(&task, &[Ask::Trust]);
        let [Answer::Failed(failure)] = &answers[..] else {
            unreachable!("{answers:?}")
        };
        assert_eq!(failure.code, "unsafe-path");
        assert!(!failure.passing);
    }

    #[test]
    fn what_root_sends_is_checked_as_well() {
        let home = tempfile::tempdir().unwrap();
        let answers = converse(&task(home.path()), &[Ask::Record(b"nonsense".to_vec())]);
        assert!(matches!(&answers[1], Answer::Failed(f) if f.code == "bad-certificate"));
    }
}
