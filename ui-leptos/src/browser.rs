//! The browser's odds and ends: clock, time zone, storage, clipboard, focus.

use infertrace_ui_model::node::{Child, Node};
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::HtmlElement;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    js_sys::Date::now() as i64
}

/// Minutes east of UTC at an instant.
pub(crate) fn offset_minutes(unix_ms: i64) -> i32 {
    -js_sys::Date::new(&JsValue::from_f64(unix_ms as f64)).get_timezone_offset() as i32
}

/// Local milliseconds since 1970 from the text of an `<input type=datetime-local>`.
pub(crate) fn parse_local(text: &str) -> Option<i64> {
    let millis = js_sys::Date::parse(text);
    (!millis.is_nan()).then_some(millis as i64)
}

fn storage() -> Option<web_sys::Storage> {
    window().local_storage().ok().flatten()
}

/// A value kept from an earlier visit. Browsers may forbid storage; then there is none.
pub(crate) fn stored(key: &str) -> Option<String> {
    storage()?.get_item(key).ok().flatten()
}

/// Keeps a value, or forgets it.
pub(crate) fn store(key: &str, value: Option<&str>) {
    let Some(storage) = storage() else {
        return;
    };
    let _ = match value {
        Some(value) => storage.set_item(key, value),
        None => storage.remove_item(key),
    };
}

pub(crate) fn element_by_id(id: &str) -> Option<HtmlElement> {
    document().get_element_by_id(id)?.dyn_into().ok()
}

const SVG: &str = "http://www.w3.org/2000/svg";

/// Makes elements of a tree: texts and attributes only, never markup.
pub(crate) fn draw(node: &Node) -> Option<web_sys::Element> {
    let page = document();
    let element = match node.tag {
        "svg" | "path" | "use" => page.create_element_ns(Some(SVG), node.tag),
        tag => page.create_element(tag),
    };
    let element = element.ok()?;
    for (name, value) in &node.attributes {
        let _ = element.set_attribute(name, value);
    }
    for child in &node.children {
        match child {
            Child::Node(node) => {
                if let Some(inside) = draw(node) {
                    let _ = element.append_child(&inside);
                }
            }
            Child::Text(text) => {
                let _ = element.append_child(&page.create_text_node(text));
            }
        }
    }
    Some(element)
}

/// Moves the focus to the element with an id.
pub(crate) fn focus(id: &str) {
    if let Some(element) = element_by_id(id) {
        let _ = element.focus();
    }
}

/// Whether a key press belongs to a field that is being typed in, or to the browser.
pub(crate) fn is_typing(event: &web_sys::KeyboardEvent) -> bool {
    if event.ctrl_key() || event.meta_key() || event.alt_key() || event.default_prevented() {
        return true;
    }
    let Some(target) = event.target().and_then(|target| target.dyn_into::<web_sys::Element>().ok()) else {
        return false;
    };
    target.closest("input,select,textarea,dialog").ok().flatten().is_some()
}

/// Copies text; the browser may refuse, and then nothing happens.
pub(crate) fn copy(text: &str) {
    let clipboard = window().navigator().clipboard();
    if !JsValue::from(clipboard.clone()).is_undefined() {
        let _ = clipboard.write_text(text);
    }
}

/// Where a pointer is inside of an element, as shares of its width and height.
pub(crate) fn share_of(event: &web_sys::MouseEvent, element: &web_sys::Element) -> (f64, f64) {
    let area = element.get_bounding_client_rect();
    let x = (f64::from(event.client_x()) - area.left()) / area.width().max(1.0);
    let y = (f64::from(event.client_y()) - area.top()) / area.height().max(1.0);
    (x, y)
}

/// The element that a handler is attached to.
pub(crate) fn current_element(event: &web_sys::Event) -> Option<web_sys::Element> {
    event.current_target()?.dyn_into().ok()
}
