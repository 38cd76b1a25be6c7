//! 256 plain words in each language, one for each value of a byte.
//!
//! A position stands for the same byte in both lists; the words differ.

use fernwart_protocol::diagnosis::Language;

/// The word for a byte.
pub(crate) fn word(byte: u8, language: Language) -> &'static str {
    let words = match language {
        Language::En => &EN,
        Language::De => &DE,
    };
    words.get(usize::from(byte)).copied().unwrap_or_default()
}

#[rustfmt::skip]
static EN: [&str; 256] = [
    "acorn", "actor", "album", "amber", "anchor", "angle", "ankle", "apple", "apron", "arrow", "artist", "atlas", "attic", "autumn", "badge", "baker",
    "ball", "bamboo", "banana", "barn", "barrel", "basin", "basket", "beach", "beacon", "bean", "beard", "beaver", "bell", "bench", "berry", "bird",
    "biscuit", "blanket", "blossom", "board", "boat", "bottle", "bowl", "branch", "bread", "brick", "bridge", "broom", "bucket", "butter", "button", "cabin",
    "cable", "cactus", "camel", "camera", "candle", "canoe", "canvas", "captain", "carpet", "carrot", "castle", "cattle", "cedar", "chain", "chair", "chalk",
    "cherry", "chest", "circle", "cliff", "clock", "cloud", "clover", "coach", "coast", "cobalt", "coffee", "comet", "copper", "coral", "corn", "cotton",
    "cousin", "crane", "crown", "cup", "curtain", "daisy", "dancer", "desert", "diamond", "doctor", "dolphin", "donkey", "door", "dragon", "drum", "eagle",
    "earth", "elbow", "elm", "engine", "fabric", "falcon", "farmer", "feather", "fence", "ferry", "field", "finger", "flag", "flame", "flower", "flute",
    "forest", "fossil", "fox", "frame", "frog", "garden", "garlic", "ginger", "glass", "glove", "goat", "gold", "goose", "grape", "grass", "guitar",
    "hammer", "harbor", "harp", "hazel", "helmet", "hill", "honey", "hook", "horse", "hotel", "island", "ivory", "jacket", "jewel", "judge", "jungle",
    "kettle", "king", "kitchen", "kite", "ladder", "lake", "lamp", "lantern", "lemon", "letter", "lily", "lion", "lizard", "lobster", "locket", "magnet",
    "mango", "maple", "marble", "market", "meadow", "melon", "mirror", "monkey", "moon", "moss", "motor", "mountain", "mouse", "museum", "mustard", "napkin",
    "needle", "nest", "nickel", "novel", "nurse", "oak", "oasis", "ocean", "olive", "onion", "orange", "orchid", "otter", "oven", "owl", "oyster",
    "paddle", "paint", "palace", "panda", "paper", "parrot", "path", "peach", "pearl", "pebble", "pencil", "pepper", "piano", "pigeon", "pillow", "pilot",
    "planet", "plum", "pocket", "poet", "pond", "potato", "prince", "puzzle", "queen", "rabbit", "radio", "rain", "raven", "ribbon", "rice", "river",
    "robin", "rocket", "rope", "rose", "saddle", "sailor", "salmon", "salt", "sand", "scarf", "school", "shell", "ship", "shoe", "silver", "singer",
    "sky", "snow", "spoon", "spring", "square", "stable", "star", "stone", "storm", "summer", "table", "tiger", "tower", "tulip", "turtle", "violin",
];

#[rustfmt::skip]
static DE: [&str; 256] = [
    "abend", "acker", "adler", "affe", "ahorn", "amsel", "anker", "apfel", "arena", "arzt", "asche", "ast", "atlas", "auge", "auto", "axt",
    "bach", "bagger", "bahn", "balken", "ball", "banane", "bank", "bart", "baum", "becher", "beere", "berg", "besen", "biber", "biene", "birke",
    "birne", "blatt", "blech", "blitz", "blume", "boden", "bogen", "boot", "brief", "brille", "brot", "brücke", "brunnen", "buch", "bucht", "bus",
    "butter", "dach", "dachs", "dampf", "daumen", "decke", "deich", "diamant", "donner", "dorf", "drache", "draht", "dose", "düne", "eiche", "eimer",
    "eisen", "elch", "elster", "engel", "ente", "erbse", "erde", "esel", "eule", "fabrik", "faden", "fahne", "falke", "farbe", "fass", "feder",
    "feige", "feld", "fels", "fenster", "feuer", "fichte", "fisch", "flasche", "flöte", "flügel", "fluss", "forelle", "frosch", "fuchs", "gabel", "gans",
    "garten", "geige", "glas", "glocke", "gold", "gras", "grille", "gurke", "hafen", "hafer", "hahn", "hammer", "hase", "haus", "hebel", "hecht",
    "heide", "helm", "hemd", "herbst", "herd", "himmel", "hirsch", "honig", "hose", "hügel", "hummel", "hund", "hut", "igel", "insel", "jacke",
    "jäger", "kabel", "käfer", "kaffee", "kahn", "kamel", "kamin", "kamm", "kanne", "kapitän", "karte", "käse", "kater", "keks", "keller", "kerze",
    "kessel", "kette", "kiesel", "kirsche", "kiste", "klee", "klippe", "knopf", "koch", "koffer", "kohle", "komet", "könig", "korb", "korn", "krabbe",
    "kran", "kranz", "kreide", "kreis", "krone", "krug", "kuchen", "kugel", "kuh", "lachs", "laden", "lamm", "lampe", "laterne", "laub", "lawine",
    "leiter", "lerche", "licht", "linde", "linse", "löffel", "löwe", "luchs", "mandel", "mantel", "marder", "markt", "mauer", "maus", "meer", "melone",
    "messer", "milch", "mohn", "mond", "moos", "motor", "möwe", "mühle", "münze", "muschel", "nadel", "nagel", "nebel", "nelke", "nest", "nuss",
    "ofen", "olive", "onkel", "orgel", "otter", "paddel", "palme", "papier", "pfanne", "pfeil", "pferd", "pflaume", "pilz", "pinsel", "planet", "quelle",
    "rabe", "rad", "rahmen", "regen", "reh", "reis", "ring", "ritter", "robbe", "rose", "rübe", "ruder", "sack", "säge", "salz", "sand",
    "sattel", "schaf", "schal", "schere", "schiff", "schnee", "schuh", "segel", "seife", "sonne", "spaten", "stein", "stern", "storch", "tanne", "tasse",
];
