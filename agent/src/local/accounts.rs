//! Accounts of this computer, from its own list.

use fernwart_protocol::text::Text;

/// Who calls. An administrator is named as the account that has logged in,
/// which the kernel keeps however often somebody has become somebody else since
/// (sudo); all others as what they are.
pub(super) fn account(uid: u32, pid: Option<i32>) -> Text<64> {
    let login = pid.filter(|_| uid == 0).and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    let login = login.and_then(|text| text.trim().parse::<u32>().ok()).filter(|login| *login != u32::MAX);
    Text::clipped(&name_of(login.unwrap_or(uid)))
}

/// An account's name; its number where it has none.
pub(crate) fn name_of(uid: u32) -> String {
    // One byte of another encoding, in anybody's full name, costs nobody else.
    let accounts = crate::collect::read("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Whether this computer's own list has an account of this name.
pub fn is_account(name: &str) -> bool {
    let accounts = crate::collect::read("/etc/passwd").unwrap_or_default();
    accounts.lines().any(|line| line.split(':').next() == Some(name))
}
