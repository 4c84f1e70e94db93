"""What is measured, not asserted: each module prints its numbers with `python -m benchmarks.<name>`."""
