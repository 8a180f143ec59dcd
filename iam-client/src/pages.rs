//! Lists, a page at a time.

use crate::error::ClientError;

/// Which page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to 1,000 records; 0 means 100.
    pub size: u32,
    /// Where the page before ended: its [`Page::next`]. Empty for the first page.
    pub token: String,
}

impl PageRequest {
    /// The most records that a page can have. Source: protocol section 3, "Lists".
    pub const MAX_SIZE: u32 = 1000;

    /// The first page, of the largest size.
    pub fn largest() -> Self {
        Self { size: Self::MAX_SIZE, token: String::new() }
    }
}

/// One page of a list. It may be shorter than asked for, even empty, and not be the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The token of the next page; `None` at the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn new(items: Vec<T>, next_page_token: String) -> Self {
        Self { items, next: Some(next_page_token).filter(|token| !token.is_empty()) }
    }

    /// Adds this page to what was fetched before it, and says which page to ask for next.
    ///
    /// # Errors
    /// `Decode` when the service repeats the token that was just used: the list would have no end.
    pub(crate) fn append_to(
        mut self,
        all: &mut Vec<T>,
        asked: PageRequest,
    ) -> Result<Option<PageRequest>, ClientError> {
        all.append(&mut self.items);
        match self.next {
            Some(token) if token == asked.token => {
                Err(ClientError::reply("next_page_token", "is the one of the page before"))
            }
            Some(token) => Ok(Some(PageRequest { token, ..asked })),
            None => Ok(None),
        }
    }
}

/// Fetches every page: `$fetch` is an expression over the name `$page`, a `PageRequest`.
///
/// A macro, since a closure that lends its argument to a future cannot promise that the future is `Send`.
macro_rules! every_page {
    ($page:ident => $fetch:expr) => {{
        let mut all = Vec::new();
        let mut next = Some($crate::pages::PageRequest::largest());
        while let Some($page) = next {
            next = $fetch.await?.append_to(&mut all, $page)?;
        }
        Ok(all)
    }};
}
pub(crate) use every_page;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_until_the_token_is_empty() {
        let mut all = Vec::new();
        let first = Page::new(vec![1, 2], "t".to_owned());
        let second = first.append_to(&mut all, PageRequest::largest()).unwrap().unwrap();
        assert_eq!(second, PageRequest { size: 1000, token: "t".to_owned() });
        let last = Page::new(vec![3], String::new());
        assert_eq!(last.append_to(&mut all, second).unwrap(), None);
        assert_eq!(all, [1, 2, 3]);
    }

    #[test]
    fn a_token_that_repeats_ends_in_an_error() {
        let asked = PageRequest { size: 1, token: "t".to_owned() };
        assert!(Page::new(vec![1], "t".to_owned()).append_to(&mut Vec::new(), asked).is_err());
    }
}
