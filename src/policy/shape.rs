//! How deep and how long a policy may be. Whoever reads, keeps, asks or forgets a policy walks it recursively: its depth is bounded before.

/// Parentheses, brackets and braces inside each other.
const DEEPEST: usize = 12;
/// Operators, member accesses and brackets of one policy: each may add a level.
const LONGEST: usize = 400;

/// What is wrong with a text's shape, in words; nothing if it may be read.
#[must_use]
pub fn mistake(text: &str) -> Option<&'static str> {
    let (mut depth, mut length, mut word) = (0_usize, 0_usize, String::new());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if matches!(word.as_str(), "if" | "then" | "else" | "in" | "has" | "like" | "is") {
            length += 1;
        }
        word.clear();
        match c {
            '"' => {
                while let Some(inside) = rest.next() {
                    match inside {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if rest.peek() == Some(&'/') => while rest.next().is_some_and(|c| c != '\n' && c != '\r') {},
            '(' | '[' | '{' => (depth, length) = (depth + 1, length + 1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => length = 0,
            '&' | '|' | '=' | '!' | '<' | '>' | '+' | '-' | '*' | '.' => length += 1,
            _ => {}
        }
        if depth > DEEPEST {
            return Some("a policy may not be nested deeper than 12 levels");
        }
        if length > LONGEST {
            return Some("a policy may not have more than 400 operators; write several policies");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::{Being, Compiled, Policy, Question};

    fn policy(condition: &str) -> Policy {
        Policy { id: "p".into(), cedar: format!("permit(principal, action, resource) when {{ {condition} }};"), ..Policy::default() }
    }

    /// On a stack smaller than any thread of ours has, debug build included.
    fn survives(condition: String) {
        let worked = move || {
            use ledger::Record as _;
            let policy = policy(&condition);
            if policy.mistakes().is_empty() {
                let compiled = Compiled::new(std::slice::from_ref(&policy)).unwrap();
                let beside = compiled.beside("r", &policy.cedar).unwrap();
                let question = Question {
                    principal: Being::new("User", "a"),
                    action: "x".into(),
                    resource: Being::new("Doc", "d"),
                    ..Question::default()
                };
                let _ = (compiled.ask(&question), beside.ask(&question));
            }
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(worked).unwrap().join().unwrap();
    }

    #[test]
    fn no_policy_is_too_deep_for_the_stack() {
        for n in [5, 12, 60, 130, 400, 5_000, 20_000] {
            survives(format!("{}true{}", "(".repeat(n), ")".repeat(n)));
            survives(format!("{}true{}", "[".repeat(n), "]".repeat(n)));
            survives(format!("{}true", "!".repeat(n)));
            survives(format!("{}1 == 1", "-".repeat(n)));
            survives(vec!["true"; n].join(" && "));
            survives(vec!["true"; n].join(" || "));
            survives(format!("{} == 1", vec!["1"; n].join(" + ")));
            survives(format!("{} == 1", vec!["1"; n].join(" * ")));
            survives(format!("principal{} == 1", ".a".repeat(n)));
            survives(format!("principal{} == 1", "[\"a\"]".repeat(n)));
            survives(format!("{}true{}", "if true then ".repeat(n), " else true".repeat(n)));
            survives(format!("{}true", "if true then true else ".repeat(n)));
            survives(format!("{}1{} == 1", "{\"a\": ".repeat(n), "}".repeat(n)));
            survives(format!("principal{}", ".contains(1)".repeat(n)));
        }
    }

    #[test]
    fn texts_and_comments_do_not_count_and_each_policy_counts_for_itself() {
        assert_eq!(super::mistake(&format!("permit(principal, action, resource) when {{ context.x == \"{}\" }};", "(".repeat(500))), None);
        assert_eq!(super::mistake(&format!("// {}\npermit(principal, action, resource);", "(&".repeat(500))), None);
        assert_eq!(super::mistake(&"permit(principal, action, resource) when { context.a && context.b };\n".repeat(200)), None);
        assert!(super::mistake(&format!("permit(principal, action, resource) when {{ \"\\\"\" == {}", "(".repeat(20))).is_some());
    }
}
