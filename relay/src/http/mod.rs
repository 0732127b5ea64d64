//! HTTP/1.1 as strictly as two programs in a row need it.
//!
//! hyper reads and writes the messages. It forgives what older programs got
//! wrong, and so does the app, perhaps in another way: from such differences
//! request smuggling is made. So a request passes a grammar of our own before
//! hyper sees it ([`head`], [`chunks`], put before it by [`gate`]), which knows
//! one reading of each message and refuses what could have two.

pub(crate) mod body;
pub(crate) mod chunks;
pub(crate) mod exchange;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod pool;
