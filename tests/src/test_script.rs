//! Scripts for tests: small folders with a manifest, written where needed.

use std::path::{Path, PathBuf};

/// Builds the folder of a script.
#[derive(Clone)]
pub struct Script {
    name: String,
    version: u32,
    fields: String,
    tables: String,
    run: String,
    interpreter: String,
}

impl Script {
    /// A shell script with this text, privilege `repair` and nothing else.
    pub fn new(name: &str, run: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: 1,
            fields: "privilege = \"repair\"\n".to_owned(),
            tables: String::new(),
            run: run.to_owned(),
            interpreter: "sh".to_owned(),
        }
    }

    /// Another version.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Another privilege.
    #[must_use]
    pub fn privilege(mut self, word: &str) -> Self {
        self.fields = self.fields.replace("\"repair\"", &format!("{word:?}"));
        self
    }

    /// Adds lines to the top-level fields of the manifest.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.fields += lines;
        self.fields.push('\n');
        self
    }

    /// Further tables: limits, parameters, exits.
    #[must_use]
    pub fn and(mut self, tables: &str) -> Self {
        self.tables += tables;
        self.tables.push('\n');
        self
    }

    /// A parameter of a kind, with further lines.
    #[must_use]
    pub fn parameter(self, name: &str, kind: &str, lines: &str) -> Self {
        self.and(&format!("[[parameter]]\nname = {name:?}\nkind = {kind:?}\nen = \"x\"\nde = \"x\"\n{lines}"))
    }

    /// Another interpreter.
    #[must_use]
    pub fn shell(mut self, word: &str) -> Self {
        self.interpreter = word.to_owned();
        self
    }

    /// Writes the script below a folder; returns the script's own folder.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, below: &Path) -> PathBuf {
        let folder = below.join(&self.name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let manifest = format!(
            "name = {:?}\nversion = {}\ntitle = {{ en = \"Test {}\", de = \"Probe {}\" }}\n\
             explain = {{ en = \"A test.\", de = \"Eine Probe.\" }}\ninterpreter = {:?}\nrun = \"run.sh\"\n\
             platforms = [\"linux\"]\n{}{}",
            self.name, self.version, self.name, self.name, self.interpreter, self.fields, self.tables
        );
        std::fs::write(folder.join("manifest.toml"), manifest).expect("written");
        std::fs::write(folder.join("run.sh"), &self.run).expect("written");
        folder
    }
}
