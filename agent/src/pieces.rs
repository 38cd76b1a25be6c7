//! An invitation that a mail program has broken into pieces.
//!
//! Pieces may begin with `-`, or look like an option altogether: a customer's line
//! is never taken for one, whatever it was broken into. Where the pieces make a
//! whole invitation, its sum says which words they are. Where they do not (one is
//! missing, one has a typing error), all words from the first one on that are no
//! option of ours are taken for pieces, and the error is told as one of the line.

use fernwart_certs::invitation::{Invitation, LONGEST, PREFIX};
use std::ffi::OsString;

/// Words that are looked through: one for each character of the longest line, and
/// as many options as there are.
const WORDS: usize = LONGEST + 16;

/// Words with which a line may seem to begin; more are of no line of ours.
const BEGINNINGS: usize = 8;

/// Options that may stand beside a line, and whether a value follows.
const OPTIONS: [(&str, bool); 7] = [
    ("--home", true),
    ("--lang", true),
    ("--invitation", true),
    ("--policy", true),
    ("--no-service", false),
    ("--help", false),
    ("-h", false),
];

/// How many words an option takes that begins here; none if none begins.
fn option(words: &[&str]) -> Option<usize> {
    let (first, _) = words.split_first()?;
    OPTIONS.iter().find_map(|(name, has_value)| match first.strip_prefix(name) {
        Some("") => Some(if *has_value { 2.min(words.len()) } else { 1 }),
        Some(rest) if *has_value && rest.starts_with('=') => Some(1),
        _ => None,
    })
}

/// What was typed, the pieces of an invitation put together to one word.
pub(crate) fn put_together(typed: Vec<OsString>) -> Vec<OsString> {
    let Some(texts) = typed.iter().map(|word| word.to_str()).collect::<Option<Vec<&str>>>() else { return typed };
    let Some((from, to)) = pieces(&texts) else { return typed };
    let line: OsString = texts.get(from..to).unwrap_or_default().concat().into();
    let mut whole = typed;
    whole.splice(from..to, [line]);
    whole
}

/// Where the pieces stand, if there are any.
fn pieces(words: &[&str]) -> Option<(usize, usize)> {
    let enroll = 1 + words.iter().skip(1).take(WORDS).position(|word| *word == "enroll")?;
    let end = words.len().min(enroll + WORDS);
    let starts = (enroll + 1..end).filter(|at| words.get(*at).is_some_and(|word| word.starts_with('f')));
    for from in starts.take(BEGINNINGS) {
        let mut line = String::new();
        for to in from + 1..=end {
            line += words.get(to - 1).copied().unwrap_or_default();
            if line.len() > LONGEST {
                break;
            }
            if line.parse::<Invitation>().is_ok() {
                return Some((from, to));
            }
        }
    }
    let mut from = enroll + 1;
    while let Some(taken) = option(words.get(from..end)?) {
        from += taken;
    }
    // Any other word is no line, and is told as that.
    let first = words.get(from..end)?.first().filter(|word| word.starts_with(PREFIX) || PREFIX.starts_with(**word))?;
    let is_own = |at: &usize| option(words.get(*at..end).unwrap_or_default()).is_some();
    (!first.is_empty()).then(|| (from, (from + 1..end).find(is_own).unwrap_or(end)))
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
                let ends: Vec<usize> = cuts.iter().copied().chain([line.len()]).collect();
                let starts = std::iter::once(0).chain(cuts.iter().copied());
                let pieces: Vec<&str> = starts.zip(ends).map(|(from, to)| &line[from..to]).collect();
                let before = ["fernwart-agent", "--home", "/x", "enroll", "--policy=ask"];
                let after = ["--no-service", "--lang", "de"];
                let all = typed(&[&before[..], &pieces, &after].concat());
                let whole = typed(&[&before[..], &[line.as_str()], &after].concat());
                assert_eq!(put_together(all), whole, "seed {seed}, {pieces:?}");
            }
        }
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
            let pieces = ["fernwart-agent", "enroll", &line[..at], &line[at..at + 2], &line[at + 2..]];
            assert_eq!(put_together(typed(&pieces)), typed(&["fernwart-agent", "enroll", &line]), "seed {seed}");
        }
    }

    #[test]
    fn pieces_that_make_no_whole_are_told_as_a_line_and_all_else_stays() {
        let together = |words: &[&str]| put_together(typed(words));
        assert_eq!(
            together(&["a", "enroll", "fw1-AB", "-CD", "--", "-xh", "--policy", "ask"]),
            typed(&["a", "enroll", "fw1-AB-CD---xh", "--policy", "ask"])
        );
        assert_eq!(
            together(&["a", "enroll", "--policy", "forst.toml", "fw1", "-AB", "-CD", "--no-service"]),
            typed(&["a", "enroll", "--policy", "forst.toml", "fw1-AB-CD", "--no-service"])
        );
        for words in [
            &["a", "enroll", "--invitation", "-"][..],
            &["a", "enroll", "--policy", "forst.toml"],
            &["a", "enroll", "forst", "--nosuch"],
            &["a", "enroll", "--help"],
            &["a", "status", "fw1-AB", "-CD"],
            &["a", "--lang", "de"],
            &["a"],
            &["a", "enroll"],
        ] {
            assert_eq!(together(words), typed(words), "{words:?}");
        }
        let long: Vec<String> = (0..5_000).map(|_| "fw1-".to_owned()).collect();
        let long: Vec<&str> = ["a", "enroll"].into_iter().chain(long.iter().map(String::as_str)).collect();
        assert!(together(&long).len() < long.len(), "bounded, and nothing is lost");
    }
}
