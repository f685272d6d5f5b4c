//! Recursive descent over the tokens; the first thing wrong is reported at its place.

use crate::{
    ast::{
        Aggregate, Comparison, Connective, Expr, Function, Kind, Operator, Query, Spanset, SpansetOperator,
        Stage, Status, Value,
    },
    check::TypeError,
    error::QueryError,
    field::{Field, Intrinsic},
    limits,
    scanner::{Scanner, Token, TokenKind},
};

pub(crate) type Result<T> = std::result::Result<T, QueryError>;

/// Reads a query.
///
/// # Errors
/// [`QueryError`] with the place of the first thing that is wrong, or that exceeds [`limits`].
pub fn parse(text: &str) -> Result<Query> {
    let mut parser = Parser::new(text)?;
    let query = parser.query()?;
    match parser.token.kind {
        TokenKind::End => Ok(query),
        _ => Err(parser.expected("`|` and a stage, or the query's end")),
    }
}

pub(crate) struct Parser<'a> {
    text: &'a str,
    scanner: Scanner<'a>,
    /// The next one.
    pub(crate) token: Token<'a>,
    depth: usize,
    terms: usize,
    patterns: usize,
}

/// One side of a comparison.
enum Operand {
    Field(Field),
    Value(Value),
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self> {
        if text.len() > limits::LENGTH {
            let message = format!("a query is at most {} bytes long; this one is cut off", limits::LENGTH);
            return Err(QueryError::new(text, limits::LENGTH, message));
        }
        let mut scanner = Scanner::new(text);
        let token = scanner.next()?;
        Ok(Self { text, scanner, token, depth: 0, terms: 0, patterns: 0 })
    }

    pub(crate) fn advance(&mut self) -> Result<Token<'a>> {
        let next = self.scanner.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.token.kind, TokenKind::Symbol(next) if next == symbol)
    }

    pub(crate) fn take(&mut self, symbol: &str) -> Result<bool> {
        let is_there = self.is(symbol);
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    pub(crate) fn require(&mut self, symbol: &str) -> Result<()> {
        if self.take(symbol)? { Ok(()) } else { Err(self.expected(&format!("`{symbol}`"))) }
    }

    pub(crate) fn error(&self, at: usize, message: impl Into<String>) -> QueryError {
        QueryError::new(self.text, at, message)
    }

    /// That something else was expected at the next token.
    pub(crate) fn expected(&self, what: &str) -> QueryError {
        let hint = match self.token.kind {
            TokenKind::End => "; the query ends here".to_owned(),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("and") => "; write `&&`".to_owned(),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("or") => "; write `||`".to_owned(),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("not") => "; write `!( … )`".to_owned(),
            _ => String::new(),
        };
        self.error(self.token.at, format!("expected {what}{hint}"))
    }

    fn count_term(&mut self, at: usize) -> Result<()> {
        self.terms += 1;
        if self.terms > limits::TERMS {
            return Err(
                self.error(at, format!("a query has at most {} terms; this is one more", limits::TERMS))
            );
        }
        Ok(())
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= limits::DEPTH {
            let message = format!("parentheses are nested at most {} deep", limits::DEPTH);
            return Err(self.error(self.token.at, message));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn query(&mut self) -> Result<Query> {
        let spanset = self.spansets()?;
        let mut stages = Vec::new();
        while self.take("|")? {
            stages.push(self.stage()?);
        }
        Ok(Query { spanset, stages })
    }

    /// `&&` and `||` bind alike, from the left, as in TraceQL.
    pub(crate) fn spansets(&mut self) -> Result<Spanset> {
        let mut left = self.structure()?;
        loop {
            let operator = match self.token.kind {
                TokenKind::Symbol("&&") => SpansetOperator::And,
                TokenKind::Symbol("||") => SpansetOperator::Or,
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.structure()?;
            left = Spanset::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
    }

    fn structure(&mut self) -> Result<Spanset> {
        let mut left = self.spanset()?;
        loop {
            let operator = match self.token.kind {
                TokenKind::Symbol(">") => SpansetOperator::Child,
                TokenKind::Symbol(">>") => SpansetOperator::Descendant,
                TokenKind::Symbol("<") => SpansetOperator::Parent,
                TokenKind::Symbol("<<") => SpansetOperator::Ancestor,
                TokenKind::Symbol("~") => SpansetOperator::Sibling,
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.spanset()?;
            left = Spanset::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
    }

    fn spanset(&mut self) -> Result<Spanset> {
        let at = self.token.at;
        if self.take("(")? {
            let inner = self.nested(Self::spansets)?;
            if self.is("|") {
                return Err(
                    self.error(self.token.at, "stages stand behind the whole query, not in parentheses")
                );
            }
            self.require(")")?;
            return Ok(inner);
        }
        if !self.take("{")? {
            return Err(self.expected("`{`"));
        }
        self.count_term(at)?;
        let expression = if self.is("}") { Expr::Constant(true) } else { self.expression()? };
        if !self.is("}") {
            return Err(self.expected("`&&`, `||` or `}`"));
        }
        self.advance()?;
        Ok(Spanset::Filter(expression))
    }

    fn expression(&mut self) -> Result<Expr> {
        let mut left = self.condition()?;
        loop {
            let connective = match self.token.kind {
                TokenKind::Symbol("&&") => Connective::And,
                TokenKind::Symbol("||") => Connective::Or,
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.condition()?;
            left = Expr::Binary { connective, left: Box::new(left), right: Box::new(right) };
        }
    }

    fn condition(&mut self) -> Result<Expr> {
        if self.take("(")? {
            let inner = self.nested(Self::expression)?;
            self.require(")")?;
            if self.operator().is_some() {
                return Err(self.error(self.token.at, "conditions in parentheses cannot be compared"));
            }
            return Ok(inner);
        }
        let at = self.token.at;
        if !self.take("!")? {
            return self.comparison();
        }
        if self.is("(") || self.is("!") {
            return self.nested(Self::condition).map(|inner| Expr::Not(Box::new(inner)));
        }
        let operand_at = self.token.at;
        self.count_term(operand_at)?;
        let operand = self.operand("`(` or a field after `!`")?;
        // TraceQL reads `!.a = 1` as `(!.a) = 1`, which nobody means.
        if self.operator().is_some() {
            return Err(self.error(at, "what `!` negates stands in parentheses: `!( … )`"));
        }
        self.alone(operand, operand_at).map(|inner| Expr::Not(Box::new(inner)))
    }

    fn operator(&self) -> Option<Operator> {
        let TokenKind::Symbol(symbol) = self.token.kind else { return None };
        Operator::ALL.into_iter().find(|operator| operator.symbol() == symbol)
    }

    /// A comparison, or a truth value alone.
    fn comparison(&mut self) -> Result<Expr> {
        let at = self.token.at;
        self.count_term(at)?;
        let left = self.operand("a field, `(`, `!` or a value")?;
        let Some(operator) = self.operator() else { return self.alone(left, at) };
        let operator_at = self.token.at;
        self.advance()?;
        let value_at = self.token.at;
        let right = self.operand(&format!("a value after `{operator}`"))?;
        let (field, operator, value, value_at) = match (left, right) {
            (Operand::Field(field), Operand::Value(value)) => (field, operator, value, value_at),
            (Operand::Value(value), Operand::Field(field)) => match operator.flipped() {
                Some(flipped) => (field, flipped, value, at),
                None => {
                    let message =
                        format!("`{operator}` takes its field on the left and its pattern on the right");
                    return Err(self.error(operator_at, message));
                }
            },
            (Operand::Field(_), Operand::Field(_)) => {
                return Err(self.error(value_at, "comparing two fields is not supported; expected a value"));
            }
            (Operand::Value(_), Operand::Value(_)) => {
                return Err(self.error(at, "expected a field on one side of the comparison"));
            }
        };
        if matches!(operator, Operator::Matches | Operator::NotMatches) {
            self.patterns += 1;
            if self.patterns > limits::PATTERNS {
                let message = format!("a query has at most {} regular expressions", limits::PATTERNS);
                return Err(self.error(value_at, message));
            }
        }
        Comparison::new(field, operator, value)
            .map(Expr::Compare)
            .map_err(|error| self.type_error(&error, operator_at, value_at))
    }

    fn type_error(&self, error: &TypeError, operator_at: usize, value_at: usize) -> QueryError {
        let at = if error.is_about_operator() { operator_at } else { value_at };
        self.error(at, error.to_string())
    }

    fn alone(&self, operand: Operand, at: usize) -> Result<Expr> {
        match operand {
            Operand::Value(Value::Bool(value)) => Ok(Expr::Constant(value)),
            Operand::Field(field) => {
                let text = field.to_string();
                Comparison::new(field, Operator::Equal, Value::Bool(true))
                    .map(Expr::Compare)
                    .map_err(|_| self.expected(&format!("an operator such as `=` after `{text}`")))
            }
            Operand::Value(_) => Err(self.error(at, "expected a comparison; a value alone says nothing")),
        }
    }

    fn operand(&mut self, what: &str) -> Result<Operand> {
        let operand = match &self.token.kind {
            TokenKind::Literal(value) => Operand::Value(value.clone()),
            TokenKind::Attribute(..) => Operand::Field(self.field_of_token(what)?),
            TokenKind::Word(word) => match constant(word) {
                Some(value) => Operand::Value(value),
                None => Operand::Field(self.field_of_token(what)?),
            },
            TokenKind::Symbol(_) | TokenKind::End => return Err(self.expected(what)),
        };
        self.advance()?;
        Ok(operand)
    }

    /// The field that the next token names.
    fn field_of_token(&self, what: &str) -> Result<Field> {
        match &self.token.kind {
            TokenKind::Attribute(scope, key) => {
                Field::attribute(*scope, key.clone()).ok_or_else(|| self.expected("an attribute's key"))
            }
            TokenKind::Word(word) => match Intrinsic::from_name(word) {
                Some(intrinsic) => Ok(intrinsic.into()),
                None if word.contains(':') => {
                    Err(self.error(self.token.at, format!("there is no field `{word}`")))
                }
                None if ["and", "or", "not"].contains(&word.to_ascii_lowercase().as_str()) => {
                    Err(self.expected(what))
                }
                None => {
                    let message = format!(
                        "there is no field `{word}`; an attribute begins with a dot (`.{word}`), text stands in quotes"
                    );
                    Err(self.error(self.token.at, message))
                }
            },
            _ => Err(self.expected(what)),
        }
    }

    pub(crate) fn field(&mut self) -> Result<Field> {
        self.count_term(self.token.at)?;
        let field = self.field_of_token("a field")?;
        self.advance()?;
        Ok(field)
    }

    pub(crate) fn stage(&mut self) -> Result<Stage> {
        let at = self.token.at;
        let known = "`count()`, `avg(…)`, `min(…)`, `max(…)`, `sum(…)`, `by(…)` or `select(…)`";
        let TokenKind::Word(word) = self.token.kind else { return Err(self.expected(known)) };
        let function = Function::from_word(word);
        if function.is_none() && word != "by" && word != "select" {
            return Err(self.error(at, format!("`{word}` is not supported as a stage; expected {known}")));
        }
        self.count_term(at)?;
        self.advance()?;
        self.require("(")?;
        match (function, word) {
            (Some(function), _) => self.aggregate(function).map(Stage::Aggregate),
            (None, "by") => {
                let field = self.field()?;
                self.require(")")?;
                Ok(Stage::By(field))
            }
            (None, _) => {
                let mut fields = vec![self.field()?];
                while self.take(",")? {
                    fields.push(self.field()?);
                }
                self.require(")")?;
                Ok(Stage::Select(fields))
            }
        }
    }

    /// From behind the opening parenthesis on.
    fn aggregate(&mut self, function: Function) -> Result<Aggregate> {
        let field_at = self.token.at;
        let field = if self.is(")") { None } else { Some(self.field()?) };
        self.require(")")?;
        let operator_at = self.token.at;
        let Some(operator) = self.operator() else {
            return Err(self.expected(&format!("an operator such as `>` after `{}`", function.word())));
        };
        self.advance()?;
        let value_at = self.token.at;
        let Operand::Value(value) = self.operand(&format!("a value after `{operator}`"))? else {
            return Err(self.error(value_at, format!("expected a value after `{operator}`")));
        };
        Aggregate::new(function, field, operator, value).map_err(|error| {
            let is_about_field = matches!(error, TypeError::Argument { .. } | TypeError::NotNumeric { .. });
            self.type_error(&error, operator_at, if is_about_field { field_at } else { value_at })
        })
    }
}

/// What a word that is no field stands for.
fn constant(word: &str) -> Option<Value> {
    match word {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "nil" => Some(Value::Nil),
        _ => Status::from_word(word).map(Value::Status).or_else(|| Kind::from_word(word).map(Value::Kind)),
    }
}
