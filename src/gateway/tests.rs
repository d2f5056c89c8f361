//! The gateway against a real upstream over real sockets.
