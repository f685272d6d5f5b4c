//! Selectors: names, matchers, ranges and offsets.

use infertrace_query_language::Pattern;

use super::{
    Expr, Function, Matcher, ParseError, SELECTORS, Selector, Test, parser::Parser, scanner::Token,
    types::range_hint,
};

impl Parser<'_> {
    /// A selector with a range.
    pub(super) fn range(&mut self, function: Function) -> Result<usize, ParseError> {
        let at = self.at();
        let name = match self.peek().clone() {
            Token::Word(word) => {
                self.take();
                Some(word)
            }
            Token::Sign("{") => None,
            _ => return self.wrong(at, range_hint(function)),
        };
        if self.is("(") {
            return self.wrong(at, range_hint(function));
        }
        let matchers = self.matchers(at, name)?;
        if !self.pass("[") {
            return self.wrong(self.at(), range_hint(function));
        }
        let range_ns = self.duration()?;
        if self.is(":") {
            return self.wrong(self.at(), "subqueries are not supported");
        }
        self.expect("]")?;
        let offset_ns = self.offset()?;
        self.add(at, Selector { matchers, range_ns: Some(range_ns), offset_ns, over: Some(function) })
    }

    pub(super) fn selector(&mut self, at: usize, name: Option<String>) -> Result<Expr, ParseError> {
        let matchers = self.matchers(at, name)?;
        if self.is("[") {
            return self.wrong(self.at(), "a range stands only inside of a function, such as rate()");
        }
        let offset_ns = self.offset()?;
        self.add(at, Selector { matchers, range_ns: None, offset_ns, over: None }).map(Expr::Selector)
    }

    fn add(&mut self, at: usize, selector: Selector) -> Result<usize, ParseError> {
        if self.selectors.len() >= SELECTORS {
            return self.wrong(at, format!("more than {SELECTORS} selectors"));
        }
        self.selectors.push(selector);
        Ok(self.selectors.len() - 1)
    }

    fn matchers(&mut self, at: usize, name: Option<String>) -> Result<Vec<Matcher>, ParseError> {
        let named = |name| Matcher { label: "__name__".to_owned(), test: Test::Is(name) };
        let mut matchers: Vec<Matcher> = name.map(named).into_iter().collect();
        if self.pass("{") {
            while !self.pass("}") {
                let label_at = self.at();
                let label = match self.take() {
                    Token::Word(label) => label,
                    Token::Text(name) if self.is(",") || self.is("}") => {
                        matchers.push(named(name));
                        self.pass(",");
                        continue;
                    }
                    Token::Text(label) => label,
                    token => {
                        return self.wrong(label_at, format!("expected a label, found {}", token.shown()));
                    }
                };
                matchers.push(self.matcher(label)?);
                if !self.pass(",") && !self.is("}") {
                    return self
                        .wrong(self.at(), format!("expected `,` or `}}`, found {}", self.peek().shown()));
                }
            }
        }
        if matchers.iter().all(|matcher| matcher.takes("")) {
            return self.wrong(at, "vector selector must contain at least one non-empty matcher");
        }
        Ok(matchers)
    }

    fn matcher(&mut self, label: String) -> Result<Matcher, ParseError> {
        let at = self.at();
        let sign = self.take();
        let text_at = self.at();
        let Token::Text(text) = self.take() else {
            return self.wrong(text_at, "expected a string in quotes");
        };
        let pattern = |parser: &Self, text: &str| {
            Pattern::new(text).or_else(|error| parser.wrong(text_at, error.to_string()))
        };
        let test = match sign {
            Token::Sign("=") => Test::Is(text),
            Token::Sign("!=") => Test::IsNot(text),
            Token::Sign("=~") => Test::Matches(pattern(self, &text)?),
            Token::Sign("!~") => Test::MatchesNot(pattern(self, &text)?),
            token => return self.wrong(at, format!("expected =, !=, =~ or !~, found {}", token.shown())),
        };
        Ok(Matcher { label, test })
    }

    fn duration(&mut self) -> Result<i64, ParseError> {
        let at = self.at();
        match self.take() {
            Token::Duration(nanos) if nanos > 0 => Ok(nanos),
            Token::Number(seconds) if seconds > 0.0 && seconds < 1e9 => Ok((seconds * 1e9) as i64),
            _ => self.wrong(at, "expected a duration above 0, such as 5m"),
        }
    }

    fn offset(&mut self) -> Result<i64, ParseError> {
        if self.is("@") {
            return self.wrong(self.at(), "the modifier `@` is not supported");
        }
        if !self.pass_word("offset") {
            return Ok(0);
        }
        let is_ahead = self.pass("-");
        let nanos = self.duration()?;
        Ok(if is_ahead { -nanos } else { nanos })
    }
}
