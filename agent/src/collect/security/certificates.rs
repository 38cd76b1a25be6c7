//! Certificates that the settings of services here name, and when they end.

use crate::collect::bytes::{clipped, read_bytes, shown};
use fernwart_protocol::diagnosis::facts::{Certificate, LIST};
use fernwart_protocol::diagnosis::{Reason, Why};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where services keep their settings, below /etc; folders with what lies in them.
const SETTINGS: [&str; 22] = [
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
pub(super) fn used(etc: &Path) -> Vec<Certificate> {
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for place in SETTINGS {
        let place = etc.join(place);
        let within: Vec<PathBuf> = match std::fs::read_dir(&place) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![place],
        };
        for settings in within.iter().filter(|path| path.is_file()) {
            let Ok(text) = read_bytes(settings) else { continue };
            for file in shown(&text).lines().filter_map(named) {
                files.entry(PathBuf::from(file)).or_insert_with(|| shown(settings.as_os_str().as_encoded_bytes()));
            }
        }
    }
    let own = etc.join("pve/local/pve-ssl.pem");
    if own.is_file() {
        files.insert(own, "Proxmox".to_owned());
    }
    let mut found: Vec<Certificate> = files.into_iter().filter_map(|(file, by)| certificate(&file, &by)).collect();
    found.sort_by(|a, b| a.days_left.unwrap_or_default().total_cmp(&b.days_left.unwrap_or_default()));
    found.truncate(LIST);
    found
}

/// The file that a line names, if it names a certificate.
fn named(line: &str) -> Option<&str> {
    let line = line.trim();
    if line.starts_with(['#', ';', '!']) {
        return None;
    }
    let lower = line.to_lowercase();
    let rest = WORDS.iter().find_map(|word| {
        let rest = line.get(word.len()..).filter(|_| lower.starts_with(word))?;
        rest.starts_with([' ', '\t', '=']).then_some(rest)
    });
    // HAProxy: `bind :443 ssl crt /etc/haproxy/shop.pem`
    let rest = rest.or_else(|| line.split_once(" crt ").map(|(_, rest)| rest))?;
    let rest = rest.trim_start_matches([' ', '\t', '=', '<']).trim_start();
    let file = match rest.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.split(['"', '\'']).next()?,
        None => rest.split([' ', '\t', ';', ',']).next()?,
    };
    // What a program puts together itself is nothing to look up.
    (file.starts_with('/') && !file.contains('$')).then_some(file)
}

fn certificate(file: &Path, by: &str) -> Option<Certificate> {
    let mut found = Certificate {
        file: clipped(&shown(file.as_os_str().as_encoded_bytes())),
        used_by: clipped(by),
        ..Certificate::default()
    };
    let days = match read_bytes(file) {
        Ok(bytes) => days_left(&bytes).ok_or_else(|| Why::new(Reason::Unreadable, "certificate")),
        // A template may name one that nobody has made.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Why::new(Reason::NotPermitted, "")),
        Err(error) => Err(Why::new(Reason::Unreadable, clipped(&error.to_string()))),
    };
    match days {
        Ok(days) => found.days_left = Some(days),
        Err(why) => drop(found.why.insert("days_left".into(), why)),
    }
    Some(found)
}

/// Days until the first certificate in a PEM file ends: the service's own stands
/// before those of its issuers, whose roots may long have ended.
fn days_left(pem: &[u8]) -> Option<f64> {
    let pem = x509_parser::pem::Pem::iter_from_buffer(pem).flatten().find(|pem| pem.label == "CERTIFICATE")?;
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
        ] {
            assert_eq!(named(line), file, "{line}");
        }
    }
}
