//! A small tree of elements: what a page shows, computed without a browser.
//!
//! Pages that are made of it are plain functions from data to a [`Node`], so they are tested natively, and one piece of code
//! in the browser draws all of them, where a view in the framework's own types is compiled anew for each shape. For the same
//! reason nothing here is generic or inlined. Invariant: text and attribute values are data, never markup.

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name; one of SVG's is made in SVG's namespace.
    pub tag: &'static str,
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// What is inside, in order.
    pub children: Vec<Child>,
}

/// What is inside an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Child {
    /// An element.
    Node(Node),
    /// Text.
    Text(String),
}

/// An element of a class; an empty one is left out.
#[inline(never)]
pub fn el(tag: &'static str, class: &str) -> Node {
    let node = Node { tag, ..Node::default() };
    if class.is_empty() { node } else { node.with("class", class) }
}

/// An element with text alone.
#[inline(never)]
pub fn text(tag: &'static str, class: &str, text: &str) -> Node {
    el(tag, class).text(text)
}

/// A link.
#[inline(never)]
pub fn link(class: &str, href: &str, words: &str) -> Node {
    text("a", class, words).with("href", href)
}

/// A symbol of the page's sprite.
#[inline(never)]
pub fn icon(name: &str) -> Node {
    el("svg", "icon").with("aria-hidden", "true").add(el("use", "").with("href", &format!("#i-{name}")))
}

impl Node {
    /// Sets an attribute.
    #[inline(never)]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.attributes.push((name, value.to_owned()));
        self
    }

    /// Appends an element.
    #[inline(never)]
    pub fn add(mut self, node: Node) -> Self {
        self.children.push(Child::Node(node));
        self
    }

    /// Appends elements; an `Option` is one or none.
    pub fn all(mut self, nodes: impl IntoIterator<Item = Node>) -> Self {
        for node in nodes {
            self.children.push(Child::Node(node));
        }
        self
    }

    /// Appends text.
    #[inline(never)]
    pub fn text(mut self, text: &str) -> Self {
        self.children.push(Child::Text(text.to_owned()));
        self
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
impl Node {
    /// All text inside, with spaces between elements.
    pub(crate) fn words(&self) -> String {
        let words = |child: &Child| match child {
            Child::Node(node) => node.words(),
            Child::Text(text) => text.replace('\u{a0}', " "),
        };
        self.children.iter().map(words).filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Elements of a class, in document order.
    pub(crate) fn find<'a>(&'a self, class: &str) -> Vec<&'a Node> {
        let has = self.get("class").is_some_and(|classes| classes.split(' ').any(|known| known == class));
        let mut found: Vec<&Node> = if has { vec![self] } else { Vec::new() };
        for child in &self.children {
            if let Child::Node(node) = child {
                found.extend(node.find(class));
            }
        }
        found
    }
}
