//! Parameters of the path, percent-decoded once (behaviour CB10).

use axum::extract::FromRequestParts;
use axum::extract::rejection::PathRejection;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::Error;

/// The parameters of the path: one value, a tuple or a struct of strings and numbers.
///
/// A segment may hold any encoded character, `/` included; it is decoded once.
///
/// # Errors
/// `M_INVALID_PARAM` where a parameter is no UTF-8 or not of its type.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(rejection)) => {
                Err(Error::invalid_param(format!("The path is wrong: {}", rejection.body_text())))
            }
            Err(rejection) => Err(Error::internal(rejection)),
        }
    }
}
