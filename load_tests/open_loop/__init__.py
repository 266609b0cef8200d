"""An open-loop load generator: arrivals on a schedule, latency from the intended moment."""
