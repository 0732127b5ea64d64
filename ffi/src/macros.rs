//! The checks at the door, by the names that the arguments have in the header.

/// `handle!(authority)`: what is behind a handle. Fails on NULL, on a handle of
/// another type and on one that was freed.
macro_rules! handle {
    ($argument:ident) => {
        // SAFETY: the caller's promise (see the crate's documentation).
        unsafe { $crate::handle::borrow($argument, stringify!($argument)) }?
    };
}

/// `place!(issued)`: where a new handle goes. Fails on NULL, else puts NULL there.
macro_rules! place {
    ($argument:ident) => {
        // SAFETY: the caller's promise.
        unsafe { $crate::handle::Place::new($argument, stringify!($argument)) }?
    };
}

/// `options!(options)`: a copy of a struct of options. Fails on NULL, unless told
/// that zeros will do.
macro_rules! options {
    ($argument:ident) => {
        // SAFETY: the caller's promise.
        unsafe { $crate::input::read($argument, stringify!($argument)) }?
    };
    ($argument:ident or default) => {
        // SAFETY: the caller's promise.
        unsafe { $crate::input::read_or_default($argument, stringify!($argument)) }?
    };
}

/// `view!(view)`: a struct of the caller's to be filled. Fails on NULL.
macro_rules! view {
    ($argument:ident) => {
        // SAFETY: the caller's promise.
        unsafe { $crate::input::View::new($argument, stringify!($argument)) }?
    };
}

pub(crate) use {handle, options, place, view};
