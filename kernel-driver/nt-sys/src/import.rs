//! The macro that declares functions of Windows, and what it records about each.

use crate::ke::KIRQL;

/// A function that a module of Windows exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// The file that exports it, as an import table names it.
    pub module: &'static str,
    pub name: &'static str,
    /// The lowest IRQL at which it may be called.
    pub min_irql: KIRQL,
    /// The highest IRQL at which it may be called. Where the limit depends on the arguments this is
    /// the highest of all, and the declaration says what it depends on.
    pub max_irql: KIRQL,
}

/// Declares the functions that one module exports.
///
/// `[..=DISPATCH_LEVEL] fn Name(argument: type) -> type;` makes
/// - the import `Name`, which is linked on Windows only,
/// - the type `Name` of its signature, for whoever implements it elsewhere,
/// - its row in `EXPORTS`.
macro_rules! imports {
    (
        $module:literal;
        $(
            $(#[doc = $doc:literal])*
            [$($min:ident)? ..= $max:ident]
            fn $name:ident($($arguments:tt)*) $(-> $result:ty)?;
        )+
    ) => {
        #[cfg_attr(
            windows,
            link(name = $module, kind = "raw-dylib", modifiers = "+verbatim")
        )]
        unsafe extern "win64" {
            $(
                $(#[doc = $doc])*
                #[doc = concat!(
                    "\n\nIRQL: ", $("from `", stringify!($min), "` ",)?
                    "up to `", stringify!($max), "`. Exported by `", $module, "`."
                )]
                pub fn $name($($arguments)*) $(-> $result)?;
            )+
        }

        $(
            #[doc = concat!("The signature of [`", stringify!($name), "`](fn@", stringify!($name), ").")]
            pub type $name = unsafe extern "win64" fn($($arguments)*) $(-> $result)?;
        )+

        /// What this module declares.
        pub const EXPORTS: &[$crate::Export] = &[
            $(
                $crate::Export {
                    module: $module,
                    name: stringify!($name),
                    min_irql: 0 $(+ $crate::ke::$min)?,
                    max_irql: $crate::ke::$max,
                },
            )+
        ];
    };
}
