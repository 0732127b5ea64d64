//! A template engine of four constructs that inserts only what cannot do harm.
//!
//! `{{name}}` inserts a value, `{{> name}}` another template; `{{#if name}}`,
//! `{{#unless name}}` and `{{#each name}}` up to `{{/if}}` and so on stand on
//! lines of their own. A name that the template has and the scope lacks is an
//! error, and so is one that the scope has and no template uses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ca_core::{ConfigPath, HeaderName, HostName, HostRegex, Span, UserName};

use crate::error::{Error, Result};

/// Something that may be inserted. There is no way to make one from any text.
#[derive(Clone, Debug)]
pub(crate) enum Insert {
    /// May stand anywhere: no space, no character that nginx gives a meaning.
    Word(String),
    /// May stand between double quotes only.
    Quoted(String),
    /// Written by us in this program; may be anything.
    Ours(&'static str),
}

impl Insert {
    /// Words that have been checked, with spaces between.
    pub(crate) fn words(words: &[Insert]) -> Self {
        let texts: Vec<_> = words.iter().map(Insert::text).collect();
        Insert::Word(texts.join(" "))
    }

    fn text(&self) -> &str {
        match self {
            Insert::Word(text) | Insert::Quoted(text) => text,
            Insert::Ours(text) => text,
        }
    }

    /// The types promise this; it is looked at once more where it matters.
    fn is_safe(&self) -> bool {
        let word = |b: u8| b.is_ascii_alphanumeric() || b" ._@+-/:[]".contains(&b);
        let quoted = |b: u8| (b' '..=b'~').contains(&b) && !b"\"$#;`".contains(&b);
        match self {
            Insert::Word(text) => text.bytes().all(word),
            Insert::Quoted(text) => text.bytes().all(quoted) && !text.contains("\\\\"),
            Insert::Ours(_) => true,
        }
    }
}

macro_rules! word {
    ($($type:ty => |$value:ident| $text:expr;)*) => { $(
        impl From<$type> for Insert {
            fn from($value: $type) -> Self {
                Insert::Word($text)
            }
        }
    )* };
}
word! {
    &ConfigPath => |path| path.as_str().to_owned();
    &HostName => |name| name.as_str().to_owned();
    &UserName => |user| user.as_str().to_owned();
    &HeaderName => |name| name.as_str().to_owned();
    SocketAddr => |address| address.to_string();
    Span => |span| span.to_string();
    u16 => |number| number.to_string();
}

impl From<IpAddr> for Insert {
    /// As it stands in a URL: IPv6 in brackets (RFC 3986 §3.2.2).
    fn from(address: IpAddr) -> Self {
        Insert::Word(match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        })
    }
}

impl From<&HostRegex> for Insert {
    fn from(regex: &HostRegex) -> Self {
        Insert::Quoted(regex.as_str().to_owned())
    }
}

impl From<&Pattern> for Insert {
    fn from(pattern: &Pattern) -> Self {
        Insert::Quoted(pattern.0.clone())
    }
}

/// A part of a regular expression that this program puts together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// One of these texts, literally, each with an expression of ours behind.
    pub(crate) fn any_of<'a>(texts: impl IntoIterator<Item = (&'a str, &'static str)>) -> Self {
        let literal = |(text, behind): (&str, &str)| text.replace('.', r"\.") + behind;
        let all: Vec<_> = texts.into_iter().map(literal).collect();
        Pattern(all.join("|"))
    }

    /// Digits and classes of digits only.
    pub(crate) fn of_digits(text: String) -> Self {
        Pattern(text)
    }

    /// A look-ahead: whatever follows is not wholly one of these.
    pub(crate) fn unless_whole(self) -> Self {
        match self.0.is_empty() {
            true => self,
            false => Pattern(format!(r"(?!(?:{})\z)", self.0)),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value as the site or a user wrote it for a header, already checked.
pub(crate) struct HeaderValue(pub(crate) String);

impl From<HeaderValue> for Insert {
    fn from(value: HeaderValue) -> Self {
        Insert::Quoted(value.0)
    }
}

#[derive(Clone, Debug)]
enum Slot {
    Value(Insert),
    Flag(bool),
    List(Vec<Scope>),
}

/// The names that a template may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope(BTreeMap<&'static str, Slot>);

impl Scope {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A value. Its name can also be asked for with `#if`.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Insert>) -> Self {
        self.0.insert(name, Slot::Value(value.into()));
        self
    }

    /// A value that may be missing.
    pub(crate) fn with_some(self, name: &'static str, value: Option<impl Into<Insert>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self.flag(name, false),
        }
    }

    pub(crate) fn flag(mut self, name: &'static str, is_set: bool) -> Self {
        self.0.insert(name, Slot::Flag(is_set));
        self
    }

    pub(crate) fn list(
        mut self,
        name: &'static str,
        items: impl IntoIterator<Item = Scope>,
    ) -> Self {
        let items = items.into_iter().collect();
        self.0.insert(name, Slot::List(items));
        self
    }
}

/// A template's name and text, with the templates that it may include.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) parts: &'static [(&'static str, &'static str)],
}

impl Template {
    /// Fills the template in.
    pub(crate) fn render(&self, scope: &Scope) -> Result<String> {
        let mut lines = Vec::new();
        self.flatten(self.text, &mut lines)?;
        if let Some(unused) = scope
            .0
            .keys()
            .find(|name| !lines.iter().any(|line| mentions(line, name)))
        {
            return self.fail(format!("nothing uses {unused}"));
        }
        let mut out = String::with_capacity(32 * 1024);
        self.block(&lines, &[scope], &mut out)?;
        Ok(out)
    }

    fn fail<T>(&self, why: String) -> Result<T> {
        Err(Error::Template {
            name: self.name,
            why,
        })
    }

    fn flatten(&self, text: &'static str, lines: &mut Vec<&'static str>) -> Result<()> {
        for line in text.lines() {
            let Some(part) = tag(line).and_then(|t| t.strip_prefix("> ")) else {
                lines.push(line);
                continue;
            };
            match self.parts.iter().find(|(name, _)| *name == part) {
                Some((_, text)) => self.flatten(text, lines)?,
                None => return self.fail(format!("there is no part {part}")),
            }
        }
        Ok(())
    }

    fn block(&self, lines: &[&str], scopes: &[&Scope], out: &mut String) -> Result<()> {
        let mut rest = lines;
        while let Some((line, after)) = rest.split_first() {
            rest = after;
            let Some(opening) = tag(line).and_then(|t| t.strip_prefix('#')) else {
                self.line(line, scopes, out)?;
                continue;
            };
            let Some((word, name)) = opening.split_once(' ') else {
                return self.fail(format!("{opening} names nothing"));
            };
            let Some(length) = closing(rest, word) else {
                return self.fail(format!("{opening} is not closed"));
            };
            let (inner, after) = rest.split_at(length);
            rest = &after[1..];
            let slot = self.find(name, scopes)?;
            match (word, slot) {
                ("if", slot) if slot.is_set() => self.block(inner, scopes, out)?,
                ("unless", slot) if !slot.is_set() => self.block(inner, scopes, out)?,
                ("if" | "unless", _) => {}
                ("each", Slot::List(items)) => {
                    for item in items {
                        let scopes: Vec<_> = std::iter::once(item)
                            .chain(scopes.iter().copied())
                            .collect();
                        self.block(inner, &scopes, out)?;
                    }
                }
                _ => return self.fail(format!("{opening} does not fit its value")),
            }
        }
        Ok(())
    }

    fn line(&self, line: &str, scopes: &[&Scope], out: &mut String) -> Result<()> {
        let start = out.len();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                return self.fail(format!("a name is not closed in: {line}"));
            };
            out.push_str(before);
            let Slot::Value(insert) = self.find(name, scopes)? else {
                return self.fail(format!("{name} is not a value"));
            };
            // Ours have no escaped quote, so counting them is enough.
            let in_quotes = out[start..].matches('"').count() % 2 == 1;
            if matches!(insert, Insert::Quoted(_)) && !in_quotes {
                return self.fail(format!("{name} must stand between quotes"));
            }
            if !insert.is_safe() {
                return self.fail(format!("the value of {name} is not safe"));
            }
            out.push_str(insert.text());
            rest = after;
        }
        out.push_str(rest);
        out.push('\n');
        Ok(())
    }

    fn find<'a>(&self, name: &str, scopes: &[&'a Scope]) -> Result<&'a Slot> {
        match scopes.iter().find_map(|scope| scope.0.get(name)) {
            Some(slot) => Ok(slot),
            None => self.fail(format!("nothing is known about {name}")),
        }
    }
}

impl Slot {
    fn is_set(&self) -> bool {
        match self {
            Slot::Value(_) => true,
            Slot::Flag(is_set) => *is_set,
            Slot::List(items) => !items.is_empty(),
        }
    }
}

/// What stands in a tag that has a line of its own.
fn tag(line: &str) -> Option<&str> {
    let inner = line.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    inner.starts_with(['#', '/', '>']).then_some(inner)
}

/// How many lines there are before the tag that closes `word`.
fn closing(lines: &[&str], word: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, line) in lines.iter().enumerate() {
        let Some(tag) = tag(line) else { continue };
        let opens = tag.strip_prefix('#').and_then(|t| t.split(' ').next());
        if opens == Some(word) {
            depth += 1;
        }
        if tag.strip_prefix('/') == Some(word) {
            match depth {
                0 => return Some(index),
                _ => depth -= 1,
            }
        }
    }
    None
}

fn mentions(line: &str, name: &str) -> bool {
    line.split("{{").skip(1).any(|part| {
        let inside = part.split("}}").next().unwrap_or(part);
        inside.rsplit(' ').next() == Some(name)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn render(text: &'static str, scope: &Scope) -> Result<String> {
        let template = Template {
            name: "test",
            text,
            parts: &[("part", "[{{a}}]\n")],
        };
        template.render(scope)
    }

    fn quoted(text: &str) -> Insert {
        Insert::Quoted(text.to_owned())
    }

    #[test]
    fn the_constructs_do_what_they_say() {
        let scope = Scope::new()
            .with("a", 1_u16)
            .flag("off", false)
            .list("all", [2_u16, 3].map(|n| Scope::new().with("n", n)));
        let text = "x{{a}}y{{a}}\n{{#if off}}\nno\n{{/if}}\n{{#unless off}}\n{{#each all}}\n {{n}}{{a}}\n{{/each}}\n{{/unless}}\n{{> part}}\n";
        assert_eq!(render(text, &scope).unwrap(), "x1y1\n 21\n 31\n[1]\n");
    }

    #[test]
    fn whatever_does_not_fit_is_an_error() {
        let scope = || Scope::new().with("a", 1_u16);
        for text in [
            "{{b}}", "{{a}} {{", "{{#if a}}\n", "{{#each a}}\n{{/each}}", "{{> none}}",
            "{{#if}}\n{{/if}}", "{{#while a}}\n{{/while}}", "nothing",
        ] {
            assert!(render(text, &scope()).is_err(), "{text:?} was rendered");
        }
    }

    #[test]
    fn a_value_for_quotes_stands_between_quotes_only() {
        let scope = || Scope::new().with("a", quoted("x y"));
        assert_eq!(render("\"{{a}}\"", &scope()).unwrap(), "\"x y\"\n");
        assert!(render("{{a}}", &scope()).is_err());
        assert!(render("\"\" {{a}}", &scope()).is_err());
    }

    #[test]
    fn a_value_with_a_meaning_for_nginx_is_never_inserted() {
        for bad in ["\"", "$x", "a\nb", "a\0", "é", "\\\\", ";", "#"] {
            let scope = Scope::new().with("a", quoted(bad));
            assert!(render("\"{{a}}\"", &scope).is_err(), "{bad:?}");
            let scope = Scope::new().with("a", Insert::Word(bad.to_owned()));
            assert!(render("{{a}}", &scope).is_err(), "{bad:?}");
        }
    }
}
