//! Accounts of this computer, from its `/etc/passwd`.

use fernwart_protocol::text::Text;

/// The name of the calling account. For root it is the account that has logged in, which the
/// kernel keeps even after sudo; for others it is the account itself.
pub(crate) fn account(uid: u32, pid: Option<i32>) -> Text<64> {
    let login = pid.filter(|_| uid == 0).and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    let login = login.and_then(|text| text.trim().parse::<u32>().ok()).filter(|login| *login != u32::MAX);
    Text::clipped(&name_of(login.unwrap_or(uid)))
}

/// An account's name, or its number if it has none.
pub(crate) fn name_of(uid: u32) -> String {
    // Read leniently: one invalid byte in somebody's full name must not hide the other accounts.
    let accounts = crate::collect::read("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Whether `/etc/passwd` has an account of this name.
pub fn is_account(name: &str) -> bool {
    let accounts = crate::collect::read("/etc/passwd").unwrap_or_default();
    accounts.lines().any(|line| line.split(':').next() == Some(name))
}

/// Whether a process shares this one's PID namespace. A caged script runs in a child
/// namespace and is refused here. A process that cannot be inspected is no script.
pub(crate) fn is_in_our_namespace(pid: Option<i32>) -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return true };
    match (namespace("self"), namespace(&pid.to_string())) {
        (Ok(own), Ok(theirs)) => own == theirs,
        (_, Err(error)) => error.kind() == std::io::ErrorKind::PermissionDenied,
        (Err(_), _) => true,
    }
}
