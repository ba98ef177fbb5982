//! The unit files in the examples of preforkd(8): what is printed is what is tried.

/// Each example that is a drop-in of a service.
pub fn drop_ins() -> Vec<String> {
    let page = include_str!("../../packaging/man/preforkd.8");
    let examples = page.split("\n.EX\n").skip(1).filter_map(|text| text.split("\n.EE").next());
    examples
        .filter(|text| text.starts_with("[Service]\n"))
        .map(|text| text.replace("\\-", "-").replace("\\(ti", "~") + "\n")
        .collect()
}

/// The one that has this line, and no other has.
#[track_caller]
pub fn drop_in(line: &str) -> String {
    let mut found = drop_ins();
    found.retain(|text| text.lines().any(|it| it == line));
    assert_eq!(found.len(), 1, "drop-ins with the line {line:?}");
    found.remove(0)
}
