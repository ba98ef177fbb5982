//! From the measured samples to the printed figures: medians and ratios.

use crate::table::{Ratio, Row, Target, Unit};

/// Numbers in order.
pub struct Samples(Vec<f64>);

impl Samples {
    /// The quantile by nearest rank, so that it is a number which was measured. Of nothing
    /// it is NaN, which meets no target.
    pub fn quantile(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The greatest.
    pub fn worst(&self) -> f64 {
        self.quantile(1.0)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(numbers: I) -> Samples {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        Samples(numbers)
    }
}

/// What the two servers reached, side by side.
#[derive(Clone, Copy)]
pub struct Pair {
    /// The bare loop.
    pub bare: f64,
    /// What is compared with it.
    pub subject: f64,
}

impl Pair {
    fn ratio(self) -> f64 {
        self.subject / self.bare
    }
}

/// A figure's pairs, round by round: one in a round, or one for each slice of it.
#[derive(Default)]
pub struct Rounds(Vec<Vec<Pair>>);

impl Rounds {
    /// Adds what a round brought.
    pub fn push(&mut self, round: Vec<Pair>) {
        self.0.push(round);
    }

    /// Rounds of one pair each.
    pub fn of_singles([bare, subject]: [Vec<f64>; 2]) -> Rounds {
        let pairs = bare.into_iter().zip(subject);
        Rounds(pairs.map(|(bare, subject)| vec![Pair { bare, subject }]).collect())
    }

    /// The row of this figure. A round's ratio is the median of its pairs' ratios, since
    /// what disturbs the machine for a moment disturbs one pair and not the others.
    pub fn row(&self, label: impl Into<String>, unit: Unit, target: Target) -> Row {
        let middle = |of: fn(&Pair) -> f64| -> Samples {
            self.0.iter().map(|round| round.iter().map(of).collect::<Samples>().median()).collect()
        };
        let ratios = middle(|pair| pair.ratio());
        Row {
            label: label.into(),
            unit,
            bare: middle(|pair| pair.bare).median(),
            subject: middle(|pair| pair.subject).median(),
            ratio: Some(Ratio {
                median: ratios.median(),
                least: ratios.quantile(0.0),
                greatest: ratios.worst(),
            }),
            target,
            generator: None,
        }
    }
}
