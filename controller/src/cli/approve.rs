//! Commands of approvers: keys, drafts, signatures, publishing, the staff list.

mod history;

use super::chain;
use super::output::{Cell, Rows, Shape, day};
use super::script::{self, Folder};
use super::{Exit, Failure, HomePaths, ShapeArgs, prompt, say, with_session};
use crate::homes::{APPROVER_PREFIX, approver_key};
use crate::operate::first_catalogue::publish_first;
use clap::{Args, Subcommand};
use fernwart_certs::approve::{Contents, Draft, LEFT_OUT, NextRoot, Progress, Proposed, Root};
use fernwart_certs::catalogue::{Approved, Catalogue, Hub, Shop, StaffList, target};
use fernwart_certs::identity::SigningKey;
use fernwart_client::{ApproverHome, ClientError, Session, now};
use fernwart_protocol::document::Document;
use fernwart_protocol::id::PublicKey;
use fernwart_protocol::script::{Bundle, BundleName};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PROTECTED: &str =
    "The key is made, behind your passphrase. Nobody can open it without; write the passphrase down.";
const BARE: &str = "The key is made, without a passphrase: anyone with the file has the key.";

/// Approvers.
#[derive(Args)]
pub(crate) struct Approver {
    #[command(subcommand)]
    command: ApproverCommand,
}

#[derive(Subcommand)]
enum ApproverCommand {
    /// Make an approver's key; it never leaves this computer
    New,
    /// Show this approver's public key
    Show,
}

pub(crate) fn approver(command: &Approver, homes: &HomePaths) -> Result<Exit, Failure> {
    let path = homes.approver();
    let home = match command.command {
        ApproverCommand::New if ApproverHome::exists(&path) => {
            note!("{} has a key already; it is kept", path.display());
            ApproverHome::open(&path)?
        }
        ApproverCommand::New => {
            let home = ApproverHome::create(&path, homes.new_passphrase()?.as_deref())?;
            note!("{}", if home.is_protected() { PROTECTED } else { BARE });
            home
        }
        ApproverCommand::Show => ApproverHome::open(&path)?,
    };
    say(&format!("{APPROVER_PREFIX}{}\n", home.public()))
}

/// What is approved.
#[derive(Args)]
pub(crate) struct CatalogueArgs {
    #[command(subcommand)]
    command: CatalogueCommand,
}

#[derive(Subcommand)]
enum CatalogueCommand {
    /// What is approved now, and which drafts wait for signatures
    Show {
        /// Write staff.json, hub.json and shop.json into a folder, to be changed and proposed
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        #[command(flatten)]
        shape: ShapeArgs,
    },
    /// Propose a script (DIR holds its manifest.toml) or changed files (DIR holds staff.json, hub.json or shop.json)
    Propose {
        /// The folders
        #[arg(required_unless_present = "above", value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Make its version higher than this one, which was published and is lost: after a restore
        #[arg(long, value_name = "VERSION")]
        above: Option<u64>,
        #[command(flatten)]
        agreed: Agreed,
    },
    /// Propose that a script is no longer run
    Withdraw {
        /// Its name
        name: BundleName,
        #[command(flatten)]
        agreed: Agreed,
    },
    /// List what was approved before, by whom, and what it changed
    History(ShapeArgs),
    /// Propose other approvers, another number of signatures, or only a root that lasts anew
    Rotate {
        /// One more approver: what `fernwart approver show` prints
        #[arg(long, value_name = "KEY", value_parser = approver_key)]
        add: Vec<PublicKey>,
        /// One approver less
        #[arg(long, value_name = "KEY", value_parser = approver_key)]
        remove: Vec<PublicKey>,
        /// How many must sign from then on
        #[arg(short, value_name = "K")]
        k: Option<u64>,
        #[command(flatten)]
        agreed: Agreed,
    },
    /// Sign a draft, after reading what it changes
    Sign {
        /// The draft, or the beginning of its id
        draft: Option<String>,
        /// A draft in a file, instead of one at the hub
        #[arg(long, value_name = "FILE", conflicts_with = "draft")]
        file: Option<PathBuf>,
        /// The approver's home
        #[arg(long, value_name = "DIR")]
        key: Option<PathBuf>,
        /// Yes, this draft: the beginning of its id, as show prints it (needed without a terminal)
        #[arg(long, value_name = "ID")]
        yes: Option<String>,
    },
    /// Publish a draft that has its signatures
    Publish {
        /// The draft, or the beginning of its id
        draft: Option<String>,
        /// A shop's first draft in a file, straight into the hub's home
        #[arg(long, value_name = "FILE", conflicts_with = "draft")]
        file: Option<PathBuf>,
    },
}

/// Whether what one approver alone may publish is published unasked.
#[derive(Args, Debug, Clone, Copy, Default)]
struct Agreed {
    /// Publish at once, where your signature suffices (needed without a terminal)
    #[arg(long)]
    yes: bool,
}

pub(crate) fn catalogue(command: &CatalogueArgs, homes: &HomePaths) -> Result<Exit, Failure> {
    match &command.command {
        CatalogueCommand::Show { to, shape } => show(to.as_deref(), shape.output, homes),
        CatalogueCommand::Propose { folders, above, agreed } => propose(folders, *above, *agreed, homes),
        CatalogueCommand::Withdraw { name, agreed } => withdraw(name, *agreed, homes),
        CatalogueCommand::History(shape) => history::show(shape.output, homes),
        CatalogueCommand::Rotate { add, remove, k, agreed } => rotate(add, remove, *k, *agreed, homes),
        CatalogueCommand::Sign { draft, file, key, yes } => {
            let path = key.clone().map_or_else(|| homes.approver(), |dir| homes.elsewhere(dir).approver());
            let home = ApproverHome::open(&path)?;
            match file {
                Some(file) => sign_file(file, home, yes.as_deref(), homes),
                None => with_session(homes, async |session| {
                    let draft = find(session, draft.as_deref()).await?;
                    say_draft(&draft, Some(&session.catalogue))?;
                    say_scripts(session, &draft).await?;
                    confirm(&draft, yes.as_deref())?;
                    let progress = sign_and_put(session, draft, &homes.unlock(home)?).await?;
                    say_progress(progress);
                    Ok(Exit::Done)
                }),
            }
        }
        CatalogueCommand::Publish { draft, file } => match file {
            Some(file) => publish_file(file, homes),
            None => with_session(homes, async |session| {
                let draft = find(session, draft.as_deref()).await?;
                session.publish(&draft).await?;
                note!("published: version {}", session.catalogue.versions.targets);
                Ok(Exit::Done)
            }),
        },
    }
}

fn say_progress(progress: Progress) {
    note!("signed: {} of {} signatures", progress.have, progress.need);
    if progress.is_complete() {
        note!("Next: fernwart catalogue publish");
    } else {
        note!("Next: another approver runs fernwart catalogue sign");
    }
}

fn unwritable(error: impl std::error::Error) -> Failure {
    Failure::new(Exit::Failed, "FW-CLI-09", chain(&error))
}

fn read_draft(bytes: &[u8]) -> Result<Draft, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::new(Exit::Usage, "FW-CAT-02", format!("this is no draft: {error}")))
}

fn read_draft_file(path: &Path) -> Result<Draft, Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Usage, "FW-CLI-10", format!("{} cannot be read: {error}", path.display()))
    })?;
    read_draft(&bytes)
}

fn write_draft_file(path: &Path, draft: &Draft) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(draft).map_err(unwritable)?;
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(&beside, path)?)
}

fn say_changes(draft: &Draft, before: Option<&Catalogue>) -> Result<(), Failure> {
    for line in draft.changes(before)? {
        note!("  {}", fernwart_protocol::text::escaped(&line));
    }
    Ok(())
}

/// Asks for confirmation before signing: a person types yes, a script names the draft.
fn confirm(draft: &Draft, yes: Option<&str>) -> Result<(), Failure> {
    let id = draft.id().map_err(unwritable)?.to_string();
    let short = id.get(..12).unwrap_or_default();
    match yes {
        Some(named) if named.len() >= 8 && id.starts_with(named) => return Ok(()),
        Some(_) => {
            return Err(Failure::new(Exit::Usage, "FW-CAT-05", "--yes names another draft; nothing was signed")
                .now(format!("read it, then: --yes {short}")));
        }
        None if !prompt::is_possible() => {
            return Err(Failure::new(
                Exit::Usage,
                "FW-CAT-08",
                "without a terminal the draft to sign must be named; nothing was signed",
            )
            .now(format!("read it, then: --yes {short}")));
        }
        None => {}
    }
    match prompt::line("Type yes to sign this: ", "nothing was signed")? {
        Some(answer) if answer.trim() == "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Stopped, "FW-CAT-08", "it was not confirmed; nothing was signed")),
    }
}

fn say_draft(draft: &Draft, before: Option<&Catalogue>) -> Result<(), Failure> {
    let id = draft.id().map_err(unwritable)?.to_string();
    note!("draft {} would be approved:", id.get(..12).unwrap_or_default());
    say_changes(draft, before)
}

fn sign_file(path: &Path, home: ApproverHome, yes: Option<&str>, homes: &HomePaths) -> Result<Exit, Failure> {
    let mut draft = read_draft_file(path)?;
    say_draft(&draft, None)?;
    for script in draft.new_scripts(None)? {
        say_script(None, &script);
    }
    confirm(&draft, yes)?;
    draft.sign(&homes.unlock(home)?, None, None, now())?;
    write_draft_file(path, &draft)?;
    let progress = draft.progress(None);
    note!("signed: {} of {} signatures", progress.have, progress.need);
    if progress.is_complete() {
        note!("Next: fernwart catalogue publish --file {}", path.display());
    } else {
        note!("Next: another approver runs fernwart catalogue sign --file {}", path.display());
    }
    Ok(Exit::Done)
}

fn publish_file(path: &Path, homes: &HomePaths) -> Result<Exit, Failure> {
    let draft = read_draft_file(path)?;
    publish_first(&draft, homes)?;
    note!("published: the shop's first catalogue.\nNext: fernwart serve --home {}", homes.hub().display());
    Ok(Exit::Done)
}

async fn drafts(session: &mut Session) -> Result<Vec<Draft>, Failure> {
    let mut drafts = Vec::new();
    for bytes in session.drafts().await? {
        drafts.push(read_draft(&bytes)?);
    }
    Ok(drafts)
}

async fn find(session: &mut Session, wanted: Option<&str>) -> Result<Draft, Failure> {
    let mut found = Vec::new();
    for draft in drafts(session).await? {
        let id = draft.id().map_err(unwritable)?.to_string();
        // Only a draft that builds on the published catalogue can be published.
        let current = draft.follows(session.catalogue.versions.targets);
        if wanted.map_or(current, |wanted| id.starts_with(wanted)) {
            found.push(draft);
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(draft), true) => Ok(draft),
        (Some(_), false) => {
            Err(Failure::new(Exit::Usage, "FW-CAT-05", "several drafts wait; name one").now("fernwart catalogue show"))
        }
        (None, _) => Err(Failure::new(Exit::Usage, "FW-CAT-05", "no such draft waits").now("fernwart catalogue show")),
    }
}

fn root_in_force(session: &Session) -> Result<Root, Failure> {
    let trusted = session.home().trusted()?.unwrap_or_default();
    fernwart_certs::approve::root_of(&trusted).map_err(unwritable)
}

async fn sign_and_put(session: &Session, mut draft: Draft, key: &SigningKey) -> Result<Progress, Failure> {
    let root = root_in_force(session)?;
    draft.sign(key, Some(&root), Some(&session.catalogue), now())?;
    session.put_draft(&draft).await?;
    Ok(draft.progress(Some(&root)))
}

/// Proposes the change that the command names. If one signature suffices and the approver's key is
/// here, also signs and publishes it.
pub(super) async fn put_through(session: &mut Session, contents: &Contents, homes: &HomePaths) -> Result<(), Failure> {
    put_through_with(session, contents, Beside { agreed: Agreed { yes: true }, ..Beside::default() }, homes).await
}

/// The parts of a proposal besides its contents.
#[derive(Default)]
struct Beside<'a> {
    /// The scripts that it changes.
    scripts: &'a [Folder],
    /// The next approvers.
    root: Option<NextRoot>,
    /// A lost version that it must exceed.
    above: u64,
    agreed: Agreed,
}

async fn put_through_with(
    session: &mut Session,
    contents: &Contents,
    beside: Beside<'_>,
    homes: &HomePaths,
) -> Result<(), Failure> {
    let is_as_it_was = *contents == Contents::of(&session.catalogue);
    // An unchanged catalogue that expires soon may be signed again.
    let is_due = session.catalogue.expiries.targets.saturating_sub(now()) < super::WARN_MS;
    if is_as_it_was && !is_due && beside.root.is_none() && beside.above == 0 {
        note!("This is approved already, as it stands; nothing was proposed.");
        return Ok(());
    }
    let approver = match ApproverHome::open(&homes.approver()) {
        Ok(home) => Some(home),
        // A key that is there and cannot be used is not the same as none.
        Err(error) if ApproverHome::exists(&homes.approver()) => return Err(error.into()),
        Err(_) => None,
    };
    let proposer = approver.as_ref().map(ApproverHome::public);
    let mut draft = Draft::next(&session.catalogue, contents, proposer.as_ref(), now()).map_err(unwritable)?;
    draft = draft.above(beside.above);
    if !draft.follows(session.catalogue.versions.targets) {
        let most = session.catalogue.versions.targets + LEFT_OUT;
        let what = format!("version {} is too far ahead: {most} is the most", beside.above);
        return Err(Failure::new(Exit::Usage, "FW-CAT-20", what).now("fernwart catalogue show"));
    }
    for script in beside.scripts {
        draft.bring(&script.bundle, &script.files).map_err(unwritable)?;
    }
    let in_force = root_in_force(session)?;
    if let Some(next) = &beside.root {
        draft = draft.with_root(&in_force, next, now()).map_err(unwritable)?;
    }
    // Signers would see an error here; report it to the proposer now.
    draft.new_scripts(Some(&session.catalogue))?;
    match approver {
        Some(home) if session.catalogue.threshold == 1 => {
            say_draft(&draft, Some(&session.catalogue))?;
            if !beside.agreed.yes {
                say_scripts(session, &draft).await?;
                agree_to_publish()?;
            }
            let progress = sign_and_put(session, draft.clone(), &homes.unlock(home)?).await?;
            if progress.is_complete() {
                session.publish(&draft).await?;
                note!("published: version {}", session.catalogue.versions.targets);
            } else {
                say_progress(progress);
            }
        }
        _ => {
            session.put_draft(&draft).await?;
            let id = draft.id().map_err(unwritable)?.to_string();
            note!("proposed as draft {}; nothing is in force yet:", id.get(..12).unwrap_or_default());
            say_changes(&draft, Some(&session.catalogue))?;
            let need = session.catalogue.threshold;
            let who = if need == 1 { "an approver runs".to_owned() } else { format!("{need} approvers run") };
            note!("Next: {who} fernwart catalogue sign, then: fernwart catalogue publish");
        }
    }
    Ok(())
}

/// Asks for confirmation before publishing to every machine.
fn agree_to_publish() -> Result<(), Failure> {
    if !prompt::is_possible() {
        let what = "without a terminal this must be confirmed; nothing was published";
        return Err(Failure::new(Exit::Usage, "FW-CLI-14", what).now("read it, then: --yes"));
    }
    match prompt::line("Your signature suffices. Type yes to publish this to every machine: ", "nothing was published")?
    {
        Some(answer) if answer.trim() == "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Stopped, "FW-CLI-14", "it was not confirmed; nothing was published")),
    }
}

fn propose(folders: &[PathBuf], above: Option<u64>, agreed: Agreed, homes: &HomePaths) -> Result<Exit, Failure> {
    let mut particulars = Particulars::default();
    let mut scripts = Vec::new();
    for folder in folders {
        if folder.join(script::MANIFEST).exists() {
            scripts.push(script::folder(folder)?);
        } else {
            particulars.read(folder)?;
        }
    }
    with_session(homes, async |session| {
        session.sync().await?;
        let now = Contents::of(&session.catalogue);
        let mut contents = Contents {
            staff: particulars.staff.unwrap_or_else(|| now.staff.clone()),
            hub: particulars.hub.unwrap_or_else(|| now.hub.clone()),
            shop: particulars.shop.unwrap_or_else(|| now.shop.clone()),
            scripts: now.scripts.clone(),
            grants: now.grants.clone(),
        };
        let mut lost = 0;
        for script in &scripts {
            let bytes = script.bundle.to_bytes().map_err(unwritable)?;
            let approved = Approved {
                version: script.bundle.version,
                sha256: fernwart_certs::sha256(&bytes),
                bytes: bytes.len() as u64,
            };
            if now.scripts.get(&script.bundle.name) == Some(&approved) {
                lost += give_files_back(session, &bytes, script).await?;
            }
            contents.scripts.insert(script.bundle.name.clone(), approved);
        }
        if lost > 0 {
            note!("the hub had lost {lost} files of these scripts; it has them again");
            if contents == now && above.is_none() {
                return Ok(Exit::Done);
            }
        }
        let beside = Beside { scripts: &scripts, above: above.unwrap_or_default(), root: None, agreed };
        put_through_with(session, &contents, beside, homes).await?;
        Ok(Exit::Done)
    })
}

/// Returns to the hub the files of an approved script that it has lost. Returns their number.
async fn give_files_back(session: &mut Session, bundle: &[u8], script: &Folder) -> Result<usize, Failure> {
    let mut lost = 0;
    // Send the bundle first: it names the other files.
    for file in std::iter::once(bundle).chain(script.files.values().map(String::as_bytes)) {
        match session.give_file_back(file).await {
            Ok(had_lost) => lost += usize::from(had_lost),
            Err(ClientError::OlderHub { .. }) => {
                note!("the hub has lost a file of {}, and is too old to take it back", script.bundle.name);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(lost)
}

/// The changed files found in a folder.
#[derive(Default)]
struct Particulars {
    staff: Option<StaffList>,
    hub: Option<Hub>,
    shop: Option<Shop>,
}

impl Particulars {
    fn read(&mut self, folder: &Path) -> Result<(), Failure> {
        fn one<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, Failure> {
            let path = folder.join(name);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let read = serde_json::from_str(&text);
            read.map(Some)
                .map_err(|error| Failure::new(Exit::Usage, "FW-CAT-02", format!("{}: {error}", path.display())))
        }
        let (staff, hub, shop) = (one(folder, target::STAFF)?, one(folder, target::HUB)?, one(folder, target::SHOP)?);
        if staff.is_none() && hub.is_none() && shop.is_none() {
            let what = format!("{} holds no manifest.toml, and no staff.json, hub.json or shop.json", folder.display());
            return Err(Failure::new(Exit::Usage, "FW-CAT-02", what)
                .now("fernwart catalogue show --to DIR writes what is approved now"));
        }
        (self.staff, self.hub, self.shop) =
            (staff.or(self.staff.take()), hub.or(self.hub.take()), shop.or(self.shop.take()));
        Ok(())
    }
}

/// Proposes the next root.
fn rotate(
    add: &[PublicKey],
    remove: &[PublicKey],
    k: Option<u64>,
    agreed: Agreed,
    homes: &HomePaths,
) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        session.sync().await?;
        let usage = |what: String| Failure::new(Exit::Usage, "FW-CAT-16", what);
        let known: Vec<PublicKey> = session.catalogue.approvers.values().copied().collect();
        if let Some(unknown) = remove.iter().find(|key| !known.contains(key)) {
            return Err(
                usage(format!("{APPROVER_PREFIX}{unknown} is none of the approvers")).now("fernwart catalogue show")
            );
        }
        if let Some(twice) = add.iter().find(|key| known.contains(key)) {
            return Err(usage(format!("{APPROVER_PREFIX}{twice} is an approver already")));
        }
        let mut approvers: Vec<PublicKey> = known.into_iter().filter(|key| !remove.contains(key)).collect();
        approvers.extend(add);
        let threshold = k.unwrap_or(session.catalogue.threshold);
        if threshold == 0 || threshold > approvers.len() as u64 {
            return Err(usage(format!("{threshold} of {} approvers cannot sign", approvers.len())).now("give -k K"));
        }
        let next = NextRoot { approvers, threshold };
        put_through_with(
            session,
            &Contents::of(&session.catalogue),
            Beside { root: Some(next), agreed, ..Beside::default() },
            homes,
        )
        .await?;
        Ok(Exit::Done)
    })
}

fn withdraw(name: &BundleName, agreed: Agreed, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        session.sync().await?;
        let mut contents = Contents::of(&session.catalogue);
        if contents.scripts.remove(name).is_none() {
            let what = format!("script {:?} is not in the catalogue", name.as_str());
            return Err(Failure::new(Exit::Usage, "FW-CAT-01", what).now("fernwart script ls"));
        }
        // Remove grants too: they must not apply to a future script of this name.
        contents.grants.values_mut().for_each(|scripts| _ = scripts.remove(name));
        contents.grants.retain(|_, scripts| !scripts.is_empty());
        put_through_with(session, &contents, Beside { agreed, ..Beside::default() }, homes).await?;
        Ok(Exit::Done)
    })
}

/// Shows the scripts that a draft changes, as differences to the approved ones.
async fn say_scripts(session: &mut Session, draft: &Draft) -> Result<(), Failure> {
    for script in draft.new_scripts(Some(&session.catalogue))? {
        let known = session.catalogue.scripts.get(&script.bundle.name).copied();
        let before = match known {
            None => None,
            Some(known) => {
                let bundle: Bundle = session.document(&known.sha256).await?;
                let mut files = BTreeMap::new();
                for file in &bundle.files {
                    let text = String::from_utf8_lossy(&session.blob(&file.sha256).await?).into_owned();
                    files.insert(file.name.clone(), text);
                }
                Some(Folder { bundle, files })
            }
        };
        say_script(before.as_ref(), &script);
    }
    Ok(())
}

fn say_script(before: Option<&Folder>, script: &Proposed) {
    let old_manifest = before.map(|before| before.bundle.manifest.as_raw()).unwrap_or_default();
    let name = &script.bundle.name;
    say_difference(&format!("{name}/{}", script::MANIFEST), old_manifest, script.bundle.manifest.as_raw());
    let none = BTreeMap::new();
    let old_files = before.map_or(&none, |before| &before.files);
    for (file, text) in &script.files {
        say_difference(&format!("{name}/{file}"), old_files.get(file).map(String::as_str).unwrap_or_default(), text);
    }
    for file in old_files.keys().filter(|file| !script.files.contains_key(*file)) {
        note!("  - {name}/{file}");
    }
}

/// Shows a text's changes line by line, escaped: no text may control the terminal of a person who
/// is about to sign.
fn say_difference(name: &str, old: &str, new: &str) {
    if old == new {
        return;
    }
    note!("  --- {name}");
    let difference = similar::TextDiff::from_lines(old, new);
    for group in difference.grouped_ops(3) {
        for change in group.iter().flat_map(|op| difference.iter_changes(op)) {
            let sign = match change.tag() {
                similar::ChangeTag::Delete => '-',
                similar::ChangeTag::Insert => '+',
                similar::ChangeTag::Equal => ' ',
            };
            note!("  {sign} {}", fernwart_protocol::text::escaped(change.value().trim_end_matches('\n')));
        }
    }
}

/// Describes a waiting draft. An outdated or unreadable draft is listed too, and hides no other.
fn waiting(draft: &Draft, catalogue: &Catalogue, root: &Root) -> Result<String, Failure> {
    let id = draft.id().map_err(unwritable)?.to_string();
    let short = id.get(..12).unwrap_or_default();
    let version = draft.targets.signed.version.get();
    if !draft.follows(catalogue.versions.targets) {
        return Ok(format!("draft {short} · for version {version}: overtaken, it cannot be published any more\n"));
    }
    let progress = draft.progress(Some(root));
    let mut out = format!("draft {short} · {} of {} signatures\n", progress.have, progress.need);
    let lines = draft.changes(Some(catalogue)).unwrap_or_else(|error| vec![format!("! {}", chain(&error))]);
    for line in lines {
        out += &format!("  {}\n", fernwart_protocol::text::escaped(&line));
    }
    Ok(out)
}

fn show(to: Option<&Path>, shape: Shape, homes: &HomePaths) -> Result<Exit, Failure> {
    with_session(homes, async |session| {
        session.sync().await?;
        if let Some(folder) = to {
            std::fs::create_dir_all(folder)?;
            let trusted = session.home().trusted()?.unwrap_or_default();
            for name in target::NAMED {
                if let Some(bytes) = trusted.files.get(name) {
                    std::fs::write(folder.join(name), bytes)?;
                }
            }
            note!(
                "written to {}.\nNext: change them, then: fernwart catalogue propose {}",
                folder.display(),
                folder.display()
            );
            return Ok(Exit::Done);
        }
        let catalogue = session.catalogue.clone();
        if shape != Shape::Table {
            return show_to_programs(session, &catalogue, shape).await;
        }
        let mut out = format!(
            "{} · version {} · {} of {} approvers must sign · targets until {} · root until {}\n",
            catalogue.shop.name,
            catalogue.versions.targets,
            catalogue.threshold,
            catalogue.approvers.len(),
            day(catalogue.expiries.targets),
            day(catalogue.expiries.root)
        );
        let root = root_in_force(session)?;
        for draft in drafts(session).await? {
            out += &waiting(&draft, &catalogue, &root)?;
        }
        say(&out)
    })
}

/// Prints the catalogue as one object for programs.
async fn show_to_programs(session: &mut Session, catalogue: &Catalogue, shape: Shape) -> Result<Exit, Failure> {
    let root = root_in_force(session)?;
    let mut waiting = Vec::new();
    for draft in drafts(session).await? {
        let progress = draft.progress(Some(&root));
        let changes = draft.changes(Some(catalogue)).unwrap_or_else(|error| vec![chain(&error)]);
        waiting.push(json!({
            "draft": draft.id().map_err(unwritable)?.to_string(), "version": draft.targets.signed.version.get(),
            "overtaken": !draft.follows(catalogue.versions.targets), "signatures": progress.have,
            "needed": progress.need, "changes": changes,
        }));
    }
    let columns = ["name", "version", "threshold", "approvers", "targets_until", "root_until", "drafts"];
    let mut rows = Rows::new("catalogue", &columns);
    let approvers: Vec<String> = catalogue.approvers.values().map(|key| format!("{APPROVER_PREFIX}{key}")).collect();
    let drafts = waiting.len().to_string();
    rows.push(vec![
        catalogue.shop.name.as_raw().into(),
        catalogue.versions.targets.into(),
        catalogue.threshold.into(),
        Cell::new(approvers.clone(), approvers.join(" ")),
        Cell::day(catalogue.expiries.targets),
        Cell::day(catalogue.expiries.root),
        Cell::new(waiting, drafts),
    ]);
    rows.print(shape)
}
