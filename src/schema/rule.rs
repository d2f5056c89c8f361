//! One schema, ready to be asked.
use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value, json};

use crate::{Fault, reference};

/// The most that a compiled pattern may take, octets.
const PATTERN_MAX: usize = 1 << 20;
/// A schema that is larger than this once every reference is replaced by what it names only says yes or no.
const EXPLAINED: u64 = 10_000;
/// The most questions a schema may ask about one value.
const WORK_MAX: u64 = 50_000;
/// The same of longer values: each place that is wrong would be written down.
const EXPLAINED_OCTETS: usize = 16 * 1024;

/// A compiled schema.
#[derive(Debug)]
pub struct Rule {
    validator: Validator,
    explains: bool,
}

impl Rule {
    /// Compiles a schema that stands alone: it points at itself only (`#`, `#/$defs/…`).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn alone(schema: &Value, at: &str) -> Result<Self, Vec<Fault>> {
        reference::targets(schema, schema, "", at)?;
        bounded(schema, schema, at)?;
        Self::compile(schema, reference::size(schema, schema), at)
    }

    /// Compiles a schema of a document: it points at schemas of the document's components only.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn within(schema: &Value, document: &Value, at: &str) -> Result<Self, Vec<Fault>> {
        let targets = reference::targets(schema, document, reference::COMPONENTS, at)?;
        bounded(schema, document, at)?;
        let mut components = Map::new();
        for name in &targets {
            if let Some(target) = document.pointer(&format!("{}{name}", reference::COMPONENTS)) {
                components.insert(name.replace("~1", "/").replace("~0", "~"), target.clone());
            }
        }
        let whole = json!({ "allOf": [schema], "components": { "schemas": components } });
        Self::compile(&whole, reference::size(schema, document), at)
    }

    fn compile(schema: &Value, size: Option<u64>, at: &str) -> Result<Self, Vec<Fault>> {
        let options = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_MAX).dfa_size_limit(PATTERN_MAX))
            .should_validate_formats(true)
            .offline();
        match options.build(schema) {
            Ok(validator) => Ok(Self { validator, explains: size.is_some_and(|n| n <= EXPLAINED) }),
            Err(error) => Err(vec![Fault::new(at, format!("is not a usable schema: {}", short(&error.to_string())))]),
        }
    }

    /// Whether a value is as the schema says, without saying where not.
    #[must_use]
    pub fn holds(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// Asks about a value that took so many octets; what is wrong is told under `at`.
    ///
    /// # Errors
    /// What is wrong with it, at most [`Fault::MOST`] things.
    pub fn check(&self, value: &Value, octets: usize, at: &str) -> Result<(), Vec<Fault>> {
        // Asked so, repeated work is remembered: a schema that points at itself in several branches takes no longer for it.
        if self.validator.is_valid(value) {
            return Ok(());
        }
        if !self.explains || octets > EXPLAINED_OCTETS {
            return Err(vec![Fault::new(at, "is not as its schema says")]);
        }
        let told: Vec<Fault> = self
            .validator
            .iter_errors(value)
            .take(Fault::MOST)
            .map(|error| Fault::new(format!("{at}{}", error.instance_path().as_str()), why(error.kind())))
            .collect();
        Err(if told.is_empty() { vec![Fault::new(at, "is not as its schema says")] } else { told })
    }
}

/// Refuses a schema that would take long over a small value.
fn bounded(schema: &Value, document: &Value, at: &str) -> Result<(), Vec<Fault>> {
    if reference::work(schema, document) <= WORK_MAX {
        return Ok(());
    }
    Err(vec![Fault::new(
        at,
        format!("asks more than {WORK_MAX} questions about one value: it names the same schemas in too many branches"),
    )])
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// What is wrong, in words that hold nothing of the value.
fn why(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as K;
    match kind {
        K::Required { property } => return format!("lacks the member {property}"),
        K::Format { format } => return format!("is not of the format {format}"),
        K::Type { .. } => "is of another type",
        K::AdditionalProperties { .. } | K::UnevaluatedProperties { .. } => "has a member that is not known",
        K::AdditionalItems { .. } | K::UnevaluatedItems { .. } => "has an item that is not known",
        K::Enum { .. } | K::Constant { .. } => "is none of the values allowed",
        K::Maximum { .. } | K::ExclusiveMaximum { .. } => "is too large",
        K::Minimum { .. } | K::ExclusiveMinimum { .. } => "is too small",
        K::MaxLength { .. } | K::MaxItems { .. } | K::MaxProperties { .. } => "is too long",
        K::MinLength { .. } | K::MinItems { .. } | K::MinProperties { .. } => "is too short",
        K::MultipleOf { .. } => "is not a multiple of what it has to be",
        K::Pattern { .. } => "does not match its pattern",
        K::UniqueItems => "has equal items",
        K::OneOfMultipleValid { .. } => "is of more than one of the forms allowed",
        K::AnyOf { .. } | K::OneOfNotValid { .. } => "is of none of the forms allowed",
        K::FalseSchema => "is not allowed",
        K::PropertyNames { .. } => "has a member whose name is not allowed",
        K::Contains => "lacks an item that has to be there",
        _ => "is not as its schema says",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! literals read best so")]
    fn faults(schema: Value, value: Value) -> Vec<(String, String)> {
        let rule = Rule::alone(&schema, "schema").unwrap();
        rule.check(&value, 10, "/body").err().unwrap_or_default().into_iter().map(|f| (f.at, f.why)).collect()
    }

    #[test]
    fn what_is_wrong_is_told_by_place_and_kind_and_never_by_value() {
        let schema = json!({"type": "object", "required": ["name", "tags"], "additionalProperties": false, "properties": {
            "name": {"type": "string", "maxLength": 3, "pattern": "^[a-z]+$"}, "tags": {"type": "array", "uniqueItems": true, "items": {"enum": ["a", "b"]}},
            "when": {"type": "string", "format": "date-time"}, "n": {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2}}});
        assert!(faults(schema.clone(), json!({"name": "abc", "tags": ["a"], "when": "2026-01-01T00:00:00Z", "n": 4})).is_empty());
        let told = faults(schema, json!({"name": "SECRET", "tags": ["a", "SECRET"], "when": "SECRET", "n": 77, "SECRET": 1}));
        let at: BTreeSet<&str> = told.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(at, BTreeSet::from(["/body", "/body/name", "/body/tags/1", "/body/when", "/body/n"]));
        assert!(!format!("{told:?}").contains("SECRET"), "{told:?}");
    }

    #[test]
    fn nothing_outside_is_pointed_at() {
        for reference in
            ["https://example.com/schema.json", "file:///etc/passwd", "other.json", "#/$defs/absent", "#anchor", "//example.com/x"]
        {
            assert!(Rule::alone(&json!({"$ref": reference}), "schema").is_err(), "{reference}");
        }
        for keyword in ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "nullable", "$schema"] {
            assert!(Rule::alone(&json!({"properties": {"a": {keyword: "https://example.com/"}}}), "schema").is_err(), "{keyword}");
        }
        assert!(Rule::alone(&json!({"properties": {"$id": {"type": "string"}}, "examples": [{"$ref": "x"}]}), "schema").is_ok());
    }

    #[test]
    fn patterns_take_linear_time_or_are_refused() {
        for pattern in ["(?=a)b", r"(a)\1", "(?<!x)y", "a{1000}{1000}"] {
            assert!(Rule::alone(&json!({"pattern": pattern}), "schema").is_err(), "{pattern}");
        }
        let slow = Rule::alone(&json!({"type": "string", "pattern": "^(a+)+$"}), "schema").unwrap();
        assert!(!slow.holds(&json!(format!("{}b", "a".repeat(200_000)))));
    }

    #[test]
    fn a_schema_that_points_at_itself_in_every_branch_ends() {
        let term = |op: &str| {
            json!({"type": "object", "required": ["op", "l", "r"], "additionalProperties": false,
            "properties": {"op": {"const": op}, "l": {"$ref": "#/$defs/e"}, "r": {"$ref": "#/$defs/e"}}})
        };
        let schema =
            json!({"$ref": "#/$defs/e", "$defs": {"e": {"oneOf": [{"type": "integer"}, term("+"), term("-"), term("*"), term("/")]}}});
        let rule = Rule::alone(&schema, "schema").unwrap();
        let nested = |leaf: Value, depth: usize| (0..depth).fold(leaf, |inner, _| json!({"op": "/", "l": inner, "r": 1}));
        assert!(rule.holds(&nested(json!(1), 30)));
        let told = rule.check(&nested(json!("x"), 30), 1_000, "/body").unwrap_err();
        assert_eq!(told, [Fault::new("/body", "is not as its schema says")]);
    }

    #[test]
    fn a_schema_that_branches_at_every_step_is_refused() {
        let steps = |many: usize, step: &dyn Fn(String) -> Value, last: Value| {
            let mut all: Map<String, Value> = (0..many).map(|n| (format!("a{n}"), step(format!("#/$defs/a{}", n + 1)))).collect();
            all.insert(format!("a{many}"), last);
            json!({"$ref": "#/$defs/a0", "$defs": all})
        };
        let both = |next: String| json!({"anyOf": [{"$ref": next}, {"$ref": next}]});
        let below = |next: String| json!({"allOf": [{"properties": {"x": {"$ref": next}}}, {"properties": {"x": {"$ref": next}}}]});
        let once = |next: String| json!({"properties": {"x": {"$ref": next}, "y": {"$ref": next}}, "required": ["x"]});
        let leaf = || json!({"type": "integer"});
        assert!(Rule::alone(&steps(25, &both, leaf()), "schema").is_err());
        assert!(Rule::alone(&steps(25, &below, leaf()), "schema").is_err());
        assert!(
            Rule::alone(&steps(25, &both, json!({"properties": {"x": {"$ref": "#/$defs/a0"}}})), "schema").is_err(),
            "in a circle, too"
        );
        assert!(Rule::alone(&steps(25, &once, leaf()), "schema").is_ok(), "members are values of their own");
        let small = Rule::alone(&steps(10, &both, leaf()), "schema").unwrap();
        assert!(small.holds(&json!(1)) && !small.holds(&json!("x")));
        let circle =
            Rule::alone(&steps(10, &both, json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/a0"}})), "s").unwrap();
        let nested = (0..30).fold(json!({"a": 1}), |inner, _| json!({"a": inner}));
        assert!(!circle.holds(&nested));
    }

    #[test]
    fn many_equal_or_odd_items_take_no_longer_than_they_should() {
        let unique = Rule::alone(&json!({"type": "array", "uniqueItems": true, "items": {"type": "object", "unevaluatedProperties": false, "properties": {"a": true}}}), "s").unwrap();
        let many: Vec<Value> = (0..30_000).map(|n| json!({"a": n})).collect();
        assert!(unique.holds(&Value::Array(many)));
        let wide: Map<String, Value> = (0..30_000).map(|n| (format!("k{n}"), json!(n))).collect();
        let odd = Rule::alone(&json!({"allOf": [{"patternProperties": {"^k": true}}], "unevaluatedProperties": false}), "s").unwrap();
        assert!(odd.holds(&Value::Object(wide)));
    }
}
