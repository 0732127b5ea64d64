//! Reading nginx configuration, as strictly as ours is written.
//!
//! nginx itself accepts more than this. Whatever is not certain to mean the
//! same to both is an error here.

use ca_core::ConfigPath;

use crate::error::{Error, Result};

/// nginx reads no longer token.
const MAX_TOKEN: usize = 4095;

/// One directive, with its arguments and, for a block, what is inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// 1-based line of its name.
    pub line: usize,
    /// `proxy_pass`, `location`, …
    pub name: String,
    /// Its arguments, unquoted.
    pub args: Vec<String>,
    /// The directives of its block; `None` if it ends with a semicolon.
    pub block: Option<Vec<Directive>>,
}

#[derive(Debug)]
enum Token {
    Text(String),
    End,
    Open,
    Close,
}

/// Parses a configuration.
///
/// # Errors
/// [`Error::Snippet`] with the line of the first problem.
pub fn parse(text: &str) -> Result<Vec<Directive>> {
    let mut reader = Reader {
        rest: text.as_bytes(),
        line: 1,
    };
    let (all, closed) = reader.directives(0)?;
    match closed {
        false => Ok(all),
        true => reader.fail("a } closes nothing"),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, why: &str) -> Result<T> {
        Err(problem(self.line, why))
    }

    /// Directives up to a closing brace (true) or the end (false).
    fn directives(&mut self, depth: usize) -> Result<(Vec<Directive>, bool)> {
        if depth > 4 {
            return self.fail("blocks are nested too deeply");
        }
        let mut all = Vec::new();
        loop {
            let line = self.line_of_next();
            let name = match self.token()? {
                None => return Ok((all, false)),
                Some(Token::Close) => return Ok((all, true)),
                Some(Token::Text(name)) => name,
                Some(Token::End | Token::Open) => return self.fail("a directive has no name"),
            };
            let (args, is_block) = self.arguments()?;
            let block = match is_block {
                false => None,
                true => match self.directives(depth + 1)? {
                    (inner, true) => Some(inner),
                    (_, false) => return self.fail("a block is not closed"),
                },
            };
            all.push(Directive {
                line,
                name,
                args,
                block,
            });
        }
    }

    fn arguments(&mut self) -> Result<(Vec<String>, bool)> {
        let mut args = Vec::new();
        loop {
            match self.token()? {
                Some(Token::Text(text)) => args.push(text),
                Some(Token::End) => return Ok((args, false)),
                Some(Token::Open) => return Ok((args, true)),
                Some(Token::Close) | None => return self.fail("a directive is not ended"),
            }
        }
    }

    fn line_of_next(&mut self) -> usize {
        self.skip();
        self.line
    }

    fn skip(&mut self) {
        while let Some((first, rest)) = self.rest.split_first() {
            match first {
                b'\n' => self.line += 1,
                b' ' => {}
                b'#' => {
                    let end = rest.iter().position(|b| *b == b'\n');
                    self.rest = &rest[end.unwrap_or(rest.len())..];
                    continue;
                }
                _ => return,
            }
            self.rest = rest;
        }
    }

    fn token(&mut self) -> Result<Option<Token>> {
        self.skip();
        let Some((first, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        let simple = match first {
            b';' => Some(Token::End),
            b'{' => Some(Token::Open),
            b'}' => Some(Token::Close),
            _ => None,
        };
        if simple.is_some() {
            self.rest = rest;
            return Ok(simple);
        }
        let text = match first {
            b'"' => {
                self.rest = rest;
                self.quoted()?
            }
            _ => self.bare()?,
        };
        if text.len() > MAX_TOKEN {
            return self.fail("a token is longer than nginx reads");
        }
        match self.rest.first() {
            Some(b' ' | b'\n' | b';') => Ok(Some(Token::Text(text))),
            // `if (…) {`: the parenthesis hugs what is inside.
            Some(b')') => Ok(Some(Token::Text(text))),
            _ => self.fail("a token does not end with a space or a semicolon"),
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let mut text = String::new();
        while let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            match first {
                b'"' => return Ok(text),
                // nginx drops or replaces a backslash before these.
                b'\\'
                    if matches!(
                        rest.first(),
                        Some(b'"' | b'\'' | b'\\' | b't' | b'r' | b'n')
                    ) =>
                {
                    return self.fail("nginx gives this backslash a meaning of its own");
                }
                b' '..=b'~' => text.push(char::from(*first)),
                _ => return self.fail("a string holds a control character or a non-ASCII byte"),
            }
        }
        self.fail("a string is not ended")
    }

    fn bare(&mut self) -> Result<String> {
        let mut text = String::new();
        while let Some((first, rest)) = self.rest.split_first() {
            match first {
                b' ' | b'\n' | b';' => break,
                b'"' | b'\'' | b'{' | b'}' | b'\\' | b'#' | b'`' => {
                    return self.fail("a character that needs quotes stands outside of them");
                }
                b')' if !text.is_empty() && !text.contains('(') => break,
                b'!'..=b'~' => text.push(char::from(*first)),
                _ => return self.fail("a control character or a non-ASCII byte"),
            }
            self.rest = rest;
            if first == &b')' && text == ")" {
                break;
            }
        }
        Ok(text)
    }
}

fn problem(line: usize, why: impl Into<String>) -> Error {
    Error::Snippet {
        line,
        why: why.into(),
    }
}

/// Directives with one argument or more that may stand in our locations.
const IN_LOCATION: &[&str] = &[
    "absolute_redirect", "add_header", "alias", "charset", "client_body_timeout",
    "client_max_body_size", "default_type", "error_page", "etag", "gzip", "if_modified_since",
    "internal", "keepalive_timeout", "log_not_found", "max_ranges", "proxy_buffer_size",
    "proxy_buffering", "proxy_buffers", "proxy_connect_timeout", "proxy_cookie_domain",
    "proxy_cookie_path", "proxy_headers_hash_bucket_size", "proxy_headers_hash_max_size",
    "proxy_hide_header", "proxy_http_version", "proxy_ignore_headers", "proxy_intercept_errors",
    "proxy_max_temp_file_size", "proxy_next_upstream", "proxy_pass", "proxy_read_timeout",
    "proxy_redirect", "proxy_request_buffering", "proxy_send_timeout", "proxy_set_header",
    "proxy_socket_keepalive", "proxy_ssl_certificate", "proxy_ssl_certificate_cache",
    "proxy_ssl_certificate_key", "proxy_ssl_name", "proxy_ssl_protocols", "proxy_ssl_server_name",
    "proxy_ssl_session_reuse", "proxy_ssl_trusted_certificate", "proxy_ssl_verify",
    "proxy_ssl_verify_depth", "recursive_error_pages", "resolver", "resolver_timeout", "return",
    "rewrite", "send_timeout", "set",
];

/// Directives whose one possible form is known.
const EXACTLY: &[(&str, &str)] = &[
    (
        "proxy_pass",
        "https://$ood_ca_address:$ood_ca_port$ood_ca_target",
    ),
    ("proxy_ssl_certificate", "$ood_ca_pki/client.crt"),
    ("proxy_ssl_certificate_key", "$ood_ca_pki/client.key"),
    ("proxy_ssl_verify", "on"),
    ("proxy_ssl_name", "$ood_ca_verify"),
    ("rewrite", "^ /.ood-ca-host/$ood_ca_full last"),
    ("internal", ""),
];

/// Parses a snippet and checks that it holds only what ours hold.
///
/// # Errors
/// [`Error::Snippet`] with the line of the first problem.
pub fn check_snippet(text: &str) -> Result<Vec<Directive>> {
    let all = parse(text)?;
    if all.is_empty() {
        return Err(problem(1, "there is no location"));
    }
    for directive in &all {
        check_location(directive)?;
    }
    Ok(all)
}

/// Locations that no URL reaches.
const NAMED: &[&str] = &[
    "@ood_ca_gate", "@ood_ca_upstream_close", "@ood_ca_upstream_upgrade", "@ood_ca_failed",
];

fn check_location(location: &Directive) -> Result<()> {
    let args: Vec<&str> = location.args.iter().map(String::as_str).collect();
    let ours = match args.as_slice() {
        ["=", path] => {
            ["/pun/proxy", "/pun/rproxy"].contains(path) || path.starts_with("/.ood-ca-host/")
        }
        ["^~", path] => {
            ["/pun/proxy/", "/pun/rproxy/"].contains(path) || path.starts_with("/.ood-ca-")
        }
        [name] => NAMED.contains(name),
        _ => false,
    };
    let (true, "location", Some(block)) = (ours, location.name.as_str(), &location.block) else {
        let shown = format!("{} {}", location.name, args.join(" "));
        return Err(problem(
            location.line,
            format!("not a location of ours: {shown}"),
        ));
    };
    block.iter().try_for_each(check_directive)
}

fn check_directive(directive: &Directive) -> Result<()> {
    let Directive {
        line,
        name,
        args,
        block,
    } = directive;
    match (name.as_str(), block) {
        ("if", Some(inner)) => return check_if(directive, inner),
        ("types", Some(_)) => return Ok(()),
        (_, Some(_)) => return Err(problem(*line, format!("{name} has a block"))),
        _ if !IN_LOCATION.contains(&name.as_str()) => {
            return Err(problem(
                *line,
                format!("{name} is not among our directives"),
            ));
        }
        _ => {}
    }
    let given = args.join(" ");
    if let Some((_, wanted)) = EXACTLY.iter().find(|(n, _)| n == name)
        && *wanted != given
    {
        return Err(problem(*line, format!("{name} is not {wanted:?}")));
    }
    let fits = match (name.as_str(), args.as_slice()) {
        ("internal", []) => true,
        (_, []) => false,
        ("alias" | "proxy_ssl_trusted_certificate", [path]) => ConfigPath::parse(path).is_ok(),
        ("alias" | "proxy_ssl_trusted_certificate", _) => false,
        ("set", [variable, _]) => variable.starts_with("$ood_ca_"),
        ("set", _) => false,
        ("proxy_set_header", [_, _]) | ("return", [_] | [_, _]) => true,
        ("proxy_set_header" | "return", _) => false,
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(problem(
            *line,
            format!("{name} has arguments that are not ours: {given}"),
        )),
    }
}

/// `if` in a location is safe as long as it only returns.
fn check_if(directive: &Directive, inner: &[Directive]) -> Result<()> {
    let only_returns = matches!(inner, [one] if one.name == "return" && one.block.is_none());
    let condition = directive.args.first().is_some_and(|a| a.starts_with('('))
        && directive
            .args
            .last()
            .is_some_and(|a| a == ")" || a.ends_with(')'));
    match only_returns && condition {
        true => check_directive(&inner[0]),
        false => Err(problem(
            directive.line, "an if does something else than return",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directives_blocks_and_strings_are_read_as_nginx_reads_them() {
        let all =
            parse("# c\na b \"c d{;\" $e;\nf {\n  g; # h\n  if ($x ~ \"y)\") { return 1; }\n}\n")
                .unwrap();
        assert_eq!(all[0].args, ["b", "c d{;", "$e"]);
        assert_eq!((all[0].line, all[1].line), (2, 3));
        let inner = all[1].block.as_ref().unwrap();
        assert_eq!(inner[0].name, "g");
        assert_eq!(inner[1].args, ["($x", "~", "y)", ")"]);
    }

    #[test]
    fn what_nginx_may_read_differently_is_refused() {
        for (text, line) in [
            ("a", 1),
            ("a {", 1),
            ("a;\n}", 2),
            ("a \"b", 1),
            ("a \"b\"c;", 1),
            ("a 'b';", 1),
            ("a b\"c;", 1),
            ("a\n\\b;", 2),
            ("a \"\\\\\";", 1),
            ("a \"\\n\";", 1),
            ("a \"\n\";", 1),
            ("a \u{e9};", 1),
            ("a\tb;", 1),
            ("a b\r;", 1),
            ("a b};", 1),
            (";", 1),
            ("{ }", 1),
            ("a { b { c { d { e { f; } } } } }", 1),
        ] {
            match parse(text) {
                Err(Error::Snippet { line: found, .. }) => assert_eq!(found, line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        assert!(parse(&format!("a {};", "b".repeat(5000))).is_err());
    }

    #[test]
    fn only_our_locations_and_directives_pass() {
        for bad in [
            "",
            "include /etc/passwd;",
            "location / { return 200; }",
            "location ~ /pun/proxy/ { return 200; }",
            "location ^~ /pun/proxy/ { root /; }",
            "location ^~ /pun/proxy/ { alias /etc/../; }",
            "location ^~ /pun/proxy/ { alias $x; }",
            "location ^~ /pun/proxy/ { proxy_pass http://x; }",
            "location ^~ /pun/proxy/ { proxy_ssl_verify off; }",
            "location ^~ /pun/proxy/ { set $uri x; }",
            "location ^~ /pun/proxy/ { if ($x) { set $ood_ca_x y; } }",
            "location ^~ /pun/proxy/ { if ($x) { return 1; return 2; } }",
            "location ^~ /pun/proxy/ { location / { return 1; } }",
            "location ^~ /pun/proxy/ ;",
        ] {
            assert!(check_snippet(bad).is_err(), "{bad:?} passed");
        }
        assert!(check_snippet("location ^~ /pun/proxy/ { if ($x = \"y\") { return 1; } }").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}|[ab{};\"#\\\\$()\n ]{0,80}") {
            let _ = check_snippet(&text);
        }
    }
}
