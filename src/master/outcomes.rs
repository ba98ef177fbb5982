//! How the reloads have ended, for who asks.
#![forbid(unsafe_code)]

use crate::control::Reply;

/// How the reloads have ended, each by its number, which begins at 1.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// How many were asked for.
    asked: u64,
    /// The one that is carried out, or was last.
    begun: u64,
    /// The last one that was refused, before anything was touched.
    refused: Option<(u64, Reply)>,
    /// The last one that was carried out, or undone.
    ended: Option<(u64, Reply)>,
}

impl Outcomes {
    /// The number of the last one that was asked for; 0 if none was.
    pub fn last(&self) -> u64 {
        self.asked
    }

    /// One more is asked for.
    pub fn ask(&mut self) {
        self.asked += 1;
    }

    /// The last one asked for is refused. One that was begun earlier goes on.
    pub fn refuse(&mut self, reply: Reply) {
        self.refused = Some((self.asked, reply));
    }

    /// The last one asked for is begun, in the place of one that has not ended.
    pub fn begin(&mut self) {
        self.begun = self.asked;
    }

    /// The one that was begun has ended.
    pub fn end(&mut self, reply: Reply) {
        self.ended = Some((self.begun, reply));
    }

    /// How this one has ended, if it has. One that another has taken the place of
    /// ends as that does.
    pub fn of(&self, number: u64) -> Option<Reply> {
        if number == 0 {
            return Some(Reply::done("not reloaded since the start"));
        }
        let refused = self.refused.iter().find(|(refused, _)| *refused == number);
        let ended = self.ended.iter().find(|(ended, _)| *ended >= number);
        refused.or(ended).map(|(_, reply)| reply.clone())
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
        let mut outcomes = Outcomes::default();
        assert_eq!(outcomes.last(), 0);
        assert_eq!(outcomes.of(0), Some(reply("not reloaded since the start")));
        outcomes.ask();
        outcomes.begin();
        assert_eq!(outcomes.of(1), None);
        outcomes.end(reply("first"));
        assert_eq!(outcomes.of(outcomes.last()), Some(reply("first")));
    }

    #[test]
    fn one_that_is_refused_says_nothing_of_one_that_runs() {
        let mut outcomes = Outcomes::default();
        outcomes.ask();
        outcomes.begin();
        outcomes.ask();
        outcomes.refuse(reply("refused"));
        assert_eq!([outcomes.of(1), outcomes.of(2)], [None, Some(reply("refused"))]);
        outcomes.end(reply("first"));
        assert_eq!(outcomes.of(1), Some(reply("first")));
        assert_eq!(outcomes.of(outcomes.last()), Some(reply("refused")));
    }

    #[test]
    fn one_that_is_superseded_ends_as_its_successor() {
        let mut outcomes = Outcomes::default();
        for _ in 1..=3 {
            outcomes.ask();
            outcomes.begin();
        }
        assert_eq!(outcomes.of(1), None);
        outcomes.end(reply("third"));
        assert_eq!(
            [1, 2, 3].map(|number| outcomes.of(number)),
            [(); 3].map(|()| Some(reply("third")))
        );
    }
}
