//! Load, measurement, the demo and the in-process network.
