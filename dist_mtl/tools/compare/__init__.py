"""Two runs on the same rows -> what differs between them, and whether it is real.

The way of the data: `cache` (each run's predictions, made once) -> `joint` (one array a column) -> `statistics`
(paired differences) -> `verdict` (words) -> `table` (stdout). `differences` compares what the runs were made of;
`comparison` is the function that does it all.
"""
