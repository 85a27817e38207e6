//! Values of the document, or the codes that stand in their place.

use serde_json::Value;

use crate::{NOT_SUPPORTED, UNKNOWN};

/// `nvmlReturn_t`.
pub type Code = u32;

/// The code of `{"error": CODE}`; none for anything else.
pub fn error_of(value: &Value) -> Option<Code> {
    value.get("error").map(|code| code.as_u64().and_then(|code| code.try_into().ok()).unwrap_or(UNKNOWN))
}

/// A field that may be absent or an error.
pub fn field<'a>(object: &'a Value, name: &str) -> Result<&'a Value, Code> {
    let value = object.get(name).ok_or(NOT_SUPPORTED)?;
    error_of(value).map_or(Ok(value), Err)
}

/// A field that is a text.
pub fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str, Code> {
    field(object, name)?.as_str().ok_or(UNKNOWN)
}

/// A field that is a list.
pub fn array<'a>(object: &'a Value, name: &str) -> Result<&'a [Value], Code> {
    Ok(field(object, name)?.as_array().ok_or(UNKNOWN)?.as_slice())
}

/// A value that is a number of the type that NVML uses for it.
pub fn integer<T: TryFrom<u64>>(value: &Value) -> Result<T, Code> {
    value.as_u64().and_then(|number| number.try_into().ok()).ok_or(UNKNOWN)
}
