//! Behaviour over a real socket: a server on port 0 around a scripted engine.

mod http;
