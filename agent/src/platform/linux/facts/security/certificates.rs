//! Certificates named in the configuration of services, and when they expire.

use super::sshd::fits;
use crate::collect::bytes::{clipped, shown};
use crate::collect::{budget, missing};
use crate::platform::linux::paths::read_regular;
use fernwart_protocol::diagnosis::facts::{Certificate, LIST};
use fernwart_protocol::diagnosis::{Cause, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where services keep their configuration, below /etc: files, and folders with all their files.
const SETTINGS: [&str; 28] = [
    "nginx/nginx.conf",
    "nginx/conf.d",
    "nginx/sites-enabled",
    "nginx/snippets",
    "apache2/sites-enabled",
    "apache2/conf-enabled",
    "httpd/conf/httpd.conf",
    "httpd/conf.d",
    "lighttpd/lighttpd.conf",
    "lighttpd/conf-enabled",
    "postfix/main.cf",
    "dovecot/dovecot.conf",
    "dovecot/conf.d",
    "haproxy/haproxy.cfg",
    "vsftpd.conf",
    "proftpd/tls.conf",
    "samba/smb.conf",
    "mysql/mariadb.conf.d",
    "mysql/mysql.conf.d",
    "cups/cupsd.conf",
    "stunnel",
    "openvpn",
    "openvpn/server",
    "openvpn/client",
    "exim4/exim4.conf.localmacros",
    "postgresql/15/main/postgresql.conf",
    "postgresql/16/main/postgresql.conf",
    "postgresql/17/main/postgresql.conf",
];

/// Configuration keywords that are followed by a certificate's file.
const WORDS: [&str; 14] = [
    "ssl_certificate",
    "sslcertificatefile",
    "smtpd_tls_cert_file",
    "smtpd_tls_chain_files",
    "ssl_cert",
    "ssl_server_cert_file",
    "ssl.pemfile",
    "rsa_cert_file",
    "tlsrsacertificatefile",
    "ssl-cert",
    "ssl_cert_file",
    "cert",
    "tls certfile",
    "main_tls_certificate",
];

/// Time limit for reading a configured file.
const BUDGET: Duration = Duration::from_millis(500);

/// Maximum number of files read, of configuration and of a folder.
const FILES: usize = 256;

/// How a certificate's file is used.
#[derive(Debug, Clone)]
struct Place {
    /// The configuration file that names it.
    by: String,
    /// Whether its service cannot run without it.
    is_needed: bool,
}

/// The certificates in use, each once, the one that expires first coming first.
pub(super) fn used(etc: &Path, until: Instant) -> Vec<Certificate> {
    let mut found = Vec::new();
    let mut places: BTreeMap<PathBuf, Place> = BTreeMap::new();
    // Each with the service's main file from which it is included.
    let mut open: Vec<(PathBuf, PathBuf)> = Vec::new();
    for place in SETTINGS.iter().rev() {
        let place = etc.join(place);
        match std::fs::read_dir(&place) {
            Ok(entries) => open.extend(entries.flatten().map(|entry| (entry.path(), entry.path()))),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                found.push(entry(&place, "", Err(Cause::new(Reason::NotPermitted, ""))));
            }
            Err(_) => open.push((place.clone(), place)),
        }
    }
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    while let Some((settings, own)) = open.pop().filter(|_| seen.len() < 2 * FILES) {
        if !seen.insert(settings.clone()) {
            continue;
        }
        let bytes = match read_regular(&settings) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                found.push(entry(&settings, "", Err(Cause::new(Reason::NotPermitted, ""))));
                continue;
            }
            Err(_) => continue,
        };
        let service = Service::of(etc, &own);
        let text = service.statements(&bytes);
        for line in text.lines() {
            for file in named(line, service.home.is_some()) {
                let path = service.path(file);
                let by = shown(settings.as_os_str().as_encoded_bytes());
                places.entry(path).or_insert(Place { by, is_needed: service.needs_its_certificate });
            }
            let more = included(line).into_iter().flat_map(|pattern| matching(&service.path(pattern)));
            open.extend(more.map(|file| (file, own.clone())));
        }
    }
    places.insert(etc.join("pve/local/pve-ssl.pem"), Place { by: "Proxmox".to_owned(), is_needed: false });
    let places: Vec<(PathBuf, Place)> = places.into_iter().take(FILES).collect();
    // A file may be on a mount that hangs.
    let things = places.iter().map(|place| (format!("certificate {}", place.0.display()), place.clone()));
    let answers = budget::each(things.collect(), 4, BUDGET, until, |(place, named)| certificates(&place, &named));
    found.extend(places.iter().zip(answers).flat_map(|((place, named), answer)| {
        answer.unwrap_or_else(|reason| vec![entry(place, &named.by, Err(reason.into()))])
    }));
    found.sort_by(|a, b| a.days_left.unwrap_or_default().total_cmp(&b.days_left.unwrap_or_default()));
    found.truncate(LIST);
    found
}

/// How a service's configuration is read.
struct Service {
    /// The base of relative paths; if unknown, relative paths are ignored.
    home: Option<PathBuf>,
    needs_its_certificate: bool,
    /// In nginx a statement may span several lines and ends with a semicolon.
    is_nginx: bool,
}

impl Service {
    fn of(etc: &Path, settings: &Path) -> Self {
        let is = |name: &str| settings.starts_with(etc.join(name));
        let is_nginx = is("nginx");
        let home = match () {
            () if is_nginx => Some(etc.join("nginx")),
            () if is("apache2") => Some(etc.join("apache2")),
            () if is("httpd") => Some(etc.join("httpd")),
            () if is("openvpn") => settings.parent().map(Path::to_owned),
            () => None,
        };
        let needs_its_certificate = is_nginx || ["apache2", "httpd", "haproxy"].into_iter().any(is);
        Self { home, needs_its_certificate, is_nginx }
    }

    /// The text, with each byte as one character, so that paths keep their bytes.
    fn statements(&self, bytes: &[u8]) -> String {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        if !self.is_nginx {
            return text;
        }
        let without_remarks = text.lines().map(|line| match line.trim_start().starts_with('#') {
            true => "",
            false => line.split_once(" #").map_or(line, |(before, _)| before),
        });
        let joined: Vec<&str> = without_remarks.collect();
        joined.join(" ").replace(';', ";\n")
    }

    fn path(&self, file: &str) -> PathBuf {
        let bytes: Vec<u8> = file.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let file = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        self.home.as_ref().map_or(file.clone(), |home| home.join(file))
    }
}

/// The path or pattern of an `include` statement.
fn included(line: &str) -> Option<&str> {
    let statement = line.rsplit(['{', '}']).find(|part| part.to_lowercase().contains("include"))?.trim();
    let (word, rest) = statement.split_once([' ', '\t'])?;
    let is_one = ["include", "includeoptional"].contains(&word.to_lowercase().as_str());
    is_one.then(|| rest.trim().trim_end_matches(';').trim_matches(['"', '\'']))
}

/// The files that match a path whose last part may be a pattern.
fn matching(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(pattern)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    if !pattern.contains(['*', '?']) {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fits = |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| fits(pattern, name));
    entries.filter(fits).map(|entry| entry.path()).take(FILES).collect()
}

/// The certificate in a file, or those in a folder, as HAProxy allows.
fn certificates(place: &Path, named: &Place) -> Vec<Certificate> {
    match read_regular(place) {
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
            let is_one = |path: &PathBuf| path.extension().is_some_and(|e| e == "pem" || e == "crt");
            let files = entries.map(|entry| entry.path()).filter(is_one).take(FILES);
            files.filter_map(|file| certificate(&file, named, read_regular(&file))).collect()
        }
        read => certificate(place, named, read).into_iter().collect(),
    }
}

/// The certificate files that a line names. One line may contain a whole block.
fn named(line: &str, may_be_relative: bool) -> Vec<&str> {
    if line.trim().starts_with(['#', ';', '!']) {
        return Vec::new();
    }
    let line = line.split_once(" #").map_or(line, |(before, _)| before);
    line.split(['{', '}', ';']).flat_map(|setting| named_by_setting(setting, may_be_relative)).collect()
}

fn named_by_setting(setting: &str, may_be_relative: bool) -> Vec<&str> {
    let setting = setting.trim();
    let lower = setting.to_lowercase();
    let rest = WORDS.iter().find_map(|word| {
        let rest = setting.get(word.len()..).filter(|_| lower.starts_with(word))?;
        rest.starts_with([' ', '\t', '=']).then_some(rest)
    });
    let Some(rest) = rest else {
        // HAProxy: `bind :443 ssl crt /etc/haproxy/shop.pem crt /etc/haproxy/more`
        let words: Vec<&str> = setting.split_whitespace().collect();
        let pairs = words.windows(2).filter_map(|pair| match pair {
            ["crt", file] if file.starts_with('/') => Some(*file),
            _ => None,
        });
        return pairs.collect();
    };
    let rest = rest.trim_start_matches([' ', '\t', '=', '<']).trim_start();
    let files: Vec<&str> = match rest.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.split(['"', '\'']).take(1).collect(),
        // Postfix accepts a list; elsewhere options follow.
        None => {
            let most = if lower.starts_with("smtpd_tls_chain_files") { 16 } else { 1 };
            rest.split([' ', '\t', ',']).filter(|file| !file.is_empty()).take(most).collect()
        }
    };
    let is_file = |file: &&str| {
        // Paths with variables cannot be resolved.
        !file.contains('$') && (file.starts_with('/') || (may_be_relative && !file.contains(':')))
    };
    files.into_iter().filter(is_file).collect()
}

/// A certificate's facts: days until it expires, and until it becomes valid.
fn entry(file: &Path, by: &str, days: Result<(f64, f64), Cause>) -> Certificate {
    let mut certificate = Certificate {
        file: clipped(&shown(file.as_os_str().as_encoded_bytes())),
        used_by: clipped(by),
        ..Certificate::default()
    };
    match days {
        Ok((left, begins)) => (certificate.days_left, certificate.begins_in_days) = (Some(left), Some(begins)),
        Err(why) => missing(&mut certificate.why, &["days_left", "begins_in_days"], &why),
    }
    certificate
}

fn certificate(file: &Path, named: &Place, read: std::io::Result<Vec<u8>>) -> Option<Certificate> {
    let days = match read {
        // A key, or another file in the folder.
        Ok(bytes) if has_other(&bytes) => return None,
        Ok(bytes) => days(&bytes).ok_or_else(|| Cause::new(Reason::Unreadable, "certificate")),
        // A template may name a file that was never created.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named.is_needed => return None,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Cause::new(Reason::Unreadable, clipped(&format!("{} names it, and it is not there", named.by))))
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Cause::new(Reason::NotPermitted, "")),
        Err(error) => Err(Cause::new(Reason::Unreadable, clipped(&error.to_string()))),
    };
    Some(entry(file, &named.by, days))
}

/// Whether a PEM file has content but no certificate.
fn has_other(pem: &[u8]) -> bool {
    let mut all = x509_parser::pem::Pem::iter_from_buffer(pem).flatten().peekable();
    all.peek().is_some() && !all.any(|pem| pem.label == "CERTIFICATE")
}

/// Days until the first certificate in a PEM file expires, and until it becomes valid. The
/// service's own comes first; the roots of its issuers may have expired long ago.
fn days(pem: &[u8]) -> Option<(f64, f64)> {
    let is_one = |pem: &x509_parser::pem::Pem| pem.label == "CERTIFICATE";
    let pem = x509_parser::pem::Pem::iter_from_buffer(pem).flatten().find(is_one)?;
    let certificate = pem.parse_x509().ok()?;
    let days = |at: x509_parser::time::ASN1Time| {
        let days = (at.timestamp() as f64 - crate::now() as f64 / 1000.0) / 86_400.0;
        (days * 10.0).round() / 10.0
    };
    Some((days(certificate.validity().not_after), days(certificate.validity().not_before).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_files_are_found_in_configuration_lines() {
        for (line, file) in [
            ("  ssl_certificate /etc/ssl/shop.pem;", Some("/etc/ssl/shop.pem")),
            ("SSLCertificateFile\t\"/etc/ssl/my shop.pem\"", Some("/etc/ssl/my shop.pem")),
            ("smtpd_tls_cert_file = /etc/ssl/mail.pem", Some("/etc/ssl/mail.pem")),
            ("smtpd_tls_cert_file=/etc/ssl/mail.pem", Some("/etc/ssl/mail.pem")),
            ("ssl_cert = </etc/dovecot/private/dovecot.pem", Some("/etc/dovecot/private/dovecot.pem")),
            ("bind :443 ssl crt /etc/haproxy/shop.pem alpn h2", Some("/etc/haproxy/shop.pem")),
            ("# ssl_certificate /etc/ssl/old.pem;", None),
            ("ssl_certificate_key /etc/ssl/shop.key;", None),
            ("ssl_certificate /etc/ssl/$host.pem;", None),
            ("ssl_protocols TLSv1.3;", None),
            ("ssl_certificate ssl/shop.pem", Some("ssl/shop.pem")),
            ("server { listen 443; ssl_certificate /etc/ssl/a.pem; }", Some("/etc/ssl/a.pem")),
            ("# server { listen 443; ssl_certificate /etc/ssl/a.pem; }", None),
            ("listen 443; # ssl_certificate /etc/ssl/a.pem;", None),
        ] {
            assert_eq!(named(line, true), file.into_iter().collect::<Vec<_>>(), "{line}");
        }
        let chain = "smtpd_tls_chain_files = /etc/ssl/mail.key, /etc/ssl/mail.pem";
        let two = "bind :443 ssl crt /etc/haproxy/a.pem crt /etc/haproxy/b/ alpn h2";
        assert_eq!(named(two, false), ["/etc/haproxy/a.pem", "/etc/haproxy/b/"]);
        assert_eq!(named(chain, false), ["/etc/ssl/mail.key", "/etc/ssl/mail.pem"]);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let place = tempfile::tempdir().expect("a folder");
        let named = Place { by: "x".to_owned(), is_needed: true };
        let pipe = place.path().join("pipe.pem");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("made");
        let asked = certificates(&pipe, &named).pop().expect("named");
        assert_eq!(asked.why["days_left"].reason, Reason::Unreadable);
        std::fs::write(place.path().join("k.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .expect("written");
        assert_eq!(certificates(&place.path().join("k.pem"), &named), [], "a key has no end");
        let within = certificates(place.path(), &named);
        assert_eq!(within, [asked], "a folder's files are read alike");
    }
}
