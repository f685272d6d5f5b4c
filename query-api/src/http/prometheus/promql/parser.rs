//! Reads a query: precedence climbing, with the place of everything that is refused.

use super::{
    Aggregate, Aggregator, Binary, DEPTH, Expr, Function, Grouping, LENGTH, Operator, ParseError, Query,
    Selector,
    functions::Type,
    scanner::{self, Token},
    types::{is_percentile, type_of},
};

/// Words of Prometheus that are known but not evaluated.
const FOREIGN_AGGREGATORS: [&str; 6] =
    ["quantile", "stddev", "stdvar", "count_values", "limitk", "limit_ratio"];

/// Reads a query.
///
/// # Errors
/// What is wrong, and where.
pub(in crate::http::prometheus) fn parse(text: &str) -> Result<Query, ParseError> {
    let mut parser = Parser::new(text)?;
    let expr = parser.expression(0)?;
    parser.end()?;
    let is_scalar = type_of(&expr) == Type::Scalar;
    Ok(Query { expr, is_scalar, selectors: parser.selectors })
}

/// Reads a selector alone, as `match[]` has it.
///
/// # Errors
/// What is wrong, and where.
pub(in crate::http::prometheus) fn parse_selector(text: &str) -> Result<Selector, ParseError> {
    let mut query = parse(text)?;
    match (query.expr, query.selectors.pop()) {
        (Expr::Selector(_), Some(selector)) if query.selectors.is_empty() => Ok(selector),
        _ => Err(ParseError::new(
            text,
            0,
            "expected a selector, such as infertrace_requests_total{model=\"m\"}",
        )),
    }
}

/// A duration of Prometheus in nanoseconds.
pub(in crate::http::prometheus) fn parse_duration(text: &str) -> Option<i64> {
    scanner::duration(text)
}

pub(super) struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    pub(super) next: usize,
    depth: usize,
    pub(super) selectors: Vec<Selector>,
}

/// Operator, how tightly it binds, whether from the right.
fn operator(token: &Token) -> Option<(Operator, u8, bool)> {
    let word;
    let text = match token {
        Token::Sign(sign) => sign,
        Token::Word(name) => {
            word = name.to_ascii_lowercase();
            word.as_str()
        }
        _ => return None,
    };
    Some(match text {
        "or" => (Operator::Or, 1, false),
        "and" => (Operator::And, 2, false),
        "unless" => (Operator::Unless, 2, false),
        "==" => (Operator::Equal, 3, false),
        "!=" => (Operator::NotEqual, 3, false),
        "<" => (Operator::Less, 3, false),
        "<=" => (Operator::LessOrEqual, 3, false),
        ">" => (Operator::Greater, 3, false),
        ">=" => (Operator::GreaterOrEqual, 3, false),
        "+" => (Operator::Add, 4, false),
        "-" => (Operator::Subtract, 4, false),
        "*" => (Operator::Multiply, 5, false),
        "/" => (Operator::Divide, 5, false),
        "%" => (Operator::Modulo, 5, false),
        "^" => (Operator::Power, 7, true),
        _ => return None,
    })
}

/// Between products and powers: `-2^2` is -4, `-2*3` is (-2)*3.
const UNARY: u8 = 6;

fn aggregator(name: &str) -> Option<Aggregator> {
    Some(match name {
        "sum" => Aggregator::Sum,
        "avg" => Aggregator::Avg,
        "min" => Aggregator::Min,
        "max" => Aggregator::Max,
        "count" => Aggregator::Count,
        "group" => Aggregator::Group,
        "topk" => Aggregator::Topk,
        "bottomk" => Aggregator::Bottomk,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, ParseError> {
        if text.len() > LENGTH {
            return Err(ParseError::new(text, 0, format!("a query is at most {LENGTH} bytes long")));
        }
        Ok(Self { text, tokens: scanner::scan(text)?, next: 0, depth: 0, selectors: Vec::new() })
    }

    pub(super) fn peek(&self) -> &Token {
        // The end is never passed.
        &self.tokens[self.next].1
    }

    pub(super) fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    pub(super) fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.next += 1;
        }
        token
    }

    pub(super) fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(known) if *known == sign)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(known) if known.eq_ignore_ascii_case(word))
    }

    pub(super) fn pass(&mut self, sign: &str) -> bool {
        let is = self.is(sign);
        self.next += usize::from(is);
        is
    }

    pub(super) fn pass_word(&mut self, word: &str) -> bool {
        let is = self.is_word(word);
        self.next += usize::from(is);
        is
    }

    pub(super) fn wrong<T>(&self, at: usize, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, at, message))
    }

    pub(super) fn expect(&mut self, sign: &'static str) -> Result<(), ParseError> {
        if self.pass(sign) {
            return Ok(());
        }
        self.wrong(self.at(), format!("expected `{sign}`, found {}", self.peek().shown()))
    }

    fn end(&self) -> Result<(), ParseError> {
        match self.peek() {
            Token::End => Ok(()),
            Token::Sign("@") => self.wrong(self.at(), "the modifier `@` is not supported"),
            Token::Sign("[") => {
                self.wrong(self.at(), "subqueries are not supported: a range follows a selector")
            }
            token => self.wrong(self.at(), format!("unexpected {}", token.shown())),
        }
    }

    fn expression(&mut self, least: u8) -> Result<Expr, ParseError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return self.wrong(self.at(), format!("more than {DEPTH} expressions inside one another"));
        }
        let mut left = self.operand()?;
        while let Some((operator, binding, from_right)) = operator(self.peek())
            && binding >= least
        {
            let at = self.at();
            self.take();
            let is_bool = self.pass_word("bool");
            let matching = self.matching()?;
            let right = self.expression(if from_right { binding } else { binding + 1 })?;
            let binary = Binary { operator, left, right, is_bool, matching };
            self.check_binary(at, &binary)?;
            left = Expr::Binary(Box::new(binary));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn check_binary(&self, at: usize, binary: &Binary) -> Result<(), ParseError> {
        let are_scalars = [&binary.left, &binary.right].map(|side| type_of(side) == Type::Scalar);
        let Binary { operator, is_bool, matching, .. } = binary;
        if *is_bool && !operator.is_comparison() {
            return self.wrong(at, "bool modifier can only be used on comparison operators");
        }
        if operator.is_comparison() && are_scalars == [true, true] && !is_bool {
            return self.wrong(at, "comparisons between scalars must use BOOL modifier");
        }
        if operator.is_set() && are_scalars != [false, false] {
            return self.wrong(at, "set operators are only allowed between instant vectors");
        }
        if *matching != Grouping::All && are_scalars != [false, false] {
            return self.wrong(at, "vector matching only allowed between instant vectors");
        }
        Ok(())
    }

    fn matching(&mut self) -> Result<Grouping, ParseError> {
        let matching = if self.pass_word("on") {
            Grouping::Only(self.labels()?)
        } else if self.pass_word("ignoring") {
            Grouping::Without(self.labels()?)
        } else {
            return Ok(Grouping::All);
        };
        for word in ["group_left", "group_right"] {
            if self.is_word(word) {
                return self.wrong(self.at(), format!("{word} is not supported: vectors match one to one"));
            }
        }
        Ok(matching)
    }

    fn labels(&mut self) -> Result<Vec<String>, ParseError> {
        self.expect("(")?;
        let mut labels = Vec::new();
        while !self.pass(")") {
            let at = self.at();
            match self.take() {
                Token::Word(label) | Token::Text(label) => labels.push(label),
                token => return self.wrong(at, format!("expected a label, found {}", token.shown())),
            }
            if !self.pass(",") && !self.is(")") {
                return self.wrong(self.at(), format!("expected `,` or `)`, found {}", self.peek().shown()));
            }
        }
        Ok(labels)
    }

    fn operand(&mut self) -> Result<Expr, ParseError> {
        let at = self.at();
        let operand = match self.take() {
            Token::Sign("-") => Expr::Negate(Box::new(self.expression(UNARY)?)),
            Token::Sign("+") => self.expression(UNARY)?,
            Token::Sign("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                inner
            }
            Token::Sign("{") => {
                self.next -= 1;
                self.selector(at, None)?
            }
            Token::Number(number) => Expr::Number(number),
            Token::Duration(nanos) => Expr::Number(nanos as f64 / 1e9),
            Token::Text(_) => return self.wrong(at, "strings stand only in selectors here"),
            Token::Word(word) => self.word(at, word)?,
            token => return self.wrong(at, format!("unexpected {}", token.shown())),
        };
        match self.peek() {
            Token::Sign("[") => {
                self.wrong(self.at(), "a range follows a selector inside of a function such as rate(); subqueries are not supported")
            }
            Token::Sign("@") => self.wrong(self.at(), "the modifier `@` is not supported"),
            _ => Ok(operand),
        }
    }

    fn word(&mut self, at: usize, word: String) -> Result<Expr, ParseError> {
        let name = word.to_ascii_lowercase();
        let is_called = self.is("(") || self.is_word("by") || self.is_word("without");
        if is_called && let Some(aggregator) = aggregator(&name) {
            return self.aggregate(at, aggregator);
        }
        if is_called && FOREIGN_AGGREGATORS.contains(&name.as_str()) {
            let known = "sum, avg, min, max, count, group, topk, bottomk";
            return self.wrong(at, format!("the aggregation `{name}` is not supported; supported: {known}"));
        }
        if self.is("(") {
            let Some(function) = Function::of_name(&word) else {
                let known = Function::NAMES.join(", ");
                return self.wrong(at, format!("the function `{word}` is not supported; supported: {known}"));
            };
            return self.call(function);
        }
        match name.as_str() {
            "inf" => Ok(Expr::Number(f64::INFINITY)),
            "nan" => Ok(Expr::Number(f64::NAN)),
            _ if operator(&Token::Word(word.clone())).is_some() => {
                self.wrong(at, format!("unexpected `{word}`"))
            }
            _ => self.selector(at, Some(word)),
        }
    }

    fn aggregate(&mut self, at: usize, aggregator: Aggregator) -> Result<Expr, ParseError> {
        let mut grouping = self.grouping()?;
        self.expect("(")?;
        let is_some = matches!(aggregator, Aggregator::Topk | Aggregator::Bottomk);
        let number = if is_some {
            let number = self.typed(Type::Scalar)?;
            self.expect(",")?;
            Some(number)
        } else {
            None
        };
        let of = self.typed(Type::Vector)?;
        self.expect(")")?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        if matches!(aggregator, Aggregator::Sum | Aggregator::Avg) && is_percentile(&of) {
            let message = "percentiles cannot be added up or averaged; merge their distributions: \
                           histogram_quantile(0.99, sum by (model) (rate(infertrace_ttft_seconds[5m])))";
            return self.wrong(at, message);
        }
        // Without `by` everything is one group; `topk` keeps the labels of what it keeps.
        let grouping = grouping.unwrap_or(Grouping::Only(Vec::new()));
        Ok(Expr::Aggregate(Box::new(Aggregate { aggregator, number, of, grouping })))
    }

    fn grouping(&mut self) -> Result<Option<Grouping>, ParseError> {
        if self.pass_word("by") {
            return Ok(Some(Grouping::Only(self.labels()?)));
        }
        if self.pass_word("without") {
            return Ok(Some(Grouping::Without(self.labels()?)));
        }
        Ok(None)
    }

    /// An expression that must be of a type.
    fn typed(&mut self, wanted: Type) -> Result<Expr, ParseError> {
        let at = self.at();
        let expr = self.expression(0)?;
        let found = type_of(&expr);
        if found != wanted {
            return self.wrong(at, format!("expected type {}, got {}", wanted.name(), found.name()));
        }
        Ok(expr)
    }

    fn call(&mut self, function: Function) -> Result<Expr, ParseError> {
        self.expect("(")?;
        let types = function.arguments();
        let mut arguments = Vec::new();
        let mut range = None;
        for (index, wanted) in types.iter().enumerate() {
            if self.is(")") && index + function.optional() >= types.len() {
                break;
            }
            if index > 0 {
                self.expect(",")?;
            }
            match wanted {
                Type::Range => range = Some(self.range(function)?),
                wanted => arguments.push(self.typed(*wanted)?),
            }
        }
        if !self.pass(")") {
            let (name, most) = (function.name(), types.len());
            return self
                .wrong(self.at(), format!("{name}() takes {most} arguments, found {}", self.peek().shown()));
        }
        Ok(match range {
            Some(range) => Expr::Over(function, range, arguments.pop().map(Box::new)),
            None => Expr::Call(function, arguments),
        })
    }
}
