//! Scripts: what their manifests declare, which values their parameters accept, and the report of a
//! run. Pure, and used by technician's program, hub and machine alike.
//!
//! ```text
//! folder ─▶ Manifest (every mistake, with its place) ─▶ Bundle (names its files by SHA-256) ─▶ catalogue
//! typed values ─▶ Declared::check ─▶ Checked, which only a check can make
//! ```

mod bundle;
mod lint;
mod manifest;
mod parameter;
mod reader;
mod report;
mod rights;

pub use bundle::{BadName, Bundle, BundleFile, BundleName, FileName};
pub use manifest::{ExitMeaning, Interpreter, Limits, Manifest, Platform, Privilege};
pub use parameter::{BadValue, Checked, Declared, Kind, PARAMETERS, Parameters, TooMuch, VALUES_BYTES, Value};
pub use reader::Mistake;
pub use report::{Cage, Kept, NotRun, RunReport, Stopped};
pub use rights::{ClockRight, Reach, Right, given_up};
