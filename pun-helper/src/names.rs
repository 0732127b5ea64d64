//! The types whose values may enter nginx configuration.

use std::fmt;

pub use ca_core::{ConfigPath, HostName, HostRegex, UserName};

use crate::error::{Error, Result};

/// A version of nginx: `1.22.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NginxVersion {
    /// 1
    pub major: u16,
    /// 22
    pub minor: u16,
    /// 1
    pub patch: u16,
}

impl NginxVersion {
    /// Parses `1.22.1`.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if it is not three numbers.
    pub fn parse(input: &str) -> Result<Self> {
        let refuse = || {
            Error::refuse(
                "nginx version",
                input,
                "it is not three numbers with dots",
                "write it as nginx -v does, for example 1.22.1",
            )
        };
        let mut parts = input.split('.').map(|part| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            part.parse().ok().filter(|_| plain)
        });
        let mut next = || parts.next().flatten().ok_or_else(refuse);
        let version = NginxVersion {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        match parts.next() {
            None => Ok(version),
            Some(_) => Err(refuse()),
        }
    }

    /// Reads what `nginx -v` prints: `nginx version: nginx/1.22.1 (Debian)`.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if there is no version in it.
    pub fn from_binary_output(output: &str) -> Result<Self> {
        let after = output.split_once('/').map(|(_, rest)| rest);
        let word = after.and_then(|rest| {
            let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit());
            rest.get(..end.unwrap_or(rest.len()))
        });
        match word {
            Some(word) => Self::parse(word),
            None => Err(Error::refuse(
                "nginx version", output, "there is no version in it",
                "check what `nginx -v` prints",
            )),
        }
    }
}

impl fmt::Display for NginxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
