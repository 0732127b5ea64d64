//! The nginx locations of a user.

use std::path::{Path, PathBuf};

use ca_core::{SiteConfig, UserName, current_user_name};
use pun_helper::facts::{HostFacts, UserPaths};
use pun_helper::names::NginxVersion;
use pun_helper::root;

use crate::buffer::{Buffer, BufferBody};
use crate::error::{Error, Result};
use crate::handle::boundary;
use crate::input::{self, MAX_NAME, MAX_PATH, Versioned};
use crate::macros::{options, place};
use crate::status::Status;
use crate::text::{Str, Texts};

/// Whose locations, for which nginx.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RenderOptions {
    /// `sizeof(ood_ca_render_options)`.
    pub size: usize,
    /// The version of the nginx that will read it: `1.22.1`, or the whole line that
    /// `nginx -v` prints. Must be given: this library runs no other program.
    pub nginx_version: Str,
    /// Whose. Empty: the user who calls.
    pub user: Str,
    /// Their home directory. Empty: what the passwd database says.
    pub home: Str,
    /// The site's settings, as for `ood_ca_open_options`.
    pub config: Str,
    /// Where to read the name servers from. Empty: `/etc/resolv.conf`.
    pub resolv_conf: Str,
}

// SAFETY: `repr(C)`, begins with `size`, holds only integers and raw pointers.
unsafe impl Versioned for RenderOptions {
    const FIRST: usize = 88;
}

/// The options, checked.
struct Asked<'a> {
    nginx: NginxVersion,
    user: UserName,
    home: PathBuf,
    config: &'a str,
    resolv_conf: &'a str,
}

impl Asked<'_> {
    /// # Safety
    /// The texts in `options` can be read for as long as this lives.
    unsafe fn new(options: &RenderOptions) -> Result<Self> {
        // SAFETY: the caller's promise.
        let nginx = unsafe { input::text(options.nginx_version, "nginx_version", MAX_NAME) }?;
        // SAFETY: the caller's promise.
        let user = unsafe { input::text(options.user, "user", MAX_NAME) }?;
        // SAFETY: the caller's promise.
        let home = unsafe { input::text(options.home, "home", MAX_PATH) }?;
        // SAFETY: the caller's promise.
        let config = unsafe { input::text(options.config, "config", MAX_PATH) }?;
        // SAFETY: the caller's promise.
        let resolv_conf = unsafe { input::text(options.resolv_conf, "resolv_conf", MAX_PATH) }?;
        let user = match user {
            "" => current_user_name(),
            user => UserName::parse(user)?,
        };
        let home = match home {
            "" => root::home_of(&user)?,
            home => home.into(),
        };
        let nginx = match nginx.contains('/') {
            true => NginxVersion::from_binary_output(nginx)?,
            false => NginxVersion::parse(nginx)?,
        };
        Ok(Asked {
            nginx,
            user,
            home,
            config,
            resolv_conf,
        })
    }
}

/// Renders the nginx locations through which a user's web server reaches that
/// user's jobs. They are to be installed by root (`pun-helper hook` does so); this
/// is for showing and comparing. Free the buffer with `ood_ca_buffer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ood_ca_render(
    options: *const RenderOptions,
    snippet: *mut *mut Buffer,
    error: *mut *mut Error,
) -> Status {
    let body = || {
        let snippet = place!(snippet);
        let options = options!(options);
        // SAFETY: the caller's promise.
        let asked = unsafe { Asked::new(&options) }?;
        snippet.fill(render(&asked)?);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { boundary(error, body) }
}

fn render(asked: &Asked<'_>) -> Result<BufferBody> {
    let named = |path: &'_ str| (!path.is_empty()).then(|| PathBuf::from(path));
    let site = SiteConfig::load(named(asked.config).as_deref())?;
    let facts = HostFacts::gather(site, named(asked.resolv_conf).as_deref())?;
    let paths = UserPaths::new(&facts.site, &asked.user, Path::new(&asked.home))?;
    let snippet = facts.render(&paths, asked.nginx)?;
    let warnings = facts.resolver.iter().flat_map(|plan| &plan.warnings);
    Ok(BufferBody::new(snippet.as_str(), Texts::new(warnings)))
}
