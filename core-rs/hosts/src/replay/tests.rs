//! The replay host as user mode sees it: bytes in, bytes out.
