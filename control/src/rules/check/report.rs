//! What the checker found, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::super::span::Position;

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Same condition, different action: the lower rule never fires.
    AbsoluteConflict,
    /// Same condition, same action.
    Duplicate,
    /// The condition can never be true.
    Unsatisfiable,
    /// Everything that the rule matches is taken by rules above it.
    Shadowed,
    /// A variable that the clients of the service never send.
    NeverThere,
    /// Some request satisfies both, and the actions differ: the upper rule wins.
    PotentialConflict,
    /// Between two ranges lie values that no rule takes.
    Gap,
    /// The question could not be decided within the stated bounds.
    Undecided,
    /// A path that may select several places, of which only the first is looked at.
    FirstOnly,
    /// Conditions whose cost follows the number of rules.
    Cost,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Surely a mistake.
    Error,
    /// Very likely a mistake.
    Warning,
    /// Worth a look.
    Note,
    /// Worth knowing; nothing is wrong.
    Hint,
}

impl FindingKind {
    /// How much findings of this kind weigh.
    pub fn severity(self) -> Severity {
        match self {
            FindingKind::AbsoluteConflict => Severity::Error,
            FindingKind::Duplicate | FindingKind::Unsatisfiable | FindingKind::Shadowed | FindingKind::NeverThere => {
                Severity::Warning
            }
            FindingKind::PotentialConflict | FindingKind::Gap | FindingKind::Undecided => Severity::Note,
            FindingKind::FirstOnly | FindingKind::Cost => Severity::Hint,
        }
    }

    fn title(self) -> &'static str {
        match self {
            FindingKind::AbsoluteConflict => "absolute conflict",
            FindingKind::Duplicate => "duplicate",
            FindingKind::Unsatisfiable => "unsatisfiable",
            FindingKind::Shadowed => "shadowed",
            FindingKind::NeverThere => "never there",
            FindingKind::PotentialConflict => "potential conflict",
            FindingKind::Gap => "gap",
            FindingKind::Undecided => "undecided",
            FindingKind::FirstOnly => "first only",
            FindingKind::Cost => "cost",
        }
    }
}

/// One rule that a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The rule's name.
    pub rule: String,
    /// Its place in the set, from 0.
    pub index: usize,
    /// Where it begins.
    #[serde(flatten)]
    pub position: Position,
    /// The rule in canonical form.
    pub text: String,
}

/// A request that shows what a finding says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// Attributes of the connection and of the servers that matter here: name and value.
    pub connection: Vec<(String, String)>,
    /// What the client sends, as text; bytes outside printable ASCII are escaped.
    pub request: String,
    /// What the client sends, byte for byte; empty where the protocol is not one of plain text.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// How much it weighs.
    pub severity: Severity,
    /// What it says.
    pub message: String,
    /// The rules that it is about; first the one where the reader should look.
    pub places: Vec<Place>,
    /// A request that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<Witness>,
}

/// Everything that was found in a rule set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The rule file.
    pub file: String,
    /// How many rules were checked.
    pub rules: usize,
    /// The findings, by weight and then by place.
    pub findings: Vec<Finding>,
    /// Pairs of overlapping rules beyond the limit of the report: examined as far as to know that no one
    /// variable keeps them apart, and not shown.
    pub omitted_pairs: usize,
}

impl Report {
    /// How many findings there are of a kind.
    pub fn count(&self, kind: FindingKind) -> usize {
        self.findings.iter().filter(|finding| finding.kind == kind).count()
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.connection {
            writeln!(f, "    {name} = {value}")?;
        }
        for line in self.request.lines() {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
                Severity::Hint => "hint",
            };
            if let Some(place) = finding.places.first() {
                let Position { line, column } = place.position;
                write!(f, "{}:{line}:{column}: ", self.file)?;
            }
            writeln!(f, "{severity}: {}: {}", finding.kind.title(), finding.message)?;
            for place in &finding.places {
                let Position { line, column } = place.position;
                writeln!(f, "  {line}:{column}  {}", place.text)?;
            }
            if let Some(witness) = &finding.witness {
                writeln!(f, "  for example:")?;
                write!(f, "{witness}")?;
            }
            writeln!(f)?;
        }
        if self.omitted_pairs > 0 {
            writeln!(f, "{} more pairs of rules overlap, not shown", self.omitted_pairs)?;
        }
        let counted = |kind: FindingKind| match self.count(kind) {
            0 => None,
            1 => Some(format!("1 {}", kind.title())),
            n => Some(format!("{n} × {}", kind.title())),
        };
        let kinds = [
            FindingKind::AbsoluteConflict,
            FindingKind::Duplicate,
            FindingKind::Unsatisfiable,
            FindingKind::Shadowed,
            FindingKind::NeverThere,
            FindingKind::PotentialConflict,
            FindingKind::Gap,
            FindingKind::Undecided,
            FindingKind::FirstOnly,
            FindingKind::Cost,
        ];
        let summary: Vec<String> = kinds.into_iter().filter_map(counted).collect();
        let rules = if self.rules == 1 { "1 rule".to_owned() } else { format!("{} rules", self.rules) };
        match summary.is_empty() {
            true => write!(f, "{}: {rules}, nothing found", self.file),
            false => write!(f, "{}: {rules}: {}", self.file, summary.join(", ")),
        }
    }
}
