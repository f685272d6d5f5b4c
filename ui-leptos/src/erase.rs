//! Closures behind one type a purpose.
//!
//! Leptos compiles its reactive machinery anew for every closure type that it is given, some two kilobytes each. Behind a
//! box, all closures that answer alike share one copy; the call through the box costs nothing that a person could notice.

use leptos::prelude::*;
use web_sys::{Event, FocusEvent, KeyboardEvent, MouseEvent, PointerEvent, SubmitEvent, WheelEvent};

/// A boxed reactive closure.
pub(crate) type Live<T> = Box<dyn FnMut() -> T + Send>;

/// For attributes, classes and properties.
pub(crate) fn live<T: 'static>(read: impl FnMut() -> T + Send + 'static) -> Live<T> {
    Box::new(read)
}

/// For children.
pub(crate) fn view_of<V: IntoAny + 'static>(mut read: impl FnMut() -> V + Send + 'static) -> Live<AnyView> {
    Box::new(move || read().into_any())
}

/// An entry of a keyed list, drawn when its key is new.
pub(crate) struct Entry {
    pub(crate) key: u64,
    pub(crate) draw: Box<dyn FnOnce() -> AnyView + Send>,
}

/// A keyed list; entries whose key stays keep their elements.
pub(crate) fn list_of(entries: impl Fn() -> Vec<Entry> + Send + Sync + 'static) -> AnyView {
    let entries: Box<dyn Fn() -> Vec<Entry> + Send + Sync> = Box::new(entries);
    view! { <For each=entries key=|entry: &Entry| entry.key children=|entry: Entry| (entry.draw)()/> }
        .into_any()
}

/// Something under the pointer: which, and where. One type for all pages, for the same reason.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Spot {
    pub(crate) index: u32,
    pub(crate) x: f64,
    pub(crate) y: f64,
}

macro_rules! handlers {
    ($($name:ident: $event:ty),* $(,)?) => {
        $(
            /// A boxed event handler.
            pub(crate) fn $name(handle: impl FnMut($event) + 'static) -> Box<dyn FnMut($event)> {
                Box::new(handle)
            }
        )*
    };
}

handlers! {
    mouse: MouseEvent,
    pointer: PointerEvent,
    key: KeyboardEvent,
    focus: FocusEvent,
    wheel: WheelEvent,
    submit: SubmitEvent,
    plain: Event,
}
