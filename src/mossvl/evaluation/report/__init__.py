"""Reports of benchmarks: what harnesses wrote, with intervals, beside published scores."""
