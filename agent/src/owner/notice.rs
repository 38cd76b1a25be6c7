//! The words of notices on the desktops of this computer.

use crate::executor::notice::Notice;
use crate::owner::words::Words;
use fernwart_protocol::text::escaped;

/// Title and body. Each begins with our own words, so that text from an order cannot pass for
/// ours.
pub(crate) fn in_words(notice: &Notice, shop: &str, words: &Words) -> (String, String) {
    let shop = &escaped(shop);
    match notice {
        Notice::Asks(asked) => {
            let (number, reason) = (asked.number.to_string(), escaped(asked.reason.as_raw()));
            let title = words.title(&asked.action, asked.title.as_ref());
            (
                words.say_with("notice-asks", &[("shop", shop), ("title", &title)]),
                words.say_with("notice-asks-how", &[("reason", &reason), ("number", &number)]),
            )
        }
        Notice::Did(done) => {
            let (staff, reason) = (escaped(done.staff.as_raw()), escaped(done.reason.as_raw()));
            let title = words.title(&done.action, done.title.as_ref());
            let outcome = words.outcome(done.outcome);
            (
                words.say_with("notice-did", &[("shop", shop), ("title", &title), ("outcome", &outcome)]),
                words.say_with("notice-did-how", &[("staff", &staff), ("reason", &reason)]),
            )
        }
    }
}
