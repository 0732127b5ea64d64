//! What is read and written in the user's home while the app runs. A file server
//! may hang at any moment, so all of it happens on threads of its own: who hears
//! signals and sees the app's end never waits for it.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::{Authority, Certificate, PeerName, now};
use ood_relay::{Identity, Ingress, IngressOptions, TrustSource};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::node::Node;
use crate::publish::{Claim, Connection};
use crate::run::{Notice, RunRequest, forget, known_to_run, program_name};
use crate::scheduler::{self, Job};
use crate::sessions::{Holder, JobId, Record, Registry};
use crate::supervise::Backend;

/// Does something that may take long, or for ever, without keeping anybody else.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let panicked = || std::io::Error::other("it panicked");
    let done = ood_relay::apart(work).await;
    done.ok_or_else(|| Error::system("use your home directory", panicked()))
}

/// The certificate that answers, and when it must be replaced.
pub(crate) struct Leaf {
    pub(crate) certificate: Certificate,
    pub(crate) renew_at: OffsetDateTime,
    authority: Authority,
}

/// What was found when the certificate was looked at.
pub(crate) struct Looked {
    /// A new one, if it was time.
    pub(crate) fresh: Option<(Leaf, Identity)>,
    /// Whether the session is registered, if that was tried.
    pub(crate) registered: Option<Result<()>>,
}

/// How far the home tells of the app. Held while something is told or taken away: the
/// app may end while a slow home is still being told of it.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// On the file to publish in, from when that tells of the app.
    claim: Option<Claim>,
    /// From then on nothing is told any more.
    over: bool,
}

/// What a session keeps in the home.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) request: Arc<RunRequest>,
    pub(crate) node: Node,
    pub(crate) job: Option<Job>,
    pub(crate) registry: Registry,
    pub(crate) connection: Connection,
    pub(crate) telling: Arc<Mutex<Telling>>,
    pub(crate) notice: Arc<dyn Fn(Notice) + Send + Sync>,
}

impl Home {
    /// A leaf for this node whose key exists in this process's memory only.
    pub(crate) fn mint(&self) -> Result<(Leaf, Identity)> {
        let at = now();
        let before = self.request.pki.path().exists();
        let authority = Authority::ensure(&self.request.pki, &self.request.site, at)?;
        if !before {
            let place = self.request.pki.path();
            (self.notice)(Notice::NewAuthority(place));
        }
        let host = PeerName::parse(&self.connection.host)?;
        if !authority.permits(&host) {
            (self.notice)(Notice::Degraded(format!(
                "your authority may not sign for {host}, so the portal will refuse this app under that name; see: ood-ca show"
            )));
        }
        let ttl = scheduler::leaf_lifetime(self.job.as_ref(), &self.request.site, at);
        let issued = authority.issue(&self.node.leaf(&authority, ttl)?, at)?;
        for notice in &issued.notices {
            (self.notice)(Notice::Degraded(notice.to_string()));
        }
        let certificate = issued.certificate.clone();
        let life = certificate.not_after() - at;
        let leaf = Leaf {
            // A fifth of its life is left then, give or take, so that jobs that
            // started together do not renew together.
            renew_at: at + life * (4_f64 / 5.0 - jitter()? / 20.0),
            certificate,
            authority,
        };
        Ok((leaf, Identity::from_issued(issued)?))
    }

    /// The TLS end, which trusts whom the home's directory says.
    pub(crate) fn open(
        &self,
        listener: TcpListener,
        backend: Backend,
        options: IngressOptions,
    ) -> Result<(Leaf, Ingress)> {
        let (leaf, identity) = self.mint()?;
        let trust = TrustSource::pki_dir(self.request.pki.clone());
        let ingress = Ingress::new(listener, identity, trust, backend, options)?;
        Ok((leaf, ingress))
    }

    /// Tells the portal; whether the session is registered. Without that it is
    /// reached all the same, unless the site requires it.
    pub(crate) fn publish(&self, expires: OffsetDateTime) -> Result<bool> {
        let mut telling = self.telling();
        if telling.over {
            return Ok(false);
        }
        let registered = match self.register(expires) {
            Err(error) if self.request.site.require_registration => return Err(error),
            Err(error) => {
                (self.notice)(Notice::Degraded(format!(
                    "the session is not registered: {error}"
                )));
                false
            }
            Ok(()) => true,
        };
        if let Some(file) = &self.request.publish {
            let runs = |session: &str| known_to_run(&self.registry, session);
            telling.claim = Some(file.claim(&self.connection, runs)?);
        }
        Ok(registered)
    }

    fn telling(&self) -> MutexGuard<'_, Telling> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, expires: OffsetDateTime) -> Result<()> {
        let record = Record {
            session: self.connection.session.clone(),
            host: self.connection.host.clone(),
            port: self.connection.port,
            holder: Some(Holder::this()?),
            job: self.job.as_ref().map(JobId::from),
            created: now(),
            expires,
            command: program_name(&self.request.command),
        };
        self.registry
            .register(&record, &self.node.registered_names())
    }

    /// A new leaf when the old one's time is nearly over, or when the authority
    /// that signed it has been replaced. `register`: also if there is none.
    pub(crate) fn look(&self, leaf: &Leaf, told: bool, registered: bool) -> Result<Looked> {
        let replaced = !leaf.authority.is_current().unwrap_or(true);
        let due = now() >= leaf.renew_at || replaced;
        let fresh = if due { Some(self.mint()?) } else { None };
        let expires = fresh.as_ref().map_or(leaf, |(leaf, _)| leaf);
        let expires = expires.certificate.not_after();
        let wanted = told && (due || !registered);
        let telling = self.telling();
        let wanted = wanted && !telling.over;
        Ok(Looked {
            fresh,
            registered: wanted.then(|| self.register(expires)),
        })
    }

    /// Takes away what tells of the app.
    pub(crate) fn forget(&self) {
        let mut telling = self.telling();
        telling.over = true;
        drop(telling.claim.take());
        forget(
            &self.registry,
            &self.node,
            self.request.publish.as_ref(),
            &self.connection,
        );
    }
}

/// From 0 to 1.
fn jitter() -> Result<f64> {
    Ok(f64::from(u32::from_ne_bytes(crate::random::<4>()?)) / f64::from(u32::MAX))
}
