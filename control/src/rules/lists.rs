//! `@file` lists: one value a line, blank lines and lines that begin with `#` passed over.

use std::sync::Arc;

use ipnet::IpNet;

use super::ast::Variable;
use super::context::MAX_LIST_ENTRIES;
use super::decimal::Decimal;
use super::diagnostic::Mistake;
use super::parse::{Parsed, Parser};
use super::parse_term::{network, number};
use super::pattern;
use super::scan::Literal;

/// The most patterns of a list for `regex`: each is an automaton of its own.
const MAX_PATTERNS: usize = 1_024;

impl Parser<'_> {
    fn entries<T>(
        &self,
        file: &Literal,
        limit: usize,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Parsed<Arc<Vec<T>>> {
        let Some(lists) = self.context.lists else { return Ok(Arc::new(Vec::new())) };
        let text = match lists.read(&file.text) {
            Ok(text) => text,
            Err(why) => {
                let mend = "lists are looked for beside the rule file";
                return self.fail_with(Mistake::BadList, file.span, format!("cannot read the list: {why}"), mend);
            }
        };
        let mut entries = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if entries.len() == limit {
                let message = format!("{} has more than {limit} entries", file.text);
                return self.fail(Mistake::Limit, file.span, message);
            }
            match read(line) {
                Ok(entry) => entries.push(entry),
                Err(why) => {
                    let message = format!("{}:{}: {why}", file.text, at + 1);
                    return self.fail(Mistake::BadList, file.span, message);
                }
            }
        }
        Ok(Arc::new(entries))
    }

    pub(super) fn text_list(&mut self, file: &Literal, regex: bool) -> Parsed<Arc<Vec<String>>> {
        let key = (file.text.clone(), regex);
        if let Some(known) = self.texts.get(&key).filter(|_| !regex) {
            return Ok(known.clone());
        }
        let limit = if regex { MAX_PATTERNS } else { MAX_LIST_ENTRIES };
        let entries = self.entries(file, limit, |line| {
            if regex && let Err(bad) = pattern::compile(line, file.ignore_case) {
                return Err(format!("bad regular expression: {}", bad.message));
            }
            Ok(line.to_owned())
        })?;
        self.texts.insert(key, entries.clone());
        Ok(entries)
    }

    pub(super) fn number_list(&mut self, variable: &Variable, file: &Literal) -> Parsed<Arc<Vec<Decimal>>> {
        let key = file.text.clone();
        if let Some(known) = self.numbers.get(&key).filter(|_| *variable != Variable::IpProto) {
            return Ok(known.clone());
        }
        let entries = self.entries(file, MAX_LIST_ENTRIES, |line| {
            number(variable, line).ok_or_else(|| format!("found `{line}`, expected a whole number"))
        })?;
        if *variable != Variable::IpProto {
            self.numbers.insert(key, entries.clone());
        }
        Ok(entries)
    }

    pub(super) fn network_list(&mut self, file: &Literal) -> Parsed<Arc<Vec<IpNet>>> {
        if let Some(known) = self.networks.get(&file.text) {
            return Ok(known.clone());
        }
        let entries = self.entries(file, MAX_LIST_ENTRIES, network)?;
        self.networks.insert(file.text.clone(), entries.clone());
        Ok(entries)
    }
}
