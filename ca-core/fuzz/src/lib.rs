//! What the fuzz targets share: an authority in memory, and what holds of
//! every leaf it makes and of every error.

use std::sync::OnceLock;

use ca_core::{Authority, Certificate, Error, Issued, LeafRequest, PkiLocation, SiteConfig, now};

/// Signs a request; the leaf must read back as what it was made to be.
///
/// # Panics
/// If it does not.
pub fn mint(request: &LeafRequest) -> Result<Issued, Error> {
    let issued = authority().mint(request, now())?;
    let leaf = &issued.certificate;
    assert_eq!(&Certificate::from_der(leaf.der()).unwrap(), leaf);
    issued
        .trust
        .verify(leaf, request.purpose(), None, now())
        .unwrap();
    Ok(issued)
}

/// One authority for the whole run. Its files are gone once it is open, so a
/// crash leaves nothing behind.
fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let location = PkiLocation::at(dir.path().join("pki")).unwrap();
        Authority::ensure(&location, &SiteConfig::default(), now()).unwrap()
    })
}

/// Whatever the input was, an error is one line that a terminal shows as it is.
///
/// # Panics
/// If it is not.
pub fn check_error(error: &Error) {
    let hint = error.hint().unwrap_or_default();
    for text in [error.to_string(), hint] {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
