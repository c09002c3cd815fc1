"""What is in a dataset, and what is wrong with it, before the first step.

look      a few row groups from all over the dataset say what is to be counted, column by column
counts    one pass over all rows, in bounded memory, on many processes: `seen` (a column), `outcomes` (the labels),
          `duplicates` (rows)
leaks, drift, tables    what the counts mean: for a label, from day to day, for the tables of a configuration
beside    the held-out datasets that stand beside a train dataset
clocks, names    what the values and the name of a column say of it
findings  what is wrong, in words, with what to do next
suggestion, recipe    a configuration to start from: its features, and how to train on so many rows
terminal, page    two ways to tell it
"""
