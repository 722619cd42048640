//! One field's words, written in one way however the seller wrote them.

use unicode_normalization::UnicodeNormalization;

/// Units as sellers write them and as they are written here, so that "64GB", "64 gb" and
/// "64-GB" are the same tokens, as are "1.5 L" and "1.5 litre".
#[rustfmt::skip]
const UNITS: &[(&str, &[&str])] = &[
    ("gb", &["gb", "gig", "gigabyte", "gigabytes"]), ("tb", &["tb", "terabyte", "terabytes"]), ("mb", &["mb"]), ("kb", &["kb"]),
    ("gb/s", &["gb/s"]), ("mb/s", &["mb/s"]), ("km/h", &["km/h", "kmh", "kph"]), ("l/h", &["l/h", "lph"]),
    ("ghz", &["ghz"]), ("mhz", &["mhz"]), ("hz", &["hz", "hertz"]), ("mp", &["mp", "megapixel", "megapixels"]),
    ("mm", &["mm", "millimetre", "millimetres", "millimeter", "millimeters"]),
    ("cm", &["cm", "cms", "centimetre", "centimetres", "centimeter", "centimeters"]),
    ("m", &["m", "mtr", "mtrs", "metre", "metres", "meter", "meters"]),
    ("inch", &["in", "inch", "inches"]), ("ft", &["ft", "feet", "foot"]), ("yard", &["yd", "yds", "yard", "yards"]),
    ("ml", &["ml", "millilitre", "millilitres", "milliliter", "milliliters"]),
    ("l", &["l", "ltr", "ltrs", "litre", "litres", "liter", "liters"]),
    ("gallon", &["gal", "gallon", "gallons"]), ("quart", &["qt", "qts", "quart", "quarts"]),
    ("g", &["g", "gm", "gr", "gram", "grams", "gramme", "grammes"]), ("gsm", &["gsm", "g/m2"]),
    ("kg", &["kg", "kgs", "kilo", "kilos", "kilogram", "kilograms"]),
    ("oz", &["oz", "ounce", "ounces"]), ("lb", &["lb", "lbs", "pound", "pounds"]),
    ("watt", &["w", "watt", "watts"]), ("volt", &["v", "volt", "volts"]), ("ohm", &["ohm", "ohms", "ω"]),
    ("ah", &["ah"]), ("mah", &["mah"]), ("wh", &["wh"]), ("nm", &["nm"]), ("db", &["db"]), ("lumen", &["lm", "lumen", "lumens"]),
    ("rpm", &["rpm"]), ("ppm", &["ppm"]), ("dpi", &["dpi"]), ("fps", &["fps"]),
    ("pack", &["pk", "pkt", "pack", "packs"]), ("count", &["ct", "count"]), ("piece", &["pc", "pcs", "piece", "pieces"]),
    ("hour", &["h", "hr", "hrs", "hour", "hours"]), ("minute", &["min", "mins", "minute", "minutes"]),
    ("year", &["yr", "yrs", "year", "years"]), ("month", &["mth", "mths", "month", "months"]),
];

/// Words that are as often written as a sign or a figure.
#[rustfmt::skip]
const SPELLINGS: &[(&str, &str)] = &[
    ("&", "and"), ("+", "and"), ("w/", "with"), ("w/o", "without"),
    ("two", "2"), ("three", "3"), ("four", "4"), ("five", "5"), ("six", "6"), ("seven", "7"), ("eight", "8"),
    ("nine", "9"), ("ten", "10"), ("twelve", "12"),
    ("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"), ("fifth", "5th"), ("sixth", "6th"),
];

/// Lower-case words of one field after clean-up: entities decoded, tags and quotes
/// dropped, compatibility characters folded, numbers split from their units.
pub(super) fn words(raw: &str) -> impl Iterator<Item = String> {
    let decoded = html_escape::decode_html_entities(raw);
    let folded: String = strip_tags(&decoded).nfkc().flat_map(char::to_lowercase).collect();
    let mut out: Vec<String> = Vec::new();
    for word in folded.split(|c: char| c.is_whitespace() || c.is_control() || "|\u{200b}".contains(c)) {
        push_word(&mut out, word);
    }
    out.into_iter()
}

/// Appends one whitespace-separated word, with inch marks, thousands separators,
/// measures and small numbers in their normal form.
fn push_word(out: &mut Vec<String>, raw: &str) {
    let inches = ends_in_inch_mark(raw);
    let word = raw.trim_matches(|c: char| "\"'“”‘’`*,;:!?()[]{}<>".contains(c)).trim_end_matches(['.', '-']);
    if word.is_empty() {
        return;
    }
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        // A free-standing "in" is more often the word ("3 in 1") than the unit.
        let after_number = word != "in" && out.last().is_some_and(|last| is_number(last));
        let written = unit(word).filter(|_| after_number).or_else(|| spelling(word)).unwrap_or(word);
        out.push(written.to_owned());
        return;
    }
    let Some(mut measured) = measures(word) else {
        out.push(word.to_owned());
        return;
    };
    if inches && measured.last().is_some_and(|last| is_number(last)) {
        measured.push("inch".to_owned());
    }
    out.append(&mut measured);
}

/// Numbers and units of a word like "64gb", "2x16gb", "56-70cm" or "30m/100ft"; None
/// where something else than known units follows a number, as in a model code.
fn measures(word: &str) -> Option<Vec<String>> {
    // "5g" is a network far more often than a weight.
    if matches!(word.as_bytes(), [b'2'..=b'6', b'g']) {
        return None;
    }
    let (number, rest) =
        word.split_at(word.find(|c: char| !(c.is_ascii_digit() || ".,/".contains(c))).unwrap_or(word.len()));
    let number = without_thousands(number);
    // As in "2x/": signs alone are no number.
    if number.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return Some(vec![number]);
    }
    if let Some(unit) = unit(rest.trim_start_matches('-')) {
        return Some(vec![number, unit.to_owned()]);
    }
    if let Some(times) = rest.strip_prefix(['x', '×']) {
        return Some([vec![number, "x".to_owned()], measures(times)?].concat());
    }
    if let Some(upper) = rest.strip_prefix('-').filter(|upper| upper.starts_with(|c: char| c.is_ascii_digit())) {
        let mut upper = measures(upper)?;
        upper[0] = format!("{number}-{}", upper[0]);
        return Some(upper);
    }
    // Two measures, as in metric and imperial.
    let (first, second) = rest.split_once('/')?;
    Some([vec![number, unit(first)?.to_owned()], measures(second)?].concat())
}

fn unit(word: &str) -> Option<&'static str> {
    UNITS.iter().find(|(_, written)| written.contains(&word)).map(|(normal, _)| *normal)
}

fn spelling(word: &str) -> Option<&'static str> {
    SPELLINGS.iter().find(|(written, _)| *written == word).map(|(_, normal)| *normal)
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || "./-".contains(c))
}

fn ends_in_inch_mark(word: &str) -> bool {
    let digits = word.trim_end_matches(|c: char| "\"'”″,;:)]".contains(c));
    let tail = &word[digits.len()..];
    digits.ends_with(|c: char| c.is_ascii_digit()) && (tail.contains(['"', '”', '″']) || tail.contains("''"))
}

/// "1,000" becomes "1000"; a comma elsewhere stays, since "2,5" may be a decimal.
fn without_thousands(number: &str) -> String {
    let number = number.trim_end_matches(['.', ',', '/']);
    let groups: Vec<&str> = number.split(',').collect();
    let grouped = groups.len() > 1
        && (1..=3).contains(&groups[0].len())
        && groups[1..].iter().all(|g| g.len() == 3 && g.bytes().all(|b| b.is_ascii_digit()));
    if grouped { groups.concat() } else { number.to_owned() }
}

/// Replaces `<tag ...>` by a space. A lone `<` as in "< 5 kg" is no tag and stays.
fn strip_tags(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        let (before, tail) = rest.split_at(open);
        out.push_str(before);
        let is_tag = tail[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!".contains(c));
        match tail.find('>').filter(|_| is_tag) {
            Some(close) => {
                out.push(' ');
                rest = &tail[close + 1..];
            }
            None => {
                out.push('<');
                rest = &tail[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(raw: &str) -> String {
        words(raw).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn measures_are_written_in_one_way() {
        let cases = [
            ("64GB", "64 gb"),
            ("64-gb", "64 gb"),
            ("1.5L 1.5 Litre 1.5 ltr", "1.5 l 1.5 l 1.5 l"),
            ("500 g 500gr 500 Grams", "500 g 500 g 500 g"),
            ("18V 18 volts 300W", "18 volt 18 volt 300 watt"),
            ("80 g/m² 80gsm", "80 gsm 80 gsm"),
            ("2x16GB 10 x 15cm 400×400", "2 x 16 gb 10 x 15 cm 400 x 400"),
            ("56-70cm 56-70 cm", "56-70 cm 56-70 cm"),
            ("30m/100ft", "30 m 100 ft"),
            ("10,000mAh 1,5 l", "10000 mah 1,5 l"),
            ("55\" 55'' (55”) 55in", "55 inch 55 inch 55 inch 55 inch"),
            ("5-Device 1-Year", "5-device 1 year"),
        ];
        for (raw, expected) in cases {
            assert_eq!(said(raw), expected, "{raw}");
        }
    }

    #[test]
    fn what_only_looks_like_a_measure_stays() {
        for word in
            ["55u7k", "18v55", "27xl", "dsc-w55", "5g", "4k", "1:16", "2.0", "1/16", "ddr5-6000", "uk9", "3-in-1"]
        {
            assert_eq!(said(word), word);
        }
        assert_eq!(said("2x/ kettle"), "2x/ kettle", "a sign is no number");
        assert_eq!(said("3 in 1 for m or l"), "3 in 1 for m or l", "a unit stands behind a number");
    }

    #[test]
    fn signs_and_small_numbers_are_written_in_one_way() {
        assert_eq!(said("Chicken & Rice"), "chicken and rice");
        assert_eq!(said("w/ stand, w/o remote"), "with stand without remote");
        assert_eq!(said("two batteries, Second Edition"), "2 batteries 2nd edition");
        assert_eq!(said("four pack"), "4 pack");
        assert_eq!(said("One Touch"), "one touch", "more often a name than a number");
    }

    #[test]
    fn markup_is_no_text() {
        assert_eq!(said("<p>Latex&nbsp;core<br/>&quot;brass&quot;</p> < 5 kg"), "latex core brass 5 kg");
    }
}
