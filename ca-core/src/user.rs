//! Who is asking.

use crate::names::UserName;

/// The login name of the effective user, from the passwd database; `uid-1000`
/// where that knows none that may stand in a certificate. Never from `$USER`.
#[must_use]
pub fn current_user_name() -> UserName {
    let uid = nix::unistd::geteuid();
    nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .and_then(|user| UserName::parse(&user.name).ok())
        .unwrap_or_else(|| UserName::from_uid(uid.as_raw()))
}
