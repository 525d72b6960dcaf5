"""What this machine can do, measured in turns: see `rl-lab bench`.

A suite is a module with `run(settings)`. What is compared takes turns in one process, so that whatever else the machine
does falls on all; ratios are taken turn by turn. Nothing here is asserted by a test: timings belong to their hour.
"""
