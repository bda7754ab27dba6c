//! Configuration, services, weights, next hops and the control socket.
