//! The results of reloads, for the clients that ask.
#![forbid(unsafe_code)]

use crate::request::Reply;

/// The answers, each by the number of its reload, which begins at 1.
#[derive(Debug, Default)]
pub struct Answers {
    /// How many reloads were asked for.
    asked: u64,
    /// The last reload that was refused before it touched anything.
    refused: Option<(u64, Reply)>,
    /// The last reload that was carried out, or undone.
    ended: Option<(u64, Reply)>,
}

impl Answers {
    /// The number of the last reload that was asked for; 0 if there was none.
    pub fn last(&self) -> u64 {
        self.asked
    }

    /// Counts one more reload, and gives its number.
    pub fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// This reload is refused. An earlier reload that has begun goes on.
    pub fn refuse(&mut self, number: u64, reply: Reply) {
        self.refused = Some((number, reply));
    }

    /// This reload has ended.
    pub fn end(&mut self, number: u64, reply: Reply) {
        self.ended = Some((number, reply));
    }

    /// The result of this reload, if it has ended. A superseded reload has its successor's
    /// result.
    pub fn of(&self, number: u64) -> Option<Reply> {
        if number == 0 {
            return Some(Reply::done("not reloaded since the start"));
        }
        let refused = self.refused.iter().find(|(refused, _)| *refused == number);
        let ended = self.ended.iter().find(|(ended, _)| *ended >= number);
        refused.or(ended).map(|(_, reply)| reply.clone())
    }

    /// The result of the last reload, in words. The end of an older reload does not hide
    /// that a newer one was refused.
    pub fn remark(&self) -> Option<String> {
        let last = self.of(self.asked).filter(|_| self.asked > 0)?;
        Some(match last.code {
            0 => "reloaded".to_owned(),
            _ => format!("reload failed: {}", last.text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::done(text)
    }

    #[test]
    fn each_reload_has_its_own_end() {
        let mut answers = Answers::default();
        assert_eq!((answers.last(), answers.remark()), (0, None));
        assert_eq!(answers.of(0), Some(reply("not reloaded since the start")));
        let number = answers.ask();
        assert_eq!((answers.of(1), answers.remark()), (None, None));
        answers.end(number, reply("first"));
        assert_eq!(answers.of(answers.last()), Some(reply("first")));
        assert_eq!(answers.remark().as_deref(), Some("reloaded"));
    }

    #[test]
    fn one_that_is_refused_says_nothing_of_one_that_runs() {
        let mut answers = Answers::default();
        let (first, second) = (answers.ask(), answers.ask());
        answers.refuse(second, Reply { code: 78, ..reply("refused") });
        let refused = answers.of(second);
        assert_eq!(answers.of(first), None);
        answers.end(first, reply("first"));
        assert_eq!(answers.of(first), Some(reply("first")));
        assert_eq!(answers.of(second), refused);
        assert_eq!(answers.remark().as_deref(), Some("reload failed: refused"));
    }

    #[test]
    fn one_that_is_superseded_ends_as_its_successor() {
        let mut answers = Answers::default();
        let numbers = [(); 3].map(|()| answers.ask());
        assert_eq!(answers.of(1), None);
        answers.end(numbers[2], reply("third"));
        assert_eq!(
            numbers.map(|number| answers.of(number)),
            [(); 3].map(|()| Some(reply("third")))
        );
    }
}
