//! The report for people: one block a member, one line a finding. Pure.

use std::fmt::Write as _;

use super::finding::{Checkup, Level, Report};

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// As on a terminal.
    Terminal,
    /// As in a file.
    None,
}

impl Colour {
    fn paint(self, code: &str, word: &str) -> String {
        match self {
            Self::Terminal => format!("\u{1b}[{code}m{word}\u{1b}[0m"),
            Self::None => word.to_owned(),
        }
    }
}

/// The whole report.
#[must_use]
pub fn render(report: &Report, colour: Colour) -> String {
    let mut text = String::new();
    for checkup in &report.members {
        render_member(&mut text, checkup, colour).expect("a String can be written to");
        text.push('\n');
    }
    let summary = report.summary;
    writeln!(
        text,
        "{} member(s): {} error(s), {} warning(s)",
        summary.members, summary.errors, summary.warnings
    )
    .expect("a String can be written to");
    text
}

fn render_member(text: &mut String, checkup: &Checkup, colour: Colour) -> std::fmt::Result {
    let title = format!("{} / {}", checkup.pool, checkup.member);
    writeln!(text, "{}  {}", colour.paint("1", &title), checkup.url)?;
    if !checkup.checked.is_empty() {
        let words: Vec<_> = checkup.checked.iter().map(|check| check.words()).collect();
        writeln!(text, "  {}       {}", colour.paint("32", "ok"), words.join(", "))?;
    }
    let mut findings: Vec<_> = checkup.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    for finding in findings {
        let (code, pad) = match finding.level {
            Level::Error => ("31", "    "),
            Level::Warning => ("33", "  "),
        };
        let level = colour.paint(code, finding.level.as_str());
        let (problem, effect, fix) = (&finding.problem, &finding.effect, &finding.fix);
        writeln!(text, "  {level}{pad}{problem} — {effect} — fix: {fix} ({})", finding.code.as_str())?;
    }
    for skipped in &checkup.not_checked {
        writeln!(text, "  -        {} not checked: {}", skipped.check.words(), skipped.because)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{Check, Code, Finding};

    #[test]
    fn findings_come_with_what_they_mean_and_the_worst_first() {
        let mut checkup = Checkup {
            pool: "main".to_owned(),
            member: "node1".to_owned(),
            url: "http://a:1".to_owned(),
            checked: Vec::new(),
            not_checked: Vec::new(),
            findings: Vec::new(),
        };
        checkup.pass(Check::Reachable);
        checkup.skip(Check::Sessions, "reason");
        checkup.find(Finding::warning(Code::ClocksDiffer, "w", "we", "wf"));
        checkup.find(Finding::error(Code::Clock, "e", "ee", "ef"));
        let report = Report::new(vec![checkup]);
        assert_eq!(
            render(&report, Colour::None),
            "main / node1  http://a:1\n  ok       reachable\n  error    e — ee — fix: ef (clock)\n  \
             warning  w — we — fix: wf (clocks_differ)\n  -        sessions not checked: reason\n\n\
             1 member(s): 1 error(s), 1 warning(s)\n"
        );
        assert!(render(&report, Colour::Terminal).contains("\u{1b}[31merror\u{1b}[0m    e"));
    }
}
