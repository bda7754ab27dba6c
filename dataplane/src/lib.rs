//! Mechanism without policy: frames, headers, ports, flow table, timers, rings, the worker loop.
