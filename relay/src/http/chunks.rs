//! Chunked bodies (RFC 9112 §7.1), followed byte by byte to their end.

use crate::http::head::{Refused, field_line};

/// Longest line before a chunk: its size and extensions, which nobody uses. hyper
/// takes less than 16 KiB of them in one body, and of trailers.
const LONGEST_SIZE_LINE: usize = 256;
const MOST_EXTENSIONS: usize = 15 * 1024;
const MOST_TRAILERS: usize = 15 * 1024;

/// Follows a body through whatever pieces it comes in.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    /// Bytes that extensions may still have.
    extensions_left: usize,
    /// Bytes that trailers may still have.
    trailers_left: usize,
    /// Trailer lines that may still come.
    lines_left: usize,
}

#[derive(Debug)]
enum State {
    /// In the line before a chunk.
    Size {
        size: u64,
        digits: u8,
        extension: bool,
        length: usize,
    },
    /// After the CR of that line.
    SizeEnd(u64),
    /// In a chunk; so many bytes are left.
    Data(u64),
    /// After a chunk: CR, then LF.
    DataEnd,
    DataEndLf,
    /// In a line of the trailers.
    Trailer(Vec<u8>),
    /// After the CR of such a line.
    TrailerEnd(Vec<u8>),
    /// Past the end.
    Done,
}

const START: State = State::Size {
    size: 0,
    digits: 0,
    extension: false,
    length: 0,
};

const fn bad(why: &'static str) -> Refused {
    Refused { status: 400, why }
}

impl Chunks {
    /// A body whose trailers may have so many bytes and lines.
    pub(crate) fn new(trailer_bytes: usize, trailer_lines: usize) -> Self {
        Chunks {
            state: START,
            extensions_left: MOST_EXTENSIONS,
            trailers_left: trailer_bytes.min(MOST_TRAILERS),
            lines_left: trailer_lines,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Goes on through `bytes`: how many of them belong to the body. Fewer than
    /// all of them only where the body ends.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Done => break,
                State::Data(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX);
                    let step = here.min(bytes.len() - at);
                    *left -= step as u64;
                    at += step;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                }
                _ => {
                    self.step(bytes[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<(), Refused> {
        match &mut self.state {
            State::Size {
                size,
                digits,
                extension,
                length,
            } => {
                *length += 1;
                if *length > LONGEST_SIZE_LINE {
                    return Err(bad("the line before a chunk is too long"));
                }
                match byte {
                    b'\r' if *digits > 0 => self.state = State::SizeEnd(*size),
                    b';' if *digits > 0 && !*extension => *extension = true,
                    b'\t' | 0x20..=0x7e if *extension => {
                        let left = self.extensions_left.checked_sub(1);
                        self.extensions_left =
                            left.ok_or(bad("the body's chunks have too many extensions"))?;
                    }
                    _ => {
                        let digit = char::from(byte).to_digit(16);
                        // Fifteen digits are more than any program can hold.
                        let (Some(digit), false, 0..15) = (digit, *extension, *digits) else {
                            return Err(bad("the size of a chunk is malformed"));
                        };
                        *size = *size * 16 + u64::from(digit);
                        *digits += 1;
                    }
                }
            }
            State::SizeEnd(size) => {
                let next = match *size {
                    0 => State::Trailer(Vec::new()),
                    size => State::Data(size),
                };
                self.expect(byte, b'\n', next)?;
            }
            State::DataEnd => self.expect(byte, b'\r', State::DataEndLf)?,
            State::DataEndLf => self.expect(byte, b'\n', START)?,
            State::Trailer(line) => {
                self.trailers_left = self.trailers_left.checked_sub(1).ok_or(Refused {
                    status: 431,
                    why: "the trailers are too large",
                })?;
                if byte == b'\r' {
                    self.state = State::TrailerEnd(std::mem::take(line));
                } else {
                    line.push(byte);
                }
            }
            State::TrailerEnd(line) => {
                let line = std::mem::take(line);
                if line.is_empty() {
                    return self.expect(byte, b'\n', State::Done);
                }
                self.lines_left = self.lines_left.checked_sub(1).ok_or(Refused {
                    status: 431,
                    why: "there are too many trailers",
                })?;
                field_line(&line)?;
                self.expect(byte, b'\n', State::Trailer(Vec::new()))?;
            }
            State::Data(_) | State::Done => {}
        }
        Ok(())
    }

    fn expect(&mut self, byte: u8, wanted: u8, next: State) -> Result<(), Refused> {
        if byte != wanted {
            return Err(bad("a chunk does not end where it should"));
        }
        self.state = next;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The same whole and byte by byte.
    fn follow(body: &[u8]) -> Result<Option<usize>, Refused> {
        let mut whole = Chunks::new(64, 2);
        let result = whole.follow(body);
        let mut bytewise = Chunks::new(64, 2);
        let mut count = 0;
        let mut pieces = Ok(());
        for byte in body {
            match bytewise.follow(&[*byte]) {
                Ok(n) => count += n,
                Err(refused) => {
                    pieces = Err(refused);
                    break;
                }
            }
        }
        assert_eq!(result.is_ok(), pieces.is_ok(), "{body:?}");
        assert!(result.is_err() || result == Ok(count));
        let done = whole.is_done();
        result.map(|length| done.then_some(length))
    }

    #[test]
    fn a_body_ends_after_its_trailers() {
        for (body, rest) in [
            ("0\r\n\r\n", ""),
            ("3\r\nabc\r\n0\r\n\r\n", "GET"),
            ("3;x=\"y\"\r\nabc\r\n00\r\n\r\n", ""),
            ("A\r\n0123456789\r\n0\r\nT: v\r\nU:\r\n\r\n", "x"),
        ] {
            let all = format!("{body}{rest}");
            assert_eq!(follow(all.as_bytes()), Ok(Some(body.len())), "{all:?}");
        }
        assert_eq!(follow(b"3\r\nabc\r\n"), Ok(None));
    }

    #[test]
    fn what_two_programs_could_read_in_two_ways_is_refused() {
        for body in [
            "\r\n", "x\r\n", " 3\r\nabc\r\n", "3 \r\nabc\r\n", "3\nabc\r\n", "3\r\nabc\n",
            "3\r\nabcd\r\n", "0x3\r\nabc\r\n", "+3\r\nabc\r\n", "-3\r\n", "3;a\nb\r\n", "3;\0\r\n",
            "3\rX", "ffffffffffffffffffff\r\n", "0\r\n T: v\r\n", "0\r\nT\r\n", "0\r\nT: v\n\r\n",
            "0\r\nT : v\r\n", "0\r\n\rX", "0\r\nT: \0\r\n", "3;a\r\rb",
        ] {
            assert!(follow(body.as_bytes()).is_err(), "{body:?} passed");
        }
        let long = format!("3;{}\r\nabc\r\n", "x".repeat(LONGEST_SIZE_LINE));
        assert!(follow(long.as_bytes()).is_err());
        let many = "0\r\nA: b\r\nC: d\r\nE: f\r\n\r\n";
        assert_eq!(follow(many.as_bytes()).unwrap_err().status, 431);
        let large = format!("0\r\nA: {}\r\n\r\n", "b".repeat(64));
        assert_eq!(follow(large.as_bytes()).unwrap_err().status, 431);
    }
}
