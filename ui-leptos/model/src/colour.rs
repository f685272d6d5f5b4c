//! One colour a service, the same on every page and from one visit to the next.
//!
//! The palette itself lives in the style sheet (`--svc-0` … `--svc-11`), once for dark and once for light, chosen so
//! that each reads against its background at 3:1 or better. Here a name gets a slot: its hash where that slot is free,
//! else the next free one, so that up to [`SLOTS`] services never share a colour.

use std::collections::BTreeMap;

/// Number of colours in the palette.
pub const SLOTS: u8 = 12;

/// Slot that a name prefers: FNV-1a, folded.
pub fn preferred_slot(name: &str) -> u8 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in name.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    u8::try_from((hash ^ (hash >> 16)) % u32::from(SLOTS)).unwrap_or(0)
}

/// Slots given so far. Written as `name=slot` lines so that a browser can keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Palette {
    slots: BTreeMap<String, u8>,
}

impl Palette {
    /// The slot of a service, given now if it has none. Returns whether it is new beside it.
    pub fn assign(&mut self, name: &str) -> (u8, bool) {
        if let Some(slot) = self.slots.get(name) {
            return (*slot, false);
        }
        let preferred = preferred_slot(name);
        let mut users = [0_usize; SLOTS as usize];
        for slot in self.slots.values() {
            users[usize::from(*slot)] += 1;
        }
        let fewest = users.iter().min().copied().unwrap_or(0);
        let slot = (0..SLOTS)
            .map(|step| (preferred + step) % SLOTS)
            .find(|slot| users[usize::from(*slot)] == fewest)
            .unwrap_or(preferred);
        self.slots.insert(name.to_owned(), slot);
        (slot, true)
    }

    /// Text form.
    pub fn to_text(&self) -> String {
        self.slots.iter().map(|(name, slot)| format!("{slot} {name}\n")).collect()
    }

    /// Reads the text form; lines that do not parse are left out.
    pub fn from_text(text: &str) -> Self {
        let slots = text
            .lines()
            .filter_map(|line| {
                let (slot, name) = line.split_once(' ')?;
                let slot: u8 = slot.parse().ok()?;
                (slot < SLOTS && !name.is_empty()).then(|| (name.to_owned(), slot))
            })
            .collect();
        Self { slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Scenario: up to twelve services. Guarantee: no two share a colour, a service keeps its own, and the text
        /// form restores the same slots.
        #[test]
        fn services_are_told_apart(names in proptest::collection::btree_set("[a-z.-]{1,12}", 1..=12)) {
            let mut palette = Palette::default();
            let first: Vec<u8> = names.iter().map(|name| palette.assign(name).0).collect();
            let mut unique = first.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), names.len());
            let again: Vec<u8> = names.iter().map(|name| palette.assign(name).0).collect();
            prop_assert_eq!(&first, &again);
            prop_assert_eq!(Palette::from_text(&palette.to_text()), palette);
        }
    }

    /// Scenario: a known name. Guarantee: its preferred slot never changes between versions.
    #[test]
    fn hash_is_stable() {
        assert_eq!(["", "gateway", "vllm", "preprocessor"].map(preferred_slot), [9, 11, 2, 11]);
        assert!((0..200).map(|n| preferred_slot(&format!("service-{n}"))).all(|slot| slot < SLOTS));
    }
}
