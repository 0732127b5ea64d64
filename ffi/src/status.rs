//! How a call ended, as a number.

/// How a call ended. The hundreds say what kind of thing went wrong; a number
/// is never used again for something else, so the gaps may be filled and what
/// is gone stays reserved. Expect numbers that are not listed here: a newer
/// library may have them.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It worked.
    Ok = 0,

    /// An argument that must not be NULL is NULL.
    NullArgument = 100,
    /// A handle is of another type, or was freed.
    BadHandle = 101,
    /// A text or a list is longer than it can sensibly be.
    TooLong = 102,
    /// A text is not UTF-8.
    NotUtf8 = 103,
    /// The `size` of a struct is not one that this library knows.
    BadSize = 104,
    /// A number, flag or pointer has a value without a meaning.
    BadValue = 105,
    /// There is nothing at this index.
    OutOfRange = 106,
    /// A host name, address or user name cannot be used.
    BadName = 110,
    /// A lifetime is too short or too long.
    BadTtl = 111,

    /// There is no authority in the PKI directory.
    NoAuthority = 200,
    /// A file or directory has an owner, mode or type that is not safe.
    UnsafePath = 201,
    /// The operating system refused an operation.
    Io = 202,
    /// Space or quota has run out.
    NoSpace = 203,
    /// The site's configuration is wrong.
    Config = 204,
    /// The user's home directory is not known.
    NoHome = 205,
    /// A file of the PKI directory is not the certificate it should be.
    BadCertificate = 206,
    /// A file of the PKI directory is not the private key it should be.
    BadKey = 207,
    /// A private key and a certificate of the PKI directory are not a pair.
    KeyMismatch = 208,
    /// A certificate of the PKI directory is not an authority of ours.
    NotAnAuthority = 209,
    /// The authority is past its end.
    AuthorityExpired = 210,
    /// The authority is not valid yet: a clock is wrong.
    AuthorityNotYetValid = 211,
    /// A rotation step may not be taken now.
    Rotation = 212,

    /// What was asked for breaks a rule of the profile or of the site.
    BadRequest = 300,
    /// The certificate signing request cannot be used.
    BadCsr = 301,

    /// The certificate is not to be trusted; the message says why.
    NotTrusted = 400,
    /// What was to be verified, or verified with, cannot be read.
    Unreadable = 401,

    /// A value may not stand in nginx configuration.
    UnsafeValue = 500,
    /// A rendered configuration did not pass our own check.
    Snippet = 501,
    /// A template does not fit its values: a bug.
    Template = 502,
    /// Host names cannot be looked up with what was found.
    Resolver = 503,

    /// A bug in this library; it was stopped before it reached the caller.
    Internal = 900,
    /// Randomness or a signature failed; nothing that the caller did.
    Crypto = 901,
    /// An error that has no number of its own yet; its word says which.
    Other = 902,
}

impl Status {
    /// The number for an error of the authority.
    pub(crate) fn of_core(error: &ca_core::Error) -> Self {
        use ca_core::Error as E;
        match error {
            E::Io { .. } if error.is_out_of_space() => Status::NoSpace,
            E::Io { .. } => Status::Io,
            E::NoAuthority { .. } => Status::NoAuthority,
            E::UnsafePath { .. } => Status::UnsafePath,
            E::BadName { .. } => Status::BadName,
            E::BadTtl { .. } => Status::BadTtl,
            E::BadRequest { .. } => Status::BadRequest,
            E::Config { .. } => Status::Config,
            E::BadCertificate { .. } => Status::BadCertificate,
            E::BadKey { .. } => Status::BadKey,
            E::KeyMismatch { .. } => Status::KeyMismatch,
            E::NotAnAuthority { .. } => Status::NotAnAuthority,
            E::AuthorityExpired { .. } => Status::AuthorityExpired,
            E::AuthorityNotYetValid { .. } => Status::AuthorityNotYetValid,
            E::BadCsr { .. } => Status::BadCsr,
            E::Rotation { .. } => Status::Rotation,
            E::NotTrusted { .. } => Status::NotTrusted,
            E::Crypto(_) => Status::Crypto,
            E::NoHome => Status::NoHome,
            _ => Status::Other,
        }
    }

    /// The number for an error of the web host's side.
    pub(crate) fn of_pun(error: &pun_helper::Error) -> Self {
        use pun_helper::Error as E;
        match error {
            E::Core(error) => Self::of_core(error),
            E::Io { .. } => Status::Io,
            E::Unsafe { .. } => Status::UnsafeValue,
            E::Snippet { .. } => Status::Snippet,
            E::Template { .. } => Status::Template,
            E::Resolver { .. } => Status::Resolver,
            _ => Status::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs are compiled with these numbers. To retire one, leave its line.
    #[test]
    fn numbers_never_change() {
        for (status, number) in [
            (Status::Ok, 0),
            (Status::NullArgument, 100),
            (Status::BadHandle, 101),
            (Status::TooLong, 102),
            (Status::NotUtf8, 103),
            (Status::BadSize, 104),
            (Status::BadValue, 105),
            (Status::OutOfRange, 106),
            (Status::BadName, 110),
            (Status::BadTtl, 111),
            (Status::NoAuthority, 200),
            (Status::UnsafePath, 201),
            (Status::Io, 202),
            (Status::NoSpace, 203),
            (Status::Config, 204),
            (Status::NoHome, 205),
            (Status::BadCertificate, 206),
            (Status::BadKey, 207),
            (Status::KeyMismatch, 208),
            (Status::NotAnAuthority, 209),
            (Status::AuthorityExpired, 210),
            (Status::AuthorityNotYetValid, 211),
            (Status::Rotation, 212),
            (Status::BadRequest, 300),
            (Status::BadCsr, 301),
            (Status::NotTrusted, 400),
            (Status::Unreadable, 401),
            (Status::UnsafeValue, 500),
            (Status::Snippet, 501),
            (Status::Template, 502),
            (Status::Resolver, 503),
            (Status::Internal, 900),
            (Status::Crypto, 901),
            (Status::Other, 902),
        ] {
            assert_eq!(status as u32, number, "{status:?}");
        }
    }

    #[test]
    fn a_full_disk_is_told_from_other_refusals() {
        let io = |kind: std::io::ErrorKind| ca_core::Error::Io {
            action: "write",
            path: "x".into(),
            source: kind.into(),
        };
        use std::io::ErrorKind as K;
        assert_eq!(Status::of_core(&io(K::StorageFull)), Status::NoSpace);
        assert_eq!(Status::of_core(&io(K::QuotaExceeded)), Status::NoSpace);
        assert_eq!(Status::of_core(&io(K::PermissionDenied)), Status::Io);
    }
}
