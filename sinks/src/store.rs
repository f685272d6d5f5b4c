//! Opens the store that a URL names: local disk, S3 and what speaks like it, Google Cloud, Azure.
//!
//! The local store is [`local::DurableLocal`], since a manifest may only be written over files that
//! survive a power cut. Invariant: every store returned supports conditional create.

pub mod local;

use std::{path::PathBuf, sync::Arc};

use object_store::{ObjectStore, path::Path};

use crate::store::local::DurableLocal;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither a path nor a URL.
    #[error("{url:?} is neither a path nor a URL of a store: {detail}")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong.
        detail: String,
    },
    /// The folder cannot be used.
    #[error("folder {path} of the lake cannot be used: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store's client refused its settings.
    #[error("store {url}: {source}")]
    Store {
        /// As given, without what follows a `?`.
        url: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Opens the store at `url` and returns it with the path in it below which the lake lies.
///
/// A plain path or `file://` is a folder, which is created; `s3://bucket/path`, `gs://bucket/path`,
/// `az://container/path`, `abfs://…` and the providers' `https://` forms are object stores. `options`
/// are pairs such as (`AWS_ENDPOINT_URL`, …), for which the process environment will do; unknown names
/// are ignored.
///
/// # Errors
/// [`OpenError`] when the URL or the settings cannot be used. Nothing is asked of a remote store yet.
pub fn open_store(
    url: &str,
    options: impl IntoIterator<Item = (String, String)>,
) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return open_folder(PathBuf::from(url));
    };
    let bad = |detail: String| OpenError::BadUrl { url: url.to_owned(), detail };
    if scheme.eq_ignore_ascii_case("file") {
        if !rest.starts_with('/') {
            return Err(bad("file:// wants an absolute path".to_owned()));
        }
        let parsed = url::Url::parse(url).map_err(|error| bad(error.to_string()))?;
        let path = parsed.to_file_path().map_err(|()| bad("not a local path".to_owned()))?;
        return open_folder(path);
    }
    let parsed = url::Url::parse(url).map_err(|error| bad(error.to_string()))?;
    let without_query = url.split_once('?').map_or(url, |(start, _)| start).to_owned();
    let (store, path) = object_store::parse_url_opts(&parsed, options)
        .map_err(|source| OpenError::Store { url: without_query, source })?;
    Ok((Arc::from(store), path))
}

fn open_folder(path: PathBuf) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    if path.as_os_str().is_empty() {
        return Err(OpenError::BadUrl { url: String::new(), detail: "it is empty".to_owned() });
    }
    let store = DurableLocal::open(&path).map_err(|source| OpenError::Folder { path, source })?;
    Ok((Arc::new(store), Path::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_options() -> Vec<(String, String)> {
        Vec::new()
    }

    /// Scenario: paths and URLs of each kind. Guarantee: the store and the path in it are what the URL says.
    #[test]
    fn urls_name_stores() {
        let folder = tempfile::tempdir().expect("folder");
        let inside = folder.path().join("new/lake");
        let (_, path) = open_store(inside.to_str().expect("utf-8"), no_options()).expect("path");
        assert!(path.as_ref().is_empty() && inside.is_dir());
        open_store(&format!("file://{}", inside.display()), no_options()).expect("file url");
        let keys =
            [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "r"), ("HOME", "/")];
        let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (store, path) = open_store("s3://bucket/team/lake", keys).expect("s3");
        assert_eq!(path.as_ref(), "team/lake");
        assert!(store.to_string().contains("bucket"), "{store}");
        for wrong in ["", "file://relative", "ftp://host/x", "s3://"] {
            assert!(open_store(wrong, no_options()).is_err(), "{wrong}");
        }
    }
}
