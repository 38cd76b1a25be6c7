//! Who has root's rights without a password. sudo's own `cvtsudoers` parses the rules, with all
//! includes, continued lines and aliases.

use crate::collect::bytes::clipped;
use crate::collect::{child, memo};
use fernwart_protocol::diagnosis::{Cause, Reason};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time limit for reading the rules.
const BUDGET: Duration = Duration::from_millis(1500);

/// Grants in the form `meyer: ALL`.
///
/// # Errors
/// When the rules cannot be read.
pub(super) fn without_password(until: Instant) -> Result<Vec<String>, Cause> {
    if child::find("sudo").is_none() && !Path::new("/etc/sudoers").exists() {
        return Err(Cause::new(Reason::Absent, "sudo"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Cause::new(Reason::NotPermitted, ""));
    }
    let until = until.min(Instant::now() + BUDGET);
    let places = ["/etc/sudoers", "/etc/sudoers.d", "/etc/sudo.conf"];
    let text = memo::holds("sudo", &places, || child::ask("cvtsudoers", &["-e", "-f", "json", "/etc/sudoers"], until))?;
    parse(&text, &crate::platform::facts::hostname()).ok_or_else(|| Cause::new(Reason::Unreadable, "cvtsudoers"))
}

fn parse(text: &str, host: &str) -> Option<Vec<String>> {
    let json: Value = serde_json::from_str(text).ok()?;
    let json = json.as_object()?;
    let asks_nobody = json.get("Defaults").and_then(Value::as_array).into_iter().flatten().any(|defaults| {
        defaults.get("Binding").is_none() && option(defaults.get("Options"), "authenticate") == Some(false)
    });
    let unasked: Vec<String> = json
        .get("Defaults")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|defaults| option(defaults.get("Options"), "authenticate") == Some(false))
        .flat_map(|defaults| names(defaults.get("Binding")))
        .collect();
    let mut grants = Vec::new();
    for spec in json.get("User_Specs").and_then(Value::as_array).into_iter().flatten() {
        let users = names(spec.get("User_List"));
        if !is_for(host, &names(spec.get("Host_List"))) {
            continue;
        }
        for commands in spec.get("Cmnd_Specs").and_then(Value::as_array).into_iter().flatten() {
            let asks = option(commands.get("Options"), "authenticate").unwrap_or(!asks_nobody);
            let is_asked = |user: &&String| asks && !unasked.contains(user);
            // Running commands as another user than root is not counted.
            let as_root = commands.get("runasusers").is_none_or(|users| {
                names(Some(users)).iter().any(|user| matches!(user.as_str(), "ALL" | "root" | "#0"))
            });
            let what = names(commands.get("Commands"));
            // The last entry counts: `ALL, !ALL` allows nothing.
            if !as_root || what.last().is_some_and(|last| last == "!ALL") {
                continue;
            }
            let what = what.join(", ");
            // Root needs no password anyway.
            grants.extend(
                users
                    .iter()
                    .filter(|user| *user != "root" && !is_asked(user))
                    .map(|user| clipped(&format!("{user}: {what}"))),
            );
        }
    }
    // Several rules may give the same grant.
    let mut seen = BTreeSet::new();
    grants.retain(|grant| seen.insert(grant.clone()));
    Some(grants)
}

/// Whether rules for these hosts apply to this one. Entries that are not host names may apply.
fn is_for(host: &str, hosts: &[String]) -> bool {
    let short = host.split('.').next().unwrap_or(host);
    let is_name =
        |name: &str| name.contains(|c: char| c.is_ascii_alphabetic()) && !name.contains(['*', '?', '[', ':', '+']);
    hosts.is_empty() || hosts.iter().any(|name| name == "ALL" || name == host || name == short || !is_name(name))
}

/// An option's value, where it is set.
fn option(options: Option<&Value>, name: &str) -> Option<bool> {
    options?.as_array()?.iter().rev().find_map(|option| option.get(name)?.as_bool())
}

/// Names in a list of `{"username": "meyer"}`, `{"usergroup": "sudo"}`, `{"command": "ALL"}`, in
/// sudo's notation.
fn names(list: Option<&Value>) -> Vec<String> {
    let name = |entry: &Value| {
        let negated = if entry.get("negated").and_then(Value::as_bool) == Some(true) { "!" } else { "" };
        let (kind, value) = entry.as_object()?.iter().find(|(key, _)| *key != "negated" && !key.starts_with("sha"))?;
        let sign = match kind.as_str() {
            "usergroup" => "%",
            "userid" => "#",
            "usergid" => "%#",
            "netgroup" => "+",
            _ => "",
        };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(format!("{negated}{sign}{value}"))
    };
    list.and_then(Value::as_array).into_iter().flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of cvtsudoers 1.9.13 of Debian 12.
    #[test]
    fn sudo_grants_without_a_password_are_found_in_every_notation() {
        let text = r#"{"Defaults":[{"Options":[{"env_reset":true}]},{"Binding":[{"username":"ole"}],"Options":[{"authenticate":false}]}],
          "User_Specs":[
            {"User_List":[{"username":"root"}],"Host_List":[{"hostname":"ALL"}],"Cmnd_Specs":[{"runasusers":[{"username":"ALL"}],"Options":[{"authenticate":false}],"Commands":[{"command":"ALL"}]}]},
            {"User_List":[{"usergroup":"sudo"}],"Host_List":[{"hostname":"ALL"}],"Cmnd_Specs":[{"runasusers":[{"username":"ALL"}],"Commands":[{"command":"ALL"}]}]},
            {"User_List":[{"username":"meyer"},{"usergroup":"till"}],"Host_List":[{"hostname":"ALL"}],"Cmnd_Specs":[
               {"Options":[{"authenticate":false}],"Commands":[{"command":"/usr/bin/systemctl restart till"}]}]},
            {"User_List":[{"username":"www"}],"Host_List":[{"hostname":"ALL"}],"Cmnd_Specs":[{"runasusers":[{"username":"till"}],"Options":[{"authenticate":false}],"Commands":[{"command":"ALL"}]}]}]}"#;
        let parse = |text: &str| parse(text, "kasse-1");
        let grants = parse(text).expect("read");
        assert_eq!(grants, ["meyer: /usr/bin/systemctl restart till", "%till: /usr/bin/systemctl restart till"]);
        let all = r#"{"Defaults":[{"Options":[{"authenticate":false}]}],"User_Specs":[{"User_List":[{"username":"a"}],"Cmnd_Specs":[{"Commands":[{"command":"ALL"}]}]}]}"#;
        assert_eq!(parse(all).expect("read"), ["a: ALL"]);
        let joe = r#"{"Defaults":[{"Binding":[{"username":"joe"}],"Options":[{"authenticate":false}]}],"User_Specs":[
            {"User_List":[{"username":"joe"},{"username":"ann"}],"Host_List":[{"hostname":"ALL"}],"Cmnd_Specs":[{"Commands":[{"command":"ALL"}]}]},
            {"User_List":[{"username":"c"}],"Host_List":[{"hostname":"other"}],"Cmnd_Specs":[{"Options":[{"authenticate":false}],"Commands":[{"command":"ALL"}]}]},
            {"User_List":[{"username":"d"}],"Host_List":[{"hostname":"kasse-1"}],"Cmnd_Specs":[{"Options":[{"authenticate":false}],"Commands":[{"command":"ALL"}]}]},
            {"User_List":[{"username":"h"}],"Cmnd_Specs":[{"Options":[{"authenticate":false}],"Commands":[{"command":"ALL"},{"command":"ALL","negated":true}]}]}]}"#;
        assert_eq!(parse(joe).expect("read"), ["joe: ALL", "d: ALL"]);
        assert_eq!(parse("{}").expect("read"), Vec::<String>::new());
        assert!(parse("garbage").is_none() && parse("[]").is_none());
    }
}
