//! Reads claims, whatever their JSON type.

use serde_json::{Map, Value};

/// Whether a claim, or an element of it, is `value` as text.
pub(crate) fn has_value(claim: &Value, value: &str) -> bool {
    match claim {
        Value::String(text) => text == value,
        Value::Bool(truth) => truth.to_string() == value,
        Value::Number(number) => number.to_string() == value,
        Value::Array(elements) => {
            elements.iter().any(|element| !element.is_array() && has_value(element, value))
        }
        Value::Object(_) | Value::Null => false,
    }
}

/// A full name out of its parts, where the provider sends no `name`: the given name and the name
/// in use (`usual_name` of ProConnect) or the family name.
pub(crate) fn full_name(claims: &Map<String, Value>) -> Option<String> {
    let part = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| claims.get(*name)?.as_str().filter(|text| !text.trim().is_empty()))
            .map(str::trim)
    };
    match (part(&["given_name"]), part(&["usual_name", "family_name"])) {
        (Some(given), Some(family)) => Some(format!("{given} {family}")),
        (Some(name), None) | (None, Some(name)) => Some(name.to_owned()),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_made_of_its_parts() {
        let name = |claims: Value| full_name(claims.as_object().unwrap());
        let claims = json!({"given_name": "Angela Claire", "usual_name": "Dubois"});
        assert_eq!(name(claims).as_deref(), Some("Angela Claire Dubois"));
        let claims = json!({"given_name": " ", "family_name": "Dubois", "usual_name": ""});
        assert_eq!(name(claims).as_deref(), Some("Dubois"));
        assert_eq!(name(json!({"given_name": 1})), None);
    }
}
