"""Random arguments for every op, for the engine and for the readers of files: none may crash, hang or lie.

`python -m tests.fuzz --help` runs any number of cases, each determined by its target, seed and number. What a case may
do: return something that holds up, or raise `draw.ALLOWED` with a message.
"""
