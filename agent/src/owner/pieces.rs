//! An invitation that a mail program has broken into pieces.
//!
//! A piece is never taken for an option, even if it begins with `-` or looks exactly like one:
//! the invitation's checksum tells which words belong to it. If no choice of words has the right
//! checksum (a piece is missing or mistyped), all words that are not options of `enroll` count as
//! pieces, and the error is reported for the invitation.
//!
//! The reassembled invitation is passed on after `--`, where nothing is an option.

use fernwart_certs::invitation::{Invitation, LONGEST};
use std::ffi::OsString;

/// Maximum length of pieces for which the search is tried: twice the longest invitation, as each
/// piece may have quotes around it.
const SOUGHT: usize = LONGEST * 2;

/// Maximum number of words beginning with `-` for which every combination is tried (2¹⁰).
const DOUBTFUL: usize = 10;

/// Options of `enroll` that take a value.
const VALUED: [&str; 4] = ["--home", "--lang", "--invitation", "--policy"];

/// Options of `enroll` that take none.
const FLAGS: [&str; 2] = ["--no-service", "--help"];

/// What a word of the command line, or an option with its value, seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Part of the invitation: it does not begin like an option.
    Piece,
    /// An option of `enroll`, with its value.
    Option,
    /// The `--` before the first piece.
    Separator,
    /// It begins with `-` and is not an option: probably a piece.
    Doubtful,
}

/// A word of the command line, or an option with its value.
struct Part<'a> {
    kind: Kind,
    words: &'a [OsString],
}

impl Part<'_> {
    fn text(&self) -> String {
        self.words.iter().map(|word| word.to_string_lossy()).collect()
    }
}

/// The command line, with the pieces of an invitation joined into one word.
pub fn put_together(typed: Vec<OsString>) -> Vec<OsString> {
    let Some((before, after)) = split_at_enroll(&typed) else { return typed };
    let parts = parts(after);
    if parts.iter().all(|part| part.kind != Kind::Piece) {
        return typed;
    }
    let is_piece = complete(&parts).unwrap_or_else(|| likely(&parts));
    let mut line = OsString::new();
    let mut together = before.to_vec();
    for (part, is_piece) in parts.iter().zip(is_piece) {
        match (is_piece, part.kind) {
            (true, _) => line.push(part.text()),
            (false, Kind::Separator) => {}
            (false, _) => together.extend_from_slice(part.words),
        }
    }
    together.extend(["--".into(), line]);
    together
}

/// The words up to `enroll` and those after it; none for another command.
fn split_at_enroll(typed: &[OsString]) -> Option<(&[OsString], &[OsString])> {
    let mut at = 1;
    loop {
        let word = typed.get(at)?.to_str()?;
        at += match word {
            "enroll" => return typed.split_at_checked(at + 1),
            word if VALUED.contains(&word) => 2,
            word if word.starts_with('-') => 1,
            _ => return None,
        };
    }
}

fn parts(mut words: &[OsString]) -> Vec<Part<'_>> {
    let (mut parts, mut is_begun) = (Vec::new(), false);
    while let Some(first) = words.first() {
        let text = first.to_string_lossy();
        let (name, value_in_it) = text.split_once('=').map_or((&*text, false), |(name, _)| (name, true));
        let is_value = |word: &OsString| word == "-" || !word.as_encoded_bytes().starts_with(b"-");
        let (kind, length) = match name {
            name if VALUED.contains(&name) && value_in_it => (Kind::Option, 1),
            name if VALUED.contains(&name) && words.get(1).is_some_and(is_value) => (Kind::Option, 2),
            name if FLAGS.contains(&name) => (Kind::Option, 1),
            "-h" if !is_begun => (Kind::Option, 1),
            "--" if !is_begun => (Kind::Separator, 1),
            name if name.starts_with('-') => (Kind::Doubtful, 1),
            _ => (Kind::Piece, 1),
        };
        is_begun |= kind == Kind::Piece;
        let (own, rest) = words.split_at_checked(length).unwrap_or((words, &[]));
        parts.push(Part { kind, words: own });
        words = rest;
    }
    parts
}

/// Which parts have the right checksum together, if any.
fn complete(parts: &[Part<'_>]) -> Option<Vec<bool>> {
    let texts: Vec<String> = parts.iter().map(Part::text).collect();
    if texts.iter().map(String::len).sum::<usize>() > SOUGHT {
        return None;
    }
    one_after_the_other(parts, &texts).or_else(|| any_choice(parts, &texts))
}

/// Tries consecutive parts, which is nearly always right; the parts around them stay unchanged.
fn one_after_the_other(parts: &[Part<'_>], texts: &[String]) -> Option<Vec<bool>> {
    let from = parts.iter().position(|part| part.kind == Kind::Piece)?;
    let mut line = String::new();
    let to = texts.iter().enumerate().skip(from).find_map(|(at, text)| {
        line += text;
        line.parse::<Invitation>().is_ok().then_some(at)
    })?;
    Some((0..parts.len()).map(|at| (from..=to).contains(&at)).collect())
}

/// Tries combinations: options may stand between the pieces, or be pieces.
fn any_choice(parts: &[Part<'_>], texts: &[String]) -> Option<Vec<bool>> {
    let open: Vec<usize> =
        parts.iter().enumerate().filter(|(_, part)| part.kind != Kind::Piece).map(|(at, _)| at).collect();
    let likely = likely(parts);
    let flipped = |turn: &dyn Fn(usize) -> bool| -> Option<Vec<bool>> {
        let mut chosen = likely.clone();
        for (_, at) in open.iter().enumerate().filter(|(number, _)| turn(*number)) {
            if let Some(is_piece) = chosen.get_mut(*at) {
                *is_piece = !*is_piece;
            }
        }
        let pieces = texts.iter().zip(&chosen).filter(|(_, is_piece)| **is_piece);
        let line: String = pieces.map(|(text, _)| text.as_str()).collect();
        line.parse::<Invitation>().is_ok().then_some(chosen)
    };
    if open.len() <= DOUBTFUL {
        return (0..1_u32 << open.len()).find_map(|choice| flipped(&|number| choice & (1 << number) != 0));
    }
    let one = (0..open.len()).find_map(|only| flipped(&|number| number == only));
    flipped(&|_| false).or(one)
}

/// The choice of pieces if the checksum does not decide.
fn likely(parts: &[Part<'_>]) -> Vec<bool> {
    parts.iter().map(|part| matches!(part.kind, Kind::Piece | Kind::Doubtful)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::codec::decode;

    /// Pseudo-random numbers (Steele et al. 2014) from a printed seed.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) % end as u64).expect("small")
        }
    }

    fn line(chance: &mut Chance) -> String {
        // A machine's invitation with one address; the rest is random.
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend((0..16).map(|_| chance.below(256) as u8));
        bytes.extend([5, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"Meyer");
        bytes.extend([0; 8]);
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"h:1");
        bytes.extend((0..32 + 8 + 32 + 16 + 32 + 4 + 8).map(|_| chance.below(256) as u8));
        decode::<Invitation>(&bytes).expect("an invitation").to_line().expect("a line")
    }

    fn typed(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    /// Asserts that pieces among other words are joined to one word, last, after `--`.
    fn assert_complete(before: &[&str], pieces: &[&str], after: &[&str], line: &str) {
        let all = typed(&[&["a", "--home", "enroll", "enroll"], before, pieces, after].concat());
        let complete = typed(&[&["a", "--home", "enroll", "enroll"], before, after, &["--", line]].concat());
        assert_eq!(put_together(all), complete, "{pieces:?}");
    }

    #[test]
    fn a_broken_invitation_is_reassembled_wherever_it_was_cut() {
        let seed = 4711;
        println!("seed {seed}");
        let mut chance = Chance(seed);
        for _ in 0..60 {
            let line = line(&mut chance);
            // Cut in two at every position, and in many pieces at random positions.
            let mut ways: Vec<Vec<usize>> = (1..line.len()).map(|at| vec![at]).collect();
            ways.extend((0..40).map(|_| {
                let mut cuts: Vec<usize> =
                    (0..1 + chance.below(12)).map(|_| 1 + chance.below(line.len() - 1)).collect();
                cuts.sort_unstable();
                cuts.dedup();
                cuts
            }));
            for cuts in ways {
                let pieces = cut(&line, &cuts);
                assert_complete(&["--policy=ask"], &pieces, &["--no-service", "--lang", "de"], &line);
            }
        }
    }

    /// The invitation, cut at these positions.
    fn cut<'a>(line: &'a str, cuts: &[usize]) -> Vec<&'a str> {
        let ends = cuts.iter().copied().chain([line.len()]);
        std::iter::once(0).chain(cuts.iter().copied()).zip(ends).map(|(from, to)| &line[from..to]).collect()
    }

    #[test]
    fn a_piece_that_looks_like_an_option_is_recognised_by_the_checksum() {
        // Generates invitations until one contains `-h` or `--`, and cuts it there.
        let seed = 12;
        println!("seed {seed}");
        let (mut chance, mut found) = (Chance(seed), 0);
        while found < 20 {
            let line = line(&mut chance);
            let Some(at) = line.find("-h").or_else(|| line.find("--")).filter(|at| *at > 4 && at + 2 < line.len())
            else {
                continue;
            };
            found += 1;
            assert_complete(&[], &cut(&line, &[at, at + 2]), &[], &line);
            assert_complete(&["--no-service"], &cut(&line, &[4, at, at + 2]), &["--policy", "ask"], &line);
        }
    }

    #[test]
    fn options_may_stand_between_the_pieces_and_quotes_around_them() {
        let mut chance = Chance(77);
        for _ in 0..40 {
            let line = line(&mut chance);
            let at = 5 + chance.below(line.len() - 6);
            let pieces = cut(&line, &[at]);
            let all = ["a", "enroll", pieces[0], "--policy", "ask", pieces[1], "--no-service"];
            let complete = ["a", "enroll", "--policy", "ask", "--no-service", "--", &line];
            assert_eq!(put_together(typed(&all)), typed(&complete), "{pieces:?}");
            // A careful user puts `--` before it.
            assert_eq!(
                put_together(typed(&["a", "enroll", "--no-service", "--", pieces[0], pieces[1]])),
                typed(&["a", "enroll", "--no-service", "--", &line])
            );
            // A mistyped option is reported as such, not as an error of the invitation.
            assert_eq!(
                put_together(typed(&["a", "enroll", pieces[0], pieces[1], "--polcy", "ask"])),
                typed(&["a", "enroll", "--polcy", "ask", "--", &line])
            );
            // Every character separately, and in quotes.
            let letters: Vec<String> = line.chars().map(|letter| format!("„{letter}“")).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let together = put_together(typed(&[&["a", "enroll"], &letters[..], &["--no-service"]].concat()));
            let last = together.last().and_then(|line| line.to_str()).expect("a line");
            assert_eq!(last.parse::<Invitation>().expect("whole").to_line().expect("a line"), line);
            assert_eq!(together[..4], typed(&["a", "enroll", "--no-service", "--"]));
        }
    }

    #[test]
    fn incomplete_pieces_are_reported_as_one_invitation_and_other_commands_unchanged() {
        let together = |words: &[&str]| put_together(typed(words));
        assert_eq!(
            together(&["a", "enroll", "fw1-AB", "-CD", "--", "-h", "--policy", "ask"]),
            typed(&["a", "enroll", "--policy", "ask", "--", "fw1-AB-CD---h"])
        );
        assert_eq!(
            together(&["a", "enroll", "--policy", "forst.toml", "fw1", "-AB", "-CD", "--no-service"]),
            typed(&["a", "enroll", "--policy", "forst.toml", "--no-service", "--", "fw1-AB-CD"])
        );
        for words in [
            &["a", "enroll", "--invitation", "-"][..],
            &["a", "enroll", "--policy", "forst.toml"],
            &["a", "enroll", "--nosuch"],
            &["a", "enroll", "--help"],
            &["a", "enroll", "-h"],
            &["a", "help", "enroll", "-h"],
            &["a", "status", "fw1-AB", "-CD"],
            &["a", "--home", "enroll", "status", "enroll", "-CD"],
            &["a", "--lang", "de"],
            &["a", "--home"],
            &["a"],
            &["a", "enroll"],
        ] {
            assert_eq!(together(words), typed(words), "{words:?}");
        }
    }

    #[test]
    fn invalid_utf8_and_any_number_of_pieces_are_joined_to_one_word() {
        use std::os::unix::ffi::OsStringExt;
        let latin_1 = OsString::from_vec(b"fw1-M\xfcller".to_vec());
        let home = OsString::from_vec(b"/f\xf6rde".to_vec());
        let mut words = typed(&["a", "enroll", "--home"]);
        words.extend([home.clone(), latin_1, "-h".into()]);
        let together = put_together(words);
        assert_eq!(together[..5], [typed(&["a", "enroll", "--home"]), vec![home, "--".into()]].concat());
        assert_eq!(together[5].to_str(), Some("fw1-M\u{fffd}ller-h"));
        let many: Vec<&str> = ["a", "enroll"].into_iter().chain(std::iter::repeat_n("-fw1-", 50_000)).collect();
        assert_eq!(put_together(typed(&many)), typed(&many), "no piece among them");
        let many: Vec<&str> = ["a", "enroll"].into_iter().chain(std::iter::repeat_n("fw1-", 50_000)).collect();
        assert_eq!(put_together(typed(&many)), typed(&["a", "enroll", "--", &"fw1-".repeat(50_000)]));
    }
}
