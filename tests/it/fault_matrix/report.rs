//! What became of all cases, in a form that a person can read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::case::{Case, FaultKind};
use super::judge::Trial;

/// Violations that are told in full, for each cell.
const TOLD_MAX: usize = 3;

/// Counts by fault and operation.
#[derive(Default)]
pub(super) struct Report {
    cases: usize,
    violated: usize,
    /// Cells in which some member was asked that has the fault.
    met: BTreeSet<(FaultKind, &'static str)>,
    drawn: BTreeSet<(FaultKind, &'static str)>,
    cells: BTreeMap<(FaultKind, &'static str), Cell>,
}

#[derive(Default)]
struct Cell {
    cases: usize,
    violated: usize,
    told: Vec<String>,
}

impl Report {
    pub(super) fn add(&mut self, case: &Case, trial: &Trial, violations: &[String]) {
        let key = (case.kind(), case.operation.name());
        self.cases += 1;
        self.drawn.insert(key);
        // A member that refuses to be connected to is never asked, and shows only in what happens.
        let has_fault = |at: usize| case.members[at].is_some_and(|fault| fault.kind() == key.0);
        let asked = trial.logs.iter().enumerate().any(|(at, log)| has_fault(at) && !log.is_empty());
        if asked || matches!(key.0, FaultKind::RefuseConnect | FaultKind::None) {
            self.met.insert(key);
        }
        let cell = self.cells.entry(key).or_default();
        cell.cases += 1;
        if violations.is_empty() {
            return;
        }
        self.violated += 1;
        cell.violated += 1;
        if cell.told.len() < TOLD_MAX {
            cell.told.push(format!(
                "{case:?}\n    pinned {:?}\n    {}",
                trial.pinned,
                violations.join("\n    ")
            ));
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.violated == 0
    }

    /// Whether the fault of every cell has really struck in some case of it.
    pub(super) fn every_cell_was_met(&self) -> bool {
        self.met == self.drawn
    }

    pub(super) fn render(&self, seed: u64, took: Duration) -> String {
        let mut text = format!(
            "TIDEGATE_MATRIX_SEED={seed}: {} of {} cases broke a promise ({took:.1?}); cells whose fault never struck: {:?}\n",
            self.violated,
            self.cases,
            self.drawn.difference(&self.met).collect::<Vec<_>>()
        );
        let violated = || self.cells.iter().filter(|(_, cell)| cell.violated > 0);
        for ((kind, operation), cell) in violated() {
            let (kind, violated, cases) = (format!("{kind:?}"), cell.violated, cell.cases);
            writeln!(text, "{kind:14} {operation:21} {violated:4} of {cases:4}")
                .expect("a String can be written to");
        }
        for (_, cell) in violated() {
            for told in &cell.told {
                writeln!(text, "\n{told}").expect("a String can be written to");
            }
        }
        text
    }
}
