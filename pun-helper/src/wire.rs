//! What root and the child that has become the user say to each other through
//! two pipes. The child belongs to the user: everything it says is bounded in
//! length and counts for that user alone.

use std::io::{self, Read, Write};

use ca_core::TrustBundle;

/// Largest message of either side: a trust bundle and a word, or a few lines.
pub(crate) const MAX_MESSAGE: usize = TrustBundle::MAX_BYTES + 64;
/// A message starts with the length of what follows, in this many digits.
pub(crate) const LENGTH_DIGITS: usize = 6;
/// Longest line of text that is taken over into the log, in characters.
const MAX_LINE: usize = 300;
/// Most notices taken over.
const MAX_NOTICES: usize = 4;
/// Most findings of an examination; all of them are shorter than a message.
const MAX_FINDINGS: usize = 13;

/// What root asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The trust bundle as it is now.
    Trust,
    /// What there is to say about the PKI directory.
    Examine,
    /// That the PUN of this web host loads this bundle, be recorded.
    Record(Vec<u8>),
}

/// What the child answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Authority and client leaf are there and current, or at least usable.
    Ready {
        /// What the log should say.
        notices: Vec<String>,
    },
    /// The trust bundle, in PEM, unchecked.
    Trust(Vec<u8>),
    /// It was recorded.
    Recorded,
    /// The PKI directory was looked at.
    Examined(Vec<Finding>),
    /// It did not work.
    Failed(Failure),
}

/// One thing that an examination looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// "ok", "warning" or "failed".
    pub(crate) verdict: String,
    /// What was looked at.
    pub(crate) name: String,
    /// What was found.
    pub(crate) detail: String,
    /// What to do about it, or nothing.
    pub(crate) fix: String,
}

/// Why the child could not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A stable word, as `ca_core::Error::code`.
    pub(crate) code: String,
    /// One line.
    pub(crate) message: String,
    /// What can be done, or nothing.
    pub(crate) hint: String,
    /// The file system or the system refused, and may not the next time. The
    /// files themselves were not found to be wrong.
    pub(crate) passing: bool,
}

impl From<&ca_core::Error> for Failure {
    fn from(error: &ca_core::Error) -> Self {
        Failure {
            code: error.code().into(),
            message: error.to_string(),
            hint: error.hint().unwrap_or_default(),
            passing: matches!(error, ca_core::Error::Io { .. } | ca_core::Error::Crypto(_)),
        }
    }
}

/// Text made fit for one line of a log: no control characters, no more than
/// 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    let safe = |c: char| {
        // Marks that turn the direction of writing, and line ends beyond ASCII.
        let hidden = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if hidden { ' ' } else { c }
    };
    let mut line: String = text.chars().map(safe).take(MAX_LINE).collect();
    if text.chars().nth(MAX_LINE).is_some() {
        line.push('…');
    }
    line
}

impl Ask {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Ask::Trust => b"trust\n".to_vec(),
            Ask::Examine => b"examine\n".to_vec(),
            Ask::Record(pem) => [b"record\n", pem.as_slice()].concat(),
        }
    }

    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        match split_word(message)? {
            ("trust", _) => Some(Ask::Trust),
            ("examine", _) => Some(Ask::Examine),
            ("record", pem) => Some(Ask::Record(pem.to_vec())),
            _ => None,
        }
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Ready { notices } => {
                let lines = notices.iter().map(|n| one_line(n) + "\n");
                ["ready\n".to_owned()]
                    .into_iter()
                    .chain(lines)
                    .collect::<String>()
                    .into_bytes()
            }
            Answer::Trust(pem) => [b"trust\n", pem.as_slice()].concat(),
            Answer::Recorded => b"recorded\n".to_vec(),
            Answer::Examined(findings) => {
                let line = |f: &Finding| {
                    let cells = [&f.verdict, &f.name, &f.detail, &f.fix];
                    cells.map(|cell| one_line(cell) + "\n").concat()
                };
                let lines = findings.iter().take(MAX_FINDINGS).map(line);
                ["examined\n".to_owned()]
                    .into_iter()
                    .chain(lines)
                    .collect::<String>()
                    .into_bytes()
            }
            Answer::Failed(failure) => format!(
                "failed\n{}\n{}\n{}\n{}\n",
                one_line(&failure.code),
                one_line(&failure.message),
                one_line(&failure.hint),
                if failure.passing {
                    "passing"
                } else {
                    "lasting"
                },
            )
            .into_bytes(),
        }
    }

    /// Reads what a child of the user's said.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let (word, rest) = split_word(message)?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        match word {
            "ready" => Some(Answer::Ready {
                notices: text().lines().take(MAX_NOTICES).map(one_line).collect(),
            }),
            "trust" => Some(Answer::Trust(rest.to_vec())),
            "recorded" => Some(Answer::Recorded),
            "examined" => {
                let text = text();
                let lines: Vec<String> = text.lines().map(one_line).collect();
                let finding = |cells: &[String]| match cells {
                    [verdict, name, detail, fix] => Some(Finding {
                        verdict: verdict.clone(),
                        name: name.clone(),
                        detail: detail.clone(),
                        fix: fix.clone(),
                    }),
                    _ => None,
                };
                let findings = lines.chunks(4).take(MAX_FINDINGS).filter_map(finding);
                Some(Answer::Examined(findings.collect()))
            }
            "failed" => {
                let text = text();
                let mut lines = text.lines();
                let mut next = || lines.next().map(one_line);
                let code = next()?;
                let plain = |c: char| c.is_ascii_lowercase() || c == '-';
                Some(Answer::Failed(Failure {
                    code: if code.chars().all(plain) {
                        code
                    } else {
                        "unknown".into()
                    },
                    message: next()?,
                    hint: next()?,
                    passing: next()? == "passing",
                }))
            }
            _ => None,
        }
    }
}

fn split_word(message: &[u8]) -> Option<(&str, &[u8])> {
    let end = message.iter().position(|b| *b == b'\n')?;
    let word = std::str::from_utf8(&message[..end]).ok()?;
    Some((word, &message[end + 1..]))
}

/// The message with its length in front.
///
/// # Errors
/// If it is too long.
pub(crate) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    if message.len() > MAX_MESSAGE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut whole = format!("{:0LENGTH_DIGITS$}", message.len()).into_bytes();
    whole.extend_from_slice(message);
    Ok(whole)
}

/// The length that a message starts with; `None` if that is no length, or one
/// beyond every bound.
pub(crate) fn length(prefix: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(prefix).ok()?;
    let plain = text.len() == LENGTH_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    let length = text.parse().ok().filter(|_| plain)?;
    (length <= MAX_MESSAGE).then_some(length)
}

/// Writes a message, waiting as long as it takes: the child's side.
pub(crate) fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    to.write_all(&framed(message)?)?;
    to.flush()
}

/// Reads a message, waiting as long as it takes: the child's side. `None` at
/// the end.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0; LENGTH_DIGITS];
    match from.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = length(&prefix).ok_or(io::ErrorKind::InvalidData)?;
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_is_read_back_as_it_was_meant() {
        let failure = Failure {
            code: "io".into(),
            message: "cannot read /home/a/.ood: Stale file handle".into(),
            hint: String::new(),
            passing: true,
        };
        for answer in [
            Answer::Ready {
                notices: vec!["renewed".into(), "and more".into()],
            },
            Answer::Ready {
                notices: Vec::new(),
            },
            Answer::Trust(b"-----BEGIN\n".to_vec()),
            Answer::Recorded,
            Answer::Failed(failure),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        let finding = Finding {
            verdict: "ok".into(),
            name: "space".into(),
            detail: "enough".into(),
            fix: String::new(),
        };
        let all = Answer::Examined(vec![finding; MAX_FINDINGS]);
        assert_eq!(Answer::decode(&all.encode()), Some(all));
        for ask in [Ask::Trust, Ask::Examine, Ask::Record(b"x\ny".to_vec())] {
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        }
    }

    #[test]
    fn a_child_cannot_write_a_second_line_into_the_log() {
        let answer = Answer::decode(b"failed\nio\na\x1b[2Jb\rc\nhint\nlasting\n").unwrap();
        let Answer::Failed(failure) = answer else {
            unreachable!("{answer:?}")
        };
        assert_eq!(failure.message, "a [2Jb c");
        assert_eq!(one_line("a\nb"), "a b");
        assert_eq!(one_line(&"x".repeat(1000)).chars().count(), MAX_LINE + 1);
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(length(b"000012"), Some(12));
        for bad in [
            &b"999999"[..],
            b"+00001",
            b"-00001",
            b" 00001",
            b"00001",
            b"0x0001",
            b"\xff\0\0\0\0\0",
        ] {
            assert_eq!(length(bad), None, "{bad:?}");
        }
        assert!(framed(&[0; 2 * MAX_MESSAGE]).is_err());
    }

    #[test]
    fn a_conversation_ends_with_the_pipe() {
        let mut bytes = framed(b"trust\n").unwrap();
        bytes.extend(b"0000");
        let mut from = bytes.as_slice();
        assert_eq!(receive(&mut from).unwrap().unwrap(), b"trust\n");
        assert_eq!(receive(&mut from).unwrap(), None);
    }

    proptest! {
        #[test]
        fn whatever_a_child_says_is_bounded(message in prop::collection::vec(any::<u8>(), 0..4000)) {
            match Answer::decode(&message) {
                Some(Answer::Ready { notices }) => {
                    prop_assert!(notices.len() <= MAX_NOTICES);
                    for n in notices {
                        prop_assert!(!n.chars().any(char::is_control) && n.chars().count() <= MAX_LINE + 1);
                    }
                }
                Some(Answer::Failed(f)) => {
                    prop_assert!(!f.message.chars().any(char::is_control));
                    prop_assert!(f.code.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
                }
                _ => {}
            }
        }
    }
}
