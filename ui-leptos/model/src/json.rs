//! Members of JSON objects, read one by one.
//!
//! A derived reader of a structure of forty members takes ten kilobytes of WebAssembly; here one reader of members serves all
//! structures, and what nobody asks for is skipped as text. Invariant: a member that is absent, null or of another type than
//! expected reads as its default, so that page and server may differ in version.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::Nanos;

/// The members of an object, each as its text.
#[derive(Default)]
pub struct Members<'a>(BTreeMap<&'a str, &'a RawValue>);

/// The items of an array, each as its text; none of anything else.
#[inline(never)]
pub fn items(json: &str) -> Vec<&RawValue> {
    serde_json::from_str(json).unwrap_or_default()
}

/// Text of a string; none of anything else.
#[inline(never)]
fn string(json: &str) -> Option<String> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    // Most have nothing to decode.
    if inside.contains('\\') { serde_json::from_str(json).ok() } else { Some(inside.to_owned()) }
}

impl<'a> Members<'a> {
    /// From an object's text.
    ///
    /// # Errors
    /// In words, when it is not an object.
    pub fn parse(json: &'a str) -> Result<Self, String> {
        serde_json::from_str(json).map(Self).map_err(|error| error.to_string())
    }

    /// From an object's text; without members from anything else.
    #[inline(never)]
    pub fn of(json: &'a str) -> Self {
        Self::parse(json).unwrap_or_default()
    }

    /// A member's text, unless it is absent or null.
    #[inline(never)]
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied().filter(|raw| raw.get() != "null")
    }

    /// The first of `names` that is there.
    #[inline(never)]
    pub fn any(&self, names: &[&str]) -> Option<&'a RawValue> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A text; empty by default.
    #[inline(never)]
    pub fn text(&self, names: &[&str]) -> String {
        self.optional_text(names).unwrap_or_default()
    }

    /// A text.
    #[inline(never)]
    pub fn optional_text(&self, names: &[&str]) -> Option<String> {
        string(self.any(names)?.get())
    }

    /// A 64-bit quantity: a number, or a string of digits.
    #[inline(never)]
    pub fn nanos(&self, names: &[&str]) -> Option<Nanos> {
        let text = self.any(names)?.get();
        let digits = text.trim_matches('"');
        let value = digits.parse().ok().or_else(|| {
            let float: f64 = digits.parse().ok()?;
            float.is_finite().then_some(float as i64)
        });
        if digits.is_empty() { Some(Nanos(0)) } else { value.map(Nanos) }
    }

    /// A count.
    #[inline(never)]
    pub fn count(&self, names: &[&str]) -> u64 {
        self.nanos(names).map_or(0, |count| u64::try_from(count.0).unwrap_or_default())
    }

    /// A floating-point number.
    #[inline(never)]
    pub fn number(&self, names: &[&str]) -> Option<f64> {
        self.any(names)?.get().trim_matches('"').parse().ok()
    }

    /// A flag.
    #[inline(never)]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.get().parse().ok()
    }

    /// Whatever it is; null by default.
    #[inline(never)]
    pub fn value(&self, name: &str) -> Value {
        self.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// Its text, kept for later.
    #[inline(never)]
    pub fn raw(&self, name: &str) -> Option<Box<RawValue>> {
        self.get(name).map(ToOwned::to_owned)
    }

    /// Items of an array.
    #[inline(never)]
    pub fn items(&self, names: &[&str]) -> Vec<&'a RawValue> {
        self.any(names).map(|raw| items(raw.get())).unwrap_or_default()
    }

    /// Texts of an array.
    #[inline(never)]
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.items(&[name]).into_iter().filter_map(|item| string(item.get())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: members of every type, escapes, absent and wrong ones. Guarantee: each reads as what it is, or as nothing.
    #[test]
    fn reads_members() {
        let json = r#" {"text":"plain","escaped":"a\"\n\u00fc","digits":"-12","number":7,"float":1.9e3,"empty":"","flag":true,
            "null":null,"list":["a",1,"b\\"],"object":{"x":[1,{"y":2}]}} "#;
        let members = Members::of(json);
        assert_eq!(
            (members.text(&["text"]), members.text(&["escaped"])),
            ("plain".to_owned(), "a\"\nü".to_owned())
        );
        let nanos = |name| members.nanos(&[name]).map(|nanos| nanos.0);
        assert_eq!(
            ["digits", "number", "float", "empty", "text", "null", "none"].map(nanos),
            [Some(-12), Some(7), Some(1_900), Some(0), None, None, None]
        );
        assert_eq!((members.count(&["digits"]), members.count(&["none", "number"])), (0, 7));
        assert_eq!((members.flag("flag"), members.flag("number")), (Some(true), None));
        assert_eq!(members.texts("list"), ["a", "b\\"]);
        assert_eq!(members.value("object")["x"][1]["y"], 2);
        assert_eq!((members.text(&["number"]), members.number(&["digits"])), (String::new(), Some(-12.0)));
        assert!(
            Members::of("[1]").get("x").is_none() && items("{}").is_empty() && Members::parse("{").is_err()
        );
    }
}
