//! Whether connections are spread as the weights say.

use std::collections::BTreeMap;

/// How far a server's share may be from what its weight says, in percentage points. A load of some hundred connections
/// does not end at the end of a round of the scheduler, and some of those that were begun are not through.
pub const TOLERANCE: f64 = 4.0;

/// Compares the connections of each server with the weights, and says both. Whoever has weight 0 must have none.
pub fn compare(connections: &BTreeMap<String, u64>, weights: &[(&str, u32)]) -> Result<String, String> {
    let total: u64 = connections.values().sum();
    let weight: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let of = |name: &str| connections.get(name).copied().unwrap_or(0);
    let text = |part: &dyn Fn(&(&str, u32)) -> String, separator: &str| {
        weights.iter().map(part).collect::<Vec<_>>().join(separator)
    };
    let seen = text(&|(name, _)| format!("{name} {}", of(name)), ", ");
    let said = format!("{seen} of {total} for weights {}", text(&|(_, w)| w.to_string(), ":"));
    if total == 0 || weight == 0 {
        return Err(format!("nothing to compare: {said}"));
    }
    if let Some(stranger) = connections.keys().find(|name| !weights.iter().any(|(known, _)| known == name)) {
        return Err(format!("{stranger} answered and isn't one of the servers; {said}"));
    }
    for (name, share) in weights {
        let wanted = 100.0 * f64::from(*share) / f64::from(weight);
        let found = 100.0 * of(name) as f64 / total as f64;
        if (*share == 0 && of(name) > 0) || (found - wanted).abs() > TOLERANCE {
            return Err(format!("{said}: {name} has {found:.1} % and not {wanted:.1} ± {TOLERANCE} %"));
        }
    }
    Ok(format!("{said} (± {TOLERANCE} points)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(of: [u64; 3]) -> BTreeMap<String, u64> {
        ["s1", "s2", "s3"].into_iter().map(String::from).zip(of).filter(|(_, n)| *n > 0).collect()
    }

    #[test]
    fn shares_within_the_tolerance_pass_and_others_are_named() {
        let weights = [("s1", 3), ("s2", 2), ("s3", 1)];
        assert_eq!(
            compare(&connections([148, 102, 50]), &weights).unwrap(),
            "s1 148, s2 102, s3 50 of 300 for weights 3:2:1 (± 4 points)"
        );
        for (wrong, name) in [([100, 100, 100], "s1"), ([150, 150, 0], "s2"), ([0, 0, 0], "nothing")] {
            let said = compare(&connections(wrong), &weights).unwrap_err();
            assert!(said.contains(name), "{said}");
        }
    }

    #[test]
    fn a_server_of_weight_0_has_no_connection_at_all() {
        let weights = [("s1", 0), ("s2", 2), ("s3", 2)];
        assert!(compare(&connections([0, 150, 150]), &weights).is_ok());
        assert!(compare(&connections([1, 150, 150]), &weights).unwrap_err().contains("s1 has 0.3 %"));
        assert!(compare(&connections([0, 150, 150]), &weights[1..2]).unwrap_err().starts_with("s3 answered"));
    }
}
