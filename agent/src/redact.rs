//! Removes secrets from a script's output before it leaves the machine.
//!
//! Works on a stream: a secret that is split between chunks is held back until it is complete.
//! The unit is a line. A line that is too long is passed on in overlapping pieces, and a secret
//! is never separated from the text that identifies it. A removed secret is replaced by
//! `[secret]`.

use regex::bytes::{Regex, RegexBuilder};

/// A line longer than this is passed on in pieces.
const LINE: usize = 64 * 1024;

/// Pieces of a long line overlap by the longest secret with its name: a parameter has at most 8
/// KiB, and web tokens are rarely longer.
const OVERLAP: usize = 16 * 1024;

const INSTEAD: &[u8] = b"[secret]";

/// Keys recognised by their prefix, as their makers document it.
const KEYS: &[&str] = &[
    r"A(?:KIA|SIA)[0-9A-Z]{16}",                                        // AWS access key id
    r"gh[pousr]_[A-Za-z0-9]{36,}",                                      // GitHub
    r"github_pat_[A-Za-z0-9_]{22,}",                                    // GitHub, fine-grained
    r"gl(?:pat|dt|rt|ft|soat|cbt|ptt)-[A-Za-z0-9_-]{20,}",              // GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",                                  // Slack
    r"xapp-[0-9]-[A-Za-z0-9-]{10,}",                                    // Slack, app level
    r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",                    // Slack web hook
    r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",                     // Stripe
    r"whsec_[A-Za-z0-9+/=]{16,}",                                       // Stripe web hook
    r"AIza[0-9A-Za-z_-]{35}",                                           // Google API
    r"ya29\.[0-9A-Za-z_-]{20,}",                                        // Google OAuth
    r"GOCSPX-[A-Za-z0-9_-]{20,}",                                       // Google client secret
    r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}",                          // OpenAI, Anthropic
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
    r"\bhf_[A-Za-z0-9]{30,}",                                           // Hugging Face
    r"discord(?:app)?\.com/api/webhooks/[0-9]+/[A-Za-z0-9_-]{20,}",     // Discord web hook
    r"fw1-[A-Za-z0-9_-]{40,}",                                          // our own invitations
];

/// Names of secrets, with common suffixes.
const NAMES: &str = "(?:pass(?:word|wort|phrase)|kennwort|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|\
    private[_-]?key|pre-?shared[_-]?key|auth[_-]?key|client[_-]?secret|credentials?|encryption[_-]?key|session[_-]?(?:id|key)|psk|\
    connection[_-]?string|sharedaccesssignature)\
    (?:[_-]?(?:hash|enc|key|value|old|new|db|root|admin|user|prod|test|id|\\d{1,4})){0,2}";

/// A quoted secret: in escaped quotes inside another string, in double quotes, in single quotes.
/// Empty quotes match, too, but contain no secret.
const QUOTED: &str =
    r#"\\{1,4}"(?P<within>.{2,}?)\\{1,4}"|"(?P<double>(?:[^"\\]|\\.){2,})"|'(?P<single>[^']{2,})'|""|''"#;

/// A name and a separator before a secret. There is one regex for each kind, since the match of
/// one may begin inside that of another.
fn named() -> [String; 3] {
    [
        // "key": "value" and the like; an unquoted value ends with the element.
        format!(
            r#"{NAMES}\\{{0,4}}["']\s*(?:=>|:=|[=:])\s*(?:{QUOTED}|(?:null|true|false)\b|(?P<plain>[^\s,}}\]"']{{2,}}))"#
        ),
        // key=value, key: value; in a URL the value ends with the parameter.
        format!(
            r#"[?&]{NAMES}=(?P<parameter>[^\s&"'\#]{{2,}})|{NAMES}(?:\x1b\[[0-9;]*m){{0,3}}\s*(?:=>|:=|[=:])\s*(?:\x1b\[[0-9;]*m){{0,3}}(?:{QUOTED}|["']?(?P<plain>\S{{2,}}))"#
        ),
        BESIDE.join("|"),
    ]
}

/// Other prefixes of a secret: schemes, options, elements.
const BESIDE: &[&str] = &[
    // Authorization: Bearer …
    r#"authorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token|digest|negotiate|apikey|key)\s+(?P<value>[^\s"']{4,})|(?P<value1>[^\s"']*[0-9][^\s"']{3,}))"#,
    r#"\bbearer\s+(?P<value2>[A-Za-z0-9._~+/-]{16,}=*)"#,
    // scheme://user:password@host, scheme://token@host
    r#"[a-z][a-z0-9+.-]*://[^\s/:@"']*:(?P<value3>[^\s/"']+)@"#,
    r#"[a-z][a-z0-9+.-]*://(?P<value4>[A-Za-z0-9_-]{20,})@"#,
    // Set-Cookie and Cookie
    r"(?:set-)?cookie:\s*(?P<value5>[^\r\n]{4,})",
    // .netrc and the like, also over several lines
    r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+(?P<value6>\S+)",
    r"^\s+password\s+(?P<value7>\S*[0-9!-/:-@]\S*)\s*$",
    // --password secret; what common programs take
    r#"(?:^|[\s"'=])--?(?:password|passwd|pass|secret|token|api-key)[= ]\s*(?P<value8>[^\s=:-]\S*)"#,
    r#"(?:^|bin/|[\s"'=(;&|])(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump|mariadb-admin)\s(?:[^|;\n]*?\s)?(?-i:-p)["']?(?P<value9>[^\s"']{2,})"#,
    r"\bsshpass\s+(?-i:-p)\s*(?P<value10>\S+)",
    r#"\bsshpass=["']?(?P<value35>[^\s"']+)"#,
    r#"\bcurl\b[^|;]*?\s(?:-(?-i:[A-Za-z#]*u)|--(?:proxy-)?user)[ =]?["']?[^\s:]+:(?P<value11>[^\s"']+)"#,
    r#"(?:^|[\s"'=])--oauth2-bearer[ =]["']?(?P<value36>[^\s"']+)"#,
    // options of other common programs, long and short
    r#"(?:^|[\s"'=])--?[\w-]+-(?:password|passwd|passphrase|passin|passout|secret|token|api-?key)[= ]\s*["']?(?P<value21>[^\s"'=:-][^\s"']*)"#,
    r#"(?:^|[\s"'=])--?(?:passphrase|passin|passout|pwd|apikey|access-token|auth-token)[= ]\s*["']?(?P<value22>[^\s"'=-][^\s"']*)"#,
    r"\bpass:(?P<value23>[^\s:/]{2,})(?:\s|$)",
    r"\bredis-cli\b[^|;\n]*?\s(?-i:-a)\s+(?P<value24>\S{2,})",
    r"\b(?:zip|unzip|sqlcmd|ipmitool|mosquitto_pub|mosquitto_sub)\b[^|;\n]*?\s(?-i:-P)\s*(?P<value31>\S{2,})",
    r"\b(?:mongo|mongosh|mongodump|mongorestore|docker\s+login|podman\s+login|az\s+login)\b[^|;\n]*?\s(?-i:-p)\s*(?P<value32>\S{2,})",
    r"(?:^|\s)-(?:src|dest)?(?:storepass|keypass)\s+(?P<value37>\S{2,})",
    r"\b(?:sqlplus|sqlldr|rman|expdp|impdp)\b[^|;\n]*?\s[\w$#]+/(?P<value38>[^\s@/]{2,})",
    r"\bjdbc:oracle:\w+:[^\s/@]+/(?P<value39>[^\s@]{2,})@",
    r"\b(?:plink|pscp|psftp|putty)\b[^|;\n]*?\s-pw\s+(?P<value40>\S{2,})",
    r"\buser(?:name)?=[^\s,%]+%(?P<value41>[^\s,]{2,})",
    r#"\bnmcli\b[^|;\n]*?\s(?:password|(?:wifi-sec|802-11-wireless-security)\.\S+|802-1x\.(?:private-key-)?password)\s+["']?(?P<value42>[^\s"']{2,})"#,
    r#"\bssh-keygen\b[^|;\n]*?\s(?-i:-N)\s*["']?(?P<value43>[^\s"']{2,})"#,
    r"\bnet\s+user\s+[^\s/]+\s+(?P<value44>[^\s/]\S+)",
    r#"\becho\s+(?:-\w+\s+)*["']?[\w.-]+:(?P<value45>[^\s"'|]{2,})["']?\s*\|\s*(?:sudo\s+)?(?:/\S*/)?chpasswd"#,
    r"[?&]x-amz-(?:signature|security-token|credential)=(?P<value46>[^\s&]{4,})",
    // .pgpass: host, port, database, user, password
    r"(?:^|\s)[^\s:]+:(?:[0-9]{1,5}|\*):[^\s:]+:[^\s:]+:(?P<value47>[^\s:]{2,})(?:\s|$)",
    r#"\bdefine\(\s*["']\w*(?:password|secret|key|salt|token)\w*["']\s*,\s*["'](?P<value48>[^"']{2,})"#,
    r#"\bpassword\(\s*["'](?P<value49>[^"']{2,})"#,
    r"\bldap(?:search|add|modify|delete|whoami|passwd)\b[^|;\n]*?\s(?-i:-w)\s*(?P<value33>[^\s-]\S+)",
    r"\bsnmp(?:walk|get|getnext|set|bulkwalk|bulkget|table|status|df)\b[^|;\n]*?\s(?-i:-A)\s*(?P<value34>\S{2,})",
    r"\bsnmp(?:walk|get|getnext|set|bulkwalk|bulkget|table|status|df)\b[^|;\n]*?\s(?-i:-X)\s*(?P<value50>\S{2,})",
    r"\bsnmp(?:walk|get|getnext|set|bulkwalk|bulkget|table|status|df)\b[^|;\n]*?\s(?-i:-c)\s*(?P<value51>\S{2,})",
    r"\b(?:7z|7za|7zr|unrar|rar)\s[^|;\n]*?(?-i:-p|-hp)(?P<value25>[^\s]{2,})",
    r#"\b(?:smbclient|rpcclient|net|mount\.cifs|lftp|wget|curl|winexe|smbget|smbcacls)\b[^|;\n]*?\s(?:(?-i:-U|-u)|--user(?:name)?)[ =]?["']?[^\s%,]+[%,](?P<value26>[^\s"']+)"#,
    r"\bxfreerdp\b[^|;\n]*?\s/p:(?P<value27>\S+)",
    r"\bhtpasswd\b[^|;\n]*?\s-\w*b\w*\s+\S+\s+\S+\s+(?P<value28>\S+)",
    r"\bchpasswd\b[^|;\n]*?<<<\s*\S+:(?P<value29>\S+)",
    r#"\becho\s+(?:-n\s+)?["']?(?P<value30>\S{2,}?)["']?\s*\|\s*sudo\s+-\w*S"#,
    // short names: only where another meaning is unlikely
    r#"(?:^|[^/\w])["']?[\w-]*passwd(?:["']\s*[:=]|\s*=)\s*["']?(?P<value12>[^\s"',}\]&]{2,})"#,
    r#"(?:^|[^/\w])["']?[\w-]*pwd["']?\s*[:=]\s*["']?(?P<value13>[^\s/"'][^\s"',}\]&]+)"#,
    r#"(?:^|[\s"'?&{,;(])(?:\w+[_-])?pass["']?\s*[:=]\s*["']?(?P<value14>[^\s"',}\]&]{2,})"#,
    // settings without a separator
    r#"\b(?:requirepass|masterauth|bindpw|wpa_passphrase)\s+["']?(?P<value15>[^\s"']{2,})"#,
    r#"\bwpa[_-]?passphrase=["']?(?P<value16>[^\s"']{2,})"#,
    r"(?:identified\s+by|\bpassword)\s+'(?P<value17>[^']{2,})'",
    r#"identified\s+by\s+(?:values\s+)?"?(?P<value52>[^\s"';]{2,})"#,
    r#"\b(?:pw|sig)=(?P<value18>[^\s"'&;]{4,})"#,
    // <password>secret</password>, <add key="Password" value="secret"/>
    r"<(?:\w+:)?\w*(?:pass(?:word|wd|phrase)?|kennwort|secret|token|api[_-]?key)\b[^>]*>(?P<value19>[^<]{2,})<",
    r#"(?:key|name)=["'][^"']*(?:password|passwd|secret|token|apikey)[^"']*["']\s+value=["'](?P<value20>[^"']{2,})"#,
];

/// Where private key material begins and ends: PEM, OpenPGP, SSH2, PuTTY.
const BEGIN: &str = r"-----\s?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?\s?-----|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----|Private-Lines: [0-9]{1,6}";
const END: &str = r"-----\s?END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?\s?-----|---- END SSH2 [A-Z ]{1,40} ----|Private-MAC: [0-9a-f]{40,128}";

/// Maximum length of a block's end marker.
const MARK: usize = 160;

/// The patterns to search for, shared by the streams of a script.
#[derive(Clone)]
pub(super) struct Patterns {
    own: Own,
    keys: Regex,
    named: [Regex; 3],
    begin: Regex,
    end: Regex,
}

/// Secrets known by their value, such as secret parameters.
#[derive(Debug, Clone)]
pub(super) struct Own(Vec<Regex>);

/// Redacts one stream.
pub(super) struct Redactor {
    patterns: Patterns,
    /// Bytes received and not passed on yet.
    held: Vec<u8>,
    /// Whether the stream is inside something already replaced.
    inside: Inside,
    /// How many secrets were taken out.
    pub(super) count: u64,
}

/// Something that was replaced and has not ended yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    /// A block of private key material; whether any key material has arrived.
    Block(bool),
    /// A secret longer than the buffer; it ends at white space.
    Word,
    /// A secret longer than the buffer; it ends at the end of the line.
    Line,
}

/// Memory limit of one pattern's automaton, bytes. It keeps the agent small, and is enough to
/// search at the speed of a disk.
const AUTOMATON: usize = 512 * 1024;

fn build(text: &str, any_case: bool) -> Result<Regex, regex::Error> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).case_insensitive(any_case).size_limit(8 * 1024 * 1024).dfa_size_limit(AUTOMATON);
    builder.build()
}

impl Own {
    /// These secrets in all their encodings.
    ///
    /// # Errors
    /// When a pattern cannot be built; then no output may be passed on.
    pub(super) fn new(secrets: &[String]) -> Result<Self, regex::Error> {
        let shapes = secrets.iter().flat_map(|secret| shapes(secret));
        shapes.map(|shape| build(&regex::escape(&shape), false)).collect::<Result<_, _>>().map(Self)
    }

    fn places(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let found = self.0.iter().flat_map(|own| own.find_iter(text));
        found.map(|own| (own.start(), own.end())).collect()
    }
}

impl Patterns {
    /// All known patterns, and `own`. Takes some 2 ms.
    #[expect(clippy::expect_used, reason = "these patterns are constants, and built in a test")]
    pub(super) fn new(own: Own) -> Self {
        let keys: Vec<String> = KEYS.iter().map(|key| format!("(?:{key})")).collect();
        let build = |text: &str, any_case| build(text, any_case).expect("a pattern");
        Self {
            own,
            keys: build(&keys.join("|"), false),
            named: named().map(|text| build(&text, true)),
            begin: build(BEGIN, false),
            end: build(END, false),
        }
    }
}

/// The encodings in which a secret may appear: plain and line by line; in JSON once and twice;
/// quoted for a shell; in a URL; in HTML; in base64.
fn shapes(secret: &str) -> Vec<String> {
    let json = in_json(secret);
    let mut ascii = String::new();
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| ascii += &format!("\\u{unit:04x}"));
        }
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let in_address = |small: bool, space: &str| -> String {
        let one = |byte: u8| match char::from(byte) {
            ' ' => space.to_owned(),
            c if plain(c) => c.to_string(),
            _ if small => format!("%{byte:02x}"),
            _ => format!("%{byte:02X}"),
        };
        secret.bytes().map(one).collect()
    };
    let with = |before: &str, chars: &str| -> String {
        secret.chars().flat_map(|c| [if chars.contains(c) { before } else { "" }.to_owned(), c.to_string()]).collect()
    };
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let shell: String = secret
        .chars()
        .map(|c| if plain(c) || "/@%+:,".contains(c) { c.to_string() } else { format!("\\{c}") })
        .collect();
    let mut all: Vec<String> = secret.lines().filter(|line| line.len() >= 4).map(str::to_owned).collect();
    all.extend([in_address(false, "%20"), in_address(true, "%20"), in_address(false, "+"), in_address(true, "+")]);
    all.extend([secret.replace('\'', r"'\''"), secret.replace('\'', "'\"'\"'"), secret.replace('"', "\"\"")]);
    all.extend([shell, with("\\", "\"\\$`"), with("`", "\"`$")]);
    all.extend([html.clone(), html.replace('"', "&quot;"), html.replace('"', "&quot;").replace('\'', "&#39;")]);
    all.extend([in_json(&json), json.replace('/', r"\/"), ascii, json, secret.to_owned()]);
    all.extend(in_base64(secret.as_bytes()));
    all.retain(|shape| !shape.is_empty());
    all.sort_unstable();
    all.dedup();
    all
}

fn in_json(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap_or_default();
    json.get(1..json.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// The parts of the base64 text that appear at each of the three possible alignments, without
/// their ends. Short ones are left out, since they would match by chance.
fn in_base64(secret: &[u8]) -> Vec<String> {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits =
        |at: usize| -> usize { usize::from(secret.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1)) };
    let from = |skip: usize| -> String {
        let all = (secret.len() * 8).saturating_sub(skip) / 6;
        let sign = |n: usize| (0..6).fold(0, |sum, bit| sum << 1 | bits(skip + n * 6 + bit));
        (0..all).filter_map(|n| SIGNS.get(sign(n)).map(|sign| char::from(*sign))).collect()
    };
    [0, 4, 2]
        .into_iter()
        .map(from)
        .filter(|text| text.len() >= 8)
        .flat_map(|text| {
            let address = text.replace('+', "-").replace('/', "_");
            [text, address]
        })
        .collect()
}

/// The secrets in a text, sorted and without overlaps.
struct Found {
    /// With the text that identifies them, such as a name before: never split.
    all: Vec<(usize, usize)>,
    /// The parts that are replaced.
    secret: Vec<(usize, usize)>,
}

/// Merges overlapping ranges.
fn apart(mut found: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
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

impl Redactor {
    /// A redactor for one stream.
    pub(super) fn new(patterns: Patterns) -> Self {
        Self { patterns, held: Vec::new(), inside: Inside::Nothing, count: 0 }
    }

    /// Takes in a chunk and passes on what is certain.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // In steps, so that little is held even if much arrives at once.
            for piece in piece.chunks(OVERLAP) {
                self.held.extend_from_slice(piece);
                if self.held.len() > LINE && !piece.ends_with(b"\n") {
                    self.pass(false, out);
                }
            }
            if piece.ends_with(b"\n") {
                self.pass(true, out);
            }
        }
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.pass(true, out);
    }

    /// Passes on the held bytes: all of them, or those that no further bytes can affect.
    fn pass(&mut self, all: bool, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        loop {
            rest = match self.leave(rest) {
                Some(rest) => rest,
                None => {
                    // The end marker may have arrived in part.
                    let kept = if all || !matches!(self.inside, Inside::Block(_)) { 0 } else { rest.len().min(MARK) };
                    self.held = rest.get(rest.len() - kept..).unwrap_or_default().to_vec();
                    return;
                }
            };
            let block = self.patterns.begin.find(rest).map(|mark| (mark.start(), mark.end()));
            let text = rest.get(..block.map_or(rest.len(), |(start, _)| start)).unwrap_or_default();
            let certain = all || block.is_some();
            let passed =
                self.redacted(text, if certain { text.len() } else { text.len().saturating_sub(OVERLAP) }, out);
            let Some((_, end)) = block else {
                self.held = text.get(passed..).unwrap_or_default().to_vec();
                return;
            };
            self.take_out(out);
            self.inside = Inside::Block(false);
            rest = rest.get(end..).unwrap_or_default();
        }
    }

    /// Skips the rest of what was replaced; none if it has not ended yet.
    fn leave<'a>(&mut self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let from = match self.inside {
            Inside::Nothing => Some(0),
            Inside::Block(seen) => match self.patterns.end.find(rest) {
                Some(mark) => Some(mark.end()),
                // The marker was only mentioned: ordinary text follows.
                None if !seen && is_ordinary(rest) => Some(0),
                None => {
                    self.inside = Inside::Block(seen || is_key_like(rest));
                    None
                }
            },
            Inside::Word => rest.iter().position(u8::is_ascii_whitespace),
            Inside::Line => rest.iter().position(|byte| b"\r\n".contains(byte)),
        }?;
        self.inside = Inside::Nothing;
        rest.get(from..)
    }

    fn take_out(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(INSTEAD);
        self.count += 1;
    }

    fn secrets(&self, text: &[u8]) -> Found {
        let mut all = self.patterns.own.places(text);
        all.extend(self.patterns.keys.find_iter(text).map(|key| (key.start(), key.end())));
        let mut secret = all.clone();
        for captures in self.patterns.named.iter().flat_map(|named| named.captures_iter(text)) {
            all.extend(captures.get(0).map(|all| (all.start(), all.end())));
            let value = captures.iter().skip(1).flatten().next();
            secret.extend(value.map(|value| (value.start(), value.end())));
        }
        Found { all: apart(all), secret: apart(secret) }
    }

    /// Passes on about `until` bytes of a text and returns how many.
    fn redacted(&mut self, text: &[u8], until: usize, out: &mut Vec<u8>) -> usize {
        let found = self.secrets(text);
        let mut cut = until;
        if let Some((start, end)) = found.all.iter().find(|(start, end)| *start < until && until < *end) {
            // A secret across the cut stays complete behind it. A secret without an end in the
            // held bytes is removed as far as it goes.
            cut = if *start == 0 { *end } else { *start };
        }
        let mut at = 0;
        for (start, end) in found.secret.into_iter().filter(|(_, end)| *end <= cut) {
            out.extend_from_slice(text.get(at..start).unwrap_or_default());
            self.take_out(out);
            at = end;
            if until < text.len() && end == text.len() {
                let words = text.get(start..end).is_some_and(|secret| secret.contains(&b' '));
                self.inside = if words { Inside::Line } else { Inside::Word };
            }
        }
        out.extend_from_slice(text.get(at..cut).unwrap_or_default());
        cut
    }
}

/// Whether a line is ordinary text: neither key material nor a header above it such as
/// `Proc-Type: 4,ENCRYPTED`.
fn is_ordinary(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let header = line.split(|byte| *byte == b':').next().is_some_and(|name| {
        name.len() < line.len() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    });
    line.contains(&b' ') && !header && !is_key_like(line)
}

/// Whether there is a run of base64 longer than any word.
fn is_key_like(line: &[u8]) -> bool {
    let sign = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    line.split(|byte| !sign(byte)).any(|run| run.len() >= 40)
        || (line.trim_ascii().len() >= 12 && line.trim_ascii().iter().all(sign))
}

/// Removes secrets from single lines.
pub(crate) struct Lines(Patterns);

impl Lines {
    /// For lines that are not a script's output.
    pub(crate) fn new() -> Self {
        Self(Patterns::new(Own(Vec::new())))
    }

    /// A line without its secrets.
    pub(crate) fn line(&self, text: &str) -> String {
        let mut redactor = Redactor::new(self.0.clone());
        let mut out = Vec::with_capacity(text.len());
        redactor.feed(text.as_bytes(), &mut out);
        redactor.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sample lines, each with the part that must be removed.
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
        let lines = include_str!("../tests/data/secrets.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let line = expand(line);
                let secret = line.split('§').nth(1).expect("a secret").to_owned();
                (line.replace('§', ""), secret)
            })
            .collect()
    }

    fn through(text: &[u8], chunk: usize, secrets: &[String]) -> String {
        let mut redactor = Redactor::new(Patterns::new(Own::new(secrets).expect("patterns")));
        let mut out = Vec::new();
        for piece in text.chunks(chunk) {
            redactor.feed(piece, &mut out);
        }
        redactor.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn forty_kinds_of_secrets_are_removed_at_any_chunk_size() {
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
    fn a_private_key_is_removed_as_a_block() {
        let text = "a\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nAAAABG5vbmUA\n-----END OPENSSH PRIVATE KEY-----\nb\n";
        for chunk in [1, 10, 1000] {
            assert_eq!(through(text.as_bytes(), chunk, &[]), "a\n[secret]\nb\n");
        }
        // As a log prints it, each line after the time and the program.
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
        let lines = [
            "-----BEGIN PRIVATE KEY-----",
            body,
            "MzEfYyjiWA4R4/M2bS1GB4t7NXp98C3S",
            "-----END PRIVATE KEY-----",
            "done",
        ];
        let log: String = lines.iter().map(|line| format!("Nov 30 12:00:01 kasse app[12]: {line}\n")).collect();
        for chunk in [1, 10, 1000] {
            let out = through(log.as_bytes(), chunk, &[]);
            assert!(!out.contains("MIIE") && !out.contains("MzEf") && out.ends_with("app[12]: done\n"), "{out}");
        }
        let public = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(through(public.as_bytes(), 9, &[]), public, "what is public stays");
    }

    /// The end of the first piece of a long line that arrives in chunks of this size.
    fn border(chunk: usize) -> usize {
        let chunk = chunk.min(OVERLAP);
        (LINE / chunk + 1) * chunk - OVERLAP
    }

    /// Tests a long line with `planted` at every position around the end of a piece.
    fn around_the_border(planted: &str, secret: &str) {
        for chunk in [4096, 5000, 64 * LINE] {
            for before in (border(chunk) - planted.len() - 20)..(border(chunk) + 20) {
                let text = format!("{} {planted} {}\n", "-".repeat(before), "-".repeat(LINE));
                let out = through(text.as_bytes(), chunk, &[]);
                assert!(!out.contains(secret), "{planted} at {before}");
                assert_eq!(out, text.replace(secret, "[secret]"), "nothing else is lost at {before}");
            }
        }
    }

    #[test]
    fn a_secret_in_a_long_line_is_removed() {
        around_the_border(&format!("ghp_{}", "x1Y".repeat(12)), &format!("ghp_{}", "x1Y".repeat(12)));
        around_the_border("password=hunter2hunter2", "hunter2hunter2");
        around_the_border("postgres://kasse:geheim99@db/pos", "geheim99");
        around_the_border(r#""client_secret" : "zzz999yyy""#, "zzz999yyy");
    }

    #[test]
    fn every_kind_of_secret_is_removed_from_long_lines_and_at_piece_borders() {
        // Two kinds are recognised only at the beginning of a line.
        let alone = |line: &str| ["password ", "mysql "].iter().any(|word| line.trim_start().starts_with(word));
        for (line, secret) in planted().into_iter().filter(|(line, _)| !alone(line)) {
            for before in ((border(4096) - line.len() - 8)..(border(4096) + 8)).step_by(7) {
                let text = format!("{} {line}\n{}", "-".repeat(before), "after");
                let out = through(text.as_bytes(), 4096, &[]);
                assert!(!out.contains(&secret) && out.ends_with("after"), "{line} at {before}");
            }
            // With long stretches of other text around it.
            let text = format!("{} {line} {}\nafter", "-".repeat(3 * LINE), "-".repeat(3 * LINE));
            let out = through(text.as_bytes(), 16 * 1024, &[]);
            assert!(!out.contains(&secret) && out.ends_with("after"), "{line}");
        }
    }

    #[test]
    fn a_private_key_in_one_long_line_is_removed_as_a_block() {
        let body = "q83vEjRWeJq83vEj".repeat(200);
        for between in [r"\n", " ", "|"] {
            let key = format!("-----BEGIN EC PRIVATE KEY-----{between}{body}{between}-----END EC PRIVATE KEY-----");
            for before in (border(4096) - 4000..LINE + OVERLAP).step_by(331).chain([0, 10, 3 * LINE]) {
                let text = format!("{}{key}{}\nafter\n", "-".repeat(before), "=".repeat(LINE));
                let out = through(text.as_bytes(), 4096, &[]);
                assert_eq!(out, text.replace(&key, "[secret]"), "at {before}");
            }
        }
        let json = r#"{"key":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n","free":"12 GiB"}"#;
        assert_eq!(through(json.as_bytes(), 5, &[]), r#"{"key":"[secret]\n","free":"12 GiB"}"#);
    }

    #[test]
    fn a_secret_without_an_end_is_removed_as_far_as_it_goes() {
        for (name, after) in [("password=", " and on\n"), ("cookie: a b ", "\nand on\n"), ("xoxb-", " and on\n")] {
            let text = format!("{name}{}{after}", "S".repeat(5 * LINE));
            for chunk in [1000, 16 * 1024, text.len()] {
                let out = through(text.as_bytes(), chunk, &[]);
                assert!(!out.contains("SS") && out.ends_with(after) && out.matches("[secret]").count() == 1, "{out}");
            }
        }
        let key = format!("-----BEGIN RSA PRIVATE KEY-----\n{}", "MIIE\n".repeat(LINE));
        assert_eq!(through(key.as_bytes(), 4096, &[]), "[secret]", "one that never ends");
    }

    #[test]
    fn secret_parameters_are_removed_in_every_encoding() {
        let out = through(b"the pin is 12.34!\n", 3, &["12.34!".to_owned()]);
        assert_eq!(out, "the pin is [secret]\n");
        for (secret, spelled) in [
            ("Geheimü", r#"{"key": "Geheim\u00fc"}"#),
            ("p@ss/w0rd", r#"{"key":"p@ss\/w0rd"}"#),
            ("p@ss/w0rd", "https://host/?q=p%40ss%2Fw0rd&x=1"),
            ("it's me", r"+ echo 'it'\''s me'"),
            ("a$b w0rd", r"a\$b\ w0rd"),
            ("p@ss/w0rd", "https://host/?q=p%40ss%2fw0rd&x=1"),
            ("<a&\"w0rd", "&lt;a&amp;&quot;w0rd"),
            ("p@ss/w0rd", r#"{"log":"{\\\"p@ss/w0rd\\\"}"}"#),
            // Base64 at offsets of zero, one and two bytes.
            ("p@ss/w0rd", "cEBzcy93MHJk"),
            ("p@ss/w0rd", "eHBAc3MvdzByZA=="),
            ("p@ss/w0rd", "eHhwQHNzL3cwcmQ="),
        ] {
            let out = through(spelled.as_bytes(), 3, &[secret.to_owned()]);
            assert!(
                out.contains("[secret]") && !out.contains("w0rd") && !out.contains("s me") && !out.contains("Geheim"),
                "{out}"
            );
        }
        // With special characters, in JSON, and line by line.
        for secret in ["(", "a\"b\\c", "two and\nthree", "ümläut", "\\", "[^"] {
            let text = format!("a{secret}b {}\n", serde_json::to_string(secret).expect("JSON"));
            let out = through(text.as_bytes(), 3, &[secret.to_owned()]);
            let json = serde_json::to_string(secret).expect("JSON");
            assert!(!out.contains(secret) && !out.contains(json.trim_matches('"')), "{secret}: {out}");
            assert!(secret.lines().filter(|line| line.len() > 3).all(|line| !out.contains(line)), "{secret}: {out}");
        }
    }

    #[test]
    fn ordinary_text_is_not_changed() {
        let text = "passes: 3 of 4\nfree: 12 GiB\nToken ring adapter\nhttps://example.com/a:b\n\0\u{fffd}raw\n";
        assert_eq!(through(text.as_bytes(), 5, &[]), text);
        for line in include_str!("../tests/data/ordinary.txt").lines() {
            assert_eq!(through(line.as_bytes(), 7, &[]), line);
        }
        // Only the value of an element is removed; an empty value is no secret.
        for (line, left) in [
            (
                r#"{"level":"info","session_id":42,"free_gib":12}"#,
                r#"{"level":"info","session_id":[secret],"free_gib":12}"#,
            ),
            (r#"{"token":"","free":"12 GiB"}"#, r#"{"token":"","free":"12 GiB"}"#),
            (r#"{"password":null,"disk":{"sda":"ok"}}"#, r#"{"password":null,"disk":{"sda":"ok"}}"#),
            ("GET /index?token=abc123&page=2 HTTP/1.1", "GET /index?token=[secret]&page=2 HTTP/1.1"),
        ] {
            assert_eq!(through(line.as_bytes(), 7, &[]), left);
        }
        // A mention of a key hides nothing else.
        let text = "error: expected -----BEGIN PRIVATE KEY-----\nthe disk is 90 % full\n";
        assert_eq!(through(text.as_bytes(), 7, &[]), "error: expected [secret]the disk is 90 % full\n");
    }
}
