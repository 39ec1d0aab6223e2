"""One module for each measurement: its rows, and a function `measure(bench)` that gives their figures."""
