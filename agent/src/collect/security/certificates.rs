//! Certificates that the settings of services here name, and when they end.

use crate::collect::budget;
use crate::collect::bytes::{clipped, read_regular, shown};
use fernwart_protocol::diagnosis::facts::{Certificate, LIST};
use fernwart_protocol::diagnosis::{Reason, Why};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where services keep their settings, below /etc; folders with what lies in them.
const SETTINGS: [&str; 25] = [
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
    "exim4/exim4.conf.localmacros",
    "postgresql/15/main/postgresql.conf",
    "postgresql/16/main/postgresql.conf",
    "postgresql/17/main/postgresql.conf",
];

/// Words of these settings that a certificate's file follows.
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

/// How long reading what a setting names may take.
const BUDGET: Duration = Duration::from_millis(500);

/// Files that are read at most, of settings and of a folder.
const FILES: usize = 256;

/// Certificates in use, each once, the one that ends first first.
pub(super) fn used(etc: &Path, until: Instant) -> Vec<Certificate> {
    let mut places: BTreeMap<PathBuf, String> = BTreeMap::new();
    for place in SETTINGS {
        let place = etc.join(place);
        let within: Vec<PathBuf> = match std::fs::read_dir(&place) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![place],
        };
        for settings in within {
            let Ok(text) = read_regular(&settings) else { continue };
            let text = shown(&text);
            for file in text.lines().flat_map(named) {
                // What is relative is nginx's.
                let file = if file.starts_with('/') { PathBuf::from(file) } else { etc.join("nginx").join(file) };
                places.entry(file).or_insert_with(|| shown(settings.as_os_str().as_encoded_bytes()));
            }
        }
    }
    places.insert(etc.join("pve/local/pve-ssl.pem"), "Proxmox".to_owned());
    let places: Vec<(PathBuf, String)> = places.into_iter().take(FILES).collect();
    // One may lie where nothing answers.
    let things = places.iter().map(|place| (format!("certificate {}", place.0.display()), place.clone()));
    let answers = budget::each(things.collect(), 4, BUDGET, until, |(place, by)| certificates(&place, &by));
    let found = places
        .iter()
        .zip(answers)
        .flat_map(|((place, by), answer)| answer.unwrap_or_else(|reason| vec![told(place, by, Err(reason.into()))]));
    let mut found: Vec<Certificate> = found.collect();
    found.sort_by(|a, b| a.days_left.unwrap_or_default().total_cmp(&b.days_left.unwrap_or_default()));
    found.truncate(LIST);
    found
}

/// The certificate in a file, or those in a folder, which HAProxy takes.
fn certificates(place: &Path, by: &str) -> Vec<Certificate> {
    match read_regular(place) {
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
            let is_one = |path: &PathBuf| path.extension().is_some_and(|e| e == "pem" || e == "crt");
            let files = entries.map(|entry| entry.path()).filter(is_one).take(FILES);
            files.filter_map(|file| certificate(&file, by, read_regular(&file))).collect()
        }
        read => certificate(place, by, read).into_iter().collect(),
    }
}

/// The files that a line names, if it names certificates. One line may hold a whole
/// block.
fn named(line: &str) -> Vec<&str> {
    if line.trim().starts_with(['#', ';', '!']) {
        return Vec::new();
    }
    let line = line.split_once(" #").map_or(line, |(before, _)| before);
    line.split(['{', '}', ';']).flat_map(named_by_setting).collect()
}

fn named_by_setting(setting: &str) -> Vec<&str> {
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
        // Postfix takes a list; elsewhere options follow.
        None => {
            let most = if lower.starts_with("smtpd_tls_chain_files") { 16 } else { 1 };
            rest.split([' ', '\t', ',']).filter(|file| !file.is_empty()).take(most).collect()
        }
    };
    let is_nginxs = lower.starts_with("ssl_certificate");
    let is_file = |file: &&str| {
        // What a program puts together itself is nothing to look up.
        !file.contains('$') && (file.starts_with('/') || (is_nginxs && !file.contains(':')))
    };
    files.into_iter().filter(is_file).collect()
}

/// What is known of a certificate.
fn told(file: &Path, by: &str, days: Result<f64, Why>) -> Certificate {
    let why = days.as_ref().err().map(|why| ("days_left".to_owned(), why.clone()));
    Certificate {
        file: clipped(&shown(file.as_os_str().as_encoded_bytes())),
        used_by: clipped(by),
        days_left: days.ok(),
        why: why.into_iter().collect(),
    }
}

fn certificate(file: &Path, by: &str, read: std::io::Result<Vec<u8>>) -> Option<Certificate> {
    let days = match read {
        // A key, or a folder's other file.
        Ok(bytes) if has_other(&bytes) => return None,
        Ok(bytes) => days_left(&bytes).ok_or_else(|| Why::new(Reason::Unreadable, "certificate")),
        // A template may name one that nobody has made.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Why::new(Reason::NotPermitted, "")),
        Err(error) => Err(Why::new(Reason::Unreadable, clipped(&error.to_string()))),
    };
    Some(told(file, by, days))
}

/// Whether a PEM file has something in it, and no certificate.
fn has_other(pem: &[u8]) -> bool {
    let mut all = x509_parser::pem::Pem::iter_from_buffer(pem).flatten().peekable();
    all.peek().is_some() && !all.any(|pem| pem.label == "CERTIFICATE")
}

/// Days until the first certificate in a PEM file ends: the service's own stands
/// before those of its issuers, whose roots may long have ended.
fn days_left(pem: &[u8]) -> Option<f64> {
    let is_one = |pem: &x509_parser::pem::Pem| pem.label == "CERTIFICATE";
    let pem = x509_parser::pem::Pem::iter_from_buffer(pem).flatten().find(is_one)?;
    let certificate = pem.parse_x509().ok()?;
    let ends = certificate.validity().not_after.timestamp();
    let days = (ends as f64 - crate::now() as f64 / 1000.0) / 86_400.0;
    Some((days * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_name_a_certificate_are_told_from_others() {
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
            assert_eq!(named(line), file.into_iter().collect::<Vec<_>>(), "{line}");
        }
        let chain = "smtpd_tls_chain_files = /etc/ssl/mail.key, /etc/ssl/mail.pem";
        let two = "bind :443 ssl crt /etc/haproxy/a.pem crt /etc/haproxy/b/ alpn h2";
        assert_eq!(named(two), ["/etc/haproxy/a.pem", "/etc/haproxy/b/"]);
        assert_eq!(named(chain), ["/etc/ssl/mail.key", "/etc/ssl/mail.pem"]);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let place = tempfile::tempdir().expect("a folder");
        let pipe = place.path().join("pipe.pem");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("made");
        let asked = certificates(&pipe, "x").pop().expect("named");
        assert_eq!(asked.why["days_left"].reason, Reason::Unreadable);
        std::fs::write(place.path().join("k.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .expect("written");
        assert_eq!(certificates(&place.path().join("k.pem"), "x"), [], "a key has no end");
        let within = certificates(place.path(), "x");
        assert_eq!(within, [asked], "a folder's files are read alike");
    }
}
