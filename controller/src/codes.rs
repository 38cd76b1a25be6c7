//! What codes mean, and what to do.

use fernwart_protocol::code::{Denial, Refusal};

/// Codes of this program: code, meaning, advice. The meanings of other codes are in the protocol's
/// tables.
const HERE: &[(&str, &str, &str)] = &[
    ("FW-CLI-01", "the command line cannot be understood", "fernwart --help"),
    ("FW-CLI-02", "no machine was meant, or none fits", "fernwart ls -o name lists all names"),
    ("FW-CLI-03", "there is no home where one was expected", "fernwart init or fernwart join; or --home DIR"),
    (
        "FW-CLI-04",
        "a file that decides something may be read or changed by others, is a link, or is damaged",
        "look who has changed it; then chmod and chown as the message says",
    ),
    ("FW-CLI-05", "the hub did not answer in time", "is it running, and does UDP reach it? fernwart doctor"),
    (
        "FW-CLI-06",
        "the hub no longer lets this key in: suspended, removed, or run out",
        "ask a lead: fernwart staff ls",
    ),
    ("FW-CLI-07", "the hub is not the one this home trusts, or a certificate has run out", "fernwart doctor"),
    (
        "FW-CLI-08",
        "an answer was not signed by the machine it claims to come from",
        "keep the hub's log; find out who altered it",
    ),
    (
        "FW-HUB-36",
        "the hub's store has gone, was emptied or damaged, or is another organisation's; nothing was changed",
        "bring it back out of a backup: fernwart restore",
    ),
    (
        "FW-HUB-35",
        "a newer hub has written this store, and this one cannot read it; nothing was changed",
        "start the newer version again; or bring back a backup from before: fernwart restore",
    ),
    ("FW-CLI-09", "fernwart itself failed", "read the line before; then fernwart doctor"),
    ("FW-CLI-10", "a file could not be read or written", "look at the path in the message"),
    ("FW-CLI-11", "a parameter does not fit what the script declares", "fernwart script show NAME lists them"),
    ("FW-CLI-12", "there is no such remedy", "fernwart diagnose MACHINE prints the remedies there are"),
    ("FW-CLI-13", "each act needs a reason, which the customer reads", "add --reason 'Drucker, Auftrag 4711'"),
    ("FW-CLI-14", "it was not confirmed, so nothing was sent", "type the number, or --yes=NUMBER"),
    ("FW-CLI-15", "it was stopped from outside", "start it again"),
    (
        "FW-CLI-17",
        "a machine's agent is too old for what would be ordered, or has not sent its key for secrets; nothing was sent to it",
        "update the agent on that machine",
    ),
    ("FW-CLI-18", "an answer is of a newer version than this program reads", "update this program"),
    (
        "FW-CLI-21",
        "the machine has told nothing of the kind that was asked for",
        "fernwart diagnose NAME; or a shorter --since",
    ),
    (
        "FW-CLI-20",
        "the finding is no longer there, so its remedy was not sent",
        "fernwart diagnose MACHINE tells how it is now",
    ),
    ("FW-CLI-19", "the hub is too old for what would be asked", "update the hub"),
    ("FW-CLI-16", "the job cannot be given anew", "fernwart job show JOB tells how it ended where"),
    ("FW-BAK-01", "there is something at that place already", "name a folder that is not there, or move that one away"),
    ("FW-BAK-02", "that folder holds no hub, or a damaged one", "name the hub's folder, or another backup"),
    ("FW-BAK-03", "the hub could not be copied whole; nothing was left", "is there room, and may you write there?"),
    (
        "FW-QRY-01",
        "the question is not one SELECT that the tables can answer",
        "fernwart query --tables lists tables and columns",
    ),
    ("FW-QRY-03", "the question takes more time or memory than one may", "ask for fewer columns, or fewer machines"),
    ("FW-QRY-02", "the hub could not answer the question", "look into the hub's log"),
    ("FW-JNL-03", "these records were counted by a hub that nobody here knows", "export them anew from your own hub"),
    ("FW-JNL-02", "the hub's records of a machine are not whole", "fernwart doctor; is the hub the one you know?"),
    ("FW-CAT-16", "these approvers cannot rule", "fernwart catalogue show lists the present ones"),
    (
        "FW-CAT-18",
        "the script cannot be tried here",
        "sudo fernwart script test DIR; .test/break.sh and .test/check.sh say what to break and to check",
    ),
    (
        "FW-CAT-19",
        "the hub has lost what it published since a backup, and does not take it back",
        "update the hub; else an approver: fernwart catalogue propose --above VERSION, with the version that is lost",
    ),
    (
        "FW-CAT-20",
        "a version too far ahead: there would be no room for what follows",
        "fernwart catalogue show tells the version in force; up to 1,000 may be left out",
    ),
    ("FW-CAT-17", "the approver's key stays locked", "--passphrase-file FILE, or type the passphrase"),
    ("FW-CAT-14", "a script's folder has mistakes", "fernwart script lint DIR explains each"),
    (
        "FW-CAT-06",
        "the hub offers a catalogue that nobody approved, or an older one",
        "do not go on before somebody has found out why",
    ),
    ("FW-CAT-07", "this key may not sign this draft", "another approver must sign"),
    ("FW-CAT-08", "a draft is signed only after somebody has read it", "type yes, or name the draft: --yes ID"),
    ("FW-CAT-09", "the last lead cannot be taken off the staff list", "put another lead on the list first"),
    ("FW-JOIN-20", "no invitation was given", "ask for one: fernwart invite"),
    (
        "FW-JOIN-21",
        "the text is no invitation, was cut, or has a typing error",
        "copy the whole line, from fw1- to its end",
    ),
    (
        "FW-JOIN-22",
        "an invitation for many machines must not stand on a command line",
        "save it in a file: --invitation FILE",
    ),
    ("FW-JOIN-23", "joining failed; nothing counts yet", "try again; the message says where it stopped"),
    ("FW-JOIN-24", "the machine has not joined yet", "fernwart-agent enroll, with an invitation"),
    (
        "FW-JOIN-25",
        "the machine cannot reach the hub its invitation names, or it is another one",
        "check the network and that UDP gets through; compare the invitation",
    ),
    (
        "FW-JOIN-26",
        "what answered could not show what approvers have signed",
        "do not go on; invite anew and compare the hub's CA",
    ),
    (
        "FW-JOIN-27",
        "the machine has joined for another customer, or another shop",
        "have it retired there, stop its service, move its folder aside, invite it anew",
    ),
    (
        "FW-JOIN-29",
        "the machine was rejected or retired, and its folder is of that time",
        "stop its service, move its folder aside, then enroll with a new invitation",
    ),
    (
        "FW-JOIN-30",
        "the service of this machine runs for another folder, which has joined; nothing was done",
        "leave there first; or --no-service, and start this one yourself",
    ),
    ("FW-JOIN-28", "the machine is being set up in another window", "finish there, or close that window"),
    ("FW-OWN-12", "the agent is not running, so nobody can answer", "fernwart-agent run"),
    ("FW-OWN-13", "there is no such question, or not any more", "fernwart-agent questions"),
    ("FW-OWN-14", "all repairs are allowed only for a while", "fernwart-agent allow repair --for 2h"),
    ("FW-OWN-17", "the owner's decision holds, but a restart forgets it", "free some space on the machine"),
    ("FW-OWN-18", "only the machine's administrator may say that", "sudo fernwart-agent …"),
    ("FW-OWN-19", "the agent is there and does not answer", "fernwart-agent check; or restart the service"),
    ("FW-OWN-21", "the agent, or its folder, is not as it should be", "fernwart-agent check; then its log"),
    (
        "FW-OWN-22",
        "the machine's records are gone or damaged, so it does nothing",
        "stop its service, move its folder aside, retire the machine and invite it anew",
    ),
    (
        "FW-OWN-23",
        "a newer agent has written the records of this machine, and this one cannot read them",
        "install the newer agent again",
    ),
    (
        "FW-OWN-24",
        "others may change a file of the machine's agent, or it is not as it must be, so nothing is done with it",
        "look who has changed it; then chmod and chown as the message says",
    ),
    (
        "FW-OWN-25",
        "the files of the machine's agent are not all of this machine, so it does nothing",
        "put back the file that is named, from this machine's own backup; or move the folder aside and invite it anew",
    ),
    (
        "FW-OWN-27",
        "agent.toml, which says where the machine has joined, is damaged",
        "put it back from this machine's own backup; or move the folder aside and invite it anew",
    ),
    (
        "FW-OWN-29",
        "the account may not look into the agent's folder",
        "with sudo; or name the account in policy.toml: asked = [\"ACCOUNT\"] under [act]",
    ),
    (
        "FW-OWN-28",
        "there is no room for the record that stays when an owner leaves; nothing was done",
        "free some space; or fernwart-agent leave --purge",
    ),
    ("FW-OWN-26", "leaving was not confirmed, so nothing was done", "fernwart-agent leave --yes"),
    ("FW-OWN-20", "the agent is running on this folder already", "fernwart-agent status"),
    ("FW-OWN-16", "nothing of this number was done on the machine", "fernwart-agent history"),
    ("FW-OWN-15", "the owner's decision could not be kept", "free some space on the machine"),
    ("FW-OWN-11", "the policy file cannot be used", "fernwart-agent policy check says why"),
    ("FW-OWN-10", "without a terminal the policy must be given", "--policy ask, nightly, trusted or a file"),
    ("FW-HUB-20", "the folder is no hub's", "fernwart init makes one"),
    ("FW-HUB-21", "another hub runs on this folder", "stop the other one first"),
    (
        "FW-HUB-22",
        "a private key of an approver or of staff lies in the hub's folder",
        "move it to its owner's computer",
    ),
    (
        "FW-HUB-23",
        "a file of the hub may be read or changed by others, is a link, or is damaged",
        "look who has changed it; then chmod and chown as the message says",
    ),
    ("FW-HUB-24", "the address cannot be listened on", "choose another with --listen"),
    (
        "FW-HUB-25",
        "the hub's store or catalogue cannot be used",
        "look at the file it names, and whether there is room on the disk (df -h)",
    ),
    (
        "FW-HUB-29",
        "metrics are served without a password, so only on the hub's own computer",
        "take 127.0.0.1 or [::1], and have a collector on this computer ask for them",
    ),
    ("FW-HUB-31", "hub.toml is not right", "correct the line it names; addresses are in quotes: \"127.0.0.1:9464\""),
    ("FW-HUB-30", "the address for metrics cannot be listened on", "choose another with --metrics"),
    (
        "FW-HUB-26",
        "the approved hub.json names none of the keys in the hub's folder: it came from another backup, or was changed by hand",
        "restore the hub's keys, or have others approved: fernwart catalogue show --to DIR, then propose",
    ),
    (
        "FW-HUB-27",
        "the hub's keys are being replaced: hub.json names two CAs",
        "fernwart next-keys --finish --to DIR, once every machine has been linked",
    ),
    (
        "FW-HUB-28",
        "hub.json names one CA, so there is nothing to finish",
        "fernwart next-keys --to DIR begins a change",
    ),
    (
        "FW-JNL-01",
        "the journal does not hold together",
        "ask the machine's owner for it again; if it fails again, somebody altered it",
    ),
];

/// Advice on codes of the protocol's tables.
const ADVICE: &[(&str, &str)] = &[
    ("FW-HUB-15", "the hub was restored and has lost it: fernwart catalogue propose DIR, with the script's folder"),
    ("FW-HUB-34", "update the hub"),
    ("FW-GATE-21", "update the agent on that machine"),
    (
        "FW-GATE-22",
        "on that machine: sudo fernwart-agent check names them; look who has changed them, then restart the agent",
    ),
    ("FW-GATE-03", "put the key on the staff list: fernwart staff add"),
    ("FW-GATE-04", "a lead renews the entry: fernwart staff add NAME --key-id … --until …"),
    ("FW-GATE-05", "only a new catalogue lifts a lock"),
    ("FW-GATE-06", "ask somebody with the role repair"),
    ("FW-GATE-10", "send it again; if it persists, compare the clocks: fernwart doctor"),
    ("FW-GATE-12", "an approver signs anew: fernwart catalogue propose, sign, publish"),
    ("FW-GATE-13", "wait until the machine follows the newest catalogue"),
    ("FW-GATE-14", "set the machine's clock; the finding time.off says how far it is off"),
    ("FW-GATE-15", "free space on the machine's disk"),
    ("FW-CAT-01", "an approver must sign it first"),
    ("FW-CAT-02", "propose it anew: fernwart catalogue propose"),
    ("FW-HUB-16", "fernwart script show NAME lists them"),
    ("FW-HUB-17", "fernwart script ls; it may have been replaced just now: try again"),
    ("FW-CAT-10", "is the hub's folder whole? try again"),
    ("FW-CAT-11", "propose it anew with a later date"),
    ("FW-CAT-12", "its manifest names the platforms it is for"),
    ("FW-CAT-13", "run it without --dry-run, or choose another"),
    ("FW-GATE-18", "fernwart script show NAME"),
    ("FW-GATE-20", "see with its owner which backup it was restored from, then: fernwart acknowledge MACHINE"),
    ("FW-GATE-19", "the agent must run as root, under systemd or with control groups for processor shares"),
    ("FW-OWN-05", "ask the customer; they go on with: fernwart-agent resume"),
    ("FW-OWN-06", "try again tomorrow, or ask the customer"),
    ("FW-OWN-07", "ask the customer to list it in policy.toml"),
    ("FW-OWN-08", "give it longer: --timeout 24h"),
    ("FW-CAT-03", "another approver signs: fernwart catalogue sign --key DIR"),
    ("FW-CAT-04", "propose it anew on top of the published one"),
    ("FW-CAT-05", "fernwart catalogue show lists the drafts"),
    ("FW-HUB-02", "update the older of the two programs"),
    ("FW-HUB-03", "ask a lead"),
    ("FW-HUB-04", "fernwart ls lists all machines"),
    ("FW-HUB-05", "fernwart job ls lists the newest jobs; fernwart doctor tells how long the hub keeps results"),
    ("FW-HUB-06", "fernwart customer ls lists all customers"),
    ("FW-HUB-07", "choose another name"),
    ("FW-HUB-08", "free space on the hub; nothing was lost, and what a machine has begun goes on: fernwart job ls"),
    ("FW-HUB-09", "look at the hub's log; what a machine has begun goes on: fernwart job ls"),
    ("FW-HUB-10", "try again in a minute"),
    ("FW-HUB-11", "fernwart limits lists them; ask for less at once"),
    ("FW-HUB-12", "ask a lead: fernwart staff ls"),
    ("FW-HUB-32", "take some away: fernwart label MACHINE NAME-, or fernwart group"),
    ("FW-HUB-33", "ask again in a minute; one question of each technician is answered at a time"),
    ("FW-HUB-13", "publish the first one: fernwart catalogue publish --file FILE"),
    ("FW-JOIN-01", "ask for a new invitation"),
    ("FW-JOIN-02", "ask for a new invitation"),
    ("FW-JOIN-03", "ask for a new one; and ask who used this one: fernwart pending"),
    ("FW-JOIN-04", "ask for a new invitation"),
    ("FW-JOIN-05", "use it inside that network, or ask for a new invitation"),
    ("FW-JOIN-06", "machines: fernwart-agent enroll; technicians: fernwart join"),
    ("FW-JOIN-07", "ask for a new invitation; tell your IT support the code"),
    ("FW-JOIN-08", "ask for a new invitation"),
    ("FW-JOIN-09", "ask for a new invitation, if this machine is to come back"),
    ("FW-JOIN-10", "ask your IT support why"),
    ("FW-JOIN-11", "fernwart pending lists who waits"),
    ("FW-JOIN-12", "fernwart staff add, signed by the approvers"),
];

/// The advice on a code.
pub(crate) fn advice(code: &str) -> Option<&'static str> {
    let here = HERE.iter().find(|(known, ..)| *known == code).map(|(_, _, now)| *now);
    here.or_else(|| ADVICE.iter().find(|(known, _)| *known == code).map(|(_, now)| *now))
}

/// What a code means.
pub(crate) fn meaning(code: &str) -> Option<&'static str> {
    let refusal = Refusal::ALL.iter().find(|refusal| refusal.code() == code).map(|refusal| refusal.what());
    let denial = || Denial::ALL.iter().find(|denial| denial.code() == code).map(|denial| denial.what());
    let here = || HERE.iter().find(|(known, ..)| *known == code).map(|(_, what, _)| *what);
    refusal.or_else(denial).or_else(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_explanation_and_is_listed_once() {
        let mut all: Vec<_> =
            Refusal::ALL.iter().map(Refusal::code).chain(Denial::ALL.iter().map(Denial::code)).collect();
        all.extend(HERE.iter().map(|(code, ..)| (*code).into()));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|code| meaning(code).is_some()));
        assert!(ADVICE.iter().all(|(code, _)| meaning(code).is_some()));
    }
}
