//! A document in which given paths have given values: the body of a witness.

use super::super::ast::Selector;
use super::super::document::Node;

/// A path with the value that it must select.
pub type Wanted<'a> = (&'a Selector, Vec<u8>);

/// Builds the smallest document, or none if two paths disagree about the root. `compact` lets a
/// document with one wanted `//name` begin with that element; otherwise such an element stands in a
/// wrapper of its own, so that no other path meets it by accident. The caller verifies the result.
pub fn build(xml: bool, wanted: &[Wanted<'_>], compact: bool) -> Option<Node> {
    let mut document = Node::new("");
    let mut root = None;
    if xml {
        for (selector, _) in wanted {
            let Some(first) = selector.steps.first().filter(|step| !step.anywhere) else { continue };
            if *root.get_or_insert(first.name.as_str()) != first.name {
                return None;
            }
        }
        let compact = compact && wanted.len() == 1;
        match root {
            Some(name) => document.children.push(Node::new(name)),
            None if compact => {}
            None => document.children.push(Node::new(&fresh("doc", wanted))),
        }
    }
    let wrapper = fresh("x", wanted);
    // Longer paths first: what comes later is put in front, and the most general path must come first.
    let mut order: Vec<&Wanted<'_>> = wanted.iter().collect();
    order.sort_by_key(|(selector, _)| {
        let anywhere = selector.steps.iter().any(|step| step.anywhere);
        (anywhere, if anywhere { selector.steps.len().wrapping_neg() } else { 0 })
    });
    for (selector, value) in order {
        place(&mut document, selector, value, xml, compact && wanted.len() == 1, &wrapper);
    }
    Some(document)
}

/// A name that no path mentions.
fn fresh(base: &str, wanted: &[Wanted<'_>]) -> String {
    let mut name = base.to_owned();
    while wanted.iter().any(|(selector, _)| selector.steps.iter().any(|step| step.name == name)) {
        name.push('x');
    }
    name
}

fn place(document: &mut Node, selector: &Selector, value: &[u8], xml: bool, compact: bool, wrapper: &str) {
    let mut node = document;
    for (at, step) in selector.steps.iter().enumerate() {
        if step.attribute {
            node.attributes.retain(|(name, _)| *name != step.name);
            node.attributes.push((step.name.clone(), value.to_vec()));
            return;
        }
        if step.anywhere && !compact {
            if at == 0 && xml {
                node = &mut node.children[0];
            }
            node.children.insert(0, Node::new(wrapper));
            node = &mut node.children[0];
        }
        let wanted = step.index.unwrap_or(1) as usize;
        let mut present = node.children.iter().filter(|child| child.name == step.name).count();
        while present < wanted {
            node.children.push(Node::new(&step.name));
            present += 1;
        }
        let Some(child) = node.children.iter_mut().filter(|child| child.name == step.name).nth(wanted - 1) else {
            return;
        };
        child.array |= step.index.is_some();
        node = child;
    }
    node.text = value.to_vec();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Context, Variable, parse};

    fn selectors(paths: &[&str]) -> Vec<Selector> {
        let rules: String = paths.iter().map(|path| format!("if (exists(xml.{path})) reject\n")).collect();
        let set = parse(&rules, &Context::named("t")).unwrap();
        let selector = |rule: &crate::rules::Rule| match &rule.condition.terms()[0].variable {
            Variable::Xml(selector) => selector.clone(),
            other => panic!("{other}"),
        };
        set.rules.iter().map(selector).collect()
    }

    fn document(paths: &[(&str, &str)]) -> Option<String> {
        let selectors = selectors(&paths.iter().map(|p| p.0).collect::<Vec<_>>());
        let wanted: Vec<Wanted<'_>> =
            selectors.iter().zip(paths).map(|(s, (_, value))| (s, value.as_bytes().to_vec())).collect();
        let document = build(true, &wanted, true)?;
        for (selector, value) in &wanted {
            assert_eq!(document.select(selector), Some(value.as_slice()));
        }
        let mut out = Vec::new();
        document.children.iter().for_each(|root| root.to_xml(&mut out));
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_document_has_every_value() {
        assert_eq!(
            document(&[("purchase/totalAmount", "5001"), ("purchase/customerName", "CCL")]).unwrap(),
            "<purchase><totalAmount>5001</totalAmount><customerName>CCL</customerName></purchase>"
        );
        assert_eq!(document(&[("//Amount/Value", "10001")]).unwrap(), "<Amount><Value>10001</Value></Amount>");
        assert_eq!(document(&[("a/b[2]/@id", "x"), ("a/b", "y")]).unwrap(), "<a><b>y</b><b id=\"x\"></b></a>");
        assert_eq!(document(&[("//b", "1"), ("a/b", "2")]).unwrap(), "<a><x><b>1</b></x><b>2</b></a>");
        assert_eq!(document(&[("a/b", "1"), ("c/b", "2")]), None);
    }
}
