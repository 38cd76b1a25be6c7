//! Writes the agent's manual pages in English and German, and its shell completions, into a
//! folder for packages.

use clap_complete::Shell;
use fernwart_agent::owner::command_line;
use fernwart_agent::owner::words::Words;
use fernwart_protocol::diagnosis::Language;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or(std::io::ErrorKind::InvalidInput)?);
    for (language, pages) in [(Language::En, "man"), (Language::De, "man-de")] {
        let pages = folder.join(pages);
        std::fs::create_dir_all(&pages)?;
        clap_mangen::generate_to(command_line::full_command(&Words::new(language)), &pages)?;
        // Each command has a page of its own; the one about `help` adds nothing.
        for page in std::fs::read_dir(&pages)? {
            let page = page?.path();
            if page.to_string_lossy().contains("-help") {
                std::fs::remove_file(page)?;
            }
        }
    }
    let completions = folder.join("completions");
    std::fs::create_dir_all(&completions)?;
    let mut command = command_line::full_command(&Words::new(Language::En));
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "fernwart-agent", &completions)?;
    }
    Ok(())
}
