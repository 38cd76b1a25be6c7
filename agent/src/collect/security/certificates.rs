//! Certificates that the settings of services here name, and when they end.

use crate::collect::budget;
use crate::collect::bytes::{clipped, read_regular, shown};
use fernwart_protocol::diagnosis::facts::{Certificate, LIST};
use fernwart_protocol::diagnosis::{Reason, Reasons, Why};
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

/// Certificates in use, each once, the one that ends first first.
pub(super) fn used(etc: &Path, until: Instant) -> Vec<Certificate> {
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for place in SETTINGS {
        let place = etc.join(place);
        let within: Vec<PathBuf> = match std::fs::read_dir(&place) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![place],
        };
        for settings in within.iter().filter(|path| path.is_file()) {
            let Ok(text) = read_regular(settings) else { continue };
            let text = shown(&text);
            // One line may hold a whole block; what is relative is nginx's.
            for file in text.split(['\n', '{', '}', ';']).flat_map(named) {
                let file = if file.starts_with('/') { PathBuf::from(file) } else { etc.join("nginx").join(file) };
                files.entry(file).or_insert_with(|| shown(settings.as_os_str().as_encoded_bytes()));
            }
        }
    }
    let own = etc.join("pve/local/pve-ssl.pem");
    // Its folder is a file system that a program answers for.
    files.insert(own, "Proxmox".to_owned());
    let files: Vec<(PathBuf, String)> = files.into_iter().flat_map(expanded).take(FILES).collect();
    // One may lie where nothing answers.
    let things = files.iter().map(|thing| (format!("certificate {}", thing.0.display()), thing.clone()));
    let answers = budget::each(things.collect(), 4, BUDGET, until, |(file, by)| certificate(&file, &by));
    let found = files.iter().zip(answers).filter_map(|((file, by), answer)| match answer {
        Ok(found) => found,
        Err(reason) => Some(without_days(file, by, reason.into())),
    });
    let mut found: Vec<Certificate> = found.collect();
    found.sort_by(|a, b| a.days_left.unwrap_or_default().total_cmp(&b.days_left.unwrap_or_default()));
    found.truncate(LIST);
    found
}

/// How long reading one may take.
const BUDGET: Duration = Duration::from_millis(500);

/// Files that are read at most.
const FILES: usize = 256;

/// A file, or those with certificates in a folder: HAProxy is given folders.
fn expanded((place, by): (PathBuf, String)) -> Vec<(PathBuf, String)> {
    let is_certificates = |path: &PathBuf| path.extension().is_some_and(|e| e == "pem" || e == "crt");
    // Only what is named with a slash at its end is looked into: others may hang.
    let is_folder = place.as_os_str().as_encoded_bytes().ends_with(b"/");
    match is_folder.then(|| std::fs::read_dir(&place)) {
        Some(Ok(entries)) => {
            let within = entries.take(FILES).flatten().map(|entry| entry.path()).filter(is_certificates);
            within.map(|path| (path, by.clone())).collect()
        }
        _ => vec![(place, by)],
    }
}

/// The files that a line names, if it names certificates.
fn named(line: &str) -> Vec<&str> {
    let line = line.trim();
    if line.starts_with(['#', ';', '!']) {
        return Vec::new();
    }
    let lower = line.to_lowercase();
    let rest = WORDS.iter().find_map(|word| {
        let rest = line.get(word.len()..).filter(|_| lower.starts_with(word))?;
        rest.starts_with([' ', '\t', '=']).then_some(rest)
    });
    let Some(rest) = rest else {
        // HAProxy names any number of them.
        let mut words = line.split_whitespace().peekable();
        let mut files = Vec::new();
        while let Some(word) = words.next() {
            files.extend(words.peek().filter(|file| word == "crt" && file.starts_with('/')));
        }
        return files;
    };
    let rest = rest.trim_start_matches([' ', '\t', '=', '<']).trim_start();
    let files: Vec<&str> = match rest.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.split(['"', '\'']).take(1).collect(),
        // Postfix takes lists; what follows blanks are options.
        None => {
            let list = rest.split([';']).next().unwrap_or_default();
            let is_list = lower.starts_with("smtpd_tls_chain_files");
            list.split([' ', '\t', ',']).filter(|file| !file.is_empty()).take(if is_list { 16 } else { 1 }).collect()
        }
    };
    // What a program puts together itself is nothing to look up.
    let is_nginxs = lower.starts_with("ssl_certificate");
    let is_file = |file: &&str| {
        file.starts_with('/')
            || (is_nginxs && file.ends_with(|c: char| c.is_ascii_alphanumeric()) && !file.contains(':'))
    };
    files.into_iter().filter(|file| !file.contains('$')).filter(is_file).collect()
}

fn without_days(file: &Path, by: &str, why: Why) -> Certificate {
    let mut found = Certificate {
        file: clipped(&shown(file.as_os_str().as_encoded_bytes())),
        used_by: clipped(by),
        ..Certificate::default()
    };
    found.why.insert("days_left".into(), why);
    found
}

fn certificate(file: &Path, by: &str) -> Option<Certificate> {
    let days = match read_regular(file) {
        // A key, or a folder's other file.
        Ok(bytes) if has_other(&bytes) => return None,
        Ok(bytes) => days_left(&bytes).ok_or_else(|| Why::new(Reason::Unreadable, "certificate")),
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => return None,
        // A template may name one that nobody has made.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Why::new(Reason::NotPermitted, "")),
        Err(error) => Err(Why::new(Reason::Unreadable, clipped(&error.to_string()))),
    };
    Some(match days {
        Ok(days) => {
            let found = without_days(file, by, Reason::Absent.into());
            Certificate { days_left: Some(days), why: Reasons::new(), ..found }
        }
        Err(why) => without_days(file, by, why),
    })
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
        let asked = certificate(&pipe, "x").expect("named");
        assert_eq!(asked.why["days_left"].reason, Reason::Unreadable);
        std::fs::write(place.path().join("k.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .expect("written");
        let folder = format!("{}/", place.path().display());
        let within = expanded((PathBuf::from(folder), "x".into()));
        assert_eq!(within.len(), 2);
        assert!(certificate(&place.path().join("k.pem"), "x").is_none(), "a key has no end");
    }
}
