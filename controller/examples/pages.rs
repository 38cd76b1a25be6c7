//! Writes the manual pages and completions of `fernwart` into a folder, for packages.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or(std::io::ErrorKind::InvalidInput)?);
    let [pages, completions] = ["man", "completions"].map(|name| folder.join(name));
    std::fs::create_dir_all(&pages)?;
    std::fs::create_dir_all(&completions)?;
    fernwart::cli::write_pages(&pages, &completions)
}
