//! The head of a request: its request line and header lines (RFC 9112 §2–§6).

use std::fmt;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Nothing.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A head that has one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length, the empty line included.
    pub(crate) length: usize,
    pub(crate) framing: Framing,
}

/// How much a head may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes: usize,
    pub(crate) lines: usize,
}

/// Why a message is refused, and with which status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) why: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

const fn bad(why: &'static str) -> Refused {
    Refused { status: 400, why }
}

pub(crate) const TOO_LARGE: Refused = Refused {
    status: 431,
    why: "the request's head is too large",
};

pub(crate) const TOO_SLOW: Refused = Refused {
    status: 408,
    why: "the request's head did not come in time",
};

/// Where the head at the start of `bytes` ends, if all of it is there; looks
/// only at what came after the first `seen` bytes.
pub(crate) fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    // The end may lie across what was seen and what is new.
    let from = seen.saturating_sub(3);
    let found = bytes[from..].windows(4).position(|w| w == b"\r\n\r\n")?;
    Some(from + found + 4)
}

/// Whether bytes that do not hold a whole head yet can still become one. Who
/// ends lines with a bare LF would otherwise wait for an answer until the time
/// is over. Looks only at what came after the first `seen` bytes.
pub(crate) fn check_beginning(bytes: &[u8], seen: usize) -> Result<(), Refused> {
    let mut previous = seen.checked_sub(1).map_or(0, |last| bytes[last]);
    for &byte in &bytes[seen..] {
        match byte {
            b'\n' if previous != b'\r' => return Err(bad("a line ends with a bare LF")),
            0 => return Err(bad("the request's head holds a NUL")),
            _ if previous == b'\r' && byte != b'\n' => {
                return Err(bad("the request's head holds a bare CR"));
            }
            _ => {}
        }
        previous = byte;
    }
    Ok(())
}

/// Judges a whole head: `bytes` up to what [`end`] found.
pub(crate) fn parse(bytes: &[u8], bounds: Bounds) -> Result<Head, Refused> {
    if bytes.len() > bounds.bytes {
        return Err(TOO_LARGE);
    }
    check_beginning(bytes, 0)?;
    // Without the line ends of the last line and of the empty one.
    let text = bytes.strip_suffix(b"\r\n\r\n").unwrap_or(bytes);
    let mut lines = split_lines(text);
    let is_1_1 = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for (count, line) in lines.enumerate() {
        if count >= bounds.lines {
            return Err(Refused {
                status: 431,
                why: "the request has too many header lines",
            });
        }
        let (name, value) = field_line(line)?;
        fields.take(name, value)?;
    }
    Ok(Head {
        length: bytes.len(),
        framing: fields.framing(is_1_1)?,
    })
}

/// Lines between CR LF; there is no other CR or LF when this is called.
fn split_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// `method SP request-target SP HTTP-version` (RFC 9112 §3), each SP one space.
/// Whether the version is 1.1.
fn request_line(line: &[u8]) -> Result<bool, Refused> {
    const MALFORMED: Refused = bad("the request line is malformed");
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(MALFORMED);
    };
    if method.is_empty() || method.len() > 32 || !method.iter().all(|b| is_token(*b)) {
        return Err(bad("the method is malformed"));
    }
    // A fragment is nothing that is sent (RFC 9112 §3.2), and programs differ
    // in where they think that a path with one ends.
    let fits = |b: &u8| (0x21..0x7f).contains(b) && *b != b'#';
    let is_path = target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS");
    if !is_path || !target.iter().all(fits) {
        return Err(bad("the request target is not a path"));
    }
    // No URL may hold these (RFC 3986 §2), and hyper does not take them. Browsers
    // encode them (URL Standard §1.3: the last one in paths); by hand they are often
    // forgotten.
    let path = target.iter().take_while(|b| **b != b'?');
    let quotes = target.iter().any(|b| matches!(b, b'"' | b'<' | b'>'));
    if quotes || path.into_iter().any(|b| *b == b'`') {
        return Err(bad(
            "the request target holds a character that must be percent-encoded",
        ));
    }
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        _ => Err(MALFORMED),
    }
}

/// `field-name ":" OWS field-value OWS` (RFC 9112 §5).
pub(crate) fn field_line(line: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(bad("a header line is folded"));
    }
    let colon = line.iter().position(|b| *b == b':');
    let colon = colon.ok_or(bad("a header line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(bad("the name of a header is malformed"));
    }
    let fits = |b: &u8| matches!(b, b'\t' | 0x20..=0x7e | 0x80..);
    if !value.iter().all(fits) {
        return Err(bad("the value of a header holds control characters"));
    }
    Ok((name, value.trim_ascii()))
}

/// The header fields that decide how a message is read.
#[derive(Default)]
struct Fields {
    host: Option<()>,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.replace(()).is_some() {
                return Err(bad("Host came twice"));
            }
            if value.is_empty() || !value.iter().all(|b| is_host(*b)) {
                return Err(bad("Host is malformed"));
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.replace(content_length(value)?).is_some() {
                return Err(bad("Content-Length came twice"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if std::mem::replace(&mut self.chunked, true) {
                return Err(bad("Transfer-Encoding came twice"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(bad("Transfer-Encoding is not chunked"));
            }
        }
        Ok(())
    }

    fn framing(self, is_1_1: bool) -> Result<Framing, Refused> {
        if is_1_1 && self.host.is_none() {
            return Err(bad("Host is missing"));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("Content-Length and Transfer-Encoding came together")),
            // RFC 9112 §6.1: framing that an HTTP/1.0 program does not know.
            (true, None) if !is_1_1 => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(0) | None) => Ok(Framing::Empty),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }
}

/// Digits only: no sign, no list, no white space inside, and no more than what
/// every program can hold.
fn content_length(value: &[u8]) -> Result<u64, Refused> {
    const MALFORMED: Refused = bad("Content-Length is malformed");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(MALFORMED);
    }
    let digits = std::str::from_utf8(value).map_err(|_| MALFORMED)?;
    digits.parse().map_err(|_| MALFORMED)
}

/// `tchar` (RFC 9110 §5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// What may stand in `uri-host [":" port]` (RFC 9110 §7.2), as far as any real
/// name needs it: no `/`, `@`, `,` or space by which one program reads another
/// host than the next.
const fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 4096,
        lines: 16,
    };

    fn judge(head: &str) -> Result<Framing, Refused> {
        let bytes = head.as_bytes();
        assert_eq!(end(bytes, 0), Some(bytes.len()), "{head:?}");
        parse(bytes, BOUNDS).map(|head| head.framing)
    }

    fn with(fields: &str) -> Result<Framing, Refused> {
        judge(&format!("POST /a HTTP/1.1\r\nHost: n1\r\n{fields}\r\n"))
    }

    #[test]
    fn ordinary_heads_pass() {
        for (fields, framing) in [
            ("", Framing::Empty),
            ("Content-Length: 0\r\n", Framing::Empty),
            ("Content-Length: 12\r\n", Framing::Length(12)),
            ("content-length:12\r\n", Framing::Length(12)),
            ("Content-Length:   0012  \r\n", Framing::Length(12)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("transfer-encoding:\tCHUNKED\t\r\n", Framing::Chunked),
            ("X-Empty:\r\nX-Utf8: caf\u{e9}\r\n", Framing::Empty),
        ] {
            assert_eq!(with(fields), Ok(framing), "{fields:?}");
        }
        for line in [
            "GET / HTTP/1.1", "OPTIONS * HTTP/1.1", "PROPFIND /a?b=%20&c={d}|e HTTP/1.1",
            "GET //a//../b?x HTTP/1.1", "M-SEARCH /a:b@c HTTP/1.1",
        ] {
            let head = format!("{line}\r\nHost: [::1]:80\r\n\r\n");
            assert_eq!(judge(&head), Ok(Framing::Empty), "{line}");
        }
        assert_eq!(judge("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Empty));
    }

    #[test]
    fn what_two_programs_could_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\ncontent-length: 2\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 1\r\n",
            "Content-Length: 1e1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 1\r\n",
            " Content-Length: 1\r\n",
            "X: a\r\n b\r\n",
            "X: a\r\n\tb\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked;q=1\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Host: n2\r\n",
            "X\u{0}: a\r\n",
            "X: a\u{0}b\r\n",
            "X: a\u{7f}b\r\n",
            ": a\r\n",
            "X Y: a\r\n",
            "X(: a\r\n",
        ] {
            let refused = with(fields).unwrap_err();
            assert_eq!(refused.status, 400, "{fields:?}");
        }
    }

    #[test]
    fn request_lines_have_one_shape() {
        for line in [
            "", "GET", "GET /", "GET /  HTTP/1.1", "GET  / HTTP/1.1", " GET / HTTP/1.1",
            "GET / HTTP/1.1 ", "GET /a b HTTP/1.1", "GET / HTTP/2.0", "GET / http/1.1",
            "GET / HTTP/1.10", "GET / HTTP/01.1", "GET\t/ HTTP/1.1", "GET a HTTP/1.1",
            "GET http://n1/ HTTP/1.1", "CONNECT n1:22 HTTP/1.1", "GET * HTTP/1.1",
            "GET /a#b HTTP/1.1", "GET /\u{e9} HTTP/1.1", "G@T / HTTP/1.1", "GET /\u{7f} HTTP/1.1",
            "PRI * HTTP/2.0",
        ] {
            let head = format!("{line}\r\nHost: n1\r\n\r\n");
            assert!(judge(&head).is_err(), "{line:?} passed");
        }
        assert!(judge("GET / HTTP/1.1\r\n\r\n").is_err(), "without Host");
        let chunked_1_0 = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(judge(chunked_1_0).is_err());
        for host in ["", "a b", "a,b", "a/b", "u@a", "a\\b", "a?b"] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(judge(&head).is_err(), "{host:?} passed");
        }
    }

    #[test]
    fn what_cannot_become_a_head_is_known_before_its_end() {
        for bytes in [
            b"GET / HTTP/1.1\nHost: n1\n\n".as_slice(),
            b"GET / HTTP/1.1\r\nA: b\n",
            b"GET / HTTP/1.1\rX",
            b"GET /\0",
            b"\n",
        ] {
            assert!(check_beginning(bytes, 0).is_err(), "{bytes:?}");
            assert_eq!(end(bytes, 0), None);
        }
        assert!(check_beginning(b"GET / HTTP/1.1\r", 3).is_ok());
    }

    #[test]
    fn size_is_bounded_in_bytes_and_lines() {
        let many = "A: b\r\n".repeat(BOUNDS.lines);
        assert_eq!(with(&many).unwrap_err().status, 431);
        let long = format!("A: {}\r\n", "b".repeat(BOUNDS.bytes));
        assert_eq!(with(&long).unwrap_err().status, 431);
    }

    #[test]
    fn the_end_is_found_wherever_the_pieces_meet() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for seen in 0..head.len() - 4 {
            if end(&head[..seen], 0).is_none() {
                assert_eq!(end(head, seen), Some(head.len() - 4), "{seen}");
            }
        }
    }
}
