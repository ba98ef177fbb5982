//! Old or rare words, and phrases that readers stopped at.

const BANNED: [&str; 13] = [
    "told",
    "no more",
    "beside",
    "but for",
    "for want of",
    "lest",
    "anew",
    "to be had",
    "whoever",
    "henceforth",
    "thereof",
    "live on",
    "lives on",
];

/// The banned words and phrases in a text. A line may end inside a phrase.
pub fn banned_in(text: &str) -> Vec<&'static str> {
    let words: Vec<_> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let words = format!(" {} ", words.join(" "));
    BANNED.into_iter().filter(|banned| words.contains(&format!(" {banned} "))).collect()
}
