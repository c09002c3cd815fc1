"""What a model would need on a cluster that nobody has paid for yet: memory, step time, and what would make it fit.

profile   a kind of device as its data sheet has it, and how many there are
workload  what one row of a configuration costs: ids, pooled columns, FLOPs, bytes to keep
memory    a plan -> what fills each rank
time      a plan -> the parts of a step
outlook   all of it for one configuration: the plan that training would make, or why there is none
knobs     what would make it fit
differences, told   two outlooks side by side; tables for the terminal
"""
