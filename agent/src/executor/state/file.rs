//! The state store's tables in one durable file (redb).

use super::format::{FORMAT, Format};
use super::reserve::{ReservedFile, checked};
use super::tables::{Changes, Row, Show, Table, Tables};
use super::{StateError, failed};
use fernwart_certs::keyfile::{self, KeyFileError};
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, Value,
    WriteTransaction,
};
use rustix::fs::OFlags;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

type RunTable = TableDefinition<'static, [u8; 16], &'static [u8]>;
type NumberTable = TableDefinition<'static, u64, &'static str>;
type NameTable = TableDefinition<'static, &'static str, &'static [u8]>;
type HashTable = TableDefinition<'static, [u8; 32], &'static [u8]>;

const RUNS: RunTable = TableDefinition::new("runs");
const REPORTS: RunTable = TableDefinition::new("reports");
const JOURNAL: NumberTable = TableDefinition::new("journal");
const BODIES: NumberTable = TableDefinition::new("bodies");
const FILES: NameTable = TableDefinition::new("catalogue");
const LOCKS: HashTable = TableDefinition::new("locks");
const MARKS: NameTable = TableDefinition::new("marks");

/// Size of the page cache in bytes: the state store is small and rarely read.
const CACHE_BYTES: usize = 256 * 1024;

/// Shorter files are not compacted.
const WORTH_BYTES: u64 = 16 * 1024 * 1024;

/// The database file. After a disk error redb accepts nothing more, even if the disk works again;
/// it must be reopened.
#[derive(Debug)]
pub(super) struct StateFile {
    /// None only between a disk error and the next attempt to reopen it.
    database: Option<Database>,
    path: PathBuf,
    /// Its device and inode: this process accepts no other file in its place.
    file: (u64, u64),
}

impl StateFile {
    /// Opens an existing file.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        Self::over(path, ReservedFile::open(path))
    }

    /// Opens the file, or creates it. A file whose creation was interrupted, and never held
    /// anything, is created again.
    pub(super) fn begin(path: &Path) -> Result<Self, StateError> {
        if was_never_finished(path) {
            std::fs::remove_file(path).map_err(|error| cannot_open(path, error))?;
        }
        Self::over(path, ReservedFile::open_or_make(path))
    }

    fn over(path: &Path, file: Result<ReservedFile, KeyFileError>) -> Result<Self, StateError> {
        let database = Some(database(path, file)?);
        let file = Self { database, path: path.to_owned(), file: identity(path)? };
        // Checked before any write: records of a newer version stay unchanged.
        if let Ok(mark) = file.get(Table::Metadata, FORMAT.as_bytes()) {
            Format::read(mark.as_deref())?;
        }
        let transaction = file.opened()?.begin_write().map_err(failed)?;
        for table in Table::ALL {
            Shape::of(table).make(&transaction)?;
        }
        let used = transaction.stats().map_err(failed).map(|stats| stats.allocated_pages() * stats.page_size() as u64);
        transaction.commit().map_err(failed)?;
        file.compacted(used?)
    }

    /// Compacts the file if it is much longer than its content.
    fn compacted(mut self, used: u64) -> Result<Self, StateError> {
        let length = std::fs::metadata(&self.path).map_err(|error| cannot_open(&self.path, error))?.len();
        if length >= WORTH_BYTES
            && used * 2 < length
            && let Some(database) = &mut self.database
            && let Err(error) = database.compact()
        {
            // The file is usable, only longer than necessary.
            tracing::warn!(%error, "the state store's file could not be compacted");
            self.database = None;
            self.database = Some(self::database(&self.path, ReservedFile::open(&self.path))?);
        }
        Ok(self)
    }

    fn opened(&self) -> Result<&Database, StateError> {
        self.database.as_ref().ok_or(StateError::Damaged("file"))
    }

    fn read(&self) -> Result<ReadTransaction, StateError> {
        self.opened()?.begin_read().map_err(failed)
    }

    fn try_commit(&self, changes: &Changes) -> Result<(), StateError> {
        let transaction = self.opened()?.begin_write().map_err(failed)?;
        for ((table, key), value) in changes {
            Shape::of(*table).change(&transaction, key, value.as_deref())?;
        }
        transaction.commit().map_err(failed)
    }

    /// The state after a disk error.
    #[cfg(test)]
    pub(super) fn closed(path: &Path) -> Self {
        Self { database: None, path: path.to_owned(), file: identity(path).expect("a file") }
    }
}

/// The first bytes of a redb file (see its design.md).
const MARK: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// Whether the file's creation was interrupted: redb writes its first bytes last.
fn was_never_finished(path: &Path) -> bool {
    let mut mark = [0; 9];
    let read = checked(path, OFlags::RDONLY).is_ok_and(|mut file| file.read_exact(&mut mark).is_ok());
    read && mark == [0; 9]
}

fn cannot_open(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> StateError {
    StateError::Open(path.display().to_string(), Box::new(error))
}

fn identity(path: &Path) -> Result<(u64, u64), StateError> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino())).map_err(|error| cannot_open(path, error))
}

fn database(path: &Path, file: Result<ReservedFile, KeyFileError>) -> Result<Database, StateError> {
    let file = file.map_err(|error| cannot_open(path, error))?;
    let builder = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file);
    builder.map_err(|error| cannot_open(path, error))
}

impl Tables for StateFile {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Shape::of(table).get(&self.read()?, key)
    }

    fn each(&self, table: Table, from: &[u8], show: Show<'_>) -> Result<(), StateError> {
        Shape::of(table).each(&self.read()?, from, show)
    }

    fn last(&self, table: Table) -> Result<Option<Row>, StateError> {
        Shape::of(table).last(&self.read()?)
    }

    fn count(&self, table: Table) -> Result<u64, StateError> {
        Shape::of(table).count(&self.read()?)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StateError> {
        self.in_place()?;
        if self.database.is_none() {
            self.database = Some(database(&self.path, ReservedFile::open(&self.path))?);
        }
        let written = self.try_commit(changes);
        if let Err(StateError::Write(_)) = &written {
            self.distrust();
        }
        written
    }

    /// Refuses a file that was deleted, emptied, replaced, or made accessible to others: what is
    /// written to it could be lost or read. A file that is put back is accepted again.
    fn in_place(&self) -> Result<(), StateError> {
        // The folders of its path were checked when it was opened.
        let mut file = keyfile::open_alone(&self.path).map_err(|error| cannot_open(&self.path, error))?;
        let mut mark = [0; 9];
        let is_complete = file.read_exact(&mut mark).is_ok() && mark == MARK;
        if !is_complete {
            return Err(cannot_open(&self.path, io::Error::other("it was emptied or written over")));
        }
        if identity(&self.path)? == self.file {
            return Ok(());
        }
        Err(cannot_open(&self.path, io::Error::other("another file was put in its place")))
    }

    fn distrust(&mut self) {
        self.database = None;
        self.mend();
    }

    fn mend(&mut self) {
        if self.database.is_none() && self.in_place().is_ok() {
            self.database = database(&self.path, ReservedFile::open(&self.path)).ok();
        }
    }
}

/// The tables by the type of their keys, which are converted from and to bytes.
enum Shape {
    Run(RunTable),
    Number(NumberTable),
    Name(NameTable),
    Hash(HashTable),
}

/// Runs the same code for tables of any type.
macro_rules! shaped {
    ($shape:expr, $table:ident => $body:expr) => {
        match $shape {
            Shape::Run($table) => $body,
            Shape::Number($table) => $body,
            Shape::Name($table) => $body,
            Shape::Hash($table) => $body,
        }
    };
}

impl Shape {
    const fn of(table: Table) -> Self {
        match table {
            Table::Runs => Self::Run(RUNS),
            Table::Reports => Self::Run(REPORTS),
            Table::Journal => Self::Number(JOURNAL),
            Table::Bodies => Self::Number(BODIES),
            Table::Files => Self::Name(FILES),
            Table::Locks => Self::Hash(LOCKS),
            Table::Metadata => Self::Name(MARKS),
        }
    }

    fn make(self, transaction: &WriteTransaction) -> Result<(), StateError> {
        shaped!(self, table => transaction.open_table(table).map(drop).map_err(failed))
    }

    fn get(self, read: &ReadTransaction, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        shaped!(self, table => get(read, table, key))
    }

    fn each(self, read: &ReadTransaction, from: &[u8], show: Show<'_>) -> Result<(), StateError> {
        shaped!(self, table => each(read, table, from, show))
    }

    fn last(self, read: &ReadTransaction) -> Result<Option<Row>, StateError> {
        shaped!(self, table => {
            let table = read.open_table(table).map_err(failed)?;
            let last = table.last().map_err(failed)?;
            Ok(last.map(|(key, value)| (key.value().to_bytes(), value.value().to_bytes())))
        })
    }

    fn count(self, read: &ReadTransaction) -> Result<u64, StateError> {
        shaped!(self, table => read.open_table(table).map_err(failed)?.len().map_err(failed))
    }

    fn change(self, transaction: &WriteTransaction, key: &[u8], value: Option<&[u8]>) -> Result<(), StateError> {
        shaped!(self, table => change(transaction, table, key, value))
    }
}

fn get<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StateError>
where
    for<'a> K::SelfType<'a>: InBytes<'a>,
    for<'a> V::SelfType<'a>: InBytes<'a>,
{
    let key: K::SelfType<'_> = typed(key)?;
    let found = read.open_table(table).map_err(failed)?.get(key).map_err(failed)?;
    Ok(found.map(|value| value.value().to_bytes()))
}

fn each<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    from: &[u8],
    show: Show<'_>,
) -> Result<(), StateError>
where
    for<'a> K::SelfType<'a>: InBytes<'a>,
    for<'a> V::SelfType<'a>: InBytes<'a>,
{
    let table = read.open_table(table).map_err(failed)?;
    let rows = if from.is_empty() {
        table.iter()
    } else {
        let from: K::SelfType<'_> = typed(from)?;
        table.range(from..)
    };
    for row in rows.map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if show(&key.value().to_bytes(), &value.value().to_bytes()).is_break() {
            break;
        }
    }
    Ok(())
}

fn change<K: Key + 'static, V: Value + 'static>(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), StateError>
where
    for<'a> K::SelfType<'a>: InBytes<'a>,
    for<'a> V::SelfType<'a>: InBytes<'a>,
{
    let mut table = transaction.open_table(table).map_err(failed)?;
    let key: K::SelfType<'_> = typed(key)?;
    match value {
        Some(value) => {
            let value: V::SelfType<'_> = typed(value)?;
            table.insert(key, value).map(drop).map_err(failed)
        }
        None => table.remove(key).map(drop).map_err(failed),
    }
}

fn typed<'a, T: InBytes<'a>>(bytes: &'a [u8]) -> Result<T, StateError> {
    T::typed(bytes).ok_or(StateError::Damaged("a key"))
}

/// Values of redb's tables, converted to bytes and back.
trait InBytes<'a>: Sized {
    fn to_bytes(&self) -> Vec<u8>;
    fn typed(bytes: &'a [u8]) -> Option<Self>;
}

impl<'a, const N: usize> InBytes<'a> for [u8; N] {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
    fn typed(bytes: &'a [u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl<'a> InBytes<'a> for u64 {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
    fn typed(bytes: &'a [u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

impl<'a> InBytes<'a> for &'a str {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
    fn typed(bytes: &'a [u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok()
    }
}

impl<'a> InBytes<'a> for &'a [u8] {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
    fn typed(bytes: &'a [u8]) -> Option<Self> {
        Some(bytes)
    }
}
