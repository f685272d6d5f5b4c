//! The critical path: what the primary root's end waited for, moment by moment.
//!
//! The walk goes back from the root's end, as CRISP does: at a cursor inside a span, the child that finished last
//! before the cursor is what the span waited for; at a child's start, what led there is its parent. A child that
//! outlives its parent was not waited for by that parent; it counts at the nearest ancestor that did end after
//! it (a streamed answer whose client span ends at the headers), and nowhere if it outlives the root. Ending
//! late by at most a hundredth of the ancestor's duration is taken for clocks and scheduling, and clipped.

use super::{Analysis, NONE, Node, Segment, tree::reset};

/// How many ancestors a child that outlives them is lifted over; beyond that it is off the path.
const MAX_LIFT: u32 = 64;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    host: u32,
    node: u32,
    start_ns: i64,
    /// No later than the host's end.
    end_ns: i64,
}

#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Nearest ancestor that ends no earlier, [`NONE`] if there is none.
    host: Vec<u32>,
    /// Children by host, the last-finishing first.
    candidates: Vec<Candidate>,
    /// By node: the candidates not looked at yet. The cursor only moves back, so a candidate is looked at once.
    next: Vec<(u32, u32)>,
    /// Spans the cursor has passed, with a short-cut to an ancestor.
    passed: Vec<bool>,
    shortcut: Vec<u32>,
}

impl Walk {
    pub(super) fn run(&mut self, out: &mut Analysis) {
        if out.root == NONE {
            return;
        }
        // Only the root's subtree takes part, which is a range in pre-order; indices below are relative to it.
        let base = out.root as usize;
        let end = base + out.nodes[base].subtree as usize;
        let nodes = &mut out.nodes[base..end];
        self.prepare(nodes, out.root);
        self.walk(nodes, &mut out.critical_path);
        for segment in &mut out.critical_path {
            nodes[segment.node as usize].critical_ns += segment.end_ns.abs_diff(segment.start_ns);
            segment.node += out.root;
        }
    }

    fn prepare(&mut self, nodes: &[Node], base: u32) {
        let count = nodes.len();
        reset(&mut self.host, count, NONE);
        reset(&mut self.next, count, (0, 0));
        reset(&mut self.passed, count, false);
        self.shortcut.clear();
        self.shortcut.push(0);
        self.candidates.clear();
        for (index, node) in nodes.iter().enumerate().skip(1) {
            let parent = node.parent - base;
            self.shortcut.push(parent);
            let mut host = parent;
            let mut lifted = 0;
            while host != NONE && outlives(node, &nodes[host as usize]) {
                lifted += 1;
                host = if lifted < MAX_LIFT { self.host[host as usize] } else { NONE };
            }
            self.host[index] = host;
            if host != NONE {
                let end_ns = node.end_ns.min(nodes[host as usize].end_ns);
                let candidate = Candidate { host, node: index as u32, start_ns: node.start_ns, end_ns };
                self.candidates.push(candidate);
            }
        }
        self.candidates.sort_unstable_by(|a, b| {
            (a.host, b.end_ns, a.start_ns, a.node).cmp(&(b.host, a.end_ns, b.start_ns, b.node))
        });
        let mut from = 0;
        for group in self.candidates.chunk_by(|a, b| a.host == b.host) {
            let to = from + group.len() as u32;
            self.next[group[0].host as usize] = (from, to);
            from = to;
        }
    }

    fn walk(&mut self, nodes: &[Node], path: &mut Vec<Segment>) {
        let root_start = nodes[0].start_ns;
        let mut cursor = nodes[0].end_ns;
        let mut at = 0u32;
        loop {
            let start = nodes[at as usize].start_ns;
            if let Some(child) = self.last_finished(at, cursor, start.max(root_start)) {
                push(path, at, child.end_ns, cursor);
                cursor = child.end_ns;
                at = child.node;
                continue;
            }
            let from = start.max(root_start);
            push(path, at, from, cursor);
            cursor = cursor.min(from);
            self.passed[at as usize] = true;
            if at == 0 || cursor <= root_start {
                break;
            }
            at = self.ancestor(nodes, at, cursor);
        }
        path.reverse();
    }

    /// The child that finished last, no later than `cursor` and after `after`.
    fn last_finished(&mut self, at: u32, cursor: i64, after: i64) -> Option<Candidate> {
        let (next, limit) = &mut self.next[at as usize];
        while next < limit {
            let candidate = self.candidates[*next as usize];
            if candidate.end_ns <= after {
                return None;
            }
            *next += 1;
            if candidate.end_ns <= cursor && !self.passed[candidate.node as usize] {
                return Some(candidate);
            }
        }
        None
    }

    /// The nearest ancestor that was still at work at `cursor`; the root at last. Ancestors that ended before it are
    /// reached again as children that finished.
    fn ancestor(&mut self, nodes: &[Node], from: u32, cursor: i64) -> u32 {
        let mut at = self.shortcut[from as usize];
        while at != 0 {
            if self.passed[at as usize] {
                let above = self.shortcut[at as usize];
                if self.passed[above as usize] {
                    self.shortcut[at as usize] = self.shortcut[above as usize];
                }
                at = above;
            } else if nodes[at as usize].end_ns < cursor {
                at = if self.host[at as usize] == NONE { 0 } else { self.host[at as usize] };
            } else {
                break;
            }
        }
        at
    }
}

fn outlives(node: &Node, ancestor: &Node) -> bool {
    let tolerance = ancestor.end_ns.saturating_sub(ancestor.start_ns) / 100;
    node.end_ns > ancestor.end_ns.saturating_add(tolerance)
}

/// Adds a segment in front of the path, which is built backwards.
fn push(path: &mut Vec<Segment>, node: u32, start_ns: i64, end_ns: i64) {
    if start_ns >= end_ns {
        return;
    }
    if let Some(later) = path.last_mut()
        && later.node == node
        && later.start_ns == end_ns
    {
        later.start_ns = start_ns;
        return;
    }
    path.push(Segment { node, start_ns, end_ns });
}
