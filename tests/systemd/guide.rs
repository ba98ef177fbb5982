//! The guide for operators, followed in a container: each command of it as it stands.

use support::guide::{comparable, steps};

use crate::lab::Lab;

const GUIDE: &str = include_str!("../../packaging/doc/operating.md");
const DONE: &str = "-- done --";

#[test]
fn the_guide_for_operators_does_what_it_says() {
    let Some(lab) = Lab::with_package("trixie") else { return };
    lab.wait_for("StatusText", |text| text.contains(" 4 idle"));
    let steps = steps(GUIDE, "#");
    // One shell for all: what a step opens, a later one closes.
    let mut script = "exec 2>&1\n".to_owned();
    for step in &steps {
        let command = &step.command;
        if command.starts_with("journalctl") {
            // An operator looks a moment later; the entry is still on its way here.
            script += &format!("until {command} --quiet | grep -q .; do sleep 0.1; done\n");
        }
        script += &format!("{command}\necho '{DONE}'\n");
    }
    lab.write("/root/session", &script);
    let said = lab.try_sh("timeout 120 bash /root/session").out;
    let said: Vec<_> = said.split(&format!("{DONE}\n")).collect();
    for (step, said) in steps.iter().zip(&said) {
        let said: Vec<_> = said.lines().map(str::to_owned).collect();
        assert_eq!(comparable(&said), comparable(&step.said), "{}", step.command);
    }
    assert_eq!(said.len(), steps.len() + 1, "the session ended early: {said:?}");
}
