//! An invitation that a mail program has broken into pieces.
//!
//! A customer's line is never taken for an option, whatever it was broken into:
//! pieces may begin with `-`, or look like an option altogether. The line's own sum
//! tells which words are its pieces. Where no choice of words has the right sum (a
//! piece is missing, there is a typing error), all words that are no option of
//! `enroll` are taken for pieces, and the error is told as one of the line.
//!
//! The whole line is then handed on behind `--`, where nothing is an option.

use fernwart_certs::invitation::{Invitation, LONGEST};
use std::ffi::OsString;

/// Bytes of pieces among which a line is sought: twice the longest, as quotes and
/// the like may stand around each.
const SOUGHT: usize = LONGEST * 2;

/// Words beginning with `-` of which every choice is tried: 2¹⁰ sums.
const DOUBTFUL: usize = 10;

/// Options of `enroll` that take a value.
const VALUED: [&str; 4] = ["--home", "--lang", "--invitation", "--policy"];

/// Options of `enroll` that take none.
const FLAGS: [&str; 2] = ["--no-service", "--help"];

/// What one or two words of the command line seem to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of the line: it begins like no option.
    Piece,
    /// An option of `enroll`, with its value.
    Option,
    /// What stands before the first piece to say that no option follows.
    Separator,
    /// It begins with `-` and is no option: a piece, most likely.
    Doubtful,
}

/// One or two words of the command line.
struct Part<'a> {
    kind: Kind,
    words: &'a [OsString],
}

impl Part<'_> {
    fn text(&self) -> String {
        self.words.iter().map(|word| word.to_string_lossy()).collect()
    }
}

/// What was typed, the pieces of an invitation put together to one word.
pub(crate) fn put_together(typed: Vec<OsString>) -> Vec<OsString> {
    let Some((before, after)) = split_at_enroll(&typed) else { return typed };
    let parts = parts(after);
    if parts.iter().all(|part| part.kind != Kind::Piece) {
        return typed;
    }
    let is_piece = whole(&parts).unwrap_or_else(|| likely(&parts));
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

/// The words up to `enroll`, and those after it; none for another command.
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

/// Which parts have the right sum together, if any do.
fn whole(parts: &[Part<'_>]) -> Option<Vec<bool>> {
    let texts: Vec<String> = parts.iter().map(Part::text).collect();
    if texts.iter().map(String::len).sum::<usize>() > SOUGHT {
        return None;
    }
    one_after_the_other(parts, &texts).or_else(|| any_choice(parts, &texts))
}

/// The pieces stand together, as they do nearly always; so all around them is left
/// for what it is.
fn one_after_the_other(parts: &[Part<'_>], texts: &[String]) -> Option<Vec<bool>> {
    let from = parts.iter().position(|part| part.kind == Kind::Piece)?;
    let mut line = String::new();
    let to = texts.iter().enumerate().skip(from).find_map(|(at, text)| {
        line += text;
        line.parse::<Invitation>().is_ok().then_some(at)
    })?;
    Some((0..parts.len()).map(|at| (from..=to).contains(&at)).collect())
}

/// Options stand between the pieces, or are pieces.
fn any_choice(parts: &[Part<'_>], texts: &[String]) -> Option<Vec<bool>> {
    let open: Vec<usize> =
        parts.iter().enumerate().filter(|(_, part)| part.kind != Kind::Piece).map(|(at, _)| at).collect();
    let likely = likely(parts);
    let turned = |turn: &dyn Fn(usize) -> bool| -> Option<Vec<bool>> {
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
        return (0..1_u32 << open.len()).find_map(|choice| turned(&|number| choice & (1 << number) != 0));
    }
    let one = (0..open.len()).find_map(|only| turned(&|number| number == only));
    turned(&|_| false).or(one)
}

/// What is taken for a piece where no sum tells.
fn likely(parts: &[Part<'_>]) -> Vec<bool> {
    parts.iter().map(|part| matches!(part.kind, Kind::Piece | Kind::Doubtful)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fernwart_protocol::codec::decode;

    /// Numbers that look random (Steele et al. 2014), from a seed that is printed.
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
        // A machine, one address, and the rest by chance.
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

    /// What comes of pieces typed among other words: the line alone, last, behind `--`.
    fn assert_whole(before: &[&str], pieces: &[&str], after: &[&str], line: &str) {
        let all = typed(&[&["a", "--home", "enroll", "enroll"], before, pieces, after].concat());
        let whole = typed(&[&["a", "--home", "enroll", "enroll"], before, after, &["--", line]].concat());
        assert_eq!(put_together(all), whole, "{pieces:?}");
    }

    #[test]
    fn whatever_a_line_is_broken_into_it_is_one_word_again_and_no_option() {
        let seed = 4711;
        println!("seed {seed}");
        let mut chance = Chance(seed);
        for _ in 0..60 {
            let line = line(&mut chance);
            // Into two at every place, and into many at random ones.
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
                assert_whole(&["--policy=ask"], &pieces, &["--no-service", "--lang", "de"], &line);
            }
        }
    }

    /// The line, cut at these places.
    fn cut<'a>(line: &'a str, cuts: &[usize]) -> Vec<&'a str> {
        let ends = cuts.iter().copied().chain([line.len()]);
        std::iter::once(0).chain(cuts.iter().copied()).zip(ends).map(|(from, to)| &line[from..to]).collect()
    }

    #[test]
    fn a_piece_that_is_an_option_by_its_letters_is_a_piece_where_the_sum_says_so() {
        // Sought by chance: a line with `-h`, `--` or the like in it, and broken there.
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
            assert_whole(&[], &cut(&line, &[at, at + 2]), &[], &line);
            assert_whole(&["--no-service"], &cut(&line, &[4, at, at + 2]), &["--policy", "ask"], &line);
        }
    }

    #[test]
    fn options_may_stand_between_the_pieces_and_anything_around_them() {
        let mut chance = Chance(77);
        for _ in 0..40 {
            let line = line(&mut chance);
            let at = 5 + chance.below(line.len() - 6);
            let pieces = cut(&line, &[at]);
            let all = ["a", "enroll", pieces[0], "--policy", "ask", pieces[1], "--no-service"];
            let whole = ["a", "enroll", "--policy", "ask", "--no-service", "--", &line];
            assert_eq!(put_together(typed(&all)), typed(&whole), "{pieces:?}");
            // Who means it well puts `--` before it.
            assert_eq!(
                put_together(typed(&["a", "enroll", "--no-service", "--", pieces[0], pieces[1]])),
                typed(&["a", "enroll", "--no-service", "--", &line])
            );
            // A mistyped option is told as that, and not as an error of the line.
            assert_eq!(
                put_together(typed(&["a", "enroll", pieces[0], pieces[1], "--polcy", "ask"])),
                typed(&["a", "enroll", "--polcy", "ask", "--", &line])
            );
            // Every character by itself, and between quotes.
            let letters: Vec<String> = line.chars().map(|letter| format!("„{letter}“")).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let together = put_together(typed(&[&["a", "enroll"], &letters[..], &["--no-service"]].concat()));
            let last = together.last().and_then(|line| line.to_str()).expect("a line");
            assert_eq!(last.parse::<Invitation>().expect("whole").to_line().expect("a line"), line);
            assert_eq!(together[..4], typed(&["a", "enroll", "--no-service", "--"]));
        }
    }

    #[test]
    fn pieces_that_make_no_whole_are_told_as_a_line_and_all_else_stays() {
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
    fn bytes_that_are_no_text_and_any_number_of_words_are_told_as_a_line() {
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
