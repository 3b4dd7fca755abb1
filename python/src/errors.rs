//! From the client's errors to the exceptions of `portmaster_kext.errors`, arm by arm.

use kext_client::Error;
use pyo3::PyErr;

/// The exceptions as `import_exception!` makes them: types without documentation of their own.
#[allow(missing_docs)]
mod python {
    use pyo3::import_exception;

    import_exception!(portmaster_kext.errors, AlreadyDecidedError);
    import_exception!(portmaster_kext.errors, CancelledError);
    import_exception!(portmaster_kext.errors, CaptureError);
    import_exception!(portmaster_kext.errors, ClosedError);
    import_exception!(portmaster_kext.errors, ConfigError);
    import_exception!(portmaster_kext.errors, DeviceError);
    import_exception!(portmaster_kext.errors, Error);
    import_exception!(portmaster_kext.errors, ExtensionError);
    import_exception!(portmaster_kext.errors, ForkError);
    import_exception!(portmaster_kext.errors, InvalidVerdictError);
    import_exception!(portmaster_kext.errors, NotHeldError);
    import_exception!(portmaster_kext.errors, PolicyError);
    import_exception!(portmaster_kext.errors, ProtocolMismatchError);
    import_exception!(portmaster_kext.errors, UnknownIdError);
}

/// The exception for an error of the client.
pub(crate) fn raise(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::UnknownId { id } => python::UnknownIdError::new_err((message, id)),
        Error::AlreadyDecided { id, first } => {
            let arguments = (message, id, first.verdict.number(), first.permanent);
            python::AlreadyDecidedError::new_err(arguments)
        }
        Error::NotHeld { id, why } => python::NotHeldError::new_err((message, id, why.name())),
        Error::InvalidVerdict { .. } | Error::Lengths { .. } => {
            python::InvalidVerdictError::new_err(message)
        }
        Error::Forked => python::ForkError::new_err(message),
        Error::Closed => python::ClosedError::new_err(message),
        Error::Cancelled => python::CancelledError::new_err(message),
        Error::Device(_) | Error::Unreachable { .. } => python::DeviceError::new_err(message),
        Error::Replay(_) => python::CaptureError::new_err(message),
        Error::InvalidConfig(_) => python::ConfigError::new_err(message),
        Error::Answer(_) | Error::NoCommonVersion | Error::Mismatch { .. } => {
            python::ProtocolMismatchError::new_err(message)
        }
        Error::Lost { .. } => python::ExtensionError::new_err((message, kext_client::LOST.0)),
        Error::Status { status, .. } => python::ExtensionError::new_err((message, status.0)),
        // The enum may grow; its message is complete all the same.
        _ => python::Error::new_err(message),
    }
}

/// A configuration value that cannot even be sent.
pub(crate) fn config(message: String) -> PyErr {
    python::ConfigError::new_err(message)
}

/// A number that is no verdict.
pub(crate) fn verdicts(message: String) -> PyErr {
    python::InvalidVerdictError::new_err(message)
}

/// Rules that are no policy: the rule and its key, and for a file line and column, from 1.
pub(crate) fn policy(
    message: String,
    rule: Option<usize>,
    key: Option<String>,
    place: Option<(usize, usize)>,
) -> PyErr {
    python::PolicyError::new_err((message, rule, key, place))
}
