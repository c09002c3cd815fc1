"""How a model scales: rows/s, memory and the split of a step over ranks and table sizes, measured beside the plan."""
