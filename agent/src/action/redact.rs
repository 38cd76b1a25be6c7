//! Takes secrets out of what a script writes, before anything leaves the machine.
//!
//! Works on a stream: a secret that is cut by a chunk's border is held back
//! until it is whole. Lines are the unit; a line that is too long is passed on
//! in pieces that overlap. What is taken out is replaced by `[secret]`.

use regex::bytes::{Regex, RegexBuilder};

/// A line longer than this is passed on in pieces.
const LINE: usize = 64 * 1024;

/// Pieces of a long line overlap by the longest secret that is looked for.
const OVERLAP: usize = 4 * 1024;

const INSTEAD: &[u8] = b"[secret]";

/// Keys that are known by how they begin (each as its maker documents it).
const KEYS: &[&str] = &[
    r"A(?:KIA|SIA)[0-9A-Z]{16}",                                        // AWS access key id
    r"gh[pousr]_[A-Za-z0-9]{36,255}",                                   // GitHub
    r"github_pat_[A-Za-z0-9_]{22,255}",                                 // GitHub, fine-grained
    r"gl(?:pat|dt|rt|ft|soat|cbt|ptt)-[A-Za-z0-9_-]{20,}",              // GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",                                  // Slack
    r"xapp-[0-9]-[A-Za-z0-9-]{10,}",                                    // Slack, app level
    r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",                    // Slack web hook
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",                     // Stripe
    r"whsec_[A-Za-z0-9+/=]{16,}",                                       // Stripe web hook
    r"AIza[0-9A-Za-z_-]{35}",                                           // Google API
    r"ya29\.[0-9A-Za-z_-]{20,}",                                        // Google OAuth
    r"GOCSPX-[A-Za-z0-9_-]{20,}",                                       // Google client secret
    r"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}",                            // OpenAI, Anthropic
    r"npm_[A-Za-z0-9]{36}",                                             // npm
    r"pypi-[A-Za-z0-9_-]{50,}",                                         // PyPI
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",                      // SendGrid
    r"key-[0-9a-f]{32}",                                                // Mailgun
    r"SK[0-9a-f]{32}",                                                  // Twilio
    r"do[opr]_v1_[0-9a-f]{64}",                                         // DigitalOcean
    r"hv[sbr]\.[A-Za-z0-9_-]{20,}",                                     // Vault
    r"dckr_pat_[A-Za-z0-9_-]{20,}",                                     // Docker
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",                              // Shopify
    r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",                                  // Postman
    r"lin_api_[A-Za-z0-9]{40}",                                         // Linear
    r"ntn_[A-Za-z0-9]{40,}",                                            // Notion
    r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",                                 // Telegram bot
    r"AGE-SECRET-KEY-1[0-9A-Z]{50,}",                                   // age
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",      // JSON Web Token
    r"\$(?:1|2[aby]|5|6|7|y|argon2id?|scrypt|apr1)\$[^\s:,;'\x22]{8,}", // password hashes
    r"fw1-[A-Za-z0-9_-]{40,}",                                          // our own invitations
];

/// What stands before a secret: a name and a sign, a scheme, an option.
const NAMED: &[&str] = &[
    // key=value, key: value, "key": "value"
    r#"(?:pass(?:word|wd|wort|phrase)?|pwd|kennwort|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|auth[_-]?key|client[_-]?secret|credentials?|encryption[_-]?key|session[_-]?(?:id|key)|psk|wpa[_-]?passphrase|connection[_-]?string)[A-Za-z0-9_-]{0,32}["']?\s*(?:=>|:=|[=:])\s*["']?(?P<value>[^\s"'&;,]{2,})"#,
    // Authorization: Bearer …
    r#"authorization["']?\s*[:=]\s*["']?(?:bearer|basic|token|digest|negotiate)\s+(?P<value2>[^\s"']{4,})"#,
    r#"\bbearer\s+(?P<value3>[A-Za-z0-9._~+/-]{16,}=*)"#,
    // scheme://user:password@host
    r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@]*:(?P<value4>[^\s@/]{1,256})@",
    // Set-Cookie and Cookie
    r"(?:set-)?cookie:\s*(?P<value5>[^\r\n]{4,})",
    // .netrc and the like
    r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+(?P<value6>\S+)",
    // --password secret
    r"--?(?:password|passwd|pass|secret|token|api-key)[= ](?P<value7>[^\s-]\S*)",
];

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

/// What is looked for; the streams of a script share it.
#[derive(Clone)]
pub(super) struct Patterns {
    keys: Regex,
    named: Regex,
}

/// Redacts one stream.
pub(super) struct Redactor {
    patterns: Patterns,
    /// What has come and is not passed on yet.
    held: Vec<u8>,
    /// Inside a block of private key material.
    in_block: bool,
    /// How many secrets were taken out.
    pub(super) count: u64,
}

/// Memory of one pattern's automaton, bytes: a script's output is read at the
/// speed of a disk with it, and the agent stays small.
const AUTOMATON: usize = 512 * 1024;

impl Patterns {
    /// Patterns that also know `secrets`, whatever they look like.
    pub(super) fn new(secrets: &[String]) -> Self {
        let own: Vec<String> = secrets.iter().filter(|s| !s.is_empty()).map(|secret| regex::escape(secret)).collect();
        let keys: Vec<String> = own.into_iter().chain(KEYS.iter().map(|key| format!("(?:{key})"))).collect();
        let named = NAMED.join("|");
        let build = |text: &str, any_case| {
            let mut builder = RegexBuilder::new(text);
            builder.unicode(false).case_insensitive(any_case).size_limit(8 * 1024 * 1024).dfa_size_limit(AUTOMATON);
            builder.build()
        };
        let never = || Regex::new("$.^");
        // The patterns are ours and are built in a test; own secrets are escaped.
        #[expect(clippy::expect_used, reason = "these patterns are built in a test")]
        let built = |text: &str, any_case| build(text, any_case).or_else(|_| never()).expect("a pattern");
        Self { keys: built(&keys.join("|"), false), named: built(&named, true) }
    }
}

impl Redactor {
    /// A redactor for one stream.
    pub(super) fn new(patterns: Patterns) -> Self {
        Self { patterns, held: Vec::new(), in_block: false, count: 0 }
    }

    /// Takes a chunk in, and passes on what is certain.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.held.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.pass_line(out);
            } else {
                while self.held.len() > LINE {
                    self.pass_part(out);
                }
            }
        }
    }

    /// The end of the stream.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.pass_line(out);
        }
    }

    fn pass_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.held);
        let opens = has(&line, BEGIN) && (has(&line, b"PRIVATE KEY") || has(&line, b"PGP PRIVATE"));
        if self.in_block || opens {
            if !self.in_block {
                self.count += 1;
                out.extend_from_slice(INSTEAD);
                out.push(b'\n');
            }
            // A block on one line, with \n written out, ends where it begins.
            self.in_block = !has(&line, END);
            return;
        }
        let cut = line.len();
        self.redacted(&line, cut, out);
    }

    /// Passes on the first part of a line that is too long to hold.
    fn pass_part(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.held);
        let mut cut = line.len() - OVERLAP;
        // A secret that lies across the cut stays whole behind it.
        for (start, end) in self.secrets(&line) {
            if start < cut && cut < end {
                cut = if start == 0 { end.min(line.len()) } else { start };
            }
        }
        if !self.in_block {
            self.redacted(&line, cut, out);
        }
        self.held = line.get(cut..).unwrap_or_default().to_vec();
    }

    /// Where secrets lie, in order and apart.
    fn secrets(&self, line: &[u8]) -> Vec<(usize, usize)> {
        let mut found: Vec<(usize, usize)> = self.patterns.keys.find_iter(line).map(|m| (m.start(), m.end())).collect();
        for captures in self.patterns.named.captures_iter(line) {
            let value = captures.iter().skip(1).flatten().next();
            found.extend(value.map(|value| (value.start(), value.end())));
        }
        found.sort_unstable();
        let mut apart: Vec<(usize, usize)> = Vec::with_capacity(found.len());
        for (start, end) in found {
            match apart.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => apart.push((start, end)),
            }
        }
        apart
    }

    fn redacted(&mut self, line: &[u8], cut: usize, out: &mut Vec<u8>) {
        let mut at = 0;
        for (start, end) in self.secrets(line).into_iter().filter(|(_, end)| *end <= cut) {
            out.extend_from_slice(line.get(at..start).unwrap_or_default());
            out.extend_from_slice(INSTEAD);
            self.count += 1;
            at = end;
        }
        out.extend_from_slice(line.get(at..cut).unwrap_or_default());
    }
}

/// One line of text without its secrets.
pub(crate) fn line(text: &str) -> String {
    let mut redactor = Redactor::new(Patterns::new(&[]));
    let mut out = Vec::with_capacity(text.len());
    redactor.feed(text.as_bytes(), &mut out);
    redactor.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn has(line: &[u8], what: &[u8]) -> bool {
    line.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line, and the part of it that must not leave.
    fn planted() -> Vec<(String, String)> {
        let expand = |text: &str| {
            let sample = |kind: &str, length: usize| {
                let of = match kind {
                    "a" => "aB3",
                    "A" => "QZ7",
                    _ => "0123456789abcdef",
                };
                of.chars().cycle().take(length).collect::<String>()
            };
            let pattern = regex::Regex::new(r"\{([aAh])(\d+)\}").expect("a pattern");
            let filled = |found: &regex::Captures<'_>| sample(&found[1], found[2].parse().expect("a number"));
            pattern.replace_all(text, filled).into_owned()
        };
        let lines = include_str!("../../tests/data/secrets.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let line = expand(line);
                let secret = line.split('§').nth(1).expect("a secret").to_owned();
                (line.replace('§', ""), secret)
            })
            .collect()
    }

    fn through(text: &[u8], chunk: usize, secrets: &[String]) -> String {
        let mut redactor = Redactor::new(Patterns::new(secrets));
        let mut out = Vec::new();
        for piece in text.chunks(chunk) {
            redactor.feed(piece, &mut out);
        }
        redactor.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn forty_kinds_of_secrets_stay_wherever_the_chunks_are_cut() {
        let planted = planted();
        assert!(planted.len() >= 40, "{}", planted.len());
        for (line, secret) in &planted {
            let text = format!("before\n{line}\nafter\n");
            for chunk in [1, 7, 64, text.len()] {
                let out = through(text.as_bytes(), chunk, &[]);
                assert!(!out.contains(secret.as_str()), "{secret} in chunks of {chunk}: {out}");
                assert!(out.contains("[secret]") && out.starts_with("before\n") && out.ends_with("after\n"), "{out}");
            }
        }
    }

    #[test]
    fn a_private_key_is_taken_out_as_a_block() {
        let text = "a\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nAAAABG5vbmUA\n-----END OPENSSH PRIVATE KEY-----\nb\n";
        for chunk in [1, 10, 1000] {
            assert_eq!(through(text.as_bytes(), chunk, &[]), "a\n[secret]\nb\n");
        }
        let public = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(through(public.as_bytes(), 9, &[]), public, "what is public stays");
    }

    #[test]
    fn a_secret_in_a_line_without_an_end_stays_too() {
        let secret = format!("ghp_{}", "x1Y".repeat(12));
        // At every place around the border of a piece.
        for before in (LINE - OVERLAP - 60)..(LINE - OVERLAP + 60) {
            let text = format!("{} {secret} {}", "-".repeat(before), "-".repeat(LINE));
            let out = through(text.as_bytes(), 4096, &[]);
            assert!(!out.contains(&secret), "at {before}");
            assert_eq!(out.len(), text.len() - secret.len() + INSTEAD.len(), "nothing else is lost at {before}");
        }
    }

    #[test]
    fn secrets_that_were_given_as_parameters_are_known() {
        let out = through(b"the pin is 12.34!\n", 3, &["12.34!".to_owned()]);
        assert_eq!(out, "the pin is [secret]\n");
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        let text = "passes: 3 of 4\nfree: 12 GiB\nToken ring adapter\nhttps://example.com/a:b\n\0\u{fffd}raw\n";
        assert_eq!(through(text.as_bytes(), 5, &[]), text);
    }
}
